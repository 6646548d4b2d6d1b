"""ItemSet: the one form in which training reads data, whatever its source."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from csn_jax.config import DataConfig, did_you_mean
from csn_jax.errors import UserError

SPLITS = ("train", "validation", "test")


class Condition(NamedTuple):
    """A notion of similarity. Kind `categorical`: two items are alike when their values are equal."""

    name: str
    kind: str


class Rows(NamedTuple):
    """What a source gives: N items before conditions are chosen and splits are made.

    inputs: [N, H, W, ch] uint8, perhaps memory-mapped.
    ids: [N] str, unique.
    labels: {column: [N] str}, with the columns that are no condition too; the empty string is a missing value.
    conditions: all that could be learned.
    split: [N] str where the source has its own, else None.
    """

    inputs: np.ndarray
    ids: np.ndarray
    labels: dict[str, np.ndarray]
    conditions: tuple[Condition, ...]
    split: np.ndarray | None


@dataclass(frozen=True)
class ItemSet:
    """N items with their labels.

    inputs: [N, H, W, ch] uint8, perhaps memory-mapped.
    ids: [N] str, unique.
    labels: {column: [N] str}, conditions and others; the empty string is a missing value.
    split: [N] str, one of SPLITS.
    conditions: in the order of the masks' rows.
    notions: all that could be learned, with their kinds; a label column that is none of them is categorical.
    """

    inputs: np.ndarray
    ids: np.ndarray
    labels: dict[str, np.ndarray]
    split: np.ndarray
    conditions: tuple[Condition, ...]
    notions: tuple[Condition, ...] = ()

    def digest(self) -> str:
        """SHA-256 over everything that training and evaluation read, in hex."""
        hasher = hashlib.sha256()
        for start in range(0, len(self.inputs), 4096):  # in pieces: a memory map may be larger than RAM
            hasher.update(np.ascontiguousarray(self.inputs[start : start + 4096]))
        hasher.update(repr((self.inputs.shape, self.inputs.dtype.str, self.conditions)).encode())
        for column in (self.ids, self.split, *(self.labels[c.name] for c in self.conditions)):
            hasher.update("\x00".join(column.tolist()).encode("utf-8", "surrogatepass") + b"\x01")
        return hasher.hexdigest()


def make_items(rows: Rows, data: DataConfig) -> ItemSet:
    """Choose conditions and give every item its split.

    Raises:
        UserError: for a condition or a column to split by that the source does not have.
    """
    if data.split_by and data.split_by not in rows.labels:
        raise UserError(
            f"config.data.split_by names {data.split_by!r}{did_you_mean(data.split_by, rows.labels)}; "
            f"this source has {', '.join(rows.labels)}."
        )
    split = rows.split
    if split is None:
        split = split_items(len(rows.ids), rows.labels[data.split_by] if data.split_by else None, data.seed)
    conditions = choose_conditions(rows.conditions, data.conditions)
    return ItemSet(rows.inputs, rows.ids, rows.labels, split, conditions, rows.conditions)


def choose_conditions(available: tuple[Condition, ...], wanted: tuple[str, ...]) -> tuple[Condition, ...]:
    """The wanted conditions in the wanted order; all of them when none is named."""
    by_name = {condition.name: condition for condition in available}
    for name in wanted:
        if name not in by_name:
            raise UserError(f"config.data.conditions names {name!r}; this source has {', '.join(by_name)}.")
    if len(set(wanted)) < len(wanted):
        raise UserError(f"config.data.conditions names a condition twice: {' '.join(wanted)}; name each once.")
    return tuple(by_name[name] for name in wanted) or available


def split_items(n_items: int, unit: np.ndarray | None, seed: int) -> np.ndarray:
    """Give each item its split, 70 / 10 / 20 %.

    Args:
        n_items: N.
        unit: [N] labels whose equal values must share a split, or None to split single items.
        seed: seeds the permutation.

    Returns:
        [N] str.
    """
    values, group = (np.arange(n_items),) * 2 if unit is None else np.unique(unit, return_inverse=True)
    n = len(values)
    order = np.random.default_rng(seed).permutation(n)
    # In whole numbers, as 0.7 + 0.1 falls short of 0.8. Three values or more leave no split empty.
    train = max(0, min(7 * n // 10, n - 2))
    cuts = [train, max(8 * n // 10, train + 1)]
    of_value = np.empty(n, dtype="<U10")
    for name, members in zip(SPLITS, np.split(order, cuts), strict=True):
        of_value[members] = name
    return of_value[group]
