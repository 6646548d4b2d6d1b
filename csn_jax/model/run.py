"""A run, read and checked once: its config, record, results, model and data."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csn_jax.config import Config
from csn_jax.runtime.record import Record, Results, read_record, read_results
from csn_jax.runtime.workdir import read_config

if TYPE_CHECKING:
    from csn_jax.core.steps import State
    from csn_jax.data.dataset import Dataset
    from csn_jax.model.model import Model
    from csn_jax.model.network import Network


@dataclass(frozen=True)
class Run:
    """A workdir. `specialists` are the runs below it, one per condition; other variants have none."""

    workdir: Path
    config: Config
    record: Record
    results: Results | None
    specialists: tuple["Run", ...]

    def model(self) -> "Model":
        """The best model by validation error. Specialists are one model, side by side."""
        from csn_jax.model.model import join, make_model, make_programs
        from csn_jax.runtime.sharding import make_shardings

        if self.specialists:
            return join([run.model() for run in self.specialists])
        network, state = self.restore()
        rectified = self.record.rectified is not False
        shape, programs = self.record.input_shape, make_programs(network)
        return make_model(self.config, self.record.names, shape, state, programs, make_shardings(), rectified=rectified)

    def restore(self) -> tuple["Network", "State"]:
        """The network, and its state at the best step.

        Raises:
            UserError: when there is no checkpoint, or it belongs to another model.
            MachineError: when the checkpoint is damaged.
        """
        from csn_jax.model.model import restore_best

        return restore_best(self.workdir, self.config, self.record)

    def dataset(self) -> "Dataset":
        """The items and triplets that the run was trained and measured on.

        Raises:
            UserError: when they are missing, or are other data.
        """
        from csn_jax.data.dataset import load_dataset

        dataset = load_dataset(self.config)
        self.record.check(dataset.record, self.workdir)
        return dataset


def open_run(workdir: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        UserError: when it is not a run's folder, or a file in it is damaged.
    """
    workdir = Path(workdir).expanduser().absolute()
    config, record, results = read_config(workdir), read_record(workdir), read_results(workdir)
    below = record.names if config.variant == "specialists" else ()
    return Run(workdir, config, record, results, tuple(open_run(workdir / name) for name in below))


def load(workdir: str | Path) -> "Model":
    """The best model of a training run, by validation error.

    Args:
        workdir: the folder given to `csn_jax train --workdir`. It needs nothing else: not the data, not TensorFlow.

    Raises:
        UserError: when the folder is not a run's, or has no checkpoint yet.
        MachineError: when the checkpoint is damaged.
    """
    return open_run(workdir).model()
