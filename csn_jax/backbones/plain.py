"""The networks without shortcuts: the quickstart's, the paper's for fonts, and the one for precomputed features."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from csn_jax.backbones.norm import BatchNorm, conv_norm, max_pool, widen

SMALL_LAYERS = ((5, 32), (3, 64), (3, 128))  # kernel size, features
# Of the embedding. At 1, distances start far above the margin: most triplets are right by more than the margin from
# the first step on and have no gradient. At 0.2 the quickstart's error is a fifth lower.
SMALL_SCALE = 0.2
VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512))
# The norm's epsilon suits activations near 1. It would swamp features near 0.01, which vectors of length 1 have.
MAGNIFIED = 1_000
# Of the embedding, for the reason above. The error is a tenth to a third lower than at 1.
PROJECTION_SCALE = 0.05


class Small(nn.Module):
    """[B, H, W, ch] -> [B, D]: three convolutions of stride 2, each with batch norm, then one linear layer, scaled. Two
    CPU cores train it in 90 seconds.

    There is no pooling: the linear layer sees positions, which distinguish characters.
    """

    embedding_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        for i, (kernel, features) in enumerate(SMALL_LAYERS):
            x = conv_norm(x, (features, kernel, 2), (f"conv{i}", f"bn{i}"), self.dtype, train=train, valid=valid)
        x = widen(x.reshape(x.shape[0], -1))
        return SMALL_SCALE * nn.Dense(self.embedding_dim, name="fc")(x)


class VGG(nn.Module):
    """[B, H, W, ch] -> [B, D], 64x64 grey in the paper (section 4.2), "akin to VGGNet": nine 3x3 convolutions and two
    linear layers. Each convolution has a batch norm, for training from scratch. The paper gives neither widths nor
    norms; these are VGG-16's first nine layers."""

    embedding_dim: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        for stage, widths in enumerate(VGG_STAGES):
            for i, features in enumerate(widths):
                names = f"conv{stage}_{i}", f"bn{stage}_{i}"
                x = conv_norm(x, (features, 3, 1), names, self.dtype, train=train, valid=valid)
            x = max_pool(x, 2, 2, 0)
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(nn.Dense(512, dtype=self.dtype, name="hidden")(x))
        return nn.Dense(self.embedding_dim, name="fc")(widen(x))


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
        return PROJECTION_SCALE * nn.Dense(self.embedding_dim, name="fc")(widen(x))


def projection_start(params: dict[str, Any], statistics: dict[str, Any], vectors: np.ndarray) -> tuple[Any, Any]:
    """(params, statistics) of a Projection whose norm knows the mean and variance of training vectors [N, F]. If it has
    one layer, that takes their principal axes instead of seeded values, at the same mean squared output."""
    x = np.float32(MAGNIFIED) * vectors.astype(np.float32)
    mean, var = x.mean(axis=0), x.var(axis=0)
    statistics = statistics | {"bn": {"mean": mean, "var": var}}
    if "hidden" in params:
        return params, statistics
    x = (x - mean) / np.sqrt(var + 1e-5)
    values, axes = np.linalg.eigh((x.T @ x / len(x)).astype(np.float64))
    width = params["fc"]["kernel"].shape[1]
    n = min(width, len(values))
    kernel = np.array(params["fc"]["kernel"])
    kernel[:, :n] = axes[:, ::-1][:, :n] * np.sqrt(n / 3 / max(values[::-1][:n].sum(), 1e-12))
    return params | {"fc": {"kernel": kernel, "bias": np.zeros(width, np.float32)}}, statistics
