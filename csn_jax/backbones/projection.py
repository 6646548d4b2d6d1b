"""The backbone of precomputed features: a small network on top of any embedder's vectors."""

from typing import Any

import flax.linen as nn
import jax

from csn_jax.backbones.norm import BatchNorm, widen

# The norm's epsilon is made for activations near 1. Without this factor it would drown features near 0.01, which
# vectors of length 1 have.
MAGNIFIED = 1_000
# Of the embedding, for the reason that `small` states; 0.05 lowers the error by a tenth to a third against 1.
SCALE = 0.05


class Projection(nn.Module):
    """[B, F] -> [B, D]: each feature to mean 0 and variance 1, then one linear layer, or two around a hidden ReLU;
    scaled.

    The norm makes training indifferent to the embedder's scale, and keeps the few large features that many embedders
    have from hiding the others.
    """

    embedding_dim: int
    dtype: Any = None
    hidden: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        x = BatchNorm(name="bn")(MAGNIFIED * widen(x), train=train, valid=valid)
        if self.hidden:
            x = jax.nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        return SCALE * nn.Dense(self.embedding_dim, name="fc")(widen(x))
