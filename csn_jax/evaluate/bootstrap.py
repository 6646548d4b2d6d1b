"""95 % intervals of a ratio of sums, by a bootstrap over whole groups: the triplets of an anchor, a query, an item."""

import numpy as np

RESAMPLES = 1_000
DRAWN = 1 << 22  # counts drawn at a time, to bound memory


def intervals(sums: np.ndarray, totals: np.ndarray, seed: int = 0) -> np.ndarray:
    """The 95 % interval of sum / total for each of M measures: float [M, 2]. `sums` [M, G] and `totals` [G] are the
    shares of each of G groups in numerators and denominator; `seed` is that of the draws, which all measures share.

    G groups are drawn with replacement 1,000 times; the interval is from percentile 2.5 to 97.5 of the 1,000 ratios.
    Observations that depend on each other belong in one group, or the interval is too narrow.
    """
    # Groups with the same outcome are interchangeable: a draw is the number of each kind.
    kinds, times = np.unique(np.vstack([sums, totals]), axis=1, return_counts=True)  # [M + 1, kinds], [kinds]
    rng, drawn = np.random.default_rng(seed), []
    at_once = max(1, DRAWN // len(times))
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn.append(rng.multinomial(times.sum(), times / times.sum(), size=size) @ kinds.T)
    drawn = np.concatenate(drawn).T  # [M + 1, RESAMPLES]
    return np.percentile(drawn[:-1] / drawn[-1], [2.5, 97.5], axis=1).T
