"""ItemSet: the one form in which training reads data, whatever its source."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from csn_jax.config import DataConfig
from csn_jax.data.duplicates import components
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition, check_name
from csn_jax.text import did_you_mean

SPLITS = ("train", "validation", "test")


class Pictures(NamedTuple):
    """Where picture files lie.

    where: as a vector file says it: `kind` folder or table, `root`, and for a table whose ids are not the pictures'
        names `image`, the column of these names.
    names: [N] str, that column.
    """

    where: dict[str, str]
    names: np.ndarray | None = None


class Rows(NamedTuple):
    """What a source gives: N items before conditions are chosen and splits are made.

    inputs: [N, H, W, ch] uint8, perhaps memory-mapped.
    ids: [N] str, unique.
    labels: {column: [N] str}, with the columns that are no condition too; the empty string is a missing value.
    conditions: all that could be learned.
    split: [N] str where the source has its own, else None.
    together: [N] int where some items must share a split: for each the position of one of them, alike for all; or None.
    notes: what the user should know of the data before training, a line each.
    others: the label columns that are no condition unless the user names them, as far as their kinds are known.
    ink: whether pixels are amounts of ink, light on black, as of a character that the source draws.
    pictures: where the items' picture files lie, or None where the source has none.
    """

    inputs: np.ndarray
    ids: np.ndarray
    labels: dict[str, np.ndarray]
    conditions: tuple[Condition, ...]
    split: np.ndarray | None
    together: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    others: tuple[Condition, ...] = ()
    ink: bool = False
    pictures: Pictures | None = None


@dataclass(frozen=True)
class ItemSet:
    """N items with their labels.

    inputs: [N, H, W, ch] uint8, perhaps memory-mapped.
    ids: [N] str, unique.
    labels: {column: [N] str}, conditions and others; the empty string is a missing value. A condition of kind
        `triplets` may have none.
    split: [N] str, one of SPLITS.
    conditions: in the order of the masks' rows.
    attributes: kinds of the label columns, conditions or not; one that is not among them is categorical.
    ink, pictures: as in Rows.
    """

    inputs: np.ndarray
    ids: np.ndarray
    labels: dict[str, np.ndarray]
    split: np.ndarray
    conditions: tuple[Condition, ...]
    attributes: tuple[Condition, ...] = ()
    ink: bool = False
    pictures: Pictures | None = None

    def digest(self) -> str:
        """SHA-256 over everything that training and the triplet error read, in hex. Labels that are no condition, of
        which `evaluate --full` tells, are no part of it."""
        hasher = hashlib.sha256()
        for start in range(0, len(self.inputs), 4096):  # in pieces: a memory map may be larger than RAM
            hasher.update(np.ascontiguousarray(self.inputs[start : start + 4096]))
        hasher.update(repr((self.inputs.shape, self.inputs.dtype.str, self.conditions)).encode())
        labels = [self.labels[c.name] for c in self.conditions if c.name in self.labels]
        for column in (self.ids, self.split, *labels):
            hasher.update("\x00".join(column.tolist()).encode("utf-8", "surrogatepass") + b"\x01")
        return hasher.hexdigest()


def make_items(rows: Rows, data: DataConfig) -> ItemSet:
    """Choose conditions and give every item its split.

    Raises:
        UserError: for a condition or a column to split by that the source does not have, or a condition that tells
            nothing apart.
    """
    conditions = choose_conditions(rows.conditions, data.conditions)
    check_values(rows.labels, conditions)
    attributes = (*rows.conditions, *rows.others)
    split = split_rows(rows, data)[0]
    return ItemSet(rows.inputs, rows.ids, rows.labels, split, conditions, attributes, rows.ink, rows.pictures)


def choose_conditions(available: tuple[Condition, ...], wanted: tuple[str, ...]) -> tuple[Condition, ...]:
    """The wanted conditions in the wanted order; all of them when none is named.

    Raises:
        UserError: for an unknown or repeated name, and for one that cannot name a picture and a folder.
    """
    by_name = {condition.name: condition for condition in available}
    for name in wanted:
        if name not in by_name:
            near = did_you_mean(name, by_name)
            raise UserError(f"config.data.conditions names {name!r}{near}; this source has {', '.join(by_name)}.")
    if len(set(wanted)) < len(wanted):
        raise UserError(f"config.data.conditions names a condition twice: {' '.join(wanted)}; name each once.")
    chosen = tuple(by_name[name] for name in wanted) or available
    for name, _ in chosen:
        check_name(name)
    return chosen


def check_values(labels: dict[str, np.ndarray], conditions: tuple[Condition, ...]) -> None:
    """Whether the labelled conditions have two values or more.

    Raises:
        UserError: naming a condition with fewer, and its value.
    """
    for name, kind in conditions:
        if kind != "triplets":
            values = set(labels[name].tolist()) - {""}
            if len(values) < 2:
                what = f"one value only, {values.pop()!r}" if values else "no value at all"
                raise UserError(
                    f"condition {name!r} has {what}, so it tells no two items apart; leave it out of "
                    "config.data.conditions."
                )


def check_split_by(labels: dict[str, np.ndarray], split_by: str) -> None:
    """Whether there is a column to split by, if one is named.

    Raises:
        UserError: naming it and the columns that there are.
    """
    if split_by and split_by not in labels:
        raise UserError(
            f"config.data.split_by names {split_by!r}{did_you_mean(split_by, labels)}; this source has "
            f"{', '.join(labels)}."
        )


def split_rows(rows: Rows, data: DataConfig) -> tuple[np.ndarray, int]:
    """Give every item its split: (split [N] str, how many items had straddled splits).

    A split of the source's own stands. Otherwise items are split 70 / 10 / 20 % by data.split_by or singly, and items
    that must stay together and did not fall together go where most of them are.

    Raises:
        UserError: for an unknown column to split by.
    """
    check_split_by(rows.labels, data.split_by)
    n = len(rows.ids)
    unit = rows.labels[data.split_by] if data.split_by else None
    if unit is not None and (unit == "").any():  # items without a value are on their own
        unit = np.where(unit == "", np.char.add("\0", np.arange(n).astype(str)), unit)
    split = split_items(n, unit, data.seed) if rows.split is None else rows.split
    if rows.together is None:
        return split, 0
    number = np.argmax(np.array(SPLITS)[:, None] == split, axis=0)  # [N]
    low, high = (np.full(n, start) for start in (len(SPLITS), -1))
    np.minimum.at(low, rows.together, number)
    np.maximum.at(high, rows.together, number)
    straddling = (low < high)[rows.together]
    if rows.split is None and straddling.any():
        links = [np.stack([np.arange(n), rows.together], axis=1)]
        if unit is not None:
            _, first, of = np.unique(unit, return_index=True, return_inverse=True)
            links.append(np.stack([np.arange(n), first[of]], axis=1))
        group = components(n, np.concatenate(links))
        votes = np.stack([np.bincount(group, split == name, minlength=n) for name in SPLITS])  # [3, N]
        moved = np.isin(group, group[straddling])
        split = np.where(moved, np.array(SPLITS)[votes.argmax(axis=0)][group], split)
    return split, int(straddling.sum())


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
