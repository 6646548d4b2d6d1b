"""Delimited text as columns: the encoding, the delimiter and the quotes are found from the text itself."""

import codecs
import csv
import gc
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from csn_jax.data.file_kinds import HEAD, utf_16
from csn_jax.data.notations import stripped
from csn_jax.errors import UserError
from csn_jax.text import listed

LONGEST_CELL = 1 << 24  # characters; Python's own limit is 131,072
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
ROWS = 10_000  # turned into columns together
INDEX = re.compile(r"(Unnamed: \d+)?")  # the names that pandas and R give to a column of row numbers
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

# {column: N cells, stripped}, the line on which each row starts, and what was inferred or left out, one line each.
Read = tuple[dict[str, list[str]], Sequence[int], list[str]]


class _Form(NamedTuple):
    """How a text is cut into cells."""

    delimiter: str
    options: dict[str, object]  # of csv.reader
    skipped: int = 0  # lines before the names


class _Rows(NamedTuple):
    """The rows of a text by columns; bad: (line, number of cells) of rows of another length than the others."""

    head: list[str]
    columns: list[list[str]]
    lines: list[int]
    bad: list[tuple[int, int]]
    blank: int


def read_delimited(path: Path, content: bytes, encoding: str, skip_bad: bool) -> Read:
    """The columns of a text. UserError if it is not text, or a row has more or fewer cells than the first line. With
    skip_bad such rows are left out."""
    encoding, notes = encoding_of(path, content, encoding)
    sample = content[:HEAD].decode(encoding, "ignore")
    form = _form_of(sample, whole=len(content) <= HEAD)
    if form.delimiter != ("\t" if path.suffix.lower() == ".tsv" else ","):
        notes.append(f"cells are separated by {DELIMITERS.get(form.delimiter, repr(form.delimiter))}")
    try:
        rows = _rows(content, encoding, form)
    except csv.Error as error:
        rows = _rows_of_other_quotes(content, encoding, form, notes)
        if rows is None:
            raise UserError(f"{path}, {error}; fix the quotes.") from None
    if not rows.head:
        raise UserError(f"{path} is empty; give a table with column names in its first line and one row per item.")
    if rows.bad:
        _check_bad(path, rows, form, skip_bad, notes)
    if rows.blank:
        notes.append(f"rows without any value are left out: {rows.blank:,}")
    head, columns = _without_index(path, rows, notes)
    for name in head:
        if not name or head.count(name) > 1:
            raise UserError(
                f"{path} has {'two columns' if name else 'a column'} named {name!r}; give each its own name."
            )
    text = {name: stripped(name, cells, notes) for name, cells in zip(head, columns, strict=True)}
    return text, rows.lines, notes


def encoding_of(path: Path, content: bytes, declared: str) -> tuple[str, list[str]]:
    """(the encoding of a text, notes). UserError if it is not what was declared, or not UTF-8 and ambiguous."""
    head = content[:HEAD]
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), "")
    encoding = declared or marked or utf_16(head) or "utf-8"
    if encoding.lower() in ("utf-8", "utf8"):
        encoding = marked or "utf-8"
    try:
        content.decode(encoding)
    except LookupError:
        raise UserError(
            f"config.data.encoding is {declared!r}, which is not an encoding; give one such as cp1252 or cp1250."
        ) from None
    except UnicodeDecodeError as error:
        if encoding == "utf-8" and _is_western(content):
            return "cp1252", ["the text is not UTF-8 and was read as Latin-1 (cp1252)"]
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not {encoding.upper().removesuffix('-SIG')} text ({error.reason} at byte {error.start}, line "
            f"{line}); save it as UTF-8, or name its encoding, such as --config.data.encoding=cp1252."
        ) from None
    except UnicodeError as error:
        raise UserError(f"{path} is not {encoding} text ({error}); save it as UTF-8.") from None
    return encoding, [f"the text was read as {encoding.upper()}"] if "utf-8" not in encoding and not declared else []


def _is_western(content: bytes) -> bool:
    """Whether Latin-1 is the only reading: each byte above 127 is a letter, the same one in Western and in Central
    Europe (bytes below 192 are letters on a Mac only), and no row of such bytes shows another script."""
    high = bytes({byte for byte in content if byte > 127})
    letters, others = (high.decode(page, "replace") for page in ("cp1252", "cp1250"))
    return min(high) >= 192 and letters == others and letters.isalpha() and not re.search(rb"[\xc0-\xff]{3}", content)


def _form_of(sample: str, whole: bool) -> _Form:
    """The delimiter under which most rows have as many cells as the first, of several the one with most cells. Commas
    come last: `size;price, EUR` has semicolons."""
    sample = sample.removeprefix("\ufeff")
    quote = "'" if re.match(r"\s*'[^'\"\n]*'\s*[,;\t|]\s*'", sample) else '"'
    options = {"quotechar": quote, "skipinitialspace": bool(re.search(rf"[,;|] +{quote}", sample))}
    if named := re.match(r'"?sep=(.)"?\r?\n', sample, re.IGNORECASE):  # written for Excel
        return _Form(named[1], options, 1)

    def agreement(delimiter: str) -> tuple[float, int, bool]:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, **options)
        try:
            rows = [cells for cells in islice(reader, 200) if cells]
        except csv.Error:
            return 0, 0, False
        rows = rows if whole or len(rows) < 2 else rows[:-1]  # the last may be cut
        width = len(rows[0]) if rows else 0
        if width < 2:
            return 0, width, delimiter == ","
        return sum(len(cells) == width for cells in rows) / len(rows), width, delimiter != ","

    return _Form(max(DELIMITERS, key=agreement), options)


