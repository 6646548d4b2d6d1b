"""Conditional triplets: drawn from labels, inside one split; and how many triplets the labels allow."""

import hashlib
from typing import NamedTuple

import numpy as np

from csn_jax.data.item_set import ItemSet
from csn_jax.errors import UserError
from csn_jax.runtime.record import NUMBERS

CLEARLY = 0.1  # of the range of a numeric condition: the least difference between the two gaps of a triplet
REMEDY = "give more items or remove the condition from config.data.conditions"  # for a condition without triplets
BINS = 10  # equal parts of the range; each gives equally many anchors
SAMPLE = 300  # anchors from which the number of triplets is estimated


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

    def compact(self) -> tuple[np.ndarray, "Triplets"]:
        """(the positions of the items that they name, the triplets with positions among these)."""
        rows, places = np.unique(np.concatenate(self[:3]), return_inverse=True)
        return rows, Triplets(*places.astype(np.int32).reshape(3, -1), self.condition)

    def of_condition(self, condition: int) -> "Triplets":
        """The triplets of one condition, which becomes condition 0."""
        chosen = self.condition == condition
        return Triplets(*(column[chosen] for column in self[:3]), condition=np.zeros(int(chosen.sum()), np.int32))


class Scale(NamedTuple):
    """A condition of numbers (numeric, rank or ordinal)."""

    values: np.ndarray  # [N] float64, NaN where the value is missing
    step: float  # the least difference between the gaps of negative and positive to the anchor
    bins: np.ndarray  # [N] int, parts of the scale; each gives equally many anchors


def scale_of(labels: np.ndarray, kind: str) -> Scale:
    """The scale of a column [N] of numbers. All items define it, so every split has the same scale.

    Ordinal values count by their position among the levels that occur. One level is a clear difference. Ranks are
    shares of the items, from 0 to 1; equal numbers have their middle rank.
    """
    values = np.full(len(labels), np.nan)
    known = labels != ""
    values[known] = labels[known].astype(float)
    if kind == "rank":
        ordered = np.sort(values[known])
        places = [np.searchsorted(ordered, values[known], side) for side in ("left", "right")]
        values[known] = np.add(*places) / (2 * max(1, len(ordered)))
    levels = np.unique(values[known])
    if kind == "ordinal":
        position = np.searchsorted(levels, values)
        return Scale(np.where(known, position, np.nan), 0.5, position)  # between no level and one
    low, high = (levels[0], levels[-1]) if len(levels) else (0.0, 0.0)
    bins = np.nan_to_num((values - low) / max(high - low, 1e-300) * BINS)
    return Scale(values, CLEARLY * (high - low), np.minimum(bins, BINS - 1).astype(int))


def draw_triplets(items: ItemSet, split: str, per_condition: int, seed: int, remedy: str = REMEDY) -> Triplets:
    """Draw triplets for each condition from the items of one split that have a value. UserError, with the remedy, for
    a condition that has no possible triplet in this split."""
    members = np.flatnonzero(items.split == split)
    parts = []
    for row, (name, kind) in enumerate(items.conditions):
        # Seeded by the name: a condition keeps its triplets whichever others are chosen with it.
        rng = np.random.default_rng((seed, *f"{split}/{name}".encode()))
        column = items.labels[name]
        known = members[column[members] != ""]
        if kind in NUMBERS:
            scale = scale_of(column, kind)
            roles = by_gap(scale.values[known], scale.step, scale.bins[known], per_condition, rng)
            needs = "an item that is clearly closer to another than a third one is"
        elif kind == "set":
            roles = by_members(column[known], per_condition, rng)
            needs = "two items that share a member and one that shares none with the first"
        else:
            roles = by_value(column[known], per_condition, rng)
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


# Anchor, positive, negative: int64 [T] each, positions among the K labelled items whose labels a function takes.
Roles = tuple[np.ndarray, np.ndarray, np.ndarray]


