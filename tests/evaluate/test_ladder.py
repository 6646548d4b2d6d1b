"""The ladder and its verdicts, on made-up sets whose truth is known."""

import dataclasses
import json

import numpy as np
import pytest

from csn_jax.data.item_set import SPLITS, Condition, ItemSet
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.evaluate import ladder, retrieval, triplet_error
from csn_jax.evaluate.table import results_table
from csn_jax.evaluate.verdict import Difference, difference, verdict
from csn_jax.runtime.record import Results, to_json

N, F = 400, 24
KINDS = {
    "coordinate": "numeric",
    "noise": "categorical",
    "clusters": "categorical",
    "oblique": "numeric",
    "shape": "categorical",
    "ring": "categorical",
    "people": "triplets",
}
NAMES = (*KINDS,)


@pytest.fixture(scope="module")
def items():
    """Vectors whose first eight coordinates hold most of the variance: four clusters. Of the others, an attribute is
    one coordinate, one a direction across all, one two well separated values, and one needs a square."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(N, F))
    clusters, shape, oblique = rng.integers(0, 4, N), rng.integers(0, 2, N), rng.normal(size=F - 8)
    x[:, :8] += 6 * rng.normal(size=(4, 8))[clusters]
    x[:, 8] = 5 * shape + 0.2 * rng.normal(size=N)
    ring = np.hypot(x[:, 10], x[:, 11])
    labels = {
        "coordinate": np.array([f"{value:.4f}" for value in x[:, 20] + 0.3 * rng.normal(size=N)]),
        "noise": rng.choice(list("abcd"), N),
        "clusters": np.array(list("wxyz"))[clusters],
        "oblique": np.array([f"{value:.4f}" for value in x[:, 8:] @ oblique]),
        "shape": np.where(shape, "wide", "slim"),
        "ring": np.where(ring > np.median(ring), "out", "in"),
    }
    split = np.repeat(SPLITS, [160, 60, 180])
    conditions = tuple(Condition(name, kind) for name, kind in KINDS.items())
    return ItemSet(x.astype(np.float32), np.arange(N).astype(str), labels, split, conditions)


@pytest.fixture(scope="module")
def triplets(items):
    """Drawn ones; those of people follow the clusters."""
    drawn = {}
    for split in SPLITS:
        labelled = dataclasses.replace(
            items, conditions=tuple(one for one in items.conditions if one.kind != "triplets")
        )
        found = draw_triplets(labelled, split, 1_000, seed=0)
        own = found.of_condition(NAMES.index("clusters"))._replace(condition=np.full(1_000, NAMES.index("people")))
        drawn[split] = Triplets(*(np.concatenate(columns).astype(np.int32) for columns in zip(found, own, strict=True)))
    return drawn


@pytest.fixture(scope="module")
def views(items):
    """What a perfect training would end with: (views [N, V], masks [C, V])."""
    x = items.inputs
    ring = np.hypot(x[:, 10], x[:, 11])[:, None]
    oblique = items.labels["oblique"].astype(np.float32)[:, None]
    masks = np.zeros((len(KINDS), F + 2), np.float32)
    for row, used in enumerate(([20], range(9, 24), range(8), [F], [8], [F + 1], range(8))):
        masks[row, [*used]] = np.linspace(0.2, 2, len(used))
    return np.concatenate([x, oblique, ring], axis=1), masks


@pytest.fixture(scope="module")
def inputs(items):
    return ladder.Inputs(items.inputs, items.split == "train", "vectors")


@pytest.fixture(scope="module")
def measured(items, triplets, views, inputs):
    return ladder.results(*views, inputs, items, triplets, "test")


STARTS = {
    "coordinate": "A linear probe does as well: ",
    "noise": "Nothing here carries it: the best, ",
    "clusters": "Raw cosine does as well: ",
    "oblique": "A linear probe does as well: ",
    "shape": "A filter on the column will do: a linear probe is right for ",
    "ring": "Use it: ",
    "people": "Raw cosine does as well: ",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_the_truth_of_a_made_up_set(name, measured):
    """A coordinate, noise, what raw cosine has, what needs a rotation, what a probe reads off, what needs more than a
    linear map, and a condition of triplets only."""
    sentence = measured["verdict"][name]
    assert sentence.startswith(STARTS[name]) and sentence.endswith(".") and ". " not in sentence


def test_noise_is_noise_whatever_the_luck(items, triplets, views, inputs):
    """One half-width of the interval of the best rung would let some of these pass."""
    names = [f"noise {i}" for i in range(12)]
    labels = {name: np.random.default_rng(i).choice(list("ab"), N) for i, name in enumerate(names)}
    noise = dataclasses.replace(
        items, labels=labels, conditions=tuple(Condition(name, "categorical") for name in names)
    )
    drawn = {split: draw_triplets(noise, split, 1_000, seed=0) for split in SPLITS}
    masks = np.repeat(views[1][3:5], 6, axis=0)
    found = ladder.results(views[0], masks, inputs, noise, drawn, "test")
    assert [one[:12] for one in found["verdict"].values()] == ["Nothing here"] * 12
    ends = [
        min(found["ladder"]["rungs"][rung]["ci95"]["by_condition"][name][1] for rung in ladder.RUNGS) for name in names
    ]
    assert min(ends) < 0.5


def test_a_rotation_hides_a_coordinate_from_masks_only(items, triplets, views, inputs, measured):
    """In rotated vectors no mask has the coordinate, but a map, a matrix of the run's own, is as good as before."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(F, F)))[0].astype(np.float32)
    turned = dataclasses.replace(items, inputs=items.inputs @ rotation)
    masks = np.ones((len(KINDS), F), np.float32)
    masks[0] = 0
    masks[0, 20] = 1
    there = ladder.results(turned.inputs, masks, inputs._replace(vectors=turned.inputs), turned, triplets, "test")
    assert there["verdict"]["coordinate"].startswith("A linear probe does better: ")
    back = ladder.results(
        turned.inputs @ rotation.T, masks, inputs._replace(vectors=turned.inputs), turned, triplets, "test"
    )
    assert back["verdict"]["coordinate"].startswith(("A linear probe does as well: ", "Use it: "))
    for rung in ("euclidean", "cosine", "prototypes"):
        for part in ("by_condition", "overall"):
            assert there["baselines"][rung][part] == pytest.approx(measured["baselines"][rung][part], abs=0.01)


