"""The Arrow file that embed and Beam write: batches of rows that can be searched where they lie on the disk."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from csn_jax.store.embeddings import BY_CONDITION, DIGEST, Embeddings, active_dimensions, weighed
from csn_jax.store.int8 import as_int8, pieces

KEY = b"csn_jax"  # metadata key of the head in Arrow and Parquet files
LEFT_OUT = b"csn_jax_left_out"  # metadata key of the items that Beam could not read, as JSON [[row, id, fault]]
SHA256 = b"csn_jax_sha256"  # metadata key of the digest: of the metadata above; in a batch, of the head and the batch


class ArrowFile(NamedTuple):
    """An open file. head: as in `embeddings.head_of`, with `sha256`. batches: of pyarrow, memory-mapped. digests: of
    the batches, to compare with `digest_of_batch`. left_out: (row from 0, id, fault) of items that are not in it."""

    path: Path
    text: bytes  # of the head
    head: dict[str, Any]
    batches: list[Any]
    digests: list[bytes]
    left_out: list[tuple[int, str, str]]


def schema_and_batches(embeddings: Embeddings, head: str, by_condition: bool) -> tuple[Any, Callable[[], Iterator]]:
    """(the pyarrow.Schema of a file of vectors, a function that makes its record batches)."""
    import pyarrow

    vectors, scale, dtype = embeddings.vectors, embeddings.scale, pyarrow.from_numpy_dtype(embeddings.vectors.dtype)
    texts = {"id": embeddings.ids} | embeddings.columns
    masked = [*active_dimensions(embeddings)] if by_condition else []
    fields = [pyarrow.field(name, pyarrow.string()) for name in texts]
    fields.append(pyarrow.field("vector", pyarrow.list_(dtype if scale is None else pyarrow.int8(), vectors.shape[1])))
    fields += [pyarrow.field(BY_CONDITION + name, pyarrow.list_(dtype, len(mask))) for name, _, mask in masked]
    if embeddings.digests is not None:
        fields.append(pyarrow.field(DIGEST, pyarrow.binary(embeddings.digests.shape[1])))
    schema = pyarrow.schema(fields, metadata={KEY: head.encode()})

    def batches() -> Iterator[Any]:
        for rows in pieces(len(embeddings.ids)):
            arrays = [
                pyarrow.array([value or None for value in column[rows].tolist()], pyarrow.string())
                for column in texts.values()
            ]
            piece = np.asarray(vectors[rows])
            parts = [piece if scale is None else as_int8(piece, scale)]
            parts += [weighed(embeddings.maps, piece, active, mask) for _, active, mask in masked]
            for part, field in zip(parts, fields[len(texts) : len(texts) + len(parts)], strict=True):
                flat = pyarrow.array(np.ascontiguousarray(part).ravel(), field.type.value_type)
                arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=field.type))
            if embeddings.digests is not None:
                arrays.append(pyarrow.array(list(map(bytes, embeddings.digests[rows])), schema.field(DIGEST).type))
            yield pyarrow.RecordBatch.from_arrays(arrays, schema=schema)

    return schema, batches


def write_arrow(
    file: BinaryIO,
    embeddings: Embeddings,
    head: str,
    by_condition: bool = False,
    left_out: list[tuple[int, str, str]] | None = None,
) -> None:
    """Write embeddings, uncompressed. `left_out` as in ArrowFile."""
    from pyarrow import ipc

    schema, batches = schema_and_batches(embeddings, head, by_condition)
    metadata = schema.metadata | {LEFT_OUT: json.dumps(left_out or []).encode()}
    schema = schema.with_metadata(metadata | {SHA256: _digest_of_metadata(metadata)})
    with ipc.new_file(file, schema) as writer:
        for batch in batches():
            writer.write_batch(batch, {SHA256: digest_of_batch(head.encode(), batch)})


def open_arrow(path: Path, source: Any = None) -> ArrowFile | None:
    """Open a file, or its bytes, without reading its rows; None if another program wrote it. What Arrow raises for
    damage goes up; a batch is compared with its digest by whoever reads it."""
    import pyarrow
    from pyarrow import ipc

    reader = ipc.open_file(pyarrow.memory_map(str(path)) if source is None else pyarrow.BufferReader(source))
    if (content := _metadata(reader)) is None:
        return None
    head, left_out = content
    names = ["id", *head["columns"], "vector"]
    if lost := [name for name in names if name not in reader.schema.names]:
        raise ValueError(f"it lacks the column {lost[0]}")
    if reader.schema.field("vector").type.list_size != head["shape"][1]:
        raise ValueError("its vectors do not have the length that its metadata gives")
    pairs = [reader.get_batch_with_custom_metadata(place) for place in range(reader.num_record_batches)]
    if sum(len(batch) for batch, _ in pairs) != head["shape"][0]:
        raise ValueError("it does not have the rows that its metadata gives")
    for batch, _ in pairs:
        batch.validate()
    return ArrowFile(
        path,
        reader.schema.metadata[KEY],
        head,
        [batch for batch, _ in pairs],
        [(own or {}).get(SHA256, b"") for _, own in pairs],
        left_out,
    )


def _digest_of_metadata(metadata: dict[bytes, bytes]) -> bytes:
    return hashlib.sha256(metadata[KEY] + b"\0" + metadata[LEFT_OUT]).hexdigest().encode()


def read_head(source: BinaryIO) -> tuple[dict[str, Any], list[tuple[int, str, str]]] | None:
    """(head, items left out) as in ArrowFile, of a file that is open for reading; None if another program wrote it."""
    import pyarrow
    from pyarrow import ipc

    return _metadata(ipc.open_file(pyarrow.PythonFile(source, "r")))


def _metadata(reader: Any) -> tuple[dict[str, Any], list[tuple[int, str, str]]] | None:
    metadata = reader.schema.metadata or {}
    if KEY not in metadata:
        return None
    if metadata[SHA256] != _digest_of_metadata(metadata):
        raise ValueError("its metadata does not match its SHA-256")
    return json.loads(metadata[KEY]), [tuple(item) for item in json.loads(metadata[LEFT_OUT])]


def digest_of_batch(head: bytes, batch: Any) -> bytes:
    """SHA-256, in hex, of a file's head and one of its batches."""
    hasher = hashlib.sha256(head)
    for column in batch.columns:
        for part in _buffers(column):
            hasher.update(part)
    return hasher.hexdigest().encode()


def _buffers(column: Any) -> Iterator[Any]:
    """The bytes of a column, without what Arrow adds to align them."""
    from pyarrow import types

    if types.is_fixed_size_list(column.type):
        yield np.packbits(column.is_valid().to_numpy(zero_copy_only=False))
        yield column.flatten().to_numpy(zero_copy_only=False)
    elif types.is_fixed_size_binary(column.type):
        yield column.buffers()[1][: len(column) * column.type.byte_width]
    else:
        yield np.packbits(column.is_valid().to_numpy(zero_copy_only=False))
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int32, len(column) + 1)
        yield ends
        if data is not None:
            yield data[: int(ends[-1])]


def values_of(batch: Any) -> np.ndarray:
    """The stored vectors [n, D] of a batch, where they lie."""
    column = batch.column("vector")
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)
