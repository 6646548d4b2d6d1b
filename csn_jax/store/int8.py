"""Vectors in a quarter of the bytes: integers from -127 to 127, and one scale per dimension."""

import numpy as np

ROWS = 1 << 16  # per piece: vectors may be memory-mapped


def rounded(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds float32 vectors [N, D], N >= 1, in place to values that int8 can store. Returns them and the scale [D].

    127 steps of the scale reach the largest absolute value of a dimension.
    """
    pieces = [vectors[start : start + ROWS] for start in range(0, len(vectors), ROWS)]
    largest = np.max([np.abs(piece).max(axis=0) for piece in pieces], axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    for piece in pieces:
        piece[:] = as_int8(piece, scale) * scale
    return vectors, scale


def as_int8(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The int8 [N, D] nearest to vectors / scale. Exact for vectors from `rounded`."""
    return np.rint(vectors / scale).clip(-127, 127).astype(np.int8)
