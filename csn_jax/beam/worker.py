"""What a worker does: one part of a table, from its rows to a part file. Without Beam."""

import io
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csn_jax.beam import storage
from csn_jax.data.images import MAX_FILE, decode_file, digest_or_error
from csn_jax.data.to_embed import CHUNK, HEX, WIDTH, Chunk, Form, of_rows
from csn_jax.data.workers import read_in_workers
from csn_jax.errors import MachineError
from csn_jax.model.chunks import embed_chunk, steady
from csn_jax.model.run import open_run
from csn_jax.store.arrow_file import write_arrow
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.int8 import rounded
from csn_jax.store.vector_file import head_text

AT_ONCE = 16  # remote pictures that are fetched together
LeftOut = tuple[int, str, str]  # row from 0, id, what is wrong with it


class Job(NamedTuple):
    """What all parts have in common. workdir, out: paths or URLs. plan: the folder with the rows of each part. form: of
    the pictures; None for vectors. empty: the head of a part."""

    workdir: str
    out: str
    plan: str
    dtype: str
    form: Form | None
    empty: Embeddings


class Rows(NamedTuple):
    """The rows of a part. sources: paths, URLs or bytes of pictures; inputs: [K, F] vectors of those without a fault,
    if the items are vectors."""

    first: int
    ids: list[str]
    columns: dict[str, list[str]]
    sources: list[str | bytes | None] | None
    inputs: np.ndarray | None
    faults: list[str | None]


class Worker:
    """A model, and a process that decodes pictures. Beam makes one per process of its own."""

    def __init__(self, job: Job):
        with tempfile.TemporaryDirectory() as folder, storage.reported(job.workdir, "--workdir"):
            self._model = open_run(storage.local_copy(job.workdir, Path(folder))).model()
        if self._model.sha256 != job.empty.model_sha256:
            raise MachineError(f"{job.workdir} holds another model here than where the pipeline was started.")
        self._job, self._decoder = job, None if job.form is None else Decoder(job.form)
        self.lock = threading.Lock()

    def make(self, name: str) -> list[LeftOut]:
        """Write a part; the items that it leaves out."""
        job = self._job
        rows = read_rows(storage.read(storage.below(job.plan, name)))
        function, vectors, faults, digests = steady(self._model.embed), [], [], []
        for start, chunk, chunk_digests in self._chunks(rows):
            of_chunk, chunk_faults = embed_chunk(chunk, rows.ids[start : start + CHUNK], function, job.dtype)
            vectors += [of_chunk] if len(of_chunk) else []
            faults += chunk_faults
            digests.append(chunk_digests)
        content, left_out = part_file(job, rows, vectors, faults, np.concatenate(digests))
        storage.write(storage.below(job.out, name), content)
        return left_out

    def _chunks(self, rows: Rows) -> Iterator[tuple[int, Chunk, np.ndarray]]:
        """(first row, chunk, digests of what is embedded) of CHUNK rows at a time, as csn_jax embed takes them."""
        for start in range(0, len(rows.ids), CHUNK):
            faults = rows.faults[start : start + CHUNK]
            if rows.sources is None:
                before = sum(fault is None for fault in rows.faults[:start])
                inputs = rows.inputs[before : before + sum(fault is None for fault in faults)]
                digests = np.zeros((len(faults), WIDTH), np.uint8)
                digests[[fault is None for fault in faults]] = of_rows(inputs, np.arange(len(inputs)))
                yield start, (inputs, faults), digests
            else:
                yield start, *self._pictures(rows.sources[start : start + CHUNK], faults)

    def _pictures(self, sources: Sequence[str | bytes | None], faults: list[str | None]) -> tuple[Chunk, np.ndarray]:
        usable = [source for source, fault in zip(sources, faults, strict=True) if not fault]
        fetched, digests = fetch(usable)
        found = iter(self._decoder.decode([source for source in fetched if not isinstance(source, Fault)]))
        results = iter([(None, source.text) if isinstance(source, Fault) else next(found) for source in fetched])
        results = [(None, fault) if fault else next(results) for fault in faults]
        images = [image for image, _ in results if image is not None]
        size, channels, _ = self._job.form
        all_digests = np.zeros((len(faults), WIDTH), np.uint8)
        all_digests[[not fault for fault in faults]] = digests
        return (np.array(images, np.uint8).reshape(-1, size, size, channels), [f for _, f in results]), all_digests

    def close(self) -> None:
        if self._decoder:
            self._decoder.close()


class Fault(NamedTuple):
    """Takes the place of a picture that cannot be fetched."""

    text: str


