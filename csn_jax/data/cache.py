"""A cache of decoded images: one memory-mapped uint8 array per digest of inputs and settings, verified when opened.

While an entry is being made, its array ends in .tmp, and a journal .made has one line per block. After a kill, the next
process resumes from both.
"""

import fcntl
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.errors import MachineError
from csn_jax.runtime.workdir import cache_folder, write_atomically
from csn_jax.runtime.writer import Progress


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    hasher = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 16):  # hashlib.file_digest makes room of 256 kB first, which small files wait for
            hasher.update(piece)
    return hasher.hexdigest()


# What a stopped process made already, per block: the SHA-256 of its pixels or None, and its note.
Made = Sequence[tuple[str | None, Any]]


def cached(
    key: Any,
    shape: tuple[int, ...],
    produce: Callable[[Made], Iterable[tuple[np.ndarray | None, Any]]],
    work: tuple[str, str] = ("reading images", "image"),
) -> tuple[np.ndarray, list[Any]]:
    """Produce blocks of images with their notes once; later read them from disk.

    Args:
        key: JSON of everything that the pixels depend on: digests of the inputs, settings, versions.
        shape: (blocks, ...); the number of blocks is an upper bound.
        produce: takes the blocks that an earlier process made, and yields (uint8 block [...] or None, note) for the
            blocks after them, in order. Notes are JSON.
        work: what is done and the name of a block, for the progress that is shown.

    Returns:
        (images, notes): uint8 [blocks that exist, ...], memory-mapped, and the notes of all blocks.

    Raises:
        MachineError: when the disk is full or the folder cannot be written.
    """
    name = hashlib.sha256(json.dumps([key, shape], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder()
    pixels, index, journal = (folder / f"{name}.{ending}" for ending in ("npy", "json", "made"))
    entry = _read(pixels, index)
    if not entry:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f"{name}.lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, then reads what the first one made
                entry = _read(pixels, index) or _write(pixels, index, journal, shape, produce, work)
        except OSError as error:
            raise MachineError(
                f"cannot write the image cache {folder} ({error.strerror or error}); free some space, or set "
                "CSN_JAX_CACHE to a folder with room."
            ) from error
    journal.unlink(missing_ok=True)
    return entry


def _read(pixels: Path, index: Path) -> tuple[np.ndarray, list[Any]] | None:
    """An entry, or None when it is missing or damaged: then it is made again."""
    try:
        (sha256, notes), check = json.loads(index.read_text(encoding="utf-8"))
        if check == _digest([sha256, notes]) and file_digest(pixels) == sha256:
            return np.load(pixels, mmap_mode="r", allow_pickle=False), notes
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(
    pixels: Path, index: Path, journal: Path, shape: tuple[int, ...], produce: Callable, work: tuple[str, str]
) -> tuple[np.ndarray, list[Any]]:
    """Write each block as it comes, first to the array, then to the journal. Renaming the array comes last."""
    temporary, header = pixels.with_suffix(".tmp"), _header(shape)
    try:
        made, journal_bytes = _made(temporary, journal, len(header), math.prod(shape[1:]))
        notes, kept = [note for _, note in made], sum(digest is not None for digest, _ in made)
        progress = Progress(work[0], shape[0], len(made), unit=work[1])
        with open(temporary, "ab") as file, open(journal, "ab") as lines, closing(progress):
            file.truncate(len(header) + kept * math.prod(shape[1:]) if made else 0)
            lines.truncate(journal_bytes)
            if not made:
                file.write(header)
            for block, note in produce(made):
                progress.advance(1)
                digest = None
                if block is not None:
                    data = np.ascontiguousarray(block, np.uint8)
                    digest = hashlib.sha256(data).hexdigest()
                    file.write(data)
                    kept += 1
                file.flush()  # the data then outlives the process
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
    except OSError:  # the disk is full: free what was written
        temporary.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        raise
    return np.load(pixels, mmap_mode="r", allow_pickle=False), notes


def _made(temporary: Path, journal: Path, start: int, size: int) -> tuple[Made, int]:
    """The blocks of an unfinished entry up to the first that differs from its journal; the journal's bytes up to it."""
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
    """An .npy header. NumPy leaves room for the first axis to grow, so every number of blocks has the same length."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()
