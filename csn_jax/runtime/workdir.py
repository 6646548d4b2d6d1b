"""The folder of a run: one writer at a time, one config for good, no half-written file."""

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from csn_jax.config import Config
from csn_jax.config.typed import differences
from csn_jax.errors import MachineError, UserError
from csn_jax.runtime import hosts
from csn_jax.runtime.record import Record, read_record, to_json

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_folder() -> Path:
    """$CSN_JAX_CACHE, or ~/.cache/csn_jax: files of all runs that can be made again."""
    return Path(os.environ.get("CSN_JAX_CACHE") or Path.home() / ".cache" / "csn_jax").expanduser().absolute()


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old file or the whole new one, also after a power cut: file and folder are fsynced."""
    with replacing(path, path.with_name(f".{path.name}.{os.getpid()}.tmp")) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece that then replaces another, as `write_atomically` does. An error removes it; one
    of missing rights names the other file."""
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except PermissionError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(workdir: Path, flag: str = "--workdir") -> Iterator[None]:
    """Hold the folder's lock; of several processes, the first one holds it for all.

    The lock dies with the process, also under SIGKILL, so a stale one does not need to be removed. An error that leaves
    nothing new in a folder without a run removes the lock file too. A UserError if the folder, which `flag` named, is
    read-only, or another process writes here: it names that process and its host.
    """
    with ExitStack() as lock:
        hosts.on_first(lambda: lock.enter_context(_lock(workdir, flag)))
        yield


@contextmanager
def _lock(workdir: Path, flag: str) -> Iterator[None]:
    path = workdir / ".lock"
    try:
        before = {*os.listdir(workdir), path.name}
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"{flag}={workdir} cannot be written ({error.strerror}); give another folder.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{workdir} is in use by {_owner(descriptor)}; wait for it, stop it, or give another {flag}."
            ) from None
        if not _is_at(descriptor, path):  # its last owner has just removed it
            raise UserError(f"{workdir} was in use a moment ago; run the same command again.")
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
            for remains in workdir.glob(".*.tmp"):  # of a write_atomically that was killed
                remains.unlink()
            yield
        except BaseException:
            with suppress(OSError):  # the folder is gone
                if before.issuperset(os.listdir(workdir)) and not (workdir / "config.json").exists():
                    path.unlink()
            raise
    finally:
        os.close(descriptor)


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.read(descriptor, 500))
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def full_disk_reported(workdir: Path) -> Iterator[None]:
    """Turn Python's errors of a full disk into a MachineError that names file, folder and free bytes."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        free = shutil.disk_usage(workdir).free
        raise MachineError(
            f"no room to write {error.filename or 'a file'} in {workdir} ({error.strerror}; {free:,} bytes free); "
            "checkpoints stay whole: free some space and run the same command again."
        ) from error


@contextmanager
def no_empty_folders(workdir: Path) -> Iterator[None]:
    """Where an error leaves a workdir empty that is missing now, remove it and those above it that are missing too."""
    missing = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # one of them holds something by now
            for folder in missing:
                folder.rmdir()
        raise


def check_readable(folder: Path) -> None:
    """Raise PermissionError if anything in a folder may not be read, which is not damage: it must not be moved away."""
    for path in (folder, *folder.rglob("*")):
        if not os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def open_workdir(workdir: Path) -> Path:
    """Make a folder if it does not exist, and return its absolute path (Orbax fails late on a relative one)."""
    workdir = workdir.expanduser().absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made ({error.strerror})"
        raise UserError(f"--workdir={workdir} {reason}; give a folder you may write to.") from None
    return workdir


def check_config(workdir: Path, config: Config) -> None:
    """Refuse a workdir that holds a run of another config: a UserError names the fields that differ."""
    changed = differences(read_config(workdir), config) if (workdir / "config.json").exists() else []
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}); give another --workdir or the old config."
        )


def claim(workdir: Path, config: Config, record: Record) -> None:
    """Write config.json and data.json, which make the folder this run's; if they exist and differ, a UserError names
    the fields."""

    def write_or_check() -> None:
        check_config(workdir, config)
        if not (workdir / "config.json").exists():
            write_atomically(workdir / "config.json", config.to_json().encode())
        if (workdir / "data.json").exists():
            read_record(workdir).check(record, workdir)
        else:
            write_atomically(workdir / "data.json", to_json(record.as_object()))

    hosts.first_of_all(write_or_check)


def read_config(workdir: Path) -> Config:
    """The config of a run; a UserError if the folder is not a run's, or its config is damaged."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} has no config.json; give the --workdir of a run of csn_jax.train.")
    return Config.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
