"""Backbones: networks from inputs [B, ...] to embeddings [B, D]. The only importer of flax."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.backbones.norm import BatchNorm
from csn_jax.backbones.plain import VGG, Projection, Small
from csn_jax.backbones.resnet import resnet18, resnet18_csn, resnet50, stage_of
from csn_jax.config import STAGES, BackboneConfig

HEAD = "fc"  # the last linear layer of every backbone: pretrained weights may lack it, and it is never frozen


class Backbone(NamedTuple):
    """A network as pure functions, so that other modules need not know Flax."""

    init: Callable[..., tuple[Any, Any]]  # (seed, input shape without B) -> (params, statistics), NumPy leaves
    apply: Callable[..., tuple[jax.Array, Any]]  # (params, statistics, x, train=, valid=) -> ([B, D], statistics)
    features: Callable[..., jax.Array]  # (params, statistics, x) -> [B, F], the input of the last linear layer


def build(config: BackboneConfig) -> Backbone:
    """The backbone that a config names."""
    modules = {
        "small": Small,
        "vgg": VGG,
        "resnet18_csn": resnet18_csn,
        "resnet18": resnet18,
        "resnet50": resnet50,
        "projection": partial(Projection, hidden=config.hidden),
    }
    dtype = None if config.dtype == "float32" else jnp.dtype(config.dtype)
    return from_module(modules[config.name](config.embedding_dim, dtype), _frozen(config))


def _frozen(config: BackboneConfig) -> Callable[[str], bool]:
    """A function of a module's name: whether the module keeps its initial values."""
    if config.freeze == "all":
        return lambda module: module != HEAD
    stages = STAGES.get(config.name, ())
    frozen = stages[: stages.index(config.freeze) + 1] if config.freeze else ()
    return lambda module: stage_of(module) in frozen


def from_module(module: nn.Module, frozen: Callable[[str], bool] = lambda module: False) -> Backbone:
    """Wrap a Linen module whose call is (x, *, train, valid) -> [B, D]; statistics live in `batch_stats`.

    Frozen submodules get no gradient, hence no update by Adam, and their batch norms work as in evaluation.
    """

    def init(seed: int, input_shape: tuple[int, ...]) -> tuple[Any, Any]:
        x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        shapes = jax.eval_shape(lambda k, x: module.init(k, x, train=True), key, x)
        return _draw(shapes["params"], np.random.default_rng(seed)), _draw(shapes.get("batch_stats", {}), None)

    def hold_frozen_norms(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and frozen(context.module.path[0]):
            kwargs = kwargs | {"train": False}
        return call(*args, **kwargs)

    def apply(params, statistics, x, *, train: bool, valid: jax.Array | None = None):
        params = {name: jax.lax.stop_gradient(tree) if frozen(name) else tree for name, tree in params.items()}
        variables = {"params": params, "batch_stats": statistics}
        if train:
            with nn.intercept_methods(hold_frozen_norms):
                embeddings, changed = module.apply(variables, x, train=True, valid=valid, mutable=["batch_stats"])
            return embeddings, changed.get("batch_stats", {})
        return module.apply(variables, x, train=False), statistics

    def features(params, statistics, x):
        inputs = []

        def note(call, args, kwargs, context):
            if context.module.path == (HEAD,):
                inputs.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            module.apply({"params": params, "batch_stats": statistics}, x, train=False)
        return inputs[0]

    return Backbone(init, apply, features)


def _draw(tree: Any, rng: np.random.Generator | None) -> Any:
    """Initial values as in torchvision and PyTorch; Linen's defaults differ.

    Convolutions N(0, sqrt(2 / (k * k * C_out))), linear weight and bias U(-1, 1) / sqrt(fan_in), norms 1 and 0.
    NumPy draws them: jitted draws cost seconds of compilation.
    """
    drawn = {}
    for name, leaf in sorted(tree.items()):
        if isinstance(leaf, dict):
            drawn[name] = _draw(leaf, rng)
        elif name == "kernel" and len(leaf.shape) == 4:
            height, width, _, features = leaf.shape
            drawn[name] = rng.normal(0, np.sqrt(2 / (height * width * features)), leaf.shape).astype(np.float32)
        elif name == "kernel" or (name == "bias" and "kernel" in tree):
            bound = 1 / np.sqrt(tree["kernel"].shape[0])
            drawn[name] = rng.uniform(-bound, bound, leaf.shape).astype(np.float32)
        else:
            drawn[name] = (np.ones if name in ("scale", "var") else np.zeros)(leaf.shape, np.float32)
    return drawn
