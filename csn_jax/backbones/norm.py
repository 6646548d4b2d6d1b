"""Batch normalisation as in PyTorch, and max-pooling, both with gradients in closed form.

PyTorch's running variance is unbiased; Linen's is biased. On CPU, XLA's automatic gradients of both cost a fifth of a
ResNet's training step.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-5
MOMENTUM = 0.1  # PyTorch's: the weight of the new batch
ROWS = 16  # the most rows of an image that are summed first


class Form(NamedTuple):
    """What follows the normalisation, and the epsilon beside the variance."""

    relu: bool = False
    ceiling: float = np.inf  # of the rectified values: 6 in ReLU6
    epsilon: float = EPSILON


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, optionally followed by ReLU or ReLU6.

    Training normalises by the biased variance of the valid rows and sets the running statistics to
    0.9 * running + 0.1 * batch, with the unbiased variance. Statistics are at least float32.
    """

    relu: bool = False
    ceiling: float = np.inf
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        features = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, features, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, features, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)
        form = Form(self.relu, self.ceiling, self.epsilon)
        if not train:
            return _normalise(x, scale, bias, running_mean.value, running_var.value, form)
        if valid is None:
            valid = jnp.ones(x.shape[0], bool)
        y, mean, var = batch_norm(x, scale, bias, valid, form)
        if self.relu:
            y = kept(y)
        if not self.is_initializing():
            n = _count(x, valid, mean.dtype)
            unbiased = var * (n / jnp.maximum(n - 1, 1))
            running_mean.value = (1 - MOMENTUM) * running_mean.value + MOMENTUM * mean
            running_var.value = (1 - MOMENTUM) * running_var.value + MOMENTUM * unbiased
        return y


