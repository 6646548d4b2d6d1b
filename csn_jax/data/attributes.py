"""Columns of a table as attributes: the kind of each, and what its cells mean under that kind."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from csn_jax.config import DataConfig
from csn_jax.data.columns import Columns
from csn_jax.data.notations import number_text, plain_number, read_numbers, set_text, sets_of
from csn_jax.data.triplets import CLEARLY
from csn_jax.errors import UserError
from csn_jax.runtime.record import NUMBERS
from csn_jax.text import did_you_mean, listed

KINDS = ("categorical", "numeric", "rank", "ordinal", "set")
LEVELS = 20  # different numbers up to which a column is a scale of levels; above, it is a quantity
LONGEST = 200  # characters; a column with a longer value is a text about items, not an attribute
MOST_ALIKE = 0.5  # share of pairs of a numeric attribute that may be alike; above, it is compared by rank
LONG_CODE = 5  # digits from which whole numbers of one length are codes, unless most of them are round
EXACT = 1 << 53  # a float holds every whole number below
# Columns whose whole numbers are names, by the last word of their own name.
NAMING = {
    *"id no nr number code key sku ean gtin upc isbn zip plz postcode barcode category class type group brand".split(),
    *"department section cluster label vendor supplier store seller product item model".split(),
}


class Attribute(NamedTuple):
    """A column of a table that can be a condition."""

    kind: str
    values: list[str]  # N labels: numbers in one spelling, the members of a set sorted; empty where unknown
    by_default: bool  # whether it is a condition when the user names none
    notes: tuple[str, ...]  # what was inferred, one line each


def parse_kinds(kinds: tuple[str, ...], columns: Columns) -> dict[str, str]:
    """NAME=KIND settings as {name: kind}. A UserError names an unknown kind or column."""
    parsed = {}
    for setting in kinds:
        name, _, kind = setting.rpartition("=")
        if kind not in KINDS:
            raise UserError(
                f"config.data.kinds holds {setting!r}{did_you_mean(kind, KINDS)}; give NAME=KIND, where KIND is one "
                f"of {', '.join(KINDS)}."
            )
        columns.column(name, f"config.data.kinds {setting}")
        parsed[name] = kind
    return parsed


def attribute_of(
    columns: Columns, name: str, forced: str | None, data: DataConfig, setting: str = ""
) -> Attribute | None:
    """A column as an attribute, of the forced kind or an inferred one; None for long texts.

    Args:
        data: which texts are unknown, and whether notations are read.
        setting: what a user writes before a kind to force it, for messages.

    Raises:
        UserError: when the forced kind needs numbers and a value is not a number.
    """
    cells = columns.text[name]
    if max(map(len, cells), default=0) > LONGEST:
        return None
    setting, plain, notes = setting or f"--config.data.kinds {name}=", data.notations == "plain", []
    known = Counter(cells)
    del known[""]
    if unknown := {} if plain else {text: known.pop(text) for text in data.unknown if text in known}:
        notes.append(
            f"{listed(map(repr, unknown))} in {sum(unknown.values()):,} rows is unknown; name the texts that should be "
            "with --config.data.unknown"
        )
    sets, how = (None, "") if plain else sets_of(known)
    numbers, written = (_plain_numbers(known), "") if plain else read_numbers(known)
    kind = forced
    if not forced:
        kind, note = _infer(name, known, sets is not None, numbers, setting, plain)
        notes += [f"the values are sets: {how}"] if kind == "set" and how else []
        notes += [note] if note else []
    if kind in NUMBERS:
        wrong = next((text for text in known if text not in numbers), None)
        if wrong is not None:
            raise UserError(
                f"{columns.where(cells.index(wrong))}: {name} is {wrong!r}, which is not a number, and kind {kind} "
                f"needs numbers; blank it, or set {setting}categorical."
            )
        labels = {text: number_text(number) for text, number in numbers.items()}
        different, rows = set(numbers.values()), known.total()
        # Whole numbers that never repeat are names, such as article numbers.
        names_items = len(different) == rows > LEVELS and all(number.is_integer() for number in different)
        names_items = names_items and not written  # nobody writes $ or thousands in an article number
        if names_items:
            notes = ["whole numbers that never repeat, so not a condition unless you name it"]
        if len(different) < len(known) and not plain:
            spelt: dict[float, str] = {}
            one, other = next(
                (text, first) for text in known if (first := spelt.setdefault(numbers[text], text)) != text
            )
            notes.append(f"{other!r} and {one!r} are the same number")
        by_default = len(different) >= 3 and not names_items
    else:
        labels, counts = None, known
        if kind == "set":
            mark = ";" if plain else next((mark for mark in ";|," if any(mark in text for text in known)), ";")
            members = sets or {text: text.split(mark) for text in known}
            labels = {text: set_text(parts) for text, parts in members.items()}
            counts = Counter()
            for text, label in labels.items():
                counts.update(dict.fromkeys(filter(None, label.split(";")), known[text]))
        by_default = len(set(labels.values()) - {""} if labels else known) >= 2 and max(counts.values()) >= 2
        notes += [] if plain or not by_default else _case_note(counts)
    notes += [written] if written and (kind in NUMBERS or (kind == "categorical" and not forced)) else []
    values = cells
    if labels is not None or unknown:
        labels = {text: text for text in known} if labels is None else labels
        values = [labels.get(text, "") for text in cells]
    return Attribute(kind, values, by_default, tuple(f"{name}: {note}" for note in notes))


def _plain_numbers(known: Iterable[str]) -> dict[str, float]:
    return {text: number for text in known if (number := plain_number(text)) is not None}


def _infer(
    name: str, known: Counter, are_sets: bool, numbers: dict[str, float], setting: str, plain: bool
) -> tuple[str, str]:
    """(kind, note) from the values of a column, {text: rows}."""
    if are_sets or (plain and any(";" in text for text in known)):
        return "set", ""
    if any(text[0] == "0" and text[1:2].isdigit() for text in known):  # codes such as 00123
        return "categorical", ""
    if len(numbers) < len(known) or len(known) <= 2:  # two numbers, such as 0 and 1, serve as names
        wrong = [text for text in known if text not in numbers]
        if numbers and wrong and sum(known[text] for text in wrong) <= 0.05 * known.total():
            return "categorical", (
                f"almost all values are numbers, but {wrong[0]!r} is not; blank "
                f"{'it' if len(wrong) == 1 else f'it and {len(wrong) - 1} more'} to make the attribute numeric"
            )
        return "categorical", ""
    if not plain and (why := _why_codes(name, numbers, known)):
        return "categorical", f"whole numbers that are codes ({why}); set {setting}numeric (or ordinal) to change this"
    levels = len(set(numbers.values()))
    if levels <= LEVELS:
        return "ordinal", (
            f"{levels} different numbers, used as levels in their order; set {setting}categorical (or numeric) to "
            "change this"
        )
    if plain:
        return "numeric", ""
    alike = _share_alike(numbers, known)
    if alike > MOST_ALIKE:
        return "rank", (
            f"{alike:.0%} of all pairs lie within a tenth of the range, so numbers are compared by rank; set "
            f"{setting}numeric to change this"
        )
    return "numeric", f"{levels:,} different numbers, compared by their gaps; set {setting}categorical to change this"


def _why_codes(name: str, numbers: dict[str, float], known: Counter) -> str:
    """Why the numbers of a column are names of things rather than amounts; empty if they are amounts."""
    if not all(number.is_integer() for number in numbers.values()):
        return ""
    if max(map(abs, numbers.values())) >= EXACT:
        return "too long for a number"
    if known.total() == len(known):  # they never repeat
        return ""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    if words and words[-1].lower().removesuffix("s") in NAMING:
        return "by the name of the column"
    texts = {f"{number:.0f}" for number in numbers.values()}
    round_ones = sum(text.endswith("0") for text in texts)
    if len({len(text) for text in texts}) == 1 and len(min(texts)) >= LONG_CODE and 2 * round_ones < len(texts):
        return f"all of {len(min(texts))} digits"
    return ""


def _share_alike(numbers: dict[str, float], known: Counter) -> float:
    """The share of pairs of rows whose numbers differ by less than the clear part of the range."""
    values, rows = np.array(list(numbers.values())), np.array([known[text] for text in numbers])
    order = np.argsort(values)
    values, ends = values[order] - values.min(), np.cumsum(rows[order])
    near = np.searchsorted(values, values + CLEARLY * values[-1])  # the first that differs clearly
    after = ends[near - 1] - ends + (rows[order] - 1) / 2  # rows alike that come later, and half of the equal ones
    return float(rows[order] @ after / (ends[-1] * (ends[-1] - 1) / 2))


def _case_note(counts: Counter) -> list[str]:
    """A note on values that differ only in case, and one on values that nobody can tell apart on a screen."""
    shown: dict[str, list[str]] = {}
    for value in counts:
        shown.setdefault(_shown(value), []).append(value)
    cases: dict[str, list[str]] = {}
    for value, spelt in shown.items():
        cases.setdefault(value.casefold(), []).append(spelt[0])
    notes = []
    for groups, mark, how in ((cases, repr, "differ only in case"), (shown, ascii, "look alike")):
        pairs = [group for group in groups.values() if len(group) > 1]
        more = f" and {len(pairs) - 1:,} more" if len(pairs) > 1 else ""
        if pairs:
            notes.append(f"{mark(pairs[0][0])} and {mark(pairs[0][1])}{more} {how} and count as different values")
    return notes


def _shown(value: str) -> str:
    """A value as it looks: accents in one spelling, one kind of space, and no characters without width."""
    if not value.isascii():
        value = "".join(mark for mark in unicodedata.normalize("NFC", value) if unicodedata.category(mark) != "Cf")
    return " ".join(value.split())
