"""A cache of decoded images: one memory-mapped uint8 array a digest of inputs and settings, verified when opened."""

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.errors import MachineError
from csn_jax.runtime.workdir import cache_folder, write_atomically


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(
    key: Any, shape: tuple[int, ...], produce: Callable[[], Iterable[tuple[np.ndarray | None, Any]]]
) -> tuple[np.ndarray, list[Any]]:
    """Blocks of images and a note on each, produced once and then read from disk.

    Args:
        key: JSON of all that the pixels depend on: digests of the inputs, settings, versions.
        shape: (blocks, ...), of which the first is an upper bound.
        produce: yields (uint8 block [...] or None, note) in order; a note is JSON.

    Returns:
        (images, notes): images [kept blocks, ...] memory-mapped uint8, leaving out those without a block, and all
        notes.

    Raises:
        MachineError: when the disk is full or the folder cannot be written.
    """
    name = hashlib.sha256(json.dumps([key, shape], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder()
    pixels, index = folder / f"{name}.npy", folder / f"{name}.json"
    found = _read(pixels, index)
    if found:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here, and then finds what the first one made
            found = _read(pixels, index)
            if found:
                return found
            notes = _write(pixels, shape, produce())
            write_atomically(index, json.dumps({"sha256": file_digest(pixels), "notes": notes}).encode())
            return np.load(pixels, mmap_mode="r", allow_pickle=False), notes
    except OSError as error:
        raise MachineError(
            f"cannot write the image cache {folder} ({error.strerror or error}); free some space, or set "
            "CSN_JAX_CACHE to a folder with room."
        ) from error


def _read(pixels: Path, index: Path) -> tuple[np.ndarray, list[Any]] | None:
    """An entry, or None when it is not there or damaged in any way: it is made again then."""
    try:
        entry = json.loads(index.read_text(encoding="utf-8"))
        if file_digest(pixels) == entry["sha256"]:
            return np.load(pixels, mmap_mode="r", allow_pickle=False), entry["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(path: Path, shape: tuple[int, ...], blocks: Iterable[tuple[np.ndarray | None, Any]]) -> list[Any]:
    """Write blocks as they come, to a temporary name; rename when whole. Returns the notes.

    The temporary name is fixed, which the lock allows: what a killed process left is overwritten and not heaped up.
    """
    notes, kept = [], 0
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(_header(shape))
            for block, note in blocks:
                notes.append(note)
                if block is not None:
                    file.write(np.ascontiguousarray(block, np.uint8))
                    kept += 1
            file.seek(0)
            file.write(_header((kept, *shape[1:])))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return notes


def _header(shape: tuple[int, ...]) -> bytes:
    """An .npy header. NumPy leaves room in it for the first axis to grow, so another count has the same length."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
