"""What needs no masks: raw vectors, four examples per value, and linear probes."""

import dataclasses
import itertools

import numpy as np
import pytest

from csn_jax.data.item_set import SPLITS, Condition, ItemSet
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.evaluate import baselines, ladder
from csn_jax.evaluate.baselines import wrong_by

N = 900
KINDS = {"colour": "categorical", "price": "numeric", "level": "ordinal", "tags": "set"}


@pytest.fixture(scope="module")
def items():
    """Vectors with one direction per condition, and a much stronger direction of noise."""
    rng = np.random.default_rng(0)
    colour, level = rng.integers(0, 4, N), rng.integers(0, 5, N)
    price = rng.uniform(0, 100, N)
    tags = rng.random((N, 3)) < 0.4
    hidden = np.concatenate([np.eye(4)[colour], price[:, None] / 50, level[:, None] / 3, tags], axis=1)
    mixed = hidden @ rng.normal(size=(9, 24)) + 0.05 * rng.normal(size=(N, 24))
    x = mixed + 20 * rng.normal(size=(N, 1)) * rng.normal(size=24)
    labels = {
        "colour": np.array(list("abcd"))[colour],
        "price": np.array([f"{value:.3f}" for value in price]),
        "level": level.astype(str),
        "tags": np.array([";".join(np.array(list("xyz"))[row]) for row in tags]),
    }
    split = rng.choice(SPLITS, N, p=[0.6, 0.2, 0.2])
    conditions = tuple(Condition(name, kind) for name, kind in KINDS.items())
    return ItemSet(x.astype(np.float32), np.arange(N).astype(str), labels, split, conditions)


@pytest.fixture(scope="module")
def triplets(items):
    return {split: draw_triplets(items, split, 400, seed=0) for split in SPLITS}


def results(items, triplets):
    """`baselines` of results.json, beside a run of no interest."""
    masks, inputs = (
        np.ones((len(items.conditions), 1), np.float32),
        ladder.Inputs(items.inputs, training(items), "vectors"),
    )
    return ladder.results(items.inputs[:, :1].astype(np.float32), masks, inputs, items, triplets, "test")["baselines"]


def training(items):
    return items.split == "train"


@pytest.fixture(scope="module")
def measured(items, triplets):
    return results(items, triplets)


@pytest.fixture(scope="module")
def fitted(items, triplets):
    return baselines.fit(items.inputs, items, training(items), triplets["validation"])


def test_raw_vectors_against_a_loop(items, triplets, measured):
    """Errors overall and per condition, under the distance and under the cosine."""
    x = items.inputs.astype(np.float64)

    def cosine(a, b):
        return 1 - x[a] @ x[b] / np.linalg.norm(x[a]) / np.linalg.norm(x[b])

    def euclidean(a, b):
        return np.linalg.norm(x[a] - x[b])

    for name, distance in (("cosine", cosine), ("euclidean", euclidean)):
        wrong = {}
        for anchor, positive, negative, row in zip(*triplets["test"], strict=True):
            condition = items.conditions[row].name
            wrong.setdefault(condition, []).append(distance(anchor, negative) <= distance(anchor, positive))
        expected = {condition: np.mean(outcomes) for condition, outcomes in wrong.items()}
        assert measured[name]["by_condition"] == pytest.approx(expected, abs=0.003)
        assert measured[name]["overall"] == pytest.approx(np.mean([*expected.values()]), abs=0.003)


def test_a_probe_finds_every_kind_of_condition(measured):
    """Each lies along a direction that the raw distance cannot see."""
    probe = measured["linear_probe"]
    for name in KINDS:
        assert probe["by_condition"][name] < 0.1 < 0.3 < measured["euclidean"]["by_condition"][name]
    assert probe["overall"] == pytest.approx(np.mean([*probe["by_condition"].values()]))


def test_a_probe_does_not_use_test_labels(items, triplets, measured):
    """Other test labels change no probe, so the error on the same triplets stays."""
    labels = {name: column.copy() for name, column in items.labels.items()}
    rng = np.random.default_rng(1)
    outside = items.split != "train"
    for name, column in labels.items():
        if KINDS[name] != "numeric":  # the scale of numbers is that of all items
            column[outside] = rng.permutation(column[outside])
    changed = dataclasses.replace(items, labels=labels)
    assert results(changed, triplets) == measured


