"""Triplet error and its interval against naive loops."""

import math
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from csn_jax.config import PreprocessConfig
from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.data.triplets import Triplets
from csn_jax.evaluate import triplet_error as module
from csn_jax.evaluate.bootstrap import interval_of_difference
from csn_jax.evaluate.triplet_error import difference, interval, results, triplet_error, wrong_triplets


class Case(NamedTuple):
    embeddings: np.ndarray
    masks: np.ndarray
    items: ItemSet
    triplets: Triplets


def make_case(n_triplets: int, n_items: int = 60, width: int = 8, n_conditions: int = 3, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    conditions = tuple(Condition(f"c{i}", "categorical") for i in range(n_conditions))
    items = ItemSet(np.zeros((n_items, 1)), np.arange(n_items).astype(str), {}, np.full(n_items, "test"), conditions)
    columns = [rng.integers(n_items, size=n_triplets).astype(np.int32) for _ in range(3)]
    triplets = Triplets(*columns, rng.integers(n_conditions, size=n_triplets).astype(np.int32))
    masks = np.maximum(rng.normal(0.5, 0.7, size=(n_conditions, width)), 0).astype(np.float32)
    return Case(rng.normal(size=(n_items, width)).astype(np.float32), masks, items, triplets)


def naive(case: Case) -> list[bool]:
    """Triplet by triplet and dimension by dimension, in float64. Equal distances are wrong."""
    wrong = []
    for anchor, positive, negative, row in zip(*(column.tolist() for column in case.triplets), strict=True):

        def squares(other, anchor=anchor, row=row):
            total = 0.0
            for a, b, m in zip(case.embeddings[anchor], case.embeddings[other], case.masks[row], strict=True):
                total += (float(a) * float(m) - float(b) * float(m) + 1e-6) ** 2
            return math.sqrt(total)

        wrong.append(not squares(negative) > squares(positive))
    return wrong


def test_equals_a_naive_loop():
    """Which triplets are wrong, and the counts overall and per condition."""
    case = make_case(3000)
    wrong, expected = wrong_triplets(case.embeddings, case.masks, case.triplets), naive(case)
    assert wrong.dtype == bool and wrong.tolist() == expected
    counts = triplet_error(*case)
    assert counts["overall"] == (sum(expected), 3000)
    for row in range(3):
        of = [w for w, c in zip(expected, case.triplets.condition.tolist(), strict=True) if c == row]
        assert counts[f"c{row}"] == (sum(of), len(of))
    assert 0.3 < np.mean(expected) < 0.7  # else the test would say little


def test_a_tie_is_wrong():
    """Equal distances, the same item in both roles, zero masks and NaN: all wrong."""
    case = make_case(50)
    same = case.triplets._replace(negative=case.triplets.positive)
    assert wrong_triplets(case.embeddings, case.masks, same).all()
    mirrored = np.array([[0, 0], [3, 0], [0, 3]], np.float32)
    triplet = Triplets(*(np.array([i], np.int32) for i in (0, 1, 2, 0)))
    assert wrong_triplets(mirrored, np.ones((1, 2), np.float32), triplet).tolist() == [True]
    assert wrong_triplets(mirrored, np.array([[1, 1.01]], np.float32), triplet).tolist() == [False]
    assert wrong_triplets(case.embeddings, np.zeros_like(case.masks), case.triplets).all()
    assert wrong_triplets(np.full_like(case.embeddings, np.nan), case.masks, case.triplets).all()


def test_each_triplet_uses_the_mask_of_its_condition():
    """A triplet that is right under one condition and wrong under the other."""
    embeddings = np.array([[0, 0], [0, 1], [1, 0]], np.float32)
    both = Triplets(*(np.array([i, i], np.int32) for i in range(3)), condition=np.array([0, 1], np.int32))
    assert wrong_triplets(embeddings, np.eye(2, dtype=np.float32), both).tolist() == [False, True]


@pytest.mark.parametrize("n", [1, 99, 100, 101, 200, 250])
def test_chunks_cover_every_triplet_once(n, monkeypatch):
    """Sizes around a chunk's border and a short last chunk give the same results in the same order."""
    case = make_case(n, seed=n)
    whole = wrong_triplets(case.embeddings, case.masks, case.triplets)
    monkeypatch.setattr(module, "SMALL", 50)
    monkeypatch.setattr(module, "CHUNK", 100)
    np.testing.assert_array_equal(wrong_triplets(case.embeddings, case.masks, case.triplets), whole)
    assert triplet_error(*case)["overall"] == (int(whole.sum()), n)


def test_the_error_is_not_a_mean_of_chunk_means(monkeypatch):
    """101 triplets in chunks of 100, only the last one wrong: 1 of 101, not the mean of 0 and 1."""
    monkeypatch.setattr(module, "SMALL", 50)
    monkeypatch.setattr(module, "CHUNK", 100)
    embeddings = np.array([[0.0], [1.0], [2.0]], np.float32)
    positive, negative = np.full(101, 1, np.int32), np.full(101, 2, np.int32)
    positive[-1], negative[-1] = 2, 1
    triplets = Triplets(np.zeros(101, np.int32), positive, negative, np.zeros(101, np.int32))
    items = make_case(1, n_conditions=1).items
    assert triplet_error(embeddings, np.ones((1, 1), np.float32), items, triplets)["overall"] == (1, 101)


def test_results_have_the_shape_of_results_json():
    """Each error is a division of its counts and lies in its interval. Numbers are plain."""
    case = make_case(2000)
    measured, counts = results(*case), triplet_error(*case)
    assert set(measured) == {"triplet_error", "ci95", "n_triplets"}
    for part in measured.values():
        assert list(part) == ["overall", "by_condition"] and list(part["by_condition"]) == ["c0", "c1", "c2"]
    assert measured["triplet_error"]["overall"] == counts["overall"][0] / 2000
    assert measured["n_triplets"]["overall"] == 2000 == sum(measured["n_triplets"]["by_condition"].values())
    for name, (wrong, total) in counts.items():
        error, (low, high) = (
            (part["overall"] if name == "overall" else part["by_condition"][name])
            for part in (measured["triplet_error"], measured["ci95"])
        )
        assert error == wrong / total and type(error) is float
        assert low < error < high
    wrong = wrong_triplets(case.embeddings, case.masks, case.triplets)
    of = case.triplets.condition == 1
    assert measured["ci95"]["by_condition"]["c1"] == list(interval(wrong[of], case.triplets.anchor[of]))


def test_the_interval_is_deterministic():
    """The same triplets have the same interval; another seed moves it a little."""
    rng = np.random.default_rng(0)
    wrong, anchor = rng.random(2000) < 0.2, rng.integers(300, size=2000)
    assert interval(wrong, anchor) == interval(wrong, anchor)
    low, high = interval(wrong, anchor)
    other_low, other_high = interval(wrong, anchor, seed=1)
    assert (low, high) != (other_low, other_high)
    assert abs(low - other_low) < 0.1 * (high - low) > abs(high - other_high)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("n_anchors", [1, 2, 7, 500])
def test_the_interval_contains_the_estimate(share, n_anchors):
    """Also if nothing or everything is wrong, and with very few anchors."""
    rng = np.random.default_rng(int(1000 * share) + n_anchors)
    wrong, anchor = rng.random(3000) < share, rng.integers(n_anchors, size=3000)
    low, high = interval(wrong, anchor)
    assert 0 <= low <= wrong.mean() <= high <= 1


def test_the_interval_equals_a_naive_bootstrap():
    """Within sampling noise. The loop draws anchors and pools all their triplets."""
    rng = np.random.default_rng(0)
    anchor = rng.integers(120, size=1800) ** 2 // 120
    wrong = rng.random(1800) < rng.random(120)[anchor]
    of = [wrong[anchor == a] for a in np.unique(anchor)]
    errors = [np.concatenate([of[i] for i in rng.integers(len(of), size=len(of))]).mean() for _ in range(4000)]
    expected = np.percentile(errors, [2.5, 97.5])
    measured = np.mean([interval(wrong, anchor, seed) for seed in range(20)], axis=0)
    # The percentiles 5 and 95 would be 0.08 away.
    assert np.abs(measured - expected).max() < 0.04 * (expected[1] - expected[0])


def test_few_groups_are_never_certain():
    """Five anchors without a mistake do not prove an error of 0: Wilson's interval of 5 ends at 43 %."""
    low, high = interval(np.zeros(20, bool), np.arange(20) % 5)
    assert low == 0 and high == pytest.approx(0.4345, abs=1e-4)
    low, high = interval(np.ones(20, bool), np.arange(20) % 5)
    assert low == pytest.approx(1 - 0.4345, abs=1e-4) and high == 1
    low, high = interval(np.zeros(40, bool), np.arange(40))
    assert low == 0 and high == pytest.approx(1.96**2 / (40 + 1.96**2), abs=1e-4)  # Wilson's for 0 of 40


def test_few_failures_have_wilsons_interval():
    """In independent groups. Triplets that fail together count as one; that independent triplets share an anchor
    changes little, as the design effect is near 1."""

    def wilson(wrong: int, n: int) -> tuple[float, float]:
        from scipy.stats import binomtest

        return tuple(binomtest(wrong, n).proportion_ci(method="wilson"))

    for wrong, n in ((1, 31), (3, 40), (40, 500), (90, 100)):
        assert interval(np.arange(n) < wrong, np.arange(n)) == pytest.approx(wilson(wrong, n), rel=0.04), (wrong, n)
    together = interval(np.repeat(np.arange(40) < 4, 10), np.repeat(np.arange(40), 10))
    assert together == pytest.approx(wilson(4, 40), rel=0.03)
    alone = np.zeros((40, 10), bool)
    alone[:, 0] = np.arange(40) < 30
    low, high = interval(alone.ravel(), np.repeat(np.arange(40), 10))
    narrow, wide = wilson(30, 400), wilson(3, 40)
    assert narrow[1] * 0.8 < high < narrow[1] * 1.2 < wide[1] and narrow[0] * 0.8 < low < narrow[0] * 1.2


def test_a_design_effect_of_few_failures_is_raised():
    """Sixty anchors of four triplets; three of them have failures. Step by step, as `_worth` says."""
    sums, size, n = [2, 1, 1] + [0] * 57, 4, 60
    share = sum(sums) / (n * size)
    variance = sum((failures - share * size) ** 2 for failures in sums) / (n * size) ** 2 * n / (n - 1)
    effect = variance / (share * (1 - share) / (n * size))
    raised = min(effect * (1 + 2 / 3), size)  # at most as if all triplets of an anchor were alike
    worth, z = n * size / raised, 1.959964
    middle = (share + z * z / (2 * worth)) / (1 + z * z / worth)
    half = z * math.sqrt(share * (1 - share) / worth + z * z / (4 * worth**2)) / (1 + z * z / worth)
    wrong = np.concatenate([np.arange(size) < failures for failures in sums])
    assert interval(wrong, np.repeat(np.arange(n), size)) == pytest.approx((middle - half, middle + half), rel=1e-9)
    assert 1 < effect < raised < size


def test_a_difference_of_few_groups_is_not_certain():
    """Of 50 groups one is better: its Wilson interval above, and below also the room for a loss that was not seen.
    Groups that differ in nothing leave room on both sides."""
    low, high = interval_of_difference((np.arange(50) < 1).astype(float), np.ones(50))
    gain_low, gain_high, unseen = 0.003539, 0.104954, 1.96**2 / (50 + 1.96**2)
    assert high == pytest.approx(gain_high, rel=0.03)
    assert low == pytest.approx(0.02 - math.hypot(0.02 - gain_low, unseen), rel=0.03)
    low, high = interval_of_difference(np.zeros(20), np.full(20, 3))
    assert low == -high and high == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-4)
    rng = np.random.default_rng(0)  # many of both signs: a plain mean
    net = rng.choice([-1.0, 0, 0, 1], 49)
    assert np.diff(interval_of_difference(net, np.ones(49)))[0] == pytest.approx(2 * 1.96 * net.std() / 7, rel=0.1)


