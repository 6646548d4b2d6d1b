"""Off-task probes against another library's optimum, and on data with a known answer."""

import json
import math

import numpy as np
import pytest
import tiny
import torch

from csn_jax import evaluate
from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.evaluate import off_task as module
from csn_jax.evaluate.off_task import fit_probe, off_task_labels, outcomes, results
from csn_jax.evaluate.table import results_table
from csn_jax.model.model import Model
from csn_jax.runtime.record import Results


def off_task(*arguments) -> dict[str, tuple[float, int]]:
    """{label: (right guesses, items)}."""
    return {label: (math.fsum(right), len(right)) for label, (right, _) in outcomes(*arguments).items()}


def world(n: int = 900, seed: int = 0):
    """Brands 0 to 5 of unequal frequency in overlapping clusters; half of the items are for training."""
    rng = np.random.default_rng(seed)
    brand = rng.choice(6, size=n, p=[0.4, 0.2, 0.15, 0.1, 0.1, 0.05])
    embeddings = 3 * rng.normal(size=(6, 5))[brand] + rng.normal(size=(n, 5))
    split = np.where(rng.random(n) < 0.5, "train", "test")
    labels = {"shape": rng.integers(3, size=n).astype(str), "brand": np.array([f"brand {b}" for b in brand])}
    conditions = (Condition("shape", "categorical"),)
    items = ItemSet(np.zeros((n, 1)), np.arange(n).astype(str), labels, split, conditions, conditions)
    return embeddings.astype(np.float32), items