def fetch(sources: Sequence[str | bytes]) -> tuple[list[str | bytes | Fault], np.ndarray]:
    """(pictures as paths on this machine or bytes, the digests [N, 16] of their bytes, zeros without any)."""

    def of(source: str | bytes) -> tuple[str | bytes | Fault, str]:
        if isinstance(source, str) and not storage.is_url(source):
            return source, digest_or_error(Path(source))
        if isinstance(source, str):
            try:
                source = storage.read(source, MAX_FILE + 1)
            except FileNotFoundError:
                return Fault("is missing"), ""
            except OSError as error:
                return Fault(f"cannot be read ({type(error).__name__})"), ""
        return source, digest_or_error(_Bytes(source)) if len(source) <= MAX_FILE else ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        pairs = list(pool.map(of, sources))
    digests = np.zeros((len(pairs), WIDTH), np.uint8)
    for row, (_, digest) in enumerate(pairs):
        if HEX.fullmatch(digest):
            digests[row] = np.frombuffer(bytes.fromhex(digest)[:WIDTH], np.uint8)
    return [source for source, _ in pairs], digests


class _Bytes(NamedTuple):
    """Bytes in place of a scalar of Arrow."""

    content: bytes

    def as_buffer(self) -> bytes:
        return self.content


class Decoder:
    """A process that decodes pictures and may die. It lives on between chunks: a start takes as long as hundreds of
    pictures."""

    def __init__(self, form: Form):
        self._form, self._tasks, self._real = form, deque(), deque()
        self._results = read_in_workers(decode_file, self._stream(), 1)

    def _stream(self) -> Iterator[tuple[Any, ...]]:
        """Tasks without an end. The pool takes them ahead of time: where there is none, it gets one that fails."""
        while True:
            self._real.append(bool(self._tasks))
            yield (self._tasks.popleft() if self._tasks else b"", *self._form)

    def decode(self, sources: Sequence[str | bytes]) -> list[tuple[np.ndarray | None, str | None]]:
        """(picture, None) or (None, fault) of each source."""
        self._tasks.extend(sources)
        found = []
        while len(found) < len(sources):
            result = next(self._results)
            if self._real.popleft():
                found.append(result)
        return found

    def close(self) -> None:
        with closing(self._results):
            pass


def part_file(
    job: Job, rows: Rows, vectors: list[np.ndarray], faults: list[str | None], digests: np.ndarray
) -> tuple[bytes, list[LeftOut]]:
    """(the bytes of a part, the items that it leaves out)."""
    kept = [place for place, fault in enumerate(faults) if not fault]
    left_out = [(rows.first + place, rows.ids[place], fault) for place, fault in enumerate(faults) if fault]
    joined = np.concatenate(vectors) if vectors else np.zeros((0, job.empty.vectors.shape[1]), job.empty.vectors.dtype)
    scale = None
    if job.dtype == "int8":
        joined, scale = rounded(joined) if len(joined) else (joined, np.ones(joined.shape[1], np.float32))
    embeddings = job.empty._replace(
        ids=np.array([rows.ids[place] for place in kept], object),
        vectors=joined,
        columns={name: np.array([cells[place] for place in kept], object) for name, cells in rows.columns.items()},
        scale=scale,
        digests=digests[kept],
    )
    content = io.BytesIO()
    write_arrow(content, embeddings, head_text(embeddings), left_out=left_out)
    return content.getvalue(), left_out


def write_rows(rows: Rows) -> bytes:
    """The rows of a part as an Arrow file, for `read_rows`."""
    import pyarrow
    from pyarrow import ipc

    columns = {"id": rows.ids, "fault": rows.faults} | {f"column {name}": cells for name, cells in rows.columns.items()}
    arrays = {name: pyarrow.array(cells, pyarrow.large_string()) for name, cells in columns.items()}
    if rows.sources is None:
        whole = np.zeros((len(rows.ids), rows.inputs.shape[1]), np.float32)
        whole[[fault is None for fault in rows.faults]] = rows.inputs
        arrays["inputs"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(whole.ravel()), whole.shape[1])
    else:
        texts = [source if isinstance(source, str) else None for source in rows.sources]
        contents = [source if isinstance(source, bytes) else None for source in rows.sources]
        arrays |= {
            "path": pyarrow.array(texts, pyarrow.large_string()),
            "bytes": pyarrow.array(contents, pyarrow.large_binary()),
        }
    table = pyarrow.table(arrays, metadata={"first": str(rows.first)})
    content = io.BytesIO()
    with ipc.new_file(content, table.schema) as writer:
        writer.write_table(table)
    return content.getvalue()


def read_rows(content: bytes) -> Rows:
    import pyarrow
    from pyarrow import ipc

    table = ipc.open_file(pyarrow.BufferReader(content)).read_all().combine_chunks()
    faults, sources, inputs = table["fault"].to_pylist(), None, None
    if "inputs" in table.column_names:
        (chunk,) = table["inputs"].chunks
        whole = chunk.flatten().to_numpy().reshape(len(table), -1)
        inputs = whole[[fault is None for fault in faults]]
    else:
        pairs = zip(table["path"].to_pylist(), table["bytes"].to_pylist(), strict=True)
        sources = [content if path is None else path for path, content in pairs]
    prefix = "column "
    columns = {n.removeprefix(prefix): table[n].to_pylist() for n in table.column_names if n.startswith(prefix)}
    return Rows(int(table.schema.metadata[b"first"]), table["id"].to_pylist(), columns, sources, inputs, faults)
