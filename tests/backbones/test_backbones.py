"""Whole networks: forward, gradients and running statistics against PyTorch, and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from oracles import assert_close, flat

from csn_jax import backbones
from csn_jax.config import BackboneConfig
from csn_jax.runtime.compiler import jit

EXACT = 1e-10
N_VALID = 3  # of four rows
NETWORKS = {
    "small": (reference.Small, (16, 16, 3)),
    "vgg": (reference.VGG, (16, 16, 1)),
    "resnet18_csn": (reference.ResNet18CSN, (32, 32, 3)),
}


def build(name, dtype="float32", dim=64):
    return backbones.build(BackboneConfig(name=name, dtype=dtype, embedding_dim=dim))


def inputs(shape):
    return np.random.default_rng(0).normal(size=(4, *shape))


@pytest.fixture(scope="module", params=["small", pytest.param("vgg", marks=pytest.mark.slow), "resnet18_csn"])
def both(request):
    """(ours, theirs) of a network in float64: arrays by name, from one batch with a padding row."""
    network, shape = NETWORKS[request.param]
    backbone = build(request.param)
    params, statistics = backbone.init(1, shape)
    x, weight = inputs(shape), np.random.default_rng(1).normal(size=(4, 64))
    valid = np.arange(4) < N_VALID

    def objective(params, statistics, x):
        embeddings, moved = backbone.apply(params, statistics, x, train=True, valid=jnp.asarray(valid))
        return jnp.sum(embeddings * weight * valid[:, None].astype(float)), (embeddings, moved)

    def everything(params, statistics, x):
        (_, (embeddings, moved)), gradient = jax.value_and_grad(objective, has_aux=True)(params, statistics, x)
        evaluated, unmoved = backbone.apply(params, moved, x, train=False)
        return embeddings, evaluated, gradient, moved, unmoved

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, statistics, x))
        embeddings, evaluated, gradient, moved, unmoved = jax.device_get(jit(everything)(*arguments))
    assert_close(flat(unmoved), flat(moved), 0)
    ours = {"train": embeddings[valid], "evaluate": evaluated} | flat(gradient) | flat(moved)

    model = reference.load(network(64, shape[0], shape[2]).double(), flat(params) | flat(statistics))
    model.train()
    embeddings = model(reference.images(x[valid]))
    (embeddings * torch.tensor(weight[valid])).sum().backward()
    model.eval()
    with torch.no_grad():
        evaluated = model(reference.images(x))
    gradient = reference.to_flax({name: parameter.grad for name, parameter in model.named_parameters()})
    moved = reference.to_flax(dict(model.named_buffers()))
    theirs = {"train": reference.to_numpy(embeddings), "evaluate": reference.to_numpy(evaluated)} | gradient | moved
    return ours, theirs


def test_network_equals_torch(both):
    """Embeddings in training and evaluation, every gradient, every running statistic."""
    assert_close(*both, EXACT)


def test_comparison_sees_layout(both):
    """A mirrored kernel gradient fails, so a wrong layout would too."""
    ours, theirs = both
    for name in [name for name in ours if name.endswith("kernel")]:
        axes = (0, 1) if ours[name].ndim == 4 else (0,)
        if ours[name].shape[0] > 1:
            with pytest.raises(AssertionError):
                assert_close({name: np.flip(ours[name], axes)}, {name: theirs[name]}, EXACT)


def test_global_mean_equals_7x7_pooling_at_112():
    """The reference's AvgPool 7x7 at its image size, in float32."""
    backbone, shape = build("resnet18_csn"), (112, 112, 3)
    params, statistics = backbone.init(1, shape)
    x = inputs(shape)[:1].astype(np.float32)
    with jax.default_matmul_precision("highest"):
        embed = jit(lambda params, statistics, x: backbone.apply(params, statistics, x, train=False)[0])
        embedding = embed(params, statistics, x)
    model = reference.load(reference.ResNet18CSN(64, 112), flat(params) | flat(statistics)).eval()
    assert model.pool.kernel_size == 7
    with torch.no_grad():
        expected = reference.to_numpy(model(reference.images(x)))
    assert_close({"embedding": embedding}, {"embedding": expected}, 6e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_values(name):
    """Convolutions N(0, sqrt(2 / fan out)), norms 1 and 0, linear layers U(-1, 1) / sqrt(fan in), all float32."""
    shape = NETWORKS[name][1]
    params, statistics = build(name).init(0, shape)
    leaves = flat(params)
    assert all(leaf.dtype == np.float32 for leaf in [*leaves.values(), *flat(statistics).values()])
    assert any(leaf.ndim == 4 for leaf in leaves.values())
    for key, leaf in leaves.items():
        kind = key.rsplit("/", 1)[-1]
        if leaf.ndim == 4:
            height, width, _, features = leaf.shape
            std = np.sqrt(2 / (height * width * features))
            assert abs(leaf.std() / std - 1) < 5 / np.sqrt(2 * leaf.size), key
            assert abs(leaf.mean()) < 5 * std / np.sqrt(leaf.size), key
            assert np.abs(leaf).max() > 2.5 * std, key  # a uniform of this deviation ends at 1.73
        elif kind == "kernel" or key.removesuffix("bias") + "kernel" in leaves:
            bound = 1 / np.sqrt(leaves[key.rsplit("/", 1)[0] + "/kernel"].shape[0])
            assert np.abs(leaf).max() <= bound, key
            assert np.abs(leaf).max() > bound * (1 - 10 / leaf.size), key
            assert abs(leaf.mean()) < 5 * bound / np.sqrt(3 * leaf.size), key
        else:
            assert np.all(leaf == {"scale": 1, "bias": 0}[kind]), key
    for key, leaf in flat(statistics).items():
        assert np.all(leaf == {"var": 1, "mean": 0}[key.rsplit("/", 1)[-1]]), key


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_values_are_seeded(name):
    """The same seed gives the same bits, another seed other values in every random leaf. No two leaves are equal."""
    shape = NETWORKS[name][1]
    first, again, other = (flat(build(name).init(seed, shape)[0]) for seed in (0, 0, 1))
    assert_close(first, again, 0)
    drawn = [key for key in first if np.unique(first[key]).size > 1]
    assert {key for key in first if key.endswith("kernel")} <= set(drawn)
    assert all(np.any(first[key] != other[key]) for key in drawn)
    assert len({first[key].tobytes()[:64] for key in drawn}) == len(drawn)


def test_resnet_is_resnet18_without_its_fourth_stage():
    """torchvision's ResNet-18 has 11,689,512 parameters, of which 8,393,728 are the fourth stage, 513,000 the head."""
    params, _ = build("resnet18_csn").init(0, (112, 112, 3))
    assert sum(leaf.size for leaf in flat(params).values()) == 11_689_512 - 8_393_728 - 513_000 + 257 * 64


@pytest.mark.parametrize("name, shape, dim", [("small", (32, 32, 1), 10), ("vgg", (64, 64, 1), 128)])
def test_embedding_dimension_and_input_shape(name, shape, dim):
    """[B, H, W, ch] -> [B, D] for the D of the config."""
    backbone = build(name, dim=dim)
    params, statistics = backbone.init(0, shape)
    x = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    out, _ = jax.eval_shape(lambda x: backbone.apply(params, statistics, x, train=False), x)
    assert out.shape == (3, dim) and out.dtype == jnp.float32


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_is_used_inside_layers_only(name):
    """Every convolution computes in bfloat16; embeddings, running statistics and gradients are float32."""
    shape = NETWORKS[name][1]
    narrow = build(name, "bfloat16")
    params, statistics = narrow.init(0, shape)
    x = jnp.asarray(inputs(shape), jnp.float32)

    def objective(params, backbone):
        embeddings, moved = backbone.apply(params, statistics, x, train=True)
        return jnp.sum(embeddings), (embeddings, moved)

    shapes = jax.eval_shape(lambda p: jax.grad(objective, has_aux=True)(p, narrow), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    jaxpr = str(jax.make_jaxpr(lambda p: objective(p, narrow)[0])(params))
    convolutions = [line for line in jaxpr.splitlines() if "conv_general_dilated[" in line]
    assert convolutions and all("bf16" in line for line in convolutions)


def test_bfloat16_embeds_nearly_the_same():
    """Within bfloat16 rounding, on the network that compiles fastest."""
    shape = NETWORKS["small"][1]
    params, statistics = build("small").init(0, shape)
    x = jnp.asarray(inputs(shape), jnp.float32)
    wide, narrow = (
        build("small", dtype).apply(params, statistics, x, train=False)[0] for dtype in ("float32", "bfloat16")
    )
    assert_close({"embedding": narrow}, {"embedding": wide}, 2e-2)
    assert np.any(np.asarray(narrow) != np.asarray(wide))
