"""Results do not depend on the number of devices: batch norm, L_W and every mean see the global batch."""

import dataclasses
from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np
import pytest
import tiny
from oracles import assert_close, flat

from csn_jax import backbones
from csn_jax.backbones.norm import Form, batch_norm
from csn_jax.config import VITS, BackboneConfig, Config, LossConfig, PreprocessConfig
from csn_jax.core.losses import csn_loss
from csn_jax.core.maps import MapsPlan
from csn_jax.core.steps import initial_state, make_train_step, repeatable
from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.data.triplets import Triplets
from csn_jax.model.network import build_network
from csn_jax.runtime.compiler import jit
from csn_jax.runtime.sharding import make_shardings
from csn_jax.train.feed import device_feed, labelled_batches, triplet_batches
from csn_jax.train.metrics import by_step

STEPS, BATCH, TRIPLETS = 5, 10, 26  # four devices pad 10 rows to 12, and the epoch's short batch of 6 to 12
CONFIG = Config(
    batch_size=BATCH,
    steps=STEPS,
    learning_rate=5e-5,
    schedule="exponential",
    backbone=BackboneConfig(name="small"),
    preprocess=PreprocessConfig(size=16, flip=False, mean=(0.5,), std=(0.3,)),
)


@lru_cache
def train(n_devices, at_once=1):
    """(losses per step, state) of the real step and feed on some devices, with `at_once` steps per call."""
    devices = jax.devices()[:n_devices]
    rng = np.random.default_rng(0)
    items = rng.integers(0, 256, (12, 16, 16, 1), np.uint8)
    columns = [rng.integers(0, 12, TRIPLETS, np.int32) for _ in range(3)]
    triplets = Triplets(*columns, condition=rng.integers(0, 2, TRIPLETS, np.int32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: devices)
        shardings = make_shardings()
    assert shardings.devices == len(devices)
    network = build_network(CONFIG, items.shape[1:], 2, TRIPLETS)
    step = make_train_step(
        network.backbone, network.preprocess, network.optimizer, CONFIG.loss, train_masks=True, seed=CONFIG.seed
    )
    step, state = jit(repeatable(step), donate_argnums=0), jax.device_put(network.state, shardings.state)
    on_device = jax.device_put(items, shardings.state)
    size = shardings.padded(BATCH)
    losses = []
    batch_at = triplet_batches(triplets, CONFIG.seed, BATCH, size)
    for batch in device_feed(batch_at, 0, STEPS, shardings.batch, at_once):
        assert len(batch.valid.sharding.device_set) == len(devices) and batch.valid.shape[-1] == size
        state, metrics = step(state, batch, on_device)
        losses += by_step(jax.device_get(metrics))
    return losses, jax.device_get(state)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_several_steps_in_one_call_equal_single_steps(devices):
    """Two calls of two steps and one of one, against five of one. They include the short batch of an epoch."""
    (several, after), (single, expected) = (train(devices, at_once) for at_once in (2, 1))
    assert len(several) == len(single) == STEPS
    for ours, theirs in zip(several, single, strict=True):
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6, err_msg=name)
    ours, theirs = flat(after.params), flat(expected.params)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-6, err_msg=name)
    assert_close(flat(after.statistics), flat(expected.statistics), 1e-6)
    assert int(after.step) == STEPS


def test_one_device_equals_four():
    """Losses of five steps, gradients, parameters and running statistics. Only four devices need padding."""
    one, state_one = train(1)
    four, state_four = train(4)
    for ours, theirs in zip(four, one, strict=True):
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6, err_msg=name)
    before = flat(build_network(CONFIG, (16, 16, 1), 2, TRIPLETS).state.params)
    ours, theirs = flat(state_four.params), flat(state_one.params)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-6, err_msg=name)
        assert np.abs(theirs[name] - before[name]).max() > 1e-4  # far above the tolerance
    assert_close(flat(state_four.statistics), flat(state_one.statistics), 1e-6)
    # A moment is a mean of gradients. In the last bias the two halves of the triplet loss cancel, which leaves noise.
    moments = (flat(state.opt_state[0].mu) for state in (state_four, state_one))
    assert_close(*moments, lambda name: 1e-4 if name == "backbone/fc/bias" else 5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["projection", "vit_tiny_16"])
def test_one_device_equals_four_in_batch(name, monkeypatch):
    """Three steps on labelled batches with missing labels, in float64: anchors meet the items of all devices. Networks
    without batch norm, which is tested above and below, compile sooner."""
    rng = np.random.default_rng(0)
    monkeypatch.setitem(VITS, "vit_tiny_16", None)  # the tiny one is gone after the test
    backbones.build.cache_clear()
    tiny.vision_transformer()
    projection = name == "projection"
    config = dataclasses.replace(CONFIG, backbone=BackboneConfig(name, hidden=8 if projection else 0))
    inputs = rng.normal(size=(14, 6) if projection else (14, 16, 16, 1))
    labels = {condition: rng.choice(["x", "y", "z", ""], 14) for condition in "ab"}
    conditions = tuple(Condition(condition, "categorical") for condition in labels)
    items = ItemSet(inputs, np.arange(14).astype(str), labels, np.full(14, "train"), conditions)
    network = build_network(config, inputs.shape[1:], 2, 14)
    before = jax.tree.map(lambda leaf: np.asarray(leaf, np.promote_types(leaf.dtype, np.float64)), network.state)

    def train(devices):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "devices", lambda: devices)
            shardings = make_shardings()
        step = make_train_step(
            network.backbone, network.preprocess, network.optimizer, LossConfig("batch_all"), train_masks=True, seed=0
        )
        step, state = jit(step, donate_argnums=0), jax.device_put(before, shardings.state)
        on_device = jax.device_put(inputs, shardings.state)
        losses = {}
        batch_at = labelled_batches(items, 0, BATCH, shardings.padded(BATCH))
        for i, batch in enumerate(device_feed(batch_at, 0, 3, shardings.batch)):
            assert len(batch.valid) == (12 if len(devices) == 4 else 10)
            state, metrics = step(state, batch, on_device)
            losses |= {f"{metric}/{i}": value for metric, value in metrics.items()}
        return losses, flat(state.params), flat(state.opt_state[0].mu)

    with jax.enable_x64(True):
        one, four = train(jax.devices()[:1]), train(jax.devices())
    for ours, theirs in zip(four, one, strict=True):
        assert_close(ours, theirs, 1e-9)
    assert all(np.abs(one[1][key] - value).max() > 1e-5 for key, value in flat(before.params).items())


