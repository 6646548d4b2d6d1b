"""Feeds: iterators over the batches of the steps from `start` to `stop`. Both kinds give the same batches."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from csn_jax.core.steps import Batch
from csn_jax.data.order import batch_rows
from csn_jax.data.triplets import Triplets


def index_batch(triplets: Triplets, seed: int, step: int, batch_size: int, padded_size: int) -> Batch:
    """The batch of a step as positions of items: int32 [padded_size] columns, the padding repeating the first row."""
    rows = batch_rows(seed, step, len(triplets.anchor), batch_size)
    valid = np.arange(padded_size) < len(rows)
    rows = np.concatenate([rows, np.full(padded_size - len(rows), rows[0])])
    return Batch(*(column[rows] for column in triplets), valid=valid)


def host_batch(inputs: np.ndarray, *args: Any) -> Batch:
    """The batch of a step with the items' rows gathered, whole columns at a time: [padded_size, ...]."""
    batch = index_batch(*args)
    return batch._replace(**{role: inputs[getattr(batch, role)] for role in ("anchor", "positive", "negative")})


def device_feed(
    triplets: Triplets, seed: int, batch_size: int, padded_size: int, start: int, stop: int, sharding: Any
) -> Iterator[Batch]:
    """Batches of positions, for a step that gathers from an array of all items on the device."""
    for step in range(start, stop):
        yield jax.device_put(index_batch(triplets, seed, step, batch_size, padded_size), sharding)
