"""The triplets or labelled items of a batch as a function of (seed, step). It has no state, so a run can resume at any
step."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from csn_jax.core.label_codes import UNITS, n_words
from csn_jax.data.item_set import ItemSet
from csn_jax.data.triplets import Scale, scale_of, sets_of
from csn_jax.errors import UserError
from csn_jax.runtime.record import NUMBERS

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
    """The labelled training items of one condition, sorted by value: of sets by member, of numbers by part of the scale
    (data.triplets.Scale). An item of a set comes once for each of its members.

    Items whose value is unique form one group: they have no positives, but are good negatives.
    """

    items: np.ndarray  # [M] int64, positions in the ItemSet
    starts: np.ndarray  # [V] where the items of a value begin
    counts: np.ndarray  # [V] their number


class Labelled(NamedTuple):
    """What batches of labelled items are drawn from."""

    codes: (
        np.ndarray
    )  # [N, C] int32, as in core.label_codes; -1 where a label is missing; of sets, the number of the set
    pool: np.ndarray  # [M] int64: the training items that have a label in any condition, ascending
    groups: tuple[Group, ...]  # one per condition
    members: dict[int, list[np.ndarray]]  # of the conditions of sets: the members of each set, as numbers


def check_labelled(items: ItemSet, batch_size: int) -> None:
    """Refuse, with a UserError, a batch that is too small or too large."""
    least, most = LEAST * len(items.conditions), len(label_items(items).pool)
    if not least <= batch_size <= most:
        raise UserError(
            f"config.batch_size is {batch_size}, and a batch holds at least {LEAST} items for each of the "
            f"{len(items.conditions)} conditions and at most the {most} labelled items of the train split; give a "
            f"number from {least} to {most}."
        )


def label_items(items: ItemSet) -> Labelled:
    """Index the labels of the training split, to draw batches from."""
    training, columns, groups, members = items.split == "train", [], [], {}
    for row, (name, kind) in enumerate(items.conditions):
        labels = items.labels[name]
        rows = np.flatnonzero(labels != "")
        code = np.full(len(labels), -1, np.int32)
        if kind == "set":
            sets = sets_of(labels[rows])
            code[rows], members[row] = sets.code, sets.members
            lengths = np.array([len(part) for part in sets.members], int)[sets.code]
            rows, value = np.repeat(rows, lengths), np.array([m for i in sets.code for m in sets.members[i]], int)
        elif kind in NUMBERS:
            scale = scale_of(labels, kind)
            code[rows], value = _gap_codes(scale, kind)[rows], scale.bins[rows]
        else:
            code[rows] = value = np.unique(labels, return_inverse=True)[1][rows]
        columns.append(code)
        groups.append(_group(rows[training[rows]], value[training[rows]]))
    codes = np.stack(columns, axis=1)
    return Labelled(codes, np.flatnonzero(training & (codes >= 0).any(axis=1)), tuple(groups), members)


def _gap_codes(scale: Scale, kind: str) -> np.ndarray:
    """Numbers as whole numbers from 0, whose gaps core.label_codes compares: int32 [N], 0 where a value is missing."""
    if kind == "ordinal":
        return np.nan_to_num(scale.values).astype(np.int32)
    steps = (scale.values - np.nanmin(scale.values)) / scale.step if scale.step > 0 else np.zeros(len(scale.values))
    return np.rint(np.nan_to_num(steps) * UNITS).astype(np.int32)


def _group(items: np.ndarray, value: np.ndarray) -> Group:
    """Items [M] by their value [M], the unique ones together."""
    frequency = np.bincount(value)
    value = np.where(frequency[value] == 1, len(frequency), value)
    order = np.argsort(value, kind="stable")
    _, starts, counts = np.unique(value[order], return_index=True, return_counts=True)
    return Group(items[order], starts, counts)


def labels_at(labelled: Labelled, rows: np.ndarray) -> np.ndarray:
    """The labels of a batch of items [B]: int32 [B, W], as in core.label_codes."""
    codes = labelled.codes[rows]
    words = [_words(codes[:, row], members) for row, members in labelled.members.items()]
    return np.concatenate([codes, *words], axis=1)


def _words(code: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
    """Which items of sets [B] share a member, in bits: int32 [B, n_words(B)]."""
    known = np.flatnonzero(code >= 0)
    words = np.zeros((len(code), n_words(len(code))), np.int32)
    if len(known) == 0:
        return words
    parts = [members[i] for i in code[known]]
    lengths = np.array([len(part) for part in parts])
    different, member = np.unique(np.concatenate(parts), return_inverse=True)
    has = np.zeros((len(different), 32 * words.shape[1]), bool)
    has[member, np.repeat(known, lengths)] = True
    of_member = np.packbits(has, axis=1, bitorder="little").view("<i4")  # [U, n_words]
    words[known] = np.bitwise_or.reduceat(of_member[member], np.cumsum(lengths) - lengths, axis=0)
    return words


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
