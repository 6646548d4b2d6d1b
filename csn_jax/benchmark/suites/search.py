"""Milliseconds for an exact search of one million vectors under a condition."""

import itertools
from collections.abc import Callable
from functools import partial

from csn_jax.benchmark.suites import Case, timed

ITEMS, DIMENSIONS, CONDITIONS = 1_000_000, 64, 4


def make(tiny: bool, *, queries: int) -> Callable[[], float]:
    """One condition after the other. Each is queried once before, so that the index keeps its squared norms."""
    import numpy as np

    from csn_jax.data.item_set import Condition
    from csn_jax.store.index import Index
    from csn_jax.store.vector_file import Embeddings

    n = 2_000 if tiny else ITEMS
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, DIMENSIONS), np.float32)
    masks = np.maximum(rng.normal(0.9, 0.7, (CONDITIONS, DIMENSIONS)), 0).astype(np.float32)
    names = tuple("abcd")
    conditions = tuple(Condition(name, "categorical") for name in names)
    index = Index(Embeddings(np.arange(n).astype(str), vectors, {}, conditions, masks, "", {}), names, masks)
    targets = vectors[:queries] + np.float32(0.1)
    for name in names:
        index.nearest(targets, {name: 1.0}, 10)
    turns = itertools.cycle(names)
    return timed(lambda: index.nearest(targets, {next(turns): 1.0}, 10), 1_000)


def case(text: str, queries: int) -> Case:
    theirs = {"faiss flat, one masked copy per condition": ("search", queries, ITEMS, CONDITIONS)}
    return Case(f"{text} in {ITEMS:,} x {DIMENSIONS}", partial(make, queries=queries), theirs, "ms")


CASES = (case("one query", 1), case("64 queries", 64))
