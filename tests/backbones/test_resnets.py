"""ResNet-18 and ResNet-50: forward against PyTorch, names of tensors, and loading weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import torch_reference as reference
from oracles import assert_close, flat

from csn_jax import backbones
from csn_jax.backbones.tensors import from_tensors, plain_names, to_tensors
from csn_jax.config import BackboneConfig
from csn_jax.errors import UserError
from csn_jax.runtime.compiler import jit

EXACT = 1e-10
NETWORKS = {"resnet18": reference.resnet18, "resnet50": reference.resnet50, "resnet18_csn": reference.ResNet18CSN}
SHAPE = (40, 40, 3)  # the mean is over two by two pixels
D = 8


def build(name, dim=D):
    return backbones.build(BackboneConfig(name=name, embedding_dim=dim))


@pytest.fixture(scope="module")
def drawn():
    """A function that returns (params, statistics) of a network: initial values and random statistics, made once."""
    made = {}

    def draw(name):
        if name not in made:
            params, statistics = build(name).init(1, SHAPE)
            rng = np.random.default_rng(2)
            varied = lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)  # noqa: E731
            made[name] = params, jax.tree.map(varied, statistics)
        return made[name]

    return draw


def torch_network(name, params, statistics, dim=D):
    return reference.load(NETWORKS[name](dim).double(), flat(params) | flat(statistics))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_forward_equals_torch(name, drawn):
    """Embeddings in evaluation and in training, and the running statistics after training, in float64."""
    backbone, (params, statistics) = build(name), drawn(name)
    x = np.random.default_rng(0).normal(size=(3, *SHAPE))

    def both(params, statistics, x):
        evaluated, _ = backbone.apply(params, statistics, x, train=False)
        return evaluated, backbone.apply(params, statistics, x, train=True)

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, statistics, x))
        evaluated, (trained, moved) = jax.device_get(jit(both)(*arguments))
    ours = {"evaluated": evaluated, "trained": trained} | flat(moved)

    model = torch_network(name, params, statistics)
    with torch.no_grad():
        theirs = {"evaluated": reference.to_numpy(model.eval()(reference.images(x)))}
        theirs["trained"] = reference.to_numpy(model.train()(reference.images(x)))
    assert_close(ours, theirs | reference.to_flax(dict(model.named_buffers())), EXACT)


def test_the_position_of_the_stride_matters():
    """With the stride in the first 1x1, as in the paper, the same weights give other embeddings."""
    torch.manual_seed(0)
    block = reference.Bottleneck(8, 4, 2, torch.nn.BatchNorm2d).eval()
    x = torch.randn(1, 8, 6, 6)
    expected = block(x)
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    assert block(x).shape == expected.shape and not torch.allclose(block(x), expected, atol=1e-2)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_sizes_are_torchvisions(name, size):
    """With a head of 1,000 classes, as in its documentation."""
    params, _ = build(name, 1000).init(0, SHAPE)
    assert sum(leaf.size for leaf in flat(params).values()) == size


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_have_torchs_names_and_layout(name, drawn):
    """Those of a state dict of the same network, which is read back bit for bit."""
    params, statistics = drawn(name)
    expected = arrays(torch_network(name, params, statistics).float().state_dict())
    tensors = to_tensors(name, params, statistics)
    assert_close(tensors, expected, 0)
    assert tensors["conv1.weight"].shape == (64, 3, 7, 7) and tensors["fc.bias"].shape == (D,)
    assert "layer2.0.downsample.1.running_var" in tensors
    blank = jax.tree.map(np.zeros_like, (params, statistics))
    again = from_tensors(name, expected, *blank, "x.pth")
    assert_close(flat(again.params), flat(params), 0)
    assert_close(flat(again.statistics), flat(statistics), 0)
    assert again.left_out == []
    assert all(leaf.flags.c_contiguous for leaf in flat(again.params).values())


def arrays(state):
    return plain_names({name: tensor.numpy() for name, tensor in state.items()}, "x.pth")


def test_other_backbones_keep_their_own_names():
    params, statistics = build("small").init(1, (16, 16, 1))
    tensors = to_tensors("small", params, statistics)
    assert_close(tensors, flat(params) | flat(statistics), 0)
    blank = jax.tree.map(np.zeros_like, (params, statistics))
    again = from_tensors("small", tensors, *blank, "x.safetensors")
    assert_close(flat(again.params) | flat(again.statistics), tensors, 0)


def changed(tensors, **changes):
    """Tensors with some replaced or removed (None); `a__b` stands for `a.b`."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in (tensors | changes).items() if value is not None}


