"""A run, read and checked once: config, record, results, model and data."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csn_jax.config import Config
from csn_jax.errors import UserError
from csn_jax.runtime.record import Record, Results, read_record, read_results
from csn_jax.runtime.workdir import read_config

if TYPE_CHECKING:
    from csn_jax.core.steps import State
    from csn_jax.data.dataset import Dataset
    from csn_jax.model.model import Model
    from csn_jax.model.network import Network


@dataclass(frozen=True)
class Run:
    """A workdir. specialists: the runs below it, one per condition; empty for other variants. data_path: where the user
    says that its data lies now, or the empty string."""

    workdir: Path
    config: Config
    record: Record
    results: Results | None
    specialists: tuple["Run", ...]
    data_path: str = ""

    def model(self) -> "Model":
        """The best model by validation error. Specialists are joined to one model."""
        from csn_jax.model.from_state import join, make_model, make_programs
        from csn_jax.runtime.sharding import make_shardings

        if self.specialists:
            return join([run.model() for run in self.specialists])
        network, state = self.restore()
        rectified = self.record.rectified is not False
        shape, programs = self.record.input_shape, make_programs(network)
        parts = (self.config, self.record.names, shape, state, programs, make_shardings())
        return make_model(*parts, rectified=rectified, raw=self.record.raw)

    def restore(self) -> tuple["Network", "State"]:
        """The network, and its state at the best step. A UserError if there is neither a checkpoint nor an exported
        model, or it belongs to another model; a MachineError if the checkpoint is damaged."""
        from csn_jax.model.exported import WEIGHTS, exported_state
        from csn_jax.model.from_state import restore_target
        from csn_jax.model.network import network_of
        from csn_jax.runtime.checkpoint import Checkpoints
        from csn_jax.runtime.sharding import make_shardings, place

        folder = self.workdir / "checkpoints"
        checkpoints = Checkpoints(folder, read_only=True) if folder.is_dir() else None
        best = checkpoints.best_step() if checkpoints else None
        if best is None and not (self.workdir / WEIGHTS).is_file():
            raise UserError(f"{self.workdir} has no checkpoint yet; run csn_jax train with this --workdir first.")
        config, record = self.config, self.record
        network = network_of(config, record)
        if best is None:
            return network, place(exported_state(self), make_shardings().state)
        return network, checkpoints.restore(best, restore_target(network.state, make_shardings()))

    def dataset(self) -> "Dataset":
        """The items and triplets of training and measurement; a UserError if they are missing or have changed."""
        from csn_jax.data.dataset import load_dataset

        config = self.placed()
        path = Path(config.data.path).expanduser()
        if config.data.path and config.data.source != "tfds" and not path.exists():
            was = Path(self.record.folder or "", self.config.data.path)
            raise UserError(
                f"{self.workdir} was trained on {was}, and {path} is not there; give the place of the same data as "
                "--data.path."
            )
        dataset = load_dataset(config)
        self.record.check(dataset.record, self.workdir)
        return dataset

    def placed(self) -> Config:
        """The config with the paths of its data as they are now. A relative path begins in the folder in which training
        was started; else here; else in a folder above the workdir, if both moved together."""
        here = Path.cwd()
        starts = (Path(self.record.folder or here), here, *self.workdir.parents)

        def now(path: str) -> str:
            if not path or Path(path).expanduser().is_absolute():
                return path
            found = next((start for start in starts if (start / path).exists()), here)
            return path if found == here else str(found / path)

        data = self.config.data
        data = dataclasses.replace(data, path=self.data_path or now(data.path), triplets=now(data.triplets))
        return dataclasses.replace(self.config, data=data)


def open_run(workdir: str | Path, data_path: str = "") -> Run:
    """Read a run's folder; a UserError if it is not one, or a file in it is damaged. `data_path` as in Run."""
    if not isinstance(workdir, str | os.PathLike):
        raise UserError(f"the workdir is {workdir!r}; give the path of a run's folder.")
    workdir = Path(workdir).expanduser().absolute()
    config, record, results = read_config(workdir), read_record(workdir), read_results(workdir)
    below = record.names if config.variant == "specialists" else ()
    return Run(workdir, config, record, results, tuple(open_run(workdir / name) for name in below), data_path)


def load(workdir: str | Path) -> "Model":
    """The best model of a training run, by validation error.

    Args:
        workdir: the folder given to `csn_jax train --workdir`, or one that `csn_jax port export` wrote. Neither data
            nor TensorFlow is needed.

    Raises:
        UserError: when it is not a run's folder, or has no checkpoint yet.
        MachineError: when the checkpoint is damaged.
    """
    return open_run(workdir).model()
