"""The file of vectors that `embed` writes and `Index` opens: Parquet or npz, checked against a digest when read."""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition
from csn_jax.runtime.workdir import full_disk_reported, replacing
from csn_jax.text import first_sentence, listed

SUFFIXES = (".parquet", ".npz")
KEY = b"csn_jax"  # metadata key in a Parquet file; the array of this name in an npz file
ROWS = 1 << 16  # per row group, and per piece that is read or written
RESERVED = ("id", "vector")  # columns that the file has itself
BY_CONDITION = "vec_"  # prefix of the columns that `by_condition` adds


class DamagedFile(UserError):
    """A file of vectors is half-written or does not match its digest."""


class ForeignFile(UserError):
    """A Parquet file that embed did not write, or that another program changed since; or one of features."""


class Embeddings(NamedTuple):
    """N embedded items, with everything that a search needs.

    ids: [N] str, unique. As read from a file, text arrays are object arrays that share equal values of a column.
    vectors: [N, D] float32 or float16, unmasked. `embed --features` stores [N, F] and no conditions.
    columns: {name: [N] str}, the attributes. An empty string is a missing value.
    conditions: in the order of the masks' rows.
    masks: [C, D] float32, as applied.
    model_sha256: `Model.sha256` of the model that embedded the items.
    pictures: where the items' pictures are, for `data.thumbnails.read_thumbnails`; {} if there are none.
    made_from: a digest of the request to `embed`, which recognises a finished file by it.
    scale: [D] float32 if the file stores int8 (`vectors` are those integers times the scale), else None.
    """

    ids: np.ndarray
    vectors: np.ndarray
    columns: dict[str, np.ndarray]
    conditions: tuple[Condition, ...]
    masks: np.ndarray
    model_sha256: str
    pictures: dict[str, str]
    made_from: str = ""
    scale: np.ndarray | None = None


