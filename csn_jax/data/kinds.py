"""What kind of notion a column is: inferred from its values, or said by the user."""

import math
from collections import Counter
from typing import NamedTuple

from csn_jax.data.columns import Columns, number_text
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

KINDS = ("categorical", "numeric", "ordinal", "set")
LEVELS = 20  # different numbers; with more, a column is a quantity and no scale of levels
LONGEST = 200  # characters; what is longer is a text about an item and no notion


class Attribute(NamedTuple):
    """A column that could be a condition.

    values: [N] as labels; numbers in one spelling, a set's members sorted.
    by_default: whether it is one when the user names none.
    note: what the user should know of the choice, or nothing.
    """

    kind: str
    values: list[str]
    by_default: bool
    note: str


def parse_kinds(kinds: tuple[str, ...], columns: Columns) -> dict[str, str]:
    """NAME=KIND settings as {name: kind}.

    Raises:
        UserError: for an unknown kind or column.
    """
    parsed = {}
    for setting in kinds:
        name, _, kind = setting.rpartition("=")
        if kind not in KINDS:
            raise UserError(
                f"config.data.kinds holds {setting!r}{did_you_mean(kind, KINDS)}; give NAME=KIND with one of "
                f"{', '.join(KINDS)}."
            )
        columns.column(name, f"config.data.kinds {setting}")
        parsed[name] = kind
    return parsed


def attribute_of(columns: Columns, name: str, forced: str | None, setting: str = "") -> Attribute | None:
    """A column as a notion, of the forced kind or the inferred one; None for long text.

    `setting`, with a kind behind it, is how the user forces one.

    Raises:
        UserError: when a value is no number in a column that shall hold numbers.
    """
    values = columns.text[name]
    if max(map(len, values), default=0) > LONGEST:
        return None
    setting = setting or f"--config.data.kinds {name}="
    kind, note = (forced, "") if forced else _infer(name, values, setting)
    if kind in ("numeric", "ordinal"):
        return _of_numbers(columns, name, kind, note, setting)
    if kind == "set":
        values = [";".join(sorted({m.strip() for m in value.split(";")} - {""})) for value in values]
    times = Counter(value for value in values if value)
    if kind == "set":
        members = Counter(member for value in values for member in value.split(";") if member)
        alike = max(members.values(), default=0) >= 2
    else:
        alike = max(times.values(), default=0) >= 2
    return Attribute(kind, values, len(times) >= 2 and alike, note)


def _infer(name: str, values: list[str], setting: str) -> tuple[str, str]:
    known = Counter(value for value in values if value)
    if any(";" in value for value in known):
        return "set", ""
    if any(value[0] == "0" and value[1:2].isdigit() for value in known):  # 00123 is a code
        return "categorical", ""
    numbers = {value: number for value in known if (number := _number(value)) is not None}
    if len(numbers) < len(known) or len(known) <= 2:  # two numbers, 0 and 1, are as good as two names
        wrong = [value for value in known if value not in numbers]
        if numbers and wrong and sum(known[value] for value in wrong) <= 0.05 * known.total():
            return "categorical", (
                f"{name}: almost all values are numbers, but {wrong[0]!r} is none; blank "
                f"{'it' if len(wrong) == 1 else f'it and {len(wrong) - 1} more'} to have it taken as numeric"
            )
        return "categorical", ""
    levels = len(set(numbers.values()))
    if levels <= LEVELS:
        return "ordinal", (
            f"{name}: {levels} different numbers, taken as levels in their order; "
            f"{setting}categorical (or numeric) if they are not"
        )
    return "numeric", ""


def _of_numbers(columns: Columns, name: str, kind: str, note: str, setting: str) -> Attribute:
    values, numbers = [], []
    for row, value in enumerate(columns.text[name]):
        number = _number(value) if value else None
        if value and number is None:
            raise UserError(
                f"{columns.where(row)}: {name} is {value!r} and no number, which kind {kind} needs; blank it, or take "
                f"another kind with {setting}categorical."
            )
        values.append(number_text(number) if value else "")
        numbers += [number] if value else []
    different = set(numbers)
    # Whole numbers of which each comes once are names: article numbers, not quantities.
    names_items = len(different) == len(numbers) > LEVELS and all(number.is_integer() for number in numbers)
    if names_items:
        note = f"{name}: whole numbers that never repeat, so no notion unless you name it"
    return Attribute(kind, values, len(different) >= 3 and not names_items, note)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None
