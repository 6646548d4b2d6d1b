"""The file of vectors that `embed` writes and `Index` opens: Parquet, Arrow or npz, checked against a digest."""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from csn_jax.data.arrow_tables import BATCH, IN_PIECES
from csn_jax.errors import UserError
from csn_jax.runtime.workdir import full_disk_reported, replacing
from csn_jax.store.arrow_file import KEY, digest_of_batch, open_arrow, schema_and_batches, values_of, write_arrow
from csn_jax.store.embeddings import (
    BY_CONDITION,
    DIGEST,
    Embeddings,
    active_dimensions,
    digest_of,
    from_head,
    head_of,
    weighed,
)
from csn_jax.store.int8 import ROWS, as_int8, scale_of
from csn_jax.text import first_sentence, listed

SUFFIXES = (".parquet", ".arrow", ".npz")
RESERVED = ("id", "vector", DIGEST)  # columns that the file has itself


class DamagedFile(UserError):
    """A file of vectors is half-written or does not match its digest."""


class ForeignFile(UserError):
    """A Parquet file that embed did not write, or that another program changed since; or one of features."""


def check_path(path: Path, flag: str) -> None:
    """Raise UserError unless the path ends in .parquet, .arrow or .npz."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{flag}={path} is not a Parquet, Arrow or npz file; give a name that ends in .arrow, .parquet or .npz."
        )


def check_columns(names: Iterable[str]) -> None:
    """Raise UserError if the file needs the name of an attribute for a column of its own."""
    for name in names:
        if name in RESERVED or name.startswith(BY_CONDITION):
            raise UserError(f"column {name!r} has a name that the file of vectors reserves; rename it.")


def write_embeddings(path: Path, embeddings: Embeddings, *, by_condition: bool = False) -> None:
    """Write a file whole or not at all. The same embeddings give the same bytes.

    Parquet and Arrow have the columns `id`, the attributes (null if missing) and `vector`, a list of fixed size. npz
    has the arrays `ids`, `column_NAME` and `vectors`. Digests of the inputs are the column or array `input_digest`. All
    store the other fields and a digest of everything as JSON named `csn_jax`; its `scale` exists for int8 only.

    An existing file is replaced. A UserError for another suffix, a reserved column name, or a folder that cannot be
    written; a MachineError if the disk is full.

    Args:
        embeddings: vectors may be memory-mapped; they are read in pieces.
        by_condition: add `vec_NAME` per condition: the vector, or under maps its view, times the mask, without the
            dimensions of weight 0. A condition whose weights are all 0 gets none.
    """
    check_path(path, "path")
    check_columns(embeddings.columns)
    text, write = head_text(embeddings), WRITERS[path.suffix]
    temporary = path.with_name(f".{path.name}.partial")  # a fixed name: a rerun overwrites what a killed process left
    try:
        with full_disk_reported(path.parent), replacing(path, temporary) as file:
            write(file, embeddings, text, by_condition)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); give another path.") from None


def head_text(embeddings: Embeddings) -> str:
    """The head of embeddings as a file notes it, with a digest of everything."""
    head = head_of(embeddings)
    return json.dumps(head | {"sha256": digest_of(embeddings, head)})


def read_embeddings(path: Path) -> Embeddings:
    """Read what `write_embeddings` wrote, and check it against its digest. A UserError if the file is missing or is not
    a file of vectors; a ForeignFile if another program wrote it; a DamagedFile if it is half-written or damaged."""
    check_path(path, "path")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give one that csn_jax embed wrote.")
    path.open("rb").close()  # a file that may not be read is not damaged: its error goes up
    try:
        content = READERS[path.suffix](path)
        if content:
            embeddings, head = content
            sha256 = head.pop("sha256")
            if head != head_of(embeddings) or sha256 != digest_of(embeddings, head):
                raise ValueError("its content does not match its SHA-256")
    except ForeignFile:
        raise
    except Exception as error:  # damage raises a dozen types
        if _rewritten(path):
            raise _changed(path, "its rows or types are others") from None
        raise DamagedFile(
            f"{path} is half-written or damaged ({type(error).__name__}: {first_sentence(error)}); write it again with "
            "csn_jax embed --rebuild."
        ) from None
    if content:
        return embeddings
    if path.suffix == ".npz":
        raise UserError(f"{path} was not written by csn_jax embed; give a file that was.")
    raise ForeignFile(
        f"{path} was not written by csn_jax embed, or another program dropped its metadata; search it with --workdir, "
        "whose run has the masks, or with csn_jax.Index.from_table."
    )


def _changed(path: Path, change: str) -> ForeignFile:
    return ForeignFile(
        f"{path} was changed by another program since csn_jax embed wrote it ({change}); search it with --workdir, or "
        "with csn_jax.Index.from_table."
    )


def _rewritten(path: Path) -> bool:
    """Whether another program wrote a Parquet file anew: by default they all compress, and `_write_parquet` does not.
    What keeps its metadata, but is sorted or edited, does not match its digest, and is not damaged."""
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            group = file.metadata.row_group(0)
            return any(group.column(i).compression != "UNCOMPRESSED" for i in range(group.num_columns))
    except Exception:  # not Parquet, or without rows
        return False


def _write_parquet(file: BinaryIO, embeddings: Embeddings, head: str, by_condition: bool) -> None:
    from pyarrow import parquet

    schema, batches = schema_and_batches(embeddings, head, by_condition)
    # Vectors do not compress. The checksums serve readers that do not know the digest.
    texts = ["id", *embeddings.columns]
    options = {"compression": "none", "use_dictionary": texts, "write_page_checksum": True}
    with parquet.ParquetWriter(file, schema, **options) as writer:
        for batch in batches():
            writer.write_batch(batch, row_group_size=ROWS)


def _read_parquet(path: Path) -> tuple[Embeddings, dict[str, Any]] | None:
    from pyarrow import parquet

    with parquet.ParquetFile(path, **IN_PIECES) as file:
        metadata = file.schema_arrow.metadata or {}
        if KEY not in metadata:
            return None
        head = json.loads(metadata[KEY])
        n, width = head["shape"]
        names, schema = ["id", *head["columns"]], file.schema_arrow
        lost = [name for name in (*names, "vector") if name not in schema.names]
        if file.metadata.num_rows != n or lost:
            change = f"it lacks {listed(lost)}" if lost else f"it has {file.metadata.num_rows:,} rows and had {n:,}"
            raise _changed(path, change)
        if schema.field("vector").type.list_size != width:  # Arrow crashes on size 0
            raise ValueError("its vectors do not have the length that its metadata gives")
        table = file.read(columns=names)
        texts = [_shared(table.column(i)) for i in range(len(names))]
        scale, row = scale_of(head), 0
        vectors = np.empty((n, width), np.dtype(head["dtype"]) if scale is None else np.float32)
        for batch in file.iter_batches(BATCH, columns=["vector"]):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
            vectors[row : row + len(values)] = values if scale is None else values * scale
            row += len(values)
        digests = None
        if head.get("digests"):
            cells = file.read(columns=[DIGEST]).column(0).to_pylist()
            digests = np.frombuffer(b"".join(cells), np.uint8).reshape(n, -1)
    return from_head(head, texts[0], vectors, texts[1:], digests), head


def _read_arrow(path: Path) -> tuple[Embeddings, dict[str, Any]] | None:
    import pyarrow

    if (file := open_arrow(path)) is None:
        return None
    for batch, digest in zip(file.batches, file.digests, strict=True):
        if digest_of_batch(file.text, batch) != digest:
            raise ValueError("its content does not match its SHA-256")
        batch.validate(full=True)
    head, scale = file.head, scale_of(file.head)
    texts = [
        _shared(pyarrow.chunked_array([b[name] for b in file.batches], "string")) for name in ("id", *head["columns"])
    ]
    vectors = np.empty(head["shape"], np.dtype(head["dtype"]) if scale is None else np.float32)
    row = 0
    for batch in file.batches:
        values = values_of(batch)
        vectors[row : row + len(values)] = values if scale is None else values * scale
        row += len(values)
    digests = None
    if head.get("digests"):
        cells = [cell for batch in file.batches for cell in batch[DIGEST].to_pylist()]
        digests = np.frombuffer(b"".join(cells), np.uint8).reshape(len(vectors), -1)
    return from_head(head, texts[0], vectors, texts[1:], digests), head


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
    if embeddings.digests is not None:
        arrays[DIGEST] = embeddings.digests
    arrays |= {f"column_{name}": column.astype(str) for name, column in embeddings.columns.items()}
    for name, active, mask in active_dimensions(embeddings) if by_condition else ():
        arrays[BY_CONDITION + name] = weighed(embeddings.maps, vectors, active, mask)
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
            vectors = vectors if scale is None else vectors * scale
            digests = archive[DIGEST] if head.get("digests") else None
            return from_head(head, texts[0], vectors, texts[1:], digests), head
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None


WRITERS = {".parquet": _write_parquet, ".arrow": write_arrow, ".npz": _write_npz}
READERS = {".parquet": _read_parquet, ".arrow": _read_arrow, ".npz": _read_npz}
