"""Retrieval against a naive loop: every kind of condition, ties, missing labels, chunks, memory."""

import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.evaluate import bootstrap
from csn_jax.evaluate import retrieval as module
from csn_jax.evaluate.retrieval import METRICS, likeness, measure, outcomes, results
from csn_jax.evaluate.table import results_table
from csn_jax.runtime.record import Results


def retrieval(*arguments) -> dict[str, tuple[float, int]]:
    """{"condition/metric": (sum over queries, number of queries)}."""
    return {
        f"{name}/{metric}": (math.fsum(column), len(column))
        for name, values in outcomes(*arguments).items()
        for metric, column in zip(METRICS, values, strict=True)
    }


def alike(kind: str, a: str, b: str, column: list[str]) -> bool:
    """Whether two known labels are alike, by the definition."""
    if kind == "set":
        return bool(set(a.split(";")) & set(b.split(";")))
    if kind == "numeric":
        numbers = [float(value) for value in column if value]
        return a == b or abs(float(a) - float(b)) < 0.1 * (max(numbers) - min(numbers))
    return a == b


def naive(embeddings, mask, column, kind, n_queries=None) -> dict[str, list[float]]:
    """{metric: a value per counted query}: all other known items sorted, in float64, item by item."""
    values = {metric: [] for metric in METRICS}
    for q in range(n_queries or len(column)):
        ranked = []
        for g in range(len(column)):
            if g != q and column[q] and column[g]:
                difference = embeddings[q].astype(float) * mask.astype(float) - embeddings[g].astype(
                    float
                ) * mask.astype(float)
                distance = math.sqrt(sum((difference + 1e-6) ** 2))
                ranked.append((distance, alike(kind, column[q], column[g], column)))
        ranked = [like for _, like in sorted(ranked)]  # at equal distance False comes before True
        n = sum(ranked)
        if n == 0:
            continue
        for k in (1, 5, 10):
            values[f"recall@{k}"].append(float(any(ranked[:k])))
        values["precision@10"].append(sum(ranked[:10]) / len(ranked[:10]))
        values["chance"].append(n / len(ranked))
        values["r_precision"].append(sum(ranked[:n]) / n)
        values["map@r"].append(sum(sum(ranked[:i]) / i for i in range(1, n + 1) if ranked[i - 1]) / n)
    return values


