"""Conditional triplets: drawn from labels, inside one split."""

import hashlib
from typing import NamedTuple

import numpy as np

from csn_jax.data.item_set import ItemSet
from csn_jax.errors import UserError


class Triplets(NamedTuple):
    """T conditional triplets as int32 columns [T]: positions in the ItemSet, and the condition's row in the masks."""

    anchor: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    condition: np.ndarray

    def digest(self) -> str:
        """SHA-256 of the columns, in hex."""
        hasher = hashlib.sha256()
        for column in self:
            hasher.update(np.ascontiguousarray(column, dtype="<i4"))
        return hasher.hexdigest()

    def of_condition(self, condition: int) -> "Triplets":
        """The triplets of one condition, renamed to condition 0."""
        chosen = self.condition == condition
        return Triplets(*(column[chosen] for column in self[:3]), condition=np.zeros(int(chosen.sum()), np.int32))


def draw_triplets(items: ItemSet, split: str, per_condition: int, seed: int) -> Triplets:
    """Draw triplets for every condition from the items of one split.

    A value is drawn uniformly among those with two items or more, so that a giant class does not own the triplets;
    then two different items of that value, and a negative uniformly among the items of other values. Items whose
    value is missing take no part.

    Raises:
        UserError: when a condition has no possible triplet in this split.
    """
    members = np.flatnonzero(items.split == split)
    parts = []
    for row, condition in enumerate(items.conditions):
        # Seeded by the name and not by the row: a condition keeps its triplets whichever others are chosen with it.
        rng = np.random.default_rng((seed, *f"{split}/{condition.name}".encode()))
        labels = items.labels[condition.name][members]
        known, labels = members[labels != ""], labels[labels != ""]
        by_value = known[np.argsort(labels, kind="stable")]  # items, those of one value side by side
        values, counts = np.unique(labels, return_counts=True)
        starts = np.cumsum(counts) - counts
        pairs = np.flatnonzero(counts >= 2)
        if len(pairs) == 0 or len(values) < 2:
            raise UserError(
                f"condition {condition.name!r} has no triplet in the {split} split: it needs two items of one value "
                f"and one of another, and has {len(known)} labelled items of {len(values)} values; give more items or "
                "leave the condition out of config.data.conditions."
            )
        value = pairs[rng.integers(len(pairs), size=per_condition)]
        start, count = starts[value], counts[value]
        first = rng.integers(count)
        second = (first + 1 + rng.integers(count - 1)) % count
        other = rng.integers(len(known) - count)
        other += np.where(other >= start, count, 0)  # step over the anchor's own value
        parts.append(
            Triplets(
                by_value[start + first].astype(np.int32),
                by_value[start + second].astype(np.int32),
                by_value[other].astype(np.int32),
                np.full(per_condition, row, np.int32),
            )
        )
    return Triplets(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
