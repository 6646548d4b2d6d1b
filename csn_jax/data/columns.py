"""Table files as columns of text. Messages name the row and its line."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from csn_jax.data.arrow_tables import ArrowTable, folder_files, read_arrow, read_folder
from csn_jax.data.cache import file_digest
from csn_jax.data.delimited import read_delimited
from csn_jax.data.file_kinds import kind_of
from csn_jax.data.json_lines import read_json
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean, listed

NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Columns(NamedTuple):
    """A table file, or a folder of Parquet files."""

    path: Path
    text: dict[str, list[str]]  # {column: N values}, stripped; a blank cell is the empty string
    lines: Sequence[int] | None  # the line of a text file on which each row starts; None for Parquet
    arrow: ArrowTable | None  # of a Parquet file, for columns other than text; None for text files
    notes: tuple[str, ...] = ()  # what was inferred or left out, one line each

    def __len__(self) -> int:
        return len(next(iter(self.text.values()))) if self.text else self.arrow.num_rows if self.arrow else 0

    @property
    def folder(self) -> Path:
        """The folder that the paths in the table start from."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def names(self) -> list[str]:
        """Of all columns, also of those that hold neither text nor numbers."""
        return list(self.text) if self.arrow is None else list(dict.fromkeys([*self.arrow.column_names, *self.text]))

    def where(self, row: int) -> str:
        """The place of a row, counted from 0, for messages, which count from 1."""
        line = f" (line {self.lines[row]})" if self.lines else ""
        return f"{self.path}, row {row + 1}{line}"

    def column(self, name: str, setting: str) -> list[str]:
        """A column that a setting needs. A UserError says that it is missing, or holds neither text nor numbers."""
        if name in self.text:
            return self.text[name]
        if name in self.names:
            kind = self.arrow.schema.field(name).type
            raise UserError(f"column {name!r} of {self.path} holds {kind}; {setting} needs text or numbers.")
        raise UserError(
            f"{self.path} has no column {name!r}{did_you_mean(name, self.names)}, which {setting} needs; it has "
            f"{listed(self.names)}."
        )


def read_columns(path: Path, encoding: str = "", skip_bad: bool = False) -> Columns:
    """Read a table by its content, whatever its name: Parquet, Feather or Arrow, delimited text, JSON lines, or gzip of
    any of these; or a folder of Parquet files as Hugging Face writes it.

    Args:
        encoding: of text; empty: found from the text.
        skip_bad: leave out rows with too many or too few cells.

    Raises:
        UserError: why it cannot be read.
    """
    if path.is_dir():
        text, arrow, notes = read_folder(path)
        return _checked(Columns(path, text, None, arrow, tuple(notes)))
    kind, content = kind_of(path)
    if kind not in ("text", "json"):
        text, arrow, notes = read_arrow(path, kind, content)
        return _checked(Columns(path, text, None, arrow, tuple(notes)))
    read = read_json if kind == "json" else read_delimited
    whole = content.getvalue() if content else path.read_bytes()
    text, lines, notes = read(path, whole, encoding, skip_bad)
    return _checked(Columns(path, text, lines, None, tuple(notes)))


def _checked(columns: Columns) -> Columns:
    """Refuse a NUL, which NumPy drops at the end of a value, and half a character, which JSON can hold."""
    for name, values in columns.text.items():
        if NO_TEXT.search(name):
            raise UserError(f"{columns.path} has a column {name!r}, whose name is not text; rename it.")
        if NO_TEXT.search("".join(values)):
            row = next(row for row, value in enumerate(values) if NO_TEXT.search(value))
            kind = "a NUL" if "\0" in values[row] else "half a"
            raise UserError(f"{columns.where(row)}: column {name!r} holds {kind} character; remove it.")
    return columns


def table_digest(path: Path) -> str:
    """SHA-256 of the content of a table, in hex; of a folder, of its files and their names."""
    if not path.is_dir():
        return file_digest(path)
    digests = [(file.relative_to(path).as_posix(), file_digest(file)) for file in folder_files(path)]
    return hashlib.sha256(repr(digests).encode()).hexdigest()
