"""The metrics of steps that may still be running, and the message about the first bad one."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from csn_jax.errors import MachineError
from csn_jax.runtime import hosts
from csn_jax.runtime.workdir import write_atomically
from csn_jax.train.feed import BatchAt


class Pending:
    """Metrics of the steps since the last look. They stay on the device, so no step waits for the host."""

    def __init__(self, batch_at: BatchAt, ids: np.ndarray, workdir: Path, start: int):
        self._batch_at, self._ids, self._workdir = batch_at, ids, workdir
        self._step, self._metrics = start, []

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Add the scalars of one step, or the columns [K] of a call of K steps."""
        self._metrics.append(metrics)

    def take(self) -> dict[str, float]:
        """Fetch everything, check that it is finite, and return the newest step's metrics. A MachineError names the
        first step whose loss or gradient is not finite, and its items."""
        fetched = jax.device_get(self._metrics)  # one wait for all of them
        for metrics in (step for call in fetched for step in by_step(call)):
            self._step += 1
            if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"])):
                raise MachineError(self._blame(metrics))
        self._metrics.clear()
        return {name: float(value) for name, value in metrics.items()}

    def _blame(self, metrics: dict[str, Any]) -> str:
        batch = self._batch_at(self._step - 1)  # its padding repeats items
        ids = self._ids[np.unique(np.concatenate([getattr(batch, column) for column in batch.ITEMS]))].tolist()
        path = self._workdir / "nonfinite_batch.json"
        if hosts.is_first():
            write_atomically(path, json.dumps({"step": self._step, "items": ids}, indent=1).encode())
        return (
            f"step {self._step} has loss {float(metrics['loss'])} and gradient norm {float(metrics['gradient_norm'])} "
            f"on {len(ids)} items ({', '.join(ids[:5])}, ...; all in {path}); the last good checkpoint is kept: lower "
            "config.learning_rate in a new --workdir, or look at these items."
        )


def by_step(metrics: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The scalars per step of one call, whose metrics are scalars or columns [K]."""
    for values in zip(*map(np.atleast_1d, metrics.values()), strict=True):
        yield dict(zip(metrics, values, strict=True))
