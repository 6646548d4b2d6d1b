"""Adam and the schedules against a loop that follows Adam's paper, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import adam, assert_close

from csn_jax.config import Config
from csn_jax.core.optim import make_optimizer, make_schedule

EXACT = 1e-12
REFERENCE = Config(learning_rate=5e-5, schedule="exponential", schedule_decay=0.985, steps=1000)
GRADIENTS = np.array([0.3, -0.02, 1e-8, 0.0, 0.0, -5e-8])  # sizes that show a wrong epsilon or momentum


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def path(optimizer, gradients, start=0.5):
    """A scalar parameter after each optimizer step."""
    parameter, values = jnp.asarray(start), []
    state = optimizer.init(parameter)
    for gradient in gradients:
        update, state = optimizer.update(jnp.asarray(gradient), state, parameter)
        parameter = optax.apply_updates(parameter, update)
        values.append(np.asarray(parameter))
    return np.asarray(values)


def moves(values, start=0.5):
    return {"moves": np.diff(values, prepend=start)}


def rates(n, steps_per_epoch, first=1):
    return [5e-5 * 0.985 ** (step // steps_per_epoch + first) for step in range(n)]


def test_the_optimizer_equals_adams_paper(x64):
    """Six steps in three epochs with gradients of many sizes. Momentum moves the steps with zero gradient."""
    actual = path(make_optimizer(REFERENCE, 2), GRADIENTS)
    assert_close(moves(actual), moves(adam(0.5, GRADIENTS, rates(6, 2))), 1e-10)
    assert actual[3] != actual[2]


@pytest.mark.parametrize(
    "broken",
    [
        {"epsilon": 1e-7},
        {"epsilon": 0},
        {"beta1": 0.99},
        {"beta2": 0.99},
        {"rates": rates(6, 2, first=0)},
        {"rates": rates(6, 3)},
        {"rates": [5e-5] * 6},
    ],
    ids=str,
)
def test_the_comparison_detects_a_wrong_optimizer(x64, broken):
    """A wrong constant, or epochs counted from 0, fails the comparison above."""
    actual = path(make_optimizer(REFERENCE, 2), GRADIENTS)
    with pytest.raises(AssertionError):
        assert_close(moves(actual), moves(adam(0.5, GRADIENTS, **({"rates": rates(6, 2)} | broken))), 1e-10)


def test_no_weight_decay(x64):
    """Without any gradient, no parameter moves, however large."""
    assert np.all(path(make_optimizer(REFERENCE, 2), [0.0, 0.0], start=100.0) == 100)


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 391])
def test_the_exponential_schedule_counts_epochs_from_one(x64, steps_per_epoch):
    """Even the first epoch is decayed. The rate is constant within an epoch and drops at its end."""
    schedule = make_schedule(REFERENCE, steps_per_epoch)
    for epoch in (1, 2, 200):
        for step in {(epoch - 1) * steps_per_epoch, epoch * steps_per_epoch - 1}:
            expected = np.asarray(5e-5 * 0.985**epoch)
            assert_close({"rate": schedule(jnp.int32(step))}, {"rate": expected}, EXACT)


def test_the_cosine_schedule_ends_at_zero(x64):
    """From the full rate through half of it to zero at the last step."""
    schedule = make_schedule(Config(learning_rate=2e-3, schedule="cosine", steps=1000), 10)
    with jax.numpy_dtype_promotion("standard"):  # as in the optimizer, for optax
        rate = {step: schedule(jnp.int32(step)) for step in (0, 250, 500, 1000)}
    for step, expected in [(0, 2e-3), (250, 1e-3 * (1 + np.sqrt(0.5))), (500, 1e-3)]:
        assert_close({"rate": rate[step]}, {"rate": np.asarray(expected)}, EXACT)
    assert abs(rate[1000]) < 1e-18


def test_training_uses_the_rate_of_the_schedule(x64):
    """Adam's first step has the size of the rate at step 0, in float32 too."""
    for dtype in (np.float64, np.float32):
        move = path(make_optimizer(REFERENCE, 2), np.asarray([1.0], dtype), start=dtype(0))
        assert abs(move[0] / (-5e-5 * 0.985) - 1) < 1e-4
