"""The triplets or labelled items of a batch as a function of (seed, step). It has no state, so a run can resume at any
step."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from csn_jax.data.item_set import ItemSet
from csn_jax.errors import UserError

PER_VALUE = 4  # items drawn per value if the batch is large enough
LEAST = 4  # items of a batch per condition: two of each of two values


def steps_per_epoch(n_examples: int, batch_size: int) -> int:
    """Steps that take each triplet once (with an in-batch loss: as many items as there are). The last may be short."""
    return -(-n_examples // batch_size)


def batch_rows(seed: int, step: int, n_triplets: int, batch_size: int) -> np.ndarray:
    """Positions of the triplets of a step counted from 0: int64 [B], fewer at the end of an epoch."""
    epoch, i = divmod(step, steps_per_epoch(n_triplets, batch_size))
    return _permutation(seed, epoch, n_triplets)[i * batch_size : (i + 1) * batch_size]


@lru_cache(maxsize=2)  # a prefetching feed reads the next epoch while this one ends
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


class Group(NamedTuple):
    """The labelled training items of one condition, sorted by value.

    Items whose value is unique form one group: they have no positives, but are good negatives.
    """

    items: np.ndarray  # [M] int64, positions in the ItemSet
    starts: np.ndarray  # [V] where the items of a value begin
    counts: np.ndarray  # [V] their number


class Labelled(NamedTuple):
    """What batches of labelled items are drawn from."""

    codes: np.ndarray  # [N, C] int32: equal for equal values of a condition, -1 where it is missing
    pool: np.ndarray  # [M] int64: the training items that have a label in any condition, ascending
    groups: tuple[Group, ...]  # one per condition


def check_labelled(items: ItemSet, batch_size: int) -> None:
    """Refuse, with a UserError, a condition that is not categorical, and a batch that is too small or too large."""
    for condition in items.conditions:
        if condition.kind != "categorical":
            raise UserError(
                f"condition {condition.name!r} is {condition.kind} and config.loss.name needs categorical conditions; "
                "use --config.loss.name=triplet, or name only categorical conditions in config.data.conditions."
            )
    least, most = LEAST * len(items.conditions), len(label_items(items).pool)
    if not least <= batch_size <= most:
        raise UserError(
            f"config.batch_size is {batch_size}, and a batch holds at least {LEAST} items for each of the "
            f"{len(items.conditions)} conditions and at most the {most} labelled items of the train split; give a "
            f"number from {least} to {most}."
        )


def label_items(items: ItemSet) -> Labelled:
    """Index the labels of the training split, to draw batches from."""
    columns = [items.labels[condition.name] for condition in items.conditions]
    codes = np.stack([np.unique(column, return_inverse=True)[1] for column in columns], axis=1)
    codes = np.where(np.stack(columns, axis=1) == "", -1, codes).astype(np.int32)
    training = items.split == "train"
    groups = []
    for code in codes.T:
        known = np.flatnonzero(training & (code >= 0))
        value = code[known]
        value[np.bincount(value)[value] == 1] = len(code)
        order = np.argsort(value, kind="stable")
        _, starts, counts = np.unique(value[order], return_index=True, return_counts=True)
        groups.append(Group(known[order], starts, counts))
    return Labelled(codes, np.flatnonzero(training & (codes >= 0).any(axis=1)), tuple(groups))


def labelled_rows(seed: int, step: int, labelled: Labelled, batch_size: int) -> np.ndarray:
    """Positions of the items in the batch of a step counted from 0: int64 [B], all different, ascending.

    Each condition draws an equal part. It draws several values with equal chances, so that a large class does not fill
    the batch, then several items of each, so that there are positives. Values may have too few items, and conditions
    may draw the same item: other labelled items fill the batch.
    """
    rng = np.random.default_rng((seed, step))
    parts = np.array_split(np.arange(batch_size), len(labelled.groups))
    drawn = [_draw(group, len(part), rng) for group, part in zip(labelled.groups, parts, strict=True)]
    rows = np.unique(np.concatenate(drawn))
    free = np.ones(len(labelled.pool), bool)
    free[np.searchsorted(labelled.pool, rows)] = False
    more = rng.choice(labelled.pool[free], batch_size - len(rows), replace=False)
    return np.sort(np.concatenate([rows, more]))


def _draw(group: Group, size: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `size` different items of one condition, evenly from several of its values."""
    n_values = min(len(group.counts), max(2, size // PER_VALUE))
    values = rng.choice(len(group.counts), n_values, replace=False)
    each = size // n_values
    count = group.counts[values]
    # Floyd's algorithm for all values at once: `each` different numbers below `count`. Number k is drawn from those up
    # to `newest`, and is `newest` itself if the draw was taken before. If count < each, the first numbers are void.
    chosen = np.full((each, n_values), -1)
    for k in range(each):
        newest = count - each + k
        draw = rng.integers(np.maximum(newest + 1, 1))
        taken = (chosen[:k] == draw[None]).any(axis=0)
        chosen[k] = np.where(newest < 0, -1, np.where(taken, newest, draw))
    return group.items[group.starts[values] + chosen][chosen >= 0]
