"""The verdict on a condition: whether a run is worth having for it, in one sentence with figures.

The simplest rung that is as good as the best one wins. Rungs are compared on the same triplets.
"""

from typing import NamedTuple

import numpy as np

from csn_jax.evaluate.bootstrap import interval_of_difference
from csn_jax.evaluate.triplet_error import interval

FEW = 30  # test items as anchors: with fewer, intervals themselves are a guess
SAME = 1e-3  # the share of triplets that rounding may turn
WORTH = 0.03  # an error that may be lower by more is not settled by calling two rungs equal
CHANCE = 0.5
NEARLY = 0.03  # below chance by less: of no use, whatever its interval
# Half-widths of its interval that the best rung lies below chance. One is not enough, and lets noise pass: it is the
# best of five, and items come back as positives and negatives of other anchors.
SURE = 2.5
COULD = 0.1  # below chance by more, as far as the interval says: the test is too small to rule the condition out
FILTER = 0.99  # of test items whose label a probe predicts right
OF_RARE = 0.1  # and of those that have not the most frequent label, the share that may be wrong
# From the simplest on. Each with its name, and what to do if it is as good as any.
REMEDIES = {
    "cosine": "search the {raw} as they are",
    "euclidean": "search the {raw} as they are",
    "prototypes": "compare items by their cosines to the mean of four examples of each value",
    "linear_probe": "a ridge regression to its labels is enough, unless you mix conditions in one search",
}
NAMES = {
    "cosine": "raw cosine",
    "euclidean": "raw Euclidean distance",
    "prototypes": "four examples per value",
    "linear_probe": "a linear probe",
    "run": "this run",
}
PLURAL = ("prototypes",)


class Difference(NamedTuple):
    """How much higher an error is than another on the same triplets, with its 95 % interval."""

    value: float
    low: float
    high: float


def difference(wrong: np.ndarray, other: np.ndarray, anchor: np.ndarray) -> Difference:
    """The error of the triplets `wrong` minus that of `other`, bool [T] each. Triplets of one anchor [T] depend on each
    other. No doubt is left if they are the same but for rounding, as for a run that keeps a condition's raw vectors."""
    more = wrong.astype(float) - other
    if np.count_nonzero(more) <= SAME * len(more):
        return Difference(float(more.mean()), min(float(more.mean()), 0.0), max(float(more.mean()), 0.0))
    _, group = np.unique(anchor, return_inverse=True)
    low, high = interval_of_difference(np.bincount(group, weights=more), np.bincount(group))
    return Difference(float(more.mean()), float(low), float(high))


def verdict(
    wrong: dict[str, np.ndarray],
    ahead: dict[str, Difference],
    anchor: np.ndarray,
    predicted: tuple[float, float] | None = None,
    raw: str = "vectors",
) -> str:
    """One sentence on a condition.

    - Too few items to say: fewer than 30 anchors, or a difference that may be 0 or above 3 points.
    - Nothing here carries it: no rung is below guessing, or all are nearly there.
    - Raw cosine (or Euclidean distance) does as well: it is not worse than the best rung.
    - A filter on the column will do: a probe predicts 99 % of the test items, and nine of ten of those without the most
      frequent label.
    - Use it: the run is better than every other rung; the interval of each paired difference excludes 0.
    - Four examples per value, or a linear probe, does as well: the simpler one that is not worse than the best.

    Args:
        wrong: {rung: bool [T]}, which triplets are wrong; `run` among the rungs, one without a figure left out.
        ahead: {rung: its difference to the run}, of all others.
        anchor: [T], the triplets' anchors.
        predicted: as of `baselines.predicted`; None if there is no such probe.
        raw: what the raw rungs measure: `vectors`, or the network's `features`.
    """
    errors = {rung: float(outcomes.mean()) for rung, outcomes in wrong.items()}
    best = min(errors, key=errors.get)
    n = len(np.unique(anchor))
    if n < FEW:
        return f"Too few items to say: the anchors of the test triplets are {n}, and it takes {FEW}; give more items."
    low, high = interval(wrong[best], anchor)
    if errors[best] + SURE * (high - errors[best]) >= CHANCE or errors[best] > CHANCE - NEARLY:
        if low < CHANCE - COULD:
            return (
                f"Too few items to say: with {n:,} test anchors the error of {NAMES[best]} is between {low:.1%} and "
                f"{high:.1%}, where guessing has 50%; give more items."
            )
        return (
            f"Nothing here carries it: the best, {NAMES[best]}, has {errors[best]:.1%} error where guessing has 50%; "
            f"drop the condition, or bring {'vectors' if raw == 'vectors' else 'pictures'} that show it."
        )
    found, behind = _simplest(wrong, ahead, anchor, best)
    rivals = {"run": ahead[found], best: behind} if found != "run" else {}
    rival = max((name for name in rivals if name != found), key=lambda name: rivals[name].high, default="")
    settled = not rival or rivals[rival].high <= WORTH
    if found in ("cosine", "euclidean") and settled:
        return _as_well(found, errors, ahead[found], raw)
    if predicted and predicted[0] >= FILTER and 1 - predicted[0] <= OF_RARE * (1 - predicted[1]):
        return (
            f"A filter on the column will do: a linear probe is right for {predicted[0]:.1%} of the test items; "
            "filter by it, and fill unknown values with the probe."
        )
    if found == "run":
        after = min(ahead, key=errors.get)
        return (
            f"Use it: {errors['run']:.1%} error, and the next, {NAMES[after]}, has {_points(ahead[after])} points more."
        )
    if not settled:
        return (
            f"Too few items to say: {NAMES[found]} has {errors[found]:.1%} error and {NAMES[rival]} "
            f"{errors[rival]:.1%}, with {n:,} test anchors a difference of {_points(rivals[rival])} points; give more "
            "items."
        )
    return _as_well(found, errors, ahead[found], raw)


def _simplest(
    wrong: dict[str, np.ndarray], ahead: dict[str, Difference], anchor: np.ndarray, best: str
) -> tuple[str, Difference]:
    """The simplest rung that is not worse than the best one, and its difference to that. It is the run only where the
    run is better than all others."""
    for rung in REMEDIES:
        if rung in wrong:
            behind = ahead[rung] if best == "run" else difference(wrong[rung], wrong[best], anchor)
            if behind.low <= 0:
                return rung, behind
    return "run", Difference(0.0, 0.0, 0.0)


def _as_well(found: str, errors: dict[str, float], ahead: Difference, raw: str) -> str:
    name = NAMES[found][0].upper() + NAMES[found][1:]
    does = "do" if found in PLURAL else "does"
    how = "better" if ahead.high < 0 else "as well"
    return (
        f"{name} {does} {how}: {errors[found]:.1%} error and this run {errors['run']:.1%}, a difference of "
        f"{_points(ahead)} points; {REMEDIES[found].format(raw=raw)}."
    )


def _points(one: Difference) -> str:
    """`3.1 (2.4 to 3.8)`."""
    value, low, high = (round(100 * part, 1) + 0.0 for part in one)  # no -0.0
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
