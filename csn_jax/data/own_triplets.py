"""Triplets that people gave, instead of drawn ones.

Two forms are read:

- A table with the columns `anchor`, `positive`, `negative` (ids of items), and perhaps `condition`, `rater` and `split`
  (train, validation or val, test); see triplet_tables.py. Conditions keep the order of their first rows.
- A folder of the reference's lists. `filenames.json` is plain text with one item id per line.
  `tripletlists/CONDITION_tripletlist_SPLIT.txt` (or the same beside filenames.json), where SPLIT is train, val or test,
  has lines `anchor far close`: line numbers of filenames.json from 0. Conditions are in the order of their names.

If neither the items nor the triplets have a split, the triplets are split 70 / 10 / 20 %. Items then take part in
several splits, and a test triplet is a new judgement on known items. If the items have one, triplets that name items of
several splits are left out and counted.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.data.columns import read_columns
from csn_jax.data.item_set import SPLITS, ItemSet, Rows, split_items
from csn_jax.data.sources.table import split_name
from csn_jax.data.triplet_tables import ONE, OVERALL, ROLES, answers, read_table
from csn_jax.data.triplets import Triplets
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition
from csn_jax.runtime.workdir import write_atomically

LIST = re.compile(r"(?P<condition>.+)_tripletlist_(?P<split>[^_]+)\.txt")
# Names of the conditions; then columns, split and where as in OwnTriplets.
Read = tuple[tuple[str, ...], Triplets, np.ndarray | None, Callable[[int], str]]


class OwnTriplets(NamedTuple):
    """T triplets from a user."""

    conditions: tuple[Condition, ...]  # in the order of the file
    columns: Triplets  # positions of items; `condition` is a position in `conditions`
    split: np.ndarray | None  # [T] str if the triplets have a split
    where: Callable[[int], str]  # from the number of a triplet to its place in the file, for messages
    notes: tuple[str, ...] = ()  # what the user should know before training


def read_own_triplets(path: Path, rows: Rows, one: str = ONE) -> OwnTriplets:
    """Read a triplet file, or a folder of the reference's lists, about the items of a source. `one` names the condition
    of a file that has none. UserError for an unknown id or split, or an item that a triplet names twice."""
    index = {name: i for i, name in enumerate(rows.ids.tolist())}
    rater, notes = None, ()
    if path.is_dir():
        names, columns, split, where = _read_lists(path, index)
    elif path.is_file():
        names, columns, split, rater, table, notes = read_table(read_columns(path), index, one)
        where = table.where
    else:
        setting = f"config.data.triplets is {str(path)!r}"
        raise UserError(f"{setting}, which does not exist; give a file or a folder of lists.")
    anchor, positive, negative, _ = columns
    for t in np.flatnonzero((anchor == positive) | (anchor == negative) | (positive == negative))[:1].tolist():
        raise UserError(f"{where(t)} names an item twice; give three different items per triplet.")
    kinds = dict(rows.conditions)
    conditions = tuple(Condition(name, kinds.get(name, "triplets")) for name in names)
    notes = (*notes, *answers(columns, rater, rows.ids))
    return OwnTriplets(conditions, columns, split, where, tuple(f"triplets: {note}" for note in notes))


def chosen_conditions(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """config.data.conditions under the names that triplets have here."""
    return tuple(OVERALL if name == "overall" else name for name in wanted)


def split_from_triplets(own: OwnTriplets, n_items: int) -> np.ndarray:
    """The split [N] of each item, taken from the triplets that name it. Other items go to training. UserError if
    triplets of two splits name the same item."""
    code = np.array([SPLITS.index(name) for name in own.split.tolist()])
    items = np.stack(own.columns[:3], axis=1)  # [T, 3]
    home = np.full(n_items, -1)
    named, first = np.unique(items, return_index=True)
    home[named] = code[first // 3]  # from the first triplet that names the item
    for t in np.flatnonzero((home[items] != code[:, None]).any(axis=1))[:1].tolist():
        raise UserError(
            f"{own.where(t)} is a triplet across splits: it is of {own.split[t]} and names an item of another split; "
            "keep each item in one split, so that test items are new."
        )
    return np.array(SPLITS)[np.maximum(home, 0)]


def split_triplets(
    own: OwnTriplets, items: ItemSet, items_are_split: bool, seed: int
) -> tuple[dict[str, Triplets], tuple[str, ...]]:
    """(the triplets of the items' conditions by split, notes). `condition` becomes a position among these conditions.

    The split is that of the items, and triplets across splits are left out; or else the triplets are split here, by the
    seed. UserError for a triplet with a split of its own across splits, or a condition without triplets in a split.
    """
    notes, crossing = (), ""
    if items_are_split:
        split = items.split[own.columns.anchor]
        across = np.any([items.split[role] != split for role in own.columns[1:3]], axis=0)
        if own.split is not None:
            across |= own.split != split
        elif across.any():
            split = np.where(across, "", split)
            crossing = f"{across.sum():,} of {len(across):,} triplets name items of several splits"
            notes = (f"triplets: {crossing} and are left out",)
        for t in np.flatnonzero(across)[:1].tolist() if own.split is not None else ():
            of_roles = zip(ROLES, [column[t] for column in own.columns[:3]], strict=True)
            named = ", ".join(f"{role} {items.ids[i]} of {items.split[i]}" for role, i in of_roles)
            raise UserError(
                f"{own.where(t)} is a triplet across splits: it is of {own.split[t]} and it names {named}; name items "
                "of one split, or remove the column split of the triplets."
            )
    else:
        split = np.empty(len(own.columns.condition), "<U10")
        for row in range(len(own.conditions)):  # judgements on the same three items stay together
            chosen = own.columns.condition == row
            unit = same_three(*(role[chosen] for role in own.columns[:3]))
            split[chosen] = split_items(len(unit), unit, seed)
    row_of = {condition.name: row for row, condition in enumerate(items.conditions)}
    rows = np.array([row_of.get(condition.name, -1) for condition in own.conditions])
    condition = rows[own.columns.condition]
    by_split = {}
    for name in SPLITS:
        chosen = (split == name) & (condition >= 0)
        roles = [column[chosen].astype(np.int32) for column in own.columns[:3]]
        by_split[name] = Triplets(*roles, condition[chosen].astype(np.int32))
        for label, row in row_of.items():
            if not (by_split[name].condition == row).any():
                because, remedy = "", "remove the condition from config.data.conditions"
                if crossing:
                    because, remedy = f", as {crossing}", "split triplets instead of items: remove the items' split"
                raise UserError(
                    f"config.data.triplets has no triplet of condition {label!r} in the {name} split{because}; give "
                    f"more, or {remedy}."
                )
    return by_split, notes


def same_three(anchor: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """int64 [T], equal for triplets of the same three items, whichever is the anchor. One answer to "which of the three
    is the odd one out?" makes two such triplets."""
    three = np.sort(np.stack([anchor, positive, negative], axis=1), axis=1)
    return np.unique(three, axis=0, return_inverse=True)[1].ravel()


def _read_lists(folder: Path, index: dict[str, int]) -> Read:
    try:
        names = (folder / "filenames.json").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder / 'filenames.json'} cannot be read ({getattr(error, 'strerror', None) or error}); write one item "
            "id per line, in the order of the lists' numbers."
        ) from None
    items = np.array([index.get(name, -1) for name in names], np.int64)
    lists = folder / "tripletlists" if (folder / "tripletlists").is_dir() else folder
    matches = [match for path in lists.iterdir() if (match := LIST.fullmatch(path.name))]
    files = sorted((*match.groups(), lists / match[0]) for match in matches)
    if not files:
        raise UserError(f"{lists} has no list of triplets; give CONDITION_tripletlist_train.txt, _val and _test.")
    conditions = tuple(dict.fromkeys(condition for condition, _, _ in files))
    splits = [split_name(name, lambda path=path: str(path)) for _, name, path in files]
    parts = [_read_list(path, items, names) for _, _, path in files]
    lengths = [len(part) for part in parts]
    starts = np.cumsum([0, *lengths])

    def where(t: int) -> str:
        file = np.searchsorted(starts, t, side="right") - 1
        return f"{files[file][2]}, line {t - starts[file] + 1}"

    anchor, far, close = np.concatenate(parts).T
    condition = np.repeat([conditions.index(name) for name, _, _ in files], lengths)
    return conditions, Triplets(anchor, close, far, condition), np.repeat(splits, lengths), where