def by_value(labels: np.ndarray, n: int, rng: np.random.Generator) -> Roles | None:
    """Draw n triplets of a categorical condition; None if there are none.

    Each triplet draws a value uniformly among those of two items or more, so that a large class does not dominate; then
    two different items of that value, and a negative uniformly among the items of other values.
    """
    order = np.argsort(labels, kind="stable")
    values, counts = np.unique(labels, return_counts=True)
    starts = np.cumsum(counts) - counts
    pairs = np.flatnonzero(counts >= 2)
    if len(pairs) == 0 or len(values) < 2:
        return None
    value = pairs[rng.integers(len(pairs), size=n)]
    start, count = starts[value], counts[value]
    first = rng.integers(count)
    second = (first + 1 + rng.integers(count - 1)) % count
    other = rng.integers(len(labels) - count)
    other += np.where(other >= start, count, 0)  # skip the anchor's own value
    return order[start + first], order[start + second], order[other]


def by_gap(values: np.ndarray, step: float, bins: np.ndarray, n: int, rng: np.random.Generator) -> Roles | None:
    """Draw n triplets of a numeric or ordinal condition, whose values [K], step and bins [K] are as in Scale; None if
    there are none.

    The gap of the negative to the anchor exceeds that of the positive by at least `step`. Each triplet draws a bin
    uniformly among those with a possible anchor, then an anchor, then a positive near enough to leave room for a
    negative, then a negative that is far enough.
    """
    if len(values) < 3 or step <= 0:  # the step is 0 if all values are equal
        return None
    order = np.argsort(values, kind="stable")
    v = values[order] - values[order[0]]  # from 0, where floats are finest
    # Slightly less than the step, as rounding may shorten gaps; less still for the negative, so that one exists.
    room = np.maximum(v[-1] - v, v) - step * (1 - 5e-10)  # the largest possible gap of a positive
    low, high = np.searchsorted(v, v - room, "left"), np.searchsorted(v, v + room, "right")
    n_positive = np.where(room >= 0, high - low - 1, 0)  # without the anchor itself
    anchors = np.flatnonzero(n_positive > 0)
    if len(anchors) == 0:
        return None
    _, start, count = np.unique(bins[order][anchors], return_index=True, return_counts=True)
    which = rng.integers(len(count), size=n)
    anchor = anchors[start[which] + rng.integers(count[which])]
    positive = low[anchor] + rng.integers(n_positive[anchor])
    positive += positive >= anchor
    far = np.abs(v[positive] - v[anchor]) + step * (1 - 1e-9)
    n_below = np.searchsorted(v, v[anchor] - far, "right")
    first_above = np.searchsorted(v, v[anchor] + far, "left")
    negative = rng.integers(n_below + len(v) - first_above)
    negative += np.where(negative >= n_below, first_above - n_below, 0)
    return order[anchor], order[positive], order[negative]


class Sets(NamedTuple):
    """The U different sets among K labels, and which of them share a member."""

    code: np.ndarray  # [K] the set of each item
    members: list[np.ndarray]  # of each set
    sets: list[np.ndarray]  # of each member
    sizes: np.ndarray  # [U] number of items of each set

    def sharing(self, code: int) -> np.ndarray:
        """Whether each set shares a member with a given one, which shares with itself: bool [U]."""
        shares = np.zeros(len(self.members), bool)
        for member in self.members[code]:
            shares[self.sets[member]] = True
        return shares


def sets_of(labels: np.ndarray) -> Sets:
    """The sets of labels [K], members with `;` between them."""
    texts, code, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    names = [text.split(";") for text in texts.tolist()]
    number = {name: i for i, name in enumerate(sorted(set().union(*names)))}
    members = [np.array([number[name] for name in names_of_set]) for names_of_set in names]
    sets = [[] for _ in number]
    for i, members_of_set in enumerate(members):
        for member in members_of_set:
            sets[member].append(i)
    return Sets(code, members, list(map(np.array, sets)), sizes)


