"""Vision transformers against the models of transformers: features, gradients, loading, and what the tests detect.

Random weights, so nothing is downloaded. `pip install 'csn_jax[test-encoders]'` brings transformers; without it these
tests are skipped.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracles import assert_close, flat

from csn_jax import backbones
from csn_jax.backbones import vit, vit_names
from csn_jax.backbones.tensors import for_backbone, from_tensors, to_tensors
from csn_jax.config import STAGES, VITS, BackboneConfig, VitShape
from csn_jax.errors import UserError
from csn_jax.runtime.compiler import jit

transformers = pytest.importorskip("transformers")

EXACT = 1e-10  # of the largest magnitude in an array, in float64
OWN, OTHER = 16, 24  # pixels
SIZES = {"image_size": OWN, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY = dict(zip(("patch", "width", "depth", "heads", "hidden"), (4, 32, 2, 4, 64), strict=True))


class Case(NamedTuple):
    """A model of transformers, its settings, and the shape of ours."""

    model: str
    settings: dict
    shape: VitShape
    prefix: str = ""
    extra: dict = {}


def case(model, shape, settings=(), **more):
    return Case(model, SIZES | {"intermediate_size": 64} | dict(settings), shape, **more)


DINO = {"mlp_ratio": 2}
CASES = {
    "vit": case("ViTModel", VitShape("vit", **TINY), {"layer_norm_eps": 1e-6}, extra={"add_pooling_layer": False}),
    "vit_mean": case(
        "ViTModel", VitShape("vit", **TINY, mean=True), {"layer_norm_eps": 1e-6}, extra={"add_pooling_layer": False}
    ),
    "dinov2": case("Dinov2Model", VitShape("dinov2", **TINY), DINO),
    "dinov2_swiglu": case(
        "Dinov2Model",
        VitShape("dinov2", **TINY | {"hidden": 48}, swiglu=True),
        DINO | {"use_swiglu_ffn": True},
    ),
    "dinov2_registers": case(
        "Dinov2WithRegistersModel", VitShape("dinov2", **TINY, registers=3), DINO | {"num_register_tokens": 3}
    ),
    "clip": case("CLIPVisionModelWithProjection", VitShape("clip", **TINY, projection=24), {"projection_dim": 24}),
    "siglip": case("SiglipVisionModel", VitShape("siglip", **TINY)),
}


def reference(of, size=OWN):
    """A model with weights that float32 holds exactly, in float64. At another size its position embeddings are those of
    the own size, resized as another test compares with timm."""
    kind = getattr(transformers, of.model)
    model = kind(kind.config_class(**of.settings), **of.extra).eval()
    rng = np.random.default_rng(1)
    for parameter in model.parameters():  # multiples of 1/4096: float32 holds the sum of token and position exactly
        parameter.data = torch.tensor(np.round(rng.normal(0.1, 0.3, parameter.shape) * 4096).astype(np.float32) / 4096)
    model = model.double()
    if size == OWN:
        return model
    state = model.state_dict()
    (name,) = (name for name in state if re.search(r"position_embeddings?(\.weight)?$", name))
    positions = state[name].reshape(1, -1, 32)
    before, patches = positions[:, : -((OWN // 4) ** 2)], positions[:, -((OWN // 4) ** 2) :]
    other = vit_names.resized(patches.numpy().astype(np.float32), OWN // 4, (size // 4, size // 4))
    larger = torch.cat([before, torch.tensor(other).double()], dim=1)
    resized = kind(kind.config_class(**of.settings | {"image_size": size}), **of.extra).eval().double()
    resized.load_state_dict(state | {name: larger if state[name].ndim == 3 else larger[0]})
    return resized


def as_in_timm(shape, tensors):
    """The last layer norm has another name in timm where it follows the mean, which no model of transformers takes."""
    return {re.sub("^layernorm", "fc_norm", name) if shape.mean else name: leaf for name, leaf in tensors.items()}


def arrays(tensors):
    return {name: tensor.detach().numpy() for name, tensor in tensors}


@pytest.fixture
def build(monkeypatch):
    """A function of a shape and tensors: our backbone and its parameters, loaded as `backbone.init` is."""

    def build(shape, tensors, size=OWN, dtype="float32", **settings):
        monkeypatch.setitem(VITS, "tiny", shape)
        monkeypatch.setitem(STAGES, "tiny", ("stem", *(f"block{i}" for i in range(shape.depth)), "top"))
        backbones.build.cache_clear()  # it knows the name by another shape
        backbone = backbones.build(BackboneConfig("tiny", embedding_dim=8, dtype=dtype, **settings))
        drawn = backbone.init(0, (size, size, 3))
        named = for_backbone("tiny", as_in_timm(shape, tensors), size, "weights")
        return backbone, from_tensors("tiny", named, *drawn, "weights", new_task=True).params

    yield build
    backbones.build.cache_clear()


def pictures(size):
    return np.random.default_rng(2).normal(size=(3, size, size, 3))


def ours(backbone, params, x, dtype=np.float64):
    """(features, gradients by timm's name) of a weighted sum of the features."""

    def objective(params, x):
        features = backbone.features(params, {}, x)
        return jnp.sum(features * weights(features)), features

    with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("highest"):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, x))
        gradient, features = jax.device_get(jit(jax.grad(objective, has_aux=True))(params, x))
    named = to_tensors("tiny", gradient, {})
    return {"features": features}, {name: leaf for name, leaf in named.items() if not name.startswith("fc.")}


