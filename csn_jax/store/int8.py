"""Vectors in a quarter of the bytes: whole numbers from -127 to 127, and a scale for each dimension."""

import numpy as np

ROWS = 1 << 16  # in work at a time: vectors may be memory-mapped


def rounded(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float32 vectors [N, D], N at least 1, rounded in place to what int8 gives back; and the scale [D] float32, by
    which 127 steps of a dimension reach to its largest absolute value."""
    pieces = [vectors[start : start + ROWS] for start in range(0, len(vectors), ROWS)]
    largest = np.max([np.abs(piece).max(axis=0) for piece in pieces], axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    for piece in pieces:
        piece[:] = as_int8(piece, scale) * scale
    return vectors, scale


def as_int8(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The int8 [N, D] nearest to vectors [N, D] over their scale [D]; exact for what `rounded` gave."""
    return np.rint(vectors / scale).clip(-127, 127).astype(np.int8)
