"""A run over vectors that no folder holds yet: without any condition, or with those that are given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csn_jax.config import BackboneConfig, Config, DataConfig
from csn_jax.core.maps import Axes, MapsPlan, plan_maps, principal_axes
from csn_jax.core.steps import State, initial_state
from csn_jax.data.item_set import SPLITS
from csn_jax.errors import UserError
from csn_jax.model.network import Network, network_of
from csn_jax.model.run import Run
from csn_jax.runtime.record import Condition, Record
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.open_index import open_vectors


@dataclass(frozen=True)
class NewRun(Run):
    """A run of maps that exists in memory only. state: its one. items: those of the file that has the vectors."""

    state: State | None = None
    items: Embeddings | None = None

    def restore(self) -> tuple[Network, State]:
        """The network, and the state."""
        return network_of(self.config, self.record), self.state


def start_on(path: str) -> NewRun:
    """`start_with` the items in a file; a UserError if a run made their vectors, whose conditions would be lost."""
    items = open_vectors(path)
    if items.conditions:
        names = ", ".join(name for name, _ in items.conditions)
        raise UserError(f"{path} was embedded by a run with conditions {names}; give that run as --workdir.")
    return start_with(Path(path).absolute(), items)


def start_with(place: Path, items: Embeddings) -> NewRun:
    """A run without a condition over the vectors of some items, scaled to length 1 as under cosine similarity."""
    n, width = items.vectors.shape
    plan = plan_maps(width, n, 0)
    axes = principal_axes(items.vectors, np.arange(n), plan.axes, unit=True)
    return run_over(place, items, axes, plan, unit=True)


def run_over(
    place: Path,
    items: Embeddings,
    axes: Axes,
    plan: MapsPlan,
    *,
    unit: bool,
    conditions: Sequence[Condition] = (),
    maps: np.ndarray | None = None,
) -> NewRun:
    """A run over the vectors of some items.

    Args:
        place: what messages name as the run.
        items: their vectors [N, F] are the embeddings.
        axes: k of them, of the vectors, from which later maps start.
        plan: of the maps.
        unit: whether vectors are scaled to length 1 first.
        conditions, maps: C of them, and the map [C, r, k] of each, over the axes.
    """
    none = dict.fromkeys(SPLITS, 0)
    names = tuple(condition.name for condition in conditions)
    data = DataConfig("imported", vectors="vector", conditions=names)
    config = Config(variant="maps", backbone=BackboneConfig("projection"), data=data)
    record = Record(
        source="imported",
        conditions=tuple(conditions),
        input_shape=(items.vectors.shape[1],),
        items=none,
        triplets=none,
        maps=plan._asdict() | {"pulls": list(plan.pulls)},
        raw={"unit": unit, "conditions": [], "scale": 1.0},
    )
    network = network_of(config, record)
    statistics = network.state.statistics | {"mean": axes.mean, "axes": axes.rows, "unit": np.array(unit)}
    beta = network.masks.beta
    if maps is not None:
        statistics, beta = statistics | {"kept": maps}, maps[None]
    state = initial_state({}, statistics, beta, network.optimizer)
    return NewRun(place, config, record, None, (), state=state, items=items)
