"""Batch norm and max-pool: closed-form gradients against plain autodiff, naive loops and PyTorch, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import assert_close
from oracles import batch_norm as batch_norm_loops
from oracles import max_pool as max_pool_loops

from csn_jax.backbones import norm

EXACT = 1e-12
SHAPE = (5, 4, 3, 6)
N_VALID = [5, 3]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def values(shape=SHAPE, dtype=np.float64):
    """x, scale, bias and a cotangent, with scales of both signs and channels whose mean is far from 0."""
    rng = np.random.default_rng(0)
    channels = shape[-1]
    x = rng.normal(rng.normal(0, 2, channels), rng.uniform(0.5, 3, channels), shape)
    scale, bias, g = rng.normal(size=channels), rng.normal(size=channels), rng.normal(size=shape)
    return [np.asarray(v, dtype) for v in (x, scale, bias, g)]


def plain_batch_norm(x, scale, bias, valid, relu):
    """Batch norm for autodiff to differentiate."""
    weight = jnp.broadcast_to(valid.astype(x.dtype)[:, None, None, None], x.shape)
    n = weight.sum((0, 1, 2))
    mean = ((x * weight).sum((0, 1, 2)) / n)[None, None, None]
    var = ((x - mean) ** 2 * weight).sum((0, 1, 2)) / n
    y = (x - mean) / jnp.sqrt(var + 1e-5)[None, None, None] * scale[None, None, None] + bias[None, None, None]
    return (jnp.maximum(y, 0) if relu else y), mean[0, 0, 0], var


def our_batch_norm(x, scale, bias, valid, relu):
    return norm.batch_norm(x, scale, bias, valid, norm.Form(relu))


def gradients(function, valid, relu, inputs, g):
    """Output, statistics and gradients by name. The cotangent is of the output alone."""

    def apply(x, scale, bias):
        y, mean, var = function(x, scale, bias, valid, relu)
        return y, (mean, var)

    y, pullback, (mean, var) = jax.vjp(apply, *(jnp.asarray(v) for v in inputs), has_aux=True)
    dx, dscale, dbias = pullback(jnp.asarray(g))
    return {"y": y, "mean": mean, "var": var, "dx": dx, "dscale": dscale, "dbias": dbias}


@pytest.mark.parametrize("n_valid", N_VALID)
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_gradients_equal_autodiff(x64, relu, n_valid):
    """With and without ReLU and padding rows. Padding rows have outputs, hence gradients."""
    *inputs, g = values()
    valid = jnp.arange(5) < n_valid
    assert_close(
        gradients(our_batch_norm, valid, relu, inputs, g), gradients(plain_batch_norm, valid, relu, inputs, g), EXACT
    )


@pytest.mark.parametrize("n_valid", N_VALID)
def test_batch_norm_equals_loops(x64, n_valid):
    """Values and statistics per channel, over the valid rows."""
    x, scale, bias, _ = values()
    valid = np.arange(5) < n_valid
    actual = dict(zip("ymv", our_batch_norm(x, scale, bias, jnp.asarray(valid), False), strict=True))
    assert_close(actual, dict(zip("ymv", batch_norm_loops(x, scale, bias, valid), strict=True)), EXACT)


def torch_batch_norm(x, scale, bias, g, n_valid, relu):
    """PyTorch on the valid rows: outputs, running statistics after one step, gradients."""
    module = torch.nn.BatchNorm2d(x.shape[-1]).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor(scale))
        module.bias.copy_(torch.tensor(bias))
    inputs = torch.tensor(x[:n_valid]).permute(0, 3, 1, 2).requires_grad_()
    y = module(inputs)
    y = F.relu(y) if relu else y
    y.backward(torch.tensor(g[:n_valid]).permute(0, 3, 1, 2))
    last = lambda t: t.detach().permute(0, 2, 3, 1).numpy()  # noqa: E731
    return {
        "y": last(y),
        "dx": last(inputs.grad),
        "dscale": module.weight.grad.numpy(),
        "dbias": module.bias.grad.numpy(),
        "running_mean": module.running_mean.numpy(),
        "running_var": module.running_var.numpy(),
    }


def module_batch_norm(x, scale, bias, g, n_valid, relu):
    """The same from the Linen module, with a cotangent of 0 in padding rows."""
    valid = jnp.arange(len(x)) < n_valid
    module = norm.BatchNorm(relu=relu)
    statistics = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}

    def apply(x, scale, bias):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": statistics}
        return module.apply(variables, x, train=True, valid=valid, mutable=["batch_stats"])

    y, pullback, changed = jax.vjp(apply, *(jnp.asarray(v) for v in (x, scale, bias)), has_aux=True)
    dx, dscale, dbias = pullback(jnp.asarray(np.where(np.asarray(valid)[:, None, None, None], g, 0)))
    return {
        "y": y[:n_valid],
        "dx": dx[:n_valid],
        "dscale": dscale,
        "dbias": dbias,
        "running_mean": changed["batch_stats"]["mean"],
        "running_var": changed["batch_stats"]["var"],
    }


@pytest.mark.parametrize("n_valid", N_VALID)
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_module_equals_torch(x64, relu, n_valid):
    """Outputs, gradients, and running statistics: 0.9 and 0.1 with the unbiased variance."""
    assert_close(module_batch_norm(*values(), n_valid, relu), torch_batch_norm(*values(), n_valid, relu), EXACT)


@pytest.mark.parametrize(
    "name, wrong, place",
    [
        ("BatchNorm", partial(norm.BatchNorm, epsilon=1e-3), "y"),
        ("BatchNorm", partial(norm.BatchNorm, epsilon=0.0), "y"),
        ("MOMENTUM", 0.9, "running_mean"),
        ("MOMENTUM", 0.01, "running_mean"),
        ("_count", lambda x, valid, dtype: jnp.sum(valid.astype(dtype)), "y"),
        ("_count", lambda x, valid, dtype: jnp.asarray(x.size // x.shape[-1], dtype), "y"),
        ("_rows", lambda x, valid: jnp.ones((len(x), 1, 1, 1), x.dtype), "y"),
    ],
    ids=lambda value: getattr(value, "__name__", str(getattr(value, "keywords", value))),  # the same in every worker
)
def test_the_comparison_sees_a_wrong_batch_norm(x64, monkeypatch, name, wrong, place):
    """Linen's or swapped constants, rows counted for values, padding counted, padding read."""
    monkeypatch.setattr(norm, name, wrong)
    with pytest.raises(AssertionError, match=f"(^|; ){place} is off"):
        assert_close(module_batch_norm(*values(), 3, True), torch_batch_norm(*values(), 3, True), EXACT)


