"""Conditional triplets: drawn from labels, inside one split."""

import hashlib
from typing import NamedTuple

import numpy as np

from csn_jax.data import draw
from csn_jax.data.item_set import ItemSet
from csn_jax.errors import UserError

CLEARLY = 0.1  # of the range of a numeric condition: the least difference between the two gaps of a triplet
REMEDY = "give more items or remove the condition from config.data.conditions"  # for a condition without triplets
BINS = 10  # equal parts of the range; each gives equally many anchors


class Triplets(NamedTuple):
    """T conditional triplets as int32 columns [T]: positions in the ItemSet, and the position of the condition."""

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
        """The triplets of one condition, which becomes condition 0."""
        chosen = self.condition == condition
        return Triplets(*(column[chosen] for column in self[:3]), condition=np.zeros(int(chosen.sum()), np.int32))


class Scale(NamedTuple):
    """A numeric or ordinal condition as numbers.

    values: [N] float64, NaN where the value is missing.
    step: the least difference between the gaps of negative and positive to the anchor.
    bins: [N] int, parts of the scale; each gives equally many anchors.
    """

    values: np.ndarray
    step: float
    bins: np.ndarray


def scale_of(labels: np.ndarray, kind: str) -> Scale:
    """The scale of a numeric or ordinal column [N]. All items define it, so every split has the same scale.

    Ordinal values count by their position among the levels that occur. One level is a clear difference.
    """
    values = np.full(len(labels), np.nan)
    known = labels != ""
    values[known] = labels[known].astype(float)
    levels = np.unique(values[known])
    if kind == "ordinal":
        position = np.searchsorted(levels, values)
        return Scale(np.where(known, position, np.nan), 0.5, position)  # between no level and one
    low, high = (levels[0], levels[-1]) if len(levels) else (0.0, 0.0)
    bins = np.nan_to_num((values - low) / max(high - low, 1e-300) * BINS)
    return Scale(values, CLEARLY * (high - low), np.minimum(bins, BINS - 1).astype(int))


def draw_triplets(items: ItemSet, split: str, per_condition: int, seed: int, remedy: str = REMEDY) -> Triplets:
    """Draw triplets for each condition from the items of one split that have a value (see `data/draw.py`).

    Raises:
        UserError: with the remedy, when a condition has no possible triplet in this split.
    """
    members = np.flatnonzero(items.split == split)
    parts = []
    for row, (name, kind) in enumerate(items.conditions):
        # Seeded by the name: a condition keeps its triplets whichever others are chosen with it.
        rng = np.random.default_rng((seed, *f"{split}/{name}".encode()))
        column = items.labels[name]
        known = members[column[members] != ""]
        if kind in ("numeric", "ordinal"):
            scale = scale_of(column, kind)
            roles = draw.by_gap(scale.values[known], scale.step, scale.bins[known], per_condition, rng)
            needs = "an item that is clearly closer to another than a third one is"
        elif kind == "set":
            roles = draw.by_members(column[known], per_condition, rng)
            needs = "two items that share a member and one that shares none with the first"
        else:
            roles = draw.by_value(column[known], per_condition, rng)
            needs = "two items of one value and one of another"
        if roles is None:
            values = len(np.unique(column[known]))
            raise UserError(
                f"condition {name!r} has no triplet in the {split} split: it needs {needs}, and has {len(known)} "
                f"labelled items of {values} {'value' if values == 1 else 'values'}; {remedy}."
            )
        columns = [known[role].astype(np.int32) for role in roles]
        parts.append(Triplets(*columns, np.full(per_condition, row, np.int32)))
    return Triplets(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