def test_only_training_items_set_the_scale(items, triplets):
    """Twenty validation and twenty test outliers change no error on triplets without them."""
    far = np.concatenate([np.flatnonzero(items.split == split)[:20] for split in SPLITS if split != "train"])
    without = {
        split: Triplets(*(column[~np.isin(columns[:3], far).any(axis=0)] for column in columns))
        for split, columns in triplets.items()
    }
    assert all(len(without[split].anchor) > 500 for split in SPLITS)
    x = items.inputs.copy()
    x[far] *= 1e4
    changed = dataclasses.replace(items, inputs=x)
    assert results(changed, without) == results(items, without)


@pytest.mark.parametrize("kind", ["categorical", "numeric", "set"])
def test_a_probe_of_wide_vectors_solves_for_the_items(kind, monkeypatch):
    """With fewer items than features it has an equation per item, and the answers of the other system."""
    rng = np.random.default_rng(0)
    sizes = []
    import scipy.linalg

    solve = scipy.linalg.solve
    monkeypatch.setattr(scipy.linalg, "solve", lambda a, *rest, **more: sizes.append(len(a)) or solve(a, *rest, **more))
    x = rng.normal(size=(60, 300)).astype(np.float32)
    values = {"categorical": list("abc"), "numeric": ["1.5", "2.5", "9"], "set": ["a;b", "b", "c"]}[kind]
    column, split = np.array(values)[rng.integers(3, size=60)], np.repeat(["train", "validation"], [40, 20])
    items = ItemSet(x, np.arange(60).astype(str), {"c": column}, split, (Condition("c", kind),))
    validation = Triplets(*rng.integers(60, size=(3, 50)), np.zeros(50, int))
    fitted = baselines.fit(x, items, split == "train", validation)
    answers = baselines.views(x, np.arange(60), fitted, "c")["linear_probe"]
    assert set(sizes) == {40}
    known, targets = x[:40].astype(float), baselines._targets(column, kind, np.arange(40))[0].astype(float)
    mean, deviation = known.mean(axis=0), known.std(axis=0)
    known, x = (known - mean) / deviation, (x - mean) / deviation
    errors = []
    for ridge in baselines.RIDGES:
        weights = np.linalg.solve(known.T @ known + ridge * 40 * np.eye(300), known.T @ targets)
        errors.append(np.abs(x @ weights - answers).max() / np.abs(answers).max())
    assert min(errors) < 1e-4
    monkeypatch.setattr(baselines, "LARGEST", 20)
    monkeypatch.setattr(baselines, "FITTED", 0)
    sizes.clear()
    fewer = baselines.fit(items.inputs, items, split == "train", validation)
    assert fewer.probes["c"].matrix.shape == (300, answers.shape[1]) and set(sizes) == {20}


def test_a_probe_is_ridge_regression(items, triplets, fitted):
    """Against the closed form, for the ridge with the lowest error on validation. Conditions share their equations."""
    rows = np.flatnonzero(training(items))
    x = items.inputs.astype(np.float64)
    x = (x - x[rows].mean(0)) / x[rows].std(0)
    of = triplets["validation"].of_condition(0)
    answers = baselines.views(items.inputs, np.arange(N), fitted, "colour")["linear_probe"]
    counts = {name: (items.labels["colour"][rows] == name).sum() for name in "abcd"}
    order = sorted(counts, key=lambda name: -counts[name])
    assert fitted.probes["colour"].values == tuple(order)
    y = np.stack([(items.labels["colour"][rows] == name) for name in order], axis=1).astype(float)
    y = (y - y.mean(0)) / np.sqrt(y.sum(0))
    candidates = []
    for ridge in (1e-3, 1e-2, 1e-1, 1.0, 10.0):
        weights = np.linalg.solve(x[rows].T @ x[rows] + ridge * len(rows) * np.eye(24), x[rows].T @ y)
        candidates.append((wrong_by((x @ weights).astype(np.float32), of).mean(), x @ weights))
    best = min(candidates, key=lambda pair: pair[0])
    np.testing.assert_allclose(answers, best[1], atol=2e-3 * np.abs(best[1]).max())


def test_examples_against_a_loop(items, fitted):
    """Cosines of the centred directions to the mean of four training items per value, which the sums of all subsets
    would not be: four items have it, or as many as there are. Numbers have none."""
    assert set(fitted.examples) == {"colour", "tags"}
    x = items.inputs.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x -= x[training(items)].mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = baselines.views(items.inputs, np.arange(N), fitted, "colour")["prototypes"]
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(training(items))
    order = rows[rng.permutation(len(rows))]
    for k, value in enumerate(fitted.probes["colour"].values):
        mean = sum(x[row] for row in [row for row in order if items.labels["colour"][row] == value][:4])
        np.testing.assert_allclose(found[:, k], x @ mean / np.linalg.norm(mean), atol=1e-5)