def weights(features):
    return np.random.default_rng(3).normal(size=features.shape).astype(features.dtype)


def theirs(of, model, x):
    found = model(pixel_values=torch.tensor(x).permute(0, 3, 1, 2), output_hidden_states=True)
    features = found.image_embeds if of.shape.projection else found.pooler_output
    if of.shape.mean:
        features = model.layernorm(found.hidden_states[-1][:, 1:].mean(dim=1))
    elif features is None or of.shape.flavour == "vit":
        features = found.last_hidden_state[:, 0]
    (features * torch.tensor(weights(features.detach().numpy()))).sum().backward()
    gradient = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    for name in gradient:  # ours has no position of the class token: the token's own gradient is the same
        if "position_embedding" in name and of.shape.flavour != "siglip":
            gradient[name].reshape(1, -1, 32)[:, 0] = 0
    named = vit_names.to_timm(of.shape, as_in_timm(of.shape, gradient), x.shape[1], "gradient")
    return {"features": features.detach().numpy()}, named


@pytest.mark.parametrize("size", [OWN, OTHER])
@pytest.mark.parametrize("name", CASES)
def test_features_and_gradients_equal_those_of_transformers(name, size, build):
    """In float64, from the weights of the own size in both cases; every parameter but the unused mask token."""
    of, x = CASES[name], pictures(size)
    backbone, params = build(of.shape, arrays(reference(of).state_dict().items()), size)
    features, gradient = ours(backbone, params, x)
    expected, expected_gradient = theirs(of, reference(of, size), x)
    assert_close(features, expected, EXACT)
    # A key's bias moves all logits alike: its gradient is 0, and rounding on both sides.
    assert_close(gradient, {n: expected_gradient[n] for n in gradient}, 1e-9)
    assert set(expected_gradient) <= set(gradient)


@pytest.mark.parametrize("name", ["dinov2_registers", "clip", "siglip"])
def test_float32(name, build):
    of, x = CASES[name], pictures(OWN)
    backbone, params = build(of.shape, arrays(reference(of).state_dict().items()))
    features, _ = ours(backbone, params, x, np.float32)
    expected = theirs(of, reference(of), x)[0]["features"].astype(np.float32)
    assert_close(features, {"features": expected}, 2e-5)


def without_scales(monkeypatch):
    scaled = vit.LayerScale.__call__
    monkeypatch.setattr(vit.LayerScale, "__call__", lambda self, x: x + 0 * scaled(self, x))


def other_gelu(monkeypatch):
    monkeypatch.setitem(vit.ACTIVATIONS, "clip", jax.nn.gelu)


def exact_gelu(monkeypatch):
    monkeypatch.setitem(vit.ACTIVATIONS, "siglip", vit.ACTIVATIONS["vit"])


def small_epsilon(monkeypatch):
    monkeypatch.setitem(vit.EPSILON, "clip", 1e-6)


BROKEN = [("dinov2", without_scales), ("clip", other_gelu), ("siglip", exact_gelu), ("clip", small_epsilon)]


@pytest.mark.parametrize(("name", "fault"), BROKEN, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_comparison_detects(name, fault, build, monkeypatch):
    fault(monkeypatch)
    of, x = CASES[name], pictures(OWN)
    backbone, params = build(of.shape, arrays(reference(of).state_dict().items()))
    with jax.enable_x64(True):
        found = jax.device_get(backbone.features(*jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, {}, x))))
    with pytest.raises(AssertionError):
        assert_close({"features": found}, theirs(of, reference(of), x)[0], EXACT)


@pytest.mark.parametrize(("side", "grid"), [(4, (6, 6)), (7, (3, 3)), (5, (4, 8))])
def test_positions_are_resized_as_in_timm(side, grid):
    """Bicubic and anti-aliased, larger and smaller. Without either the comparison fails."""
    positions = np.random.default_rng(4).normal(size=(1, side * side, 8)).astype(np.float32)

    def by_torch(**how):
        square = torch.tensor(positions).reshape(1, side, side, 8).permute(0, 3, 1, 2)
        found = torch.nn.functional.interpolate(square, grid, align_corners=False, **how)
        return {"positions": found.permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()}

    found = {"positions": vit_names.resized(positions, side, grid)}
    assert_close(found, by_torch(mode="bicubic", antialias=True), 2e-6)
    for how in ({"mode": "bicubic"}, {"mode": "bilinear", "antialias": True}):
        with pytest.raises(AssertionError):
            assert_close(found, by_torch(**how), 2e-6)


