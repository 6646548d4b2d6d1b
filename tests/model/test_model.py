"""Model: its digest, its features, and the inputs that it refuses."""

import dataclasses
import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import csn_jax
from csn_jax import port
from csn_jax.config import BackboneConfig, Config, PreprocessConfig
from csn_jax.model.from_state import join, make_model, make_programs
from csn_jax.model.network import build_network
from csn_jax.runtime.sharding import make_shardings

CONFIG = Config(backbone=BackboneConfig("small", 8), preprocess=PreprocessConfig(8))


def model_of(config=CONFIG, change=lambda state: state, **settings):
    shape = (8, 8, len(config.preprocess.mean))
    network = build_network(config, shape, 2, 100)
    return make_model(config, "ab", shape, change(network.state), make_programs(network), make_shardings(), **settings)


def nudged(leaf_of):
    """A function that changes one value in the leaves whose path contains a text."""

    def change(state):
        def nudge(path, leaf):
            if leaf_of not in jax.tree_util.keystr(path, simple=True, separator="/"):
                return leaf
            leaf = np.array(leaf)
            leaf.flat[-1] += 1e-3
            return leaf

        return jax.tree_util.tree_map_with_path(nudge, state)

    return change


def test_the_digest_covers_what_determines_embeddings():
    """Every weight and statistic, the settings of network and preprocessing, and nothing else."""
    own = model_of().sha256
    assert len(own) == 64 and own == model_of().sha256
    for leaf in ("fc/kernel", "fc/bias", "conv1/kernel", "bn0/scale", "bn2/mean", "bn1/var"):
        assert model_of(change=nudged(leaf)).sha256 != own, leaf
    for change in ({"mean": (0.2,)}, {"std": (0.2,)}, {"fit": "pad"}):
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


def test_the_digest_has_the_form_of_files_written_before():
    """Settings that came later are in it only if they differ from their defaults."""
    hasher = hashlib.sha256(
        b"(BackboneConfig(name='small', embedding_dim=8, hidden=0, dtype='float32', init='', freeze='', "
        b"learning_rate_ratio=1.0), PreprocessConfig(size=8, flip=False, mean=(0.1,), std=(0.29,)))"
    )
    state = build_network(CONFIG, (8, 8, 1), 2, 100).state
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params["backbone"], state.statistics)):
        leaf = np.asarray(leaf)
        hasher.update(repr((jax.tree_util.keystr(path), leaf.shape, leaf.dtype.str)).encode() + leaf.tobytes())
    assert model_of().sha256 == hasher.hexdigest()


def test_a_copied_or_exported_model_keeps_its_digest(finished, tmp_path):
    own = csn_jax.load(finished).sha256
    assert csn_jax.load(shutil.copytree(finished, tmp_path / "copy")).sha256 == own
    port.main(["export", f"--workdir={finished}", f"--out={tmp_path / 'out'}"])
    port.main(["import", str(tmp_path / "out"), f"--workdir={tmp_path / 'back'}"])
    assert csn_jax.load(tmp_path / "back").sha256 == own


@pytest.mark.parametrize(("name", "scale"), [("small", 0.2), ("vgg", 1), ("resnet18_csn", 1), ("projection", 0.05)])
def test_features_are_the_input_of_the_last_layer(name, scale):
    """NumPy's last layer over the features gives the embeddings."""
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


def test_specialists_are_concatenated(specialists):
    """Features and digests of all their networks."""
    joined = csn_jax.load(specialists)
    models = [csn_jax.load(specialists / name) for name in joined.conditions]
    inputs = np.random.default_rng(0).integers(256, size=(3, 32, 32, 1)).astype(np.uint8)
    for function in ("features", "embed"):
        expected = np.hstack([getattr(model, function)(inputs) for model in models])
        np.testing.assert_array_equal(getattr(joined, function)(inputs), expected)
    assert len({joined.sha256, *(model.sha256 for model in models)}) == 3


def refused(model, inputs):
    """The message with which embed and features refuse inputs."""
    messages = set()
    for function in (model.embed, model.features):
        with pytest.raises(csn_jax.UserError) as caught:
            function(inputs)
        messages.add(str(caught.value))
        assert tiny.is_one_sentence(str(caught.value).removesuffix("."))
    assert len(messages) == 1
    return messages.pop()


@pytest.fixture(scope="module")
def models(finished):
    """Models by name: of the tiny run, of vectors, and of a network that takes any size of image."""

    def untrained(name, shape):
        config = Config(backbone=BackboneConfig(name, 8), preprocess=PreprocessConfig(32))
        network = build_network(config, shape, 2, 100)
        return make_model(config, "ab", shape, network.state, make_programs(network), make_shardings())

    vectors, pooled = untrained("projection", (5,)), untrained("resnet18_csn", (32, 32, 1))
    return {"images": csn_jax.load(finished), "vectors": vectors, "pooled": pooled}


