"""A folder that a command makes as a whole: written entirely or not at all, in place of nothing but its own kind."""

import os
import re
import shutil
from pathlib import Path

from csn_jax.errors import UserError
from csn_jax.runtime.workdir import full_disk_told, write_atomically


def check_folder(out: Path, ours: re.Pattern[str], mark: tuple[str, bytes]) -> None:
    """Whether a folder may be written there: nothing is there yet, or nothing but a folder of the same kind.

    Args:
        ours: what the files of such a folder are called.
        mark: the name of its main file and what that contains.

    Raises:
        UserError: naming what would be lost.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise UserError(f"--out={out} is no folder; give a new one.")
    names = sorted(path.name for path in out.iterdir())
    strange = [name for name in names if not ours.fullmatch(name)]
    main, content = mark
    if not strange and names and not ((out / main).is_file() and content in (out / main).read_bytes()):
        strange = names
    if strange:
        raise UserError(f"--out={out} holds {strange[0]}, which this command did not write; give a new folder.")


def write_folder(out: Path, files: dict[str, bytes], ours: re.Pattern[str], mark: tuple[str, bytes]) -> None:
    """Write a folder whole or not at all, in place of an older one of its kind.

    Raises:
        UserError: when it cannot be written.
        MachineError: when the disk is full.
    """
    temporary, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("partial", "old"))
    try:
        temporary.mkdir(parents=True)
        with full_disk_told(temporary):
            for name, content in files.items():
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
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise UserError(f"--out={out} cannot be written ({what}); give a folder you may write to.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
