"""Why an item is a hit: what its distance is made of, and its rank under each condition alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from csn_jax.store.index import Index
from csn_jax.text import shortened

PIECE = 1 << 14  # items compared at a time
NAMED = 3  # dimensions per hit, and items at each end of a dimension
ENDS = 5  # dimensions whose ends are shown as text
WIDEST = 28  # characters of an attribute


class Reasons(NamedTuple):
    """Reasons for H hits of one query.

    by_condition: [H, W], the share of the squared distance that each searched condition adds. Shares are relative to
        the sum of absolute values, so they sum to 1 if no weight is negative. At distance 0 all are 0.
    by_dimension: [H, D], the same per dimension; [H, 0] under maps, whose dimensions have no meaning of their own.
    ranks: [H, C], the hit's rank among all items but the query under each condition alone. The nearest has rank 1.
    """

    by_condition: np.ndarray
    by_dimension: np.ndarray
    ranks: np.ndarray


def explain(
    index: Index, query: np.ndarray, rows: Sequence[int], weights: Mapping[str, float], exclude: int = -1
) -> Reasons:
    """The reasons for the hits in rows [H] of a query [D]; `exclude`: the row of the item that is the query, or -1."""
    query, rows = np.asarray(query, np.float64), np.asarray(rows, int)
    own = query if index.maps is None else index.maps.views(query[None], dtype=np.float64)[0]  # [V]
    square = np.square(index.masks, dtype=np.float64)  # [C, V]

    def gaps_to(items: Any) -> np.ndarray:
        vectors = index.vectors[items]
        return np.square(own - (vectors if index.maps is None else index.maps.views(vectors, dtype=np.float64)))

    gaps = gaps_to(rows)  # [H, V]
    weighted = np.array([weight * square[index.conditions.index(name)] for name, weight in weights.items()])  # [W, V]
    nearer = np.zeros((len(rows), len(square)), int)
    limits = _by_condition(gaps, square)  # [H, C]
    if index.maps is not None:  # matrix products round each row in its own way
        limits = limits * (1 - 1e-9)
    for start in range(0, len(index.ids), PIECE):
        squared = _by_condition(gaps_to(slice(start, start + PIECE)), square)  # [n, C]
        if start <= exclude < start + PIECE:
            squared[exclude - start] = np.inf
        for hit in range(len(rows)):
            nearer[hit] += np.sum(squared < limits[hit], axis=0)
    by_dimension = _shares(gaps * weighted.sum(axis=0)) if index.maps is None else np.zeros((len(rows), 0))
    return Reasons(_shares(_by_condition(gaps, weighted)), by_dimension, nearer + 1)


def _by_condition(gaps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[n, D], [C, D] -> [n, C], summed row by row. In a matrix product the bits of a row depend on its neighbours, and
    a hit could be nearer than itself."""
    return np.stack([np.sum(gaps * weight, axis=1) for weight in weights], axis=1)


def _shares(parts: np.ndarray) -> np.ndarray:
    total = np.abs(parts).sum(axis=1, keepdims=True)
    return np.divide(parts, total, out=np.zeros_like(parts), where=total > 0)


def dimension_ends(index: Index, reasons: Reasons) -> list[tuple[int, str, np.ndarray, np.ndarray]]:
    """(dimension, the condition that weighs it most, rows of the lowest items, rows of the highest) of the dimensions
    that matter most to each hit, those first that matter most to all hits together."""
    largest = {dimension for shares in reasons.by_dimension for dimension in _largest(shares)}
    together, ends = np.abs(reasons.by_dimension).sum(axis=0), []
    for dimension in sorted(largest, key=lambda dimension: (-together[dimension], dimension)):
        order = np.argsort(index.vectors[:, dimension], kind="stable")
        owner = index.conditions[int(np.argmax(np.abs(index.masks[:, dimension])))]
        ends.append((dimension, owner, order[:NAMED], order[-NAMED:]))
    return ends


def _largest(by_dimension: np.ndarray) -> list[int]:
    """The dimensions with the largest shares, largest first."""
    order = np.argsort(-np.abs(by_dimension), kind="stable")[:NAMED]
    return [int(dimension) for dimension in order if by_dimension[dimension]]


def reasons_text(index: Index, searched: Sequence[str], rows: Sequence[int], reasons: Reasons) -> str:
    """Two lines per hit, then the items at both ends of the dimensions that matter most. `searched` are the conditions
    of the search, `rows` those of the hits."""
    lines = [f"why (in brackets: the rank among all {len(index.ids):,} items under that condition alone)"]
    for place, (row, by_condition, by_dimension, ranks) in enumerate(zip(rows, *reasons, strict=True), 1):
        lines.append(f"{place:4}  {index.ids[row]}: {ranks_text(index.conditions, ranks)}")
        shares = [f"{name} {share:.0%}" for name, share in zip(searched, by_condition, strict=True)]
        parts = [", ".join(shares)] if len(shares) > 1 else []
        largest = [f"{dimension} ({by_dimension[dimension]:.0%})" for dimension in _largest(by_dimension)]
        parts += [f"dimensions {', '.join(largest)}"] if largest else []
        if not by_condition.any():
            parts = ["at distance 0"]
        elif index.maps is not None:
            parts = parts or [f"all from {searched[0]}"]
        lines.append(f"      {'' if parts == ['at distance 0'] else 'its distance: '}{'; '.join(parts)}")
    for dimension, name, low, high in dimension_ends(index, reasons)[:ENDS]:
        lines.append(f"dimension {dimension}, which has the largest weight for {name}")
        lines += [f"      from {_items(index, low, name)}", f"      to   {_items(index, high, name)}"]
    if index.maps is not None:
        lines.append("dimensions are not explained: these conditions are maps, which mix the dimensions of the vectors")
    return "\n".join(lines)


def ranks_text(conditions: Sequence[str], ranks: np.ndarray) -> str:
    """`closest on a (1), then b (4), furthest on c (9)`. If all ranks [C] are equal: `rank 4 under a, b`."""
    low, high = ranks.min(), ranks.max()
    if low == high:
        return f"rank {low:,} under {', '.join(conditions)}"
    groups = {"closest on": ranks == low, "then": (ranks > low) & (ranks < high), "furthest on": ranks == high}
    order = np.argsort(ranks, kind="stable")
    named = {word: [f"{conditions[c]} ({ranks[c]:,})" for c in order if group[c]] for word, group in groups.items()}
    return ", ".join(f"{word} {', '.join(names)}" for word, names in named.items() if names)


def _items(index: Index, rows: np.ndarray, column: str) -> str:
    """Ids, each with its value of a column if there is one."""
    values = index.columns.get(column)
    named = values is not None
    return ", ".join(str(index.ids[row]) + (f" ({cell(values[row])})" if named and values[row] else "") for row in rows)


def cell(text: str) -> str:
    """An attribute on one line, shortened if it is long."""
    return shortened(" ".join(text.split()), WIDEST)
