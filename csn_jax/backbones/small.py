"""The quickstart's backbone: strided convolutions that two CPU cores train in 90 seconds."""

from typing import Any

import flax.linen as nn
import jax

from csn_jax.backbones.norm import BatchNorm, widen

LAYERS = ((5, 32), (3, 64), (3, 128))  # kernel size, features
# Of the embedding. At 1, distances start far above the margin: most triplets are right by more than the margin from
# the first step on and have no gradient. At 0.2 the quickstart's error is a fifth lower.
SCALE = 0.2


class Small(nn.Module):
    """[B, H, W, ch] -> [B, D]: three convolutions of stride 2, each with batch norm, then one linear layer, scaled.

    There is no pooling: the linear layer sees positions, which distinguish characters.
    """

    embedding_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        for i, (kernel, features) in enumerate(LAYERS):
            x = nn.Conv(
                features, (kernel, kernel), 2, padding=kernel // 2, use_bias=False, dtype=self.dtype, name=f"conv{i}"
            )(x)
            x = BatchNorm(relu=True, name=f"bn{i}")(x, train=train, valid=valid)
        x = widen(x.reshape(x.shape[0], -1))
        return SCALE * nn.Dense(self.embedding_dim, name="fc")(x)
