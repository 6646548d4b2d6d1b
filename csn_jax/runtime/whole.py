"""Outputs that a command makes as a whole: written entirely or not at all, and never in place of anything else."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from csn_jax.config import Config
from csn_jax.core.steps import State
from csn_jax.errors import UserError
from csn_jax.runtime.checkpoint import Checkpoints, has_steps
from csn_jax.runtime.record import Record, Results, to_json
from csn_jax.runtime.workdir import claim, full_disk_reported, locked, open_workdir, write_atomically

NOTHING = re.compile("(?!)")  # no name is ours: only an empty folder is replaced


def check_folder(out: Path, ours: re.Pattern[str] = NOTHING, mark: tuple[str, bytes] = ("", b"")) -> None:
    """Refuse a place where writing a folder would lose anything but an older folder of the same kind: a UserError names
    what would be lost. `ours` are the names of the files in such a folder; `mark` is the name of its main file, and
    bytes which that file contains."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise UserError(f"--out={out} is not a folder; give a new one.")
    names = sorted(path.name for path in out.iterdir())
    strange = [name for name in names if not ours.fullmatch(name)]
    main, content = mark
    if not strange and names and not ((out / main).is_file() and content in (out / main).read_bytes()):
        strange = names
    if strange:
        raise UserError(f"--out={out} holds {strange[0]}, which this command did not write; give a new folder.")


def write_folder(
    out: Path, files: dict[str, bytes], ours: re.Pattern[str] = NOTHING, mark: tuple[str, bytes] = ("", b"")
) -> None:
    """Write a folder whole or not at all, in place of an older one of its kind, or of an empty one; `ours` and `mark`
    as in `check_folder`. A UserError if it cannot be written, a MachineError if the disk is full. Names of files may
    have a folder before them."""
    temporary, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("partial", "old"))
    try:
        with writable(out):
            temporary.mkdir(parents=True)
            with full_disk_reported(temporary):
                for name, content in files.items():
                    (temporary / name).parent.mkdir(exist_ok=True)
                    write_atomically(temporary / name, content)
            check_folder(out, ours, mark)  # once more: making it took minutes
            if out.exists():
                os.rename(out, old)
            try:
                os.rename(temporary, out)
            except OSError:
                if old.exists():
                    os.rename(old, out)
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_files(files: dict[Path, bytes]) -> None:
    """Write files into one folder, each whole or not at all, in their order; errors as in `write_folder`."""
    for path, content in files.items():
        with writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with full_disk_reported(path.parent):
                write_atomically(path, content)


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Report a place that cannot be written as the user's mistake: a UserError with --out and the reason."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise UserError(f"--out={out} cannot be written ({reason}); give a place that you may write to.") from None


def check_free(workdir: Path, flag: str = "--workdir") -> None:
    """Refuse, by a UserError, a folder that holds a model."""
    if has_steps(workdir / "checkpoints") or (workdir / "results.json").exists():
        raise UserError(f"{workdir} holds a model already; give another {flag}.")


def write_run(
    workdir: Path, config: Config, record: Record, state: State | None, results: Results | None = None
) -> None:
    """Write a workdir as training leaves it, for a model that was imported or adapted. A UserError if the folder holds
    a model, or another run. `state` is None for specialists, whose networks lie in the folders below."""
    workdir = open_workdir(workdir)
    with locked(workdir), full_disk_reported(workdir):
        check_free(workdir)
        claim(workdir, config, record)
        if state is not None:
            with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
                checkpoints.save(state)
        if results is not None:
            write_atomically(workdir / "results.json", to_json(results.as_object()))