def test_the_comparison_sees_a_biased_running_variance(x64):
    """As in Linen."""
    *inputs, g = values()
    expected = torch_batch_norm(*inputs, g, 5, False)
    biased = inputs[0].var(axis=(0, 1, 2))
    with pytest.raises(AssertionError):
        assert_close({"v": 0.9 + 0.1 * biased}, {"v": expected["running_var"]}, EXACT)
    assert_close({"v": 0.9 + 0.1 * biased * 60 / 59}, {"v": expected["running_var"]}, EXACT)


def test_the_comparison_sees_gradients_that_ignore_statistics(x64):
    """Statistics as constants give another gradient."""

    def constant(x, scale, bias, valid, relu):
        y, mean, var = plain_batch_norm(jax.lax.stop_gradient(x), scale, bias, valid, relu)
        return (x - mean[None, None, None]) * (scale / jnp.sqrt(var + 1e-5))[None, None, None], mean, var

    *inputs, g = values()
    valid = jnp.ones(5, bool)
    ours, theirs = (gradients(f, valid, False, inputs, g)["dx"] for f in (our_batch_norm, constant))
    with pytest.raises(AssertionError):
        assert_close({"dx": ours}, {"dx": theirs}, EXACT)


def test_evaluation_uses_running_statistics(x64):
    """Not the batch's."""
    x, scale, bias, _ = values()
    mean, var = np.linspace(-1, 1, 6), np.linspace(0.5, 2, 6)
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
    y = norm.BatchNorm().apply(variables, x, train=False)
    assert_close({"y": y}, {"y": (x - mean) / np.sqrt(var + 1e-5) * scale + bias}, EXACT)


@pytest.mark.parametrize("relu", [False, True])
def test_bfloat16_keeps_statistics_in_float32(relu):
    """Outputs and gradients are bfloat16. Statistics and sums are as precise as in float32."""
    *inputs, g = values((16, 8, 8, 6), np.float32)
    x, g = jnp.asarray(inputs[0], jnp.bfloat16), jnp.asarray(g, jnp.bfloat16)
    valid = jnp.ones(16, bool)
    narrow = gradients(our_batch_norm, valid, relu, [x, *inputs[1:]], g)
    wide = gradients(our_batch_norm, valid, relu, [x.astype(np.float32), *inputs[1:]], g.astype(np.float32))
    assert narrow["y"].dtype == narrow["dx"].dtype == jnp.bfloat16
    exact = ("mean", "var", "dscale", "dbias")
    assert_close({k: narrow[k] for k in exact}, {k: wide[k] for k in exact}, 1e-6)
    rounded = {k: wide[k].astype(jnp.bfloat16).astype(np.float32) for k in ("y", "dx")}
    assert_close({k: narrow[k].astype(np.float32) for k in rounded}, rounded, 2**-8)