def columns(n: int, rng) -> dict[str, tuple[str, list[str]]]:
    """{name: (kind, labels)}, a tenth of them unknown."""

    def members():
        return ";".join(rng.choice(list("uvwxyz"), size=rng.integers(1, 4), replace=False))

    labels = {
        "few": ("categorical", rng.integers(3, size=n).astype(str).tolist()),
        "many": ("categorical", [f"v{i}" for i in rng.integers(n // 6, size=n)]),
        "level": ("ordinal", rng.integers(5, size=n).astype(str).tolist()),
        "price": ("numeric", [f"{value:g}" for value in np.round(rng.normal(size=n) * 20, 1)]),
        "tags": ("set", [members() for _ in range(n)]),
    }
    for _, column in labels.values():
        for row in np.flatnonzero(rng.random(n) < 0.1):
            column[row] = ""
    return labels


def item_set(labels: dict[str, tuple[str, list[str]]], split=None) -> ItemSet:
    conditions = tuple(Condition(name, kind) for name, (kind, _) in labels.items())
    labels = {name: np.array(column) for name, (_, column) in labels.items()}
    n = len(next(iter(labels.values())))
    split = np.full(n, "test") if split is None else np.array(split)
    return ItemSet(np.zeros((n, 1)), np.arange(n).astype(str), labels, split, conditions)


def make_case(n: int = 90, width: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = columns(n, rng)
    masks = np.maximum(rng.normal(0.5, 0.7, size=(len(labels), width)), 0).astype(np.float32)
    return rng.normal(size=(n, width)).astype(np.float32), masks, item_set(labels), labels


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_naive_loop(seed):
    """Every metric of every query, for labels of every kind with missing values. Sums are exact."""
    embeddings, masks, items, labels = make_case(seed=seed)
    measured, sums = outcomes(embeddings, masks, items, "test"), retrieval(embeddings, masks, items, "test")
    assert list(measured) == list(labels) and len(sums) == len(labels) * len(METRICS)
    for row, (name, (kind, column)) in enumerate(labels.items()):
        expected = naive(embeddings, masks[row], column, kind)
        for metric, values in zip(METRICS, measured[name], strict=True):
            np.testing.assert_allclose(values, expected[metric], rtol=1e-12, err_msg=f"{name} {metric}")
            assert sums[f"{name}/{metric}"] == (math.fsum(values), len(values))
        assert 0.02 < np.mean(expected["r_precision"]) < 0.98  # else the test would say little


def test_equals_a_naive_loop_far_from_the_origin():
    """Squares of large coordinates would hide the differences of near items, so they are taken about the mean."""
    rng = np.random.default_rng(0)
    embeddings = (rng.normal(size=(80, 4)) + 300).astype(np.float32)
    column, mask = rng.integers(8, size=80).astype(str).tolist(), np.ones(4, np.float32)
    expected = naive(embeddings, mask, column, "categorical")
    measured = measure(embeddings, mask, likeness(np.array(column), "categorical"), np.arange(80))
    np.testing.assert_allclose(measured, [expected[metric] for metric in METRICS], rtol=1e-12)


def test_equals_a_naive_loop_where_half_of_many_are_alike():
    """The nearest half of 1,500 must be ranked; a partition alone does not rank."""
    rng = np.random.default_rng(0)
    embeddings, mask = rng.normal(size=(1_500, 3)).astype(np.float32), np.ones(3, np.float32)
    column = (embeddings[:, 0] + rng.normal(size=1_500) > 0).astype(int).astype(str).tolist()
    expected = naive(embeddings, mask, column, "categorical", n_queries=20)
    measured = measure(embeddings, mask, likeness(np.array(column), "categorical"), np.arange(20))
    np.testing.assert_allclose(measured, [expected[metric] for metric in METRICS], rtol=1e-12)


def test_numbers_a_tenth_of_the_range_apart_are_not_alike():
    """Numbers that are closer are alike, and so are equal ones."""

    def pairs(column):
        labels = likeness(np.array(column), "numeric")
        return [
            [bool(labels.low[q, 0] <= labels.code[g, 0] < labels.high[q, 0]) for g in range(len(column))]
            for q in range(len(column))
        ]

    assert pairs(["0", "10", "100", "9.9"])[0] == [True, False, False, True]
    assert pairs(["0", "10", "100", "9.9"])[1] == [False, True, False, True]
    assert pairs(["3", "3.0"]) == [[True, True]] * 2
    # Exactly a tenth apart, in decimals that no float represents: not alike in either direction.
    apart = np.abs(np.subtract.outer(np.arange(101), np.arange(101)))
    for start in (0, 1_000):
        assert (np.array(pairs([f"{start + i / 10:.1f}" for i in range(101)])) == (apart < 10)).all()


def test_the_range_is_that_of_all_items():
    """The least clear difference does not depend on the split, as for triplets."""
    embeddings = np.arange(4, dtype=np.float32)[:, None]
    items = item_set({"price": ("numeric", ["0", "5", "9", "100"])}, ["test"] * 3 + ["train"])
    measured = retrieval(embeddings, np.ones((1, 1), np.float32), items, "test")
    assert measured["price/r_precision"] == (3, 3)


def test_a_tie_is_wrong():
    """At equal distance, the item that is not alike comes first, in any order of items."""
    embeddings = np.array([[0.0], [1], [1], [5]], np.float32)
    for column in (["a", "a", "b", "b"], ["a", "b", "a", "b"]):
        measured = measure(embeddings, np.ones(1, np.float32), likeness(np.array(column), "categorical"), np.array([0]))
        assert dict(zip(METRICS, measured[:, 0], strict=True)) == {
            "recall@1": 0,
            "recall@5": 1,
            "recall@10": 1,
            "precision@10": 1 / 3,
            "r_precision": 0,
            "map@r": 0,
            "chance": 1 / 3,
        }
    column = np.array(["a", "a", "b", "b"])
    dead = measure(embeddings, np.zeros(1, np.float32), likeness(column, "categorical"), np.arange(4))
    exact = [METRICS.index(metric) for metric in ("recall@1", "r_precision", "map@r")]
    assert not dead[exact].any()
    nan = measure(
        np.full_like(embeddings, np.nan), np.ones(1, np.float32), likeness(column, "categorical"), np.arange(4)
    )
    assert not nan[exact].any()


def test_an_embedding_of_nan_affects_only_its_own_item():
    """It is found last, and the others are ranked as if it were far away."""
    embeddings, masks, items, _ = make_case()
    far = embeddings.copy()
    embeddings[7], far[7] = np.nan, 1e4
    for name, values in outcomes(far, masks, items, "test").items():
        others = np.flatnonzero(items.labels[name] != "") != 7
        if values.shape[1] == len(others):
            measured = outcomes(embeddings, masks, items, "test")[name]
            assert np.isfinite(measured).all()


def test_a_query_does_not_find_itself():
    """Two alike items at opposite ends: both find the item between them first."""
    embeddings = np.array([[-1.0], [0], [1]], np.float32)
    measured = measure(
        embeddings, np.ones(1, np.float32), likeness(np.array(["a", "b", "a"]), "categorical"), np.arange(3)
    )
    assert measured.shape == (len(METRICS), 2) and not measured[0].any()  # the only b is not a query


@pytest.mark.parametrize("block", [1, 90, 91, 400, 90 * 64])
def test_chunks_change_nothing(block, monkeypatch):
    """Single queries, sizes around a chunk's border, and a short last chunk."""
    embeddings, masks, items, _ = make_case()
    whole = outcomes(embeddings, masks, items, "test")
    monkeypatch.setattr(module, "BLOCK", block)
    for name, values in outcomes(embeddings, masks, items, "test").items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)


def test_the_order_of_items_does_not_matter():
    """Also with many exact ties: all coordinates are 0 or 1."""
    rng = np.random.default_rng(0)
    embeddings = rng.integers(2, size=(90, 5)).astype(np.float32)
    labels = columns(90, rng)
    masks = np.ones((len(labels), 5), np.float32)
    order = rng.permutation(90)
    shuffled = {name: (kind, [column[i] for i in order]) for name, (kind, column) in labels.items()}
    measured = retrieval(embeddings, masks, item_set(labels), "test")
    for name, (total, count) in retrieval(embeddings[order], masks, item_set(shuffled), "test").items():
        assert count == measured[name][1] and total == pytest.approx(measured[name][0], rel=1e-12)


def test_only_the_split_is_read():
    """Items of other splits are never in the gallery."""
    embeddings, masks, items, labels = make_case()
    expected = retrieval(embeddings, masks, items, "test")
    split = np.full(180, "train")
    split[::2] = "test"
    twice = np.full((180, embeddings.shape[1]), np.nan, np.float32)
    twice[::2] = embeddings
    doubled = {name: (kind, np.repeat(column, 2).tolist()) for name, (kind, column) in labels.items()}
    assert retrieval(twice, masks, item_set(doubled, split), "test") == expected


def test_conditions_without_a_query_are_left_out():
    """No labels, only unknown labels, or no two alike items."""
    embeddings, masks, items, _ = make_case()
    n = len(embeddings)
    labels = items.labels | {"few": np.full(n, ""), "many": np.arange(n).astype(str)}
    del labels["tags"]
    items = dataclasses.replace(items, labels=labels)
    assert set(outcomes(embeddings, masks, items, "test")) == {"level", "price"}
    nobody = results(embeddings, masks, items, "validation")
    assert nobody["by_condition"] == {}


def test_one_condition_and_joined_specialists():
    """C = 1; and masks that are blocks of a wide embedding, so that each condition sees its own block."""
    embeddings, masks, items, labels = make_case(width=5)
    single = dataclasses.replace(items, conditions=items.conditions[:1])
    assert list(outcomes(embeddings, masks[:1], single, "test")) == ["few"]
    rng = np.random.default_rng(1)
    wide = np.concatenate([embeddings, rng.normal(size=embeddings.shape).astype(np.float32)], axis=1)
    two = dataclasses.replace(items, conditions=items.conditions[1:3])
    blocks = np.repeat(np.eye(2, dtype=np.float32), 5, axis=1)
    joined = outcomes(wide, blocks, two, "test")
    for row, name in enumerate(("many", "level")):
        kind, column = labels[name]
        alone = naive(wide[:, 5 * row : 5 * row + 5], np.ones(5, np.float32), column, kind)
        np.testing.assert_allclose(joined[name], [alone[metric] for metric in METRICS], rtol=1e-12)


def test_a_limit_samples_the_queries():
    """As many as the limit, the same each time, each with the same value as without a limit."""
    embeddings, masks, items, _ = make_case()
    whole, part = (outcomes(embeddings, masks, items, "test", limit)["few"] for limit in (None, 30))
    assert part.shape == (len(METRICS), 30)
    np.testing.assert_array_equal(part, outcomes(embeddings, masks, items, "test", 30)["few"])
    assert {tuple(column) for column in part.T} <= {tuple(column) for column in whole.T}
    np.testing.assert_array_equal(outcomes(embeddings, masks, items, "test", 90)["few"], whole)


def test_results_have_the_shape_of_results_json():
    """Means inside their intervals, counts, plain numbers; and the table of them."""
    embeddings, masks, items, labels = make_case()
    measured, sums = (f(embeddings, masks, items, "test") for f in (results, retrieval))
    assert json.loads(json.dumps(measured)) == measured
    assert list(measured) == ["by_condition", "ci95", "chance", "n_queries"]
    for name in labels:
        assert measured["chance"]["by_condition"][name] == sums[f"{name}/chance"][0] / sums[f"{name}/chance"][1]
        assert list(measured["by_condition"][name]) == [*METRICS[:-1]]
        for metric in METRICS[:-1]:
            total, count = sums[f"{name}/{metric}"]
            low, high = measured["ci95"]["by_condition"][name][metric]
            assert measured["by_condition"][name][metric] == total / count
            assert measured["n_queries"]["by_condition"][name] == count
            assert low <= total / count <= high and (low < high or total in (0, count))
    nothing = {"by_condition": {}}
    head = {"variant": "learned", "conditions": [], "split": "test", "step": 1}
    head |= {"triplet_error": {"overall": 0.5} | nothing, "ci95": {"overall": [0.4, 0.6]} | nothing}
    head |= {"n_triplets": {"overall": 9} | nothing}
    sizes = {"by_condition": {"price": 7}}
    table = results_table(Results.from_object(head | {"retrieval": measured}))
    value = measured["by_condition"]["price"]["r_precision"]
    assert table.count("\n\n") == 1 and f"{value:.2%}" in table and "R-prec." in table
    for part in (measured["by_condition"]["price"]["precision@10"], measured["chance"]["by_condition"]["price"]):
        assert f"{part:.2%}" in table
    old = {"by_condition": {"price": {"recall@1": 0.25, "r_precision": 0.5, "map@r": 0.125}}, "n_queries": sizes}
    assert re.search(
        r"price +25.00% +- +- +50.00% +12.50% +7", results_table(Results.from_object(head | {"retrieval": old}))
    )
    assert "retrieval" not in results_table(
        Results.from_object(head | {"retrieval": results(embeddings, masks, items, "train")})
    )


def test_joint_intervals_equal_separate_ones(monkeypatch):
    """For any number of draws at a time. A naive bootstrap agrees within sampling noise."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.random(300) < 0.3, rng.random(300), np.full(300, 0.5)]).astype(float)
    measured = bootstrap.intervals(values, np.ones(300))
    monkeypatch.setattr(bootstrap, "DRAWN", 3_000)
    np.testing.assert_allclose(bootstrap.intervals(values, np.ones(300)), measured, rtol=1e-14)
    assert measured.shape == (3, 2) and measured[2].tolist() == [0.5, 0.5]
    draws = rng.integers(300, size=(20_000, 300))
    for row in range(2):
        expected = np.percentile(values[row][draws].mean(axis=1), [2.5, 97.5])
        alone = np.mean([bootstrap.intervals(values[row : row + 1], np.ones(300), s)[0] for s in range(20)], axis=0)
        assert np.abs(alone - expected).max() < 0.04 * (expected[1] - expected[0])
        assert np.abs(measured[row] - expected).max() < 0.2 * (expected[1] - expected[0])


MEMORY = """
import sys, time
import numpy as np
from csn_jax.evaluate.retrieval import likeness, measure, results
from csn_jax.data.item_set import Condition, ItemSet

n = int(sys.argv[1])
rng = np.random.default_rng(0)
embeddings = rng.normal(size=(n, 64)).astype(np.float32)
label = rng.integers(int(sys.argv[2]), size=n).astype(str)
mask = np.ones((1, 64), np.float32)
measure(embeddings[:100], mask[0], likeness(label[:100], "categorical"), np.arange(100))  # the memory of JAX itself
items = ItemSet(np.zeros((n, 1)), label, {"c": label}, np.full(n, "test"), (Condition("c", "categorical"),))
def high_water():  # in kB; ru_maxrss would start at that of pytest, which forked
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
before, began = high_water(), time.perf_counter()
measured = results(embeddings, mask, items, "test")
peak = high_water()
print((peak - before) // 1024, peak // 1024, time.perf_counter() - began, measured["n_queries"]["by_condition"]["c"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_values", [2, 62])
def test_memory_is_bounded(n_values):
    """20,000 x 20,000: all distances would take 1.6 GB. The peak grows by less than a fifth of that."""
    done = subprocess.run([sys.executable, "-c", MEMORY, "20000", str(n_values)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown, _, _, n_queries = done.stdout.split()
    assert int(n_queries) == 20_000 and int(grown) < 320


@pytest.mark.parametrize("kind", ["categorical", "numeric", "ordinal", "set"])
def test_a_column_without_values_has_no_known_label(kind):
    assert not likeness(np.array(["", ""]), kind).known.any()
