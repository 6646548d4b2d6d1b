"""(seed, step) -> the triplets of a batch. No iterator, no state: resuming at a step is asking for that step."""

from functools import lru_cache

import numpy as np


def steps_per_epoch(n_triplets: int, batch_size: int) -> int:
    """Every triplet once; the short last batch counts as a step."""
    return -(-n_triplets // batch_size)


def batch_rows(seed: int, step: int, n_triplets: int, batch_size: int) -> np.ndarray:
    """Positions of the triplets in the batch of a step counted from 0: int64 [B], fewer at the end of an epoch."""
    epoch, i = divmod(step, steps_per_epoch(n_triplets, batch_size))
    return _permutation(seed, epoch, n_triplets)[i * batch_size : (i + 1) * batch_size]


@lru_cache(maxsize=2)  # a prefetching feed asks for the next epoch while this one ends
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)