def by_members(labels: np.ndarray, n: int, rng: np.random.Generator) -> Roles | None:
    """Draw n triplets of a condition of sets, members with `;` between them; None if there are none.

    Each triplet draws a member uniformly among those of two items or more, then two different items that have it, and a
    negative uniformly among the items that share no member with the anchor.
    """
    if len(labels) < 3:
        return None
    sets = sets_of(labels)
    n_negatives = np.array([len(labels) - sets.sizes[sets.sharing(i)].sum() for i in range(len(sets.members))])
    # The items of each member lie side by side, possible anchors first.
    lengths = np.array(list(map(len, sets.members)))
    item = np.repeat(np.arange(len(labels)), lengths[sets.code])
    member = np.concatenate([sets.members[i] for i in sets.code])
    can_anchor = n_negatives[sets.code[item]] > 0
    order = np.lexsort((~can_anchor, member))
    item, member = item[order], member[order]
    counts = np.bincount(member)
    starts, n_anchors = np.cumsum(counts) - counts, np.bincount(member, can_anchor[order]).astype(int)
    usable = np.flatnonzero((counts >= 2) & (n_anchors > 0))
    if len(usable) == 0:
        return None
    drawn = usable[rng.integers(len(usable), size=n)]
    first = rng.integers(n_anchors[drawn])
    second = (first + 1 + rng.integers(counts[drawn] - 1)) % counts[drawn]
    anchor, positive = item[starts[drawn] + first], item[starts[drawn] + second]
    code = sets.code[anchor]
    choice = rng.integers(n_negatives[code])
    negative = np.empty(n, np.int64)
    by_set = np.argsort(code, kind="stable")
    for rows in np.split(by_set, np.flatnonzero(np.diff(code[by_set])) + 1):
        candidates = np.flatnonzero(~sets.sharing(code[rows[0]])[sets.code])
        negative[rows] = candidates[choice[rows]]
    return anchor, positive, negative


def count_by_value(labels: np.ndarray) -> int:
    """How many triplets `by_value` can draw."""
    counts = np.unique(labels, return_counts=True)[1].tolist()  # integers of Python do not overflow
    return sum(count * (count - 1) * (len(labels) - count) for count in counts)


def count_by_gap(values: np.ndarray, step: float) -> int:
    """How many triplets `by_gap` can draw; an estimate if there are many different values."""
    if step <= 0:
        return 0
    different, counts = np.unique(values, return_counts=True)
    anchors, weights = _sampled(counts)
    total = 0
    for anchor, weight in zip(anchors, weights, strict=True):
        gaps = np.abs(different - different[anchor])
        by_gap = np.argsort(gaps)
        at_least = np.append(np.cumsum(counts[by_gap][::-1])[::-1], 0)  # items at this gap or a larger one
        far = at_least[np.searchsorted(gaps[by_gap], gaps + step * (1 - 1e-9))]
        positives = counts - (np.arange(len(counts)) == anchor)
        total += weight * int(positives @ far)
    return round(total)


def count_by_members(labels: np.ndarray) -> int:
    """How many triplets `by_members` can draw; an estimate if there are many different sets."""
    if len(labels) == 0:
        return 0
    sets = sets_of(labels)
    anchors, weights = _sampled(sets.sizes)
    shared = [int(sets.sizes[sets.sharing(i)].sum()) for i in anchors]
    return round(sum(w * (n - 1) * (len(labels) - n) for w, n in zip(weights, shared, strict=True)))


def _sampled(counts: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """(positions of the different values or of SAMPLE of them, number of items that each stands for)."""
    if len(counts) <= SAMPLE:
        return np.arange(len(counts)), counts.tolist()
    ends = np.cumsum(counts)
    each = ends[-1] / SAMPLE
    return np.searchsorted(ends, (np.arange(SAMPLE) + 0.5) * each), [each] * SAMPLE
