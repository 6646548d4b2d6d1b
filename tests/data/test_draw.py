"""Triplets of every kind, compared with an enumeration of all triples of a small set."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.data.triplets import (
    by_gap,
    by_members,
    by_value,
    count_by_gap,
    count_by_members,
    count_by_value,
    draw_triplets,
    scale_of,
)
from csn_jax.errors import UserError


def is_triplet(labels, kind, anchor, positive, negative):
    """The rule of a kind, for three different items."""
    if kind == "set":
        members = [set(label.split(";")) for label in labels]
        return bool(members[anchor] & members[positive]) and not members[anchor] & members[negative]
    if kind == "categorical":
        return labels[anchor] == labels[positive] != labels[negative]
    numbers = [float(label) for label in labels]
    if kind == "ordinal":
        levels = sorted(set(numbers))
        numbers, least = [levels.index(number) for number in numbers], 1
    else:
        least = 0.1 * (max(numbers) - min(numbers))
    excess = abs(numbers[negative] - numbers[anchor]) - abs(numbers[positive] - numbers[anchor])
    return excess >= least * (1 - 1e-12) > 0


def all_triplets(labels, kind):
    triples = permutations(range(len(labels)), 3)
    return {triple for triple in triples if is_triplet(labels, kind, *triple)}


def drawn(labels, kind, n=20_000, seed=0):
    labels = np.array(labels)
    rng = np.random.default_rng(seed)
    if kind in ("numeric", "ordinal"):
        scale = scale_of(labels, kind)
        roles = by_gap(scale.values, scale.step, scale.bins, n, rng)
    else:
        roles = {"set": by_members, "categorical": by_value}[kind](labels, n, rng)
    return None if roles is None else list(zip(*(role.tolist() for role in roles), strict=True))


def counted(labels, kind):
    labels = np.array(labels)
    if kind in ("numeric", "ordinal"):
        scale = scale_of(labels, kind)
        return count_by_gap(scale.values, scale.step)
    return {"set": count_by_members, "categorical": count_by_value}[kind](labels)


NUMBERS = [str(round(number, 3)) for number in np.random.default_rng(0).normal(50, 20, 14)]
EXAMPLES = {
    "numbers": (NUMBERS, "numeric"),
    "far from zero": ([str(1.7e9 + float(number)) for number in NUMBERS], "numeric"),
    "with an outlier": ([*NUMBERS[:10], "100000"], "numeric"),
    "mostly equal": (["0"] * 8 + ["1", "2", "10"], "numeric"),
    "levels": (list("00112233") + ["7", "7", "100"], "ordinal"),
    "two levels": (list("000111"), "ordinal"),
    "sets": (["a", "a;b", "b;c", "c", "d", "a;d", "e", "b", "f;g", "g"], "set"),
    "one in nearly all": (["x;a", "x;b", "x;c", "x", "y;a", "y"], "set"),
    "values": (list("aaabbcd"), "categorical"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_all_possible_triplets_are_drawn_and_no_other(name):
    """And counted."""
    labels, kind = EXAMPLES[name]
    expected = all_triplets(labels, kind)
    assert expected and set(drawn(labels, kind)) == expected
    assert counted(labels, kind) == len(expected)


IMPOSSIBLE = {
    "two numbers": (["1", "2"], "numeric"),
    "one number": (["1"] * 5, "numeric"),
    "one level": (["3"] * 5, "ordinal"),
    "one of each of two levels": (["1", "2"], "ordinal"),
    "disjoint sets": (["a", "b", "c;d"], "set"),
    "a member in all": (["a;b", "a;c", "a", "a;d"], "set"),
    "one set": (["a;b"] * 4, "set"),
    "two items": (["a", "a"], "set"),
    "nothing": ([], "set"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_labels_without_a_triplet_draw_none(name):
    labels, kind = IMPOSSIBLE[name]
    assert not all_triplets(labels, kind) and drawn(labels, kind) is None
    if labels:
        assert counted(labels, kind) == 0


def test_random_sets_of_every_kind():
    """The draw is None exactly if there is no triplet. Otherwise it covers all triplets."""
    rng = np.random.default_rng(3)
    seen = Counter()
    for _ in range(60):
        n = int(rng.integers(3, 7))
        columns = {
            "numeric": [str(x) for x in rng.integers(0, rng.choice([1, 2, 12]), n)],
            "ordinal": [str(x) for x in rng.integers(0, rng.choice([1, 2, 3]), n)],
            "set": [";".join(rng.choice(list("abc"), rng.integers(1, 3), replace=False)) for _ in range(n)],
        }
        for kind, labels in columns.items():
            expected = all_triplets(labels, kind)
            triplets = drawn(labels, kind, n=3_000)
            assert (triplets is None) == (not expected)
            assert set(triplets or ()) == expected
            assert counted(labels, kind) == len(expected)
            seen[kind, bool(expected)] += 1
    assert min(seen.values()) >= 3 and len(seen) == 6  # both cases of every kind occurred


def test_anchors_come_equally_from_all_parts_of_the_range():
    """Many equal prices do not dominate."""
    numbers = ["1"] * 900 + [str(number) for number in np.linspace(10, 100, 90)]
    bins = scale_of(np.array(numbers), "numeric").bins
    times = Counter(bins[anchor] for anchor, _, _ in drawn(numbers, "numeric"))
    assert set(times) == set(range(10)) and all(abs(n - 2_000) < 250 for n in times.values())


def test_levels_and_members_come_equally():
    """Also if most items have the same level or member."""
    levels = ["0"] * 500 + ["1"] * 30 + ["2"] * 5
    times = Counter(levels[anchor] for anchor, _, _ in drawn(levels, "ordinal"))
    assert all(abs(times[level] - 20_000 / 3) < 500 for level in "012")
    sets = ["giant"] * 500 + ["rare"] * 2 + ["some"] * 50
    times = Counter(sets[anchor] for anchor, _, _ in drawn(sets, "set"))
    assert all(abs(times[member] - 20_000 / 3) < 500 for member in ("giant", "rare", "some"))


def test_positives_and_negatives_are_uniform():
    """Given the anchor, each positive comes equally often; given both, each negative."""
    labels = ["0", "1", "2", "3", "9", "10"]
    expected = all_triplets(labels, "numeric")
    times = Counter(drawn(labels, "numeric", 60_000))
    for anchor in range(6):
        positives = {p for a, p, _ in expected if a == anchor}
        total = sum(n for (a, _, _), n in times.items() if a == anchor)
        for positive in positives:
            negatives = [n for a, p, n in expected if (a, p) == (anchor, positive)]
            share = total / len(positives) / len(negatives)
            for negative in negatives:
                assert abs(times[anchor, positive, negative] - share) < 6 * np.sqrt(share)


def items_of(column, kind, split=None):
    n = len(column)
    split = np.array(split or ["train"] * n)
    return ItemSet(
        np.zeros((n, 1, 1, 1), np.uint8),
        np.arange(n).astype(str),
        {"price": np.array(column)},
        split,
        (Condition("price", kind),),
    )


@pytest.mark.parametrize("kind", ["numeric", "ordinal", "set"])
def test_missing_values_and_other_splits_take_no_part(kind):
    """All items define the scale, so that every split has the same least gap."""
    rng = np.random.default_rng(0)
    column = ["" if i % 5 == 0 else str(x) for i, x in enumerate(rng.integers(0, 30, 90))]
    column[1] = "200"
    split = ["train", "train", "test"] * 30
    items = items_of(column, kind, split)
    triplets = draw_triplets(items, "test", 2_000, seed=0)
    for role in triplets[:3]:
        assert all(column[i] != "" and split[i] == "test" for i in role)
    if kind == "numeric":
        values = np.array([float(value or "nan") for value in column])
        gaps = [np.abs(values[triplets.anchor] - values[role]) for role in triplets[1:3]]
        assert (gaps[1] - gaps[0]).min() >= 0.1 * (200 - np.nanmin(values))


@pytest.mark.parametrize(
    "kind, column, words",
    [
        ("numeric", ["1"] * 6, "clearly closer .* 6 labelled items of 1 value;"),
        ("ordinal", ["1", "2", "", "", "", ""], "clearly closer .* 2 labelled items of 2 values"),
        ("set", ["a;b", "a;c", "a", "a", "a", ""], "share a member .* 5 labelled items of 3 values"),
    ],
)
def test_an_impossible_condition_of_every_kind_is_named(kind, column, words):
    with pytest.raises(UserError, match=rf"'price' has no triplet in the train split: .*{words}"):
        draw_triplets(items_of(column, kind), "train", 10, seed=0)


def test_the_number_of_triplets_of_many_values_is_estimated():
    """From a sample of anchors, to a few per cent."""
    rng = np.random.default_rng(0)
    numbers = [str(x) for x in rng.gamma(2, 50, 400)]
    scale = scale_of(np.array(numbers), "numeric")
    gaps = np.abs(scale.values[:, None] - scale.values)
    np.fill_diagonal(gaps, np.nan)
    exact = sum(
        int((row[~np.isnan(row)] >= positive + scale.step).sum()) for row in gaps for positive in row[~np.isnan(row)]
    )
    assert count_by_gap(scale.values, scale.step) == pytest.approx(exact, rel=0.03)
    sets = [";".join(sorted(rng.choice(list("abcdefghijklmnop"), 4, replace=False))) for _ in range(700)]
    members = np.array([[letter in members for letter in "abcdefghijklmnop"] for members in sets], int)
    shares = members @ members.T > 0
    exact = int(((shares.sum(1) - 1) * (~shares).sum(1)).sum())
    assert count_by_members(np.array(sets)) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("kind", ["numeric", "set"])
def test_large_sets_of_every_kind_are_drawn_quickly(kind):
    """200,000 triplets from 50,000 items."""
    import time

    rng = np.random.default_rng(0)
    if kind == "numeric":
        column = [str(x) for x in rng.normal(size=50_000)]
    else:
        tags = [f"tag{i}" for i in range(40)]
        column = [";".join(rng.choice(tags, 2, replace=False)) for _ in range(50_000)]
    items = items_of(column, kind)
    began = time.process_time()
    draw_triplets(items, "train", 200_000, seed=0)
    assert time.process_time() - began < 4
