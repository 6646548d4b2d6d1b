"""ResNets in torchvision's layout: 18 and 50 layers, and the reference's 18 cut after its third stage."""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from csn_jax.backbones.norm import conv_norm, kept, max_pool, widen


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, or convolutions 1x1, 3x3 and 1x1 to four times the features ("bottleneck").

    The shortcut is a 1x1 convolution where the shape changes. A bottleneck's stride is in the 3x3 ("v1.5"), as in
    torchvision and timm; the paper has it in the first 1x1.
    """

    features: int
    stride: int
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        n, stride, y = self.features, self.stride, x
        layers = [(n, 1, 1), (n, 3, stride), (4 * n, 1, 1)] if self.bottleneck else [(n, 3, stride), (n, 3, 1)]
        norm = partial(conv_norm, dtype=self.dtype, train=train, valid=valid)
        for i, layer in enumerate(layers, start=1):
            y = norm(y, layer, (f"conv{i}", f"bn{i}"), relu=i < len(layers))
        if x.shape != y.shape:
            x = norm(x, (y.shape[-1], 1, stride), ("downsample_conv", "downsample_bn"), relu=False)
        y = jax.nn.relu(x + y)
        return kept(y) if train else y


class ResNet(nn.Module):
    """[B, H, W, 3] -> [B, D]: conv 7x7/2, max-pool 3x3/2, stages of blocks from 64 features, global mean, linear.

    112x112 in the paper, where the global mean equals the reference's 7x7 pooling. Other sizes work too.
    """

    embedding_dim: int
    dtype: Any = None
    bottleneck: bool = False
    depths: tuple[int, ...] = (2, 2, 2)  # blocks per stage; each stage doubles the features

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        x = conv_norm(x, (64, 7, 2), ("conv1", "bn1"), self.dtype, train=train, valid=valid)
        x = max_pool(x, 3, 2, 1)
        x = kept(x) if train else x
        for stage, depth in enumerate(self.depths, start=1):
            for i in range(depth):
                stride = 2 if stage > 1 and i == 0 else 1
                block = Block(32 * 2**stage, stride, self.bottleneck, self.dtype, name=f"layer{stage}_{i}")
                x = block(x, train=train, valid=valid)
        x = jnp.mean(widen(x), axis=(1, 2))  # [B, 256], or 512 or 2048 after a fourth stage
        return nn.Dense(self.embedding_dim, name="fc")(x)


resnet18_csn = ResNet
resnet18 = partial(ResNet, depths=(2, 2, 2, 2))
resnet50 = partial(ResNet, bottleneck=True, depths=(3, 4, 6, 3))


LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_name(path: str) -> str:
    """The name in torchvision and timm of a parameter or statistic.

    `layer2_0/downsample_bn/var` -> `layer2.0.downsample.1.running_var`.
    """
    *modules, leaf = path.split("/")
    name = ".".join([*modules, LEAVES[leaf]])
    name = re.sub(r"^(layer\d)_", r"\1.", name)
    return name.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
