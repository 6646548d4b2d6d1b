"""Lives: forks of a process that has imported everything and touched no device, so that each costs little.

Call `prepare` before JAX is imported anywhere.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))


def prepare(folder: Path, *, tensorflow: bool = True) -> None:
    """Import what a training needs. Programs are compiled once for all lives, and kept in `folder`."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    import csn_jax.train
    import csn_jax.train.loop

    if tensorflow:
        import csn_jax.train.tf_feed  # noqa: F401


def tiny_run(kind: str, folder: Path) -> list[str]:
    """Arguments of a tiny training on `pictures`, also by a vision transformer (`vit`), or on `vectors` in a third of
    the time, with masks or `maps`; its table is in `folder`."""
    import tiny

    if kind in ("pictures", "vit"):
        return [*tiny.ARGUMENTS, *(tiny.vision_transformer() if kind == "vit" else ())]
    return [*tiny.ARGUMENTS, *tiny.on_vectors(folder), *(tiny.MAPS if kind == "maps" else ())]


def begin(function: Callable[[], object], log: Path) -> int:
    """Fork a child that calls a function, with all it says in the log; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        function()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end(child: int) -> int:
    """Wait for a life: its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lived(function: Callable[[], object], log: Path) -> int:
    """Begin a life and wait for its end."""
    return end(begin(function, log))


def command(verb: str, argv: Sequence[str]) -> Callable[[], None]:
    """The command `python -m csn_jax.VERB`, for a life."""

    def run() -> None:
        import importlib

        from csn_jax import cli
        from csn_jax.pictures import sheets as pictures

        pictures.QUERIES = pictures.NEIGHBOURS = 1  # drawing is no part of the contest
        sys.argv = [verb, *argv]
        cli.run(importlib.import_module(f"csn_jax.{verb}").main)

    return run


def lines(workdir: Path) -> int:
    """Lines of the metrics log so far."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def last_logged(workdir: Path) -> int:
    """The step of the metrics log's last whole line; 0 where there is none."""
    path = workdir / "metrics.jsonl"
    whole = [line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")] if path.exists() else []
    return json.loads(whole[-1])["step"] if whole else 0


def newest_step(workdir: Path) -> int:
    """The newest checkpoint that is whole; 0 where there is none."""
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def contested(name: str, contest: Callable[[Path], dict], *, tensorflow: bool = False) -> int:
    """What every harness does: hold a contest in a folder of its own, print its report, and give the exit status."""
    folder = new_folder(name)
    prepare(folder, tensorflow=tensorflow)
    try:
        report = contest(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report))
    return 1 if report["faults"] else 0


def new_folder(name: str) -> Path:
    """A temporary folder for one contest."""
    return Path(tempfile.mkdtemp(prefix=f"{name}_"))