def plain_max_pool(x, window, stride, padding):
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), border)


def torch_max_pool(x, g, window, stride, padding):
    inputs = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    y = F.max_pool2d(inputs, window, stride, padding)
    y.backward(torch.tensor(g).permute(0, 3, 1, 2))
    return {"y": y.detach().permute(0, 2, 3, 1).numpy(), "dx": inputs.grad.permute(0, 2, 3, 1).numpy()}


def pooled(function, x, g, *window):
    @jax.jit
    def both(x, g):
        y, pullback = jax.vjp(lambda x: function(x, *window), x)
        return {"y": y, "dx": pullback(g)[0]}

    return both(x, g)


def out_shape(shape, window, stride, padding):
    return (shape[0], *((n + 2 * padding - window) // stride + 1 for n in shape[1:3]), shape[3])


windows = pytest.mark.parametrize("window", [(3, 2, 1), (2, 2, 0)], ids=str)
shapes = pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 5, 3), (1, 9, 4, 2)], ids=str)


@windows
@shapes
def test_max_pool_equals_autodiff_loops_and_torch(x64, window, shape):
    """Values and gradients without ties: windows that overlap or miss the border, odd and oblong images."""
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=shape), rng.normal(size=out_shape(shape, *window))
    ours = pooled(norm.max_pool, x, g, *window)
    assert_close(ours, pooled(plain_max_pool, x, g, *window), EXACT)
    assert_close(ours, dict(zip(("y", "dx"), max_pool_loops(x, g, *window), strict=True)), EXACT)
    assert_close(ours, torch_max_pool(x, g, *window), EXACT)


@windows
@shapes
def test_in_a_tie_the_first_takes_the_gradient(x64, window, shape):
    """Row by row, as in PyTorch. After a ReLU most windows are ties at 0."""
    rng = np.random.default_rng(1)
    x, g = rng.integers(0, 3, shape).astype(float), rng.normal(size=out_shape(shape, *window))
    x[0] = 0
    ours = pooled(norm.max_pool, x, g, *window)
    assert_close(ours, dict(zip(("y", "dx"), max_pool_loops(x, g, *window), strict=True)), EXACT)
    assert_close(ours, torch_max_pool(x, g, *window), EXACT)


def test_the_comparison_sees_ties_and_padding(x64):
    """A gradient shared in a tie, one given to the last, and padding with zeros."""
    rng = np.random.default_rng(1)
    x, window = rng.integers(-3, 0, (2, 7, 7, 3)).astype(float), (3, 2, 1)
    g = rng.normal(size=out_shape(x.shape, *window))
    expected = torch_max_pool(x, g, *window)
    assert_close(pooled(norm.max_pool, x, g, *window), expected, EXACT)

    def shared(x, window, stride, padding):
        padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-9.0)
        places = list(norm._window_slices(x.shape, window, stride, padding))
        return jnp.max(jnp.stack([padded[place] for place in places]), axis=0)

    last = pooled(norm.max_pool, x[:, ::-1, ::-1], g[:, ::-1, ::-1], *window)
    zeros = pooled(lambda x, *w: norm.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2, 0), x, g, *window)
    for broken, place in [
        (pooled(shared, x, g, *window), "dx"),
        ({name: value[:, ::-1, ::-1] for name, value in last.items()}, "dx"),
        (zeros, "y"),
    ]:
        with pytest.raises(AssertionError, match=f"^{place} is off"):
            assert_close(broken, expected, EXACT)


def test_kept_is_the_identity():
    """Value and gradient, also at zeros, infinities and NaN."""
    x = np.array([0.0, -0.0, 2e-38, -3.0, 1e38, np.inf, -np.inf, np.nan], np.float32)
    g = np.arange(8, dtype=np.float32)
    y, pull = jax.vjp(norm.kept, x)
    np.testing.assert_array_equal(y[:5], x[:5])
    assert not np.isfinite(y[5:]).any()
    np.testing.assert_array_equal(pull(g)[0], g)
