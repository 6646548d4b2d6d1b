"""The folder of a run: one writer at a time, one config for good, no half-written file."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csn_jax.config import Config, differences
from csn_jax.errors import UserError


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old file or the whole new one, also after a power cut: file and folder are fsynced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the folder's lock. It dies with the process, also under SIGKILL, so no stale lock needs a hand.

    Raises:
        UserError: when another process writes here, naming its host and process id.
    """
    descriptor = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            try:
                owner = json.loads(os.read(descriptor, 500))
                who = f"process {owner['pid']} on {owner['host']}"
            except (ValueError, KeyError, TypeError):
                who = "another process"
            raise UserError(f"{workdir} is in use by {who}; wait for it, stop it, or give another --workdir.") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def open_workdir(workdir: Path) -> Path:
    """Make the folder if it is not there; its absolute path (Orbax fails late on a relative one).

    Raises:
        UserError: when it cannot be a folder.
    """
    workdir = workdir.expanduser().absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be made ({error.strerror}); give a folder you may write to."
        ) from None
    return workdir


def claim(workdir: Path, config: Config) -> None:
    """Write config.json into a new workdir; in one that has it, refuse another config.

    Raises:
        UserError: naming the fields that differ.
    """
    path = workdir / "config.json"
    if not path.exists():
        write_atomically(path, config.to_json().encode())
        return
    changed = differences(read_config(workdir), config)
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}); give another --workdir or the old config."
        )


def read_config(workdir: Path) -> Config:
    """The config of a run.

    Raises:
        UserError: when the folder is none of a run's, or its config is damaged.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} has no config.json; give the --workdir of a run of csn_jax.train.")
    return Config.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))


def read_record(workdir: Path) -> dict:
    """data.json of a run: conditions in order with their kinds, split unit, source, shapes and digests.

    Raises:
        UserError: when it is missing or damaged.
    """
    path = workdir / "data.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{workdir} has no data.json; its training never began, so run the same command again."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy.") from None
