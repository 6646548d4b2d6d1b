"""Vectors in the cells of a table: lists, tensors, text such as `[0.1, 0.2]`, or one column per dimension."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csn_jax.data.columns import Columns
from csn_jax.errors import UserError
from csn_jax.text import listed

DEFAULT = "vector"  # the name in the preset; only this one stands for the next ones as well
OTHER_NAMES = (DEFAULT, "embedding", "embeddings", "vectors")  # in any case of letters
TELLING = ("dim", "vec", "vector", "emb", "embedding")  # names of dimensions, however few
NUMBERED = re.compile(r"(.*?)[_.\-\[]?(\d+)\]?")  # a name with the number of a dimension
FEWEST = 8  # numbered columns of any other name that are taken for a vector without being named
TEXTS = 4096  # read together
# What stands around the numbers: of JSON, pgvector, PostgreSQL, Python, NumPy and PyTorch.
AROUND = r"^\s*(array|tensor|c|Vector)?[\[\](){}\s]+|[\[\](){}\s]+(,\s*\w+=.*)?$"


class Cells(NamedTuple):
    """values: float32 [K, F] of the rows without a fault, float16 where a column holds that; faults: [N] what is wrong
    with a row's vector, or None."""

    values: np.ndarray
    faults: list[str | None]


def vector_columns(columns: Columns, name: str) -> tuple[str, ...]:
    """The columns of the vectors: the named one; or for the name `vector` its other names; or one per dimension. The
    tuple is empty if there are none, or a file is named. UserError if several could be meant."""
    if not name or is_file(name):
        return ()
    names = columns.names
    if name in names:
        return (name,)
    found = [(other,) for other in names if other.lower() in OTHER_NAMES] if name == DEFAULT else []
    families: dict[str, list[tuple[int, str]]] = {}
    for column in names:
        if match := NUMBERED.fullmatch(column):
            families.setdefault(match[1], []).append((int(match[2]), column))
    wanted, unnamed = name.rstrip("_.-["), name == DEFAULT and not found
    for prefix, family in families.items():
        numbers, ordered = zip(*sorted(family), strict=True)
        whole = numbers in (tuple(range(len(numbers))), tuple(range(1, len(numbers) + 1)))
        taken = prefix == wanted or (unnamed and (len(numbers) >= FEWEST or prefix.lower() in TELLING))
        if whole and taken and len(numbers) > 1 and all(_holds_numbers(columns, column) for column in ordered):
            found.append(ordered)
    if len(found) > 1:
        shown = [f"{group[0]} to {group[-1]}" if len(group) > 1 else group[0] for group in found]
        raise UserError(
            f"{columns.path} has no column {name!r} and several that may hold vectors: {listed(shown)}; name one with "
            f"--config.data.vectors={found[0][0] if len(found[0]) == 1 else NUMBERED.fullmatch(found[0][0])[1]}."
        )
    return found[0] if found else ()


def is_file(name: str) -> bool:
    """Whether data.vectors names a file beside the table."""
    return Path(name).suffix.lower() in (".npy", ".npz")


def _holds_numbers(columns: Columns, name: str) -> bool:
    """Whether the first known value of a column is a number."""
    first = next(filter(None, columns.text.get(name, ())), "")
    return _floats([first]) is not None


def read_cells(columns: Columns, names: tuple[str, ...], flag: str) -> Cells:
    """The vectors of one column, or of one column per dimension. UserError for a column that holds something else."""
    if len(names) > 1:
        return _of_numbers(columns, names)
    from pyarrow import types

    (name,) = names
    if columns.arrow is not None and name in columns.arrow.column_names:
        kind = given = columns.arrow.schema.field(name).type
        if _is_vector(kind):
            pieces = (batch[name] for batch in columns.arrow.batches([name]))
        elif name not in columns.text:  # tensors, and lists of lists
            column = _opened(columns.arrow[name])
            kind, pieces = column.type, column.chunks
        if _is_vector(kind):
            return _of_lists(pieces, len(columns), np.float16 if types.is_float16(kind.value_type) else np.float32, {})
        if name not in columns.text:
            raise UserError(f"column {name!r} of {columns.path} holds {given}; {flag} needs a list of numbers per row.")
    return _of_texts(columns, name, flag)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(is_one(kind) for is_one in lists)


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind)


def _is_vector(kind: Any) -> bool:
    return _is_list(kind) and _is_number(kind.value_type)


def _opened(column: Any) -> Any:
    """A column of tensors as lists, and one of lists of one vector each as vectors."""
    import pyarrow
    from pyarrow import compute

    if isinstance(column.type, pyarrow.BaseExtensionType):
        shape = getattr(column.type, "shape", ())
        if sum(side > 1 for side in shape) <= 1:
            storage = column.type.storage_type
            column = pyarrow.chunked_array([chunk.storage for chunk in column.chunks], storage)
    while _is_list(column.type) and _is_list(column.type.value_type):
        if compute.list_value_length(column).unique().to_pylist() != [1]:
            break
        column = pyarrow.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    return column


