"""95 % intervals of a ratio of sums over groups of dependent observations: the triplets of an anchor, a query, an item.

A bootstrap over groups needs many outcomes of each kind. With few of a kind, Wilson's interval takes its place.
`python experiments/coverage.py` measures how often the intervals hold the true value.
"""

import numpy as np

RESAMPLES = 1_000
DRAWN = 1 << 22  # counts drawn at a time, to bound memory
FEW = 50  # groups with a failure, or with a success: with fewer, a bootstrap's interval is too narrow
Z = 1.959964


def intervals(sums: np.ndarray, totals: np.ndarray, seed: int = 0, least: np.ndarray | float = 0.0) -> np.ndarray:
    """The 95 % interval of sum / total for each of M measures: float [M, 2]. `sums` [M, G] and `totals` [G] are the
    shares of each of G groups in numerators and denominator; a sum lies between `least`, a number or [G], and
    least + total. `seed` is that of the draws, which all measures share.

    Observations that depend on each other belong in one group, or the interval is too narrow.
    """
    above = sums - least  # [M, G], from 0 to totals
    share, few = above.sum(axis=1) / totals.sum(), _rarer(above, totals)
    least = np.broadcast_to(least, totals.shape) / totals.mean()
    doubt = Z * least.std() / np.sqrt(len(totals))  # of its mean
    low, high = _wilson(share, _worth(above, totals))
    low, high = share - np.hypot(share - low, doubt), share + np.hypot(high - share, doubt)
    scored = np.stack([low, high], axis=1) + least.mean()
    return scored if max(few) < FEW else np.where(few[:, None] < FEW, scored, _resampled(sums, totals, seed))


def interval_of_difference(sums: np.ndarray, totals: np.ndarray, seed: int = 0) -> np.ndarray:
    """The 95 % interval of sum / total: float [2]. `sums` [G] are differences between -total and total of a group, of
    two models on the same observations.

    With few groups that differ, gains and losses have an interval each. Newcombe (1998, method 10) joins them, as for
    paired proportions.
    """
    if np.count_nonzero(sums) >= FEW:
        return _resampled(sums[None], totals, seed)[0]
    parts = np.maximum([sums, -sums, np.abs(sums)], 0)  # [3, G]: gains, losses, and both
    gain, loss, _ = parts.sum(axis=1) / totals.sum()
    *worths, of_both = _worth(parts, totals)
    n = np.where([gain, loss], worths, of_both)  # if one of them never happened, the other shows how groups depend
    (gain_low, loss_low), (gain_high, loss_high) = _wilson(np.array([gain, loss]), n)
    alike = np.sqrt(gain * loss / max((1 - gain) * (1 - loss), 1e-12))  # minus their correlation

    def length(a: float, b: float) -> float:
        return np.sqrt(a * a + 2 * alike * a * b + b * b)

    ends = [-length(gain - gain_low, loss_high - loss), length(gain_high - gain, loss - loss_low)]
    return np.clip(gain - loss + ends, -1, 1)


def clearly_positive(gain: np.ndarray, group: np.ndarray) -> bool:
    """Whether the mean of gains [T] is above 0 by more than one standard error, over groups [T] of dependent ones."""
    _, number = np.unique(group, return_inverse=True)
    rest = np.bincount(number, gain) - np.bincount(number) * gain.mean()
    return bool(gain.sum() > np.sqrt(np.square(rest).sum()))


def _rarer(above: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """How many groups have a success, or how many a failure, if these are fewer: [M]."""
    slack = 1e-9 * totals  # of rounding
    return np.minimum((above > slack).sum(axis=1), (above < totals - slack).sum(axis=1))


def _worth(above: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """How many independent observations the groups are worth, for each of M measures: [M].

    That is the total over the design effect, how many times the variance is that of independent observations (Kish).
    The fewer groups it is estimated from, the more it is raised, up to that of groups which are alike throughout.
    """
    n_groups, total = len(totals), totals.sum()
    share = above.sum(axis=1) / total
    rest = above - share[:, None] * totals
    variance = np.square(rest).sum(axis=1) / total**2 * n_groups / max(n_groups - 1, 1)
    independent = share * (1 - share) / total
    most = np.square(totals).sum() / total
    known = (variance > 1e-12 / total) & (independent > 1e-12 / total)
    effect = np.where(known, variance / np.where(known, independent, 1), most)
    raised = effect * (1 + 2 / np.maximum(_rarer(above, totals), 1))
    return total / np.minimum(raised, np.maximum(most, effect))


def _wilson(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends [M] of Wilson's intervals of shares [M] of n independent observations each."""
    middle = share + Z * Z / (2 * n)
    half = Z * np.sqrt(np.maximum(share * (1 - share), 0) / n + Z * Z / (4 * n * n))
    low, high = (middle - half) / (1 + Z * Z / n), (middle + half) / (1 + Z * Z / n)
    return np.clip(low, 0, share), np.clip(high, share, 1)


def _resampled(sums: np.ndarray, totals: np.ndarray, seed: int) -> np.ndarray:
    """Intervals [M, 2] by a bootstrap: G groups are drawn with replacement 1,000 times; the interval is from percentile
    2.5 to 97.5 of the 1,000 ratios."""
    # Groups with the same outcome are interchangeable: a draw is the number of each kind.
    kinds, times = np.unique(np.vstack([sums, totals]), axis=1, return_counts=True)  # [M + 1, kinds], [kinds]
    rng, drawn = np.random.default_rng(seed), []
    at_once = max(1, DRAWN // len(times))
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn.append(rng.multinomial(times.sum(), times / times.sum(), size=size) @ kinds.T)
    drawn = np.concatenate(drawn).T  # [M + 1, RESAMPLES]
    return np.percentile(drawn[:-1] / drawn[-1], [2.5, 97.5], axis=1).T
