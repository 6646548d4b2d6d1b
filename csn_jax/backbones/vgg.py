"""The paper's font network, "akin to VGGNet": nine 3x3 convolutions and two linear layers (paper, section 4.2)."""

from typing import Any

import flax.linen as nn
import jax

from csn_jax.backbones.norm import BatchNorm, max_pool, widen

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512))


class VGG(nn.Module):
    """[B, H, W, ch] -> [B, D], 64x64 grey in the paper. Each convolution has a batch norm, for training from scratch.
    The paper gives neither widths nor norms; these are VGG-16's first nine layers."""

    embedding_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        for stage, widths in enumerate(STAGES):
            for i, features in enumerate(widths):
                x = nn.Conv(features, (3, 3), padding=1, use_bias=False, dtype=self.dtype, name=f"conv{stage}_{i}")(x)
                x = BatchNorm(relu=True, name=f"bn{stage}_{i}")(x, train=train, valid=valid)
            x = max_pool(x, 2, 2, 0)
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(nn.Dense(512, dtype=self.dtype, name="hidden")(x))
        return nn.Dense(self.embedding_dim, name="fc")(widen(x))
