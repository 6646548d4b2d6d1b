"""Config -> the items and triplets of a run, with the record that a workdir keeps of them."""

from typing import NamedTuple

from csn_jax.config import Config
from csn_jax.data import fonts, glyphs
from csn_jax.data.item_set import SPLITS, ItemSet, make_items
from csn_jax.data.order import check_labelled
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.errors import UserError


class Dataset(NamedTuple):
    """Items, the triplets of each split, and the record for data.json."""

    items: ItemSet
    triplets: dict[str, Triplets]
    record: dict


def load_dataset(config: Config) -> Dataset:
    """Read or render the items that a config names, split them, and draw the triplets of every split.

    Raises:
        UserError: for a missing or unusable source, an unknown condition or label, a condition without triplets.
    """
    data = config.data
    if data.source == "imported":
        raise UserError(
            "config.data.source is imported: a model that csn_jax.port imported has no data of its own to train or be "
            "measured on; open it with csn_jax.load, or train on your data in a new --workdir."
        )
    source = {"glyphs": glyphs, "fonts": fonts}[data.source]
    items = make_items(source.read(config), data)
    if items.inputs.shape[-1] != len(config.preprocess.mean):
        raise UserError(
            f"config.preprocess.mean has {len(config.preprocess.mean)} values and images of source {data.source} have "
            f"{items.inputs.shape[-1]} channel; give one value for each channel, in mean and in std."
        )
    counts = (data.train_triplets, data.validation_triplets, data.test_triplets)
    triplets = {
        split: draw_triplets(items, split, count, data.seed) for split, count in zip(SPLITS, counts, strict=True)
    }
    n_train = len(triplets["train"].anchor)
    if config.loss.name != "triplet":
        check_labelled(items, config.batch_size)
    elif config.batch_size > n_train:
        raise UserError(
            f"config.batch_size is {config.batch_size} and there are {n_train} training triplets; give a batch of at "
            "most that size, or more data.train_triplets."
        )
    return Dataset(items, triplets, _record(config, items, triplets))


def _record(config: Config, items: ItemSet, triplets: dict[str, Triplets]) -> dict:
    return {
        "source": config.data.source,
        "conditions": [condition._asdict() for condition in items.conditions],
        "split_unit": config.data.split_by or "item",
        "input_shape": list(items.inputs.shape[1:]),
        "items": {split: int((items.split == split).sum()) for split in SPLITS},
        "triplets": {split: len(triplets[split].anchor) for split in SPLITS},
        "items_sha256": items.digest(),
        "triplets_sha256": {split: triplets[split].digest() for split in SPLITS},
    }
