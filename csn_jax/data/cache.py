"""A cache of decoded images: one memory-mapped uint8 array a digest of inputs and settings, verified when opened.

While an entry is made, its array has the ending .tmp, and .made has a line for each block: what a killed process made
is not made again.
"""

import fcntl
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.errors import MachineError
from csn_jax.runtime.workdir import cache_folder, write_atomically


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What a stopped process made already: of each block its pixels' SHA-256, or None where it has none, and its note.
Made = Sequence[tuple[str | None, Any]]


def cached(
    key: Any, shape: tuple[int, ...], produce: Callable[[Made], Iterable[tuple[np.ndarray | None, Any]]]
) -> tuple[np.ndarray, list[Any]]:
    """Blocks of images and a note on each, produced once and then read from disk.

    Args:
        key: JSON of all that the pixels depend on: digests of the inputs, settings, versions.
        shape: (blocks, ...), of which the first is an upper bound.
        produce: yields (uint8 block [...] or None, note) in order, a note being JSON. It is given those that were made
            before, and goes on after them.

    Returns:
        (images, notes): images [kept blocks, ...] memory-mapped uint8, leaving out those without a block, and all
        notes.

    Raises:
        MachineError: when the disk is full or the folder cannot be written.
    """
    name = hashlib.sha256(json.dumps([key, shape], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder()
    pixels, index, journal = (folder / f"{name}.{ending}" for ending in ("npy", "json", "made"))
    found = _read(pixels, index)
    if not found:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f"{name}.lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here, and then finds what the first one made
                found = _read(pixels, index) or _write(pixels, index, journal, shape, produce)
        except OSError as error:
            raise MachineError(
                f"cannot write the image cache {folder} ({error.strerror or error}); free some space, or set "
                "CSN_JAX_CACHE to a folder with room."
            ) from error
    journal.unlink(missing_ok=True)
    return found


def _read(pixels: Path, index: Path) -> tuple[np.ndarray, list[Any]] | None:
    """An entry, or None when it is not there or damaged in any way: it is made again then."""
    try:
        (sha256, notes), check = json.loads(index.read_text(encoding="utf-8"))
        if check == _digest([sha256, notes]) and file_digest(pixels) == sha256:
            return np.load(pixels, mmap_mode="r", allow_pickle=False), notes
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(
    pixels: Path, index: Path, journal: Path, shape: tuple[int, ...], produce: Callable[[Made], Iterable]
) -> tuple[np.ndarray, list[Any]]:
    """Write blocks as they come, each to the array before the journal; the last act renames the array."""
    temporary, header = pixels.with_suffix(".tmp"), _header(shape)
    try:
        made, journal_bytes = _made(temporary, journal, len(header), math.prod(shape[1:]))
        notes, kept = [note for _, note in made], sum(digest is not None for digest, _ in made)
        with open(temporary, "ab") as file, open(journal, "ab") as lines:
            file.truncate(len(header) + kept * math.prod(shape[1:]) if made else 0)
            lines.truncate(journal_bytes)
            if not made:
                file.write(header)
            for block, note in produce(made):
                digest = None
                if block is not None:
                    data = np.ascontiguousarray(block, np.uint8)
                    digest = hashlib.sha256(data).hexdigest()
                    file.write(data)
                    kept += 1
                file.flush()  # what the system has outlives the process
                lines.write(json.dumps([[digest, note], _digest([digest, note])]).encode() + b"\n")
                lines.flush()
                notes.append(note)
        with open(temporary, "r+b") as file:
            file.write(_header((kept, *shape[1:])))
            file.flush()
            os.fsync(file.fileno())
        entry = [file_digest(temporary), notes]
        write_atomically(index, json.dumps([entry, _digest(entry)]).encode())
        os.replace(temporary, pixels)
    except OSError:  # no room: give back what was taken
        temporary.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        raise
    return np.load(pixels, mmap_mode="r", allow_pickle=False), notes


def _made(temporary: Path, journal: Path, start: int, size: int) -> tuple[Made, int]:
    """What an unfinished entry has, as far as its array is what its journal says; and the journal's bytes so far."""
    made, read = [], 0
    if temporary.is_file() and journal.is_file():
        with open(temporary, "rb") as file, open(journal, "rb") as lines:
            file.seek(start)
            for line in lines:
                try:
                    (digest, note), check = json.loads(line)
                except (ValueError, TypeError):
                    break
                whole = digest is None or hashlib.sha256(file.read(size)).hexdigest() == digest
                if not (whole and check == _digest([digest, note]) and line.endswith(b"\n")):
                    break
                made.append((digest, note))
                read += len(line)
    return made, read


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _header(shape: tuple[int, ...]) -> bytes:
    """An .npy header. NumPy leaves room in it for the first axis to grow, so another count has the same length."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
