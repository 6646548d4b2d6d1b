"""What `embed` embeds: the items of a folder, of a table or of a run's own data, read in chunks."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csn_jax.config import DataConfig
from csn_jax.data.attributes import LONGEST
from csn_jax.data.columns import read_columns, table_digest
from csn_jax.data.images import UNNAMED, Source, decode_file, digest_or_error, resolve, tasks_of
from csn_jax.data.sources.table import item_ids
from csn_jax.data.sources.vectors import read_vectors, vector_columns
from csn_jax.data.table_pictures import find_pictures, pictures_beside
from csn_jax.data.workers import read_in_workers, usable_cores
from csn_jax.errors import UserError
from csn_jax.runtime.writer import Progress

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
Form = tuple[int, int, str]  # PreprocessConfig.form
CHUNK = 504  # items read and embedded together: 512 inputs of a model, less model.chunks.SPARE
WIDTH = 16  # bytes of a digest
MANY = 20_000  # pictures from which on their reading takes long enough to be shown
HEX = re.compile("[0-9a-f]{64}")

# [k, ...] uint8 or float32 of the readable items of a chunk, and what is wrong with each item of the chunk, or None.
Chunk = tuple[np.ndarray, list[str | None]]


class ToEmbed(NamedTuple):
    """N items."""

    ids: np.ndarray  # [N] str, unique
    columns: dict[str, np.ndarray]  # {name: [N] str}, attributes; the empty string is a missing value
    pictures: dict[str, str]  # as in Embeddings
    chunks: Callable[[np.ndarray], Iterator[Chunk]]  # of the items at some positions, in order, CHUNK at a time
    digests: Callable[[], np.ndarray]  # [N, 16] uint8, of what is embedded; read anew at each call
    made_from: Any  # JSON that changes when the items do
    notes: tuple[str, ...] = ()  # what the user should know, one line each
    unit: str = "image"  # what is embedded
    # [N] pictures of a table, and what is wrong with each before it is opened, or None.
    sources: list[tuple[Source | None, str | None]] | None = None

    def only(self, rows: np.ndarray) -> "ToEmbed":
        """Some of the items, by position."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        chunks, digests = self.chunks, self.digests
        return self._replace(
            ids=self.ids[rows],
            columns=columns,
            chunks=lambda places: chunks(rows[places]),
            digests=lambda: digests()[rows],
        )


