"""Arrow tables (Parquet, Feather, a folder of Hugging Face): columns of text, and others that are read when needed."""

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csn_jax.data.file_kinds import kind_of
from csn_jax.data.notations import number_text, stripped
from csn_jax.errors import UserError
from csn_jax.text import first_sentence, listed

BATCH = 1 << 12  # rows decoded together: all vectors of a file at once take five times their memory
IN_PIECES = {"pre_buffer": False, "buffer_size": 1 << 16}  # otherwise Arrow keeps all that it has read
INDEX = "__index_level_0__"  # the row numbers of pandas
HIDDEN = re.compile(r"(^|/)(\.|cache-)")  # hidden, and what Hugging Face computed from the data
NAMES = {"parquet": "Parquet", "arrow": "Arrow or Feather", "arrow stream": "Arrow"}
# The splits of Hugging Face, in the order in which their rows are read.
SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
SPLITS["test"] = "test"


class ArrowTable(NamedTuple):
    """A table of Arrow. What lies in a Parquet file is decoded when it is asked for: vectors may be most of the RAM."""

    schema: Any
    num_rows: int
    batches: Callable[[Sequence[str]], Iterator[Any]]  # of columns, piece by piece as a pyarrow.RecordBatch

    @property
    def column_names(self) -> list[str]:
        return self.schema.names

    def table(self, names: Sequence[str]) -> Any:
        """Columns as a pyarrow.Table."""
        import pyarrow

        schema = pyarrow.schema([self.schema.field(name) for name in names])
        columns = ([batch[name] for name in names] for batch in self.batches(names))
        batches = [pyarrow.RecordBatch.from_arrays(arrays, names) for arrays in columns]
        return pyarrow.Table.from_batches(batches) if batches else schema.empty_table()

    def __getitem__(self, name: str) -> Any:
        """A column as a pyarrow.ChunkedArray."""
        return self.table([name]).column(0)


# {column: N values} of all that hold text or numbers, the table, what was left out, one line each.
Read = tuple[dict[str, list[str]], ArrowTable, list[str]]


def in_memory(table: Any) -> ArrowTable:
    """A pyarrow.Table as an ArrowTable."""
    return ArrowTable(table.schema, table.num_rows, lambda names: iter(table.select(names).to_batches()))


def read_arrow(path: Path, kind: str, content: io.BytesIO | None) -> Read:
    """A Parquet, Feather or Arrow file. UserError if it is damaged."""
    from pyarrow import types

    table, notes = _table(path, kind, content), []
    names = table.column_names
    if len(names) > 1 and INDEX in names and types.is_integer(table.schema.field(INDEX).type):
        table = table._replace(schema=table.schema.remove(table.schema.get_field_index(INDEX)))
        notes = ["the index of pandas is left out"]
    return _columns(path, kind, table, notes), table, notes


def read_folder(folder: Path) -> Read:
    """All files of a folder as one table. Their splits, if they are all three, become a column `split`."""
    files, tables, splits = folder_files(folder), [], []
    for path in files:
        kind, content = kind_of(path)
        if kind not in NAMES:
            raise UserError(f"{path} is not a Parquet file; remove it from the folder.")
        tables.append(_table(path, kind, content))
        splits += [_split_of(path, folder)] * tables[-1].num_rows
    table, notes = _joined(folder, tables), [f"read {len(files):,} files of {folder}"]
    text = _columns(folder, kind, table, notes)
    found = set(splits)
    if found == set(SPLITS.values()) and "split" not in text:
        text["split"] = splits
    elif found != {""}:
        named = listed(sorted(found - {""}))
        notes.append(f"the folder has the splits {named}, which are not all of three: its items are split anew")
    return text, table, notes


def _joined(folder: Path, tables: list[ArrowTable]) -> ArrowTable:
    """Tables one below the other. A column that some of them lack, or have without a type, is null there."""
    import pyarrow

    try:
        schema = pyarrow.unify_schemas([table.schema for table in tables], promote_options="default")
    except pyarrow.ArrowException as error:
        message = first_sentence(error)
        raise UserError(f"the files of {folder} have different columns ({message}); give one data set.") from None

    def batches(names: Sequence[str]) -> Iterator[Any]:
        target = pyarrow.schema([schema.field(name) for name in names])
        for table in tables:
            known = [name for name in names if name in table.column_names]
            for batch in table.batches(known) if known else (range(table.num_rows),):
                arrays = [
                    _as(batch[name], kind) if name in known else pyarrow.nulls(len(batch), kind)
                    for name, kind in zip(names, target.types, strict=True)
                ]
                yield pyarrow.RecordBatch.from_arrays(arrays, schema=target)

    return ArrowTable(schema, sum(table.num_rows for table in tables), batches)


def _as(array: Any, kind: Any) -> Any:
    return array if array.type == kind else array.cast(kind)


def folder_files(folder: Path) -> list[Path]:
    """The Parquet and Arrow files in a folder and up to two levels below it, by split and name. UserError if none."""
    patterns = [f"{deep}.{ending}" for deep in ("*", "*/*", "*/*/*") for ending in ("parquet", "arrow")]
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    found = [path for path in found if not HIDDEN.search(path.relative_to(folder).as_posix())]
    if not found:
        raise UserError(
            f"{folder} is a folder without Parquet files; give a CSV or Parquet table, or for pictures the "
            "file of csn_jax embed --encoder=efficientnet_lite0 --images=FOLDER."
        )
    order = ["", *dict.fromkeys(SPLITS.values())]
    return sorted(found, key=lambda path: order.index(_split_of(path, folder)))


