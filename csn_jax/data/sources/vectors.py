"""Feature vectors of a table: a column of a Parquet file, or an .npy or .npz file beside it."""

from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.data.columns import Columns
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean, first_sentence, listed

CHUNK = 4096  # vectors checked together


def read_vectors(columns: Columns, name: str, ids: list[str], flag: str = "config.data.vectors") -> np.ndarray:
    """The vectors of a table's N items: float32 [N, F], memory-mapped if an .npy file holds float32.

    Args:
        name: a column, or a file beside the table.
        ids: of the items, for an .npz file with ids of its own.
        flag: the setting that gives the name, for messages.

    Raises:
        UserError: for missing vectors, unequal lengths, values that are not finite, or another number of vectors.
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
        columns.column(name, flag)  # reports a missing column
        raise UserError(
            f"{flag}={name} is a column of {columns.path}, and a CSV file cannot hold vectors; give a Parquet file, or "
            "an .npy or .npz file beside the table."
        )
    if name not in columns.arrow.column_names:
        columns.column(name, flag)
    column = columns.arrow[name]
    kind = column.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise UserError(f"column {name!r} of {columns.path} holds {kind}; {flag} needs one list of numbers per row.")
    lengths = np.array(column.combine_chunks().value_lengths().fill_null(-1).to_numpy(zero_copy_only=False))
    usual = int(np.bincount(lengths[lengths > 0]).argmax()) if (lengths > 0).any() else 0
    for row in np.flatnonzero(lengths != (usual or -2))[:1].tolist():
        vector = "no vector" if lengths[row] <= 0 else f"a vector of {lengths[row]} numbers"
        others = f" and the others have {usual}" if usual else ""
        raise UserError(f"{columns.where(row)} has {vector}{others}; embed that item again, or remove it.")
    # A null among the numbers becomes NaN.
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False) for chunk in column.chunks]
    return np.concatenate(parts).reshape(len(lengths), -1)


def _from_file(columns: Columns, path: Path, ids: list[str], flag: str) -> np.ndarray:
    named = None
    try:
        if path.suffix.lower() == ".npy":
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with open(path, "rb") as file:  # NumPy does not close a file that is not an archive
                vectors, named = _from_archive(path, np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise UserError(
            f"{flag} names {path}, which does not exist; put it beside the table, or name a column."
        ) from None
    except UserError:
        raise
    except Exception as error:  # on a damaged file zip, zlib and NumPy raise a dozen types
        message = first_sentence(error)
        raise UserError(f"{path} cannot be read as vectors ({message}); save them with numpy.save.") from None
    if vectors.ndim != 2 or not (np.issubdtype(vectors.dtype, np.floating) or np.issubdtype(vectors.dtype, np.integer)):
        raise UserError(
            f"{path} holds an array {list(vectors.shape)} of {vectors.dtype}; give one vector of numbers per row."
        )
    if named is not None and len(named) == len(vectors):
        return vectors[_rows_of(columns, path, named, ids)].astype(np.float32, copy=False)
    if len(vectors) != len(columns):
        raise UserError(
            f"{path} has {len(vectors)} vectors and {columns.path} {len(columns)} rows; give one vector per row."
        )
    return vectors if vectors.dtype == np.float32 else vectors.astype(np.float32)


def _from_archive(path: Path, archive: Any) -> tuple[np.ndarray, list[str] | None]:
    """(vectors, their ids or None) of an .npz file: its array `vectors`, or the only array with two axes."""
    if isinstance(archive, np.ndarray):
        return archive, None  # an .npy file named .npz
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of another member
            raise ValueError(f"its member {name!r} is not an array")
    named = arrays.get("ids")
    wide = [name for name, array in arrays.items() if array.ndim == 2]
    name = "vectors" if "vectors" in arrays else wide[0] if len(wide) == 1 else None
    if name is None:
        raise UserError(f"{path} holds the arrays {listed(arrays) or '(none)'}; call the array of vectors `vectors`.")
    return arrays[name], None if named is None else list(map(str, named.ravel().tolist()))


def _rows_of(columns: Columns, path: Path, named: list[str], ids: list[str]) -> np.ndarray:
    """The row of each item in a file with ids of its own."""
    rows = {name: row for row, name in enumerate(named)}
    for row, name in enumerate(ids):
        if name not in rows:
            raise UserError(
                f"{columns.where(row)}: item {name!r}{did_you_mean(name, rows)} is not in the array `ids` of {path}; "
                "embed it too, or remove the row."
            )
    return np.array([rows[name] for name in ids])