def from_folder(folder: Path, form: Form, flag: str = "--images") -> ToEmbed:
    """The image files in a folder and below it, without hidden ones. Ids are their relative paths.
    UserError if it is not a folder or holds no image file."""
    if not folder.is_dir():
        raise UserError(f"{flag}={folder} is not a folder; give one that holds image files.")
    folder = folder.resolve()
    paths, others, links = [], 0, []
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        links += [os.path.join(place, name) for name in below if os.path.islink(os.path.join(place, name))]
        images = [name for name in sorted(names) if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        paths += [Path(place, name) for name in images]
        others += len(names) - len(images)
    if not paths:
        raise UserError(f"{flag}={folder} holds no file that ends in {', '.join(SUFFIXES)}; give another folder.")
    ids, faults = [], []
    for path in paths:
        name, fault = path.relative_to(folder).as_posix(), None
        try:
            name.encode()
        except UnicodeEncodeError:
            name, fault = repr(os.fsencode(name)), "has a name that is not UTF-8 text"
        ids.append(name)
        faults.append("is a link to outside the folder" if resolve(folder, str(path)) is None else fault)
    notes = (f"skipped {others:,} files that do not end in {', '.join(SUFFIXES)}",) if others else ()
    return ToEmbed(
        ids=np.array(ids, object),
        columns={},
        pictures={"kind": "folder", "root": str(folder)},
        chunks=lambda rows: decoded(paths, faults, form, rows),
        digests=lambda: of_sources(paths),
        made_from=["folder", ids, _stamps(paths)],
        notes=notes + tuple(f"skipped {link}, which is a link to a folder" for link in links),
    )


def from_table(path: Path, data: DataConfig, input_shape: Sequence[int], form: Form) -> ToEmbed:
    """The rows of a CSV or Parquet table by the rules of training: images from the column `data.image`, or vectors from
    `data.vectors`; ids from `data.id`. All other columns but long texts are attributes. UserError if table or columns
    cannot be used, or the model takes vectors of another length."""
    if not path.exists():
        raise UserError(f"--table={path} is not a file; give a CSV or Parquet table.")
    table = read_columns(path, data.encoding, data.skip_bad)
    if len(table) == 0:
        raise UserError(f"{path} has no row; give one row per item.")
    of_vectors = len(input_shape) == 1
    pictures = pictures_beside(table, data.image) if of_vectors else find_pictures(table, data.image, "--image")
    ids, id_column = item_ids(table, pictures and pictures.ids(of_vectors), data, "--id")
    excluded = {id_column, data.image, *(vector_columns(table, data.vectors) if of_vectors else ())}
    columns = {
        name: np.array(cells, object)
        for name, cells in table.text.items()
        if name not in excluded and max(map(len, cells)) <= LONGEST
    }
    notes = table.notes
    sources = None
    if of_vectors:
        vectors, faults, more = read_vectors(table, data, ids, "--vectors")
        if len(vectors) and vectors.shape[1] != input_shape[0]:
            raise UserError(
                f"{path} holds vectors of {vectors.shape[1]} numbers and the model takes {input_shape[0]}; give "
                "vectors of the embedder that it was trained on."
            )
        notes += more
        pictures = pictures if pictures and pictures.exist() else None
        stamps = _stamps([table.folder / data.vectors])
        made_from = ["vectors", table_digest(path), data.vectors, data.id, stamps]
        chunks = lambda rows: _usable(vectors, faults, rows)  # noqa: E731
        digests = lambda: _of_usable(vectors, faults)  # noqa: E731
    else:
        sources = list(pictures.sources(range(len(table))))
        faults = [
            fault and (fault if fault == UNNAMED else f"has an image {name!r} that {fault}")
            for name, (_, fault) in zip(pictures.names, sources, strict=True)
        ]
        made_from = ["table", table_digest(path), data.image, data.id, _stamps([source for source, _ in sources])]
        files = [source for source, _ in sources]
        sources = list(zip(files, faults, strict=True))
        chunks = lambda rows: decoded(files, faults, form, rows)  # noqa: E731
        digests = lambda: of_sources(files)  # noqa: E731
    place, names = pictures.kept(np.arange(len(table)), id_column) if pictures else ({}, None)
    if names is not None:
        columns[place["image"]] = names
    unit = "vector" if of_vectors else "image"
    return ToEmbed(np.array(ids, object), columns, place, chunks, digests, made_from, notes, unit, sources)


def overridden(data: DataConfig, image: str, id_column: str, vectors: str) -> DataConfig:
    """The given column names; those that are empty are from the run's own table, or else the defaults."""
    if data.source != "table":
        data = DataConfig()
    given = {"image": image, "id": id_column, "vectors": vectors}
    return dataclasses.replace(data, **{name: value for name, value in given.items() if value})


def from_array(inputs: np.ndarray, rows: np.ndarray) -> Iterator[Chunk]:
    """Chunks of the given rows of inputs [N, ...]."""
    for first in range(0, len(rows), CHUNK):
        chunk = rows[first : first + CHUNK]
        yield inputs[chunk], [None] * len(chunk)


def _usable(vectors: np.ndarray, faults: list[str | None], rows: np.ndarray) -> Iterator[Chunk]:
    """Chunks of items at some positions, of the vectors [K, F] of all that have no fault."""
    usable = np.array([fault is None for fault in faults], bool)
    place = np.cumsum(usable) - 1
    for first in range(0, len(rows), CHUNK):
        chunk = rows[first : first + CHUNK]
        yield vectors[place[chunk[usable[chunk]]]], [faults[row] for row in chunk.tolist()]


def _of_usable(vectors: np.ndarray, faults: list[str | None]) -> np.ndarray:
    """The digests [N, 16] of the vectors [K, F] of items without a fault; zeros for the others."""
    digests = np.zeros((len(faults), WIDTH), np.uint8)
    digests[[row for row, fault in enumerate(faults) if fault is None]] = of_rows(vectors, np.arange(len(vectors)))
    return digests


def of_rows(inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The digests [R, 16] of rows of inputs [N, ...]. Floats of any width have those of float32."""
    digests = np.empty((len(rows), WIDTH), np.uint8)
    for first in range(0, len(rows), CHUNK):
        chunk = inputs[rows[first : first + CHUNK]]
        chunk = np.ascontiguousarray(chunk, np.float32 if chunk.dtype.kind == "f" else None)
        for place, values in enumerate(chunk, first):
            digests[place] = np.frombuffer(hashlib.sha256(values).digest()[:WIDTH], np.uint8)
    return digests


def of_sources(sources: Sequence[Source | None]) -> np.ndarray:
    """The digests [N, 16] of the bytes of pictures; zeros for those that cannot be read."""
    digests, starts = np.zeros((len(sources), WIDTH), np.uint8), range(0, len(sources), CHUNK)

    def fill(start: int) -> None:
        for place, source in enumerate(sources[start : start + CHUNK], start):
            digest = "" if source is None else digest_or_error(source)
            if HEX.fullmatch(digest):
                digests[place] = np.frombuffer(bytes.fromhex(digest)[:WIDTH], np.uint8)

    with ThreadPoolExecutor(usable_cores()) as pool:
        done = pool.map(fill, starts)
        if len(sources) < MANY:
            list(done)
            return digests
        with closing(Progress("comparing", len(sources))) as progress:
            for start, _ in zip(starts, done, strict=True):
                progress.advance(len(sources[start : start + CHUNK]))
    return digests


def decoded(sources: Sequence[Source], faults: Sequence[str | None], form: Form, rows: np.ndarray) -> Iterator[Chunk]:
    """Chunks of the images at some positions, decoded in worker processes that may die. Those with a fault are not
    opened."""
    size, channels, _ = form
    faults = [faults[row] for row in rows.tolist()]
    usable = [sources[row] for row, fault in zip(rows.tolist(), faults, strict=True) if not fault]
    with closing(read_in_workers(decode_file, tasks_of(usable, *form))) as pictures:
        for first in range(0, len(rows), CHUNK):
            results = [(None, fault) if fault else next(pictures) for fault in faults[first : first + CHUNK]]
            images = [image for image, _ in results if image is not None]
            yield np.array(images, np.uint8).reshape(-1, size, size, channels), [fault for _, fault in results]


def _stamps(paths: list[Source | None]) -> list[list[int] | None]:
    """Size and modification time of each file, None if it is missing: a changed file has other stamps. The digest of a
    table covers the bytes inside it."""
    stamps = []
    for path in paths:
        try:
            stamps.append([(stat := path.stat()).st_size, stat.st_mtime_ns] if isinstance(path, Path) else None)
        except OSError:
            stamps.append(None)
    return stamps
