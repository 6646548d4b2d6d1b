"""A convolution of each channel by itself, as shifted products: XLA's own is several times slower on CPU."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp

from csn_jax.backbones.norm import channel_sum, kept


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x [B, H, W, ch] and kernel [k, k, 1, ch] -> [B, ceil(H / stride), ceil(W / stride), ch], padded as "SAME" does in
    TensorFlow: an odd rest is on the right and below."""
    return _forward(x, kernel, stride)[0]


def _same(extent: int, k: int, stride: int) -> tuple[int, tuple[int, int]]:
    """(output's extent, padding before and after)."""
    out = -(-extent // stride)
    rest = max((out - 1) * stride + k - extent, 0)
    return out, (rest // 2, rest - rest // 2)


def _windows(x: jax.Array, k: int, stride: int) -> Iterator[jax.Array]:
    """[B, H', W', ch], the values that the output sees, per position in the window, row by row."""
    (height, rows), (width, columns) = (_same(extent, k, stride) for extent in x.shape[1:3])
    yield from _shifted(jnp.pad(x, ((0, 0), rows, columns, (0, 0))), k, stride, height, width)


def _shifted(x: jax.Array, k: int, stride: int, height: int, width: int) -> Iterator[jax.Array]:
    for i in range(k):
        for j in range(k):
            yield x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]


def _forward(x, kernel, stride):
    k = len(kernel)
    parts = enumerate(_windows(x, k, stride))
    return kept(sum(part * kernel[t // k, t % k][None, None] for t, part in parts)), (x, kernel)


def _backward(stride, saved, g):
    (x, kernel), g = saved, kept(g)  # else XLA computes the gradient of a batch norm again per position
    k = len(kernel)
    parts = [channel_sum(part * g) for part in _windows(x, k, stride)]
    edges = [(0, 0, 0)]
    for extent, outer in zip(x.shape[1:3], g.shape[1:3], strict=True):
        before = _same(extent, k, stride)[1][0]
        edges.append((k - 1 - before, extent - 1 + before - (outer - 1) * stride, stride - 1))
    spread = jax.lax.pad(g, jnp.zeros((), g.dtype), (*edges, (0, 0, 0)))  # zeros between, where the stride skipped
    windows = _shifted(spread, k, 1, *x.shape[1:3])
    dx = sum(part * kernel[k - 1 - t // k, k - 1 - t % k][None, None] for t, part in enumerate(windows))
    return kept(dx), jnp.stack(parts).reshape(kernel.shape)


depthwise.defvjp(_forward, _backward)
