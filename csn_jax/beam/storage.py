"""Files by path, or by URL through fsspec (gs://, s3://, ...): read, listed, written whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from csn_jax.errors import MachineError, UserError
from csn_jax.runtime.workdir import write_atomically
from csn_jax.text import first_sentence


def is_url(place: str) -> bool:
    return "://" in place


def below(folder: str, name: str) -> str:
    """The place of a name in a folder."""
    return f"{folder.rstrip('/')}/{name}"


@contextmanager
def reported(place: str, flag: str) -> Iterator[None]:
    """Report what a remote file system raises: a missing package or file is the user's mistake. Errors of this machine
    go up."""
    if not is_url(place):
        yield
        return
    try:
        yield
    except (UserError, MachineError):
        raise
    except FileNotFoundError:
        raise UserError(f"{flag}={place} is not there; give another place.") from None
    except (ImportError, ValueError) as error:  # fsspec names the package to install, or knows no such protocol
        raise UserError(f"{flag}={place} cannot be used ({first_sentence(error)}).") from None
    except Exception as error:  # each file system has its own errors
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        raise MachineError(
            f"{flag}={place} cannot be used ({reason}); fix that and run the same command again."
        ) from None


def _system(place: str) -> tuple[Any, str]:
    """(the file system of a URL, the path in it)."""
    import fsspec

    return fsspec.core.url_to_fs(place)


def read(place: str, most: int = -1) -> bytes:
    """The bytes of a file, at most so many."""
    with open_file(place) as file:
        return file.read(most)


def open_file(place: str) -> BinaryIO:
    if not is_url(place):
        return open(place, "rb")
    system, path = _system(place)
    return system.open(path, "rb")


def names_in(folder: str) -> list[str]:
    """The names of the files in a folder, sorted; none if it does not exist."""
    if not is_url(folder):
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_file()) if os.path.isdir(folder) else []
    system, path = _system(folder)
    system.invalidate_cache()
    return sorted(os.path.basename(name) for name in system.ls(path, detail=False)) if system.isdir(path) else []


def write(place: str, content: bytes) -> None:
    """Write a file whole or not at all, in place of an older one. Folders above it are made."""
    if not is_url(place):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(place), content)
        return
    system, path = _system(place)
    folder, _, name = path.rpartition("/")
    system.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.{uuid4().hex}.tmp"  # of its own: Beam may start the same work twice
    system.pipe_file(temporary, content)
    system.mv(temporary, path)


def remove(place: str) -> None:
    """Remove a file, or a folder with all that it holds, if it exists."""
    if not is_url(place):
        if os.path.isdir(place):
            shutil.rmtree(place)
        else:
            Path(place).unlink(missing_ok=True)
        return
    system, path = _system(place)
    if system.exists(path):
        system.rm(path, recursive=True)


def local_copy(place: str, folder: Path) -> Path:
    """The path of a file or folder on this machine: that of a URL is copied into a folder."""
    if not is_url(place):
        return Path(place).expanduser()
    system, path = _system(place.rstrip("/"))
    target = folder / (os.path.basename(path) or "copy")
    if system.isdir(path):
        target.mkdir(exist_ok=True)
        for name in system.find(path):
            at = target / os.path.relpath(name, path)
            at.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(name, str(at))
    else:
        system.get_file(path, str(target))
    return target