def _read_list(path: Path, items: np.ndarray, names: list[str]) -> np.ndarray:
    """Positions of items in the order of the file: int64 [T, 3], anchor, far, close."""
    lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    for number, words in enumerate(lines, start=1):
        if len(words) != 3 or not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
            line = f"{path}, line {number} is {' '.join(words)!r}"
            raise UserError(f"{line}; give three whole numbers, anchor far close.")
    listed = np.array(lines, np.int64).reshape(-1, 3)
    for t, role in np.argwhere(listed >= len(names))[:1].tolist():
        raise UserError(
            f"{path}, line {t + 1} names item {listed[t, role]}, and filenames.json has {len(names)} lines, counted "
            "from 0; give the lists that belong to it."
        )
    positions = items[listed]
    for t, role in np.argwhere(positions < 0)[:1].tolist():
        number = int(listed[t, role])
        raise UserError(
            f"{path}, line {t + 1} names item {number}, {names[number]!r} in filenames.json, which is not the id of "
            "an item; write the items' ids there, or choose their column with --config.data.id."
        )
    return positions


def write_lists(folder: Path, items: ItemSet, triplets: dict[str, Triplets], seed: int) -> None:
    """Write drawn triplets as the reference's lists, which `read_own_triplets` reads. A further file, triplets.json,
    holds the seed of the draw and the digests. UserError if the folder is not empty or cannot be made, or an id is not
    a single line."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--write_triplets={folder} is not empty; give a new folder.")
    ids = items.ids.tolist()
    for name in ids:
        if name.splitlines() != [name]:
            raise UserError(f"item id {name!r} is not a single line, as filenames.json needs; rename the item.")
    try:
        (folder / "tripletlists").mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--write_triplets={folder} cannot be made ({error.strerror}); give another folder.") from None
    write_atomically(folder / "filenames.json", "".join(f"{name}\n" for name in ids).encode())
    for split, columns in triplets.items():
        for row, condition in enumerate(items.conditions):
            anchor, positive, negative, _ = columns.of_condition(row)
            lines = zip(anchor.tolist(), negative.tolist(), positive.tolist(), strict=True)
            text = "".join(f"{a} {far} {close}\n" for a, far, close in lines)
            short = {"validation": "val"}.get(split, split)
            write_atomically(folder / "tripletlists" / f"{condition.name}_tripletlist_{short}.txt", text.encode())
    digests = {split: columns.digest() for split, columns in triplets.items()}
    note = {"seed": seed, "items_sha256": items.digest(), "triplets_sha256": digests}
    write_atomically(folder / "triplets.json", (json.dumps(note, indent=2) + "\n").encode())