def _rows_of_other_quotes(content: bytes, encoding: str, form: _Form, notes: list[str]) -> _Rows | None:
    """The rows of a text whose quotes are not those of CSV: escaped by a backslash, as in exports of MySQL, or, in a
    text of tabs, without a meaning."""
    ways = []
    if '\\"'.encode(encoding) in content:
        ways.append(({"escapechar": "\\", "doublequote": False}, 'a backslash stands before quotes: \\"'))
    if form.delimiter == "\t":
        ways.append(({"quoting": csv.QUOTE_NONE}, "quotes are read as they are, as in a text of tabs"))
    for options, note in ways:
        try:
            rows = _rows(content, encoding, form._replace(options=form.options | options))
        except csv.Error:
            continue
        notes.append(note)
        return rows
    return None


def _rows(content: bytes, encoding: str, form: _Form) -> _Rows:
    """csv.Error, which names the line, for quotes that do not match."""
    csv.field_size_limit(LONGEST_CELL)
    collecting = gc.isenabled()
    gc.disable()  # it would walk all rows again and again: half of the time
    try:
        return _rows_by_columns(_numbered(content, encoding, form))
    finally:
        if collecting:
            gc.enable()


def _numbered(content: bytes, encoding: str, form: _Form) -> Iterator[tuple[int, list[str]]]:
    """(line on which it starts, cells) of each row that is not an empty line."""
    file = io.TextIOWrapper(io.BytesIO(content), encoding, newline="")
    for _ in range(form.skipped):
        file.readline()
    reader = csv.reader(file, delimiter=form.delimiter, strict=True, **form.options)
    start = 1 + form.skipped
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1 + form.skipped
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num + form.skipped}: {error}") from None


def _rows_by_columns(numbered: Iterator[tuple[int, list[str]]]) -> _Rows:
    _, head = next(numbered, (0, []))
    head = [name.strip().removeprefix("\ufeff") for name in head]
    width, columns, lines, bad, blank = len(head), None, [], [], 0
    while block := list(islice(numbered, ROWS)):
        if columns is None:
            # One more cell in every row: its name is missing (R), or each row ends with a delimiter.
            if len(block) > 1 and head and all(len(cells) == len(head) + 1 for _, cells in block):
                width += 1
            columns = [[] for _ in range(width)]
        fit = [pair for pair in block if len(pair[1]) == width]
        if len(fit) < len(block):
            wrong = [(line, cells) for line, cells in block if len(cells) != width]
            bad += [(line, len(cells)) for line, cells in wrong if "".join(cells).strip()]
            blank += sum(not "".join(cells).strip() for _, cells in wrong)
        if width > 1:
            some = [pair for pair in fit if "".join(pair[1]).strip()]
            blank += len(fit) - len(some)
            fit = some
        lines += [line for line, _ in fit]
        for column, cells in zip(columns, zip(*(cells for _, cells in fit), strict=True), strict=False):
            column.extend(cells)
    return _Rows(head, columns if columns is not None else [[] for _ in head], lines, bad, blank)


def _check_bad(path: Path, rows: _Rows, form: _Form, skip_bad: bool, notes: list[str]) -> None:
    line, n = rows.bad[0]
    place = f"line {line} has {n} cells and the first line {len(rows.head)}"
    if not skip_bad or not rows.lines:
        more = f", and {len(rows.bad) - 1:,} more rows are like it" if len(rows.bad) > 1 else ""
        raise UserError(
            f"{path}, {place}{more}; quote cells that hold {DELIMITERS.get(form.delimiter, repr(form.delimiter))}, or "
            "pass --config.data.skip_bad=True to leave such rows out."
        )
    named = listed([str(line) for line, _ in rows.bad])
    notes.append(f"rows with more or fewer cells than the first line are left out: {len(rows.bad):,}, on line {named}")


def _without_index(path: Path, rows: _Rows, notes: list[str]) -> tuple[list[str], list[list[str]]]:
    """(names, columns) without a nameless column of row numbers and without empty columns of delimiters at the end."""
    head, columns = rows.head, rows.columns
    if len(columns) > len(head):
        at_end = not any(columns[-1])
        if not at_end and not _numbers_rows(columns[0]):
            raise UserError(
                f"{path} has {len(head)} column names in its first line and {len(columns)} cells in each row; name "
                "every column, or quote cells that hold the delimiter."
            )
        head = [*head, ""] if at_end else ["", *head]
    width = len(head)
    while len(head) > 1 and not head[-1] and not any(columns[-1]):
        head, columns = head[:-1], columns[:-1]
    if len(head) < width:
        notes.append("delimiters at the end of each line are ignored")
    if len(head) > 1 and INDEX.fullmatch(head[0]) and _numbers_rows(columns[0]):
        notes.append(f"the first column, {head[0] or 'which has no name'}, holds row numbers and is left out")
        head, columns = head[1:], columns[1:]
    return head, columns


def _numbers_rows(cells: list[str]) -> bool:
    return bool(cells) and all(map(str.isdecimal, cells)) and len(set(cells)) == len(cells)