def test_the_probe_equals_the_optimum_of_another_library():
    """Weights and bias of the regularised logistic regression by PyTorch's L-BFGS in float64."""
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=400).astype(np.int32)
    x = (rng.normal(size=(4, 6))[y] + rng.normal(size=(400, 6))).astype(np.float32)
    weights, bias = fit_probe(x, y, 4)
    theirs = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 4), (4,))]
    optimizer = torch.optim.LBFGS(theirs, max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        logits = torch.tensor(x, dtype=torch.float64) @ theirs[0] + theirs[1]
        value = torch.nn.functional.cross_entropy(logits, torch.tensor(y).long()) + 1e-3 / 2 * (theirs[0] ** 2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    np.testing.assert_allclose(weights, theirs[0].detach(), atol=1e-4)
    np.testing.assert_allclose(bias - bias.mean(), (theirs[1] - theirs[1].mean()).detach(), atol=1e-4)
    assert np.abs(weights).max() > 0.5


def test_wide_vectors_are_solved_for_the_items(monkeypatch):
    """The same optimum in 61 numbers per value as in 301, where there are 60 items."""
    import scipy.optimize

    sizes, minimize = [], scipy.optimize.minimize

    def counted(function, start, **more):
        sizes.append(len(start))
        return minimize(function, start, **more)

    monkeypatch.setattr(scipy.optimize, "minimize", counted)
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=60).astype(np.int32)
    x = (rng.normal(size=(3, 300))[y] + rng.normal(size=(60, 300))).astype(np.float32)
    weights, bias = fit_probe(x, y, 3)
    assert sizes == [61 * 3] and weights.shape == (300, 3)
    logits = x @ weights + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    slope = x.T @ (p - np.eye(3)[y]) / 60 + module.DECAY * weights  # zero at the optimum over all 300 dimensions
    assert np.abs(slope).max() < 1e-5 and np.abs(weights).max() > 0.01


def test_a_probe_finds_the_brand_and_nothing_in_shuffled_labels():
    embeddings, items = world()
    measured = results(embeddings, items, "test")
    top1, (low, high) = measured["by_label"]["brand"], measured["ci95"]["by_label"]["brand"]
    assert list(measured["by_label"]) == ["brand"]  # the shape was a condition
    assert top1 > 0.9 and low < top1 < high < 1.0001
    test = items.labels["brand"][items.split == "test"]
    assert measured["chance"]["by_label"]["brand"] == (test == "brand 0").mean()
    assert measured["n_items"]["by_label"]["brand"] == len(test)
    assert off_task(embeddings, items, "test")["brand"] == (round(top1 * len(test)), len(test))
    assert json.loads(json.dumps(measured)) == measured
    items.labels["brand"][:] = np.random.default_rng(1).permutation(items.labels["brand"])
    blind = results(embeddings, items, "test")
    assert blind["by_label"]["brand"] < blind["chance"]["by_label"]["brand"] + 0.05


def test_a_probe_is_fitted_on_training_items_only():
    """If the labels of test items are swapped, all guesses are wrong. The scale of embeddings does not matter."""
    embeddings, items = world()
    right, n = off_task(embeddings, items, "test")["brand"]
    scaled = off_task(embeddings * np.float32(1e3) + 50, items, "test")["brand"]
    assert n == scaled[1] and abs(right - scaled[0]) <= 2
    brand, test = items.labels["brand"], items.split == "test"
    brand[test] = np.where(brand[test] == "brand 0", "brand 1", "brand 0")
    assert off_task(embeddings, items, "test")["brand"][0] < 0.1 * test.sum()


def test_only_training_items_set_the_scale():
    """Outliers among the test items change no guess for the others."""
    embeddings, items = world()
    right, _ = outcomes(embeddings, items, "test")["brand"]
    embeddings[np.flatnonzero(items.split == "test")[1::2]] *= 1e4
    np.testing.assert_array_equal(outcomes(embeddings, items, "test")["brand"][0][::2], right[::2])


def test_rare_and_unknown_values_are_not_counted():
    """A value of fewer than ten training items is not learned. Its items are left out, and so are blanks."""
    embeddings, items = world()
    brand, train, test = items.labels["brand"], items.split == "train", items.split == "test"
    brand[np.flatnonzero(test)[:40]] = ""
    brand[np.flatnonzero(train)[:9]] = "rare"
    brand[np.flatnonzero(test)[40:60]] = "rare"
    brand[np.flatnonzero(test)[60:70]] = "unseen"
    assert off_task(embeddings, items, "test")["brand"][1] == test.sum() - 70
    brand[np.flatnonzero(train)[9]] = "rare"
    assert off_task(embeddings, items, "test")["brand"][1] == test.sum() - 50


def test_only_the_most_frequent_values_are_learned(monkeypatch):
    embeddings, items = world()
    monkeypatch.setattr(module, "VALUES", 2)
    brand = items.labels["brand"][items.split == "test"]
    assert off_task(embeddings, items, "test")["brand"][1] == np.isin(brand, ["brand 0", "brand 1"]).sum()


def test_labels_without_a_probe():
    """Conditions, sets and numbers, and labels with a single value or without items."""
    embeddings, items = world()
    n = len(embeddings)
    items.labels["tags"], items.labels["price"] = np.full(n, "a;b"), np.arange(n).astype(str)
    items.labels["single"], items.labels["blank"] = np.full(n, "x"), np.full(n, "")
    object.__setattr__(
        items, "attributes", (*items.attributes, Condition("tags", "set"), Condition("price", "numeric"))
    )
    assert off_task_labels(items) == ["brand", "single", "blank"]
    assert list(off_task(embeddings, items, "test")) == ["brand"]
    assert off_task(embeddings, items, "validation") == {}


@pytest.mark.parametrize("variant", ["learned", pytest.param("specialists", marks=pytest.mark.slow)])
def test_a_run_of_one_condition_is_measured_in_full(variant, specialists, tmp_path, capsys, monkeypatch):
    """`evaluate --full` of a run on characters only: the font is off-task, and the other results stay the same."""
    workdir = specialists / "character"  # a run like any other
    if variant == "specialists":
        workdir = tmp_path / "run"
        tiny.train(workdir, "--config.data.conditions", "character", f"--config.variant={variant}")
    evaluate.main([f"--workdir={workdir}", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert results["primary_metric"] == {"name": "triplet_error", "value": results["triplet_error"]["overall"]}
    assert list(results["retrieval"]["by_condition"]) == ["character"] and "leakage" not in results
    monkeypatch.setattr(module, "FITTED_ON", 4_000)
    monkeypatch.setattr(module, "VALUES", 10)
    embedded = []
    in_chunks = Model._in_chunks

    def watched(self, function, inputs, rows, progress=False):
        embedded.append(len(rows))
        return in_chunks(self, function, inputs, rows, progress)

    monkeypatch.setattr(Model, "_in_chunks", watched)
    evaluate.main([f"--workdir={workdir}", "--full", "--json"])
    full = json.loads(capsys.readouterr().out)
    assert {name: full[name] for name in results} == results
    assert set(full["leakage"]["by_condition"]["character"]) == {"character", "font"}
    probe = full["off_task"]
    assert list(probe["by_label"]) == ["font"] and 0 < probe["by_label"]["font"] < 0.5
    assert sum(embedded) == results["retrieval"]["n_queries"]["by_condition"]["character"] + 4_000  # each item once
    table = results_table(Results.from_object(full))
    assert f"\nfont            {probe['by_label']['font']:.2%}" in table and "\nby character " in table
