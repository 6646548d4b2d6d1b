"""Model: its digest, and the features before its last layer."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

import csn_jax
from csn_jax.config import BackboneConfig, Config, PreprocessConfig
from csn_jax.data.dataset import load_dataset
from csn_jax.model import make_model, make_programs
from csn_jax.network import build_network
from csn_jax.runtime.sharding import make_shardings

CONFIG = Config(backbone=BackboneConfig("small", 8), preprocess=PreprocessConfig(8))


def model_of(config=CONFIG, change=lambda state: state, **settings):
    shape = (8, 8, len(config.preprocess.mean))
    network = build_network(config, shape, 2, 100)
    return make_model(config, "ab", shape, change(network.state), make_programs(network), make_shardings(), **settings)


def nudged(leaf_of):
    """A change of a state: one value of the leaf that is found by a path."""

    def change(state):
        def nudge(path, leaf):
            if leaf_of not in jax.tree_util.keystr(path, simple=True, separator="/"):
                return leaf
            leaf = np.array(leaf)
            leaf.flat[-1] += 1e-3
            return leaf

        return jax.tree_util.tree_map_with_path(nudge, state)

    return change


def test_the_digest_is_of_all_that_decides_over_embeddings():
    """Every weight, every statistic, the network's and the preprocessing's settings; and of nothing else."""
    own = model_of().sha256
    assert len(own) == 64 and own == model_of().sha256
    for leaf in ("fc/kernel", "fc/bias", "conv1/kernel", "bn0/scale", "bn2/mean", "bn1/var"):
        assert model_of(change=nudged(leaf)).sha256 != own, leaf
    for change in ({"mean": (0.2,)}, {"std": (0.2,)}):
        other = dataclasses.replace(CONFIG, preprocess=dataclasses.replace(CONFIG.preprocess, **change))
        assert model_of(other).sha256 != own
    bfloat16 = dataclasses.replace(CONFIG, backbone=dataclasses.replace(CONFIG.backbone, dtype="bfloat16"))
    assert model_of(bfloat16).sha256 != own
    same = dataclasses.replace(
        CONFIG,
        steps=7,
        variant="fixed",
        preprocess=dataclasses.replace(CONFIG.preprocess, flip=True),
        backbone=dataclasses.replace(CONFIG.backbone, freeze="all", learning_rate_ratio=0.5),
    )
    assert model_of(same).sha256 == own
    assert model_of(change=nudged("beta")).sha256 == model_of(rectified=False).sha256 == own
    assert model_of(change=lambda state: state._replace(step=np.int32(9))).sha256 == own


def test_a_loaded_model_keeps_its_digest(finished, tmp_path):
    """Through a copy, and an export and import."""
    own = csn_jax.load(finished).sha256
    assert csn_jax.load(shutil.copytree(finished, tmp_path / "copy")).sha256 == own
    for arguments in (
        ("export", f"--workdir={finished}", f"--out={tmp_path / 'out'}"),
        ("import", str(tmp_path / "out"), f"--workdir={tmp_path / 'back'}"),
    ):
        done = tiny.command("port", *arguments)
        assert done.returncode == 0, done.stderr
    assert csn_jax.load(tmp_path / "back").sha256 == own


@pytest.mark.parametrize(("name", "scale"), [("small", 0.2), ("vgg", 1), ("resnet18_csn", 1), ("projection", 0.05)])
def test_features_are_what_the_last_layer_is_given(name, scale):
    """That layer, applied by NumPy to the features, gives the embeddings, for any number of inputs."""
    shape = (12,) if name == "projection" else (32, 32, 3)
    config = Config(
        backbone=BackboneConfig(name, 8, hidden=6 if name == "projection" else 0),
        preprocess=PreprocessConfig(32, mean=(0.5,) * 3, std=(0.2,) * 3),
    )
    network = build_network(config, shape, 2, 100)
    model = make_model(config, "ab", shape, network.state, make_programs(network), make_shardings())
    inputs = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    layer = network.state.params["backbone"]["fc"]
    features = model.features(inputs)
    assert features.dtype == np.float32 and features.shape == (5, len(layer["kernel"]))
    assert name != "projection" or (features.min() == 0 and features.shape == (5, 6))  # after the ReLU
    expected = scale * (features.astype(np.float64) @ layer["kernel"] + layer["bias"])
    np.testing.assert_allclose(model.embed(inputs), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_specialists_are_side_by_side(tmp_path):
    """Features and digests of all their networks."""
    config = tiny.config("--config.variant=specialists")
    models = []
    for number, name in enumerate(("character", "font")):
        own = dataclasses.replace(config, variant="standard", seed=number)
        own = dataclasses.replace(own, data=dataclasses.replace(config.data, conditions=(name,)))
        models.append(tiny.untrained(tmp_path / "run" / name, own))
    for name, text in (("config.json", config.to_json()), ("data.json", json.dumps(load_dataset(config).record))):
        (tmp_path / "run" / name).write_text(text)
    joined = csn_jax.load(tmp_path / "run")
    inputs = np.random.default_rng(0).integers(256, size=(3, 32, 32, 1)).astype(np.uint8)
    np.testing.assert_array_equal(joined.features(inputs), np.hstack([model.features(inputs) for model in models]))
    assert joined.sha256 not in [model.sha256 for model in models] and models[0].sha256 != models[1].sha256


def test_pixels_of_another_type_are_refused(finished):
    """np.array of a list of numbers is of int64, and would be taken for pixels that are normalised."""
    model = csn_jax.load(finished)
    pixels = np.random.default_rng(0).integers(256, size=(2, 32, 32, 1))
    for function in (model.embed, model.features):
        with pytest.raises(csn_jax.UserError, match="the inputs are of type int64; give pixels as uint8") as caught:
            function(pixels)
        assert tiny.is_one_sentence(str(caught.value).removesuffix("."))
    pixels = pixels.astype(np.uint8)
    np.testing.assert_array_equal(model.embed(list(pixels)), model.embed(pixels))


SHAPES = {
    "one image": ((32, 32, 1), "uint8", r"\[32, 32, 1\]; give \[B, 32, 32, 1\]"),
    "no channel": ((2, 32, 32), "float32", r"\[2, 32, 32\]"),
    "colour": ((2, 32, 32, 3), "uint8", r"\[2, 32, 32, 3\]"),
    "another size": ((2, 48, 32, 1), "uint8", r"\[2, 48, 32, 1\]"),
    "a number": ((), "float32", r"\[\]"),
    "vectors": ((2, 5), "float32", r"\[2, 5\]"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_inputs_of_another_shape_are_refused(name, finished):
    """One image alone would be taken for as many as it has rows."""
    shape, dtype, told = SHAPES[name]
    model = csn_jax.load(finished)
    assert model.input_shape == (32, 32, 1)
    for function in (model.embed, model.features):
        with pytest.raises(csn_jax.UserError, match=f"the inputs are of shape {told}") as caught:
            function(np.zeros(shape, dtype))
        assert tiny.is_one_sentence(str(caught.value).removesuffix("."))


def test_vectors_are_floats_and_pooled_networks_take_any_size(monkeypatch):
    vectors = Config(backbone=BackboneConfig("projection", 8))
    network = build_network(vectors, (5,), 2, 100)
    model = make_model(vectors, "ab", (5,), network.state, make_programs(network), make_shardings())
    with pytest.raises(csn_jax.UserError, match="are of type uint8; give feature vectors as floats"):
        model.embed(np.zeros((4, 5), np.uint8))
    with pytest.raises(csn_jax.UserError, match=r"are of shape \[4, 6\]; give \[B, 5\]"):
        model.embed(np.zeros((4, 6), np.float32))
    pooled = Config(backbone=BackboneConfig("resnet18_csn", 8), preprocess=PreprocessConfig(32))
    network = build_network(pooled, (32, 32, 1), 2, 100)
    model = make_model(pooled, "ab", (32, 32, 1), network.state, make_programs(network), make_shardings())
    assert model.embed(np.zeros((1, 48, 40, 1), np.uint8)).shape == (1, 8)
    with pytest.raises(csn_jax.UserError, match=r"are of shape \[1, 48, 40, 3\]; give \[B, H, W, 1\]"):
        model.embed(np.zeros((1, 48, 40, 3), np.uint8))


def test_no_inputs_have_no_embeddings_and_no_features(finished):
    model = csn_jax.load(finished)
    some = np.zeros((2, 32, 32, 1), np.uint8)
    for none in ([], some[:0]):
        assert model.embed(none).shape == (0, 8)
        assert model.features(none).shape == (0, model.features(some).shape[1])


def test_models_are_equal_to_themselves_alone(finished):
    """By what they are and not by arrays, whose comparison has no truth."""
    one, other = csn_jax.load(finished), csn_jax.load(finished)
    assert one == one and one != other and len({one, other}) == 2


def test_a_strangers_folder_leads_nowhere(finished, tmp_path):
    """Conditions of specialists are folders; those of a damaged or hostile record are not followed."""
    shutil.copytree(finished, tmp_path / "deep" / "run")
    (tmp_path / "deep/run/config.json").write_text(tiny.config("--config.variant=specialists").to_json())
    path = tmp_path / "deep/run/data.json"
    record = json.loads(path.read_text())
    record["conditions"][0]["name"] = "../other"
    path.write_text(json.dumps(record))
    with pytest.raises(csn_jax.UserError, match="data.json: condition '../other' cannot name a file"):
        csn_jax.load(tmp_path / "deep/run")
