"""The fit of a new mask, compared with SciPy's general optimiser, naive loops and known masks."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from csn_jax.adapt import fit


def drawn(n_items=60, n_triplets=200, weights=(4, 1, 0, 0, 0.25, 0, 0, 0), seed=0, flipped=0.0):
    """(vectors, roles [3, T]) of triplets that are right under known weights, except for a share that is flipped."""
    rng, weights = np.random.default_rng(seed), np.array(weights, float)
    vectors = rng.normal(0, rng.uniform(0.5, 2, len(weights)), (n_items, len(weights))).astype(np.float32)
    roles = np.array([rng.choice(n_items, 3, replace=False) for _ in range(n_triplets)]).T
    a, p, n = (vectors[role].astype(float) for role in roles)
    swap = (np.square(a - n) @ weights < np.square(a - p) @ weights) ^ (rng.random(n_triplets) < flipped)
    roles[1], roles[2] = np.where(swap, roles[2], roles[1]), np.where(swap, roles[1], roles[2])
    return vectors, roles


def normed(gain):
    return gain / np.sqrt(np.square(gain).mean())


def naive_objective(w, gain, strength):
    total = 0.0
    for t in range(len(gain)):
        margin = sum(w[d] * gain[t, d] for d in range(len(w)))
        total += max(0.0, 1 - margin) ** 2 / 2
    mean = sum(w) / len(w)
    return total / len(gain) + strength / 2 * sum((x - mean) ** 2 for x in w)


def test_gains_are_differences_of_squares_per_dimension():
    vectors, (anchor, positive, negative) = drawn(n_triplets=20)
    gain = fit.gains(vectors, anchor, positive, negative)
    assert gain.shape == (20, 8) and gain.dtype == np.float64
    for t, d in itertools.product(range(20), range(8)):
        a, p, n = (float(vectors[role[t], d]) for role in (anchor, positive, negative))
        assert gain[t, d] == pytest.approx((a - n) ** 2 - (a - p) ** 2, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("strength", fit.STRENGTHS)
@pytest.mark.parametrize("n_triplets", [1, 60])
def test_the_fit_is_the_minimum_of_a_general_optimiser(strength, n_triplets):
    """For few and many triplets, some of which contradict each other, and also from another start."""
    gain = normed(fit.gains(*_flat(drawn(n_triplets=n_triplets, flipped=0.2))))
    weights = fit.fit(gain, strength)
    best = minimize(
        naive_objective_vectorised, np.full(8, 0.1), (gain, strength), "L-BFGS-B", bounds=[(0, None)] * 8, tol=1e-15,
        options={"maxiter": 20_000, "maxfun": 200_000},
    )  # fmt: skip
    ours, theirs = naive_objective(weights, gain, strength), naive_objective(best.x, gain, strength)
    assert (weights >= 0).all() and ours <= theirs + 1e-9
    again = fit.fit(gain, strength, np.random.default_rng(0).uniform(0, 3, 8))
    assert naive_objective(again, gain, strength) == pytest.approx(ours, abs=1e-9)


def _flat(pair):
    vectors, roles = pair
    return vectors, *roles


def naive_objective_vectorised(w, gain, strength):
    short = np.maximum(0, 1 - gain @ w)
    return np.square(short).mean() / 2 + strength / 2 * np.square(w - w.mean()).sum()


def test_the_minimum_is_optimal():
    """The gradient of the naive objective is 0 where a weight is free, and not negative at the bound."""
    gain = normed(fit.gains(*_flat(drawn(flipped=0.1))))
    w = fit.fit(gain, 1e-2)
    for d in range(8):
        step = np.zeros(8)
        step[d] = 1e-5
        slope = (naive_objective(w + step, gain, 1e-2) - naive_objective(w - step, gain, 1e-2)) / 2e-5
        assert abs(slope) < 1e-6 if w[d] > 0 else slope > -1e-6
    assert (w == 0).any() and (w > 0).any()


def test_a_known_mask_is_found():
    """Three of eight dimensions decide: they get the weight, in this order, and new triplets are right."""
    vectors, roles = drawn(400, 4_000)
    gain = fit.gains(vectors, *roles)
    weights, _ = fit.learn(gain[:2_000], roles[0, :2_000], gain[2_000:3_000])
    share = weights * vectors.var(axis=0)  # of the squared distance
    assert weights[0] > weights[1] > weights[4] > weights[[2, 3, 5, 6, 7]].max()
    assert share[[2, 3, 5, 6, 7]].sum() < 0.02 * share.sum()
    assert fit.wrong(weights, gain[3_000:]).mean() < 0.01 < 0.1 < fit.wrong(np.ones(8), gain[3_000:]).mean()


def test_sixty_triplets_are_better_than_no_mask():
    vectors, roles = drawn(400, 3_000)
    gain = fit.gains(vectors, *roles)
    weights, _ = fit.learn(gain[:60], roles[0, :60])
    assert fit.wrong(weights, gain[60:]).mean() < 0.6 * fit.wrong(np.ones(8), gain[60:]).mean()


def test_a_great_strength_gives_the_unmasked_distance():
    gain = normed(fit.gains(*_flat(drawn())))
    weights = fit.fit(gain, 1e6)
    np.testing.assert_allclose(weights, weights.mean(), rtol=1e-4)
    assert weights.mean() > 0.01


def test_the_path_does_not_depend_on_the_scale_of_the_vectors():
    vectors, roles = drawn()
    small, large = (fit.path(fit.gains(scale * vectors, *roles)) for scale in (1, 1024))
    np.testing.assert_allclose(large * 1024**2, small, rtol=1e-6, atol=1e-9)
    assert small.shape == (len(fit.STRENGTHS), 8)


def test_the_same_triplets_give_the_same_bits():
    vectors, roles = drawn()
    gain = fit.gains(vectors, *roles)
    first, second = (fit.learn(gain, roles[0]) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes() and first[1] == second[1]


@pytest.mark.parametrize("gain", [np.zeros((12, 3)), -np.abs(np.random.default_rng(0).normal(1, 1, (12, 3)))])
def test_triplets_that_no_weights_satisfy_give_no_mask(gain):
    """Equal distances, and negatives that are nearer in all dimensions."""
    weights, _ = fit.learn(gain, np.arange(12))
    assert np.array_equal(weights, np.ones(3))
    assert fit.wrong(weights, gain).all() and fit.held_out(gain, np.arange(12)).all()


def test_a_tie_is_wrong():
    assert fit.wrong(np.ones(2), np.array([[1, -1], [1, -0.5], [0, 0], [-1, 0.5]])).tolist() == [1, 0, 1, 1]


def test_the_loss_is_the_first_term_of_the_fit():
    gain = normed(fit.gains(*_flat(drawn(n_triplets=15, flipped=0.3))))
    weights = np.random.default_rng(0).uniform(0, 1, (2, 8))
    for w, value in zip(weights, fit.loss(weights, gain), strict=True):
        assert value == pytest.approx(naive_objective(w, gain, 0), rel=1e-12)


def test_no_group_is_on_both_sides_of_a_split():
    group = np.random.default_rng(0).integers(0, 13, 50)
    times = np.zeros(50, int)
    for train, test in fit.splits(group):
        assert not set(group[train]) & set(group[test]) and len(train) + len(test) == 50
        times[test] += 1
    assert (times == 1).all() and len(list(fit.splits(group))) == fit.FOLDS


def test_held_out_triplets_are_not_learned_from():
    """One group needs a dimension that harms all others a little. A fit that saw the group gets it right, and a fit
    without it gets it wrong."""
    group = np.repeat(np.arange(5), 4)
    special = group == 0
    gain = np.where(special[:, None], [[1.0, -1.5]], [[-0.3, 1.0]])
    assert not fit.wrong(fit.learn(gain, group)[0], gain).any()
    assert np.array_equal(fit.held_out(gain, group), special)


def test_distances_are_comparable_to_those_under_the_other_masks():
    """The mean squared distance over all pairs, by a naive loop, is the mean of those under the old masks."""
    rng = np.random.default_rng(0)
    vectors, masks, weights = rng.normal(0, 2, (15, 4)), rng.uniform(0, 2, (3, 4)), np.array([0.0, 3, 0.1, 7])
    mask = fit.to_mask(weights, masks, vectors.var(axis=0))

    def mean_square(mask):
        pairs = itertools.product(range(15), range(15))
        return np.mean([np.square(mask * vectors[i] - mask * vectors[j]).sum() for i, j in pairs])

    assert mean_square(mask) == pytest.approx(np.mean([mean_square(old) for old in masks]), rel=1e-5)
    assert mask.dtype == np.float32 and mask[0] == 0
    np.testing.assert_allclose(mask[1:] ** 2 / mask[1] ** 2, weights[1:] / 3, rtol=1e-5)


def test_old_masks_of_zeros_give_no_scale():
    mask = fit.to_mask(np.array([4.0, 1]), np.zeros((2, 2), np.float32), np.ones(2))
    assert mask.tolist() == [2, 1]


@pytest.mark.slow
def test_many_triplets_take_seconds():
    import time

    rng = np.random.default_rng(0)
    gain = rng.normal(0.05, 1, (50_000, 64))
    began = time.process_time()
    fit.path(gain)
    assert time.process_time() - began < 30