def test_examples_of_a_rare_member_are_those_there_are():
    """Items of several members are examples of each."""
    x = np.eye(6, dtype=np.float32)
    column = np.array(["a;b", "a", "a", "a", "a", "b"])
    items = ItemSet(x, np.arange(6).astype(str), {"c": column}, np.full(6, "train"), (Condition("c", "set"),))
    no_triplets = Triplets(*np.zeros((4, 0), int))
    fitted = baselines.fit(x, items, np.ones(6, bool), no_triplets)
    a, b = fitted.examples["c"].T
    centred = x - 1 / 6
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    both = centred[0] + centred[5]
    np.testing.assert_allclose(b, both / np.linalg.norm(both), atol=1e-6)
    counted = [
        np.linalg.norm(a * np.linalg.norm(total := centred[[*four]].sum(axis=0)) - total)
        for four in itertools.combinations(range(5), 4)
    ]
    assert min(counted) < 1e-6


def test_predictions_against_a_loop(items, triplets, fitted):
    """Shares of right guesses: the likeliest value, every member of a set, and nothing of numbers."""
    rows = np.flatnonzero(items.split == "test")
    for name in KINDS:
        probe, column = fitted.probes[name], items.labels[name][rows]
        outputs = baselines.views(items.inputs, rows, fitted, name)["linear_probe"]
        found = baselines.predicted(outputs, probe, column, KINDS[name])
        if name not in ("colour", "tags"):
            assert found is None
            continue
        right = 0
        for output, label in zip(outputs.astype(float), column, strict=True):
            share = {v: o * s + m for v, o, s, m in zip(probe.values, output, probe.scale, probe.middle, strict=True)}
            if name == "colour":
                right += max(share, key=share.get) == label
            else:
                right += {v for v in share if share[v] > 0.5} == {part for part in label.split(";") if part}
        values, counts = np.unique(column, return_counts=True)
        assert found == pytest.approx((right / len(rows), counts.max() / len(rows)))
        assert found[0] > 0.9


def test_float16_and_memory_maps_are_read_in_pieces(items, triplets, tmp_path, monkeypatch):
    """The figures of float16 vectors in a file are those of the same numbers in float32, and no piece is larger than
    asked for."""
    half = items.inputs.astype(np.float16)
    np.save(tmp_path / "v.npy", half)
    mapped = dataclasses.replace(items, inputs=np.load(tmp_path / "v.npy", mmap_mode="r"))
    whole = results(dataclasses.replace(items, inputs=half.astype(np.float32)), triplets)
    assert results(mapped, triplets) == whole
    largest = []
    real = np.asarray
    monkeypatch.setattr(baselines, "PIECE", 24 * 50)
    monkeypatch.setattr(baselines.np, "asarray", lambda x, *more: largest.append(len(x)) or real(x, *more))
    fitted = baselines.fit(mapped.inputs, mapped, training(items), triplets["validation"])
    baselines.views(mapped.inputs, np.arange(N), fitted, "colour")
    baselines.wrong_raw(mapped.inputs, triplets["test"])
    assert max(largest) == 50


def test_conditions_without_labels_have_no_probe(items, triplets):
    """Neither conditions of triplets only, nor those without labels in training."""
    labels = {name: column for name, column in items.labels.items() if name != "level"}
    labels["colour"] = np.where(items.split == "train", "", labels["colour"])
    judged = dataclasses.replace(
        items,
        labels=labels,
        conditions=tuple(
            condition._replace(kind="triplets") if condition.name == "level" else condition
            for condition in items.conditions
        ),
    )
    measured = results(judged, triplets)
    assert measured["linear_probe"]["by_condition"]["level"] is None
    assert measured["linear_probe"]["by_condition"]["colour"] is None and measured["linear_probe"]["overall"] is None
    assert measured["linear_probe"]["by_condition"]["price"] < 0.1 and measured["cosine"]["by_condition"]["level"] > 0


def test_ties_are_wrong():
    vectors = np.array([[0.0], [1.0], [-1.0], [0.5]], np.float32)
    columns = [np.array(column) for column in ([0, 0, 0], [1, 1, 3], [2, 3, 1], [0, 0, 0])]
    assert wrong_by(vectors, Triplets(*columns)).tolist() == [True, True, False]
