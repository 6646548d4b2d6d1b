"""Embed items chunk by chunk, each chunk into a file of its own, so that a killed command resumes."""

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from csn_jax.data import to_embed
from csn_jax.data.to_embed import ToEmbed
from csn_jax.errors import MachineError, UserError
from csn_jax.runtime.workdir import full_disk_reported, write_atomically
from csn_jax.runtime.writer import Progress, say

NAMED = 20  # unreadable images that are named one by one

# Vectors [k, D] of the readable items of a chunk, and what is wrong with each item of the chunk, or None.
Part = tuple[np.ndarray, list[str | None]]


def embed_in_parts(
    folder: Path, made_from: str, items: ToEmbed, function: Callable[[np.ndarray], np.ndarray], dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Embed all readable items, without the parts that an earlier process left in a folder.

    Args:
        folder: for the parts.
        made_from: parts of another request are dropped.
        items: what to embed.
        function: from inputs [B, ...] to vectors [B, D].
        dtype: of the file. int8 is rounded later, as its scale depends on all vectors.

    Returns:
        (vectors [M, D], memory-mapped; positions [M] of their items).

    Raises:
        UserError: when no item can be read, or a vector does not fit float16.
        MachineError: when a vector is not finite.
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
    unit, faults, n_bad = "image" if items.pictures else "vector", [], 0
    progress = Progress("embedding", n, min(done * size, n), unit, compiles=True)
    with full_disk_reported(folder), closing(progress):
        chunks = items.chunks(done * size)
        for place, path in enumerate(paths):
            ids = items.ids[place * size : (place + 1) * size].tolist()
            part = _read(path) if place < done else None
            if part is None:
                part = _embed(*next(chunks), ids, function, dtype)
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
        if not len(kept):
            raise UserError(f"none of the {n:,} images could be read; give others.")
        return _join(folder / "vectors.npy", paths, len(kept)), kept


def _embed(
    inputs: np.ndarray,
    faults: list[str | None],
    ids: list[str],
    function: Callable[[np.ndarray], np.ndarray],
    dtype: str,
) -> Part:
    vectors = function(inputs) if len(inputs) else np.zeros((0, 0), np.float32)
    for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]:
        item = [name for name, fault in zip(ids, faults, strict=True) if not fault][row]
        raise MachineError(f"the vector of {item} is not finite; look at that item and at the model.")
    if dtype == "float16" and np.abs(vectors).max(initial=0) > np.finfo(np.float16).max:
        raise UserError("--dtype=float16 reaches 65,504 and a vector has larger numbers; leave out --dtype.")
    return vectors.astype("float32" if dtype == "int8" else dtype), faults


def _join(path: Path, parts: list[Path], n: int) -> np.ndarray:
    """The vectors [n, D] of all parts, in a memory-mapped file."""
    joined, row = None, 0
    for part in parts:
        vectors, _ = _read(part)
        if not len(vectors):
            continue
        if joined is None:
            joined = np.lib.format.open_memmap(path, "w+", vectors.dtype, (n, vectors.shape[1]))
        joined[row : row + len(vectors)] = vectors
        row += len(vectors)
    return joined


def _write(path: Path, part: Part) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, vectors=part[0], faults=np.array(json.dumps(part[1])))
    write_atomically(path, buffer.getvalue())


def _read(path: Path) -> Part | None:
    """A part, or None if its file is missing or does not match its checksums."""
    try:
        with np.load(path, allow_pickle=False) as part:
            return part["vectors"], json.loads(str(part["faults"][()]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
