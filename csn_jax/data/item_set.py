"""ItemSet: the one form in which training reads data, whatever its source."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from csn_jax.config import DataConfig
from csn_jax.data.duplicates import components
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition, check_name
from csn_jax.runtime.writer import say
from csn_jax.text import did_you_mean, listed

SPLITS = ("train", "validation", "test")
BY_ITEM = ("item", "id")  # values of config.data.split_by for each item by itself, unless a label has the name
NAMED = 1_000  # unusable rows that are named one by one


class Pictures(NamedTuple):
    """Where the pictures of items lie."""

    # As in a vector file: `kind` (`folder` or `table` for files, `bytes` for pictures inside a table), `root`
    # (the folder, or the table), and `image`, the column of the pictures' names if the ids are not these names.
    where: dict[str, str]
    names: np.ndarray | None = None  # [N] str, the column `image`; of bytes, the numbers of the rows from 1


class Rows(NamedTuple):
    """What a source returns: N items before conditions are chosen and splits are made."""

    inputs: np.ndarray  # [N, H, W, ch] uint8, or [N, F] float32 or float16; perhaps memory-mapped
    ids: np.ndarray  # [N] str, unique
    labels: dict[str, np.ndarray]  # {column: [N] str} of all attributes; the empty string is a missing value
    conditions: tuple[Condition, ...]  # the attributes that are learned unless the user chooses
    split: np.ndarray | None  # [N] str if the source has its own
    together: np.ndarray | None = None  # [N] int if groups must share a split: the position of one item of the group
    notes: tuple[str, ...] = ()  # what the user should know before training, one line each
    others: tuple[Condition, ...] = ()  # conditions only if the user names them, as far as their kinds are known
    ink: bool = False  # whether pixels are amounts of ink, light on black, as in a drawn character
    pictures: Pictures | None = None  # None if there are no picture files
    # {column: [N] str}: the source's own text of those attributes whose labels are spelt in another way.
    cells: Mapping[str, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True)
class ItemSet:
    """N items with their labels. Fields that are not described are as in Rows."""

    inputs: np.ndarray
    ids: np.ndarray
    labels: dict[str, np.ndarray]  # a condition of kind `triplets` may have no column
    split: np.ndarray  # [N] str, one of SPLITS
    conditions: tuple[Condition, ...]  # in the order of the masks' rows
    attributes: tuple[Condition, ...] = ()  # the kinds of the label columns; one that is not listed is categorical
    ink: bool = False
    pictures: Pictures | None = None
    cells: Mapping[str, np.ndarray] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256, in hex, of everything that training and the triplet error read. Attributes that are not conditions
        are left out: only `evaluate --full` reads them. float16 counts as float32: training has the same values."""
        hasher = hashlib.sha256()
        dtype = np.dtype(np.float32 if self.inputs.dtype == np.float16 else self.inputs.dtype)
        for start in range(0, len(self.inputs), 4096):  # a memory map may be larger than RAM
            hasher.update(np.ascontiguousarray(self.inputs[start : start + 4096], dtype))
        hasher.update(repr((self.inputs.shape, dtype.str, self.conditions)).encode())
        labels = [self.labels[c.name] for c in self.conditions if c.name in self.labels]
        for column in (self.ids, self.split, *labels):
            hasher.update("\x00".join(column.tolist()).encode("utf-8", "surrogatepass") + b"\x01")
        return hasher.hexdigest()


def leave_out(bad: list[str], n: int, what: str, skip_bad: bool, remedy: str) -> tuple[str, ...]:
    """A note per unusable row of n, and their number. UserError for such rows unless skip_bad, or if no row is usable.

    Args:
        bad: place and fault of each unusable row.
        what: each row's images or vectors, for messages.
        remedy: what to do about them.
    """
    if bad and not skip_bad:
        for line in bad[:NAMED] if len(bad) > 1 else ():
            say(line)
        more = f"; {len(bad) - 1} more cannot be read" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}; {remedy}, or pass --config.data.skip_bad=True to train without.")
    if len(bad) == n:
        first = f"; the first: {bad[0]}" if bad else ""
        raise UserError(f"none of the {n} {what} can be read{first}; {remedy}.")
    notes = [f"left out {line}" for line in bad[:NAMED]]
    notes += [f"left out {len(bad) - NAMED:,} more"] if len(bad) > NAMED else []
    return (*notes, f"left out {len(bad):,} of {n:,} rows without usable {what}") if len(bad) > 1 else tuple(notes)


