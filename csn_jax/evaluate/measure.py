"""Measure a model on one split: the only place where the evaluators meet."""

import numpy as np

from csn_jax.data.dataset import Dataset
from csn_jax.data.triplets import Triplets
from csn_jax.evaluate import baselines, leakage, off_task, retrieval, triplet_error
from csn_jax.model.model import Model
from csn_jax.runtime import hosts
from csn_jax.runtime.record import Results
from csn_jax.runtime.sharding import summed

QUERIES = 10_000  # of retrieval per condition in a plain evaluation; the gallery is always whole


def measure(model: Model, dataset: Dataset, split: str, variant: str, full: bool = False) -> tuple[Results, np.ndarray]:
    """Measure a model on one split, embedding each item that takes part once: (results, embeddings [N, D]).

    With `full`, retrieval takes every query instead of a sample, and leakage and the off-task probes are measured too;
    for these, some training items are embedded as well.
    """
    items = dataset.items
    rows = dataset.rows(split)
    if full and off_task.off_task_labels(items):
        rows = np.union1d(rows, off_task.fitting_rows(items))
    embeddings = model.embed_rows(items.inputs, rows)
    measured = hosts.on_first(lambda: _measured(model, dataset, embeddings, split, variant, full).as_object())
    return Results.from_object(measured), embeddings


def _measured(model: Model, dataset: Dataset, embeddings: np.ndarray, split: str, variant: str, full: bool) -> Results:
    """The results, from the embeddings of all items that take part."""
    items, triplets = dataset.items, dataset.triplets
    errors = triplet_error.results(embeddings, model.masks, items, triplets[split])
    found = retrieval.results(embeddings, model.masks, items, split, None if full else QUERIES)
    if dataset.record.split_unit == "triplet":  # training has seen every item
        found["seen_in_training"] = True
    return Results(
        variant=variant,
        conditions=model.conditions,
        split=split,
        step=model.step,
        **errors,
        baselines=baselines.results(items, triplets, split) if items.inputs.ndim == 2 else None,
        primary_metric={"name": "triplet_error", "value": errors["triplet_error"]["overall"]},
        retrieval=found,
        leakage=leakage.results(embeddings, model.masks, items, split) if full else None,
        off_task=off_task.results(embeddings, items, split) if full else None,
    )


def validation_errors(model: Model, dataset: Dataset) -> dict[str, float]:
    """The triplet error on the validation split, `overall` and per condition. Each process counts its share."""
    items, triplets = dataset.items, dataset.triplets["validation"]
    embeddings = model.embed_rows(items.inputs, dataset.rows("validation"))
    share = Triplets(*(column[hosts.index() :: hosts.count()] for column in triplets))
    counts = triplet_error.triplet_error(embeddings, model.masks, items, share)
    counts = dict(zip(counts, summed(np.array(list(counts.values()))).tolist(), strict=True))  # (wrong, total) each
    return {name: wrong / total for name, (wrong, total) in counts.items()}
