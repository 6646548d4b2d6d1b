"""Reasons for a hit: shares of its distance, and ranks under each condition."""

import math

import numpy as np
import pytest
from small_index import make, naive

from csn_jax.search import explain as module
from csn_jax.search.explain import Reasons, dimension_ends, explain, ranks_text, reasons_text


@pytest.mark.parametrize("weights", [{"a": 1}, {"a": 1, "b": 0.3}, {"a": 1, "c": -0.5}], ids=str)
def test_reasons_equal_a_naive_loop(weights, monkeypatch):
    """Shares of the squared distance per condition and dimension, and ranks under each condition alone."""
    monkeypatch.setattr(module, "PIECE", 64)
    index = make(200)
    query = index.vectors[70].astype(np.float64)
    rows, squares = index.nearest(query[None], weights, 6, exclude=[70])
    reasons = explain(index, query, rows[0], weights, 70)
    assert reasons.by_condition.shape == (6, len(weights)) and reasons.by_dimension.shape == (6, 6)
    for hit, row in enumerate(rows[0].tolist()):
        item = index.vectors[row].tolist()
        parts = {}
        for name, weight in weights.items():
            mask = index.masks["abc".index(name)].tolist()
            parts[name] = [weight * (m * (q - x)) ** 2 for m, q, x in zip(mask, query, item, strict=True)]
        by_condition = [math.fsum(values) for values in parts.values()]
        by_dimension = [math.fsum(values) for values in zip(*parts.values(), strict=True)]
        assert math.fsum(by_condition) == pytest.approx(squares[0, hit], rel=1e-12)
        for shares, part in ((reasons.by_condition[hit], by_condition), (reasons.by_dimension[hit], by_dimension)):
            np.testing.assert_allclose(shares, np.array(part) / np.abs(part).sum(), rtol=1e-12)
            assert np.abs(shares).sum() == pytest.approx(1)
        for c, name in enumerate("abc"):
            ranked = [other for other, _ in naive(index, query, {name: 1}, 200, lambda other: other != 70)]
            assert reasons.ranks[hit, c] == ranked.index(row) + 1


def test_a_hit_at_distance_0_has_no_shares_and_rank_1():
    index = make(200)
    reasons = explain(index, index.vectors[70], [70], {"a": 1, "b": 0.3})
    assert not reasons.by_condition.any() and not reasons.by_dimension.any() and reasons.ranks.tolist() == [[1, 1, 1]]
    lines = reasons_text(index, ["a", "b"], [70], reasons).splitlines()[1:]
    assert lines == ["   1  item 70: rank 1 under a, b, c", "      at distance 0"]


def test_dimensions_that_matter_most_show_the_items_at_both_ends():
    """Those of the largest shares over all hits come first; the condition is the one with the largest weight."""
    index = make(50)
    shares = np.array([[0.1, 0.3, -0.6, 0, 0, 0], [0, 0.1, -0.5, 0.4, 0, 0]])
    ends = dimension_ends(index, Reasons(np.ones((2, 1)), shares, np.ones((2, 3), int)))
    assert [dimension for dimension, *_ in ends] == [2, 1, 3, 0]
    for dimension, condition, low, high in ends:
        ranked = sorted(range(50), key=lambda row: index.vectors[row, dimension])
        assert low.tolist() == ranked[:3] and high.tolist() == ranked[-3:]
        assert index.masks[:, dimension].max() == index.masks["abc".index(condition), dimension]


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ((7,), "rank 7 under a"),
        ((2, 2, 2), "rank 2 under a, b, c"),
        ((1, 2), "closest on a (1), furthest on b (2)"),
        ((5, 1234, 1), "closest on c (1), then a (5), furthest on b (1,234)"),
        ((3, 1, 3), "closest on b (1), furthest on a (3), c (3)"),
        ((1, 9, 1), "closest on a (1), c (1), furthest on b (9)"),
    ],
    ids=str,
)
def test_no_rank_is_both_closest_and_furthest(ranks, text):
    assert ranks_text("abc"[: len(ranks)], np.array(ranks)) == text
