"""Backbones: networks from inputs [B, ...] to embeddings [B, D]. The only importer of flax."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.backbones.efficientnet import EfficientNetLite0
from csn_jax.backbones.norm import BatchNorm, kept
from csn_jax.backbones.plain import VGG, Projection, Small
from csn_jax.backbones.resnet import resnet18, resnet18_csn, resnet50
from csn_jax.backbones.vit import VisionTransformer
from csn_jax.config import STAGES, VITS, BackboneConfig

HEAD = "fc"  # the last linear layer of every backbone: pretrained weights may lack it, and it is never frozen
TOKENS = ("class", "registers", "positions", "probe")  # learned vectors of vision transformers


class Backbone(NamedTuple):
    """A network as pure functions, so that other modules need not know Flax."""

    init: Callable[..., tuple[Any, Any]]  # (seed, input shape without B) -> (params, statistics), NumPy leaves
    apply: Callable[..., tuple[jax.Array, Any]]  # (params, statistics, x, train=, valid=) -> ([B, D], statistics)
    features: Callable[..., jax.Array]  # (params, statistics, x) -> [B, F], the input of the last linear layer
    frozen: Callable[..., jax.Array]  # (params, statistics, x) -> [B, F], what the first part that trains takes
    rest: Callable[..., tuple[jax.Array, Any]]  # apply on that [B, F], with the shape of one x as input_shape=


@lru_cache(maxsize=16)  # equal configs share traced and compiled programs
def build(config: BackboneConfig, running: bool = False) -> Backbone:
    """The backbone that a config names. `running`: its batch norms keep their statistics and parameters in training."""
    modules = {
        "small": Small,
        "vgg": VGG,
        "resnet18_csn": resnet18_csn,
        "resnet18": resnet18,
        "resnet50": resnet50,
        "projection": partial(Projection, hidden=config.hidden),
        "efficientnet_lite0": EfficientNetLite0,
    }
    if config.name in VITS:
        modules[config.name] = partial(VisionTransformer, shape=VITS[config.name], rematerialise=config.rematerialise)
    dtype = None if config.dtype == "float32" else jnp.dtype(config.dtype)
    return from_module(modules[config.name](config.embedding_dim, dtype), frozen_part(config), running)


@lru_cache
def untouched() -> Backbone:
    """No network: the input is the embedding, and passes through training as its statistics do."""

    def apply(params, statistics, x, *, train: bool, valid: jax.Array | None = None):
        return x, statistics

    whole = lambda params, statistics, x, *_: x  # noqa: E731
    return Backbone(lambda seed, input_shape: ({}, {}), apply, whole, whole, apply)


def frozen_part(config: BackboneConfig) -> Callable[[str], bool]:
    """A function of a module's name: whether the module keeps its initial values."""
    if config.freeze == "all":
        return lambda module: module != HEAD
    stages = STAGES.get(config.name, ())
    frozen = stages[: stages.index(config.freeze) + 1] if config.freeze else ()
    return lambda module: stage_of(module) in frozen


def stage_of(module: str) -> str:
    """The stage of a module at the top of a network: `stem`, `layer1`.., `block0`.., `top` or `fc`."""
    return "stem" if module in ("conv1", "bn1") else module.partition("_")[0]