def _of_lists(pieces: Iterable[Any], n: int, dtype: type, faults: dict[int, str]) -> Cells:
    """The vectors of n rows, from Arrow arrays of lists. One of these is in memory at once.

    Args:
        dtype: of the values.
        faults: {row: what is wrong with it} of rows that hold null for another reason than a missing vector; complete
            when the pieces are.
    """
    from pyarrow import compute, types

    flat, filled, counts, rows = np.empty(0, dtype), 0, [np.zeros(0, int)], 0
    for piece in pieces:
        counts.append(compute.fill_null(compute.list_value_length(piece), 0).to_numpy(zero_copy_only=False))
        numbers = piece.flatten()  # without missing vectors; a null among the numbers becomes NaN
        numbers = numbers.cast("float64") if types.is_decimal(numbers.type) else numbers
        rows, needed = rows + len(piece), filled + len(numbers)
        if needed > len(flat):  # room for all rows, by the length of the vectors so far
            room = max(needed, math.ceil(needed / rows * n))
            flat = np.concatenate([flat[:filled], np.empty(room - filled, dtype)]) if filled else np.empty(room, dtype)
        with np.errstate(over="ignore"):  # a number that float32 cannot hold becomes infinite
            flat[filled:needed] = numbers.to_numpy(zero_copy_only=False)
        filled = needed
    lengths, flat = np.concatenate(counts).astype(int), flat[:filled]
    width, listed_faults = _of_other_length(lengths, faults)
    if (lengths[lengths > 0] == width).all():
        return Cells(flat.reshape(-1, width or 1), listed_faults)
    usable = np.repeat(lengths == width, lengths)
    return Cells(flat[usable].reshape(-1, width), listed_faults)


def _of_other_length(lengths: np.ndarray, faults: dict[int, str]) -> tuple[int, list[str | None]]:
    """(the usual one of the lengths [N], [N] the fault of each row: one that is known, another length, or None)."""
    usual = int(np.bincount(lengths[lengths > 0]).argmax()) if (lengths > 0).any() else 0
    others = f" and the others have {usual}" if usual else ""
    for row in np.flatnonzero((lengths != usual) | (lengths == 0)).tolist():
        vector = f"a vector of {lengths[row]} numbers" if lengths[row] else "no vector"
        faults.setdefault(row, f"has {vector}{others}")
    return usual, [faults.get(row) for row in range(len(lengths))]


def _of_numbers(columns: Columns, names: tuple[str, ...]) -> Cells:
    """One column per dimension."""
    values, faults = np.empty((len(columns), len(names))), {}
    known = () if columns.arrow is None else set(columns.arrow.column_names)
    table = columns.arrow.table([name for name in names if name in known]) if known else {}
    for i, name in enumerate(names):
        if name in known:
            values[:, i] = table[name].cast("float64").to_numpy()
            continue
        cells = columns.text[name]
        numbers = _floats(cells)
        for row, cell in enumerate(cells if numbers is None else ()):
            values[row, i] = np.nan if (number := _floats([cell])) is None else number[0]
            if number is None:
                faults[row] = f"has {_short(cell)} in column {name!r}, which is not a number"
        if numbers is not None:
            values[:, i] = numbers
    _, listed_faults = _of_other_length((~np.isnan(values)).sum(axis=1), faults)
    with np.errstate(over="ignore"):
        return Cells(values[[fault is None for fault in listed_faults]].astype(np.float32), listed_faults)


def _floats(cells: list[str]) -> np.ndarray | None:
    """Cells, perhaps with decimal commas, as float64, NaN for blank ones; None if one is not a number."""
    import pyarrow

    for change in (str, lambda cell: cell.replace(",", ".")):
        with suppress(pyarrow.ArrowInvalid):
            return pyarrow.array([change(cell) or None for cell in cells], "string").cast("float64").to_numpy(False)
    return None


def _of_texts(columns: Columns, name: str, flag: str) -> Cells:
    cells, faults = columns.text[name], {}
    found = _of_lists(_parsed(cells, faults), len(cells), np.float32, faults)
    if any(cells) and (not len(found.values) or found.values.shape[1] < 2):
        example = _short(next(filter(None, cells)))
        raise UserError(
            f"column {name!r} of {columns.path} holds texts such as {example}; {flag} needs a list of numbers per row."
        )
    return found


def _parsed(cells: list[str], faults: dict[int, str]) -> Iterator[Any]:
    """Texts as Arrow arrays of lists, piece by piece. Those that are not vectors are null, and are added to faults."""
    import pyarrow

    for first in range(0, len(cells), TEXTS):
        texts = cells[first : first + TEXTS]
        lists = _lists(texts)
        if lists is None:
            alone = [_lists([text]) for text in texts]
            for row, (text, numbers) in enumerate(zip(texts, alone, strict=True), start=first):
                if numbers is None:
                    faults[row] = f"has a vector that is cut or not made of numbers, {_short(text)}"
            none = pyarrow.array([None], pyarrow.list_(pyarrow.float32()))
            lists = pyarrow.concat_arrays([none if numbers is None else numbers for numbers in alone])
        yield lists


def _lists(texts: list[str]) -> Any:
    """Texts as an Arrow array of lists, null for blank ones; None if one is not a list of numbers."""
    import pyarrow
    from pyarrow import compute

    array, lists = pyarrow.array([text or None for text in texts], "large_string"), pyarrow.list_(pyarrow.float32())
    between = ", " if ", " in next(filter(None, texts), "") else ","
    with suppress(pyarrow.ArrowInvalid):  # the usual spelling, three times as fast
        return compute.split_pattern(compute.utf8_trim(array, "[]"), between).cast(lists)
    change = compute.replace_substring_regex
    plain = change(change(array, r"np\.float\d+\(([^)]*)\)", r"\1"), AROUND, "")
    # One text has one kind of separator. Commas beside semicolons are decimal; beside mere spaces, they are not read.
    decimal = change(change(plain, ",", "."), "[;|]", ",")
    plain = compute.if_else(compute.match_substring_regex(plain, "[;|]"), decimal, plain)
    plain = compute.if_else(compute.match_substring(plain, ","), plain, change(plain, r"\s+", ","))
    with suppress(pyarrow.ArrowInvalid):
        return compute.split_pattern_regex(plain, r"\s*,\s*").cast(lists)
    return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:25]} ... {text[-10:]}")
