"""The pictures of a table's rows: files that a column or a template names, or bytes inside the table."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from csn_jax.data.arrow_tables import read_column
from csn_jax.data.columns import Columns
from csn_jax.data.images import UNNAMED, Source, resolve
from csn_jax.data.item_set import Pictures
from csn_jax.errors import UserError

FIELD = re.compile(r"\{([^{}]+)\}")  # a column in a template such as images/{id}.jpg
URL = re.compile(r"[a-z][a-z0-9+.-]+://|//", re.IGNORECASE)
TEXT = re.compile(r"data:|/9j/|iVBORw0KGgo|UklGR")  # the beginnings of pictures in base64
OUTSIDE = "lies outside"
SAMPLE = 1000  # rows of which a picture must exist for pictures to be shown


class TablePictures(NamedTuple):
    """The pictures of N rows.

    names: [N] as the table writes them; the empty string for a row without a picture.
    folder: where paths start.
    where: as in Pictures.
    contents: [N] pyarrow scalars with the bytes of the pictures, if they are inside the table; one may be null.
    """

    names: list[str]
    folder: Path
    where: dict[str, str]
    contents: list[Any] | None = None

    def ids(self, of_vectors: bool) -> list[str] | None:
        """The names, if they can be ids: those of files; those of bytes if all are there and differ, unless the items
        are vectors, which had no pictures once."""
        differ = all(self.names) and len(set(self.names)) == len(self.names)
        return self.names if self.contents is None or (differ and not of_vectors) else None

    def sources(self, rows: Iterable[int]) -> Iterator[tuple[Source | None, str | None]]:
        """Of each row (its picture, None), or (None, what is wrong with it)."""
        folders: dict[str, Path | None] = {}
        for row in rows:
            if self.contents and self.contents[row].is_valid:
                yield self.contents[row], None
                continue
            name = self.names[row]
            path = _resolved(self.folder, name, folders) if name and len(name) < 4096 else None
            fault = _fault(name, path, self.folder)
            yield (None, fault) if fault else (path, None)

    def exist(self) -> bool:
        """Whether at least one of the pictures exists, by a sample."""
        rows = np.unique(np.linspace(0, len(self.names) - 1, SAMPLE).astype(int)).tolist()
        sources = (source for source, _ in self.sources(rows))
        return any(not isinstance(source, Path) or source.is_file() for source in sources if source is not None)

    def kept(self, rows: np.ndarray, id_column: str) -> Pictures:
        """The place of the pictures of some rows."""
        if self.contents is not None:
            return Pictures(self.where, np.array([str(row + 1) for row in rows.tolist()], object))
        if id_column == self.where["image"]:
            return Pictures({name: value for name, value in self.where.items() if name != "image"})
        return Pictures(self.where, np.array(self.names, object)[rows])


def pictures_beside(columns: Columns, image: str) -> TablePictures | None:
    """The pictures of a table of vectors; None if it has no such column."""
    try:
        return find_pictures(columns, image)
    except UserError:
        return None


def find_pictures(columns: Columns, image: str, setting: str = "config.data.image") -> TablePictures:
    """The pictures in the column `image`, or at the paths of a template such as images/{id}.jpg. UserError if there is
    no such column, or it holds neither text nor bytes."""
    folder = columns.folder.resolve()
    where = {"kind": "table", "root": str(folder), "image": image}
    if image not in columns.text and (fields := FIELD.findall(image)):
        cells = {field: columns.column(field, setting) for field in fields}
        rows = zip(*cells.values(), strict=True)
        names = [_filled(image, dict(zip(cells, row, strict=True))) if all(row) else "" for row in rows]
        return TablePictures(names, folder, where)
    in_arrow = columns.arrow is not None and image in columns.arrow.column_names
    if image not in columns.text and in_arrow and (contents := _contents(columns.arrow[image])):
        names, scalars = contents
        where |= {"kind": "bytes", "root": str(columns.path.resolve())}
        return TablePictures(names, folder, where, scalars)
    return TablePictures(columns.column(image, setting), folder, where)


def read_contents(path: Path, image: str, rows: list[int]) -> list[Source | None]:
    """The pictures inside a table, of rows counted from 0; None where there is none, or the table is gone."""
    try:
        contents = _contents(read_column(path, image))
    except (UserError, KeyError):
        contents = None
    if contents is None:
        return [None] * len(rows)
    names, scalars = contents
    found = TablePictures(names, path if path.is_dir() else path.parent, {}, scalars)
    there = iter(found.sources(row for row in rows if row < len(names)))
    return [next(there)[0] if row < len(names) else None for row in rows]


def _filled(template: str, cells: dict[str, str]) -> str:
    return FIELD.sub(lambda match: cells[match[1]], template)


def _contents(column: Any) -> tuple[list[str], list[Any]] | None:
    """(names, scalars of bytes) of a column of bytes, or of bytes with a path, as Hugging Face writes it."""
    from pyarrow import compute, types

    names = [""] * len(column)
    if types.is_struct(column.type):
        fields = {field.name for field in column.type}
        if "bytes" not in fields:
            return None
        if "path" in fields:
            names = _texts(compute.struct_field(column, "path"))
        column = compute.struct_field(column, "bytes")
        column = column.cast("binary") if types.is_null(column.type) else column  # paths alone
    kind = column.type
    if not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)):
        return None
    return names, [scalar for chunk in column.chunks for scalar in chunk]


def _texts(column: Any) -> list[str]:
    """Paths as text; one that is not text, or could not be a path, as the empty string."""
    texts = []
    for scalar in column:
        try:
            text = scalar.as_py() or ""
        except UnicodeDecodeError:  # Arrow takes any bytes as text
            text = ""
        texts.append(text if isinstance(text, str) and "\0" not in text else "")
    return texts


def _resolved(folder: Path, name: str, folders: dict[str, Path | None]) -> Path | None:
    """`resolve`, which takes long. The folders of files are resolved once each."""
    above, last = os.path.split(path := os.path.join(folder, name))
    if last in ("", ".", "..") or os.path.islink(path):
        return resolve(folder, name)
    if above not in folders:
        folders[above] = resolve(folder, above)
    return folders[above] and folders[above] / last


def _fault(name: str, path: Path | None, folder: Path) -> str | None:
    """What is wrong with a name, if that can be seen before the file is opened."""
    if not name:
        return UNNAMED
    if URL.match(name):
        return "is a URL, and pictures are read from files; download it and write its path"
    if TEXT.match(name):
        return "is a picture as text; store its bytes in a binary column of a Parquet file"
    if "\\" in name and not (path and path.is_file()):
        return f"is written with backslashes; write {name.replace(chr(92), '/')!r}, relative to the table"
    if path is None:
        return f"{OUTSIDE} {folder}; move the table to a folder above its images and write their paths from there"
    if "%" in name and not path.is_file() and (other := resolve(folder, unquote(name))) and other.is_file():
        return f"is missing, and the file is called {unquote(name)!r}; write it so"
    return None
