"""Feature vectors of a table's items: in its cells, or in an .npy or .npz file beside it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csn_jax.config import DataConfig
from csn_jax.data.columns import Columns
from csn_jax.data.sources.vector_cells import Cells, is_file, read_cells, vector_columns
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean, first_sentence, listed

CHUNK = 4096  # vectors checked together
LARGEST = 1e15  # the sum of squares of 100,000 such numbers is one of float32
IDS = "ids"  # the array of an .npz file that names its vectors, unless data.vector_ids names another


class Vectors(NamedTuple):
    """The vectors of a table's N items.

    values: float32 or float16 [K, F] of the usable ones, memory-mapped if an .npy file holds one of these and all are
        usable. Vectors of 16 bits stay so: consumers take them piece by piece.
    faults: [N] what is wrong with each item's vector, or None.
    notes: how vectors and rows belong together, one line each.
    """

    values: np.ndarray
    faults: list[str | None]
    notes: tuple[str, ...]


def read_vectors(columns: Columns, data: DataConfig, ids: list[str], flag: str = "config.data.vectors") -> Vectors:
    """Read the vectors that `data.vectors` names: a column, columns of numbers, or a file beside the table.

    Args:
        ids: of the items, by which an .npz file names its vectors.
        flag: the setting that gives the name, for messages.

    Raises:
        UserError: for a missing or unusable column or file, or when it cannot be known which vector is whose.
    """
    if is_file(data.vectors):
        cells, notes = _from_file(columns, columns.folder / Path(data.vectors).expanduser(), ids, data, flag)
    else:
        names = vector_columns(columns, data.vectors)
        if not names:
            _refuse_other_file(columns.folder / data.vectors)
            columns.column(data.vectors, flag)  # reports a missing column
        cells, notes = read_cells(columns, names, flag), ()
        if len(names) > 1:
            notes = (f"vectors: the {len(names)} columns {names[0]} to {names[-1]}",)
        elif names[0] != data.vectors:
            notes = (f"vectors: the column {names[0]}, as there is no column {data.vectors}",)
    values, faults = cells
    usable = np.ones(len(values), bool)
    for start in range(0, len(values), CHUNK):
        piece = values[start : start + CHUNK]
        if piece.dtype == np.float16:  # whose minimum is slow, and whose numbers are small
            usable[start : start + CHUNK] = np.isfinite(piece).all(axis=1)
        else:  # NaN is the minimum wherever it is, and fails
            usable[start : start + CHUNK] = (piece.min(axis=1) >= -LARGEST) & (piece.max(axis=1) <= LARGEST)
    if usable.all():
        return Vectors(values, faults, notes)
    rows = [row for row, fault in enumerate(faults) if fault is None]
    for i in np.flatnonzero(~usable).tolist():
        what = f"a number beyond {LARGEST:g}" if np.isfinite(values[i]).all() else "NaN or infinity"
        faults[rows[i]] = f"has {what} in its vector"
    return Vectors(values[usable], faults, notes)


def _as_floats(vectors: np.ndarray) -> np.ndarray:
    """Numbers as float16, if they are that, or float32; without a copy where possible. Too large ones are infinite."""
    half = vectors.dtype.kind == "f" and vectors.dtype.itemsize == 2
    with np.errstate(over="ignore"):
        return vectors.astype(np.float16 if half else np.float32, copy=False)


def _refuse_other_file(path: Path) -> None:
    if path.suffix and path.is_file():
        raise UserError(f"{path} is not an .npy or .npz file; save its vectors with numpy.save.")


def _from_file(
    columns: Columns, path: Path, ids: list[str], data: DataConfig, flag: str
) -> tuple[Cells, tuple[str, ...]]:
    named = None
    try:
        if path.suffix.lower() == ".npy":
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with open(path, "rb") as file:  # NumPy does not close a file that is not an archive
                vectors, named = _from_archive(path, np.load(file, allow_pickle=False), data.vector_ids)
    except FileNotFoundError:
        raise UserError(
            f"{flag} names {path}, which does not exist; put it beside the table, or name a column."
        ) from None
    except (UserError, PermissionError):
        raise
    except Exception as error:  # on a damaged file zip, zlib and NumPy raise a dozen types
        message = first_sentence(error)
        remedy = "save them with numpy.save"
        if "allow_pickle" in message:
            message, remedy = "it holds Python objects", "save vectors as numbers, and names by ids.astype(str)"
        raise UserError(f"{path} cannot be read as vectors ({message}); {remedy}.") from None
    if vectors.ndim != 2 or not (np.issubdtype(vectors.dtype, np.floating) or np.issubdtype(vectors.dtype, np.integer)):
        nameless = vectors.dtype.kind == "V" and vectors.dtype.names is None and vectors.dtype.itemsize < 4
        kind = f"{vectors.dtype}, as NumPy writes bfloat16 and float8" if nameless else vectors.dtype
        remedy = "save them with .astype('float32')" if nameless else "give one vector of numbers per row"
        raise UserError(f"{path} holds an array {list(vectors.shape)} of {kind}; {remedy}.")
    if named is not None:
        return _by_name(columns, path, vectors, named, ids, data)
    if len(vectors) != len(columns):
        raise UserError(
            f"{path} has {len(vectors)} vectors and {columns.path} {len(columns)} rows; give one vector per row."
        )
    notes = (f"vectors: row by row from {path.name}, which names no items",)
    return Cells(_as_floats(vectors), [None] * len(vectors)), notes


def _from_archive(path: Path, archive: Any, wanted: str) -> tuple[np.ndarray, list[str] | None]:
    """(vectors, their ids) of an .npz file: its array `vectors`, or the only array with two axes, and the array of ids;
    (vectors, None) of an .npy file that is named .npz. A UserError if it cannot be known whose the vectors are."""
    if isinstance(archive, np.ndarray):
        return archive, None
    names_of = wanted or IDS
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of another member
            raise ValueError(f"its member {name!r} is not an array")
    wide = [name for name, array in arrays.items() if array.ndim == 2 and name != names_of]
    name = "vectors" if "vectors" in arrays else wide[0] if len(wide) == 1 else None
    if name is None:
        raise UserError(f"{path} holds the arrays {listed(arrays) or '(none)'}; call the array of vectors `vectors`.")
    vectors = arrays.pop(name)
    named = arrays.get(names_of)
    if named is None:
        like = [other for other, array in arrays.items() if array.size == len(vectors)]
        problem, setting = f"{path} has no array `{names_of}`", "--config.data.vector_ids"
        if wanted or like:
            raise UserError(
                f"{problem}, and {name} and {listed(arrays) or 'nothing else'}; name the array of the items' ids by "
                f"{setting}{f'={like[0]}' if like else ''}, or call it `ids`."
            )
        raise UserError(f"{problem} that says whose its vectors are; add it, or give an .npy file, read row by row.")
    if named.size != len(vectors):
        raise UserError(
            f"{path} has {len(vectors)} vectors and {named.size} names in its array `{names_of}`; write both again."
        )
    texts = named.ravel().tolist()
    return vectors, [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in texts]


def _by_name(
    columns: Columns, path: Path, vectors: np.ndarray, named: list[str], ids: list[str], data: DataConfig
) -> tuple[Cells, tuple[str, ...]]:
    """The vectors of a file that names them by the items' ids."""
    array = data.vector_ids or IDS
    rows: dict[str, int] = {}
    for row, name in enumerate(named):
        if rows.setdefault(name, row) != row:
            raise UserError(
                f"{path} has two vectors of {name!r}: {rows[name] + 1} and {row + 1} of `{array}`; remove one."
            )
    found = [rows[name] for name in ids if name in rows]
    if not found:
        raise UserError(
            f"no item of {columns.path} is in the array `{array}` of {path}: that names {listed(named[:1]) or 'none'}, "
            f"and the table {ids[0]}; name the column of these ids with --config.data.id."
        )
    near = did_you_mean(next((name for name in ids if name not in rows), ""), rows)
    faults: list[str | None] = []
    for name in ids:
        missing = f"has no vector: item {name!r}{near} is not in the array `{array}` of {path}"
        near = "" if name not in rows else near
        faults.append(None if name in rows else missing)
    notes = [f"vectors: by the array {array} of {path.name}"]
    if len(named) > len(found):
        notes.append(f"{len(named) - len(found):,} vectors of {path.name} belong to no row of the table")
    in_order = found == list(range(len(vectors)))
    return Cells(_as_floats(vectors if in_order else vectors[found]), faults), tuple(notes)
