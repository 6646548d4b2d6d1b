"""Rows of a memory map asked for together, before they are read: page faults alone are far slower (docs/SCALE.md)."""

import mmap

import numpy as np

SMALL = 1 << 30  # bytes of a map that is left to the system, which soon has all of it in memory


def read_ahead(array: np.ndarray, rows: np.ndarray) -> None:
    """Tell the system which rows of an array [N, ...] are wanted soon, and return at once.

    Nothing happens where the array is no memory map, a small one, or the system takes no such advice. Rows that are in
    memory already cost some microseconds each.

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
