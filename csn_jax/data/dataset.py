"""The items and triplets of a config, with their record for data.json."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.config import Config
from csn_jax.data.item_set import SPLITS, ItemSet, Rows, choose_conditions, split_rows
from csn_jax.data.order import check_labelled
from csn_jax.data.own_triplets import chosen_conditions, read_own_triplets, split_from_triplets, split_triplets
from csn_jax.data.sources import fonts, glyphs, table, tfds, zappos50k
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.errors import UserError
from csn_jax.runtime import hosts
from csn_jax.runtime.record import Record


class Dataset(NamedTuple):
    """Items, triplets per split, the record for data.json, and notes for the user."""

    items: ItemSet
    triplets: dict[str, Triplets]
    record: Record
    notes: tuple[str, ...] = ()

    def rows(self, split: str) -> np.ndarray:
        """Positions of the items that take part in a split: its own items and those that its triplets name. The latter
        differ only if triplets were split in place of items."""
        named = self.triplets[split][:3]
        return np.unique(np.concatenate([np.flatnonzero(self.items.split == split), *named]))

    def of_condition(self, row: int) -> "Dataset":
        """The same items with the triplets of one condition only, as a specialist trains on."""
        condition = self.items.conditions[row]
        items = dataclasses.replace(self.items, conditions=(condition,))
        triplets = {split: columns.of_condition(row) for split, columns in self.triplets.items()}
        record = dataclasses.replace(
            self.record,
            conditions=(condition,),
            items_sha256=items.digest(),
            triplets={split: len(columns.anchor) for split, columns in triplets.items()},
            triplets_sha256={split: columns.digest() for split, columns in triplets.items()},
        )
        return Dataset(items, triplets, record)


def read_rows(config: Config) -> Rows:
    """All items of a config's source, not yet split. UserError for a missing or unusable source."""
    data = config.data
    if data.source == "imported":
        raise UserError(
            "config.data.source is imported: a model that csn_jax.port imported has no data to train or measure it on; "
            "open it with csn_jax.load, or train on your data in a new --workdir."
        )
    vectors = data.source == "table" and bool(data.vectors)
    if vectors != (config.backbone.name == "projection"):
        raise UserError(
            f"config.backbone.name is {config.backbone.name} and the items are "
            + ("vectors; use --config.backbone.name=projection." if vectors else "images; use another.")
        )
    sources = {"glyphs": glyphs, "fonts": fonts, "table": table, "zappos50k": zappos50k, "tfds": tfds}
    return sources[data.source].read(config)


def load_dataset(config: Config) -> Dataset:
    """Read the items of a config, split them, and draw or read the triplets of each split. Of several processes, the
    first decodes the images and the others read its cache. UserError for an unusable source, an unknown condition or
    column, or a condition without triplets."""
    return hosts.first_of_all(lambda: _load(config))


def _load(config: Config) -> Dataset:
    data = config.data
    rows = read_rows(config)
    own, attributes = None, (*rows.conditions, *rows.others)
    if data.triplets:
        wanted = chosen_conditions(data.conditions)
        own = read_own_triplets(Path(data.triplets).expanduser(), rows, *(wanted if len(wanted) == 1 else ()))
        rows = rows._replace(conditions=own.conditions, notes=(*rows.notes, *own.notes))
        if own.split is not None and rows.split is None and not data.split_by:
            rows = rows._replace(split=split_from_triplets(own, len(rows.ids)))
    split, straddling = split_rows(rows, data)
    notes = rows.notes
    items_are_split = own is None or rows.split is not None or bool(data.split_by)
    if straddling and items_are_split:
        notes += (
            f"{straddling} equal or nearly equal items straddled splits and "
            + ("were moved together" if rows.split is None else "stay so, as the split is given: tests are too easy"),
        )
    wanted = chosen_conditions(data.conditions) if own else data.conditions
    conditions = choose_conditions(rows.labels, rows.conditions, wanted)
    items = ItemSet(
        rows.inputs, rows.ids, rows.labels, split, conditions, attributes, rows.ink, rows.pictures, rows.cells
    )
    if items.inputs.ndim == 4 and items.inputs.shape[-1] != len(config.preprocess.mean):
        raise UserError(
            f"config.preprocess.mean has {len(config.preprocess.mean)} values and images of source {data.source} have "
            f"{items.inputs.shape[-1]} channel; give one value per channel, in mean and in std."
        )
    if own:
        triplets, more = split_triplets(own, items, items_are_split, data.seed)
        notes += more
    else:
        counts = (data.train_triplets, data.validation_triplets, data.test_triplets)
        triplets = {
            split: draw_triplets(items, split, count, data.seed) for split, count in zip(SPLITS, counts, strict=True)
        }
    n_train = len(triplets["train"].anchor)
    if config.loss.name != "triplet":
        # Each specialist draws from the labels of its own condition.
        apart = config.variant == "specialists"
        for conditions in [(condition,) for condition in items.conditions] if apart else [items.conditions]:
            check_labelled(dataclasses.replace(items, conditions=conditions), config.batch_size)
    elif config.batch_size > n_train and items.inputs.ndim == 4:  # of vectors, a short batch is no worse
        raise UserError(
            f"config.batch_size is {config.batch_size} and there are {n_train} training triplets; give at most "
            f"{n_train}, or more data.train_triplets."
        )
    relative = [path for path in (data.path, data.triplets) if path and not Path(path).expanduser().is_absolute()]
    record = Record(
        source=data.source,
        conditions=items.conditions,
        input_shape=items.inputs.shape[1:],
        items={split: int((items.split == split).sum()) for split in SPLITS},
        triplets={split: len(triplets[split].anchor) for split in SPLITS},
        split_unit=data.split_by or ("item" if items_are_split else "triplet"),
        items_sha256=items.digest(),
        triplets_sha256={split: triplets[split].digest() for split in SPLITS},
        folder=str(Path.cwd()) if relative else None,
    )
    return Dataset(items, triplets, record, notes)
