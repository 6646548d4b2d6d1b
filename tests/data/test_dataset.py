"""Config -> items, triplets and record."""

import dataclasses
import json

import numpy as np
import pytest

from csn_jax.config import Config, DataConfig, PreprocessConfig
from csn_jax.data.dataset import load_dataset
from csn_jax.data.item_set import SPLITS, Condition, make_items
from csn_jax.data.sources.fonts import CHARACTERS, glyph_rows
from csn_jax.errors import UserError
from csn_jax.runtime.record import Record

SMALL = DataConfig(train_triplets=300, validation_triplets=100, test_triplets=200)


def config(**data) -> Config:
    return Config(data=dataclasses.replace(SMALL, **data))


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(config())


def test_the_glyphs(dataset):
    """Every glyph of the pack is one item with its character and font; the split is 70/10/20 over items."""
    items = dataset.items
    n = len(items.ids)
    assert n % 62 == 0 and n >= 300 * 62
    assert items.inputs.shape == (n, 32, 32, 1) and items.inputs.dtype == np.uint8
    assert len(np.unique(items.ids)) == n
    assert [condition.name for condition in items.conditions] == ["character", "font"]
    for i in (0, 61, 62, n - 1):
        assert items.ids[i] == f"{items.labels['font'][i]}/{items.labels['character'][i]}"
        assert items.labels["character"][i] == CHARACTERS[i % 62]
    shares = [(items.split == split).mean() for split in SPLITS]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=1e-3)


def test_triplets_of_every_split(dataset):
    """As many as asked for each condition in each split."""
    for split, count in zip(SPLITS, (300, 100, 200), strict=True):
        assert np.bincount(dataset.triplets[split].condition).tolist() == [count, count]
        assert (dataset.items.split[dataset.triplets[split].anchor] == split).all()


def test_the_record_says_what_the_data_is(dataset):
    """data.json names source, conditions with kinds, split unit, counts, and digests of items and triplets; it
    survives JSON, and is the same when loaded again."""
    record = dataset.record
    assert Record.from_object(json.loads(json.dumps(record.as_object()))) == record == load_dataset(config()).record
    assert record.source == "glyphs" and record.split_unit == "item" and record.input_shape == (32, 32, 1)
    assert record.conditions == tuple(Condition(name, "categorical") for name in ("character", "font"))
    assert sum(record.items.values()) == len(dataset.items.ids)
    assert record.items_sha256 == dataset.items.digest()
    assert record.triplets_sha256 == {split: dataset.triplets[split].digest() for split in SPLITS}


def test_split_by_font_keeps_test_fonts_unseen():
    """With split_by=font, no font of the test split is in training, and both conditions still have triplets."""
    dataset = load_dataset(config(split_by="font"))
    fonts = {split: set(dataset.items.labels["font"][dataset.items.split == split]) for split in SPLITS}
    assert not fonts["train"] & fonts["test"] and not fonts["validation"] & (fonts["train"] | fonts["test"])
    assert dataset.record.split_unit == "font"


def test_another_data_seed_is_other_data(dataset):
    """data.seed moves split and triplets; the training seed moves neither."""
    other = load_dataset(config(seed=1)).record
    assert other.items_sha256 != dataset.record.items_sha256
    assert load_dataset(dataclasses.replace(config(), seed=9)).record == dataset.record


def test_one_condition_has_the_triplets_it_has_among_all(dataset):
    """A run of one condition alone trains and is tested on the triplets that the full run has for it."""
    alone = load_dataset(config(conditions=("font",)))
    for split in SPLITS:
        assert alone.triplets[split].digest() == dataset.triplets[split].of_condition(1).digest()


def test_mistakes_are_told():
    """Wrong size, unknown label to split by, unknown condition, too large a batch, channels that do not fit."""
    with pytest.raises(UserError, match="--config.preprocess.size=32"):
        load_dataset(dataclasses.replace(config(), preprocess=PreprocessConfig(size=64)))
    with pytest.raises(UserError, match=r"'fnt' \(did you mean font\?\).*character, font"):
        load_dataset(config(split_by="fnt"))
    with pytest.raises(UserError, match="'colour'.*character, font"):
        load_dataset(config(conditions=("colour",)))
    with pytest.raises(UserError, match="batch_size is 601 and there are 600 training triplets"):
        load_dataset(dataclasses.replace(config(), batch_size=601))
    grey = PreprocessConfig(mean=(0.1, 0.1, 0.1), std=(0.1, 0.1, 0.1))
    with pytest.raises(UserError, match="3 values and images of source glyphs have 1 channel"):
        load_dataset(dataclasses.replace(config(), preprocess=grey))


def test_memory_mapped_images_stay_on_disk(tmp_path):
    """Items over a memory map share its pages: nothing is copied into memory."""
    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(256, size=(12, 62, 8, 8), dtype=np.uint8))
    images = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    items = make_items(glyph_rows(images, [f"font {i}" for i in range(12)]), SMALL)
    assert np.shares_memory(items.inputs, images) and isinstance(items.inputs, np.memmap)
    np.testing.assert_array_equal(items.inputs[62 * 3 + 5, ..., 0], images[3, 5])
