"""Vectors rounded to whole numbers of a scale per dimension, as files store them in int8."""

from collections.abc import Iterator
from typing import Any

import numpy as np

ROWS = 1 << 16  # per row group of a file, and per piece that is read or written


def pieces(n: int) -> Iterator[slice]:
    """Consecutive slices of n rows."""
    return (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))


def rounded(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds float32 vectors [N, D], N >= 1, in place to values that int8 can store. Returns them and the scale [D].

    127 steps of the scale reach the largest absolute value of a dimension.
    """
    parts = [vectors[rows] for rows in pieces(len(vectors))]  # vectors may be memory-mapped
    largest = np.max([np.abs(piece).max(axis=0) for piece in parts], axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    for piece in parts:
        piece[:] = as_int8(piece, scale) * scale
    return vectors, scale


def as_int8(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The int8 [N, D] nearest to vectors / scale. Exact for vectors from `rounded`."""
    return np.rint(vectors / scale).clip(-127, 127).astype(np.int8)


def scale_of(head: dict[str, Any]) -> np.ndarray | None:
    """The scale [D] of stored int8; None for floats."""
    return np.array(head["scale"], np.float32) if head.get("dtype") == "int8" else None