def shard(tree):
    return jax.device_put(tree, make_shardings().batch)


def quarters(function, *arrays):
    """The result of four devices without communication: the mean of a function over quarters of the batch."""
    parts = [function(*part) for part in zip(*(np.split(array, 4) for array in arrays), strict=True)]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *parts)


def test_batch_norm_sees_the_global_batch():
    """With padding, statistics over four devices equal those of one device, and not the mean of four."""
    rng = np.random.default_rng(0)
    x, valid = rng.normal(rng.normal(size=5), 1, (12, 4, 4, 5)), np.arange(12) % 4 < 3

    def statistics(x, valid):
        _, mean, var = batch_norm(x, np.ones(5), np.zeros(5), valid, Form(relu=True))
        return {"mean": mean, "var": var}

    with jax.enable_x64(True):
        expected = statistics(x, valid)
        assert_close(jax.jit(statistics)(*shard((x, valid))), expected, 1e-12)
        with pytest.raises(AssertionError, match="var is off"):
            assert_close(quarters(statistics, x, valid), expected, 1e-12)


def test_loss_sees_the_global_batch():
    """L_W over four devices equals that of one, and not the mean of four. So do the means over valid rows."""
    rng = np.random.default_rng(0)
    roles, mask = rng.normal(size=(3, 12, 8)), rng.uniform(size=(12, 8))
    valid = np.arange(12) < 10

    def loss(*arrays):
        return csn_loss(*arrays, margin=0.2, embedding_weight=5e-3, mask_weight=5e-4)._asdict()

    with jax.enable_x64(True):
        expected = loss(*roles, mask, valid)
        assert_close(jax.jit(loss)(*shard((*roles, mask, valid))), expected, 1e-12)
        apart = quarters(loss, *roles, mask, valid)
        for term in ("triplet", "embedding", "mask"):
            with pytest.raises(AssertionError):
                assert_close({term: apart[term]}, {term: expected[term]}, 1e-3)
        full = np.ones(12, bool)
        even, expected = quarters(loss, *roles, mask, full), loss(*roles, mask, full)
        assert_close({"triplet": even["triplet"]}, {"triplet": expected["triplet"]}, 1e-12)
        with pytest.raises(AssertionError, match="embedding is off"):
            assert_close({"embedding": even["embedding"]}, {"embedding": expected["embedding"]}, 1e-3)


def test_one_device_equals_four_under_maps():
    """Three steps in float64, whose last batch is short: terms, maps, moments."""
    config = replace(CONFIG, variant="maps", backbone=BackboneConfig("projection"), learning_rate=1e-2)
    pulls, rng = (1e-2, 0.0), np.random.default_rng(0)
    network = build_network(config, (7,), 2, TRIPLETS, MapsPlan(5, 3, pulls))
    before = jax.tree.map(lambda leaf: np.asarray(leaf, np.promote_types(leaf.dtype, np.float64)), network.state.params)
    vectors = rng.normal(size=(12, 5))
    columns = [rng.integers(0, 12, TRIPLETS, np.int32) for _ in range(3)]
    triplets = Triplets(*columns, condition=rng.integers(0, 2, TRIPLETS, np.int32))
    settings = {"train_masks": True, "seed": 0, "pulls": pulls}

    def train(devices):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "devices", lambda: devices)
            shardings = make_shardings()
        step = make_train_step(network.backbone, network.preprocess, network.optimizer, config.loss, **settings)
        state = initial_state({}, network.state.statistics, before["beta"], network.optimizer)
        step, state = jit(step, donate_argnums=0), jax.device_put(state, shardings.state)
        on_device, losses = jax.device_put(vectors, shardings.state), {}
        batch_at = triplet_batches(triplets, 0, BATCH, shardings.padded(BATCH))
        for i, batch in enumerate(device_feed(batch_at, 0, 3, shardings.batch)):
            assert len(batch.valid) == (12 if len(devices) == 4 else 10)
            state, metrics = step(state, batch, on_device)
            losses |= {f"{metric}/{i}": value for metric, value in metrics.items()}
        return losses, flat(state.params), flat(state.opt_state[0].mu)

    with jax.enable_x64(True):
        one, four = train(jax.devices()[:1]), train(jax.devices())
    for ours, theirs in zip(four, one, strict=True):
        assert_close(ours, theirs, 1e-9)
    assert np.abs(one[1]["beta"] - before["beta"]).max() > 1e-3
