"""The reference's backbone: torchvision's ResNet-18 cut after its third stage."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from csn_jax.backbones.norm import BatchNorm, max_pool, widen


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is a 1x1 convolution where shape changes."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None) -> jax.Array:
        # Padding is explicit: 'SAME' at stride 2 pads one side only and is another function.
        conv = partial(nn.Conv, self.features, use_bias=False, dtype=self.dtype)
        norm = partial(BatchNorm, relu=False)
        y = conv((3, 3), self.stride, padding=1, name="conv1")(x)
        y = norm(relu=True, name="bn1")(y, train=train, valid=valid)
        y = conv((3, 3), 1, padding=1, name="conv2")(y)
        y = norm(name="bn2")(y, train=train, valid=valid)
        if x.shape != y.shape:
            x = conv((1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = norm(name="downsample_bn")(x, train=train, valid=valid)
        return jax.nn.relu(x + y)


class ResNet18CSN(nn.Module):
    """[B, H, W, 3] -> [B, D]: conv 7x7/2, max-pool 3x3/2, stages 64, 128, 256 of two blocks, global mean, linear.

    112x112 in the paper; the global mean takes other sizes too and equals the reference's 7x7 pooling there.
    """

    embedding_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        x = nn.Conv(64, (7, 7), 2, padding=3, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = BatchNorm(relu=True, name="bn1")(x, train=train, valid=valid)
        x = max_pool(x, 3, 2, 1)
        for stage, features in enumerate((64, 128, 256), start=1):
            for block in range(2):
                stride = 2 if stage > 1 and block == 0 else 1
                x = BasicBlock(features, stride, self.dtype, name=f"layer{stage}_{block}")(x, train=train, valid=valid)
        x = jnp.mean(widen(x), axis=(1, 2))  # [B, 256]
        return nn.Dense(self.embedding_dim, name="fc")(x)
