"""Preprocessing on the device: normalisation per channel and flips per image."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import assert_close

from csn_jax.backbones import Backbone
from csn_jax.config import LossConfig, PreprocessConfig
from csn_jax.core.preprocess import make_preprocess
from csn_jax.core.steps import Batch, initial_state, make_train_step

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = PreprocessConfig(size=4, flip=True, mean=MEAN, std=STD)


def pixels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 6, 3), np.uint8)


def normalised(x):
    """(x / 255 - mean) / std, pixel by pixel, in float64 until the end."""
    y = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        y[place] = (float(x[place]) / 255 - MEAN[place[-1]]) / STD[place[-1]]
    return y.astype(np.float32)


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit], ids=["eager", "compiled"])
def test_pixels_are_normalised_per_channel(compile):
    """uint8 in, float32 out. Without a key, no image is flipped."""
    x = pixels(3)
    assert_close({"y": compile(make_preprocess(IMAGENET))(x)}, {"y": normalised(x)}, 3e-7)


@pytest.mark.parametrize(
    "wrong",
    [
        PreprocessConfig(mean=MEAN[::-1], std=STD),
        PreprocessConfig(mean=MEAN, std=STD[::-1]),
        PreprocessConfig(mean=MEAN, std=tuple(s * 255 / 256 for s in STD)),
        PreprocessConfig(mean=STD, std=MEAN),
    ],
)
def test_the_comparison_detects_wrong_constants(wrong):
    """Channels in another order, 256 instead of 255, mean instead of deviation."""
    x = pixels(3)
    with pytest.raises(AssertionError):
        assert_close({"y": make_preprocess(wrong)(x)}, {"y": normalised(x)}, 3e-7)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 9)])
def test_floats_pass_unchanged(shape):
    """They are normalised already, and are not flipped either."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert make_preprocess(IMAGENET)(x, jax.random.key(0)) is x
    half = make_preprocess(IMAGENET)(jax.numpy.asarray(x.astype(np.float16)))
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, x.astype(np.float16))


def flips(key, n=64):
    """Which images of a batch a key flips. Each image comes back whole, unchanged or mirrored."""
    x = pixels(n)
    plain, mirrored = normalised(x), normalised(x[:, :, ::-1])
    y = np.asarray(make_preprocess(IMAGENET)(x, key))
    unchanged = np.array([np.allclose(a, b, atol=1e-5) for a, b in zip(y, plain, strict=True)])
    flipped = np.array([np.allclose(a, b, atol=1e-5) for a, b in zip(y, mirrored, strict=True)])
    assert np.all(unchanged ^ flipped)
    return flipped


def test_each_image_is_flipped_by_itself():
    """Half of them over many draws, and independently within a batch. Only the key decides."""
    draws = np.array([flips(jax.random.fold_in(jax.random.key(0), i)) for i in range(16)])  # [16, 64]
    assert abs(draws.mean() - 0.5) < 5 * 0.5 / np.sqrt(draws.size)
    per_batch = draws.mean(axis=1)  # would be 0 or 1 if a batch were flipped as one
    assert np.all((0.2 < per_batch) & (per_batch < 0.8))
    per_image = draws.mean(axis=0)  # would be 0 or 1 if the position in the batch decided
    assert np.mean((per_image == 0) | (per_image == 1)) < 0.05
    assert np.array_equal(draws[0], flips(jax.random.fold_in(jax.random.key(0), 0)))
    assert not np.array_equal(draws[0], draws[1])


def test_without_the_flag_no_image_is_flipped():
    """Characters are never mirrored, not even in training."""
    x, config = pixels(8), PreprocessConfig(flip=False, mean=MEAN, std=STD)
    assert_close({"y": make_preprocess(config)(x, jax.random.key(0))}, {"y": normalised(x)}, 3e-7)


def test_every_role_and_step_has_its_own_key():
    """Flips of anchor, positive and negative are independent, change per step, and repeat after a resume."""

    def keys_of(step, seed):
        keys = []

        def preprocess(x, key):
            keys.append(tuple(jax.random.key_data(key).tolist()))
            return x

        apply = lambda params, statistics, x, train, valid: (x * params, statistics)  # noqa: E731
        optimizer = optax.sgd(0.1)
        train_step = make_train_step(
            Backbone(None, apply, None, None, None), preprocess, optimizer, LossConfig(), train_masks=True, seed=seed
        )
        state = initial_state(np.float32(1), {}, np.ones((1, 4), np.float32), optimizer)
        roles = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
        batch = Batch(*(jnp.asarray(role) for role in roles), condition=np.zeros(2, np.int32), valid=np.ones(2, bool))
        with jax.disable_jit():
            train_step(state._replace(step=jnp.int32(step)), batch)
        return keys

    first, second, other = keys_of(0, 0), keys_of(1, 0), keys_of(0, 1)
    assert len({*first, *second, *other}) == 9
    assert first == keys_of(0, 0)
