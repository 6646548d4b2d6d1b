"""Model: its digest, and the features before its last layer."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import csn_jax
from csn_jax.config import BackboneConfig, Config, PreprocessConfig
from csn_jax.data.dataset import load_dataset
from csn_jax.model.model import join, make_model, make_programs
from csn_jax.model.network import build_network
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
    inputs = np.random.default_rng(0).normal(size=(5, *shape)).clip(-2.5, 2.5).astype(np.float32)
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


COLOUR = Config(
    backbone=BackboneConfig("small", 8),
    preprocess=PreprocessConfig(8, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
)
FLOATS = {"float16": np.float16, "bfloat16": jnp.bfloat16, "float32": np.float32, "float64": np.float64}


@pytest.fixture
def usual_promotion():
    """JAX's own rules: with the strict ones of these tests, no network takes half floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def refused(model, inputs):
    """What embed and features say of inputs."""
    said = set()
    for function in (model.embed, model.features):
        with pytest.raises(csn_jax.UserError) as caught:
            function(inputs)
        said.add(str(caught.value))
        assert tiny.is_one_sentence(str(caught.value).removesuffix("."))
    assert len(said) == 1
    return said.pop()


def pictures(config=COLOUR):
    """(uint8 pixels with every value among them, the same normalised in float64)."""
    shape = (4, 8, 8, len(config.preprocess.mean))
    pixels = np.resize(np.arange(256), shape[:-1]).astype(np.uint8)[..., None].repeat(shape[-1], axis=-1)
    return pixels, (pixels / 255 - config.preprocess.mean) / config.preprocess.std


@pytest.mark.parametrize("dtype", FLOATS)
def test_normalised_pixels_may_have_every_value(dtype, usual_promotion):
    """Black to white, in each type of floats, which rounds the ends of the range; also in a view."""
    model, (pixels, normalised) = model_of(COLOUR), pictures()
    expected = model.embed(pixels)
    inputs = normalised.astype(FLOATS[dtype])
    noise = 3 * float(jnp.finfo(FLOATS[dtype]).eps) + 1e-5
    np.testing.assert_allclose(model.embed(inputs), expected, atol=noise * np.abs(expected).max())
    np.testing.assert_array_equal(model.embed(inputs[:, :, ::-1]), model.embed(inputs[:, :, ::-1].copy()))
    assert model.features(inputs).shape == (4, model.features(pixels).shape[1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_that_no_normalised_pixel_has_are_refused(dtype):
    model, (pixels, normalised) = model_of(COLOUR), pictures()
    said = refused(model, pixels.astype(FLOATS[dtype]))
    assert said.startswith("the inputs are floats from 0 to 255 in channel 0"), said
    assert "where normalised pixels are from -2.118 to 2.249; give pixels as uint8" in said
    for value, text in (
        (-2.25, "from -2.25 to "),
        (2.75, " to 2.75 "),
        (np.nan, "from nan to nan"),
        (-np.inf, "from -inf"),
    ):
        inputs = normalised.astype(FLOATS[dtype])
        inputs[1, 2, 3, 2] = value
        said = refused(model, inputs)
        assert "in channel 2, where normalised pixels are from -1.804 to 2.64;" in said
        assert text in said
    inputs = normalised.astype(FLOATS[dtype])
    inputs[1, 2, 3, 0] = 2.5  # which channel 2 may have
    assert "in channel 0" in refused(model, inputs)


def test_the_tolerance_of_the_range_is_a_thousandth_of_it():
    model, (_, normalised) = model_of(COLOUR), pictures()
    low, high = normalised[..., 1].min(), normalised[..., 1].max()
    for end, sign in ((low, -1), (high, 1)):
        for slack in (0.9e-3, 1.1e-3):
            inputs = normalised.copy()
            inputs[0, 0, 0, 1] = end + sign * slack * (high - low)
            if slack < 1e-3:
                model.embed(inputs)
            else:
                assert "in channel 1" in refused(model, inputs)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("mean, std", [((0.10,), (0.29,)), ((0.5,), (0.5,)), (COLOUR.preprocess.mean, (0.225,) * 3)])
def test_pixels_divided_by_255_are_refused(dtype, mean, std, usual_promotion):
    """Also black and white alone; not their normalised form, dark, bright or whole; nor floats between the steps."""
    config = dataclasses.replace(COLOUR, preprocess=PreprocessConfig(8, mean=mean, std=std))
    model, (pixels, normalised) = model_of(config), pictures(config)
    black_and_white = np.where(pixels > 127, np.uint8(255), np.uint8(0))
    for image in (pixels, black_and_white):
        said = refused(model, (image / 255).astype(FLOATS[dtype]))
        assert said.startswith("the inputs are pixels divided by 255, where normalised pixels are from -")
        assert said.endswith("; give pixels as uint8, which are normalised here.")
    bright = (normalised.min(axis=-1, keepdims=True) >= 0) & (normalised.max(axis=-1, keepdims=True) <= 1)
    fill = 1 if mean == (0.5,) else normalised[bright[..., 0]].max(axis=0)
    for inputs in (normalised, np.where(bright, normalised, fill), np.random.default_rng(0).random(normalised.shape)):
        model.embed(inputs.astype(FLOATS[dtype]))
    for constant in (0, 1, 51 / 255):
        model.embed(np.full(normalised.shape, constant, FLOATS[dtype]))


def test_pixels_from_0_to_1_may_be_what_the_network_takes():
    """With mean 0 and std 1 they are the normalised ones."""
    config = dataclasses.replace(CONFIG, preprocess=PreprocessConfig(8, mean=(0.0,), std=(1.0,)))
    model, (pixels, normalised) = model_of(config), pictures(config)
    np.testing.assert_allclose(model.embed(np.float32(normalised)), model.embed(pixels), atol=1e-6)
    assert "floats from 0 to 255" in refused(model, pixels.astype(np.float32))


def test_bfloat16_from_0_to_1_is_not_judged(usual_promotion):
    """Its steps are as wide as 1/255, so normalised pixels in that range look like pixels divided by 255."""
    config = dataclasses.replace(COLOUR, preprocess=PreprocessConfig(8, mean=(0.1,) * 3, std=(0.1,) * 3))
    inputs = np.random.default_rng(0).random((4, 8, 8, 3))
    assert model_of(config).embed(inputs.astype(jnp.bfloat16)).shape == (4, 8)


def test_every_chunk_is_checked_before_any_is_embedded(monkeypatch):
    """The last image of several hundred is seen, and specialists check as one network does."""
    one = model_of(COLOUR)
    never = dataclasses.replace(one, _embed=None, _features=None)
    inputs = np.resize(np.float32(pictures()[1]), (700, 8, 8, 3))
    one.embed(inputs)
    inputs[-1, 0, 0, 0] = 255
    for model in (never, join([never, never])):
        assert "floats from -2.118 to 255 in channel 0" in refused(model, inputs)


def test_feature_vectors_may_have_any_value():
    vectors = Config(backbone=BackboneConfig("projection", 8))
    network = build_network(vectors, (5,), 2, 100)
    model = make_model(vectors, "ab", (5,), network.state, make_programs(network), make_shardings())
    for values in (np.arange(20) * 50.0, np.arange(20) / 255, -np.arange(20) * 9.0):
        assert model.embed(np.float32(values).reshape(4, 5)).shape == (4, 8)


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
