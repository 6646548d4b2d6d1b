"""The default feed: tf.data gathers whole batches of rows on the host, ahead of the step. Needs TensorFlow."""

import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from csn_jax.core.steps import Batch
from csn_jax.data.feed import host_batch
from csn_jax.data.triplets import Triplets
from csn_jax.errors import UserError

# Before the import, which prints a page of notices otherwise. oneDNN: we only use tf.data.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
try:
    import tensorflow as tf
except ImportError as error:
    raise UserError(
        f"config.feed is tfdata and TensorFlow cannot be imported ({error}); "
        "install tensorflow, or use --config.feed=device."
    ) from None

AHEAD = 2  # batches ready on the host, and again on the device


def tf_feed(
    inputs: np.ndarray,
    triplets: Triplets,
    seed: int,
    batch_size: int,
    padded_size: int,
    start: int,
    stop: int,
    sharding: Any,
) -> Iterator[Batch]:
    """Batches with their rows gathered from `inputs` [N, ...], which may be memory-mapped and larger than RAM."""
    tf.config.set_visible_devices([], "GPU")  # the accelerator's memory belongs to JAX
    dtypes = Batch(*(tf.as_dtype(inputs.dtype),) * 3, condition=tf.int32, valid=tf.bool)

    def gather(step: np.ndarray) -> tuple:
        return tuple(host_batch(inputs, triplets, seed, int(step), batch_size, padded_size))

    options = tf.data.Options()
    options.deterministic = True
    dataset = (
        tf.data.Dataset.range(start, stop)
        .map(lambda step: tf.numpy_function(gather, [step], list(dtypes)), num_parallel_calls=2)
        .prefetch(AHEAD)
        .with_options(options)
    )
    ready: deque[Batch] = deque()
    for arrays in dataset.as_numpy_iterator():
        ready.append(jax.device_put(Batch(*arrays), sharding))  # returns at once; the copy overlaps the running step
        if len(ready) > AHEAD:
            yield ready.popleft()
    yield from ready
