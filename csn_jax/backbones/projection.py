"""The backbone for precomputed features: a small network over the vectors of any embedder."""

from typing import Any

import flax.linen as nn
import jax

from csn_jax.backbones.norm import BatchNorm, widen

# The norm's epsilon suits activations near 1. It would swamp features near 0.01, which vectors of length 1 have.
MAGNIFIED = 1_000
# Of the embedding, for the reason in small.py. The error is a tenth to a third lower than at 1.
SCALE = 0.05


class Projection(nn.Module):
    """[B, F] -> [B, D]: each feature to mean 0 and variance 1, then a linear layer, or two with a ReLU between; scaled.

    The norm makes training independent of the embedder's scale. Many embedders have a few large features, which would
    otherwise hide the others.
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