def check_path(path: Path, flag: str) -> None:
    """Raise UserError unless the path ends in .parquet or .npz."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{flag}={path} is not a Parquet or npz file; give a name that ends in .parquet or .npz.")


def check_columns(names: Iterable[str]) -> None:
    """Raise UserError if the file needs the name of an attribute for a column of its own."""
    for name in names:
        if name in RESERVED or name.startswith(BY_CONDITION):
            raise UserError(f"column {name!r} has a name that the file of vectors reserves; rename it.")


def write_embeddings(path: Path, embeddings: Embeddings, *, by_condition: bool = False) -> None:
    """Write a file whole or not at all. The same embeddings give the same bytes.

    Parquet has the columns `id`, the attributes (null if missing) and `vector`, a list of fixed size. npz has the
    arrays `ids`, `column_NAME` and `vectors`. Both store the other fields and a digest of everything as JSON named
    `csn_jax`; its `scale` exists for int8 only.

    An existing file is replaced. A UserError for another suffix, a reserved column name, or a folder that cannot be
    written; a MachineError if the disk is full.

    Args:
        embeddings: vectors may be memory-mapped; they are read in pieces.
        by_condition: add `vec_NAME` per condition: the vector times the mask, without the dimensions of weight 0. A
            condition whose weights are all 0 gets none.
    """
    check_path(path, "path")
    check_columns(embeddings.columns)
    head = head_of(embeddings)
    text = json.dumps(head | {"sha256": _digest(embeddings, head)})
    write = _write_parquet if path.suffix == ".parquet" else _write_npz
    temporary = path.with_name(f".{path.name}.partial")  # a fixed name: a rerun overwrites what a killed process left
    try:
        with full_disk_reported(path.parent), replacing(path, temporary) as file:
            write(file, embeddings, text, by_condition)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); give another path.") from None


def read_embeddings(path: Path) -> Embeddings:
    """Read what `write_embeddings` wrote, and check it against its digest. A UserError if the file is missing or is not
    a file of vectors; a ForeignFile if another program wrote it; a DamagedFile if it is half-written or damaged."""
    check_path(path, "path")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give one that csn_jax embed wrote.")
    path.open("rb").close()  # a file that may not be read is not damaged: its error goes up
    try:
        content = (_read_parquet if path.suffix == ".parquet" else _read_npz)(path)
        if content:
            embeddings, head = content
            sha256 = head.pop("sha256")
            if head != head_of(embeddings) or sha256 != _digest(embeddings, head):
                raise ValueError("its content does not match its SHA-256")
    except ForeignFile:
        raise
    except Exception as error:  # damage raises a dozen types
        raise DamagedFile(
            f"{path} is half-written or damaged ({type(error).__name__}: {first_sentence(error)}); write it again with "
            "csn_jax embed --rebuild."
        ) from None
    if content:
        return embeddings
    if path.suffix != ".parquet":
        raise UserError(f"{path} was not written by csn_jax embed; give a file that was.")
    raise ForeignFile(
        f"{path} was not written by csn_jax embed, or another program dropped its metadata; search it with --workdir, "
        "whose run has the masks, or with csn_jax.Index.from_table."
    )


def head_of(embeddings: Embeddings) -> dict[str, Any]:
    """Everything but texts and vectors, as JSON. Decimal notation keeps every float32 exactly."""
    return {
        "format": 1,
        "conditions": [condition._asdict() for condition in embeddings.conditions],
        "masks": embeddings.masks.tolist(),
        "model_sha256": embeddings.model_sha256,
        "pictures": embeddings.pictures,
        "made_from": embeddings.made_from,
        "columns": list(embeddings.columns),
        "dtype": embeddings.vectors.dtype.name if embeddings.scale is None else "int8",
        "shape": list(embeddings.vectors.shape),
        **({} if embeddings.scale is None else {"scale": embeddings.scale.tolist()}),
    }


def rounded(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds float32 vectors [N, D], N >= 1, in place to values that int8 can store. Returns them and the scale [D].

    127 steps of the scale reach the largest absolute value of a dimension.
    """
    pieces = [vectors[rows] for rows in _pieces(len(vectors))]  # vectors may be memory-mapped
    largest = np.max([np.abs(piece).max(axis=0) for piece in pieces], axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    for piece in pieces:
        piece[:] = as_int8(piece, scale) * scale
    return vectors, scale


def as_int8(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The int8 [N, D] nearest to vectors / scale. Exact for vectors from `rounded`."""
    return np.rint(vectors / scale).clip(-127, 127).astype(np.int8)


def _digest(embeddings: Embeddings, head: dict[str, Any]) -> str:
    hasher = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for rows in _pieces(len(embeddings.ids)):
        for column in (embeddings.ids, *embeddings.columns.values()):
            hasher.update("\x00".join(column[rows].tolist()).encode("utf-8") + b"\x01")
        hasher.update(np.ascontiguousarray(embeddings.vectors[rows]))
    return hasher.hexdigest()


def active_dimensions(embeddings: Embeddings) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields (condition, dimensions of nonzero weight, their weights), but no condition that weighs none."""
    for mask, (name, _) in zip(embeddings.masks, embeddings.conditions, strict=True):
        active = np.flatnonzero(mask)
        if len(active):  # Arrow crashes on lists of size 0
            yield name, active, mask[active]


def _pieces(n: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))


def from_head(head: dict[str, Any], ids: np.ndarray, vectors: np.ndarray, columns: Iterable[np.ndarray]) -> Embeddings:
    """Embeddings of a head that was read back, and of the arrays that it describes."""
    return Embeddings(
        ids=ids,
        vectors=vectors,
        columns=dict(zip(head["columns"], columns, strict=True)),
        conditions=tuple(Condition(**condition) for condition in head["conditions"]),
        masks=np.array(head["masks"], np.float32).reshape(len(head["conditions"]), vectors.shape[1]),
        model_sha256=head["model_sha256"],
        pictures=head["pictures"],
        made_from=head["made_from"],
        scale=scale_of(head),
    )


def scale_of(head: dict[str, Any]) -> np.ndarray | None:
    """The scale [D] of stored int8; None for floats."""
    return np.array(head["scale"], np.float32) if head.get("dtype") == "int8" else None


def _write_parquet(file: BinaryIO, embeddings: Embeddings, head: str, by_condition: bool) -> None:
    import pyarrow
    from pyarrow import parquet

    vectors, scale, dtype = embeddings.vectors, embeddings.scale, pyarrow.from_numpy_dtype(embeddings.vectors.dtype)
    texts = {"id": embeddings.ids} | embeddings.columns
    masked = [*active_dimensions(embeddings)] if by_condition else []
    fields = [pyarrow.field(name, pyarrow.string()) for name in texts]
    fields.append(pyarrow.field("vector", pyarrow.list_(dtype if scale is None else pyarrow.int8(), vectors.shape[1])))
    fields += [pyarrow.field(BY_CONDITION + name, pyarrow.list_(dtype, len(mask))) for name, _, mask in masked]
    schema = pyarrow.schema(fields, metadata={KEY: head.encode()})
    # Vectors do not compress. The checksums serve readers that do not know the digest.
    options = {"compression": "none", "use_dictionary": list(texts), "write_page_checksum": True}
    with parquet.ParquetWriter(file, schema, **options) as writer:
        for rows in _pieces(len(embeddings.ids)):
            arrays = [
                pyarrow.array([value or None for value in column[rows].tolist()], pyarrow.string())
                for column in texts.values()
            ]
            piece = np.asarray(vectors[rows])
            parts = [piece if scale is None else as_int8(piece, scale)]
            parts += [(piece[:, active] * mask).astype(piece.dtype) for _, active, mask in masked]
            for part, field in zip(parts, fields[len(texts) :], strict=True):
                flat = pyarrow.array(np.ascontiguousarray(part).ravel(), field.type.value_type)
                arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=field.type))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), row_group_size=ROWS)


