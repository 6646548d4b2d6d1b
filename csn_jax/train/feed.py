"""Feeds: iterators over the batches of the steps from `start` to `stop`. Both kinds give the same batches.

A batch is a function of the step alone, `batch_at(step)`, made by `triplet_batches` or `labelled_batches`. Its columns
named in `ITEMS` are positions of items.
"""

import mmap
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding

from csn_jax.core.steps import Batch, LabelledBatch
from csn_jax.data.item_set import ItemSet
from csn_jax.data.order import batch_rows, label_items, labelled_rows, labels_at
from csn_jax.data.triplets import Triplets
from csn_jax.runtime import hosts
from csn_jax.runtime.sharding import place, stacked

AnyBatch = TypeVar("AnyBatch", Batch, LabelledBatch)
BatchAt = Callable[[int], AnyBatch]
Feed = Generator[AnyBatch, None, None]

SMALL = 1 << 30  # bytes of a memory map; the system soon has a smaller one in memory by itself
SHARE = 4  # items may take a quarter of a device's memory; network, activations and optimizer need the rest


def fits(inputs: np.ndarray) -> bool:
    """Whether all items may lie on the device, by the first process's memory: in a quarter of the device's, or of the
    machine's if it is a CPU."""
    memory = jax.local_devices()[0].memory_stats() or {}
    limit = memory.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return hosts.on_first(lambda: inputs.nbytes * SHARE <= limit)


class Watched(Generic[AnyBatch]):
    """A feed that measures how long the device waited for it: if the work on a batch was done before the next batch
    came, the device was idle. It asks the device whether it is done, and never waits.

    idle: an upper bound in seconds so far, without the filling of the feed before the first step.
    """

    def __init__(self, feed: Iterable[AnyBatch]):
        self.idle = 0.0
        self._feed = iter(feed)
        self._result: jax.Array | None = None

    def __iter__(self) -> Iterator[AnyBatch]:
        return self

    def __next__(self) -> AnyBatch:
        began = time.perf_counter()
        batch = next(self._feed)
        if self._result is not None and self._result.is_ready():
            self.idle += time.perf_counter() - began
        return batch

    def working_on(self, result: jax.Array) -> None:
        """Set the result by which the device shows that it is done with the newest batch."""
        self._result = result


def triplet_batches(triplets: Triplets, seed: int, batch_size: int, padded_size: int) -> BatchAt:
    """batch_at(step) of triplets, as int32 [padded_size] columns; the padding repeats the first row."""

    def batch_at(step: int) -> Batch:
        rows, valid = _pad(batch_rows(seed, step, len(triplets.anchor), batch_size), padded_size)
        return Batch(*(column[rows] for column in triplets), valid=valid)

    return batch_at


def labelled_batches(items: ItemSet, seed: int, batch_size: int, padded_size: int) -> BatchAt:
    """batch_at(step) of labelled items, with their labels in all conditions; padded like triplets."""
    labelled = label_items(items)

    def batch_at(step: int) -> LabelledBatch:
        rows, valid = _pad(labelled_rows(seed, step, labelled, batch_size), padded_size)
        return LabelledBatch(rows.astype(np.int32), labels_at(labelled, rows), valid)

    return batch_at


def _pad(rows: np.ndarray, padded_size: int) -> tuple[np.ndarray, np.ndarray]:
    valid = np.arange(padded_size) < len(rows)
    return np.concatenate([rows, np.full(padded_size - len(rows), rows[0])]), valid


def gather(inputs: np.ndarray, batch: AnyBatch) -> AnyBatch:
    """The batch with rows of items in place of positions, one whole column at a time: [padded_size, ...]."""
    return batch._replace(**{column: inputs[getattr(batch, column)] for column in batch.ITEMS})


def read_ahead(array: np.ndarray, rows: np.ndarray) -> None:
    """Tell the system which rows of an array [N, ...] will be read soon, and return at once: page faults alone are far
    slower (docs/SCALE.md).

    Nothing happens if the array is not a memory map, is small, or the system takes no advice. Each row that is already
    in memory costs a few microseconds.
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


def device_feed(batch_at: BatchAt, start: int, stop: int, sharding: NamedSharding, at_once: int = 1) -> Feed:
    """Batches of positions, for a step that gathers from an array of all items on the device.

    With `at_once` K, K steps that begin at a multiple of K come stacked, [K, padded_size]; steps before the first
    multiple and after the last come one by one. So where a run starts does not change later calls.
    """
    step = start
    while step < stop:
        if at_once > 1 and step % at_once == 0 and step + at_once <= stop:
            batches = [batch_at(later) for later in range(step, step + at_once)]
            yield place(jax.tree.map(lambda *columns: np.stack(columns), *batches), stacked(sharding))
            step += at_once
        else:
            yield place(batch_at(step), sharding)
            step += 1


def steps_in(batch: AnyBatch) -> int:
    """How many steps a feed's batch is for."""
    return 1 if batch.valid.ndim == 1 else len(batch.valid)
