"""A finished run written at once: what has no training of its own, since it was imported or adapted."""

from contextlib import closing
from pathlib import Path

from csn_jax.config import Config
from csn_jax.core.steps import State
from csn_jax.errors import UserError
from csn_jax.runtime.checkpoint import Checkpoints, has_steps
from csn_jax.runtime.record import Record, Results, to_json
from csn_jax.runtime.workdir import claim, full_disk_told, locked, open_workdir, write_atomically


def check_free(workdir: Path, flag: str = "--workdir") -> None:
    """Refuse a folder that holds a model.

    Raises:
        UserError: naming it.
    """
    if has_steps(workdir / "checkpoints") or (workdir / "results.json").exists():
        raise UserError(f"{workdir} holds a model already; give another {flag}.")


def write_run(
    workdir: Path,
    config: Config,
    record: Record,
    state: State | None,
    results: Results | None = None,
    flag: str = "--workdir",
) -> None:
    """A workdir as training leaves it; without a state where the networks are below it. `flag` named it.

    Raises:
        UserError: when it holds a model, or another run.
    """
    workdir = open_workdir(workdir)
    with locked(workdir), full_disk_told(workdir):
        check_free(workdir, flag)
        claim(workdir, config, record)
        if state is not None:
            with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
                checkpoints.save(state)
        if results is not None:
            write_atomically(workdir / "results.json", to_json(results.as_object()))