# A model, the shape and type of its inputs, the words of the refusal.
REFUSED_INPUTS = {
    "one image of another size": (
        "images",
        (48, 32, 1),
        "uint8",
        ["[48, 32, 1]", "give [B, 32, 32, 1], or image paths"],
    ),
    "no channel": ("images", (2, 32, 32), "float32", ["[2, 32, 32]"]),
    "colour": ("images", (2, 32, 32, 3), "uint8", ["[2, 32, 32, 3]"]),
    "another size": ("images", (2, 48, 32, 1), "uint8", ["[2, 48, 32, 1]"]),
    "a number": ("images", (), "float32", ["[]"]),
    "vectors for images": ("images", (2, 5), "float32", ["[2, 5]"]),
    "another number of features": ("vectors", (4, 6), "float32", ["[4, 6]", "give [B, 5]"]),
    "another number of channels": ("pooled", (1, 48, 40, 3), "uint8", ["[1, 48, 40, 3]", "give [B, H, W, 1]"]),
    "integers": ("images", (2, 32, 32, 1), "int64", ["int64", "give pixels as uint8"]),  # as np.array of a list gives
    "vectors of integers": ("vectors", (4, 5), "uint8", ["uint8", "give feature vectors as floats"]),
}


@pytest.mark.parametrize("name", REFUSED_INPUTS)
def test_inputs_of_another_shape_or_type_are_refused(name, models):
    model, shape, dtype, words = REFUSED_INPUTS[name]
    message = refused(models[model], np.zeros(shape, dtype))
    assert all(word in message for word in words), message


def test_images_may_be_a_list_and_pooled_networks_take_any_size(models):
    pixels = np.random.default_rng(0).integers(256, size=(2, 32, 32, 1)).astype(np.uint8)
    np.testing.assert_array_equal(models["images"].embed(list(pixels)), models["images"].embed(pixels))
    assert models["pooled"].embed(np.zeros((1, 48, 40, 1), np.uint8)).shape == (1, 8)


