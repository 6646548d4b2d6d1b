"""The ladder: what raw vectors, four examples per value and a linear probe do on the test of a run, and a verdict."""

from typing import Any, NamedTuple

import numpy as np

from csn_jax.data.dataset import Dataset
from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.data.triplets import Triplets
from csn_jax.evaluate import baselines
from csn_jax.evaluate.bootstrap import intervals
from csn_jax.evaluate.off_task import FITTED_ON
from csn_jax.evaluate.retrieval import Likeness, key_blocks, likeness, sample
from csn_jax.evaluate.triplet_error import interval, shaped, wrong_triplets
from csn_jax.evaluate.verdict import Difference, difference, verdict
from csn_jax.model.inputs import CHUNK
from csn_jax.model.model import Model

RUNGS = ("euclidean", "cosine", "prototypes", "linear_probe", "run")
METRICS = ("recall@1", "precision@10")
GALLERY = 20_000  # items of the split that are searched at most, drawn with a fixed seed
QUERIES = 2_000  # of them that are asked per condition at most
ROUND = 64  # widths and numbers of items are padded to multiples, so that few compiled programs serve all rungs


class Rungs(NamedTuple):
    """The outcomes of one condition. A rung without a figure is left out.

    wrong: {rung: bool [T]}, in the order of the condition's triplets, whose anchors [T] are `anchor`.
    ahead: {rung: how much higher its error is than the run's}.
    nearest: {rung: float64 [2, Q]}, METRICS per query; empty without labels.
    predicted: as of `baselines.predicted`.
    """

    wrong: dict[str, np.ndarray]
    anchor: np.ndarray
    ahead: dict[str, Difference]
    nearest: dict[str, np.ndarray]
    predicted: tuple[float, float] | None


class Inputs(NamedTuple):
    """What the rungs without masks measure."""

    vectors: np.ndarray  # [N, F] floats, perhaps a memory map
    training: np.ndarray  # [N] bool, the items to fit on
    raw: str  # `vectors` of the user's, or `features` of the network


def inputs_of(model: Model, dataset: Dataset, split: str) -> Inputs:
    """The items' own vectors. For images the network's features before its last linear layer, of the split's items and
    of a sample to fit on. Each process computes its share of these."""
    items = dataset.items
    training = np.flatnonzero(items.split == "train")
    if items.inputs.ndim == 2:
        return Inputs(items.inputs, items.split == "train", "vectors")
    training = sample(training, FITTED_ON)
    rows = np.unique(np.concatenate([training, dataset.rows("validation"), dataset.rows(split)]))
    parts = [model.features(items.inputs[rows[start : start + CHUNK]]) for start in range(0, len(rows), CHUNK)]
    features = np.zeros((len(items.ids), parts[0].shape[1]), np.float32)
    features[rows] = np.concatenate(parts)
    return Inputs(features, np.isin(np.arange(len(items.ids)), training), "features")


class _Test(NamedTuple):
    """What all conditions of a run are measured with."""

    views: np.ndarray  # [N, D] of the run
    inputs: np.ndarray  # [N, F] of the other rungs
    items: ItemSet
    fitted: baselines.Fitted
    gallery: np.ndarray  # [G] items that are searched


def results(
    views: np.ndarray,
    masks: np.ndarray,
    inputs: Inputs,
    items: ItemSet,
    triplets: dict[str, Triplets],
    split: str,
) -> dict[str, dict[str, Any]]:
    """`baselines`, `ladder` and `verdict` of results.json. Views [N, D] have row i for item i; those of the split and
    of its triplets are read. Masks [C, D] are as applied. Triplets are those of the split, and of `validation`."""
    wrong, asked = wrong_triplets(views, masks, triplets[split]), triplets[split]
    fitted = baselines.fit(inputs.vectors, items, inputs.training, triplets["validation"])
    most = min(GALLERY, baselines.most_rows(inputs.vectors.shape[1]))
    test = _Test(views, inputs.vectors, items, fitted, sample(np.flatnonzero(items.split == split), most))
    found = {
        condition.name: _rungs(test, condition, mask, asked.of_condition(row), wrong[asked.condition == row])
        for row, (condition, mask) in enumerate(zip(items.conditions, masks, strict=True))
    }
    errors = {rung: _errors(rung, found) for rung in RUNGS}
    return {
        "baselines": {rung: errors[rung]["triplet_error"] for rung in RUNGS[:-1]},
        "ladder": {
            "raw": inputs.raw,
            "rungs": {rung: errors[rung] | _differences(rung, found) | _retrieval(rung, found) for rung in RUNGS},
            "n_queries": {"by_condition": {k: one.nearest["run"].shape[1] for k, one in found.items() if one.nearest}},
            "n_gallery": len(test.gallery),
            "predicted": {"by_condition": {k: one.predicted and one.predicted[0] for k, one in found.items()}},
        },
        "verdict": {
            name: verdict(one.wrong, one.ahead, one.anchor, one.predicted, inputs.raw) for name, one in found.items()
        },
    }