def test_the_interval_is_wider_when_triplets_cluster():
    """Equal errors are less certain on few anchors, each entirely right or wrong, than on many."""
    rng = np.random.default_rng(0)
    wrong = np.repeat(rng.random(100) < 0.3, 40)
    low, high = interval(wrong, np.repeat(np.arange(100), 40))
    single_low, single_high = interval(wrong, np.arange(4000))
    assert high - low > 4 * (single_high - single_low)  # sqrt(40) = 6.3 in theory


def test_the_interval_covers_the_true_error():
    """Over repeated draws of anchors with a known error, about 95 % of the intervals contain it."""
    rng = np.random.default_rng(0)
    hits, repeats, n_anchors = 0, 150, 200
    for _ in range(repeats):
        rates = rng.beta(2, 8, size=n_anchors)  # mean 0.2; triplets of one anchor are dependent
        anchor = np.repeat(np.arange(n_anchors), rng.integers(1, 8, size=n_anchors))
        low, high = interval(rng.random(len(anchor)) < rates[anchor], anchor)
        hits += low <= 0.2 <= high
    assert 0.88 <= hits / repeats <= 0.99


def test_the_interval_is_fast():
    """40,000 triplets over 20,000 anchors."""
    rng = np.random.default_rng(0)
    wrong, anchor = rng.random(40_000) < 0.1, rng.integers(20_000, size=40_000)
    began = time.process_time()
    interval(wrong, anchor)
    assert time.process_time() - began < 2


