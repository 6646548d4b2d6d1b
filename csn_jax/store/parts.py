"""Part files as one table: memory-mapped, read in pieces, and compared with their digests when they are first read."""

import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.store.arrow_file import ArrowFile, digest_of_batch, values_of
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.search_cache import PIECE

NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})\.")  # the end of the names that Beam gives
SIGN_AND_DIGITS = np.array(0x8FFFE000, np.uint32).view(np.int32)[()]  # of float32, where those of float16 are


class Parts:
    """The record batches of files, N rows in all. Threads may share it.

    starts: [B + 1] the first row of each batch, and N.
    damaged: makes the error of a file whose batch does not match its digest.
    """

    def __init__(self, files: list[ArrowFile], damaged: Callable[[Path, Exception], Exception]):
        self._owners = [file for file in files for _ in file.batches]
        self._batches = [batch for file in files for batch in file.batches]
        self._digests = [digest for file in files for digest in file.digests]
        self._checked = np.zeros(len(self._batches), bool)
        self._damaged = damaged
        self.starts = np.cumsum([0, *map(len, self._batches)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def batch(self, place: int) -> Any:
        """A batch. It is compared with its digest when it is first asked for."""
        batch = self._batches[place]
        if not self._checked[place]:
            file = self._owners[place]
            try:
                if digest_of_batch(file.text, batch) != self._digests[place]:
                    raise ValueError("its content does not match its SHA-256")
                batch.validate(full=True)
            except Exception as error:  # damage raises several types
                raise self._damaged(file.path, error) from None
            self._checked[place] = True
        return batch

    def file(self, place: int) -> ArrowFile:
        """The file of a batch."""
        return self._owners[place]

    def each(self, work: Callable[[int], Any]) -> list[Any]:
        """work(place) of every batch, by several threads; the results are in order."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return list(pool.map(work, range(len(self._batches))))

    def gather(self, key: Any, some: Callable[[int, Any], np.ndarray], dtype: Any, shape: tuple[int, ...]) -> Any:
        """What `some(place, rows of the batch)` gives of rows, named by a slice, positions or a mask: [R, *shape]."""
        if isinstance(key, slice):
            first, stop, step = key.indices(len(self))
            if step == 1:
                low, high = np.searchsorted(self.starts, first, "right") - 1, np.searchsorted(self.starts, stop)
                cuts = [(place, int(self.starts[place])) for place in range(low, high if first < stop else low)]
                parts = [some(place, slice(max(0, first - at), stop - at)) for place, at in cuts]
                return np.concatenate([np.empty((0, *shape), dtype), *parts])
            key = np.arange(first, stop, step)
        rows = np.asarray(key)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        rows = np.where(rows < 0, rows + len(self), rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"a row is not among {len(self)}")
        found, owner = np.empty((len(rows), *shape), dtype), np.searchsorted(self.starts, rows, "right") - 1
        for place in np.unique(owner).tolist():
            own = owner == place
            found[own] = some(place, rows[own] - self.starts[place])
        return found


class Vectors:
    """The vectors [N, D] of part files, in place of an array. Slices, positions and masks give float16 or float32, as
    stored; whole numbers come times the scale of their file."""

    def __init__(self, parts: Parts, width: int, dtype: str):
        self._parts = parts
        self.shape, self.ndim = (len(parts), width), 2
        self.dtype = np.dtype("float32" if dtype == "int8" else dtype)
        self._of_int8 = dtype == "int8"

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, tuple):
            rows, dimensions = key
            kept = np.empty((1, self.shape[1]), np.int8)[:, dimensions].shape[1:]
            return self._parts.gather(rows, lambda place, of: self._some(place, of)[:, dimensions], self.dtype, kept)
        if isinstance(key, int | np.integer):
            return self[[key]][0]
        return self._parts.gather(key, self._some, self.dtype, self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def _scale(self, place: int) -> np.ndarray | None:
        return np.array(self._parts.file(place).head["scale"], np.float32) if self._of_int8 else None

    def _some(self, place: int, rows: Any) -> np.ndarray:
        values = values_of(self._parts.batch(place))[rows]
        return values * self._scale(place) if self._of_int8 else values

    def each(self, work: Callable[[slice, np.ndarray], None]) -> None:
        """work(place, float32 vectors [n, D]) of consecutive pieces, by several threads. The vectors are work's own."""
        size = max(1, PIECE // max(1, self.shape[1]))

        def of_batch(place: int) -> None:
            values, scale, at = values_of(self._parts.batch(place)), self._scale(place), int(self._parts.starts[place])
            room = np.empty((size, values.shape[1]), np.float32)
            for start in range(0, len(values), size):
                piece = values[start : start + size]
                work(slice(at + start, at + start + len(piece)), widened(piece, scale, room[: len(piece)]))

        self._parts.each(of_batch)


def widened(values: np.ndarray, scale: np.ndarray | None, room: np.ndarray) -> np.ndarray:
    """Finite float32, float16, or int8 times a scale, as float32 in `room`, exactly as NumPy converts them."""
    if values.dtype == np.float16 and sys.byteorder == "little":  # five times as fast as NumPy, which goes one by one
        bits = room.view(np.int32)
        bits[...] = values.view(np.int16)
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(bits, SIGN_AND_DIGITS, out=bits)
        return np.multiply(room, np.float32(2.0**112), out=room)  # the exponents start 112 higher
    room[...] = values
    return room if scale is None else np.multiply(room, scale, out=room)


def is_of_parts(embeddings: Embeddings) -> bool:
    """Whether items stay on the disk."""
    return isinstance(embeddings.vectors, Vectors)