def test_weights_of_the_other_pooling_are_missed(build):
    of = CASES["vit_mean"]
    tensors = as_in_timm(of.shape, arrays(reference(of).state_dict().items()))
    with pytest.raises(UserError, match=r"2 missing: norm\.bias, norm\.weight.*2 unexpected: fc_norm"):
        build(of.shape._replace(mean=False), tensors)


def test_dropped_registers_are_missed(build):
    of = CASES["dinov2_registers"]
    tensors = arrays(reference(of).state_dict().items())
    del tensors["embeddings.register_tokens"]
    with pytest.raises(UserError, match="1 missing: reg_token"):
        build(of.shape, tensors)


OPEN_CLIP = {
    r"^vision_model\.embeddings\.class_embedding": "visual.class_embedding",
    r"^vision_model\.embeddings\.position_embedding\.weight": "visual.positional_embedding",
    r"^vision_model\.embeddings\.patch_embedding": "visual.conv1",
    r"^vision_model\.pre_layrnorm": "visual.ln_pre",
    r"^vision_model\.post_layernorm": "visual.ln_post",
    r"^vision_model\.encoder\.layers": "visual.transformer.resblocks",
    r"layer_norm(\d)": r"ln_\1",
    r"self_attn\.out_proj": "attn.out_proj",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
}


def test_names_of_open_clip_and_of_a_whole_clip(build):
    """Fused queries, a projection the other way round, a text model beside it; and the prefixes of a whole CLIP."""
    of = CASES["clip"]
    tensors = {
        name if name.startswith(("vision_model.", "visual_projection")) else f"vision_model.{name}": leaf
        for name, leaf in arrays(reference(of).state_dict().items()).items()
    }
    expected = flat(build(of.shape, tensors)[1])
    text = {"text_model.encoder.layers.0.layer_norm1.weight": np.ones(3), "logit_scale": np.ones(())}
    whole = flat(build(of.shape, tensors | text)[1])
    named = {}
    for name, leaf in tensors.items():
        for pattern, new in OPEN_CLIP.items():
            name = re.sub(pattern, new, name)
        named[name] = leaf
    for i in range(2):
        for leaf in ("weight", "bias"):
            parts = [named.pop(f"visual.transformer.resblocks.{i}.self_attn.{p}_proj.{leaf}") for p in "qkv"]
            named[f"visual.transformer.resblocks.{i}.attn.in_proj_{leaf}"] = np.concatenate(parts)
    named["visual.proj"] = named.pop("visual_projection.weight").T
    named |= {"transformer.resblocks.0.ln_1.weight": np.ones(3), "positional_embedding": np.ones((7, 3))}
    opened = flat(build(of.shape, named)[1])
    for leaf in expected:
        assert expected[leaf].tobytes() == whole[leaf].tobytes() == opened[leaf].tobytes(), leaf


@pytest.mark.parametrize("name", ["vit", "vit_mean", "dinov2_registers", "clip", "siglip"])
def test_timms_names_go_and_come_back(name, build):
    """What we export is what timm has; a classifier beside it is left out."""
    of = CASES[name]
    _, params = build(of.shape, arrays(reference(of).state_dict().items()))
    tensors = to_tensors("tiny", params, {})
    beside = {} if of.shape.projection else {"head.weight": np.ones((5, 32), np.float32)}
    _, again = build(of.shape, {f"module.{name}": leaf for name, leaf in (tensors | beside).items()})
    for leaf, value in flat(params).items():
        assert value.tobytes() == flat(again)[leaf].tobytes(), leaf


@pytest.mark.slow
def test_bfloat16_and_recomputed_activations(build):
    """A gradient in bfloat16 is near that in float32. Recomputed activations change nothing but memory."""
    of, x = CASES["dinov2"], pictures(OWN).astype(np.float32)
    tensors = arrays(reference(of).state_dict().items())

    def gradient(**settings):
        backbone, params = build(of.shape, tensors, **settings)

        def loss(params):
            return jnp.sum(backbone.apply(params, {}, x, train=True, valid=jnp.ones(3, bool))[0] ** 2)

        return flat(jax.device_get(jit(jax.grad(loss))(params)))

    exact, again, coarse = gradient(), gradient(rematerialise=True), gradient(dtype="bfloat16")
    assert_close(again, exact, 1e-5)
    difference = sum(np.sum((coarse[name] - exact[name]) ** 2) for name in exact)
    assert 0 < difference < 0.01 * sum(np.sum(exact[name] ** 2) for name in exact)
    assert all(leaf.dtype == np.float32 for leaf in coarse.values())
