"""Retrieval: whether a query's nearest items under a condition are like it. Exact, in bounded memory."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.core.losses import EPSILON
from csn_jax.data.item_set import ItemSet
from csn_jax.data.triplets import scale_of
from csn_jax.evaluate.bootstrap import intervals
from csn_jax.runtime.record import GAPS

KS = (1, 5, 10)
# `chance` is not a metric: it is the precision of a random order, whatever its length.
WIDE = 512  # dimensions, above which only those of a condition are taken for it
METRICS = (*(f"recall@{k}" for k in KS), "precision@10", "r_precision", "map@r", "chance")
BLOCK = 1 << 22  # pairs of query and gallery item at a time; a few arrays of 4 bytes per pair live at once
LAST = np.uint32(0xFFFFFFFE)  # a key behind every distance, and not alike


class Likeness(NamedTuple):
    """Labels as integers: item g is like query q where low[q, a] <= code[g, b] < high[q, a] for any a and b. One column
    for single values; for sets, as many as the largest set has members."""

    known: np.ndarray  # [N] bool
    low: np.ndarray  # [N, L] int32
    high: np.ndarray  # [N, L] int32
    code: np.ndarray  # [N, L] int32

    def of(self, rows: np.ndarray) -> "Likeness":
        """The labels of some items."""
        return Likeness(*(part[rows] for part in self))


def likeness(column: np.ndarray, kind: str) -> Likeness:
    """Encode labels [N] str by the kind of their condition; the empty string is unknown. Items are alike if their
    values are equal, their sets share a member, or their numbers differ by less than a tenth of the range, the clear
    difference of triplets."""
    known = column != ""
    if kind == "set":
        members = [[name for name in text.split(";") if name] for text in column.tolist()]
        number = {name: i for i, name in enumerate(sorted({name for group in members for name in group}))}
        code = np.full((len(column), max([1, *map(len, members)])), -1, np.int32)
        for row, group in enumerate(members):
            code[row, : len(group)] = [number[name] for name in group]
        high = np.where(code < 0, -1, code + 1)  # the range from -1 to -1 is empty: padding is like no other padding
        return Likeness(known, code, high, code)
    low, high, code = (np.zeros((len(column), 1), np.int32) for _ in range(3))
    scale = scale_of(column, kind) if kind in GAPS else None
    values, number = np.unique(scale.values[known] if scale else column[known], return_inverse=True)
    first, end = np.arange(len(values)), np.arange(len(values)) + 1
    if scale and len(values):
        near = scale.step * (1 - 1e-9)  # as in draws: rounding may shorten a whole step
        values = values - values[0]  # from 0, where rounding is finest
        first = np.minimum(first, np.searchsorted(values, values - near, side="right"))
        end = np.maximum(end, np.searchsorted(values, values + near, side="left"))
    low[known, 0], high[known, 0], code[known, 0] = first[number], end[number], number
    return Likeness(known, low, high, code)


@jax.jit
def _masked(embeddings: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Masked embeddings [N, D] minus their mean, and their squares [N]. The mean changes no distance, but reduces the
    rounding of squares. Distances below about 3e-4 of the spread are lost in that rounding."""
    x = embeddings * mask[None]
    x = x - jnp.mean(x, axis=0, keepdims=True)
    return x, jnp.sum(jnp.square(x), axis=1)


@jax.jit
def _keys(x: jax.Array, squares: jax.Array, labels: Likeness, rows: jax.Array) -> jax.Array:
    """Sort keys uint32 [Q, N] of every gallery item for the queries `rows` [Q].

    A key is the bits of the squared distance, which sort like the float because its sign bit is 0, shifted by one; the
    last bit is 1 if the item is like the query. So one sort of integers ranks items and carries the labels. At equal
    distance an item that is not alike comes first: a tie is wrong, as in the triplet error.
    """
    query = x[rows] + EPSILON
    inner = jnp.matmul(query, x.T, precision="highest")
    square = jnp.sum(jnp.square(query), axis=1)[:, None] + squares[None] - 2 * inner
    bits = jax.lax.bitcast_convert_type(jnp.maximum(square, 0), jnp.uint32)
    low, high = labels.low[rows], labels.high[rows]

    def with_member(a: int, alike: jax.Array) -> jax.Array:
        for code in labels.code.T:  # [N]
            alike |= (low[:, a, None] <= code[None]) & (code[None] < high[:, a, None])
        return alike

    alike = jax.lax.fori_loop(0, low.shape[1], with_member, jnp.zeros(square.shape, bool))
    other = labels.known[None] & (rows[:, None] != jnp.arange(len(x))[None])
    return jnp.where(other, (bits << 1) | alike.astype(jnp.uint32), LAST)


