"""CSV and Parquet files as columns of text, and the kind of a column. Messages name the row and its line."""

import csv
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from csn_jax.errors import UserError
from csn_jax.text import did_you_mean, first_sentence, listed

LONGEST_CELL = 1 << 24  # characters; Python's own limit is 131,072
KINDS = ("categorical", "numeric", "ordinal", "set")
LEVELS = 20  # different numbers up to which a column is a scale of levels; above, it is a quantity
LONGEST = 200  # characters; a column with a longer value is a text about items, not an attribute


class Columns(NamedTuple):
    """A table file."""

    path: Path
    text: dict[str, list[str]]  # {column: N values}, stripped; a blank cell is the empty string
    lines: list[int] | None  # the line of a CSV file on which each row starts; None for Parquet
    arrow: Any  # the pyarrow.Table of a Parquet file, for columns other than text; None for CSV

    def __len__(self) -> int:
        return len(next(iter(self.text.values()))) if self.text else self.arrow.num_rows

    def where(self, row: int) -> str:
        """The place of a row, counted from 0, for messages, which count from 1."""
        line = f" (line {self.lines[row]})" if self.lines else ""
        return f"{self.path}, row {row + 1}{line}"

    def column(self, name: str, setting: str) -> list[str]:
        """A column that a setting needs. A UserError says that it is missing, or holds neither text nor numbers."""
        if name in self.text:
            return self.text[name]
        names = self.arrow.column_names if self.arrow is not None else self.text
        if name in names:
            kind = self.arrow.schema.field(name).type
            raise UserError(f"column {name!r} of {self.path} holds {kind}; {setting} needs text or numbers.")
        raise UserError(
            f"{self.path} has no column {name!r}{did_you_mean(name, names)}, which {setting} needs; it has "
            f"{listed(names)}."
        )


def read_columns(path: Path) -> Columns:
    """Read a UTF-8 table by its suffix: .parquet or .pq, .tsv, else CSV. A UserError says why it cannot be read."""
    if path.suffix.lower() in (".parquet", ".pq"):
        columns = _read_parquet(path)
    else:
        columns = _read_csv(path, "\t" if path.suffix.lower() == ".tsv" else ",")
    for name, values in columns.text.items():
        if "\0" in "".join(values):  # NumPy drops one at the end of a value
            row = next(row for row, value in enumerate(values) if "\0" in value)
            raise UserError(f"{columns.where(row)}: column {name!r} holds a NUL character; remove it.")
    return columns


def _read_csv(path: Path, delimiter: str) -> Columns:
    rows, lines = [], []
    csv.field_size_limit(LONGEST_CELL)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            head = [name.strip() for name in next(reader, [])]
            start = reader.line_num + 1
            for cells in reader:
                if cells:  # a blank line has none
                    rows.append(cells)
                    lines.append(start)
                start = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; fix the quotes.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a CSV or Parquet file.") from None
    for name in head:
        if not name or head.count(name) > 1:
            raise UserError(
                f"{path} has {'two columns' if name else 'a column'} named {name!r}; give each its own name."
            )
    if not head:
        raise UserError(f"{path} is empty; give a table with column names in its first line and one row per item.")
    for cells, line in zip(rows, lines, strict=True):
        if len(cells) != len(head):
            raise UserError(
                f"{path}, line {line} has {len(cells)} cells and the first line {len(head)}; quote cells that hold "
                f"{'tabs' if delimiter != ',' else 'commas'}."
            )
    return Columns(path, {name: [cells[i].strip() for cells in rows] for i, name in enumerate(head)}, lines, None)


def _read_parquet(path: Path) -> Columns:
    import pyarrow.parquet  # takes 0.3 s
    from pyarrow import ArrowException

    try:
        arrow = pyarrow.parquet.ParquetFile(path).read()
        names = arrow.column_names
        text = {name: _as_text(arrow[name]) for name in dict.fromkeys(names) if names.count(name) == 1}
    except (ArrowException, OSError, UnicodeDecodeError) as error:  # Arrow takes any bytes as text
        message = first_sentence(error)
        raise UserError(f"{path} cannot be read as Parquet ({message}); give a whole Parquet file.") from None
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} has two columns named {twice!r}; give each its own name.")
    return Columns(path, {name: values for name, values in text.items() if values is not None}, None, arrow)


def _as_text(column: Any) -> list[str] | None:
    """A Parquet column as text, lists of text with `;` between the members; None for neither text nor numbers."""
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return [(value or "").strip() for value in column.to_pylist()]
    if types.is_boolean(kind):
        return [{True: "true", False: "false", None: ""}[value] for value in column.to_pylist()]
    if types.is_floating(kind):
        return ["" if value is None or value != value else number_text(float(value)) for value in column.to_pylist()]
    if types.is_list(kind) or types.is_large_list(kind):
        if not (types.is_string(kind.value_type) or types.is_large_string(kind.value_type)):
            return None
        return [";".join(member or "" for member in value or []) for value in column.to_pylist()]
    if types.is_primitive(kind) or types.is_decimal(kind):  # whole numbers, dates, times
        return ["" if value is None else str(value) for value in column.to_pylist()]
    return None


def set_text(members: Iterable[str]) -> str:
    """One spelling per set: its members stripped and sorted, with `;` between them."""
    return ";".join(sorted({member.strip() for member in members} - {""}))


def number_text(value: float) -> str:
    """One spelling per number: 2012 for 2012.0 and 2.012e3."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


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
    """A column as an attribute, of the forced kind or an inferred one; None for long texts. UserError if the forced
    kind needs numbers and a value is not a number. setting: what a user writes before a kind to force it."""
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
