"""Lessons from labels: triplets drawn from a column of a table, or from an attribute of the run's own data."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from csn_jax.adapt.lesson import Items, Lesson, own_items
from csn_jax.config import DataConfig
from csn_jax.data.attributes import LONGEST, Attribute, attribute_of
from csn_jax.data.columns import Columns
from csn_jax.data.dataset import Dataset
from csn_jax.data.duplicates import find_duplicates
from csn_jax.data.item_set import SPLITS, Condition, ItemSet, Rows, split_rows
from csn_jax.data.order import check_labelled
from csn_jax.data.sources.table import given_split
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.errors import UserError
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.text import did_you_mean, listed

REMEDY = "label more items"
FEW = 500  # labelled items, up to which none is held out: a fifth of them teaches more than it measures


def from_run(run: Run, model: Model, name: str, kind: str | None) -> Lesson | None:
    """A lesson from an attribute of the run's own data; None if the data cannot have one more condition.

    That is: there is none, it has triplets instead of labels, or a condition was learned from other data since.
    """
    config = run.placed()
    elsewhere = any(not report["own_data"] for report in run.record.adapted)
    if config.data.source == "imported" or config.data.triplets or elsewhere:
        return None
    if kind:
        kinds = (*config.data.kinds, f"{name}={kind}")
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, kinds=kinds))
    dataset = dataclasses.replace(run, config=config).dataset()
    items, attributes = dataset.items, {attribute.name: attribute for attribute in dataset.items.attributes}
    if name not in attributes:
        near = did_you_mean(name, attributes)
        raise UserError(f"--condition={name}{near} is not in the data of {run.workdir}; it has {listed(attributes)}.")
    condition = attributes[name]
    if config.loss.name != "triplet":
        check_labelled(dataclasses.replace(items, conditions=(*items.conditions, condition)), config.batch_size)
    counts = (config.data.train_triplets, config.data.validation_triplets, config.data.test_triplets)
    drawn = _draw(dataclasses.replace(items, conditions=(condition,)), counts, config.data.seed)
    wider = dataclasses.replace(config.data, conditions=(*run.record.names, name))
    own = _extended(dataset, condition, drawn), dataclasses.replace(config, data=wider)
    source, n_values = _counted(items.labels[name])
    source = f"{source} of the run's own data"
    return Lesson(condition, own_items(dataset, model), drawn, _anchors(drawn), source, own=own, n_values=n_values)


def _extended(dataset: Dataset, condition: Condition, drawn: dict[str, Triplets]) -> Dataset:
    """The data with one more condition and its triplets: what loading with this condition gives."""
    items, row = dataset.items, len(dataset.items.conditions)
    items = dataclasses.replace(items, conditions=(*items.conditions, condition))
    triplets = {}
    for split, old in dataset.triplets.items():
        new = drawn[split]._replace(condition=np.full(len(drawn[split].anchor), row, np.int32))
        triplets[split] = Triplets(*(np.concatenate(columns) for columns in zip(old, new, strict=True)))
    record = dataclasses.replace(
        dataset.record,
        conditions=items.conditions,
        triplets={split: len(columns.anchor) for split, columns in triplets.items()},
        items_sha256=items.digest(),
        triplets_sha256={split: columns.digest() for split, columns in triplets.items()},
    )
    return dataset._replace(items=items, triplets=triplets, record=record)


def attribute_in(columns: Columns, name: str, kind: str | None, data: DataConfig) -> Attribute:
    """The column of a table that --condition names. UserError if it cannot separate items."""
    columns.column(name, "--condition")
    attribute = attribute_of(columns, name, kind, data, "--kind=")
    if attribute is None:
        raise UserError(
            f"column {name!r} of {columns.path} holds texts of more than {LONGEST} characters, which cannot be "
            "compared; name another column."
        )
    different = set(attribute.values) - {""}
    if len(different) < 2:
        amount = f"one value only, {different.pop()!r}" if different else "no value"
        raise UserError(f"column {name!r} of {columns.path} has {amount}, which separates no items; name another one.")
    return attribute


def from_table(
    columns: Columns, ids: Sequence[str], name: str, kind: str | None, items: Items, data: DataConfig, of_maps: bool
) -> Lesson:
    """A lesson from a column of labels. Triplets are drawn within each split.

    Items keep the split of `items`. Without one, the table's column `split` gives it. Without that column, items are
    split 70 / 10 / 20 %, equal vectors together; or if at most FEW have a label and conditions are maps, all are
    learned from, and cross-validation measures the error. Training with this condition draws the same triplets: `data`
    has their numbers and seed. `ids` are those of the rows of the table, which `items` must include; `name` is that of
    the column and the condition.
    """
    attribute = attribute_in(columns, name, kind, data)
    row_of = {item: row for row, item in enumerate(items.ids.tolist())}
    for i, item in enumerate(ids):
        if item not in row_of:
            raise UserError(
                f"{columns.where(i)}: {item!r} is not an item of {items.origin}{items.near(item)}; remove that row, or "
                "give --index a file of vectors that has it."
            )
    rows = np.array([row_of[item] for item in ids])
    labels = np.full(len(items.ids), "", dtype=object)
    labels[rows] = attribute.values
    labels, split = labels.astype(str), items.split
    if split is None:
        split = np.full(len(items.ids), "", dtype="<U10")
        vectors = items.embed(rows)
        given = given_split(columns)
        if of_maps and given is None and np.count_nonzero(labels != "") <= FEW:
            split[rows] = "train"
        else:
            table = Rows(vectors, items.ids[rows], {}, (), given, find_duplicates(vectors).group)
            split[rows], _ = split_rows(table, DataConfig(seed=data.seed))
    condition = Condition(name, attribute.kind)
    no_inputs = np.empty((len(items.ids), 0))  # drawing reads none
    labelled = ItemSet(no_inputs, items.ids, {name: labels}, split, (condition,))
    counts = (data.train_triplets, data.validation_triplets, data.test_triplets)
    triplets = _draw(labelled, counts, data.seed, spare=SPLITS[1:] if not (split == "test").any() else SPLITS[1:2])
    source, n_values = _counted(labels)
    source, note = f"{source} in {columns.path.name}", "; ".join(attribute.notes)
    return Lesson(condition, items, triplets, _anchors(triplets), source, note, n_values=n_values)


def _counted(labels: np.ndarray) -> tuple[str, int]:
    """(`labels of N items`, how many different values they have)."""
    known = labels[labels != ""]
    return f"labels of {len(known):,} items", len(np.unique(known))


def _draw(items: ItemSet, counts: Sequence[int], seed: int, spare: Sequence[str] = ()) -> dict[str, Triplets]:
    """Triplets of the items' only condition, per split; spare splits may be too small for any, and are then left out. A
    condition's triplets do not depend on the others."""
    drawn = {}
    for split, count in zip(SPLITS, counts, strict=True):
        try:
            drawn[split] = draw_triplets(items, split, count, seed, REMEDY)
        except UserError:
            if split not in spare:
                raise
    return drawn


def _anchors(triplets: dict[str, Triplets]) -> dict[str, np.ndarray]:
    """The groups of drawn triplets: those of one anchor."""
    return {split: columns.anchor for split, columns in triplets.items()}
