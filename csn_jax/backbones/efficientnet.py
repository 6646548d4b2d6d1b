"""EfficientNet-Lite0: inverted bottlenecks with depthwise convolutions, without squeeze-and-excitation, with ReLU6."""

import re
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from csn_jax.backbones.depthwise import depthwise
from csn_jax.backbones.norm import BatchNorm, widen

EPSILON = 1e-3  # of batch norms, as in the weights of TensorFlow
STEM, TOP = 32, 1280  # features


class Stage(NamedTuple):
    """Blocks with the same features; the first has the stride."""

    kernel: int
    stride: int
    expansion: int
    features: int
    blocks: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)


class Depthwise(nn.Module):
    """A convolution of each channel by itself, [B, H, W, ch] -> [B, H / stride, W / stride, ch]."""

    kernel: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        kernel = self.param("filter", nn.initializers.zeros, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return depthwise(x, kernel, self.stride)


class Block(nn.Module):
    """1x1 to more features, depthwise, 1x1 back; with a shortcut where the shape stays."""

    kernel: int
    stride: int
    expansion: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        y, norm = x, partial(_norm, train=train, valid=valid)
        if self.expansion > 1:
            y = norm(_conv(self.expansion * x.shape[-1], "expand_conv", self.dtype)(y), "expand_bn")
        y = norm(Depthwise(self.kernel, self.stride, self.dtype, name="depthwise_conv")(y), "depthwise_bn")
        y = norm(_conv(self.features, "project_conv", self.dtype)(y), "project_bn", relu=False)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """[B, H, W, 3] -> [B, D]: as in TensorFlow's weights, which pad at stride 2 on the right and below ("SAME")."""

    embedding_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        norm = partial(_norm, train=train, valid=valid)
        x = norm(_conv(STEM, "stem_conv", self.dtype, kernel=3, stride=2)(x), "stem_bn")
        for number, stage in enumerate(STAGES, start=1):
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                block = Block(
                    stage.kernel, stride, stage.expansion, stage.features, self.dtype, name=f"stage{number}_{i}"
                )
                x = block(x, train=train, valid=valid)
        x = norm(_conv(TOP, "top_conv", self.dtype)(x), "top_bn")
        return nn.Dense(self.embedding_dim, name="fc")(jnp.mean(widen(x), axis=(1, 2)))


def _conv(features: int, name: str, dtype: Any, kernel: int = 1, stride: int = 1) -> nn.Conv:
    return nn.Conv(features, (kernel, kernel), stride, padding="SAME", use_bias=False, dtype=dtype, name=name)


def _norm(x: jax.Array, name: str, *, relu: bool = True, train: bool, valid: jax.Array | None) -> jax.Array:
    norm = BatchNorm(relu=relu, ceiling=6.0 if relu else jnp.inf, epsilon=EPSILON, name=name)
    return norm(x, train=train, valid=valid)


LEAVES = {"kernel": "weight", "filter": "weight", "scale": "weight", "bias": "bias"}
LEAVES |= {"mean": "running_mean", "var": "running_var"}
ENDS = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2", "fc": "fc"}
LAYERS = {"expand_conv": "conv_pw", "expand_bn": "bn1", "depthwise_conv": "conv_dw", "depthwise_bn": "bn2"}
LAYERS |= {"project_conv": "conv_pwl", "project_bn": "bn3"}
# Of the first block, which does not expand.
FIRST = {"depthwise_conv": "conv_dw", "depthwise_bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2"}
# The names of efficientnet_lite_pytorch, which counts blocks through all stages.
OTHER_ENDS = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn"}
OTHER_LAYERS = {"_expand_conv": "expand_conv", "_bn0": "expand_bn", "_depthwise_conv": "depthwise_conv"}
OTHER_LAYERS |= {"_bn1": "depthwise_bn", "_project_conv": "project_conv", "_bn2": "project_bn"}
PLACES = [(stage, i) for stage, of in enumerate(STAGES, start=1) for i in range(of.blocks)]


def torch_name(path: str) -> str:
    """The name in timm of a parameter or statistic: `stage2_1/expand_bn/var` -> `blocks.1.1.bn1.running_var`. The last
    linear layer is `fc`, as in ResNets."""
    *modules, leaf = path.split("/")
    if len(modules) == 1:
        return f"{ENDS[modules[0]]}.{LEAVES[leaf]}"
    stage, _, i = modules[0].removeprefix("stage").partition("_")
    return f"{_block_name(int(stage), int(i), modules[1])}.{LEAVES[leaf]}"


def _block_name(stage: int, i: int, layer: str) -> str:
    return f"blocks.{stage - 1}.{i}.{(FIRST if stage == 1 else LAYERS)[layer]}"


def timm_name(name: str) -> str:
    """timm's name of a tensor of efficientnet_lite_pytorch, such as `_blocks.2._bn0.bias`; another name as it is."""
    module, _, leaf = name.rpartition(".")
    if module in OTHER_ENDS:
        return f"{ENDS[OTHER_ENDS[module]]}.{leaf}"
    block = re.fullmatch(r"_blocks\.(\d{1,2})\.(\w+)", module)
    if block and int(block[1]) < len(PLACES) and block[2] in OTHER_LAYERS:
        stage, i = PLACES[int(block[1])]
        layer = OTHER_LAYERS[block[2]]
        return f"{_block_name(stage, i, layer)}.{leaf}" if stage > 1 or layer in FIRST else name
    return name
