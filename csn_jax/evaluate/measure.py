"""Measure a model on one split: the only place where the evaluators meet."""

import numpy as np

from csn_jax.data.dataset import Dataset
from csn_jax.data.triplets import Triplets
from csn_jax.evaluate import ladder, leakage, off_task, retrieval, triplet_error
from csn_jax.model.model import Model
from csn_jax.runtime import hosts
from csn_jax.runtime.record import Results
from csn_jax.runtime.sharding import summed

QUERIES = 10_000  # of retrieval per condition in a plain evaluation; the gallery is always whole
LEAST, PAIRS = 1_000, 1 << 28  # with a large gallery fewer queries, so that pairs of both stay in bounds


def measure(
    model: Model, dataset: Dataset, split: str, variant: str, full: bool = False, rungs: bool | None = None
) -> tuple[Results, np.ndarray]:
    """Measure a model on one split, embedding each item that takes part once: (results, what masks apply to, [N, V]).

    With `full`, retrieval takes every query instead of a sample, and leakage and the off-task probes are measured too;
    for these, some training items are embedded as well. `rungs`: whether to measure the ladder, on vectors or
    on the features of an image network; None: on vectors only.
    """
    items = dataset.items
    rows = dataset.rows(split)
    if full and off_task.off_task_labels(items):
        rows = np.union1d(rows, off_task.fitting_rows(items))
    embeddings = model.view_rows(items.inputs, rows)
    rungs = items.inputs.ndim == 2 if rungs is None else rungs
    inputs = ladder.inputs_of(model, dataset, split) if rungs else None
    measured = hosts.on_first(lambda: _measured(model, dataset, embeddings, inputs, split, variant, full).as_object())
    return Results.from_object(measured), embeddings


def _measured(
    model: Model,
    dataset: Dataset,
    embeddings: np.ndarray,
    inputs: ladder.Inputs | None,
    split: str,
    variant: str,
    full: bool,
) -> Results:
    """The results, from the embeddings of all items that take part, and with a ladder if there are inputs for it."""
    items, triplets = dataset.items, dataset.triplets
    errors = triplet_error.results(embeddings, model.masks, items, triplets[split])
    queries = min(QUERIES, max(LEAST, PAIRS // max(1, int((items.split == split).sum()))))
    found = retrieval.results(embeddings, model.masks, items, split, None if full else queries)
    if dataset.record.split_unit == "triplet":  # training has seen every item
        found["seen_in_training"] = True
    return Results(
        variant=variant,
        conditions=model.conditions,
        split=split,
        step=model.step,
        **errors,
        **(ladder.results(embeddings, model.masks, inputs, items, triplets, split) if inputs else {}),
        primary_metric={"name": "triplet_error", "value": errors["triplet_error"]["overall"]},
        retrieval=found,
        leakage=leakage.results(embeddings, model.masks, items, split) if full else None,
        off_task=off_task.results(embeddings, items, split) if full else None,
    )


def validation_errors(model: Model, dataset: Dataset) -> dict[str, float]:
    """The triplet error on the validation split, `overall` and per condition. Each process counts its share."""
    items, triplets = dataset.items, dataset.triplets["validation"]
    embeddings = model.view_rows(items.inputs, dataset.rows("validation"))
    share = Triplets(*(column[hosts.index() :: hosts.count()] for column in triplets))
    counts = triplet_error.triplet_error(embeddings, model.masks, items, share)
    counts = dict(zip(counts, summed(np.array(list(counts.values()))).tolist(), strict=True))  # (wrong, total) each
    return {name: wrong / total for name, (wrong, total) in counts.items()}
