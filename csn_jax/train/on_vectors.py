"""What training on vectors adds: a start from the vectors' raw geometry, maps chosen by condition, and raw vectors kept
where nothing that was learned is better."""

from typing import Any

import numpy as np

from csn_jax.backbones.plain import projection_start
from csn_jax.config import Config
from csn_jax.core.maps import MapsPlan, pieces, plan_maps, principal_axes, sampled
from csn_jax.core.masks import blocks
from csn_jax.core.steps import State, initial_state
from csn_jax.data.dataset import Dataset
from csn_jax.data.item_set import ItemSet
from csn_jax.data.triplets import Triplets
from csn_jax.errors import UserError
from csn_jax.evaluate.baselines import wrong_by
from csn_jax.evaluate.bootstrap import clearly_positive
from csn_jax.evaluate.triplet_error import triplet_error, wrong_triplets
from csn_jax.model.model import Model
from csn_jax.model.network import Network
from csn_jax.runtime import hosts
from csn_jax.runtime.sharding import summed

ASKED = 20_000  # training triplets that decide between the two raw geometries


def plan_of(config: Config, items: ItemSet) -> dict[str, Any] | None:
    """`Record.maps` of a config, or None for other variants. A UserError for several pulls on images."""
    if config.variant != "maps":
        return None
    width, pulls = config.backbone.embedding_dim, config.maps.pulls
    if len(pulls) > 1 and not config.maps_vectors:
        raise UserError(f"config.maps.pulls is {pulls}, but one set of maps trains with a network; give one.")
    plan = MapsPlan(0, min(config.maps.rank or width, width), pulls or (0.0,))
    if config.maps_vectors:
        n_values = max(len(np.unique(items.labels.get(name, ()))) for name, _ in items.conditions)
        chosen = {"axes": config.maps.axes, "rank": config.maps.rank, "pulls": pulls}
        plan = plan_maps(items.inputs.shape[1], len(_training(items)), n_values, **chosen)
    return plan._asdict() | {"pulls": list(plan.pulls)}


def _training(items: ItemSet) -> np.ndarray:
    """The positions of the training items; of all, if triplets were split in their place."""
    members = np.flatnonzero(items.split == "train")
    return members if len(members) else np.arange(len(items.ids))


def is_unit(dataset: Dataset) -> bool:
    """Whether raw cosine makes at most as many errors as raw Euclidean distance, on training triplets."""
    triplets = dataset.triplets["train"]
    some = np.linspace(0, len(triplets.anchor) - 1, min(ASKED, len(triplets.anchor))).astype(int)
    triplets = Triplets(*(column[some] for column in triplets))
    cosine, euclidean = (_raw_wrong(dataset.items.inputs, triplets, unit) for unit in (True, False))
    return bool(cosine.sum() <= euclidean.sum())


def _raw_wrong(vectors: np.ndarray, triplets: Triplets, unit: bool) -> np.ndarray:
    rows, triplets = triplets.compact()
    return wrong_by(np.concatenate([x for _, x in pieces(vectors[rows], unit, np.float32)]), triplets)


def raw_start(config: Config, network: Network, items: ItemSet, unit: bool) -> State:
    """The state of step 0 on vectors. Maps start as the first principal axes of the training vectors. So does the only
    layer of a projection, on standardised vectors, whose mean and variance its norm has from the start."""
    members, (params, statistics) = _training(items), (network.state.params["backbone"], network.state.statistics)
    if config.maps_vectors:
        axes = principal_axes(items.inputs, members, len(statistics["axes"]), unit)
        kept = np.asarray(network.masks.beta[0])
        statistics = statistics | {"mean": axes.mean, "axes": axes.rows, "unit": np.array(unit), "kept": kept}
    else:
        params, statistics = projection_start(params, statistics, items.inputs[sampled(members)])
    return initial_state(params, statistics, network.masks.beta, network.optimizer)


class MapsLook:
    """The validation error of maps that train on rotated vectors, and the best map of each condition so far."""

    def __init__(self, dataset: Dataset, vectors: np.ndarray):
        triplets = dataset.triplets["validation"]
        rows, self._triplets = Triplets(*(column[hosts.index() :: hosts.count()] for column in triplets)).compact()
        self._vectors, self._items = vectors[rows], dataset.items
        self._names = [condition.name for condition in dataset.items.conditions]

    def __call__(self, state: State) -> tuple[dict[str, float], dict[str, Any]]:
        """(the error of each condition's best map so far and `overall`, the state's statistics with these maps)."""
        beta, statistics = np.asarray(state.params["beta"]), state.statistics
        kept, kept_error = (np.array(statistics[name]) for name in ("kept", "kept_error"))
        counts = np.array([self._counts(maps) for maps in beta])  # [P, C, 2]
        totals = np.maximum(counts[0, :, 1], 1)
        errors = counts[:, :, 0] / totals[None]
        best = errors.argmin(axis=0)  # [C]
        for row, chosen in enumerate(best.tolist()):
            if errors[chosen, row].astype(np.float32) < kept_error[row]:
                kept[row], kept_error[row] = beta[chosen, row], errors[chosen, row]
        overall = float((kept_error * totals).sum() / totals.sum())
        errors = dict(zip(self._names, kept_error.tolist(), strict=True))
        return {"overall": overall} | errors, statistics | {"kept": kept, "kept_error": kept_error}

    def _counts(self, maps: np.ndarray) -> list[tuple[int, int]]:
        n_conditions, rank, _ = maps.shape
        views = self._vectors @ maps.reshape(n_conditions * rank, -1).T
        counts = triplet_error(views, blocks(n_conditions, n_conditions * rank), self._items, self._triplets)
        return summed(np.array([counts[name] for name in self._names])).tolist()


def raw_conditions(model: Model, dataset: Dataset, unit: bool) -> dict[str, Any]:
    """`Record.raw` after training. A condition keeps the raw geometry unless what it learned has a lower error on its
    validation triplets by more than one standard error of the difference, over anchors."""
    rows, triplets = dataset.triplets["validation"].compact()
    views = model.view(model.embed(dataset.items.inputs, rows))
    gain = _raw_wrong(dataset.items.inputs, dataset.triplets["validation"], unit).astype(float)
    gain -= wrong_triplets(views, model.masks, triplets)
    served = []
    for row, name in enumerate(model.conditions):
        of = triplets.condition == row
        if not clearly_positive(gain[of], triplets.anchor[of]):
            served.append(name)
    learned = np.square(model.masks[~np.isin(model.conditions, served)], dtype=np.float64) @ views.var(axis=0)
    raw = sum(x.var(axis=0).sum() * len(x) for _, x in pieces(dataset.items.inputs[rows], unit, np.float32)) / len(rows)
    scale = float(np.sqrt(learned.mean() / raw)) if len(learned) and raw > 0 else 1.0  # equal weights in a mixture
    return {"unit": unit, "conditions": served, "scale": scale}
