"""Milliseconds for the in-batch loss over all conditions, with its gradient."""

from collections.abc import Callable
from functools import partial

from csn_jax.benchmark.suites import Case, timed

ITEMS, CONDITIONS, DIMENSIONS, VALUES = 1_024, 4, 64, 10


def make(tiny: bool, *, name: str) -> Callable[[], float]:
    import jax
    import numpy as np

    from csn_jax.core.in_batch import in_batch_loss
    from csn_jax.runtime.compiler import jit

    n = 64 if tiny else ITEMS
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((n, DIMENSIONS), np.float32) * np.float32(0.1)
    masks = np.maximum(rng.normal(0.9, 0.7, (CONDITIONS, DIMENSIONS)), 0).astype(np.float32)
    labels = rng.integers(0, VALUES, (n, CONDITIONS), np.int32)
    valid = np.ones(n, bool)
    options = {"name": name, "margin": 0.2, "embedding_weight": 0.0, "mask_weight": 0.0}

    def loss(embeddings, masks):
        return in_batch_loss(embeddings, masks, labels, valid, **options).total

    step = jit(jax.value_and_grad(loss, argnums=(0, 1)))

    def work() -> None:
        jax.block_until_ready(step(embeddings, masks))

    work()
    return timed(work, 1_000)


def case(name: str) -> Case:
    theirs = {"pytorch-metric-learning, once per condition": ("loss", name, ITEMS, CONDITIONS, VALUES)}
    return Case(f"{name}, {ITEMS:,} items, {CONDITIONS} conditions", partial(make, name=name), theirs, "ms")


CASES = (case("batch_all"), case("batch_hard"))
