"""Milliseconds for an exact search of a million vectors under a condition: a mask of 64 dimensions or a map of 768."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from csn_jax.benchmark.suites import Case, timed

if TYPE_CHECKING:
    from csn_jax.store.index import Index

ITEMS, DIMENSIONS, CONDITIONS = 1_000_000, 64, 4
WIDTH, RANK, MAPS = 768, 32, 5  # of vectors under maps, of a map, and the number of maps
NAMES = "abcde"


def make(tiny: bool, *, queries: int) -> Callable[[], float]:
    """One condition after the other. Each is queried once before, so that the index keeps its squared norms."""
    import numpy as np

    from csn_jax.data.item_set import Condition
    from csn_jax.store.embeddings import Embeddings
    from csn_jax.store.index import Index

    n = 2_000 if tiny else ITEMS
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, DIMENSIONS), np.float32)
    masks = np.maximum(rng.normal(0.9, 0.7, (CONDITIONS, DIMENSIONS)), 0).astype(np.float32)
    names = tuple(NAMES[:CONDITIONS])
    conditions = tuple(Condition(name, "categorical") for name in names)
    index = Index(Embeddings(np.arange(n).astype(str), vectors, {}, conditions, masks, "", {}), names, masks)
    return _in_turn(index, vectors[:queries] + np.float32(0.1))


def make_maps(tiny: bool, *, queries: int) -> Callable[[], float]:
    """`make` under maps over vectors of 16 bits. With 0 queries: the first query under a condition, of a new index."""
    import numpy as np

    from csn_jax.core.maps import stacked
    from csn_jax.data.item_set import Condition
    from csn_jax.store.embeddings import Embeddings
    from csn_jax.store.index import Index

    n = 2_000 if tiny else ITEMS
    rng = np.random.default_rng(0)
    vectors = np.empty((n, WIDTH), np.float16)
    for start in range(0, n, 10_000):  # never whole as float32
        piece = vectors[start : start + 10_000]
        piece[:] = rng.integers(-64, 65, piece.shape, np.int8) / np.float16(64)
    maps, masks = stacked([rng.standard_normal((RANK, WIDTH), np.float32) / 28 for _ in range(MAPS)], unit=True)
    names = tuple(NAMES[:MAPS])
    conditions = tuple(Condition(name, "categorical") for name in names)
    items = Embeddings(np.arange(n).astype(str), vectors, {}, conditions, masks, "", {}, maps=maps)
    targets = vectors[: queries or 1].astype(np.float32) + np.float32(0.1)
    if not queries:
        return timed(lambda: Index(items, names, masks, maps=maps).nearest(targets, {"a": 1.0}, 10), 1_000)
    return _in_turn(Index(items, names, masks, maps=maps), targets)


def _in_turn(index: "Index", targets) -> Callable[[], float]:
    for name in index.conditions:
        index.nearest(targets, {name: 1.0}, 10)
    turns = itertools.cycle(index.conditions)
    return timed(lambda: index.nearest(targets, {next(turns): 1.0}, 10), 1_000)


def case(text: str, queries: int) -> Case:
    theirs = {"faiss flat, one masked copy per condition": ("search", queries, ITEMS, CONDITIONS)}
    return Case(f"{text} in {ITEMS:,} x {DIMENSIONS}", partial(make, queries=queries), theirs, "ms")


def case_of_maps(text: str, queries: int) -> Case:
    theirs = {
        f"faiss flat, {WIDTH} raw numbers": ("search", queries, ITEMS, 1, WIDTH),
        f"faiss flat, one copy of {RANK} numbers per condition": ("search", queries, ITEMS, MAPS, RANK),
    }
    if not queries:
        theirs = {f"{RANK} numbers by NumPy, then faiss flat": ("search", "first", ITEMS, WIDTH, RANK)}
    name = f"{text} under maps in {ITEMS:,} x {WIDTH} float16"
    return Case(name, partial(make_maps, queries=queries), theirs, "ms")


CASES = (
    *(case("one query", 1), case("64 queries", 64)),
    *(case_of_maps("one query", 1), case_of_maps("64 queries", 64), case_of_maps("first query", 0)),
)