def test_the_run_is_a_rung_like_the_others(items, triplets, views, measured):
    """Its error, interval, retrieval and number of queries are those of the other parts of results.json."""
    errors = triplet_error.results(*views, items, triplets["test"])
    run = measured["ladder"]["rungs"]["run"]
    assert run["triplet_error"] == errors["triplet_error"] and run["ci95"] == errors["ci95"]
    found = retrieval.results(*views, items, "test")
    assert set(run["retrieval"]["by_condition"]) == set(found["by_condition"]) == {*NAMES} - {"people"}
    for name, values in run["retrieval"]["by_condition"].items():
        assert values == pytest.approx({k: found["by_condition"][name][k] for k in ladder.METRICS}, abs=2e-3)
        for metric, ends in run["retrieval"]["ci95"]["by_condition"][name].items():  # of other draws
            assert ends == pytest.approx(found["ci95"]["by_condition"][name][metric], abs=0.01)
    assert measured["ladder"]["n_queries"] == found["n_queries"] and measured["ladder"]["n_gallery"] == 180


def test_raw_rungs_against_retrieval_of_the_raw_vectors(items, measured):
    x = items.inputs
    for rung, vectors in (("euclidean", x), ("cosine", x / np.linalg.norm(x, axis=1, keepdims=True))):
        found = retrieval.results(vectors, np.ones((len(KINDS), F), np.float32), items, "test")["by_condition"]
        for name, values in measured["ladder"]["rungs"][rung]["retrieval"]["by_condition"].items():
            assert values == pytest.approx({k: found[name][k] for k in ladder.METRICS}, abs=2e-3)  # near ties swap


def test_differences_are_to_the_run(measured):
    rungs, run = measured["ladder"]["rungs"], measured["ladder"]["rungs"]["run"]["triplet_error"]["by_condition"]
    for rung in ladder.RUNGS[:-1]:
        errors, more = rungs[rung]["triplet_error"]["by_condition"], rungs[rung]["difference"]
        assert set(more["by_condition"]) == {name for name in NAMES if errors[name] is not None}
        for name, value in more["by_condition"].items():
            low, high = more["ci95"]["by_condition"][name]
            assert value == pytest.approx(errors[name] - run[name]) and low <= value <= high
    assert measured["baselines"]["prototypes"]["overall"] is None
    assert [name for name in NAMES if measured["baselines"]["prototypes"]["by_condition"][name] is None] == [
        "coordinate",
        "oblique",
        "people",
    ]
    assert measured["ladder"]["predicted"]["by_condition"]["people"] is None


def test_unknown_values_and_samples_stay_out_of_retrieval(items, monkeypatch):
    """An item without a value is neither asked nor found; of many items a sample is."""
    vectors = items.inputs[:90]
    column = np.where(np.arange(90) % 3 == 0, "", items.labels["shape"][:90])
    labels = retrieval.likeness(column, "categorical")
    queries = np.flatnonzero(labels.known)
    found = ladder.nearest(vectors, labels, queries)
    expected = retrieval.measure(vectors, np.ones(F, np.float32), labels, queries)
    np.testing.assert_allclose(found, expected[[retrieval.METRICS.index(name) for name in ladder.METRICS]])
    assert ladder.nearest(vectors[:, :0], labels, queries)[0].sum() == 0  # a mask of zeros: all are ties


