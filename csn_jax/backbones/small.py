"""The quickstart's backbone: strided convolutions that two CPU cores train in two minutes."""

from typing import Any

import flax.linen as nn
import jax

from csn_jax.backbones.norm import BatchNorm, widen

WIDTHS = (32, 64, 128)


class Small(nn.Module):
    """[B, H, W, ch] -> [B, D]: three 3x3 convolutions of stride 2, each with batch norm, then one linear layer.

    No pooling: the linear layer sees where things are, which tells characters apart.
    """

    embedding_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        for i, features in enumerate(WIDTHS):
            x = nn.Conv(features, (3, 3), 2, padding=1, use_bias=False, dtype=self.dtype, name=f"conv{i}")(x)
            x = BatchNorm(relu=True, name=f"bn{i}")(x, train=train, valid=valid)
        x = widen(x.reshape(x.shape[0], -1))
        return nn.Dense(self.embedding_dim, name="fc")(x)