def key_blocks(embeddings: np.ndarray, mask: np.ndarray, labels: Likeness, queries: np.ndarray) -> Iterator[np.ndarray]:
    """Keys [q, N] over all queries, in blocks of q that bound the memory."""
    if not len(queries):
        return
    x, squares = _masked(jax.device_put(embeddings), jax.device_put(mask))
    labels = jax.device_put(labels)
    size = max(1, min(BLOCK // len(embeddings), 1 << (len(queries) - 1).bit_length()))
    for start in range(0, len(queries), size):
        rows = queries[start : start + size]
        padded = np.concatenate([rows, np.full(size - len(rows), rows[0])]).astype(np.int32)  # one program serves all
        yield np.asarray(_keys(x, squares, labels, padded))[: len(rows)]


def measure(embeddings: np.ndarray, mask: np.ndarray, labels: Likeness, queries: np.ndarray) -> np.ndarray:
    """METRICS per query that has another item like it: float64 [M, Q]. Other queries are not counted.

    Embeddings [N, D] are both queries and gallery; a query is never its own hit. The mask [D] is as applied. An item
    with an unknown label is not in the gallery. Queries [Q] are positions of items whose label is known.
    """
    parts, n_others = [], int(labels.known.sum()) - 1
    for keys in key_blocks(embeddings, mask, labels, queries):
        n_alike = (keys & 1).sum(axis=1)  # [Q]: R
        keys, n_alike = keys[n_alike > 0], n_alike[n_alike > 0]
        depth = min(keys.shape[1], max(KS[-1], n_alike.max(initial=0)))
        # Only the nearest R count; the others stay unsorted.
        nearest = np.sort(np.partition(keys, depth - 1, axis=1)[:, :depth], axis=1) & 1  # [Q, depth]
        hits = np.cumsum(nearest, axis=1, dtype=np.int32)
        rank = np.arange(1, depth + 1)
        precision = np.where((nearest == 1) & (rank <= n_alike[:, None]), hits / rank, 0)
        recalls = [hits[:, min(k, depth) - 1] > 0 for k in KS]
        first_10 = hits[:, min(10, depth) - 1] / min(10, n_others)
        r_precision = np.take_along_axis(hits, n_alike[:, None] - 1, axis=1)[:, 0] / n_alike
        map_at_r = precision.sum(axis=1) / n_alike
        parts.append(np.stack([*recalls, first_10, r_precision, map_at_r, n_alike / n_others]))
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(METRICS), 0))


def sample(rows: np.ndarray, limit: int | None) -> np.ndarray:
    """At most `limit` of the positions, drawn with a fixed seed; all of them for None."""
    if limit is None or len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))


def outcomes(
    embeddings: np.ndarray, masks: np.ndarray, items: ItemSet, split: str, limit: int | None = None
) -> dict[str, np.ndarray]:
    """{condition: float64 [M, Q]}: METRICS per query of a split, under each condition that has labels.

    Queries and gallery are the split's items with a known label. A query with nothing like it is not counted, and a
    condition without a query is left out. Recall@k: whether an alike item is among the nearest k. Precision@10: the
    share of the nearest 10 that are alike; chance: the share of all others that are, which a random order has. With R
    alike items, R-precision: the share of the nearest R that are alike; MAP@R: the mean over the nearest R of the
    precision up to each alike one, 0 for the others. At equal distance the item that is not alike comes first.

    Embeddings [N, D] have row i for item i of the ItemSet; only the split's rows are read. Masks [C, D] are as applied.
    limit: the most queries per condition, drawn with a fixed seed; the gallery stays whole.
    """
    members, found = np.flatnonzero(items.split == split), {}
    wide = masks.shape[1] > WIDE
    embeddings = embeddings if wide else embeddings[members]
    for mask, condition in zip(masks, items.conditions, strict=True):
        if condition.name not in items.labels:
            continue  # learned from triplets of people, without labels
        labels = likeness(items.labels[condition.name], condition.kind).of(members)
        queries = sample(np.flatnonzero(labels.known), limit)
        used = np.flatnonzero(mask) if wide else slice(None)  # of raw vectors beside maps, one block at a time
        own = embeddings[np.ix_(members, used)] if wide else embeddings
        values = measure(own, mask[used], labels, queries)
        if values.shape[1]:
            found[condition.name] = values
    return found


def results(
    embeddings: np.ndarray, masks: np.ndarray, items: ItemSet, split: str, limit: int | None = None
) -> dict[str, Any]:
    """`retrieval` of results.json: the metrics and their intervals, precision@10 of a random order (`chance`), and the
    number of queries, each by condition."""
    means, ranges, chances, totals = {}, {}, {}, {}
    for name, values in outcomes(embeddings, masks, items, split, limit).items():
        n = totals[name] = values.shape[1]
        means[name] = {metric: math.fsum(column) / n for metric, column in zip(METRICS, values, strict=True)}
        ranges[name] = dict(zip(METRICS[:-1], intervals(values[:-1], np.ones(n)).tolist(), strict=True))
        chances[name] = means[name].pop("chance")
    return {
        "by_condition": means,
        "ci95": {"by_condition": ranges},
        "chance": {"by_condition": chances},
        "n_queries": {"by_condition": totals},
    }
