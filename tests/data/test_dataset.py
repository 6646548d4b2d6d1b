"""Items, triplets and record of a config."""

import dataclasses
import json

import numpy as np
import pytest

from csn_jax.config import Config, DataConfig, PreprocessConfig
from csn_jax.data import dataset as dataset_module
from csn_jax.data.dataset import load_dataset
from csn_jax.data.item_set import SPLITS
from csn_jax.data.sources.fonts import CHARACTERS, glyph_rows
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition, Record

SMALL = DataConfig(train_triplets=300, validation_triplets=100, test_triplets=200)


def config(**data) -> Config:
    return Config(data=dataclasses.replace(SMALL, **data))


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(config())


def test_the_glyphs(dataset):
    """Each glyph of the pack is an item with its character and font. Items are split 70/10/20."""
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
    """The configured number per condition and split."""
    for split, count in zip(SPLITS, (300, 100, 200), strict=True):
        assert np.bincount(dataset.triplets[split].condition).tolist() == [count, count]
        assert (dataset.items.split[dataset.triplets[split].anchor] == split).all()


def test_the_record_describes_the_data(dataset):
    """Source, conditions, split unit, counts, and digests of items and triplets. It survives JSON and is equal when the
    data is loaded again."""
    record = dataset.record
    assert Record.from_object(json.loads(json.dumps(record.as_object()))) == record == load_dataset(config()).record
    assert record.source == "glyphs" and record.split_unit == "item" and record.input_shape == (32, 32, 1)
    assert record.conditions == tuple(Condition(name, "categorical") for name in ("character", "font"))
    assert sum(record.items.values()) == len(dataset.items.ids)
    assert record.items_sha256 == dataset.items.digest()
    assert record.triplets_sha256 == {split: dataset.triplets[split].digest() for split in SPLITS}


def test_split_by_font_keeps_test_fonts_out_of_training():
    """Both conditions still have triplets."""
    dataset = load_dataset(config(split_by="font"))
    fonts = {split: set(dataset.items.labels["font"][dataset.items.split == split]) for split in SPLITS}
    assert not fonts["train"] & fonts["test"] and not fonts["validation"] & (fonts["train"] | fonts["test"])
    assert dataset.record.split_unit == "font"


def test_another_data_seed_is_other_data(dataset):
    """data.seed changes split and triplets. The training seed changes neither."""
    other = load_dataset(config(seed=1)).record
    assert other.items_sha256 != dataset.record.items_sha256
    assert load_dataset(dataclasses.replace(config(), seed=9)).record == dataset.record


def test_a_condition_has_the_same_triplets_alone_and_among_others(dataset):
    alone = load_dataset(config(conditions=("font",)))
    for split in SPLITS:
        assert alone.triplets[split].digest() == dataset.triplets[split].of_condition(1).digest()


COLOUR = PreprocessConfig(mean=(0.1, 0.1, 0.1), std=(0.1, 0.1, 0.1))
# (config, words of the message)
MISTAKES = {
    "size": (dataclasses.replace(config(), preprocess=PreprocessConfig(size=64)), ["--config.preprocess.size=32"]),
    "split_by": (config(split_by="fnt"), ["'fnt' (did you mean font?)", "character, font"]),
    "condition": (config(conditions=("colour",)), ["'colour'", "character, font"]),
    "batch": (dataclasses.replace(config(), batch_size=601), ["batch_size is 601", "600 training triplets"]),
    "channels": (dataclasses.replace(config(), preprocess=COLOUR), ["3 values", "source glyphs have 1 channel"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    settings, words = MISTAKES[name]
    with pytest.raises(UserError) as error:
        load_dataset(settings)
    assert [word for word in words if word not in str(error.value)] == []


def test_memory_mapped_images_stay_on_disk(tmp_path, monkeypatch):
    """Items share the pages of the memory map."""
    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(256, size=(12, 62, 8, 8), dtype=np.uint8))
    images = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    rows = glyph_rows(images, [f"font {i}" for i in range(12)])
    monkeypatch.setattr(dataset_module, "read_rows", lambda config: rows)
    items = load_dataset(config()).items
    assert np.shares_memory(items.inputs, images) and isinstance(items.inputs, np.memmap)
    np.testing.assert_array_equal(items.inputs[62 * 3 + 5, ..., 0], images[3, 5])
