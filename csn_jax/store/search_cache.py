"""Arrays that searches of the same vectors compute once and share between threads. Without an accelerator: no JAX."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

PIECE = 1 << 17  # numbers per piece of the vectors: they fit the CPU cache, and BLAS does not split them among threads
REMEMBERED = 8  # weightings with their squares
Work = Callable[[slice, np.ndarray], None]  # of the place of consecutive vectors, and the vectors, which are its own


class SearchCache:
    """The weighted squares of vectors [N, D], and a copy of the vectors on the accelerator. Threads may share it."""

    def __init__(self, vectors: np.ndarray):
        self.vectors, self._lock = vectors, threading.Lock()
        self._squares = functools.lru_cache(REMEMBERED)(functools.partial(_squares, vectors))
        self._on_device: Any = None

    def __reduce__(self):
        return SearchCache, (self.vectors,)  # copies start empty: a lock cannot be copied

    def squares(self, w: np.ndarray) -> tuple[np.ndarray, float]:
        """(the sum of w * x^2 per vector, float32 [N]; the largest sum of |w| * x^2), for w float64 [D].

        The last weightings are kept. Threads that need the same new weighting at once each compute it.
        """
        return self._squares(w.tobytes())

    def products(self, lines: np.ndarray) -> np.ndarray:
        """lines [Q, D] times the vectors: float32 [Q, N]."""
        return (self.vectors @ lines[0])[None] if len(lines) == 1 else lines @ self.vectors.T

    def on_device(self) -> Any:
        """The vectors as a JAX array on the default device."""
        import jax

        with self._lock:  # two threads must not put the vectors into the accelerator's memory twice
            if self._on_device is None:
                self._on_device = jax.device_put(self.vectors)
            return self._on_device


class Streamed:
    """As `SearchCache`, of N vectors that are too large to keep: each search reads or makes them again, in pieces.
    `each(work)` calls work(place, vectors) for all of them."""

    def __init__(self, n: int, each: Callable[[Work], None]):
        self._n, self._each = n, each
        self._of = functools.lru_cache(REMEMBERED // 2)(self._squares)  # 4 bytes per item and weighting

    def squares(self, w: np.ndarray) -> tuple[np.ndarray, float]:
        """As `SearchCache.squares`."""
        return self._of(w.tobytes())

    def _squares(self, weights: bytes) -> tuple[np.ndarray, float]:
        w = np.frombuffer(weights)
        both = np.stack([w, np.abs(w)] if (w < 0).any() else [w]).astype(np.float32)
        sums = np.empty((len(both), self._n), np.float32)

        @np.errstate(over="ignore", invalid="ignore")  # threads do not have that of `Index.nearest`
        def fill(piece: slice, vectors: np.ndarray) -> None:
            square = np.square(vectors, out=vectors)
            for of_w, line in zip(sums, both, strict=True):
                np.dot(square, line, out=of_w[piece])

        self._each(fill)
        return sums[0], float(sums[-1].max(initial=0))

    def products(self, lines: np.ndarray) -> np.ndarray:
        """As `SearchCache.products`."""
        scores = np.empty((len(lines), self._n), np.float32)

        @np.errstate(over="ignore", invalid="ignore")  # threads do not have that of `Index.nearest`
        def fill(piece: slice, vectors: np.ndarray) -> None:
            scores[:, piece] = vectors @ lines[0] if len(lines) == 1 else lines @ vectors.T

        self._each(fill)
        return scores


def _squares(vectors: np.ndarray, weights: bytes) -> tuple[np.ndarray, float]:
    """`SearchCache.squares` of weights as bytes, by which a cache can find them."""
    w = np.frombuffer(weights)
    sums = _weighted_squares(vectors, np.stack([w, np.abs(w)]) if (w < 0).any() else w[None])
    return sums[0], float(sums[-1].max(initial=0))


def _weighted_squares(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum over dimensions of w * x^2, per vector x of [N, D] and weighting w of [W, D]: float32 [W, N]."""
    size = max(1, PIECE // vectors.shape[1])
    squares, weights = np.empty((len(weights), len(vectors)), np.float32), weights.astype(np.float32)
    room = np.empty((size, vectors.shape[1]), np.float32)
    for start in range(0, len(vectors), size):
        piece = vectors[start : start + size]
        square = np.square(piece, out=room[: len(piece)])
        for w, of_w in zip(weights, squares, strict=True):
            of_w[start : start + size] = square @ w
    return squares