def test_one_message_names_every_tensor_that_does_not_fit(drawn):
    params, statistics = drawn("resnet18_csn")
    tensors = changed(
        to_tensors("resnet18_csn", params, statistics),
        conv1__weight=np.zeros((64, 1, 7, 7), np.float32),
        bn1__bias=None,
        layer1__0__bn1__weight=None,
        layer1__2__conv1__weight=np.zeros((64, 64, 3, 3), np.float32),
        layer2__0__bn1__weight=np.zeros(128, np.int64),
        layer2__0__bn1__bias=np.full(128, np.nan, np.float32),
        fc__weight=np.zeros((5, 256), np.float32),
    )
    with pytest.raises(UserError) as caught:
        from_tensors("resnet18_csn", tensors, params, statistics, "weights.pth")
    message = str(caught.value)
    for words in (
        "weights.pth is not of a resnet18_csn",
        "2 missing: bn1.bias, layer1.0.bn1.weight;",
        "unexpected: layer1.2.conv1.weight;",
        "shape: conv1.weight [64, 1, 7, 7], not [64, 3, 7, 7], fc.weight [5, 256], not [8, 256];",
        "not floats: layer2.0.bn1.weight;",
        "not finite: layer2.0.bn1.bias)",
    ):
        assert words in message, message
    assert tiny.is_one_sentence(message)


def test_a_long_list_of_tensors_is_counted(drawn):
    with pytest.raises(UserError, match=r"missing: bn1.bias, bn1.weight, conv1.weight and 74 more\)"):
        from_tensors("resnet18_csn", {}, *drawn("resnet18_csn"), "weights.pth")


def test_for_a_new_task_the_head_may_differ(drawn):
    """A classifier is left out and listed. Without a head, the initial values stay. A head that fits is loaded."""
    params, statistics = drawn("resnet18")
    tensors = {name: leaf + np.float32(1) for name, leaf in to_tensors("resnet18", params, statistics).items()}
    classifier = changed(tensors, fc__weight=np.zeros((1000, 512), np.float32), fc__bias=np.zeros(1000, np.float32))
    headless = changed(tensors, fc__weight=None, fc__bias=None)
    for given, left_out in ((classifier, ["fc.bias", "fc.weight"]), (headless, []), (tensors, [])):
        loaded = from_tensors("resnet18", given, params, statistics, "x", new_task=True)
        assert loaded.left_out == left_out
        head = loaded.params["fc"]
        assert np.array_equal(head["bias"], params["fc"]["bias"] + np.float32(given is tensors))
        assert np.array_equal(head["kernel"], params["fc"]["kernel"] + np.float32(given is tensors))
        assert np.array_equal(loaded.params["conv1"]["kernel"], params["conv1"]["kernel"] + np.float32(1))
        assert np.array_equal(loaded.statistics["bn1"]["var"], statistics["bn1"]["var"] + np.float32(1))
    for given in (classifier, headless):
        with pytest.raises(UserError, match=r"fc\.weight"):
            from_tensors("resnet18", given, params, statistics, "x")


def test_for_a_new_task_resnet18_csn_takes_a_whole_resnet18(drawn):
    """ImageNet's, without the fourth stage, as the reference does. ResNet-50 and ResNet-34 do not fit."""
    whole = changed(to_tensors("resnet18", *drawn("resnet18")), masks__weight=np.ones((2, D), np.float32))
    params, statistics = drawn("resnet18_csn")
    loaded = from_tensors("resnet18_csn", whole, params, statistics, "x", new_task=True)
    assert {name.split(".")[0] for name in loaded.left_out} == {"layer4", "fc", "masks"}  # [8, 512] is not [8, 256]
    assert np.array_equal(
        loaded.params["layer3_1"]["conv2"]["kernel"], drawn("resnet18")[0]["layer3_1"]["conv2"]["kernel"]
    )
    with pytest.raises(UserError, match="unexpected: layer1.2.conv1.weight"):
        deeper = changed(whole, layer1__2__conv1__weight=np.zeros((64, 64, 3, 3), np.float32))
        from_tensors("resnet18_csn", deeper, params, statistics, "x", new_task=True)
    with pytest.raises(UserError, match=r"missing: .*shape: .*give weights of a resnet50"):
        from_tensors("resnet50", whole, *drawn("resnet50"), "x", new_task=True)


