"""Config -> the items and triplets of a run, with the record that a workdir keeps of them."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.config import Config
from csn_jax.data.item_set import SPLITS, ItemSet, Rows, make_items, split_rows
from csn_jax.data.order import check_labelled
from csn_jax.data.own_triplets import read_own_triplets, split_from_triplets, split_triplets
from csn_jax.data.sources import fonts, glyphs, table, tfds, zappos50k
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.errors import UserError
from csn_jax.runtime import hosts
from csn_jax.runtime.record import Record


class Dataset(NamedTuple):
    """Items, the triplets of each split, the record for data.json, and what the source has to tell of its data."""

    items: ItemSet
    triplets: dict[str, Triplets]
    record: Record
    notes: tuple[str, ...] = ()

    def rows(self, split: str) -> np.ndarray:
        """Positions of the items that take part in a split: its own, and what its triplets name, which are others only
        where triplets and not items were split."""
        named = self.triplets[split][:3]
        return np.unique(np.concatenate([np.flatnonzero(self.items.split == split), *named]))


def read_rows(config: Config) -> Rows:
    """The items of a config's source, all of them and unsplit.

    Raises:
        UserError: for a missing or unusable source.
    """
    data = config.data
    if data.source == "imported":
        raise UserError(
            "config.data.source is imported: a model that csn_jax.port imported has no data of its own to train or be "
            "measured on; open it with csn_jax.load, or train on your data in a new --workdir."
        )
    vectors = data.source == "table" and bool(data.vectors)
    if vectors != (config.backbone.name == "projection"):
        raise UserError(
            f"config.backbone.name is {config.backbone.name} and the items are "
            + ("vectors; use --config.backbone.name=projection." if vectors else "images; use another.")
        )
    sources = {"glyphs": glyphs, "fonts": fonts, "table": table, "zappos50k": zappos50k, "tfds": tfds}
    source = sources[data.source]
    return source.read(config)


def load_dataset(config: Config) -> Dataset:
    """Read or render the items that a config names, split them, and draw the triplets of every split, or read them. Of
    several processes the first one decodes, and the others read what it cached.

    Raises:
        UserError: for a missing or unusable source, an unknown condition or label, a condition without triplets.
    """
    return hosts.first_of_all(lambda: _load(config))


def _load(config: Config) -> Dataset:
    data = config.data
    rows = read_rows(config)
    own, attributes = None, (*rows.conditions, *rows.others)
    if data.triplets:
        own = read_own_triplets(Path(data.triplets).expanduser(), rows)
        rows = rows._replace(conditions=own.conditions)
        if own.split is not None and rows.split is None and not data.split_by:
            rows = rows._replace(split=split_from_triplets(own, len(rows.ids)))
    split, straddling = split_rows(rows, data)
    notes = rows.notes
    items_are_split = own is None or rows.split is not None or bool(data.split_by)
    if straddling and items_are_split:
        notes += (
            f"{straddling} items that are the same or nearly straddled splits and "
            + ("were moved together" if rows.split is None else "stay so, as the split is given: tests are too easy"),
        )
    items = dataclasses.replace(make_items(rows._replace(split=split), data), attributes=attributes)
    if items.inputs.ndim == 4 and items.inputs.shape[-1] != len(config.preprocess.mean):
        raise UserError(
            f"config.preprocess.mean has {len(config.preprocess.mean)} values and images of source {data.source} have "
            f"{items.inputs.shape[-1]} channel; give one value for each channel, in mean and in std."
        )
    if own:
        triplets = split_triplets(own, items, items_are_split, data.seed)
    else:
        counts = (data.train_triplets, data.validation_triplets, data.test_triplets)
        triplets = {
            split: draw_triplets(items, split, count, data.seed) for split, count in zip(SPLITS, counts, strict=True)
        }
    n_train = len(triplets["train"].anchor)
    if config.loss.name != "triplet":
        apart = config.variant == "specialists"  # each draws from the labels of its own condition
        for conditions in [(one,) for one in items.conditions] if apart else [items.conditions]:
            check_labelled(dataclasses.replace(items, conditions=conditions), config.batch_size)
    elif config.batch_size > n_train:
        raise UserError(
            f"config.batch_size is {config.batch_size} and there are {n_train} training triplets; give a batch of at "
            "most that size, or more data.train_triplets."
        )
    unit = data.split_by or ("item" if items_are_split else "triplet")
    return Dataset(items, triplets, _record(config, items, triplets, unit), notes)


def _record(config: Config, items: ItemSet, triplets: dict[str, Triplets], unit: str) -> Record:
    return Record(
        source=config.data.source,
        conditions=items.conditions,
        input_shape=items.inputs.shape[1:],
        items={split: int((items.split == split).sum()) for split in SPLITS},
        triplets={split: len(triplets[split].anchor) for split in SPLITS},
        split_unit=unit,
        items_sha256=items.digest(),
        triplets_sha256={split: triplets[split].digest() for split in SPLITS},
    )
