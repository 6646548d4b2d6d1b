"""Batches of triplets at 112 pixels from a memory-mapped file, in images per second; how long a step waits for them."""

import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from csn_jax.benchmark.suites import Case

ITEMS, SIZE, TRIPLETS, BATCHES = 4_000, 112, 256, 12
FOREVER = 1 << 30


def plan(tiny: bool, triplets: int):
    """(memory-mapped pixels, batch_at) of random triplets."""
    import numpy as np

    from csn_jax.data.triplets import Triplets
    from csn_jax.train.feed import triplet_batches

    n = 50 if tiny else ITEMS
    rng = np.random.default_rng(0)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "pixels.npy"
    np.save(path, rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8))
    pixels = np.load(path, mmap_mode="r")
    folder.cleanup()  # the map holds the file
    columns = rng.integers(0, n, (3, 50 * triplets), np.int32)
    return pixels, triplet_batches(Triplets(*columns, np.zeros(len(columns[0]), np.int32)), 0, triplets, triplets)


def make(tiny: bool, *, kind: str) -> Callable[[], float]:
    import jax

    from csn_jax.runtime.sharding import make_shardings
    from csn_jax.train.feed import device_feed

    triplets = 4 if tiny else TRIPLETS
    (pixels, batch_at), sharding = plan(tiny, triplets), make_shardings().batch
    if kind == "tfdata":
        from csn_jax.train.tf_feed import tf_feed

        feed, gather = tf_feed(pixels, batch_at, 0, FOREVER, sharding), None
    else:
        items = jax.device_put(pixels)
        feed = device_feed(batch_at, 0, FOREVER, sharding)
        gather = jax.jit(lambda batch: [items[getattr(batch, role)] for role in batch.ITEMS])

    def measure() -> float:
        began = time.perf_counter()
        for batch in itertools.islice(feed, BATCHES):
            jax.block_until_ready(gather(batch) if gather else batch)
        return BATCHES * 3 * triplets / (time.perf_counter() - began)

    measure()
    return measure


def make_waiting(tiny: bool) -> Callable[[], float]:
    """The largest share of a ResNet's training time that its step can have waited for tf.data, in per cent."""
    import jax

    from csn_jax.benchmark.suites.step import training
    from csn_jax.train.feed import Watched
    from csn_jax.train.tf_feed import tf_feed

    triplets = 4 if tiny else 32
    pixels, batch_at = plan(tiny, triplets)
    step, state, shardings = training("small" if tiny else "resnet18_csn", SIZE, 3, triplets)
    feed = Watched(tf_feed(pixels, batch_at, 0, FOREVER, shardings.batch))

    def measure(steps: int = 5) -> float:
        nonlocal state
        began, idle = time.perf_counter(), feed.idle
        for batch in itertools.islice(feed, steps):
            state, metrics = step(state, batch)
            feed.working_on(metrics["loss"])
        jax.block_until_ready(state)
        return 100 * (feed.idle - idle) / (time.perf_counter() - began)

    measure(1)
    return measure


THEIRS = {"PyTorch's DataLoader over JPEG files": ("feed", ITEMS, SIZE, TRIPLETS)}
NAME = f"{SIZE} px, batches of {TRIPLETS} triplets"
CASES = (
    *(
        Case(f"{kind}, {NAME}", partial(make, kind=kind), THEIRS, "images/s", more=True)
        for kind in ("tfdata", "device")
    ),
    Case("time that a resnet18_csn step waits for tfdata", make_waiting, {}, "%"),
)
