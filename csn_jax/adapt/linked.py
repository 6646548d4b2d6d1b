"""What answers on screens say together: items that one screen calls alike are also alike those of another screen."""

import numpy as np

from csn_jax.data.duplicates import components
from csn_jax.data.triplets import Triplets

CONTRADICTED = 0.05  # share of unlike pairs that links call alike, above which answers are learned from as they are


def linked(triplets: Triplets) -> Triplets:
    """As many triplets as given, drawn from the groups that the given ones [T] make of their items.

    Pairs of anchor and positive that are given both ways are alike, and join groups. Groups are unlike if an anchor of
    one has a negative in the other. Each item of a group is as often the anchor, with a positive of its group and a
    negative of the groups unlike it. A few wrong answers join most groups; the triplets are then returned as they are.
    """
    anchor, positive, negative = (role.astype(np.int64) for role in triplets[:3])
    n = int(max(role.max() for role in triplets[:3])) + 1
    forth, back = anchor * n + positive, positive * n + anchor
    mutual = np.isin(forth, back)
    pairs = np.stack([anchor, positive], axis=1)[mutual]
    if not len(pairs):
        return triplets
    root = components(n, pairs)
    near, far = root[anchor[mutual]], root[negative[mutual]]
    if np.mean(near == far) > CONTRADICTED:
        return triplets
    unlike = np.unique(np.concatenate([near * n + far, far * n + near])[np.tile(near != far, 2)])
    members = {group: np.flatnonzero(root == group) for group in np.unique(root[np.concatenate(triplets[:3])])}
    rng, count = np.random.default_rng(0), len(anchor)
    joined = [group for group in np.unique(near) if (unlike // n == group).any()]
    share = np.array([len(members[group]) for group in joined]) / sum(len(members[group]) for group in joined)
    parts = []
    for group, draws in zip(joined, rng.multinomial(count, share), strict=True):
        own, size = members[group], len(members[group])
        others = np.concatenate([members[other] for other in unlike[unlike // n == group] % n])
        first = rng.integers(size, size=draws)
        second = (first + rng.integers(1, size, size=draws)) % size
        parts.append((own[first], own[second], others[rng.integers(len(others), size=draws)]))
    order = rng.permutation(count)
    roles = (np.concatenate(role)[order].astype(np.int32) for role in zip(*parts, strict=True))
    return Triplets(*roles, np.zeros(count, np.int32))