def choose_conditions(
    labels: dict[str, np.ndarray], available: tuple[Condition, ...], wanted: tuple[str, ...]
) -> tuple[Condition, ...]:
    """The wanted conditions in the wanted order; all available ones if none is wanted. UserError for an unknown or
    repeated name, one that cannot name a picture and a folder, and a labelled condition with fewer than two values."""
    by_name = {condition.name: condition for condition in available}
    for name in wanted:
        if name not in by_name:
            near = did_you_mean(name, by_name)
            raise UserError(f"config.data.conditions names {name!r}{near}; this source has {listed(by_name)}.")
    if len(set(wanted)) < len(wanted):
        raise UserError(f"config.data.conditions names a condition twice: {' '.join(wanted)}; name each once.")
    chosen = tuple(by_name[name] for name in wanted) or available
    for name, _ in chosen:
        check_name(name)
    for name in [name for name, kind in chosen if kind != "triplets"]:
        values = set(labels[name].tolist()) - {""}
        if len(values) < 2:
            amount = f"one value only, {values.pop()!r}" if values else "no value"
            raise UserError(
                f"condition {name!r} has {amount} and separates no items; remove it from config.data.conditions."
            )
    return chosen


def check_split_by(labels: dict[str, np.ndarray], split_by: str) -> None:
    """Refuse a column to split by that the source does not have, with a UserError."""
    if split_by and split_by not in (*labels, *BY_ITEM):
        raise UserError(
            f"config.data.split_by names {split_by!r}{did_you_mean(split_by, labels)}; this source has "
            f"{listed(labels)}."
        )


def split_rows(rows: Rows, data: DataConfig) -> tuple[np.ndarray, int]:
    """(split [N] str of every item, number of items whose group straddled splits).

    The source's own split stands. Otherwise items are split 70 / 10 / 20 %, by data.split_by or one by one; a group
    that must stay together moves to the split of most of its items.
    """
    check_split_by(rows.labels, data.split_by)
    n = len(rows.ids)
    unit = rows.labels.get(data.split_by)
    if unit is not None and data.notations != "plain":  # the text itself: 1.10 is another version than 1.1
        unit = np.where(unit == "", "", rows.cells.get(data.split_by, unit))
    if unit is not None and (unit == "").any():  # each item without a value is a group of its own
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
            _, first, code = np.unique(unit, return_index=True, return_inverse=True)
            links.append(np.stack([np.arange(n), first[code]], axis=1))
        group = components(n, np.concatenate(links))
        votes = np.stack([np.bincount(group, split == name, minlength=n) for name in SPLITS])  # [3, N]
        moved = np.isin(group, group[straddling])
        split = np.where(moved, np.array(SPLITS)[votes.argmax(axis=0)][group], split)
    return split, int(straddling.sum())


def split_items(n_items: int, unit: np.ndarray | None, seed: int) -> np.ndarray:
    """The split of each item, 70 / 10 / 20 %: [N] str. Items with equal labels in `unit` [N] share a split."""
    values, group = (np.arange(n_items),) * 2 if unit is None else np.unique(unit, return_inverse=True)
    n = len(values)
    order = np.random.default_rng(seed).permutation(n)
    # Whole numbers, as 0.7 + 0.1 < 0.8 in floats. With three values or more, no split is empty.
    train = max(0, min(7 * n // 10, n - 2))
    cuts = [train, max(8 * n // 10, train + 1)]
    split = np.empty(n, dtype="<U10")
    for name, members in zip(SPLITS, np.split(order, cuts), strict=True):
        split[members] = name
    return split[group]
