"""Leakage: which other attributes each condition's space reveals, as a table of conditions by attributes."""

import math
from typing import Any

import numpy as np

from csn_jax.data.item_set import ItemSet
from csn_jax.evaluate.bootstrap import intervals
from csn_jax.evaluate.retrieval import key_blocks, likeness, sample

QUERIES = 5_000  # per attribute, drawn with a fixed seed; the gallery stays whole


def _nearest(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the nearest item is alike, and how many items are, per query: keys [Q, N] -> [Q], [Q]."""
    return keys.min(axis=1) & 1, (keys & 1).sum(axis=1)


def outcomes(
    embeddings: np.ndarray, masks: np.ndarray, items: ItemSet, split: str
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """{condition: {attribute: (right, chance)}}, float64 [Q] each, over queries of a split.

    right: 1 if the nearest other item under the condition is alike in the attribute (shares its value; a tie is wrong).
    chance: the share of all other items that are alike, which is how often a random space is right. Gallery and queries
    are the split's items whose attribute is known. A query with nothing like it is not counted, and an attribute
    without a query is left out. Nothing is fitted: this measures the distance that a search uses. Attributes are all
    label columns, the conditions' own among them. Embeddings [N, D] and masks [C, D] as in `retrieval.outcomes`.
    """
    members = np.flatnonzero(items.split == split)
    embeddings = embeddings[members]
    kinds = {one.name: one.kind for one in (*items.attributes, *items.conditions)}
    found = {condition.name: {} for condition in items.conditions}
    for attribute, column in items.labels.items():
        labels = likeness(column, kinds.get(attribute, "categorical")).of(members)
        n_known = int(labels.known.sum())
        queries = sample(np.flatnonzero(labels.known), QUERIES)
        for mask, condition in zip(masks, items.conditions, strict=True):
            parts = [_nearest(keys) for keys in key_blocks(embeddings, mask, labels, queries)]
            if not parts:
                continue
            right, n_alike = (np.concatenate([part[i] for part in parts]) for i in range(2))
            right, n_alike = right[n_alike > 0], n_alike[n_alike > 0]
            if len(right):
                found[condition.name][attribute] = right.astype(np.float64), n_alike / (n_known - 1)
    return found


def results(embeddings: np.ndarray, masks: np.ndarray, items: ItemSet, split: str) -> dict[str, Any]:
    """`leakage` of results.json: accuracy - chance and its interval, by condition and attribute; chance and the number
    of queries, by attribute."""
    above, ranges, chances, totals = {}, {}, {}, {}
    for name, attributes in outcomes(embeddings, masks, items, split).items():
        above[name], ranges[name] = {}, {}
        for attribute, (right, chance) in attributes.items():
            n = totals[attribute] = len(right)
            chances[attribute] = math.fsum(chance) / n
            above[name][attribute] = math.fsum(right - chance) / n
            ranges[name][attribute] = intervals((right - chance)[None], np.ones(n), least=-chance)[0].tolist()
    return {
        "by_condition": above,
        "ci95": {"by_condition": ranges},
        "chance": {"by_attribute": chances},
        "n_queries": {"by_attribute": totals},
    }
