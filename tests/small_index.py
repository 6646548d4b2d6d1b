"""Small sets of stored items, and the naive search that an index must equal."""

import math

import numpy as np

from csn_jax.runtime.record import Condition
from csn_jax.store.index import Index
from csn_jax.store.vector_file import Embeddings


def make(n=400, width=6, *, scale=1.0, offset=0.0, seed=0, vectors=None) -> Index:
    """n items under the conditions a, b and c. The masks contain zeros, and c uses one dimension only."""
    rng = np.random.default_rng(seed)
    masks = np.maximum(rng.normal(0.3, 0.8, (3, width)), 0).astype(np.float32)
    masks[0, 0], masks[2] = 0.7, np.eye(width)[1] * 1.3
    if vectors is None:
        vectors = (rng.normal(size=(n, width)) * scale + offset).astype(np.float32)
    n = len(vectors)
    sets = [";".join(rng.choice(list("uvwxyz"), rng.integers(0, 3), replace=False)) for _ in range(n)]
    columns = {
        "colour": rng.choice(["red", "green", "blue", ""], n).astype(object),
        "tags": np.array(sets, object),
    }
    conditions = tuple(Condition(name, "categorical") for name in "abc")
    ids = np.array([f"item {i}" for i in range(n)], object)
    return Index(Embeddings(ids, vectors, columns, conditions, masks, "f00d", {}), tuple("abc"), masks)


def clumps(n: int, seed: int = 0) -> Embeddings:
    """n items in clumps of 8 numbers. Two masks overlap, one has a single dimension and one has none; the name of a
    condition contains characters that stores forbid, and that of a column a space."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(12, 8))[rng.integers(0, 12, n)] + rng.normal(0, 0.6, (n, 8))
    masks = np.zeros((4, 8), np.float32)
    masks[0, :5], masks[1, 3:], masks[2, 0] = rng.uniform(0.2, 2, 5), rng.uniform(0.2, 2, 5), 1.5
    columns = {
        "colour": rng.choice(["red", "blue", ""], n),
        "tags": rng.choice(["a", "b", "a;b", "a;b;c"], n),
        "kind of.shoe": rng.choice(["x", "y"], n),
        "price": rng.choice(["", "3.50", "20", "7", "120.00"], n),
    }
    return Embeddings(
        ids=np.array([f"items/ü {i}" for i in range(n)], object),
        vectors=vectors.astype(np.float32),
        columns={name: column.astype(object) for name, column in columns.items()},
        conditions=tuple(Condition(name, "categorical") for name in ("style", 'a/b: 5%?"', "one", "dead")),
        masks=masks,
        model_sha256="a" * 64,
        pictures={},
        made_from="here",
    )


def sliced(items: Embeddings, rows: slice) -> Embeddings:
    """Some of the items, as a part of them."""
    columns = {name: column[rows] for name, column in items.columns.items()}
    return items._replace(ids=items.ids[rows], vectors=items.vectors[rows], columns=columns)


def naive(index, query, weights, k, passes=lambda row: True) -> list[tuple[int, float]]:
    """(row, squared distance) of the k nearest items, one item and one dimension at a time in float64."""
    squares = []
    for row, item in enumerate(np.asarray(index.vectors).tolist()):
        if passes(row):
            square = 0.0
            for name, weight in weights.items():
                mask = index.masks[index.conditions.index(name)].tolist()
                square += weight * math.fsum((m * (q - x)) ** 2 for m, q, x in zip(mask, query, item, strict=True))
            squares.append((square, row))
    return [(row, square) for square, row in sorted(squares)[:k]]


def assert_hits(index, queries, weights, k, filters=None, exclude=None, passes=lambda row: True) -> None:
    """The index finds what the naive search finds, by position and by id."""
    rows, squares = index.nearest(queries, weights, k, filters=filters, exclude=exclude)
    ids, distances = index.search(queries, weights, k, filters=filters, exclude=exclude)
    k = min(k, len(index.ids))
    assert rows.shape == squares.shape == ids.shape == distances.shape == (len(queries), k)
    assert distances.dtype == np.float32 and ids.dtype.kind == "U"
    for i, query in enumerate(queries):
        own = exclude[i] if exclude else -1
        expected = naive(index, query, weights, k, lambda row, own=own: passes(row) and row != own)
        n, values = len(expected), [square for _, square in expected]
        scale = max(1e-300, *np.abs(values)) if values else 1
        np.testing.assert_allclose(squares[i, :n], values, rtol=1e-12, atol=1e-12 * scale)
        if len(set(np.round(np.array(values) / scale, 11))) == n:  # items that tie in float64 have no order
            assert rows[i, :n].tolist() == [row for row, _ in expected]
        assert ids[i].tolist() == [f"item {row}" for row in rows[i, :n]] + [""] * (k - n)
        assert (rows[i, n:] == -1).all() and np.isinf(distances[i, n:]).all()
        roots = [math.copysign(math.sqrt(abs(value)), value) for value in values]
        np.testing.assert_allclose(distances[i, :n], roots, rtol=1e-6, atol=1e-7 * math.sqrt(scale))
