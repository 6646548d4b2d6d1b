"""Conditional triplets."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from csn_jax.data.item_set import SPLITS, ItemSet
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition


def make_items(labels: dict[str, list[str]], split: list[str] | None = None) -> ItemSet:
    n = len(next(iter(labels.values())))
    return ItemSet(
        inputs=np.zeros((n, 1, 1, 1), np.uint8),
        ids=np.arange(n).astype(str),
        labels={name: np.array(column) for name, column in labels.items()},
        split=np.array(split or ["train"] * n),
        conditions=tuple(Condition(name, "categorical") for name in labels),
    )


@pytest.fixture(scope="module")
def items() -> ItemSet:
    """600 items, three splits, three conditions: many values, few values, missing values."""
    rng = np.random.default_rng(0)
    labels = {
        "font": [f"f{i}" for i in rng.integers(40, size=600)],
        "closure": list(rng.choice(["lace", "zip", "buckle"], size=600)),
        "heel": list(rng.choice(["", "flat", "high", "mid"], size=600)),
    }
    return make_items(labels, list(rng.choice(SPLITS, size=600, p=[0.5, 0.2, 0.3])))


@pytest.mark.parametrize("split", SPLITS)
def test_each_triplet_keeps_the_rule(items, split):
    """All three items are labelled items of the split. The positive is another item with the value of the anchor, the
    negative has another value."""
    triplets = draw_triplets(items, split, 500, seed=0)
    assert Counter(triplets.condition.tolist()) == {0: 500, 1: 500, 2: 500}
    assert all(column.dtype == np.int32 for column in triplets)
    for anchor, positive, negative, row in zip(*(column.tolist() for column in triplets), strict=True):
        label = items.labels[items.conditions[row].name]
        assert {items.split[i] for i in (anchor, positive, negative)} == {split}
        assert label[anchor] == label[positive] != label[negative]
        assert "" not in (label[anchor], label[negative])
        assert anchor != positive


def test_seed_split_and_condition_each_give_other_triplets(items):
    """The same seed gives the same triplets."""
    twice = [draw_triplets(items, "train", 200, seed=5) for _ in range(2)]
    assert twice[0].digest() == twice[1].digest() != draw_triplets(items, "train", 200, seed=6).digest()
    # All splits and conditions are equal here, so only the seeds can differ.
    alike = make_items({"a": list("xy" * 50), "b": list("xy" * 50)})
    draws = [
        draw_triplets(dataclasses.replace(alike, split=np.full(100, split)), split, 200, seed=5).of_condition(row)
        for split in SPLITS
        for row in (0, 1)
    ]
    assert len({draw.digest() for draw in draws}) == 6


def test_a_condition_keeps_its_triplets_among_others(items):
    """Alone, in another order, or with another number of conditions."""
    full = draw_triplets(items, "train", 200, seed=0)
    for wanted in ([1], [2, 1], [1, 0, 2], [2]):
        chosen = dataclasses.replace(items, conditions=tuple(items.conditions[i] for i in wanted))
        drawn = draw_triplets(chosen, "train", 200, seed=0)
        for row, original in enumerate(wanted):
            assert drawn.of_condition(row).digest() == full.of_condition(original).digest()


def test_values_are_balanced_whatever_their_size():
    """A value of 90 % of the items anchors no more triplets than others. A unique value anchors none, but serves as
    negative."""
    column = ["giant"] * 900 + ["b"] * 60 + ["c"] * 38 + ["pair"] * 2 + ["single"]
    triplets = draw_triplets(make_items({"value": column}), "train", 40_000, seed=0)
    value = np.array(column)
    times = Counter(value[triplets.anchor].tolist())
    assert set(times) == {"giant", "b", "c", "pair"}
    assert all(abs(times[name] - 10_000) < 450 for name in times)  # five standard deviations
    assert "single" in set(value[triplets.negative])


def test_anchor_and_positive_are_a_uniform_pair():
    """Each ordered pair of different items of a value comes equally often."""
    triplets = draw_triplets(make_items({"value": list("aaaabb")}), "train", 60_000, seed=0)
    pairs = Counter(zip(triplets.anchor.tolist(), triplets.positive.tolist(), strict=True))
    assert len(pairs) == 12 + 2
    for (anchor, _), times in pairs.items():
        expected = 30_000 / (12 if anchor < 4 else 2)
        assert abs(times - expected) < 5 * np.sqrt(expected)


def test_negatives_are_uniform_over_the_items_of_other_values():
    """Given the value of the anchor, each item of another value is the negative equally often."""
    column = np.array(list("aabbbbbbbbcccd"))
    order = np.random.default_rng(0).permutation(len(column))  # equal values need not be adjacent
    column = column[order]
    triplets = draw_triplets(make_items({"value": column.tolist()}), "train", 90_000, seed=0)
    for value in "abc":
        times = Counter(triplets.negative[column[triplets.anchor] == value].tolist())
        others = np.flatnonzero(column != value)
        assert set(times) == set(others.tolist())
        expected = 30_000 / len(others)
        assert max(abs(n - expected) for n in times.values()) < 5 * np.sqrt(expected)


@pytest.mark.parametrize(
    "column",
    [["a"] * 6, ["a", "b", "c", "d", "e", "f"], [""] * 6, ["a", "b", "", "", "", ""], ["a", "a", "", "", "", ""]],
    ids=["one value", "no pair", "nothing known", "two single items", "one pair"],
)
def test_an_impossible_condition_is_named(column):
    labelled = sum(value != "" for value in column)
    with pytest.raises(
        UserError, match=rf"'closure' has no triplet in the train split.* has {labelled} labelled items"
    ):
        draw_triplets(make_items({"closure": column}), "train", 10, seed=0)


def test_an_empty_split_is_named(items):
    with pytest.raises(UserError, match="in the test split"):
        draw_triplets(dataclasses.replace(items, split=np.full(600, "train")), "test", 10, seed=0)


def test_the_smallest_possible_condition():
    """Two items of one value and one of another are enough."""
    triplets = draw_triplets(make_items({"value": list("aab")}), "train", 50, seed=0)
    assert set(zip(*(column.tolist() for column in triplets[:3]), strict=True)) == {(0, 1, 2), (1, 0, 2)}


def test_triplets_of_one_condition_keep_their_order(items):
    """They become condition 0."""
    triplets = draw_triplets(items, "train", 30, seed=0)
    part = triplets.of_condition(2)
    np.testing.assert_array_equal(part.anchor, triplets.anchor[60:])
    np.testing.assert_array_equal(part.negative, triplets.negative[60:])
    assert (part.condition == 0).all() and part.condition.dtype == np.int32


@pytest.mark.parametrize("column", Triplets._fields)
def test_a_change_in_any_column_changes_the_digest(items, column):
    """Or roles that are swapped."""
    triplets = draw_triplets(items, "train", 30, seed=0)
    changed = getattr(triplets, column).copy()
    changed[-1] += 1
    assert triplets._replace(**{column: changed}).digest() != triplets.digest()
    swapped = triplets._replace(positive=triplets.negative, negative=triplets.positive)
    assert swapped.digest() != triplets.digest()


def test_a_large_set_is_drawn_quickly():
    """200,000 triplets from 140,000 items of 2,200 values."""
    import time

    column = np.repeat(np.arange(2200).astype(str), 62).tolist()
    large = make_items({"font": column})
    began = time.process_time()
    draw_triplets(large, "train", 200_000, seed=0)
    assert time.process_time() - began < 3
