"""Request rows of a memory map together before they are read: page faults alone are far slower (docs/SCALE.md)."""

import mmap

import numpy as np

SMALL = 1 << 30  # bytes; the system soon has a smaller map in memory by itself


def read_ahead(array: np.ndarray, rows: np.ndarray) -> None:
    """Tell the system which rows of an array [N, ...] will be read soon, and return at once.

    Nothing happens if the array is not a memory map, is small, or the system takes no advice. Each row that is
    already in memory costs a few microseconds.

    Args:
        array: perhaps memory-mapped, C-contiguous.
        rows: [...] positions in it.
    """
    file = getattr(array, "_mmap", None)  # NumPy keeps it there, through views too
    if not (isinstance(file, mmap.mmap) and hasattr(file, "madvise") and array.flags.c_contiguous):
        return
    if array.nbytes < SMALL:
        return
    start = array.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data  # of the first row in the map
    size = array.strides[0]
    for row in np.unique(rows).tolist():
        first = (start + row * size) // mmap.PAGESIZE * mmap.PAGESIZE
        file.madvise(mmap.MADV_WILLNEED, first, start + (row + 1) * size - first)
