"""Rows are requested at their place in the file, and nothing is requested for arrays in memory."""

import mmap

import numpy as np
import pytest

from csn_jax.train import feed as module
from csn_jax.train.feed import read_ahead


class Recorded(mmap.mmap):
    """A memory map that records its madvise calls."""

    def madvise(self, *advice):
        super().madvise(*advice)
        self.advised = [*getattr(self, "advised", []), advice]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """100 rows of 300 numbers, in a file whose header has an odd size."""
    monkeypatch.setattr(module, "SMALL", 0)
    array = np.arange(100 * 300, dtype=np.uint16).reshape(100, 10, 30)
    np.save(tmp_path / "x.npy", array)
    monkeypatch.setattr(mmap, "mmap", Recorded)
    return np.load(tmp_path / "x.npy", mmap_mode="r"), (tmp_path / "x.npy").read_bytes()


def test_the_requested_pages_hold_the_rows(rows):
    array, data = rows
    for view in (array, array.reshape(1000, 3, 10), array[20:]):
        for row in (0, 7, len(view) - 1):
            array._mmap.advised = []
            read_ahead(view, np.array([[row], [row]]))
            ((kind, start, length),) = array._mmap.advised
            assert kind == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
            assert view[row].tobytes() in data[start : start + length]
            assert length <= mmap.PAGESIZE + view[row].nbytes


def test_each_row_is_requested_once(rows):
    array, _ = rows
    read_ahead(array, np.array([[5, 3, 5], [99, 3, 3]]))
    assert len(array._mmap.advised) == 3


def test_rows_in_memory_or_in_pieces_and_small_files_are_not_requested(rows, monkeypatch):
    array, _ = rows
    read_ahead(np.array(array), np.array([1]))  # in memory
    read_ahead(array[:, :, ::2], np.array([1]))  # a row is not contiguous
    monkeypatch.setattr(module, "SMALL", array.nbytes + 1)
    read_ahead(array, np.array([1]))
    assert not hasattr(array._mmap, "advised")