def test_few_items(items, triplets, views, inputs, monkeypatch):
    """A handful of anchors settles nothing; nor does a test in which either may be better by much."""
    few = {
        split: Triplets(*(column[columns.anchor % 20 == 3] for column in columns))
        for split, columns in triplets.items()
    }
    found = ladder.results(*views, inputs, items, few, "test")["verdict"]
    assert all(one.startswith("Too few items to say: the anchors of the test triplets are ") for one in found.values())
    rng = np.random.default_rng(0)
    anchor = np.repeat(np.arange(40), 5)
    run, cosine = (rng.random(200) < share for share in (0.2, 0.23))
    sentence = verdict({"cosine": cosine, "run": run}, {"cosine": difference(cosine, run, anchor)}, anchor)
    assert sentence.startswith("Too few items to say: raw cosine has ")
    wide = np.repeat(rng.random(40) < 0.4, 5)
    assert verdict({"run": wide}, {}, anchor).startswith(
        "Too few items to say: with 40 test anchors the error of this run"
    )


def outcomes(*shares):
    """Unrelated outcomes of 3,000 triplets with exactly these errors; each triplet has an anchor of its own."""
    return [np.random.default_rng(i).permutation(3_000) < 3_000 * share for i, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("shares", "start"),
    [
        ({"cosine": 0.3, "prototypes": 0.25, "linear_probe": 0.2, "run": 0.1}, "Use it: "),
        ({"cosine": 0.3, "prototypes": 0.25, "linear_probe": 0.1, "run": 0.1}, "A linear probe does as well: "),
        ({"cosine": 0.3, "prototypes": 0.25, "linear_probe": 0.1, "run": 0.2}, "A linear probe does better: "),
        ({"cosine": 0.2, "prototypes": 0.1, "linear_probe": 0.1, "run": 0.2}, "Four examples per value do better: "),
        ({"cosine": 0.1, "prototypes": 0.3, "linear_probe": 0.1, "run": 0.1}, "Raw cosine does as well: "),
        ({"euclidean": 0.1, "cosine": 0.2, "run": 0.1}, "Raw Euclidean distance does as well: "),
        ({"euclidean": 0.2, "cosine": 0.2, "run": 0.49}, "Raw cosine does better: "),
        ({"euclidean": 0.5, "cosine": 0.5, "run": 0.5}, "Nothing here carries it: "),
    ],
)
def test_the_simplest_rung_that_is_not_worse_is_named(shares, start):
    wrong = dict(zip(shares, outcomes(*shares.values()), strict=True))
    ahead = {rung: difference(part, wrong["run"], np.arange(3_000)) for rung, part in wrong.items() if rung != "run"}
    sentence = verdict(wrong, ahead, np.arange(3_000))
    assert sentence.startswith(start)
    assert f"{wrong['run'].mean():.1%}" in sentence or start.startswith("Nothing")
    if "does" in start or "do " in start:  # a filter is not offered where it is wrong for the rare values
        assert verdict(wrong, ahead, np.arange(3_000), (0.992, 0.99)) == sentence
    filtered = verdict(wrong, ahead, np.arange(3_000), (0.992, 0.5))
    raw = start.startswith(("Raw", "Nothing"))
    assert filtered == sentence if raw else filtered.startswith("A filter on the column will do: ")
    assert verdict(wrong, ahead, np.arange(3_000), (0.98, 0.5)) == sentence


def test_the_same_outcomes_leave_no_doubt():
    """Of a run that keeps the raw vectors of a condition, on a test that would settle little else."""
    anchor = np.repeat(np.arange(40), 3)
    wrong = np.random.default_rng(0).random(120) < 0.2
    assert difference(wrong, wrong, anchor) == Difference(0, 0, 0)
    sentence = verdict({"cosine": wrong, "run": wrong}, {"cosine": Difference(0, 0, 0)}, anchor)
    assert sentence.startswith("Raw cosine does as well: ") and "difference of 0.0 (0.0 to 0.0) points" in sentence


def test_tables_and_json(items, triplets, views, measured):
    """One table of errors, a verdict per condition below it; `ladder` adds intervals and retrieval. All within 80
    columns, and JSON gives back what went in."""
    errors = triplet_error.results(*views, items, triplets["test"])
    results = Results(variant="learned", conditions=NAMES, split="test", step=1, **errors, **measured)
    assert Results.from_object(json.loads(to_json(results.as_object()))) == results
    short, long = results_table(results), results_table(results, ladder=True)
    assert all(len(line) <= 80 for line in long.splitlines())
    assert [line.split() for line in short.splitlines() if line.startswith("error under")] == [
        "error under this run Euclidean cosine 4 examples linear probe".split()
    ]
    for name in NAMES:
        assert " ".join(measured["verdict"][name].split()) in " ".join(short.split())
        assert long.count(f"\n{name} ") == short.count(f"\n{name} ") + 1
    assert "prec.@10" in long and "prec.@10" not in short
    row = next(line.split() for line in long.splitlines() if line.startswith("4 examples per value"))
    assert row == "4 examples per value - - - -".split()
    old = dataclasses.replace(results, ladder=None, verdict=None)
    old.baselines.pop("prototypes", None)
    assert "4 examples" not in results_table(old, ladder=True)
