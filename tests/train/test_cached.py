"""Frozen networks: each image is encoded once, and training gives what it gives on images."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from oracles import assert_close

from csn_jax import train_and_evaluate
from csn_jax.config import BackboneConfig, Config, PreprocessConfig, brief
from csn_jax.data.dataset import Dataset
from csn_jax.data.item_set import ItemSet
from csn_jax.data.triplets import Triplets
from csn_jax.model.network import build_network
from csn_jax.model.run import open_run
from csn_jax.runtime.record import Condition, Record
from csn_jax.runtime.sharding import make_shardings
from csn_jax.train import cached

FROZEN = dataclasses.replace(
    brief(Config(feed="device", batch_statistics="shared")), backbone=BackboneConfig("small", freeze="all")
)


def state_of(workdir):
    _, state = open_run(workdir).restore()
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


@pytest.mark.slow
def test_training_on_features_equals_training_on_images(tmp_path, monkeypatch, capfd):
    """Parameters, masks and Adam's moments to float32's rounding, and the same logged errors."""
    train_and_evaluate(FROZEN, tmp_path / "cached")
    assert "images is encoded once" in "".join(capfd.readouterr())
    monkeypatch.setattr("csn_jax.train.loop.encoded_once", lambda config, network, dataset, *_: (network, dataset))
    train_and_evaluate(FROZEN, tmp_path / "images")
    found, expected = state_of(tmp_path / "cached"), state_of(tmp_path / "images")
    assert_close(found, expected, lambda name: 0 if "['bn" in name or "['conv" in name else 1e-3)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("cached", "images")]
    assert results[0]["triplet_error"]["overall"] == pytest.approx(results[1]["triplet_error"]["overall"], abs=0.01)


@pytest.mark.parametrize("change", [{"backbone": BackboneConfig("small")}, {"preprocess": {"flip": True}}], ids=str)
def test_a_network_that_trains_and_flipped_images_are_not_cached(change):
    """The network and the data are returned as they are, before anything is computed."""
    if "preprocess" in change:
        change = {"preprocess": dataclasses.replace(FROZEN.preprocess, flip=True)}

    class Data:
        class items:
            inputs = np.zeros((4, 8, 8, 1), np.uint8)

    network, data = object(), Data()
    found = cached.encoded_once(dataclasses.replace(FROZEN, **change), network, data, None, None, {})
    assert found == (network, data)


@pytest.mark.parametrize(("freeze", "expected"), [("layer2", None), ("layer3", (4, 256))])
def test_what_takes_more_memory_than_the_images_is_not_cached(freeze, expected, capfd):
    """At 32 pixels and one channel, an image has 1,024 bytes, and 256 features as many."""
    config = dataclasses.replace(
        FROZEN, backbone=BackboneConfig("resnet18_csn", freeze=freeze), preprocess=PreprocessConfig()
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    network = build_network(config, (32, 32, 1), 2, 4)
    conditions = (Condition("a", "categorical"), Condition("b", "categorical"))
    items = ItemSet(images, np.array(list("abcd")), {}, np.array(["train"] * 4), conditions)
    record = Record(source="glyphs", conditions=conditions, input_shape=(32, 32, 1), items={}, triplets={})
    none = dict.fromkeys(("train", "validation"), Triplets(*[np.zeros(0, np.int32)] * 4))
    data = Dataset(items, none, record)
    start, kept = (network.state, make_shardings()), {}
    found, seen = cached.encoded_once(config, network, data, *start, kept)
    if expected is None:
        assert found is network and seen is data
        return
    assert seen.items.inputs.shape == expected and seen.record.input_shape == expected[1:]
    state = network.state.params["backbone"], network.state.statistics
    whole, _ = network.backbone.apply(*state, network.preprocess(images), train=False)
    rest, _ = found.backbone.apply(*state, seen.items.inputs, train=False)
    np.testing.assert_allclose(rest, whole, rtol=1e-4, atol=1e-5)
    assert "each of 4 images is encoded once" in capfd.readouterr().err
    _, again = cached.encoded_once(config, network, data, *start, kept)  # as for the next specialist
    np.testing.assert_array_equal(again.items.inputs, seen.items.inputs)
    kept["known"][1], kept["features"][1] = False, 0
    _, again = cached.encoded_once(config, network, data, *start, kept)
    np.testing.assert_allclose(again.items.inputs, seen.items.inputs, rtol=1e-5)
    messages = capfd.readouterr().err
    assert "each of 1 images is encoded once" in messages and "of 4 images" not in messages
