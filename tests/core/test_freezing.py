"""Freezing and the learning-rate ratio: frozen parts stay bit-identical, the others train as in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch_reference as reference
from oracles import adam, assert_close, flat

from csn_jax import backbones
from csn_jax.config import STAGES, BackboneConfig, Config
from csn_jax.core.optim import make_optimizer
from csn_jax.core.preprocess import make_preprocess
from csn_jax.core.steps import Batch, initial_state, make_train_step
from csn_jax.runtime.compiler import jit

B, C, D, SIZE = 4, 2, 8, 16


def stage_of(leaf):
    """The stage of a leaf by its path, without the code under test."""
    module = leaf.split("/")[0]
    if module in ("conv1", "bn1"):
        return "stem"
    return module[:6] if module.startswith("layer") else module


def train(config, steps=3):
    """The states before and after a few of the real steps on random images."""
    backbone = backbones.build(config.backbone)
    params, statistics = backbone.init(1, (SIZE, SIZE, 3))
    # Variances that differ from the batch's.
    statistics = jax.tree.map(lambda leaf: leaf * np.float32(0.25), statistics)
    beta = np.random.default_rng(2).normal(0.9, 0.7, (C, D)).astype(np.float32)
    optimizer = make_optimizer(config, 1)
    step = jit(
        make_train_step(backbone, make_preprocess(config.preprocess), optimizer, config.loss, train_masks=True, seed=0)
    )
    start = state = initial_state(params, statistics, beta, optimizer)
    rng = np.random.default_rng(3)
    for _ in range(steps):
        roles = rng.normal(size=(3, B, SIZE, SIZE, 3)).astype(np.float32)
        state, _ = step(state, Batch(*roles, np.arange(B, dtype=np.int32) % C, np.ones(B, bool)))
    return jax.device_get(start), jax.device_get(state)


@pytest.mark.parametrize(("name", "freeze"), [("small", "all"), ("resnet18_csn", "layer1")])
def test_frozen_stages_stay_bit_identical_and_the_others_train(name, freeze):
    """Parameters and running statistics of the stages up to the named one. Masks and the last layer always train."""
    start, end = train(Config(backbone=BackboneConfig(name, embedding_dim=D, freeze=freeze), learning_rate=1e-2))
    before = flat(start.params["backbone"]) | flat(start.statistics)
    after = flat(end.params["backbone"]) | flat(end.statistics)
    frozen = ("stem", "layer1") if freeze == "layer1" else {stage_of(leaf) for leaf in before} - {"fc"}
    assert len({stage_of(leaf) in frozen for leaf in before}) == 2
    for leaf in before:
        same = before[leaf].tobytes() == after[leaf].tobytes()
        assert same == (stage_of(leaf) in frozen), leaf
    assert np.any(start.params["beta"] != end.params["beta"])


def test_nothing_is_frozen_by_default():
    start, end = train(Config(backbone=BackboneConfig("small", embedding_dim=D), learning_rate=1e-2), steps=1)
    before, after = (flat(state.params["backbone"]) | flat(state.statistics) for state in (start, end))
    assert all(np.any(before[leaf] != after[leaf]) for leaf in before)


def test_a_half_frozen_network_equals_torch():
    """Embeddings, gradients and statistics. In PyTorch, frozen modules are in evaluation mode without gradients."""
    config = BackboneConfig("resnet18_csn", embedding_dim=D, freeze="layer2")
    backbone = backbones.build(config)
    params, statistics = backbone.init(1, (32, 32, 3))
    rng = np.random.default_rng(2)
    statistics = jax.tree.map(lambda leaf: leaf * rng.uniform(0.2, 0.6, leaf.shape), statistics)
    x, weight = rng.normal(size=(B, 32, 32, 3)), rng.normal(size=(B, D))

    def objective(params, statistics, x):
        embeddings, moved = backbone.apply(params, statistics, x, train=True, valid=jnp.ones(B, bool))
        return jnp.sum(embeddings * weight), (embeddings, moved)

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, statistics, x))
        gradient, (embeddings, moved) = jax.device_get(jit(jax.grad(objective, has_aux=True))(*arguments))
    ours = {"embeddings": embeddings} | flat(moved) | flat(gradient)

    model = reference.load(reference.ResNet18CSN(D, 32).double(), flat(params) | flat(statistics)).train()
    for module in (model.conv1, model.bn1, model.layer1, model.layer2):
        module.eval().requires_grad_(False)
    embeddings = model(reference.images(x))
    (embeddings * torch.tensor(weight)).sum().backward()
    grads = {name: leaf.grad for name, leaf in model.named_parameters() if leaf.grad is not None}
    theirs = {"embeddings": reference.to_numpy(embeddings)} | reference.to_flax(dict(model.named_buffers()))
    assert_close(
        ours, theirs | {n: np.zeros_like(g) for n, g in flat(gradient).items()} | reference.to_flax(grads), 1e-10
    )
    assert all(np.any(ours[name]) == (stage_of(name) in ("layer3", "fc")) for name in flat(gradient))


@pytest.mark.parametrize("name", STAGES)
def test_config_and_network_have_the_same_stages(name):
    """In order from the input, STAGES names the stages of all modules."""
    params, _ = backbones.build(BackboneConfig(name, embedding_dim=D)).init(0, (32, 32, 3))
    assert {stage_of(module) for module in params} == {*STAGES[name], "fc"}
    assert list(STAGES[name]) == ["stem", *(f"layer{i}" for i in range(1, len(STAGES[name])))]


GRADIENTS = np.array([0.3, -0.02, 1e-8, 0.0, -5e-8])


@pytest.mark.parametrize("ratio", [1.0, 0.1, 3.0])
def test_the_ratio_scales_only_the_backbones_update(ratio):
    """Against Adam's paper: all parameters except the last linear layer and the masks."""
    config = Config(
        learning_rate=1e-3,
        schedule="exponential",
        schedule_decay=0.9,
        backbone=BackboneConfig(learning_rate_ratio=ratio),
    )
    with jax.enable_x64(True):
        optimizer = make_optimizer(config, 1)
        leaf = jnp.asarray(0.5)
        params = {"backbone": {"conv0": {"kernel": leaf}, "bn0": {"scale": leaf}, "fc": {"bias": leaf}}, "beta": leaf}
        state, path = optimizer.init(params), {name: [] for name in (*flat(params["backbone"]), "beta")}
        for gradient in GRADIENTS:
            updates, state = optimizer.update(jax.tree.map(lambda _, g=gradient: jnp.asarray(g), params), state, params)
            params = optax.apply_updates(params, updates)
            for name, value in (flat(params["backbone"]) | {"beta": params["beta"]}).items():
                path[name].append(float(value))
    rates = np.array([1e-3 * 0.9 ** (step + 1) for step in range(len(GRADIENTS))])
    for name, values in path.items():
        scale = 1 if name in ("fc/bias", "beta") else ratio
        moves, expected = (np.diff(line, prepend=0.5) for line in (values, adam(0.5, GRADIENTS, rates * scale)))
        assert_close({name: moves}, {name: expected}, 1e-10)
