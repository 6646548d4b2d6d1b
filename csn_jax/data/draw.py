"""How triplets are drawn from the labels of one condition, and how many there could be.

All functions work on the labels of K items that have one, and answer in positions among these.
"""

from typing import NamedTuple

import numpy as np

SAMPLE = 300  # anchors by which possible triplets are estimated, where counting them all would take long

Roles = tuple[np.ndarray, np.ndarray, np.ndarray]  # anchor, positive, negative: int64 [T] each


def by_value(labels: np.ndarray, n: int, rng: np.random.Generator) -> Roles | None:
    """Same or different: a value drawn uniformly among those with two items or more, so that a giant class does not
    own the triplets; then two different items of it, and a negative uniformly among the items of other values.

    Returns:
        n triplets; None when there is none.
    """
    order = np.argsort(labels, kind="stable")  # items, those of one value side by side
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
    other += np.where(other >= start, count, 0)  # step over the anchor's own value
    return order[start + first], order[start + second], order[other]


def by_gap(values: np.ndarray, step: float, bins: np.ndarray, n: int, rng: np.random.Generator) -> Roles | None:
    """Closer or further: the negative's gap to the anchor exceeds the positive's by `step` at least.

    A bin is drawn uniformly among those with a possible anchor, then the anchor in it, then the positive uniformly
    among the items near enough to leave room for a negative, then the negative among those that are far enough.

    Args:
        values: [K] numbers.
        step: 0 where all values are equal, which allows no triplet.
        bins: [K] int, growing with the values.

    Returns:
        n triplets; None when there is none.
    """
    if len(values) < 3 or step <= 0:
        return None
    order = np.argsort(values, kind="stable")
    v = values[order] - values[order[0]]  # from 0, where rounding is finest
    # A hair less than the step, as rounding may take one; less still for the negative, so that there always is one.
    room = np.maximum(v[-1] - v, v) - step * (1 - 5e-10)  # the largest gap of a positive
    low, high = np.searchsorted(v, v - room, "left"), np.searchsorted(v, v + room, "right")
    n_positive = np.where(room >= 0, high - low - 1, 0)  # the anchor itself lies between
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


class _Sets(NamedTuple):
    """The different sets among K labels, and the items and sets of every member."""

    of: np.ndarray  # [K] the set of an item
    members: list[np.ndarray]  # of each set
    sets: list[np.ndarray]  # of each member
    sizes: np.ndarray  # items of each set

    def sharing(self, one: int) -> np.ndarray:
        """Which sets share a member with a set, itself among them: bool [U]."""
        shares = np.zeros(len(self.members), bool)
        for member in self.members[one]:
            shares[self.sets[member]] = True
        return shares


def _sets_of(labels: np.ndarray) -> _Sets:
    texts, of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    names = [text.split(";") for text in texts.tolist()]
    number = {name: i for i, name in enumerate(sorted({name for those in names for name in those}))}
    members = [np.array([number[name] for name in those]) for those in names]
    sets = [[] for _ in number]
    for i, those in enumerate(members):
        for member in those:
            sets[member].append(i)
    return _Sets(of, members, [np.array(those) for those in sets], sizes)


def by_members(labels: np.ndarray, n: int, rng: np.random.Generator) -> Roles | None:
    """Shares a member or shares none: a member drawn uniformly among those with two items, then two different items
    that have it, and a negative uniformly among the items that share no member with the anchor.

    Args:
        labels: [K] members between `;`.

    Returns:
        n triplets; None when there is none.
    """
    if len(labels) < 3:
        return None
    sets = _sets_of(labels)
    n_strangers = np.array([len(labels) - sets.sizes[sets.sharing(i)].sum() for i in range(len(sets.members))])
    # Items of each member side by side, those first that can be anchors.
    lengths = np.array([len(those) for those in sets.members])
    item = np.repeat(np.arange(len(labels)), lengths[sets.of])
    member = np.concatenate([sets.members[i] for i in sets.of])
    can_anchor = n_strangers[sets.of[item]] > 0
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
    place = rng.integers(n_strangers[sets.of[anchor]])  # among the strangers of the anchor's set
    negative = np.empty(n, np.int64)
    by_set = np.argsort(sets.of[anchor], kind="stable")
    for rows in np.split(by_set, np.flatnonzero(np.diff(sets.of[anchor[by_set]])) + 1):
        strangers = np.flatnonzero(~sets.sharing(sets.of[anchor[rows[0]]])[sets.of])
        negative[rows] = strangers[place[rows]]
    return anchor, positive, negative


def count_by_value(labels: np.ndarray) -> int:
    """How many triplets `by_value` can draw."""
    counts = np.unique(labels, return_counts=True)[1].tolist()  # Python's integers do not overflow
    return sum(count * (count - 1) * (len(labels) - count) for count in counts)


def count_by_gap(values: np.ndarray, step: float) -> int:
    """About how many triplets `by_gap` can draw; exact for few different values."""
    if step <= 0:
        return 0
    different, counts = np.unique(values, return_counts=True)
    anchors, weights = _sampled(counts)
    total = 0
    for anchor, weight in zip(anchors, weights, strict=True):
        gaps = np.abs(different - different[anchor])
        by_gap = np.argsort(gaps)
        at_least = np.append(np.cumsum(counts[by_gap][::-1])[::-1], 0)  # items at that gap or a larger one
        far = at_least[np.searchsorted(gaps[by_gap], gaps + step * (1 - 1e-9))]
        positives = counts - (np.arange(len(counts)) == anchor)
        total += weight * int(positives @ far)
    return round(total)


def count_by_members(labels: np.ndarray) -> int:
    """About how many triplets `by_members` can draw, each once; exact for few different sets."""
    if len(labels) == 0:
        return 0
    sets = _sets_of(labels)
    anchors, weights = _sampled(sets.sizes)
    shared = [int(sets.sizes[sets.sharing(i)].sum()) for i in anchors]
    return round(sum(w * (n - 1) * (len(labels) - n) for w, n in zip(weights, shared, strict=True)))


def _sampled(counts: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """(some of the different values, how many items each stands for): all of them, or as many as SAMPLE."""
    if len(counts) <= SAMPLE:
        return np.arange(len(counts)), counts.tolist()
    ends = np.cumsum(counts)
    each = ends[-1] / SAMPLE
    return np.searchsorted(ends, (np.arange(SAMPLE) + 0.5) * each), [each] * SAMPLE
