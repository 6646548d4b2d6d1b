"""The default feed: tf.data gathers whole batches of rows on the host, ahead of the step. Needs TensorFlow."""

import os
from collections import deque
from typing import Any

import numpy as np

from csn_jax.errors import UserError
from csn_jax.runtime.sharding import place
from csn_jax.train.feed import AnyBatch, BatchAt, Feed, gather, read_ahead

# Before the import, which otherwise prints a page of notices. oneDNN: only tf.data is used.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
try:
    import tensorflow as tf
except ImportError as error:
    fix = "install tensorflow, or use --config.feed=device"
    raise UserError(f"the feed is tfdata and TensorFlow cannot be imported ({error}); {fix}.") from None

AHEAD = 2  # batches ready on the host, and again on the device


def tf_feed(inputs: np.ndarray, batch_at: BatchAt, start: int, stop: int, sharding: Any) -> Feed:
    """Batches with their rows gathered from `inputs` [N, ...], which may be memory-mapped and larger than RAM.

    Close it when you stop early. A feed that is left open can hang when Python exits: other threads no longer run, and
    TensorFlow waits for the one that gathers a batch.
    """
    tf.config.set_visible_devices([], "GPU")  # the accelerator's memory belongs to JAX
    first = batch_at(start)
    columns = {name: getattr(first, name) for name in first._fields} | dict.fromkeys(first.ITEMS, inputs)
    dtypes = [tf.as_dtype(column.dtype) for column in columns.values()]

    def rows(step: np.ndarray) -> tuple:
        batch = batch_at(int(step))
        read_ahead(inputs, np.concatenate([getattr(batch, name) for name in batch.ITEMS]))
        return tuple(gather(inputs, batch))

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # nothing here is tuned, and its thread can sleep for a minute after a close
    dataset = (
        tf.data.Dataset.range(start, stop)
        .map(lambda step: tf.numpy_function(rows, [step], dtypes), num_parallel_calls=2)
        .prefetch(AHEAD)
        .with_options(options)
    )
    ready: deque[AnyBatch] = deque()
    for arrays in dataset.as_numpy_iterator():
        # `place` returns at once; the copy overlaps the running step.
        ready.append(place(type(first)(*arrays), sharding))
        if len(ready) > AHEAD:
            yield ready.popleft()
    yield from ready
