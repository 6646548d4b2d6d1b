"""Maps: one small matrix per condition over vectors that stay as they are. A mask is the diagonal case.

Under the map L_c [r, D] of a condition, the distance is || L_c (x - y) ||_2. L_c x is the *view* of x. The views of all
conditions lie side by side, so a condition is a mask of ones on its own block of them: what works on embeddings under
masks works on views. NumPy only, as searches need no JAX.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

PIECE = 1 << 17  # numbers at a time: they fit the CPU cache, and BLAS does not split them among threads
SPAN = 1 << 15  # vectors that a thread takes at a time
DEPTH = 128  # products that are added at once
SAMPLE = 20_000  # vectors that principal axes are found from, at most
RANK, AXES = 32, 256  # rows of a map, and principal axes: more did not lower the error of 9,000 products
FEW = 2_000  # training items, below which a pull towards the raw geometry may help
PULLS = (1e-3, 1e-4, 0.0)  # tried together where items are few


class Maps(NamedTuple):
    """matrix: [V, D] float32, the rows of all conditions' maps, one map below the other. unit: whether vectors are
    scaled to length 1 first, as under cosine similarity."""

    matrix: np.ndarray
    unit: bool

    def views(self, vectors: np.ndarray, rows: Any = slice(None), dtype: type = np.float32) -> np.ndarray:
        """The views [N, V] of vectors [N, D] of floats, or some columns of them: those of `rows` of the matrix. They
        are made in pieces by several threads."""
        matrix = np.ascontiguousarray(self.matrix[rows].T, dtype)  # [D, V]
        views = np.empty((len(vectors), matrix.shape[1]), dtype)

        def fill(start: int) -> None:
            span = slice(start, start + SPAN)
            for piece, x in pieces(vectors[span], False, dtype):
                view = views[span][piece]
                np.matmul(x[:, :DEPTH], matrix[:DEPTH], out=view)
                for first in range(DEPTH, len(matrix), DEPTH):
                    view += x[:, first : first + DEPTH] @ matrix[first : first + DEPTH]
                if self.unit:
                    view /= lengths(x)[:, None]

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(fill, range(0, len(vectors), SPAN)))
        return views

    def exact_views(self, vectors: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """`views` in float64, each summed by itself. In a matrix product the bits of a row depend on its neighbours,
        and equal vectors could be at different distances."""
        return np.concatenate(
            [
                np.einsum("nd,vd->nv", x, self.matrix[rows].astype(np.float64))
                for _, x in pieces(vectors, self.unit, float)
            ]
            or [np.zeros((0, len(self.matrix[rows])))]
        )

    def rounding(self, rows: Any, longest: float) -> float:
        """A bound on the length of the rounding error of a view of `rows`, for vectors of at most some length."""
        depth = 2 * (DEPTH + len(self.matrix.T) // DEPTH + 8)  # sums of products, and the vector's length
        return depth * 2.0**-24 * float(np.linalg.norm(self.matrix[rows])) * (1.0 if self.unit else longest)


class MapsPlan(NamedTuple):
    """What decides the shapes of a run's maps.

    axes: principal axes of the training vectors, from which maps start; 0: none, as the input of the maps is trained.
    rank: rows of a map.
    pulls: weights of the pull |L - L_0|^2 towards the start; one set of maps is trained for each.
    """

    axes: int
    rank: int
    pulls: tuple[float, ...]


def plan_maps(
    width: int, n_train: int, n_values: int, *, axes: int = 0, rank: int = 0, pulls: tuple[float, ...] = ()
) -> MapsPlan:
    """The MapsPlan for vectors of some width, `n_train` training items, and at most `n_values` values of a condition:
    as given, and where it is 0 or empty by the numbers of items and values."""
    axes = min(axes or AXES, width, max(1, n_train - 1))
    enough = RANK << (n_values > 8 * RANK) << (n_values > 32 * RANK)  # more values need more room
    return MapsPlan(axes, min(rank or enough, axes), tuple(pulls) or (PULLS if n_train < FEW else (0.0,)))


class Axes(NamedTuple):
    """mean: [D] of the training vectors. rows: [k, D], their first k principal axes, all scaled alike so that the mean
    squared norm of a rotated training vector is 1."""

    mean: np.ndarray
    rows: np.ndarray


def principal_axes(vectors: np.ndarray, members: np.ndarray, k: int, unit: bool) -> Axes:
    """The first k principal axes of those vectors [N, D] that `members` names by position; if many, of a sample."""
    x = np.concatenate([x for _, x in pieces(vectors[sampled(members)], unit, np.float32)])
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    x = x - mean
    if len(x) < x.shape[1]:  # the same axes from the smaller matrix
        values, rows = np.linalg.eigh((x @ x.T).astype(np.float64))
        rows = (rows[:, ::-1][:, :k] / np.sqrt(np.maximum(values[::-1][:k], 1e-12))).T @ x
    else:
        _, rows = np.linalg.eigh((x.T @ x).astype(np.float64))
        rows = rows[:, ::-1][:, :k].T
    signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])  # LAPACK's signs differ by machine
    rows = (rows * signs[:, None]).astype(np.float32)
    size = np.sqrt(np.square(x @ rows.T).sum(axis=1).mean())
    return Axes(mean, rows / max(size, np.float32(1e-12)))


def sampled(members: np.ndarray, most: int = SAMPLE) -> np.ndarray:
    """At most so many of the given positions, in their order, drawn with a fixed seed."""
    if len(members) <= most:
        return members
    return np.sort(np.random.default_rng(0).choice(members, most, replace=False))


def rotated(axes: Axes, vectors: np.ndarray, unit: bool) -> np.ndarray:
    """Vectors [N, D] in the coordinates of the axes: float32 [N, k], in one pass over the vectors."""
    places = Maps(axes.rows, unit).views(vectors)
    places -= axes.rows @ axes.mean
    return places


def initial_maps(plan: MapsPlan, n_conditions: int, width: int) -> np.ndarray:
    """[P, C, r, D] float32 for P pulls: each map takes the first r coordinates, so that step 0 is the raw geometry."""
    shape = (len(plan.pulls), n_conditions, plan.rank, width)
    return np.broadcast_to(np.eye(plan.rank, width, dtype=np.float32), shape).copy()


def pieces(vectors: np.ndarray, unit: bool, dtype: type) -> Iterator[tuple[slice, np.ndarray]]:
    """Consecutive vectors of [N, D] as `dtype`, scaled to length 1 if `unit`, with their place. A vector of zeros stays
    zero."""
    size = max(1, PIECE // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), size):
        x = np.asarray(vectors[start : start + size], dtype)
        yield slice(start, start + size), x / lengths(x)[:, None] if unit else x


def lengths(x: np.ndarray) -> np.ndarray:
    """The lengths [n] of vectors [n, D], at least 1e-12. Sums of DEPTH squares at a time keep the rounding small."""
    parts = (x[:, start : start + DEPTH] for start in range(0, x.shape[1], DEPTH))
    return np.maximum(np.sqrt(sum(np.einsum("nd,nd->n", part, part) for part in parts)), x.dtype.type(1e-12))


def stacked(maps: Sequence[np.ndarray], unit: bool) -> tuple[Maps, np.ndarray]:
    """(Maps, the mask [C, V] of each condition's block) of C matrices [r_c, D], without rows of zeros."""
    maps = [matrix[np.any(matrix, axis=1)] for matrix in maps]
    owner = np.repeat(np.arange(len(maps)), [len(matrix) for matrix in maps])  # [V]
    return Maps(np.concatenate(maps), unit), (owner == np.arange(len(maps))[:, None]).astype(np.float32)


def with_raw(maps: Maps, masks: np.ndarray, raw: np.ndarray, scale: float) -> tuple[Maps, np.ndarray]:
    """Maps [V, D] and masks [C, V] in which the conditions of `raw` [C] bool have the raw geometry: one more view, the
    vector itself times a scale. Rows that no condition needs any more are gone."""
    width = maps.matrix.shape[1]
    kept = np.any(masks[~raw], axis=0)  # [V]
    matrix = np.concatenate([maps.matrix[kept], np.float32(scale) * np.eye(width, dtype=np.float32)])
    own = np.where(raw[:, None], np.float32(0), masks[:, kept])
    return Maps(matrix, maps.unit), np.concatenate([own, np.repeat(raw[:, None], width, axis=1).astype(np.float32)], 1)
