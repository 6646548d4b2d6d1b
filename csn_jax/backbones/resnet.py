"""ResNets in torchvision's layout: 18 and 50 layers, and the reference's 18 cut after its third stage."""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from csn_jax.backbones.norm import BatchNorm, kept, max_pool, widen


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. The shortcut is a 1x1 convolution where the shape changes."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        # Explicit padding: 'SAME' at stride 2 pads one side only, which is another function.
        conv = partial(nn.Conv, self.features, use_bias=False, dtype=self.dtype)
        norm = partial(BatchNorm, relu=False)
        y = conv((3, 3), self.stride, padding=1, name="conv1")(x)
        y = norm(relu=True, name="bn1")(y, train=train, valid=valid)
        y = conv((3, 3), 1, padding=1, name="conv2")(y)
        y = norm(name="bn2")(y, train=train, valid=valid)
        if x.shape != y.shape:
            x = conv((1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = norm(name="downsample_bn")(x, train=train, valid=valid)
        y = jax.nn.relu(x + y)
        return kept(y) if train else y


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 to four times the features, and a shortcut. The stride is in the 3x3 ("v1.5"), as
    in torchvision and timm; the paper has it in the first 1x1."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        y = conv(self.features, (1, 1), padding=0, name="conv1")(x)
        y = BatchNorm(relu=True, name="bn1")(y, train=train, valid=valid)
        y = conv(self.features, (3, 3), self.stride, padding=1, name="conv2")(y)
        y = BatchNorm(relu=True, name="bn2")(y, train=train, valid=valid)
        y = conv(4 * self.features, (1, 1), padding=0, name="conv3")(y)
        y = BatchNorm(name="bn3")(y, train=train, valid=valid)
        if x.shape != y.shape:
            x = conv(4 * self.features, (1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x, train=train, valid=valid)
        y = jax.nn.relu(x + y)
        return kept(y) if train else y


class ResNet(nn.Module):
    """[B, H, W, 3] -> [B, D]: conv 7x7/2, max-pool 3x3/2, stages of blocks from 64 features, global mean, linear.

    112x112 in the paper, where the global mean equals the reference's 7x7 pooling. Other sizes work too.
    """

    embedding_dim: int
    dtype: Any = None
    block: type[nn.Module] = BasicBlock
    depths: tuple[int, ...] = (2, 2, 2)  # blocks per stage; each stage doubles the features

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        x = nn.Conv(64, (7, 7), 2, padding=3, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = BatchNorm(relu=True, name="bn1")(x, train=train, valid=valid)
        x = max_pool(x, 3, 2, 1)
        x = kept(x) if train else x
        for stage, depth in enumerate(self.depths, start=1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                block = self.block(32 * 2**stage, stride, self.dtype, name=f"layer{stage}_{i}")
                x = block(x, train=train, valid=valid)
        x = jnp.mean(widen(x), axis=(1, 2))  # [B, 256], or 512 or 2048 after a fourth stage
        return nn.Dense(self.embedding_dim, name="fc")(x)


resnet18_csn = partial(ResNet, block=BasicBlock, depths=(2, 2, 2))
resnet18 = partial(ResNet, block=BasicBlock, depths=(2, 2, 2, 2))
resnet50 = partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3))


def stage_of(module: str) -> str:
    """The stage of a ResNet's module: `stem`, `layer1`.. or `fc`."""
    return "stem" if module in ("conv1", "bn1") else module.partition("_")[0]


LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_name(path: str) -> str:
    """The name in torchvision and timm of a parameter or statistic.

    `layer2_0/downsample_bn/var` -> `layer2.0.downsample.1.running_var`.
    """
    *modules, leaf = path.split("/")
    name = ".".join([*modules, LEAVES[leaf]])
    name = re.sub(r"^(layer\d)_", r"\1.", name)
    return name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