def _split_of(path: Path, folder: Path) -> str:
    """The split that the name of a file or of its folder begins with; empty if they name none."""
    for part in reversed(path.relative_to(folder).parts):
        if (word := part.lower().partition("-")[0].partition(".")[0]) in SPLITS:
            return SPLITS[word]
    return ""


def read_column(path: Path, name: str) -> Any:
    """One column of a file or folder as a pyarrow.ChunkedArray. Of Parquet, nothing else is read."""
    if path.is_dir():
        return _joined(path, [_table(file, *kind_of(file)) for file in folder_files(path)])[name]
    return _table(path, *kind_of(path))[name]


def _table(path: Path, kind: str, content: io.BytesIO | None) -> ArrowTable:
    import pyarrow.parquet  # takes 0.3 s

    faults = (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError)
    try:
        if kind == "parquet":
            with pyarrow.parquet.ParquetFile(content or str(path)) as file:
                schema, n = file.schema_arrow, file.metadata.num_rows
        else:
            with content or open(path, "rb") as file:
                table = (pyarrow.ipc.open_file if kind == "arrow" else pyarrow.ipc.open_stream)(file).read_all()
                table.validate(full=True)  # Arrow trusts the offsets of a file, and reads outside of it
                return in_memory(table)
    except faults as error:
        raise _damaged(path, kind, error) from None

    def batches(names: Sequence[str]) -> Iterator[Any]:
        left = n
        try:
            with pyarrow.parquet.ParquetFile(content or str(path), **IN_PIECES) as file:
                for batch in file.iter_batches(BATCH, columns=names) if names else ():
                    left -= len(batch)
                    yield batch
        except faults as error:
            raise _damaged(path, kind, error) from None
        if names and left:
            raise UserError(f"{path} changed while it was read; run the command again.")

    return ArrowTable(schema, n, batches)


def _damaged(path: Path, kind: str, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read as {NAMES[kind]} ({first_sentence(error)}); give a whole {NAMES[kind]} file."
    )


def _columns(path: Path, kind: str, table: ArrowTable, notes: list[str]) -> dict[str, list[str]]:
    from pyarrow import ArrowException

    names = table.column_names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} has two columns named {twice!r}; give each its own name.")
    classes = _class_names(table.schema)
    try:
        empty = table.schema.empty_table()
        names = [name for name in names if as_text(empty[name], classes.get(name)) is not None]
        read = table.table(names)
        text = {name: as_text(read[name], classes.get(name)) for name in names}
        for name in names:
            _note_spaces(name, read[name], notes)
    except (ArrowException, UnicodeDecodeError, OSError) as error:  # Arrow takes any bytes as text
        raise _damaged(path, kind, error) from None
    return text


def _note_spaces(name: str, column: Any, notes: list[str]) -> None:
    import pyarrow
    from pyarrow import compute

    if _is_text(column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type):
        column = column.cast(pyarrow.large_string())
        if compute.any(compute.not_equal(column, compute.utf8_trim_whitespace(column))).as_py():
            stripped(name, [value or "" for value in column.to_pylist()], notes)


def _class_names(schema: Any) -> dict[str, list[str]]:
    """{column: the names of its classes}: a data set of Hugging Face stores their numbers."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        kinds = {name: one for name, one in features.items() if isinstance(one, dict)}
        return {name: list(map(str, one["names"])) for name, one in kinds.items() if one.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def as_text(column: Any, class_names: list[str] | None = None) -> list[str] | None:
    """An Arrow column as text, lists of text with `;` between the members; None for neither text nor numbers.

    Args:
        class_names: of the numbers from 0; one outside of them is unknown.
    """
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_null(kind) or _is_text(kind) or isinstance(kind, pyarrow.JsonType):
        return _stripped(column)
    if types.is_boolean(kind):
        return [{True: "true", False: "false", None: ""}[value] for value in column.to_pylist()]
    if types.is_floating(kind):
        return ["" if value is None or value != value else number_text(float(value)) for value in column.to_pylist()]
    if types.is_integer(kind) and class_names:
        known = dict(enumerate(class_names))
        return [known.get(value, "") for value in column.to_pylist()]
    if types.is_duration(kind):  # in seconds, as numbers can be compared
        per_second = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        return ["" if value is None else number_text(value / per_second) for value in column.cast("int64").to_pylist()]
    if types.is_primitive(kind) or types.is_decimal(kind) or isinstance(kind, pyarrow.UuidType):
        try:  # whole numbers, dates, times
            return ["" if value is None else str(value) for value in column.to_pylist()]
        except (ValueError, OverflowError):  # nanoseconds, and years that Python does not have
            return [value or "" for value in column.cast("string").to_pylist()]
    if _is_list(kind) and (_is_text(kind.value_type) or types.is_dictionary(kind.value_type)):
        member_text = lambda member: "" if member is None else str(member).replace(";", ",")  # noqa: E731
        return [";".join(map(member_text, value or [])) for value in column.to_pylist()]
    return None


def _stripped(column: Any) -> list[str]:
    """Texts without outer spaces, null as the empty string. Equal values share one object: a million rows of an
    attribute hold some dozen."""
    if not _is_text(column.type):
        return [(value or "").strip() for value in column.to_pylist()]
    coded = column.cast("large_string").combine_chunks().dictionary_encode()
    values = np.array([*(text.strip() for text in coded.dictionary.to_pylist()), ""], object)
    return values[coded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)].tolist()


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(is_one(kind) for is_one in lists)
