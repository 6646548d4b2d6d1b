"""Why an item is a hit: what its distance is made of, and under which conditions it is near."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from csn_jax.store.index import Index

PIECE = 1 << 14  # items compared at a time


class Reasons(NamedTuple):
    """Of H hits of one query.

    by_condition: [H, W], for each condition searched under its share of the squared distance. Shares are of the sum of
        all parts' absolute values, so they sum to 1 where no weight is negative; all 0 at distance 0.
    by_dimension: [H, D], likewise for each dimension.
    places: [H, C], how near the hit is under each condition of the index alone, 1 being the nearest of all items but
        the query.
    """

    by_condition: np.ndarray
    by_dimension: np.ndarray
    places: np.ndarray


def explain(
    index: Index, query: np.ndarray, rows: Sequence[int], weights: Mapping[str, float], exclude: int = -1
) -> Reasons:
    """Explain hits of a search.

    Args:
        index: searched in.
        query: [D] embedding.
        rows: [H] positions of the hits.
        weights: searched under.
        exclude: the row of an item that is the query itself, or -1.
    """
    query, rows = np.asarray(query, np.float64), np.asarray(rows, int)
    square = np.square(index.masks, dtype=np.float64)  # [C, D]
    gaps = np.square(query - index.vectors[rows])  # [H, D]
    chosen = np.array([weight * square[index.conditions.index(name)] for name, weight in weights.items()])  # [W, D]
    nearer = np.zeros((len(rows), len(square)), int)
    limits = _by_condition(gaps, square)  # [H, C]
    for start in range(0, len(index.ids), PIECE):
        squared = _by_condition(np.square(query - index.vectors[start : start + PIECE]), square)  # [n, C]
        if start <= exclude < start + PIECE:
            squared[exclude - start] = np.inf
        for hit in range(len(rows)):
            nearer[hit] += np.sum(squared < limits[hit], axis=0)
    return Reasons(_shares(_by_condition(gaps, chosen)), _shares(gaps * chosen.sum(axis=0)), nearer + 1)


def _by_condition(gaps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[n, D], [C, D] -> [n, C]. Summed row by row: in a matrix product an item's bits depend on its neighbours, and a
    hit would be nearer than itself."""
    return np.stack([np.sum(gaps * weight, axis=1) for weight in weights], axis=1)


def _shares(parts: np.ndarray) -> np.ndarray:
    total = np.abs(parts).sum(axis=1, keepdims=True)
    return np.divide(parts, total, out=np.zeros_like(parts), where=total > 0)


def exemplars(index: Index, dimension: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the n items lowest and of the n highest in a dimension, from low to high: (low, high)."""
    order = np.argsort(index.vectors[:, dimension], kind="stable")
    return order[:n], order[-n:]


def owner(index: Index, dimension: int) -> str:
    """The condition that weighs a dimension most."""
    return index.conditions[int(np.argmax(np.abs(index.masks[:, dimension])))]
