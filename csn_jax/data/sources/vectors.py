"""Feature vectors of a table: a column of a Parquet file, or an .npy or .npz file beside it."""

from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.data.columns import Columns
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

CHUNK = 4096  # vectors looked at together


def read_vectors(columns: Columns, name: str, ids: list[str], flag: str = "config.data.vectors") -> np.ndarray:
    """The vectors of a table's N items: float32 [N, F], memory-mapped where the file holds just that.

    Args:
        columns: the table.
        name: config.data.vectors: a column, or a file name, which is looked up beside the table.
        ids: of the items, for an .npz file that names its own.
        flag: what gives the name, for messages.

    Raises:
        UserError: for vectors that are missing, unequal in length, not finite, or too few or many, naming the row.
    """
    if Path(name).suffix.lower() in (".npy", ".npz"):
        vectors = _from_file(columns, columns.path.parent / Path(name).expanduser(), ids, flag)
    else:
        vectors = _from_column(columns, name, flag)
    for start in range(0, len(vectors), CHUNK):
        wrong = np.flatnonzero(~np.isfinite(vectors[start : start + CHUNK]).all(axis=1))
        if len(wrong):
            place = columns.where(start + int(wrong[0]))
            raise UserError(f"{place}: its vector holds NaN or infinity; embed that item again, or remove it.")
    return vectors


def _from_column(columns: Columns, name: str, flag: str) -> np.ndarray:
    from pyarrow import types

    if columns.arrow is None:
        columns.column(name, flag)  # tells a missing column first
        raise UserError(
            f"{flag}={name} is a column of the CSV file {columns.path}, which holds no vectors; give a "
            "Parquet file, or an .npy or .npz file beside the table."
        )
    if name not in columns.arrow.column_names:
        near = did_you_mean(name, columns.arrow.column_names)
        raise UserError(
            f"{columns.path} has no column {name!r}{near}, which {flag} names; it has "
            f"{', '.join(columns.arrow.column_names)}."
        )
    column = columns.arrow[name]
    kind = column.type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise UserError(f"column {name!r} of {columns.path} holds {kind}; {flag} needs a list of numbers in each row.")
    lengths = np.array(column.combine_chunks().value_lengths().fill_null(-1).to_numpy(zero_copy_only=False))
    _check_lengths(columns, lengths)
    parts = [_flat(chunk) for chunk in column.chunks]
    return np.concatenate(parts).astype(np.float32, copy=False).reshape(len(lengths), -1)


def _flat(chunk: Any) -> np.ndarray:
    """The numbers of an arrow list array, a null among them as NaN."""
    values = chunk.flatten()
    return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def _check_lengths(columns: Columns, lengths: np.ndarray) -> None:
    usual = int(np.bincount(lengths[lengths > 0]).argmax()) if (lengths > 0).any() else 0
    for row in np.flatnonzero(lengths != (usual or -2))[:1].tolist():
        what = "no vector" if lengths[row] <= 0 else f"a vector of {lengths[row]} numbers"
        rest = f" where the others have {usual}" if usual else ""
        raise UserError(f"{columns.where(row)} has {what}{rest}; embed that item again, or remove it.")


def _from_file(columns: Columns, path: Path, ids: list[str], flag: str) -> np.ndarray:
    named = None
    try:
        if path.suffix.lower() == ".npy":
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with open(path, "rb") as file:  # NumPy forgets to close what is no archive
                vectors, named = _from_archive(path, np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise UserError(
            f"{flag} names {path}, which is not there; put it beside the table, or name a column."
        ) from None
    except UserError:
        raise
    except Exception as error:  # a damaged file shows as any of a dozen kinds: of zip, zlib, and of NumPy's reader
        told = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise UserError(f"{path} cannot be read as vectors ({told}); save them with numpy.save.") from None
    if vectors.ndim != 2 or not (np.issubdtype(vectors.dtype, np.floating) or np.issubdtype(vectors.dtype, np.integer)):
        raise UserError(
            f"{path} holds an array {list(vectors.shape)} of {vectors.dtype}; give one vector of numbers a row."
        )
    if named is not None and len(named) == len(vectors):
        return vectors[_rows_of(columns, path, named, ids)].astype(np.float32, copy=False)
    if len(vectors) != len(columns):
        raise UserError(
            f"{path} has {len(vectors)} vectors and {columns.path} {len(columns)} rows; give one vector for each row."
        )
    return vectors if vectors.dtype == np.float32 else vectors.astype(np.float32)


def _from_archive(path: Path, archive: Any) -> tuple[np.ndarray, list[str] | None]:
    """(vectors, the ids beside them or None) of an .npz file: its array `vectors`, or the only one of two axes."""
    if isinstance(archive, np.ndarray):
        return archive, None  # an .npy file by another name
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:  # NumPy gives its bytes
        raise ValueError(f"its member {strange[0]!r} is no array")
    named = arrays.get("ids")
    wide = [name for name, array in arrays.items() if array.ndim == 2]
    name = "vectors" if "vectors" in arrays else wide[0] if len(wide) == 1 else None
    if name is None:
        raise UserError(f"{path} holds the arrays {', '.join(arrays) or '(none)'}; name the one of vectors `vectors`.")
    return arrays[name], None if named is None else [str(one) for one in named.ravel().tolist()]


def _rows_of(columns: Columns, path: Path, named: list[str], ids: list[str]) -> np.ndarray:
    """The row of each item in a file that names its vectors."""
    rows = {one: row for row, one in enumerate(named)}
    for row, one in enumerate(ids):
        if one not in rows:
            raise UserError(
                f"{columns.where(row)}: item {one!r}{did_you_mean(one, rows)} has no vector in {path}, whose array "
                "`ids` names other items; embed it too, or remove the row."
            )
    return np.array([rows[one] for one in ids])
