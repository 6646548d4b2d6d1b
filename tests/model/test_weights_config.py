"""Preprocessing stated beside a weight file: read from three programs' files, and advised where it differs."""

import json

import pytest

from csn_jax.config import PreprocessConfig
from csn_jax.model.weights_config import advice, stated_in

HALF, OURS = [0.5, 0.5, 0.5], PreprocessConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
FILES = {
    "preprocessor_config.json": {"image_mean": HALF, "image_std": HALF},
    "config.json": {"architecture": "vit", "pretrained_cfg": {"mean": HALF, "std": HALF}},
    "open_clip_config.json": {"preprocess_cfg": {"mean": HALF, "std": HALF}},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("source", ["model.safetensors", "."])
def test_another_preprocessing_is_advised(name, source, tmp_path):
    (tmp_path / name).write_text(json.dumps(FILES[name]))
    found = advice(OURS, tmp_path / source)
    assert found.endswith("--config.preprocess.mean 0.5 0.5 0.5 --config.preprocess.std 0.5 0.5 0.5") and name in found
    assert advice(PreprocessConfig(mean=(0.5,) * 3, std=(0.501,) * 3), tmp_path / source) == ""


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "{}", '{"mean": [0.5], "std": [0.5]}', '{"mean": "abc", "std": [1, 1, NaN]}']
)
def test_other_files_are_passed_over(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert advice(OURS, tmp_path / "model.bin") == ""


SIZES = [
    ({"size": {"height": 224, "width": 224}}, 224),
    ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, 224),
    ({"crop_size": 336}, 336),
    ({"input_size": [3, 518, 518]}, 518),
    ({"size": "large"}, 0),
    ({"size": True}, 0),
    ({"size": []}, 0),
    ({}, 0),
]


@pytest.mark.parametrize(("more", "size"), SIZES)
def test_the_size_that_a_network_sees(more, size):
    assert stated_in({"mean": HALF, "std": HALF} | more) == (HALF, HALF, size)
    assert stated_in({"pretrained_cfg": {"mean": HALF, "std": HALF} | more}).size == size
