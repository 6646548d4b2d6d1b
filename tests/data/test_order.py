"""(seed, step) -> rows."""

import numpy as np
import pytest

from csn_jax.data.order import batch_rows, steps_per_epoch


@pytest.mark.parametrize(
    "n, batch, steps, last", [(100, 16, 7, 4), (96, 16, 6, 16), (5, 5, 1, 5), (100_000, 256, 391, 160)]
)
def test_an_epoch_holds_every_triplet_once(n, batch, steps, last):
    """Every epoch is a permutation in batches of the asked size, of which the short last one is kept."""
    assert steps_per_epoch(n, batch) == steps
    for epoch in (0, 1, 5):
        batches = [batch_rows(0, epoch * steps + i, n, batch) for i in range(steps)]
        assert [len(rows) for rows in batches] == [batch] * (steps - 1) + [last]
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n))


def test_a_pure_function_of_seed_and_step():
    """A step's rows do not depend on what was asked before: backwards, with leaps, among other seeds."""
    forwards = [batch_rows(7, step, 50, 8) for step in range(30)]
    for step in (*reversed(range(30)), 29, 3, 17):
        batch_rows(8, step, 50, 8)
        batch_rows(7, step, 49, 8)
        np.testing.assert_array_equal(batch_rows(7, step, 50, 8), forwards[step])


def test_epochs_and_seeds_differ_and_are_shuffled():
    """No two epochs nor two seeds share an order, and none is the order of the triplets."""
    orders = [tuple(batch_rows(seed, epoch, 1000, 1000)) for seed in range(3) for epoch in range(4)]
    assert len({*orders, tuple(range(1000))}) == 13


def test_batches_are_random_samples():
    """Over epochs, each triplet comes at each place of an epoch about equally often."""
    places = np.zeros((10, 10), int)
    for epoch in range(2000):
        rows = np.concatenate([batch_rows(1, epoch * 4 + i, 10, 3) for i in range(4)])
        places[rows, np.arange(10)] += 1
    assert places.min() > 140 and places.max() < 260  # mean 200, standard deviation 13.4