def from_module(
    module: nn.Module, frozen: Callable[[str], bool] = lambda module: False, running: bool = False
) -> Backbone:
    """Wrap a Linen module whose call is (x, *, train, valid) -> [B, D]; statistics live in `batch_stats`.

    Frozen submodules get no gradient, hence no update by Adam, and their batch norms work as in evaluation. With
    `running`, all batch norms do.
    """

    @lru_cache(maxsize=16)
    def shapes_for(input_shape: tuple[int, ...]) -> Any:
        x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return jax.eval_shape(lambda k, x: module.init(k, x, train=True), key, x)

    def init(seed: int, input_shape: tuple[int, ...]) -> tuple[Any, Any]:
        shapes = shapes_for(tuple(input_shape))
        return _draw(shapes["params"], np.random.default_rng(seed)), _draw(shapes.get("batch_stats", {}), None)

    def hold_norms(call, args, kwargs, context):
        if not isinstance(context.module, BatchNorm) or not (running or frozen(context.module.path[0])):
            return call(*args, **kwargs)
        y = call(*args, **(kwargs | {"train": False}))
        return y if frozen(context.module.path[0]) else kept(y)

    def apply(params, statistics, x, *, train: bool, valid: jax.Array | None = None):
        params = {name: jax.lax.stop_gradient(tree) if frozen(name) else tree for name, tree in params.items()}
        if running:
            params = _held(params, statistics)
        variables = {"params": params, "batch_stats": statistics}
        if train:
            with nn.intercept_methods(hold_norms):
                embeddings, changed = module.apply(variables, x, train=True, valid=valid, mutable=["batch_stats"])
            return embeddings, changed.get("batch_stats", {})
        return module.apply(variables, x, train=False), statistics

    def input_of(is_there: Callable[[str], bool]) -> Callable[..., jax.Array]:
        def found(params, statistics, x):
            inputs = []

            def note(call, args, kwargs, context):
                if len(context.module.path) == 1 and is_there(context.module.path[0]):
                    inputs.append(args[0])
                return call(*args, **kwargs)

            with nn.intercept_methods(note):
                module.apply({"params": params, "batch_stats": statistics}, x, train=False)
            return inputs[0].reshape(len(x), -1)

        return found

    def rest(params, statistics, x, *, input_shape, train: bool, valid: jax.Array | None = None):
        reached = []

        def given(call, args, kwargs, context):
            if not reached and len(context.module.path) == 1 and not frozen(context.module.path[0]):
                reached.append(True)
                args = (x.reshape(args[0].shape), *args[1:])
            return call(*args, **kwargs)

        with nn.intercept_methods(given):  # nothing reads what the layers before make of zeros: XLA leaves them out
            return apply(params, statistics, jnp.zeros((len(x), *input_shape), x.dtype), train=train, valid=valid)

    return Backbone(init, apply, input_of(lambda name: name == HEAD), input_of(lambda name: not frozen(name)), rest)


def _held(params: Any, statistics: Any) -> Any:
    """The parameters; those of batch norms get no gradient."""
    if "mean" in statistics:
        return jax.lax.stop_gradient(params)
    return {name: _held(tree, statistics[name]) if name in statistics else tree for name, tree in params.items()}


def _draw(tree: Any, rng: np.random.Generator | None) -> Any:
    """Initial values as in torchvision and PyTorch; Linen's defaults differ.

    Convolutions N(0, sqrt(2 / (k * k * C_out))), linear weight and bias U(-1, 1) / sqrt(fan_in), norms 1 and 0.
    NumPy draws them: jitted draws cost seconds of compilation.
    """
    drawn = {}
    for name, leaf in sorted(tree.items()):
        if isinstance(leaf, dict):
            drawn[name] = _draw(leaf, rng)
        elif name == "filter":  # of a depthwise convolution
            drawn[name] = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:2])), leaf.shape).astype(np.float32)
        elif name in TOKENS:
            drawn[name] = rng.normal(0, 0.02, leaf.shape).astype(np.float32)
        elif name == "kernel" and len(leaf.shape) == 4:
            height, width, _, features = leaf.shape
            drawn[name] = rng.normal(0, np.sqrt(2 / (height * width * features)), leaf.shape).astype(np.float32)
        elif name == "kernel" or (name == "bias" and "kernel" in tree):
            bound = 1 / np.sqrt(tree["kernel"].shape[0])
            drawn[name] = rng.uniform(-bound, bound, leaf.shape).astype(np.float32)
        else:
            drawn[name] = (np.ones if name in ("scale", "var", "gamma") else np.zeros)(leaf.shape, np.float32)
    return drawn