def test_evaluation_embeds_each_item_once():
    """20,000 items and 40,000 triplets: each item of the split is embedded exactly once, and no other item. Beyond
    that, the device computes only the padding of the last chunk."""
    from csn_jax.data.dataset import Dataset
    from csn_jax.data.triplets import draw_triplets
    from csn_jax.evaluate.measure import measure
    from csn_jax.model.model import CHUNK, Model
    from csn_jax.runtime.record import Record
    from csn_jax.runtime.sharding import make_shardings

    n, n_test = 25_000, 20_000
    number = np.arange(n)
    inputs = np.stack([number % 256, number // 256], axis=1).astype(np.uint8).reshape(n, 2, 1, 1)
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(10, size=n).astype(str) for name in ("x", "y")}
    conditions = tuple(Condition(name, "categorical") for name in labels)
    split = np.full(n, "train")
    split[rng.permutation(n)[:n_test]] = "test"
    items = ItemSet(inputs, number.astype(str), labels, split, conditions)
    triplets = draw_triplets(items, "test", 20_000, seed=0)

    def numbers(inputs) -> np.ndarray:
        pixels = np.asarray(inputs).reshape(-1, 2).astype(int)
        return pixels[:, 0] + 256 * pixels[:, 1]

    embedded, computed = [], []

    class Watched(Model):
        def _in_chunks(self, function, inputs, rows, progress=False):
            embedded.append(rows)
            return super()._in_chunks(function, inputs, rows, progress)

    def network(inputs):
        computed.append(numbers(inputs))
        return jnp.asarray(np.random.default_rng(0).normal(size=(len(inputs), 4)).astype(np.float32))

    masks, shape = np.ones((2, 4), np.float32), inputs.shape[1:]
    model = Watched(
        ("x", "y"),
        masks,
        7,
        shape,
        None,
        4,
        False,
        network,
        network,
        str,
        make_shardings(),
        PreprocessConfig(),
        None,
        None,
    )
    record = Record(source="none", conditions=conditions, input_shape=shape, items={}, triplets={})
    measured, embeddings = measure(model, Dataset(items, {"test": triplets}, record), "test", "learned")
    np.testing.assert_array_equal(np.sort(np.concatenate(embedded)), np.flatnonzero(split == "test"))
    assert embeddings.shape == (n, 4) and not embeddings[split == "train"].any()
    computed = np.concatenate(computed)
    assert set(computed) == set(np.flatnonzero(split == "test")) and len(computed) - n_test < CHUNK
    assert measured.n_triplets["overall"] == 40_000 and measured.step == 7


def test_a_difference_is_paired():
    """It is the difference of the two errors. Its interval is a bootstrap over anchors with both models' failures, far
    narrower than those of the errors if the models fail alike."""
    case = make_case(3000)
    wrong = wrong_triplets(case.embeddings, case.masks, case.triplets)
    rng = np.random.default_rng(1)
    other = wrong | (rng.random(3000) < 0.04)  # fails where the first does, and elsewhere too
    measured = difference(wrong, other, case.items, case.triplets)
    for name in ("overall", "c0", "c1", "c2"):
        of = np.full(3000, True) if name == "overall" else case.triplets.condition == int(name[1])
        value, (low, high) = (
            part["overall"] if name == "overall" else part["by_condition"][name] for part in measured.values()
        )
        assert value == pytest.approx(np.mean(other[of]) - np.mean(wrong[of]), abs=1e-12)
        groups = {}
        for t in np.flatnonzero(of):
            groups.setdefault(int(case.triplets.anchor[t]), []).append(float(other[t]) - float(wrong[t]))
        groups, drawn = list(groups.values()), []
        for _ in range(1000):
            sample = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
            drawn.append(sum(map(sum, sample)) / sum(map(len, sample)))
        naive_low, naive_high = np.percentile(drawn, [2.5, 97.5])
        assert (low, high) == pytest.approx((naive_low, naive_high), abs=0.15 * (naive_high - naive_low))
    low, high = interval(wrong, case.triplets.anchor)
    assert measured["ci95"]["overall"][0] > 0 and np.diff(measured["ci95"]["overall"]) < (high - low) / 2


def test_many_embeddings_are_compacted_without_a_difference(monkeypatch):
    """Only the rows that triplets name are taken; the others may be anything."""
    rng = np.random.default_rng(0)
    embeddings, masks = rng.normal(size=(500, 6)).astype(np.float32), rng.random((2, 6)).astype(np.float32)
    roles = [rng.choice(np.arange(0, 500, 3), 300).astype(np.int32) for _ in range(3)]
    triplets = Triplets(*roles, rng.integers(0, 2, 300).astype(np.int32))
    expected = wrong_triplets(embeddings, masks, triplets)
    assert 0 < expected.sum() < 300
    monkeypatch.setattr(module, "LARGE", 0)
    embeddings[1::3] = np.nan
    np.testing.assert_array_equal(wrong_triplets(embeddings, masks, triplets), expected)