def conv_norm(
    x: jax.Array, layer: tuple[int, int, int], names: tuple[str, str], dtype: Any, *, relu: bool = True, **mode: Any
) -> jax.Array:
    """A convolution without bias and its batch norm. layer: features, kernel size, stride; mode: `train`, `valid`."""
    features, kernel, stride = layer
    # Explicit padding: 'SAME' at stride 2 pads one side only, which is another function.
    options = {"padding": kernel // 2, "use_bias": False, "dtype": dtype, "name": names[0]}
    return BatchNorm(relu=relu, name=names[1])(nn.Conv(features, (kernel, kernel), stride, **options)(x), **mode)


def _count(x: jax.Array, valid: jax.Array, dtype: Any) -> jax.Array:
    """The number of values per channel in the valid rows, [] in dtype."""
    pixels = x.size // (x.shape[0] * x.shape[-1])
    return jnp.sum(valid.astype(dtype)) * pixels


def _rows(x: jax.Array, valid: jax.Array) -> jax.Array:
    """bool [B] -> 1 or 0 per row of x, [B, 1, ..., 1]."""
    return valid.astype(widen(x).dtype).reshape((-1,) + (1,) * (x.ndim - 1))


def _spread(values: jax.Array, like: jax.Array) -> jax.Array:
    """[ch] -> [1, ..., ch] with the rank of `like`."""
    return values.reshape((1,) * (like.ndim - 1) + (-1,))


def channel_sum(x: jax.Array) -> jax.Array:
    """The sum over all axes but the last, [ch].

    On CPU, XLA stores the summands and then sums them on one core. Here it sums up to 16 rows of every image while
    computing them, then multiplies by ones, which all cores share: a ResNet's step takes two thirds of the time.
    """
    if jax.default_backend() != "cpu":
        return jnp.sum(x, axis=tuple(range(x.ndim - 1)))
    images, channels = x.shape[0], x.shape[-1]
    rows = x.size // (images * channels)
    together = next(n for n in range(ROWS, 0, -1) if rows % n == 0)
    x = jnp.sum(x.reshape(images, together, rows // together, channels), axis=1).reshape(-1, channels)
    return jnp.dot(jnp.ones(len(x), x.dtype), x, precision=jax.lax.Precision.HIGHEST)


@jax.custom_vjp
def kept(x: jax.Array) -> jax.Array:
    """x, computed once and kept in memory on CPU.

    The weight gradient of a convolution reads its input transposed. For that XLA recomputes the activation element by
    element instead of reading it: five times as slow, a quarter of a ResNet's step. Divide by a 1 that XLA cannot fold
    (x may be NaN): it treats a division as too expensive to recompute.
    """
    return x / jnp.where(x == x, 1, x) if jax.default_backend() == "cpu" else x


kept.defvjp(lambda x: (kept(x), None), lambda _, g: (g,))


def widen(x: jax.Array) -> jax.Array:
    """x in float32, or in its own type when that is wider."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def _normalise(x, scale, bias, mean, var, form):
    """Normalised x in its own dtype; the arithmetic is at least float32."""
    y = (widen(x) - _spread(mean, x)) * _spread(jax.lax.rsqrt(var + form.epsilon) * scale, x) + _spread(bias, x)
    y = jax.nn.relu(y) if form.relu else y
    return (y if form.ceiling == np.inf else jnp.where(y < form.ceiling, y, form.ceiling)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, valid: jax.Array, form: Form
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(y, mean [ch], biased var [ch]) of x [B, ..., ch] by the statistics of its valid rows, bool [B].

    y is rectified as `form` says. The returned statistics have no gradient: they only update the running ones.
    """
    wide, rows = widen(x), _rows(x, valid)
    n = _count(x, valid, wide.dtype)
    mean = channel_sum(wide * rows) / n
    # Two passes: the mean of squares minus the squared mean loses digits that parity needs.
    var = channel_sum(jnp.square(wide - _spread(mean, x)) * rows) / n
    return _normalise(x, scale, bias, mean, var, form), mean, var


def _batch_norm_forward(x, scale, bias, valid, form):
    y, mean, var = batch_norm(x, scale, bias, valid, form)
    return (y, mean, var), (x, scale, bias, valid, mean, var)


def _batch_norm_backward(form, saved, gradients):
    """dx = scale / std * (g - (mean(g) + x_hat * mean(g * x_hat))) on valid rows: the textbook form, with padding."""
    x, scale, bias, valid, mean, var = saved
    g, rows = gradients[0].astype(mean.dtype), _rows(x, valid)
    n = _count(x, valid, mean.dtype)
    inverse = jax.lax.rsqrt(var + form.epsilon)
    x_hat = (widen(x) - _spread(mean, x)) * _spread(inverse, x)
    if form.relu:  # recomputed from x, so that the activation is not kept
        y = x_hat * _spread(scale, x) + _spread(bias, x)
        g = jnp.where((y > 0) & (y < form.ceiling), g, 0)
    d_bias, d_scale = channel_sum(g), channel_sum(g * x_hat)
    dx = _spread(inverse * scale, x) * (g - rows * (_spread(d_bias / n, x) + x_hat * _spread(d_scale / n, x)))
    return dx.astype(x.dtype), d_scale, d_bias, None


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Max-pooling of x [B, H, W, ch] with symmetric padding. In a tie the first of the window takes the gradient."""
    return _max_pool_forward(x, window, stride, padding)[0]


def _window_slices(shape: tuple[int, ...], window: int, stride: int, padding: int):
    """The strided slice of the padded input per position in the window, row by row."""
    spans = [(size + 2 * padding - window) // stride * stride + 1 for size in shape[1:3]]
    for i in range(window):
        for j in range(window):
            yield slice(None), slice(i, i + spans[0], stride), slice(j, j + spans[1], stride)


def _max_pool_forward(x, window, stride, padding):
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(x, border, constant_values=-jnp.inf)
    best, winner = None, None
    for k, position in enumerate(_window_slices(x.shape, window, stride, padding)):
        value = padded[position]
        winner = jnp.zeros(value.shape, jnp.int8) if best is None else jnp.where(value > best, jnp.int8(k), winner)
        best = value if best is None else jnp.maximum(value, best)
    return best, (winner, x.shape)


def _max_pool_backward(window, stride, padding, saved, g):
    winner, shape = saved
    height, width = shape[1] + 2 * padding, shape[2] + 2 * padding
    dx = None
    for k, (_, rows, columns) in enumerate(_window_slices(shape, window, stride, padding)):
        # Put the part of g that position k won back into the input by padding between and around: no scatter.
        edges = [(seen.start, size - seen.stop, stride - 1) for seen, size in ((rows, height), (columns, width))]
        part = jax.lax.pad(jnp.where(winner == k, g, 0), jnp.zeros((), g.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
        dx = part if dx is None else dx + part
    return (dx[:, padding : height - padding, padding : width - padding],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
