"""Initial masks of each variant, and their rectifier."""

import jax
import numpy as np
import pytest
from oracles import assert_close

from csn_jax.core.masks import blocks, initial_masks, rectify, use_of


@pytest.mark.parametrize("variant", ["standard", "specialists"])
def test_standard_masks_use_every_dimension(variant):
    masks = initial_masks(variant, 4, 64, seed=0)
    assert not masks.trained and masks.beta.shape == (4, 64) and np.all(masks.beta == 1)


@pytest.mark.parametrize("n, dim, width", [(4, 64, 16), (3, 64, 21), (1, 64, 64), (5, 7, 1), (64, 64, 1)])
def test_fixed_masks_are_disjoint_blocks(n, dim, width):
    """Each condition has its own floor(D / C) dimensions, in order. The rest belong to no condition."""
    masks = initial_masks("fixed", n, dim, seed=0)
    expected = np.zeros((n, dim), np.float32)
    for c in range(n):
        for d in range(c * width, (c + 1) * width):
            expected[c, d] = 1
    assert not masks.trained
    assert_close({"beta": masks.beta}, {"beta": expected}, 0)
    assert np.all(masks.beta[:, n * width :] == 0) and masks.beta.sum(axis=0).max() == 1


def test_learned_masks_are_a_seeded_normal_draw():
    """Mean 0.9 and standard deviation (not variance) 0.7, with negative beta. The seed decides."""
    masks = initial_masks("learned", 500, 200, seed=1)
    n = masks.beta.size
    assert masks.trained and masks.beta.dtype == np.float32
    assert abs(masks.beta.mean() - 0.9) < 5 * 0.7 / np.sqrt(n)
    assert abs(masks.beta.std() - 0.7) < 5 * 0.7 / np.sqrt(2 * n)
    assert 0.09 < np.mean(masks.beta < 0) < 0.11  # a normal's share below -0.9 / 0.7
    assert np.array_equal(masks.beta, initial_masks("learned", 500, 200, seed=1).beta)
    assert not np.array_equal(masks.beta, initial_masks("learned", 500, 200, seed=2).beta)


@pytest.mark.parametrize("n, dim", [(4, 64), (3, 64)])
def test_learned_disjoint_masks_are_blocks_with_a_tenth_outside(n, dim):
    masks = initial_masks("learned_disjoint", n, dim, seed=0)
    assert masks.trained
    assert_close({"beta": masks.beta}, {"beta": np.where(blocks(n, dim) == 1, 1, 0.1).astype(np.float32)}, 0)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="unknown variant 'learnt'"):
        initial_masks("learnt", 4, 64, seed=0)


def test_the_rectifier_has_no_gradient_at_or_below_zero():
    """The applied mask is max(0, beta). A mask at 0 stays there; masks of 0 and 1 are unchanged."""
    beta = np.array([-2, -1e-9, 0, 1e-9, 1], np.float32)
    value, gradient = rectify(beta), jax.grad(lambda b: rectify(b).sum())(beta)
    assert np.array_equal(value, np.array([0, 0, 0, 1e-9, 1], np.float32))
    assert np.array_equal(gradient, np.array([0, 0, 0, 1, 1], np.float32))


def test_use_counts_used_and_shared_dimensions():
    masks = np.array([[0.5, 0.0, 1e-9, 0.0, 2.0], [0.1, 0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.4, 0.0]], np.float32)
    assert use_of(masks) == (4, 2)  # the second is unused; the first and the last are shared
