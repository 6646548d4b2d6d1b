"""Feeds: iterators over the batches of the steps from `start` to `stop`. Both kinds give the same batches.

What a batch is made of is said by a function of the step alone, `batch_at(step)`, whose columns named in `ITEMS` are
positions of items: those of `triplet_batches` or of `labelled_batches`.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from csn_jax.core.steps import Batch, LabelledBatch
from csn_jax.data.item_set import ItemSet
from csn_jax.data.order import batch_rows, label_items, labelled_rows
from csn_jax.data.triplets import Triplets

AnyBatch = TypeVar("AnyBatch", Batch, LabelledBatch)


def triplet_batches(triplets: Triplets, seed: int, batch_size: int, padded_size: int) -> Callable[[int], Batch]:
    """batch_at(step) of triplets, as int32 [padded_size] columns, the padding repeating the first row."""

    def batch_at(step: int) -> Batch:
        rows, valid = _pad(batch_rows(seed, step, len(triplets.anchor), batch_size), padded_size)
        return Batch(*(column[rows] for column in triplets), valid=valid)

    return batch_at


def labelled_batches(items: ItemSet, seed: int, batch_size: int, padded_size: int) -> Callable[[int], LabelledBatch]:
    """batch_at(step) of labelled items, each with its labels in all conditions; padded as triplets are."""
    labelled = label_items(items)

    def batch_at(step: int) -> LabelledBatch:
        rows, valid = _pad(labelled_rows(seed, step, labelled, batch_size), padded_size)
        return LabelledBatch(rows.astype(np.int32), labelled.codes[rows], valid)

    return batch_at


def _pad(rows: np.ndarray, padded_size: int) -> tuple[np.ndarray, np.ndarray]:
    valid = np.arange(padded_size) < len(rows)
    return np.concatenate([rows, np.full(padded_size - len(rows), rows[0])]), valid


def gather(inputs: np.ndarray, batch: AnyBatch) -> AnyBatch:
    """The batch with the items' rows in place of their positions, whole columns at a time: [padded_size, ...]."""
    return batch._replace(**{column: inputs[getattr(batch, column)] for column in batch.ITEMS})


def device_feed(batch_at: Callable[[int], AnyBatch], start: int, stop: int, sharding: Any) -> Iterator[AnyBatch]:
    """Batches of positions, for a step that gathers from an array of all items on the device."""
    for step in range(start, stop):
        yield jax.device_put(batch_at(step), sharding)