def _rungs(test: _Test, condition: Condition, mask: np.ndarray, triplets: Triplets, wrong_run: np.ndarray) -> Rungs:
    """The outcomes of one condition, whose triplets are given."""
    (name, kind), inputs, gallery = condition, test.inputs, test.gallery
    rows, places = np.unique(np.concatenate([*triplets[:3], gallery]), return_inverse=True)
    *roles, shown = np.split(places, np.cumsum([len(role) for role in triplets[:3]]))
    by_rung = {k: x for k, x in baselines.views(inputs, rows, test.fitted, name).items() if x is not None}
    local = Triplets(*roles, triplets.condition)
    wrong = baselines.wrong_raw(inputs, triplets) | {k: baselines.wrong_by(x, local) for k, x in by_rung.items()}
    ahead = {rung: difference(outcomes, wrong_run, triplets.anchor) for rung, outcomes in wrong.items()}
    wrong["run"] = wrong_run
    column = test.items.labels.get(name)
    if column is None:
        return Rungs(wrong, triplets.anchor, ahead, {}, None)
    known, guess = column[gallery] != "", None
    if name in test.fitted.probes:
        outputs = by_rung["linear_probe"][shown[known]]
        guess = baselines.predicted(outputs, test.fitted.probes[name], column[gallery[known]], kind)
    labels, queries = likeness(column, kind).of(gallery), sample(np.flatnonzero(known), QUERIES)
    raw, used = np.asarray(inputs[gallery], np.float32), np.flatnonzero(mask)
    seen = {"euclidean": raw, "cosine": baselines.unit(raw)} | {k: x[shown] for k, x in by_rung.items()}
    seen["run"] = test.views[gallery][:, used] * mask[used]
    near = {rung: nearest(x, labels, queries) for rung, x in seen.items()}
    return Rungs(wrong, triplets.anchor, ahead, near if near["run"].shape[1] else {}, guess)


def nearest(vectors: np.ndarray, labels: Likeness, queries: np.ndarray) -> np.ndarray:
    """METRICS per query that has another item like it: float64 [2, Q], as `retrieval.measure` defines them, for vectors
    [G, K] and the positions of queries in them."""
    more = -len(vectors) % ROUND
    vectors = np.pad(vectors, ((0, more), (0, -vectors.shape[1] % ROUND)), constant_values=0)
    if vectors.shape[1] == 0:
        vectors = np.zeros((len(vectors), ROUND), np.float32)
    n_others = int(labels.known.sum()) - 1
    labels = Likeness(*(np.pad(part, [(0, more)] + [(0, 0)] * (part.ndim - 1)) for part in labels))
    parts = []
    for keys in key_blocks(vectors, np.ones(vectors.shape[1], np.float32), labels, queries):
        keys = keys[(keys & 1).any(axis=1)]
        first = np.sort(np.partition(keys, 9, axis=1)[:, :10], axis=1) & 1
        parts.append(np.stack([first[:, 0], first.sum(axis=1) / min(10, n_others)]))
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(METRICS), 0))


def _errors(rung: str, found: dict[str, Rungs]) -> dict[str, dict[str, Any]]:
    """`triplet_error` and `ci95` of a rung, each {"overall": x, "by_condition": {name: x}}; None without a figure."""
    wrong = {name: one.wrong.get(rung) for name, one in found.items()}
    anchors = {name: one.anchor for name, one in found.items()}
    whole = all(part is not None for part in wrong.values())
    wrong["overall"] = np.concatenate([*wrong.values()]) if whole else None
    anchors["overall"] = np.concatenate([*anchors.values()])
    return {
        "triplet_error": shaped({k: None if part is None else float(part.mean()) for k, part in wrong.items()}),
        "ci95": shaped({k: None if part is None else [*interval(part, anchors[k])] for k, part in wrong.items()}),
    }


def _differences(rung: str, found: dict[str, Rungs]) -> dict[str, Any]:
    """`difference`: how much higher a rung's error is than the run's, by condition."""
    more = {name: one.ahead[rung] for name, one in found.items() if rung in one.ahead}
    values, ranges = {k: one.value for k, one in more.items()}, {k: [*one[1:]] for k, one in more.items()}
    return {"difference": {"by_condition": values, "ci95": {"by_condition": ranges}}} if rung != "run" else {}


def _retrieval(rung: str, found: dict[str, Rungs]) -> dict[str, Any]:
    """`retrieval` of a rung: METRICS and their intervals, by condition."""
    near = {name: one.nearest[rung] for name, one in found.items() if rung in one.nearest}
    means = {name: dict(zip(METRICS, values.mean(axis=1).tolist(), strict=True)) for name, values in near.items()}
    ranges = {
        name: dict(zip(METRICS, intervals(values, np.ones(values.shape[1])).tolist(), strict=True))
        for name, values in near.items()
    }
    return {"retrieval": {"by_condition": means, "ci95": {"by_condition": ranges}}}
