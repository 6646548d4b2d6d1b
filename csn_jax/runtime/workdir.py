"""The folder of a run: one writer at a time, one config for good, no half-written file."""

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from csn_jax.config import Config, differences
from csn_jax.errors import MachineError, UserError

# Names that results and workdirs have for something else; a specialist's run lies in a folder of its condition's name.
TAKEN = ("overall", "checkpoints", "config.json", "data.json", "results.json", "metrics.jsonl", "timing.jsonl")
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_folder() -> Path:
    """$CSN_JAX_CACHE, or ~/.cache/csn_jax: what can be made again, of all runs."""
    return Path(os.environ.get("CSN_JAX_CACHE") or Path.home() / ".cache" / "csn_jax").expanduser().absolute()


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
def locked(workdir: Path, flag: str = "--workdir") -> Iterator[None]:
    """Hold the folder's lock. It dies with the process, also under SIGKILL, so no stale lock needs a hand.

    Args:
        workdir: the folder.
        flag: what gives it, for messages.

    Raises:
        UserError: when another process writes here, naming its host and process id, or nobody may.
    """
    try:
        descriptor = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"{flag}={workdir} cannot be written ({error.strerror}); give another folder.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                owner = json.loads(os.read(descriptor, 500))
                who = f"process {owner['pid']} on {owner['host']}"
            except (ValueError, KeyError, TypeError):
                who = "another process"
            raise UserError(f"{workdir} is in use by {who}; wait for it, stop it, or give another {flag}.") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        for litter in workdir.glob(".*.tmp"):  # of a write_atomically that was killed
            litter.unlink()
        yield
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_told(workdir: Path) -> Iterator[None]:
    """Turn what Python raises on a full disk into one sentence.

    Raises:
        MachineError: naming file, folder and free bytes.
    """
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


def check_config(workdir: Path, config: Config) -> None:
    """Refuse a workdir that holds a run of another config.

    Raises:
        UserError: naming the fields that differ.
    """
    changed = differences(read_config(workdir), config) if (workdir / "config.json").exists() else []
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}); give another --workdir or the old config."
        )


def claim(workdir: Path, config: Config, record: dict) -> None:
    """Write config.json and data.json, from when on the folder is this run's; where they are, check that they agree.

    Raises:
        UserError: naming the fields that differ.
    """
    check_config(workdir, config)
    if not (workdir / "config.json").exists():
        write_atomically(workdir / "config.json", config.to_json().encode())
    if (workdir / "data.json").exists():
        check_record(workdir, record)
    else:
        write_atomically(workdir / "data.json", (json.dumps(record, indent=2) + "\n").encode())


def read_config(workdir: Path) -> Config:
    """The config of a run.

    Raises:
        UserError: when the folder is none of a run's, or its config is damaged.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} has no config.json; give the --workdir of a run of csn_jax.train.")
    return Config.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))


def check_name(name: str) -> None:
    """Whether a condition can have this name: neighbours_<name>.png, and the folder of a specialist beside the
    workdir's own files.

    Raises:
        UserError: when it can not.
    """
    if not name or not name.isprintable() or "/" in name or name.startswith(".") or len(name.encode()) > 200:
        raise UserError(f"condition {name!r} cannot name a file, as its pictures need; rename it.")
    if name in TAKEN:
        raise UserError(f"condition {name!r} has a name that results and workdirs use; rename it.")


def read_record(workdir: Path) -> dict:
    """data.json of a run: conditions in order with their kinds, split unit, source, shapes and digests.

    Raises:
        UserError: when it is missing or damaged.
    """
    path = workdir / "data.json"
    if not path.is_file():
        raise UserError(f"{workdir} has no data.json; its training never began, so run the same command again.")
    record = _read_object(path)
    try:
        sound = all(isinstance(condition["name"], str) for condition in record["conditions"])
        numbers = [*record["input_shape"], *record["triplets"].values(), *record["items"].values()]
        sound = sound and all(isinstance(n, int) for n in numbers)
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is damaged (a field is missing or of another type); restore it from a copy.")
    for condition in record["conditions"]:  # of a stranger's folder, they may lead anywhere
        try:
            check_name(condition["name"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return record


def check_record(workdir: Path, record: dict) -> None:
    """Refuse data other than the workdir was trained on. Conditions that csn_jax.adapt learned from elsewhere are none
    of that data's.

    Raises:
        UserError: naming the field that differs, the digests first of all.
    """
    old, new = read_record(workdir), json.loads(json.dumps(record))
    foreign = {one["condition"] for one in old.get("adapted", ()) if not one["own_data"]}
    old["conditions"] = [condition for condition in old["conditions"] if condition["name"] not in foreign]
    for field in sorted(new, key=lambda name: "sha256" not in name):
        if old.get(field) != new[field]:
            raise UserError(
                f"{workdir} was trained on other data: {field} is {old.get(field)} in its data.json and {new[field]} "
                "now; bring back the data it was trained on, or train in a new --workdir."
            )


def read_results(workdir: Path) -> dict[str, Any] | None:
    """results.json of a finished run, or None where the run is not finished.

    Raises:
        UserError: when it is damaged.
    """
    path = workdir / "results.json"
    return _read_object(path) if path.is_file() else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it holds no object); restore it from a copy.")
    return value
