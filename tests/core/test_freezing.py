"""Freezing and the learning-rate ratio: frozen parts stay bit-identical, the others train as in PyTorch."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch_reference as reference
from oracles import adam, assert_close, flat

from csn_jax import backbones
from csn_jax.config import STAGES, VITS, BackboneConfig, Config, FineTuneConfig
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


@pytest.mark.parametrize(
    ("name", "freeze"), [("small", "all"), pytest.param("resnet18_csn", "layer1", marks=pytest.mark.slow)]
)
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


@pytest.mark.parametrize("running", [False, True])
def test_a_half_frozen_network_equals_torch(running):
    """Embeddings, gradients and statistics. In PyTorch, frozen modules are in evaluation mode without gradients; with
    running statistics, all batch norms are."""
    config = BackboneConfig("resnet18_csn", embedding_dim=D, freeze="layer2")
    backbone = backbones.build(config, running)
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
    norms = [module for module in model.modules() if running and isinstance(module, torch.nn.BatchNorm2d)]
    for module in (model.conv1, model.bn1, model.layer1, model.layer2, *norms):
        module.eval().requires_grad_(False)
    embeddings = model(reference.images(x))
    (embeddings * torch.tensor(weight)).sum().backward()
    grads = {name: leaf.grad for name, leaf in model.named_parameters() if leaf.grad is not None}
    theirs = {"embeddings": reference.to_numpy(embeddings)} | reference.to_flax(dict(model.named_buffers()))
    assert_close(
        ours, theirs | {n: np.zeros_like(g) for n, g in flat(gradient).items()} | reference.to_flax(grads), 1e-10
    )
    held = ("bn", "downsample_bn") if running else ()
    for name in flat(gradient):
        trains = stage_of(name) in ("layer3", "fc") and not name.split("/")[-2].startswith(held)
        assert np.any(ours[name]) == trains, name


def test_the_rest_on_what_the_frozen_part_makes_equals_the_network():
    """Embeddings, statistics and the gradient of what trains."""
    backbone = backbones.build(BackboneConfig("resnet18_csn", embedding_dim=D, freeze="layer2"))
    params, statistics = backbone.init(1, (SIZE, SIZE, 3))
    x = np.random.default_rng(2).normal(size=(B, SIZE, SIZE, 3)).astype(np.float32)

    def objective(params, x, forward):
        embeddings, moved = forward(params, statistics, x, train=True, valid=jnp.ones(B, bool))
        return jnp.sum(embeddings**2), {"embeddings": embeddings} | moved

    gradient = jit(jax.grad(objective, has_aux=True), static_argnums=2)
    rest = partial(backbone.rest, input_shape=x.shape[1:])
    found = gradient(params, jit(backbone.frozen)(params, statistics, x), rest)
    expected = gradient(params, x, backbone.apply)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(flat(ours), flat(theirs), 1e-4)
    assert np.any(found[0]["layer3_0"]["conv1"]["kernel"])


@pytest.mark.parametrize("name", [name for name in STAGES if name.startswith("resnet")])
def test_config_and_network_have_the_same_stages(name):
    """In order from the input, STAGES names the stages of all modules."""
    params, _ = backbones.build(BackboneConfig(name, embedding_dim=D)).init(0, (32, 32, 3))
    assert {stage_of(module) for module in params} == {*STAGES[name], "fc"}
    assert list(STAGES[name]) == ["stem", *(f"layer{i}" for i in range(1, len(STAGES[name])))]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vit_tiny_16"])
def test_encoders_have_the_stages_of_the_config(name):
    params = jax.eval_shape(lambda: backbones.build(BackboneConfig(name, embedding_dim=D)).init(0, (32, 32, 3))[0])
    stages = {module.split("_")[0] for module in params}
    assert stages == {*STAGES[name], "fc"} and set(VITS) < set(STAGES)


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


def moved(config, gradient=0.25, steps=3):
    """The parameters of a two-stage network after steps with a constant gradient, by name; all start at 0.5."""
    with jax.enable_x64(True):
        optimizer, leaf = make_optimizer(config, 1), jnp.asarray(0.5)
        modules = {"conv1": {"kernel": leaf}, "layer2_0": {"kernel": leaf, "bias": leaf}, "fc": {"kernel": leaf}}
        params = {"backbone": modules, "beta": leaf}
        state = optimizer.init(params)
        for _ in range(steps):
            updates, state = optimizer.update(jax.tree.map(lambda leaf: 0 * leaf + gradient, params), state, params)
            params = optax.apply_updates(params, updates)
        return {
            name: float(value) - 0.5 for name, value in (flat(params["backbone"]) | {"beta": params["beta"]}).items()
        }


BASE = Config(learning_rate=1e-3, schedule="exponential", schedule_decay=1.0, backbone=BackboneConfig("resnet18_csn"))


def test_layer_decay_slows_the_stages_below_the_last_layer():
    """stem, layer1, layer2, layer3, fc: one factor per stage; masks and the last layer keep their rate."""
    plain, decayed = moved(BASE), moved(replace(BASE, fine_tune=FineTuneConfig(layer_decay=0.5)))
    shares = {"conv1/kernel": 1 / 16, "layer2_0/kernel": 1 / 4, "layer2_0/bias": 1 / 4, "fc/kernel": 1, "beta": 1}
    for name, share in shares.items():
        assert decayed[name] == pytest.approx(share * plain[name], rel=1e-9), name


def test_warmup_raises_the_rate():
    """Against Adam's paper with the rates 1/4, 2/4, 3/4, 1 and 1 of the full one."""
    found = [moved(replace(BASE, fine_tune=FineTuneConfig(warmup=4)), steps=n)["beta"] for n in range(1, 6)]
    expected = adam(0.5, [0.25] * 5, [1e-3 * share for share in (0.25, 0.5, 0.75, 1, 1)]) - 0.5
    assert_close({"path": np.array(found)}, {"path": expected}, 1e-9)


def test_weight_decay_shrinks_kernels_that_train():
    """By learning rate times decay per step. Biases, masks and frozen kernels have none."""
    config = replace(BASE, fine_tune=FineTuneConfig(weight_decay=0.1), backbone=replace(BASE.backbone, freeze="stem"))
    found = moved(config, gradient=0.0, steps=1)
    shrunk = -1e-3 * 0.1 * 0.5
    expected = {"conv1/kernel": 0, "layer2_0/kernel": shrunk, "layer2_0/bias": 0, "fc/kernel": shrunk, "beta": 0}
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_long_gradient_is_scaled_down():
    """Adam's first moment shows the gradient that it got: five leaves of 3 have the norm 3 sqrt(5)."""
    optimizer, leaf = make_optimizer(replace(BASE, fine_tune=FineTuneConfig(clip=1.5)), 1), jnp.float32(3)
    params = {"backbone": {"conv1": {"kernel": leaf, "bias": leaf}, "fc": {"kernel": leaf, "bias": leaf}}, "beta": leaf}
    _, state = optimizer.update(params, optimizer.init(params), params)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32][:5]
    assert np.allclose(moments, 0.1 * 1.5 / np.sqrt(5))


def test_fine_tuning_is_off_in_the_papers_recipe():
    assert Config().fine_tune == FineTuneConfig(layer_decay=1, warmup=0, weight_decay=0, clip=0)