def test_names_lose_the_prefixes_of_wrappers():
    one = np.ones(1, np.float32)
    names = {"module.embeddingnet.embeddingnet.conv1.weight": one, "module.embeddingnet.masks.weight": one}
    assert list(plain_names(names, "x")) == ["conv1.weight", "masks.weight"]
    assert list(plain_names({"module.fc.bias": one, "module.bn1.num_batches_tracked": one}, "x")) == ["fc.bias"]
    for name in ("fc_embed.bias", "module.fc_embed.bias", "module.embeddingnet.embeddingnet.fc_embed.bias"):
        assert list(plain_names({name: one}, "x")) == ["fc.bias"]
    for name in ("fc_embedding.bias", "layer1.fc_embed.bias", "fc_embed"):
        assert list(plain_names({name: one}, "x")) == [name]
    for name in ("module.fc.bias", "fc_embed.bias", "module.embeddingnet.fc_embed.bias"):
        with pytest.raises(UserError, match=f"fc.bias twice, .*{name};"):
            plain_names({"fc.bias": one, name: one}, "x")


# Names as programs write them, from the plain ones.
WRITERS = {
    "DataParallel": "module.{}",
    "torch.compile": "_orig_mod.{}",
    "Lightning and compile": "model._orig_mod.{}",
    "nested": "module.model.backbone.{}",
    "encoder": "encoder.{}",
    "compiled wrapper": "_orig_mod.module.net.{}",
}


@pytest.mark.parametrize("name", WRITERS)
def test_weights_of_wrapped_networks_are_loaded(name, drawn):
    """Also beside a loss and another head."""
    params, statistics = drawn("resnet18")
    tensors = {WRITERS[name].format(key): leaf for key, leaf in to_tensors("resnet18", params, statistics).items()}
    tensors |= {"criterion.weight": np.ones(3, np.float32), "n_averaged": np.array(3), "head.0.bias": np.ones(2)}
    plain, blank = plain_names(tensors, "x"), jax.tree.map(np.zeros_like, (params, statistics))
    loaded = from_tensors("resnet18", plain, *blank, "x", new_task=True)
    assert_close(flat(loaded.params), flat(params), 0)
    assert_close(flat(loaded.statistics), flat(statistics), 0)
    assert sorted(loaded.left_out) == ["criterion.weight", "head.0.bias", "n_averaged"]
    with pytest.raises(UserError, match="3 unexpected: criterion.weight, n_averaged, head.0.bias"):
        from_tensors("resnet18", plain, *blank, "x")


def test_the_children_of_a_resnet_may_have_numbers(drawn):
    """As in `nn.Sequential(*list(resnet.children())[:-1])`, without the head."""
    params, statistics = drawn("resnet18")
    number = dict(zip(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), "014567", strict=True))
    tensors = to_tensors("resnet18", params, statistics)
    numbered = {}
    for name, leaf in tensors.items():
        first, _, rest = name.partition(".")
        if first in number:
            numbered[f"backbone.{number[first]}.{rest}"] = leaf
    plain = plain_names(numbered, "x")
    assert_close(plain, {name: leaf for name, leaf in tensors.items() if not name.startswith("fc")}, 0)
    assert list(plain_names({"0.weight": tensors["bn1.weight"]}, "x")) == ["0.weight"]  # of another network


def test_weights_of_another_network_are_one_short_line(drawn):
    """Counts and three names: a transformer's, whose names are long."""
    params, statistics = drawn("resnet18")
    names = [f"vision_model.encoder.layers.{i}.self_attn.{part}_proj.weight" for i in range(60) for part in "qkv"]
    given = dict.fromkeys(names, np.ones((4, 4), np.float32))
    with pytest.raises(UserError, match=r"102 missing: .* and 99 more; 180 unexpected: .* and 177 more\)") as caught:
        from_tensors("resnet18", given, params, statistics, "x.pth")
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_half_precision_becomes_float32(drawn):
    params, statistics = drawn("resnet18_csn")
    tensors = {name: leaf.astype(np.float16) for name, leaf in to_tensors("resnet18_csn", params, statistics).items()}
    loaded = from_tensors("resnet18_csn", tensors, params, statistics, "x")
    leaf = loaded.params["conv1"]["kernel"]
    assert leaf.dtype == np.float32 and np.array_equal(leaf, params["conv1"]["kernel"].astype(np.float16))
