"""What a search under maps multiplies: the views of the conditions in question, made once and kept within a budget."""

import functools
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from csn_jax.core.maps import SPAN, Maps, pieces
from csn_jax.store.search_cache import PIECE, SearchCache, Streamed, Work

BUDGET = 2 << 30  # bytes of views that an index keeps


class Part(NamedTuple):
    """A part of the squared distance, sum over its dimensions of w * (q - x)^2, as scores of all N items.

    w: [d] float64. queries: [Q, d] float64. rounding: a bound on the length of an item's error in these dimensions.
    """

    cache: "SearchCache | Streamed"
    w: np.ndarray
    queries: np.ndarray
    rounding: float = 0.0

    def slack(self, largest: float) -> np.ndarray:
        """A bound [Q] on the rounding error of a float32 score, by the usual analysis of sums of products. `largest` is
        the items' largest sum of |w| x^2. The bound is infinite where the sum may overflow float32."""
        of_query = np.sum(np.abs(self.w) * np.square(self.queries), axis=1)
        terms = largest + 2 * np.sqrt(of_query * largest)
        fits = np.maximum(terms, np.abs(self.w * self.queries).max(axis=1)) < 1e38
        of_views = np.sqrt(np.abs(self.w).max(initial=0)) * self.rounding  # how far each item may have moved
        moved = of_views * (2 * (np.sqrt(of_query) + np.sqrt(largest)) + of_views)
        return np.where(fits, (len(self.w) + 8) * 2.0**-24 * terms + moved, np.inf)


def each_view(vectors: np.ndarray, maps: Maps, rows: np.ndarray, work: Work) -> None:
    """work(place, views) of consecutive pieces of vectors. Views of raw vectors are the stored vectors times a scale,
    which takes no product of matrices."""
    scale = raw_scale(maps.matrix[rows])
    if scale is None:
        size = max(1, PIECE * 8 // max(1, len(rows)))
        for start in range(0, len(vectors), size):
            piece = slice(start, start + size)
            work(piece, maps.views(vectors[piece], rows))
        return

    def span(start: int) -> None:
        for piece, x in pieces(vectors[start : start + SPAN], maps.unit, np.float32):
            work(slice(start + piece.start, start + min(piece.stop, SPAN)), x * np.float32(scale))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(span, range(0, len(vectors), SPAN)))


def raw_scale(matrix: np.ndarray) -> float | None:
    """The scale s of a map s * identity, as `core.maps.with_raw` makes it; None of any other matrix."""
    rows, width = matrix.shape
    same = rows == width > 0 and np.array_equal(matrix, matrix[0, 0] * np.eye(width, dtype=matrix.dtype))
    return float(matrix[0, 0]) if same else None


class Views:
    """The views of vectors [N, D], one array per block of rows of the maps. Threads may share it."""

    def __init__(self, vectors: np.ndarray, maps: Maps, masks: np.ndarray):
        self.vectors, self.maps, self._lock = vectors, maps, threading.Lock()
        # Rows that the same conditions use belong together: a condition's map, or the raw vector of several.
        _, block = np.unique(masks != 0, axis=1, return_inverse=True)
        block = np.ravel(block)
        self.blocks = [np.flatnonzero(block == number) for number in np.unique(block)]
        self._scales = [raw_scale(maps.matrix[rows]) for rows in self.blocks]
        self._kept: OrderedDict[int, SearchCache] = OrderedDict()
        self._streamed: dict[int, Streamed] = {}
        self._longest: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("views are made again by the index they belong to")

    def parts(self, w: np.ndarray, queries: np.ndarray) -> list[Part]:
        """The parts of the squared distance under weights w [V] of the views, for queries [Q, D]."""
        parts = []
        for number, rows in enumerate(self.blocks):
            if w[rows].any():
                own = self._exact(number, queries)
                rounding = self.maps.rounding(rows, 1.0 if self.maps.unit else self._length())
                if self._scales[number] is not None:  # nothing is summed but the length
                    rounding /= len(rows) ** 0.5
                parts.append(Part(self._cache(number), w[rows], own, rounding))
        return parts

    def squared(self, query: np.ndarray, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The squared distances from a query [D] to items [M] in float64: [M]."""
        items, squares = self.vectors[rows], np.zeros(len(rows))
        for number, block in enumerate(self.blocks):
            if w[block].any():
                gap = self._exact(number, query[None]) - self._exact(number, items)
                squares += np.sum(w[block] * np.square(gap), axis=1)
        return squares

    def _exact(self, number: int, vectors: np.ndarray) -> np.ndarray:
        """The views of a block in float64; of raw vectors without a product of matrices."""
        if (scale := self._scales[number]) is None:
            return self.maps.exact_views(vectors, self.blocks[number])
        return scale * np.concatenate([x for _, x in pieces(vectors, self.maps.unit, np.float64)] or [vectors])

    def _cache(self, number: int) -> "SearchCache | Streamed":
        size = 4 * len(self.blocks[number]) * len(self.vectors)
        with self._lock:  # two threads must not make the same view twice
            if size > BUDGET:
                fresh = Streamed(
                    len(self.vectors), functools.partial(each_view, self.vectors, self.maps, self.blocks[number])
                )
                return self._streamed.setdefault(number, fresh)
            if number not in self._kept:
                while self._kept and size + sum(cache.vectors.nbytes for cache in self._kept.values()) > BUDGET:
                    self._kept.popitem(last=False)  # the one that was not asked for the longest
                self._kept[number] = SearchCache(self.maps.views(self.vectors, self.blocks[number]))
            self._kept.move_to_end(number)
            return self._kept[number]

    def _length(self) -> float:
        with self._lock:
            if self._longest is None:
                lengths = (
                    np.einsum("nd,nd->n", x, x).max(initial=0) for _, x in pieces(self.vectors, False, np.float32)
                )
                self._longest = float(np.sqrt(max(lengths, default=0.0)))
            return self._longest