COLOUR = Config(
    backbone=BackboneConfig("small", 8),
    preprocess=PreprocessConfig(8, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
)
FLOATS = {"float16": np.float16, "bfloat16": jnp.bfloat16, "float32": np.float32, "float64": np.float64}


@pytest.fixture
def usual_promotion():
    """JAX's default rules: under the strict ones of these tests, no network takes half floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def pictures(config=COLOUR):
    """(uint8 pixels with every value, the same pixels normalised in float64)."""
    shape = (4, 8, 8, len(config.preprocess.mean))
    pixels = np.resize(np.arange(256), shape[:-1]).astype(np.uint8)[..., None].repeat(shape[-1], axis=-1)
    return pixels, (pixels / 255 - config.preprocess.mean) / config.preprocess.std


@pytest.mark.parametrize("dtype", FLOATS)
def test_normalised_pixels_may_have_every_value(dtype, usual_promotion):
    """From black to white, in each float type, whose rounding moves the ends of the range. Also in a view."""
    model, (pixels, normalised) = model_of(COLOUR), pictures()
    expected = model.embed(pixels)
    inputs = normalised.astype(FLOATS[dtype])
    noise = 3 * float(jnp.finfo(FLOATS[dtype]).eps) + 1e-5
    np.testing.assert_allclose(model.embed(inputs), expected, atol=noise * np.abs(expected).max())
    np.testing.assert_array_equal(model.embed(inputs[:, :, ::-1]), model.embed(inputs[:, :, ::-1].copy()))
    assert model.features(inputs).shape == (4, model.features(pixels).shape[1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_out_of_range_are_refused(dtype):
    """The message has the channel, its range, and the range of normalised pixels."""
    model, (pixels, normalised) = model_of(COLOUR), pictures()
    message = refused(model, pixels.astype(FLOATS[dtype]))
    for words in ("floats from 0 to 255 in channel 0", "from -2.118 to 2.249;", "give pixels as uint8"):
        assert words in message
    for channel, value, words in (
        (2, -2.25, "from -2.25 to "),
        (2, 2.75, " to 2.75 "),
        (2, np.nan, "from nan to nan"),
        (2, -np.inf, "from -inf"),
        (0, 2.5, " to 2.5 "),  # in range for channel 2
    ):
        inputs = normalised.astype(FLOATS[dtype])
        inputs[1, 2, 3, channel] = value
        message = refused(model, inputs)
        assert words in message and f"in channel {channel}," in message
        assert channel == 0 or "from -1.804 to 2.64;" in message


def test_the_range_has_a_tolerance_of_a_thousandth():
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
    """Also black and white alone. Normalised ones are not, dark, bright or whole; nor floats between multiples."""
    config = dataclasses.replace(COLOUR, preprocess=PreprocessConfig(8, mean=mean, std=std))
    model, (pixels, normalised) = model_of(config), pictures(config)
    black_and_white = np.where(pixels > 127, np.uint8(255), np.uint8(0))
    for image in (pixels, black_and_white):
        message = refused(model, (image / 255).astype(FLOATS[dtype]))
        assert all(words in message for words in ("divided by 255", "from -", "give pixels as uint8"))
    bright = (normalised.min(axis=-1, keepdims=True) >= 0) & (normalised.max(axis=-1, keepdims=True) <= 1)
    fill = 1 if mean == (0.5,) else normalised[bright[..., 0]].max(axis=0)
    for inputs in (normalised, np.where(bright, normalised, fill), np.random.default_rng(0).random(normalised.shape)):
        model.embed(inputs.astype(FLOATS[dtype]))
    for constant in (0, 1, 51 / 255):
        model.embed(np.full(normalised.shape, constant, FLOATS[dtype]))


def test_pixels_from_0_to_1_are_normalised_when_the_mean_is_0_and_the_std_1():
    config = dataclasses.replace(CONFIG, preprocess=PreprocessConfig(8, mean=(0.0,), std=(1.0,)))
    model, (pixels, normalised) = model_of(config), pictures(config)
    np.testing.assert_allclose(model.embed(np.float32(normalised)), model.embed(pixels), atol=1e-6)
    assert "floats from 0 to 255" in refused(model, pixels.astype(np.float32))


def test_bfloat16_from_0_to_1_is_not_refused(usual_promotion):
    """Its steps are as wide as 1/255, so normalised pixels look like pixels divided by 255."""
    config = dataclasses.replace(COLOUR, preprocess=PreprocessConfig(8, mean=(0.1,) * 3, std=(0.1,) * 3))
    inputs = np.random.default_rng(0).random((4, 8, 8, 3))
    assert model_of(config).embed(inputs.astype(jnp.bfloat16)).shape == (4, 8)


def test_every_chunk_is_checked_before_any_is_embedded():
    """The last of 700 images; also by specialists."""
    one = model_of(COLOUR)
    never = dataclasses.replace(one, _embed=None, _features=None)
    inputs = np.resize(np.float32(pictures()[1]), (700, 8, 8, 3))
    one.embed(inputs)
    inputs[-1, 0, 0, 0] = 255
    for model in (never, join([never, never])):
        assert "floats from -2.118 to 255 in channel 0" in refused(model, inputs)


def test_feature_vectors_may_have_any_value(models):
    for values in (np.arange(20) * 50.0, np.arange(20) / 255, -np.arange(20) * 9.0):
        assert models["vectors"].embed(np.float32(values).reshape(4, 5)).shape == (4, 8)


def test_vectors_of_16_bits_reach_the_network_as_32(models):
    """The square of 300 is beyond float16, so a length that is taken in 16 bits would be infinite."""
    model = dataclasses.replace(models["vectors"], _embed=lambda x: jnp.linalg.norm(x, axis=1, keepdims=True))
    vectors = np.full((3, 5), 300, np.float16)
    np.testing.assert_allclose(model.embed(vectors), np.full((3, 1), 300 * 5**0.5), rtol=1e-6)


def test_no_inputs_have_no_embeddings_and_no_features(models):
    model, inputs = models["images"], np.zeros((2, 32, 32, 1), np.uint8)
    for nothing in ([], inputs[:0]):
        assert model.embed(nothing).shape == (0, 8)
        assert model.features(nothing).shape == (0, model.features(inputs).shape[1])


def test_a_model_equals_only_itself(finished):
    """By identity: comparing arrays has no single truth value."""
    first, second = csn_jax.load(finished), csn_jax.load(finished)
    assert first == first and first != second and len({first, second}) == 2


def test_an_untrusted_folder_leads_to_no_other(finished, tmp_path):
    """Conditions of specialists are folders. A condition with a path in its name is refused."""
    shutil.copytree(finished, tmp_path / "deep" / "run")
    (tmp_path / "deep/run/config.json").write_text(tiny.config("--config.variant=specialists").to_json())
    path = tmp_path / "deep/run/data.json"
    record = json.loads(path.read_text())
    record["conditions"][0]["name"] = "../other"
    path.write_text(json.dumps(record))
    with pytest.raises(csn_jax.UserError, match="data.json: condition '../other' cannot name a file"):
        csn_jax.load(tmp_path / "deep/run")
