"""Tables of triplets as people give them: with or without names of columns, and with several names for the roles."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from csn_jax.data.columns import Columns
from csn_jax.data.sources.table import SPLIT, split_column, split_header
from csn_jax.data.triplets import Triplets
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean, listed

SETTING = "config.data.triplets"
ROLES = ("anchor", "positive", "negative")
# Other names of columns, in any case of letters and with any of space, - and _ between words.
OTHER_NAMES = {
    "anchor": ("head", "query", "probe", "reference"),
    "positive": ("winner", "close", "closer", "near", "similar"),
    "negative": ("loser", "far", "farther", "dissimilar"),
    "rater": ("rater_id", "worker", "worker_id", "workerid", "annotator", "annotator_id", "participant",
              "participant_id", "subject", "subject_id", "user", "user_id"),
}  # fmt: skip
ONE = "similarity"  # the condition of a table without a column of conditions
OVERALL = "overall_similarity"  # `overall`, under which results hold all conditions together


class TripletTable(NamedTuple):
    """T triplets of a table."""

    conditions: tuple[str, ...]  # in the order of their first rows
    columns: Triplets  # positions of items, and in `conditions`
    split: np.ndarray | None  # [T] str
    rater: list[str] | None  # of T triplets
    table: Columns  # with the columns' usual names
    notes: tuple[str, ...]


def read_table(columns: Columns, index: dict[str, int], one: str = ONE) -> TripletTable:
    """The triplets of a table about items, whose positions by id are `index`; `one` names the condition of a table that
    has no conditions. UserError for a missing column, an unknown id, a row without a condition, or no row."""
    table = with_usual_names(_with_header(columns, index))
    roles = []
    for role in ROLES:
        column = table.column(role, SETTING)
        positions = np.array([index.get(name, -1) for name in column], np.int64)
        for row in np.flatnonzero(positions < 0)[:1].tolist():
            near = did_you_mean(column[row], index)
            raise UserError(f"{table.where(row)}: {role} is {column[row]!r}{near}; give the id of an item.")
        roles.append(positions)
    if not len(table):
        raise UserError(f"{table.path} has no triplet; give one row per triplet.")
    notes = list(table.notes)
    if "condition" in table.text or did_you_mean("condition", table.text):
        named = [OVERALL if name == "overall" else name for name in table.column("condition", SETTING)]
        if OVERALL in named and "overall" in table.text["condition"]:
            notes.append(f"condition overall is called {OVERALL}: overall is the name for all conditions together")
    else:
        named = [one] * len(table)
        notes.append(f"there is no column condition: all triplets are of one condition, {one}")
    row_of = {name: row for row, name in enumerate(dict.fromkeys(named))}
    if "" in row_of:
        raise UserError(f"{table.where(named.index(''))} has no condition; name one.")
    rater = table.text.get("rater")
    if unread := set(table.text) - {*ROLES, "condition", "rater", split_header(table)}:
        notes.append(f"columns that are not read: {listed(sorted(unread))}")
    triplets = Triplets(*roles, np.array([row_of[name] for name in named]))
    return TripletTable(tuple(row_of), triplets, split_column(table), rater, table, tuple(notes))


def with_usual_names(columns: Columns) -> Columns:
    """A table whose columns of roles and raters have the names anchor, positive, negative and rater."""
    folded = {"_".join(name.lower().replace("-", " ").replace("_", " ").split()): name for name in columns.text}
    usual = {}
    for name, others in OTHER_NAMES.items():
        found = next((folded[other] for other in (name, *others) if other in folded), name)
        if found != name and name not in columns.text:
            usual[found] = name
    note = ", ".join(f"{found} is read as {name}" for found, name in usual.items())
    text = {usual.get(name, name): values for name, values in columns.text.items()}
    return _changed(columns, text, columns.lines, f"column {note}" if note else "")


def _with_header(columns: Columns, index: dict[str, int]) -> Columns:
    """The table, or the table with its first line as data if this names three items; split at spaces if there is one
    column only."""
    columns = _split_at_spaces(columns)
    first = list(columns.text)
    known = [name in index for name in first[:3]]
    if columns.lines is None or sum(known) < 2 or set(ROLES) & set(first):
        return columns
    if not all(known) or len(first) < 3:
        unknown = first[known.index(False)] if not all(known) else ""
        raise UserError(
            f"{columns.path}, line 1 has no names of columns and names {unknown!r}, which is not the id of an item; "
            "write a first line anchor,positive,negative, or fix the id."
        )
    names, cells = list(ROLES), [[name, *values] for name, values in columns.text.items()]
    for column in cells[3:]:
        is_split = split_header(Columns(columns.path, {SPLIT.upper(): column}, None, None))
        usual = SPLIT if is_split else "condition"
        names.append(usual if usual not in names else f"column {len(names) + 1}")
    note = f"there is no line of names: line 1 is data, and the columns are read as {', '.join(names)}"
    return _changed(columns, dict(zip(names, cells, strict=True)), [1, *columns.lines], note)


def _split_at_spaces(columns: Columns) -> Columns:
    name, values = next(iter(columns.text.items()), ("", []))
    if len(columns.text) != 1 or columns.lines is None or len(set(name.split())) < 3:
        return columns
    rows, names = [value.split() for value in values], name.split()
    for row, cells in enumerate(rows):
        if len(cells) != len(names):
            raise UserError(
                f"{columns.where(row)} has {len(cells)} words and line 1 has {len(names)}; separate cells by commas."
            )
    text = {name: [cells[i] for cells in rows] for i, name in enumerate(names)}
    return _changed(columns, text, columns.lines, "cells are separated by spaces")


def _changed(columns: Columns, text: dict[str, list[str]], lines: Sequence[int] | None, note: str) -> Columns:
    notes = (*columns.notes, note) if note else columns.notes
    return Columns(columns.path, text, lines, columns.arrow, notes)


def answers(triplets: Triplets, rater: list[str] | None, name_of: np.ndarray) -> list[str]:
    """Notes about repeated and contradicting triplets and about raters. name_of: the ids [N] of the items."""
    anchor, positive, negative, condition = triplets
    n, n_items, notes = len(anchor), len(name_of), []
    # Numbers of pairs first, as one number of all four columns could exceed 64 bits.
    pairs, pair = np.unique(np.sort([positive, negative], axis=0).T @ [n_items, 1], return_inverse=True)
    asked, question = np.unique((condition * n_items + anchor) * len(pairs) + pair, return_inverse=True)
    answer = positive < negative
    yes, no = (np.bincount(question, side, len(asked)).astype(int) for side in (answer, ~answer))
    if repeats := n - int((yes > 0).sum() + (no > 0).sum()):
        notes.append(f"{repeats:,} of {n:,} triplets repeat an earlier one")
    split_opinion = (yes > 0) & (no > 0)
    if split_opinion.any():
        first = np.flatnonzero(split_opinion[question])[0]
        a, b, c = name_of[[anchor[first], positive[first], negative[first]]]
        share = np.minimum(yes, no).sum() / n
        notes.append(
            f"{split_opinion.sum():,} questions were answered both ways, such as whether {a} is more like {b} or {c}: "
            f"any model has {share:.1%} of all triplets or more wrong"
        )
    if rater is not None:
        times = Counter(rater)
        number = {name: i for i, name in enumerate(times)}
        person = np.array([number[name] for name in rater])
        given = np.unique(2 * (person * len(asked) + question) + answer)
        against = len(given) - len(np.unique(given // 2))
        notes.append(
            f"{len(times):,} raters gave {min(times.values()):,} to {max(times.values()):,} triplets each and "
            f"contradicted themselves in {against:,} questions"
        )
    return notes
