"""The file of vectors that embed writes: its items, its place, and what it already holds. Items are embedded chunk by
chunk, each into a file of its own, so that a killed command resumes."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csn_jax.data import to_embed
from csn_jax.data.sources.table import SPLIT
from csn_jax.data.to_embed import ToEmbed
from csn_jax.embed.update import Changes, check_updatable, merged
from csn_jax.errors import UserError
from csn_jax.model.chunks import Embedded, embed_chunk, steady
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.runtime.record import Condition
from csn_jax.runtime.workdir import full_disk_reported, locked, write_atomically
from csn_jax.runtime.writer import Progress, say
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.int8 import rounded
from csn_jax.store.vector_file import DamagedFile, check_path, read_embeddings, write_embeddings

if TYPE_CHECKING:
    from csn_jax.embed import Args
    from csn_jax.embed.encoder import Encoder
    from csn_jax.embed.pretrained import Pretrained

OTHER_PATH = "choose another path, or pass --rebuild to replace it."
NAMED = 20  # unreadable images that are named one by one


def find_items(args: "Args", run: Run) -> ToEmbed:
    """The items that --split, --images or --table names."""
    shape = run.record.input_shape
    if args.split:
        return _from_split(run, args.split)
    if args.images:
        if len(shape) == 1:
            raise UserError(
                f"--images={args.images}: the model of {run.workdir} embeds vectors of {shape[0]} numbers, not images; "
                "give a --table of vectors."
            )
        return to_embed.from_folder(Path(args.images).expanduser(), run.config.preprocess.form)
    data = to_embed.overridden(run.config.data, args.image, args.id, args.vectors)
    return to_embed.from_table(Path(args.table).expanduser(), data, shape, run.config.preprocess.form)


def _from_split(run: Run, split: str) -> ToEmbed:
    """The run's own items: those of one split, or all with their split as a column. A UserError if the data is missing
    or is other data, or the split is empty."""
    dataset = run.dataset()
    items = dataset.items
    rows = np.arange(len(items.ids)) if split == "all" else np.flatnonzero(items.split == split)
    if not len(rows):
        raise UserError(f"the split {split} of {run.workdir} has no items; choose another one, or all.")
    columns = {name: column[rows] for name, column in (items.labels | dict(items.cells)).items()}
    if split == "all":
        columns[SPLIT] = items.split
    pictures = {"kind": "split", "root": str(run.workdir)} if items.inputs.ndim == 4 else {}
    if items.pictures:
        pictures, names = items.pictures
        if names is not None:
            columns[pictures["image"]] = names[rows]
    return ToEmbed(
        ids=items.ids[rows],
        columns=columns,
        pictures=pictures,
        chunks=lambda places: to_embed.from_array(items.inputs, rows[places]),
        digests=lambda: to_embed.of_rows(items.inputs, rows),
        made_from=["split", split, dataset.record.items_sha256],
        unit="image" if items.inputs.ndim == 4 else "vector",
    )


def check_out(args: "Args") -> Path:
    """The path of --out. UserError if a file of vectors cannot lie there."""
    out, table = Path(args.out).expanduser().absolute(), Path(args.table).expanduser()
    check_path(out, "--out")
    if not out.parent.is_dir():
        raise UserError(f"--out={args.out}: the folder {out.parent} does not exist; make it first, or give another.")
    if args.table and out.exists() and table.is_file() and out.samefile(table):
        raise UserError(f"--out={args.out} is the table itself; give another name.")
    return out


def finished_ids(out: Path, made_from: str) -> np.ndarray:
    """The ids in the file of an equal request; a UserError if it is of another request or program, or damaged."""
    embeddings = own_file(out)
    if embeddings.made_from != made_from:
        other = "of other items, by another model or with other flags"
        raise UserError(
            f"--out={out} exists but was made {other}; pass --update to embed what changed, or --rebuild to replace it."
        )
    drop_parts(out)
    return embeddings.ids


def old_file(out: Path, made_from: str, model_sha256: str, dtype: str) -> Embeddings | None:
    """The items that an update starts from. None if the file does not exist, or already holds what is requested. A
    UserError if its vectors cannot stand beside those of the model."""
    if not out.exists():
        return None
    old = own_file(out)
    if old.made_from == made_from:
        return None
    check_updatable(old, out, model_sha256, dtype)
    return old


def own_file(out: Path) -> Embeddings:
    """What the file holds; a UserError if another program wrote it, or it is damaged."""
    try:
        return read_embeddings(out)
    except DamagedFile:
        raise
    except UserError:
        raise UserError(f"--out={out} exists but was not written by csn_jax embed; {OTHER_PATH}") from None


def drop_parts(out: Path) -> None:
    """Remove the parts of a whole file, if there are any."""
    if (parts := _parts(out)).is_dir():  # killed between the whole file and the removal of its parts
        with locked(parts, "--out"):
            shutil.rmtree(parts)


def write_vectors(
    args: "Args",
    out: Path,
    conditions: tuple[Condition, ...],
    model: "Model | Encoder | Pretrained",
    items: ToEmbed,
    made_from: str,
    digests: np.ndarray,
    changes: Changes | None = None,
) -> Embeddings:
    """Embed the items into the file, from where an earlier process stopped; of an older file's items only those that
    changed. `digests` are those of the items."""
    for note in items.notes:
        say(note)
    parts = _parts(out)
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written ({error.strerror}); choose another path.") from None
    with locked(parts, "--out"):
        try:
            function = steady(model.features if args.features else model.embed)
            to_do = items if changes is None else items.only(changes.rows)
            request = f"{made_from} {to_embed.CHUNK} {to_do.ids.tolist()}"
            plan = hashlib.sha256(request.encode() + digests.tobytes()).hexdigest()
            alone = changes is None or not changes.n_same
            vectors, kept = embed_in_parts(parts, plan, to_do, function, args.dtype, alone=alone)
            if changes is not None:
                vectors, kept = merged(parts / "merged.npy", changes, vectors, kept)
        except UserError:  # the same command would not get further
            shutil.rmtree(parts)
            raise
        vectors, scale = rounded(vectors) if args.dtype == "int8" else (vectors, None)
        embeddings = Embeddings(
            ids=items.ids[kept],
            vectors=vectors,
            columns={name: column[kept] for name, column in items.columns.items()},
            conditions=() if args.features else conditions,
            masks=np.zeros((0, vectors.shape[1]), np.float32) if args.features else model.masks,
            model_sha256=model.sha256,
            pictures=items.pictures,
            made_from=made_from,
            scale=scale,
            maps=None if args.features else model.maps,
            digests=None if args.features else digests[kept],
        )
        write_embeddings(out, embeddings, by_condition=args.by_condition)
        shutil.rmtree(parts)
    return embeddings


def _parts(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def embed_in_parts(
    folder: Path,
    made_from: str,
    items: ToEmbed,
    function: Callable[[np.ndarray], np.ndarray],
    dtype: str,
    *,
    alone: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Embed all readable items, without the parts that an earlier process left in a folder: (vectors [M, D],
    memory-mapped; positions [M] of their items).

    Parts of another request than `made_from` are dropped. int8 is rounded later, as its scale depends on all vectors. A
    UserError if no item can be read and they stand `alone`, or if a vector does not fit float16; a MachineError if one
    is not finite.
    """
    plan, n, size = folder / "plan", len(items.ids), to_embed.CHUNK
    if not plan.is_file() or plan.read_text() != made_from:
        for old in folder.glob("*.npz"):
            old.unlink()
        write_atomically(plan, made_from.encode())
    paths = [folder / f"{first // size:06}.npz" for first in range(0, n, size)]
    done = next((place for place, path in enumerate(paths) if _read(path) is None), len(paths))
    if done:
        say(f"resuming after {min(done * size, n):,} of {n:,}")
    faults, n_bad = [], 0
    progress = Progress("embedding", n, min(done * size, n), items.unit, compiles=True)
    with full_disk_reported(folder), closing(progress):
        chunks = items.chunks(np.arange(done * size, n))
        for place, path in enumerate(paths):
            ids = items.ids[place * size : (place + 1) * size].tolist()
            part = _read(path) if place < done else None
            if part is None:
                part = embed_chunk(next(chunks), ids, function, dtype)
                _write(path, part)
                progress.advance(len(ids))
            bad = [f"left out {name}, which {fault}" for name, fault in zip(ids, part[1], strict=True) if fault]
            for line in bad[: max(0, NAMED - n_bad)]:
                say(line)
            n_bad += len(bad)
            faults += part[1]
        if n_bad > NAMED:
            say(f"left out {n_bad - NAMED:,} more")
        kept = np.flatnonzero([not fault for fault in faults])
        if not len(kept) and alone:
            raise UserError(f"none of the {n:,} {items.unit}s could be read; give others.")
        return _join(folder / "vectors.npy", paths, len(kept)), kept


def _join(path: Path, parts: list[Path], n: int) -> np.ndarray:
    """The vectors [n, D] of all parts, in a memory-mapped file."""
    joined, row = np.zeros((0, 0), np.float32), 0
    for part in parts:
        vectors, _ = _read(part)
        if not len(vectors):
            continue
        if not len(joined):
            joined = np.lib.format.open_memmap(path, "w+", vectors.dtype, (n, vectors.shape[1]))
        joined[row : row + len(vectors)] = vectors
        row += len(vectors)
    return joined


def _write(path: Path, part: Embedded) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, vectors=part[0], faults=np.array(json.dumps(part[1])))
    write_atomically(path, buffer.getvalue())


def _read(path: Path) -> Embedded | None:
    """A part, or None if its file is missing or does not match its checksums."""
    try:
        with np.load(path, allow_pickle=False) as part:
            return part["vectors"], json.loads(str(part["faults"][()]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