def _read_parquet(path: Path) -> tuple[Embeddings, dict[str, Any]] | None:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        metadata = file.schema_arrow.metadata or {}
        if KEY not in metadata:
            return None
        head = json.loads(metadata[KEY])
        n, width = head["shape"]
        names, schema = ["id", *head["columns"]], file.schema_arrow
        lost = [name for name in (*names, "vector") if name not in schema.names]
        if file.metadata.num_rows != n or lost:
            change = f"it lacks {listed(lost)}" if lost else f"it has {file.metadata.num_rows:,} rows and had {n:,}"
            raise ForeignFile(
                f"{path} was changed by another program since csn_jax embed wrote it ({change}); search it with "
                "--workdir, or with csn_jax.Index.from_table."
            )
        if schema.field("vector").type.list_size != width:  # Arrow crashes on size 0
            raise ValueError("its vectors do not have the length that its metadata gives")
        table = file.read(columns=names)
        texts = [_shared(table.column(i)) for i in range(len(names))]
        scale, row = scale_of(head), 0
        vectors = np.empty((n, width), np.dtype(head["dtype"]) if scale is None else np.float32)
        for group in range(file.num_row_groups):  # iter_batches would hold the vectors twice
            for chunk in file.read_row_group(group, columns=["vector"]).column(0).chunks:
                values = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
                vectors[row : row + len(values)] = values if scale is None else values * scale
                row += len(values)
    return from_head(head, texts[0], vectors, texts[1:]), head


def _shared(column: Any) -> np.ndarray:
    """A text column as an object array that shares equal values."""
    parts = []
    for chunk in column.dictionary_encode().chunks:
        values = np.array([*chunk.dictionary.to_pylist(), ""], object)  # "" stands for null
        parts.append(values[chunk.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)])
    return np.concatenate(parts) if parts else np.zeros(0, object)


def _write_npz(file: BinaryIO, embeddings: Embeddings, head: str, by_condition: bool) -> None:
    vectors, scale = embeddings.vectors, embeddings.scale
    arrays = {"csn_jax": np.array(head), "ids": embeddings.ids.astype(str)}
    arrays["vectors"] = vectors if scale is None else as_int8(vectors, scale)
    arrays |= {f"column_{name}": column.astype(str) for name, column in embeddings.columns.items()}
    for name, active, mask in active_dimensions(embeddings) if by_condition else ():
        arrays[BY_CONDITION + name] = (vectors[:, active] * mask).astype(vectors.dtype)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # numpy.savez would store the current time.
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _read_npz(path: Path) -> tuple[Embeddings, dict[str, Any]] | None:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if "csn_jax" not in archive.files:
                return None
            head = json.loads(str(archive["csn_jax"][()]))
            texts = [archive[name] for name in ("ids", *(f"column_{name}" for name in head["columns"]))]
            vectors, scale = archive["vectors"], scale_of(head)
            return from_head(head, texts[0], vectors if scale is None else vectors * scale, texts[1:]), head
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None
