"""The kind of an attribute: inferred from its values, or set by the user."""

import math
from collections import Counter
from typing import NamedTuple

from csn_jax.data.columns import Columns, number_text, set_text
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

KINDS = ("categorical", "numeric", "ordinal", "set")
LEVELS = 20  # different numbers up to which a column is a scale of levels; above, it is a quantity
LONGEST = 200  # characters; a column with a longer value is a text about items, not an attribute


class Attribute(NamedTuple):
    """A column of a table that can be a condition."""

    kind: str
    values: list[str]  # N labels: numbers in one spelling, the members of a set sorted
    by_default: bool  # whether it is a condition when the user names none
    note: str  # what the user should know about the inferred kind, or the empty string


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


def attribute_of(columns: Columns, name: str, forced: str | None, setting: str = "") -> Attribute | None:
    """A column as an attribute, of the forced kind or an inferred one; None for long texts.

    Args:
        setting: what a user writes before a kind to force it, for messages.

    Raises:
        UserError: when the forced kind needs numbers and a value is not a number.
    """
    values = columns.text[name]
    if max(map(len, values), default=0) > LONGEST:
        return None
    setting = setting or f"--config.data.kinds {name}="
    kind, note = (forced, "") if forced else _infer(name, values, setting)
    if kind in ("numeric", "ordinal"):
        return _of_numbers(columns, name, kind, note, setting)
    if kind == "set":
        values = [set_text(value.split(";")) for value in values]
    known = [value for value in values if value]
    members = Counter(member for value in known for member in (value.split(";") if kind == "set" else [value]))
    by_default = len(set(known)) >= 2 and max(members.values()) >= 2
    return Attribute(kind, values, by_default, note)


def _infer(name: str, values: list[str], setting: str) -> tuple[str, str]:
    """(kind, note) from the values of a column."""
    known = Counter(value for value in values if value)
    if any(";" in value for value in known):
        return "set", ""
    if any(value[0] == "0" and value[1:2].isdigit() for value in known):  # codes such as 00123
        return "categorical", ""
    numbers = {value: number for value in known if (number := _number(value)) is not None}
    if len(numbers) < len(known) or len(known) <= 2:  # two numbers, such as 0 and 1, serve as names
        wrong = [value for value in known if value not in numbers]
        if numbers and wrong and sum(known[value] for value in wrong) <= 0.05 * known.total():
            return "categorical", (
                f"{name}: almost all values are numbers, but {wrong[0]!r} is not; blank "
                f"{'it' if len(wrong) == 1 else f'it and {len(wrong) - 1} more'} to make the attribute numeric"
            )
        return "categorical", ""
    levels = len(set(numbers.values()))
    if levels <= LEVELS:
        return "ordinal", (
            f"{name}: {levels} different numbers, used as levels in their order; "
            f"set {setting}categorical (or numeric) to change this"
        )
    return "numeric", ""


def _of_numbers(columns: Columns, name: str, kind: str, note: str, setting: str) -> Attribute:
    values, numbers = [], []
    for row, value in enumerate(columns.text[name]):
        number = _number(value) if value else None
        if value and number is None:
            raise UserError(
                f"{columns.where(row)}: {name} is {value!r}, which is not a number, and kind {kind} needs numbers; "
                f"blank it, or set {setting}categorical."
            )
        values.append(number_text(number) if value else "")
        numbers += [number] if value else []
    different = set(numbers)
    # Whole numbers that never repeat are names, such as article numbers.
    names_items = len(different) == len(numbers) > LEVELS and all(number.is_integer() for number in numbers)
    if names_items:
        note = f"{name}: whole numbers that never repeat, so not a condition unless you name it"
    return Attribute(kind, values, len(different) >= 3 and not names_items, note)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None
