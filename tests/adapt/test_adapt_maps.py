"""adapt under maps: a new condition's form, and what it leaves as it was. Oracles are naive loops."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import shop
from test_adapt import N, evaluate_json, folder, learn, triplets_of_colour, write_triplets  # noqa: F401  (a fixture)

import csn_jax
from csn_jax import embed
from csn_jax.adapt import extend, forms
from csn_jax.adapt.forms import Choice
from csn_jax.adapt.lesson import Items, Lesson
from csn_jax.adapt.report import learn as learn_condition
from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.core.maps import MapsPlan, principal_axes
from csn_jax.core.steps import initial_state
from csn_jax.data.dataset import load_dataset
from csn_jax.data.triplets import Triplets
from csn_jax.evaluate.bootstrap import clearly_positive
from csn_jax.model.from_state import make_model, make_programs
from csn_jax.model.network import network_of
from csn_jax.model.run import open_run
from csn_jax.runtime.record import Condition, Record, read_record
from csn_jax.runtime.sharding import make_shardings
from csn_jax.runtime.whole import write_run
from csn_jax.runtime.workdir import read_config
from csn_jax.store.index import Index


@pytest.fixture(scope="module")
def parent(folder, tmp_path_factory):  # noqa: F811
    """A run of maps over the shop's vectors, with random maps of 3 rows for category and tags."""
    counts = {"train_triplets": 400, "validation_triplets": 100, "test_triplets": 300}
    path, names = str(folder / "products.parquet"), ("category", "tags")
    data = DataConfig("table", path, conditions=names, vectors="vector", **counts)
    config = Config(variant="maps", steps=5, backbone=BackboneConfig("projection"), batch_size=16, data=data)
    dataset = load_dataset(config)
    plan, raw = {"axes": 12, "rank": 3, "pulls": [0.0, 1e-3]}, {"unit": False, "conditions": [], "scale": 1.5}
    record = dataclasses.replace(dataset.record, maps=plan, raw=raw)
    network = network_of(config, record)
    axes = principal_axes(dataset.items.inputs, np.arange(N), 12, unit=False)
    rng = np.random.default_rng(0)
    statistics = network.state.statistics | {"mean": axes.mean, "axes": axes.rows}
    statistics["kept"] = rng.normal(0, 1, (2, 3, 12)).astype(np.float32)
    beta = rng.normal(0, 1, (2, 2, 3, 12)).astype(np.float32)
    workdir = tmp_path_factory.mktemp("maps") / "run"
    write_run(workdir, config, record, initial_state({}, statistics, beta, network.optimizer))
    return workdir


def rows_of(model, name):
    """The rows [r, D] of a condition's map."""
    return model.maps.matrix[model.mask(name) > 0]


def assert_keeps_the_parent(out, parent):
    """Bits of the embedding, of each old condition's map, and of all that a checkpoint holds of them."""
    old, new = csn_jax.load(parent), csn_jax.load(out)
    assert new.conditions[:-1] == old.conditions and new.sha256 == old.sha256
    for name in old.conditions:
        assert rows_of(new, name).tobytes() == rows_of(old, name).tobytes()
    vectors = shop.vectors(shop.columns(N))
    assert new.embed(vectors).tobytes() == vectors.tobytes()
    (_, before), (_, after) = (open_run(workdir).restore() for workdir in (parent, out))
    rank = before.params["beta"].shape[2]
    for old, new in (
        (before.params["beta"], after.params["beta"][:, :-1]),
        (before.statistics["kept"], after.statistics["kept"][:-1]),
    ):
        assert np.asarray(new[..., :rank, :]).tobytes() == np.asarray(old).tobytes() and not new[..., rank:, :].any()
    for name in ("mean", "axes", "unit"):
        assert np.asarray(after.statistics[name]).tobytes() == np.asarray(before.statistics[name]).tobytes()
    assert np.array_equal(after.statistics["kept_error"][:-1], before.statistics["kept_error"])


def spread(model, vectors, name):
    """The mean squared distance over all pairs of every seventh vector."""
    x, y = (np.stack(part) for part in zip(*itertools.product(vectors[::7], repeat=2), strict=True))
    return np.square(model.distance(x, y, name)).mean()


@pytest.fixture(scope="module")
def adapted(parent, tmp_path_factory):
    """(workdir, model, report) with colour, from the run's own labels."""
    out = tmp_path_factory.mktemp("adapted") / "new"
    return out, *learn(parent, out)


def test_labels_give_a_form_that_is_better_than_raw(parent, adapted):
    out, model, report = adapted
    assert_keeps_the_parent(out, parent)
    assert report["form"] in ("map", "diagonal", "views") and report["reason"].startswith("lowest error on ")
    assert report["triplet_error"] < 0.1 < 0.2 < report["unmasked"]["triplet_error"]
    vectors, test = shop.vectors(shop.columns(N)), load_dataset(read_config(out)).triplets["test"].of_condition(2)
    wrong = {"colour": 0, "raw": 0}
    for a, p, n in zip(*test[:3], strict=True):
        wrong["colour"] += model.distance(vectors[a], vectors[n], "colour") <= model.distance(
            vectors[a], vectors[p], "colour"
        )
        wrong["raw"] += np.square(vectors[a] - vectors[n]).sum() <= np.square(vectors[a] - vectors[p]).sum()
    assert (report["triplet_error"], report["unmasked"]["triplet_error"]) == (wrong["colour"] / 300, wrong["raw"] / 300)


def test_the_new_run_is_that_of_a_training_with_the_condition(parent, adapted):
    out, _, report = adapted
    results = json.loads((out / "results.json").read_text())
    measured = evaluate_json(out)
    for part in ("baselines", "ladder", "verdict"):
        measured.pop(part)
    assert measured == results and results["adapted"] == [report]
    config, record = read_config(out), read_record(out)
    assert config.data.conditions == ("category", "tags", "colour")
    assert dataclasses.replace(record, adapted=(), maps=None, raw=None) == load_dataset(config).record
    assert record.raw == read_record(parent).raw and record.maps["rank"] >= 3


def test_an_old_and_a_new_condition_count_alike_in_a_mixture(adapted):
    """Random items are as far apart on average as under the mean of the others; on other items of the same kind."""
    _, model, _ = adapted
    vectors = shop.vectors(shop.columns(N))
    others = np.mean([spread(model, vectors, name) for name in ("category", "tags")])
    assert spread(model, vectors, "colour") == pytest.approx(others, rel=0.15)


@pytest.mark.slow
def test_what_no_vector_carries_keeps_the_raw_vectors(parent, tmp_path, capsys):
    model, report = learn(parent, tmp_path / "new", condition="luck")
    assert_keeps_the_parent(tmp_path / "new", parent)
    assert report["form"] == "none" and "nothing that was learned is clearly better" in report["reason"]
    assert report["triplet_error"] == report["unmasked"]["triplet_error"]
    assert read_record(tmp_path / "new").raw == {"unit": False, "conditions": ["luck"], "scale": 1.5}
    x, y = shop.vectors(shop.columns(N))[:2]
    assert model.distance(x, y, "luck") == pytest.approx(1.5 * np.linalg.norm(x - y), rel=1e-4)
    assert "the raw vectors: nothing that was learned" in capsys.readouterr().out
    again, _ = learn(tmp_path / "new", tmp_path / "both")
    assert_keeps_the_parent(tmp_path / "both", tmp_path / "new")
    assert again.distance(x, y, "luck") == model.distance(x, y, "luck")


@pytest.mark.slow
def test_triplets_from_people(parent, tmp_path):
    """The error is cross-validated, and is near that of new triplets."""
    path = write_triplets(tmp_path / "people.csv", triplets_of_colour(100))
    model, report = learn(parent, tmp_path / "new", f"--table={path}")
    assert_keeps_the_parent(tmp_path / "new", parent)
    assert report["cross_validated"] and report["n_triplets"] == 100 and not report["own_data"]
    vectors, more = shop.vectors(shop.columns(N)), triplets_of_colour(300, seed=9)
    error = np.mean(
        [model.distance(*vectors[[a, n]], "colour") <= model.distance(*vectors[[a, p]], "colour") for a, p, n in more]
    )
    assert error < report["unmasked"]["triplet_error"] and abs(error - report["triplet_error"]) < 0.12


def extended(parent, choice, name="x"):
    """The Wider of a run with a condition of a given form."""
    run = open_run(parent)
    (_, state), model, vectors = run.restore(), run.model(), shop.vectors(shop.columns(N))
    lesson = Lesson(Condition(name, "triplets"), Items(np.arange(N).astype(str), None, "", vectors), {}, {}, "")
    return extend.with_choice(run, state, model, lesson, choice, extend.axes_of(run, state, vectors), vectors)


@pytest.mark.parametrize("form, rank", [("diagonal", 12), ("map", 2)])
def test_a_form_with_more_or_fewer_rows_than_the_run_has(parent, form, rank):
    rng = np.random.default_rng(1)
    rows = np.diag(rng.uniform(0.1, 2, 12)) if form == "diagonal" else rng.normal(0, 1, (rank, 12))
    wider, old = extended(parent, Choice(form, rows.astype(np.float32), 0.1, "", None, None)), csn_jax.load(parent)
    assert wider.record.maps["rank"] == max(rank, 3) == wider.state.params["beta"].shape[2]
    for name in old.conditions:
        assert rows_of(wider.model, name).tobytes() == rows_of(old, name).tobytes()
    axes, vectors = np.asarray(wider.state.statistics["axes"], float), shop.vectors(shop.columns(N))
    matrix, own = rows @ axes, rows_of(wider.model, "x").astype(float)
    np.testing.assert_allclose(own / np.linalg.norm(own), matrix / np.linalg.norm(matrix), atol=1e-5)
    others = np.mean([spread(wider.model, vectors, name) for name in old.conditions])
    assert spread(wider.model, vectors, "x") == pytest.approx(others, rel=0.1)


def drawn_by(matrix, n_items, n_triplets, seed=0):
    """(points, triplets) that are right under a map."""
    rng = np.random.default_rng(seed)
    points = (rng.normal(0, 1, (n_items, matrix.shape[1])) / np.sqrt(matrix.shape[1])).astype(np.float32)
    a, p, n = np.array([rng.choice(n_items, 3, replace=False) for _ in range(n_triplets)]).T
    to = [np.square((points[a] - points[other]) @ matrix.T).sum(axis=1) for other in (p, n)]
    p, n = np.where(to[0] < to[1], p, n), np.where(to[0] < to[1], n, p)
    return points, Triplets(*(role.astype(np.int32) for role in (a, p, n)), np.zeros(n_triplets, np.int32))


PLAN = MapsPlan(8, 4, (0.0, 1e-2))
ROTATION = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0][:2].astype(np.float32)  # two directions


def test_wrong_triplets_are_those_of_a_naive_loop():
    points, triplets = drawn_by(np.eye(8), 20, 60)
    matrices = np.random.default_rng(0).normal(0, 1, (3, 2, 8)).astype(np.float32)
    wrong = forms.wrong_under(points, matrices, triplets)
    for s, t in itertools.product(range(3), range(60)):
        a, p, n = (matrices[s].astype(float) @ points[role[t]] for role in triplets[:3])
        assert wrong[s, t] == (np.linalg.norm(a - n) <= np.linalg.norm(a - p))


def test_a_map_starts_as_the_raw_geometry_and_is_pulled_to_it():
    points, triplets = drawn_by(ROTATION, 100, 500)
    maps = forms.train_maps(points, triplets, PLAN, 64, steps=60, looks=3)
    assert maps.shape == (8, 4, 8) and maps.dtype == np.float32  # four looks for each of two pulls
    assert all(np.array_equal(start, np.eye(4, 8)) for start in maps[:2])
    wrong = forms.wrong_under(points, maps, triplets).mean(axis=1)
    assert wrong[-2] < wrong[2] < wrong[0]
    assert np.square(maps[-1] - maps[0]).sum() < np.square(maps[-2] - maps[0]).sum()


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(
    "matrix, form", [(ROTATION, "map"), (np.diag([0, 0, 0, 0, 1, 0, 0, 0]), "diagonal"), (np.eye(8), "none")]
)
def test_the_form_is_the_one_that_made_the_triplets(matrix, form, few, monkeypatch):
    """With validation triplets, and by cross-validation over items; the truth is known."""
    monkeypatch.setattr(forms, "ENOUGH", 10_000 if few else 10)
    monkeypatch.setattr(forms, "STEPS", 600)
    monkeypatch.setattr(forms, "LOOKS", 2)
    monkeypatch.setattr(forms, "FEW_STEPS", 600)
    monkeypatch.setattr(forms, "FEW_LOOKS", 2)
    points, triplets = drawn_by(matrix, 150, 3_300)
    parts = {
        "train": forms.take(triplets, np.arange(3_000)),
        "validation": forms.take(triplets, np.arange(3_000, 3_300)),
    }
    groups = {split: part.anchor for split, part in parts.items()}
    choice = forms.choose(points, points, parts, groups, MapsPlan(8, 8, (0.0,)), drawn=True)
    assert choice.form == form
    assert ("cross-validated" in choice.reason) == few


@pytest.mark.parametrize("drawn", [True, False])
def test_weights_of_known_views_are_found_from_few_triplets(drawn, monkeypatch):
    """The truth is two rows of the three that the run has. From as few triplets, the other forms are worse."""
    monkeypatch.setattr(forms, "FEW_STEPS", 40)
    monkeypatch.setattr(forms, "FEW_LOOKS", 2)
    rng = np.random.default_rng(8)
    known = rng.normal(0, 1, (3, 8)).astype(np.float32)
    truth = known * np.array([[1], [0], [2]], np.float32)
    points, triplets = drawn_by(truth, 60, 6_000 if drawn else 150)  # a fold of items leaves few of drawn ones
    more, others = drawn_by(truth, 60, 2_000, seed=1)
    groups = {"train": triplets.anchor}
    choice = forms.choose(points, points, {"train": triplets}, groups, MapsPlan(8, 4, (0.0,)), drawn, known)
    assert choice.form == "views" and "the other conditions' views" in choice.reason
    ratio = np.linalg.norm(choice.rows, axis=1) / np.linalg.norm(known[[0, 2]], axis=1)
    np.testing.assert_allclose(choice.rows, known[[0, 2]] * ratio[:, None], rtol=1e-4)  # the other has no weight
    assert ratio[1] / ratio[0] == pytest.approx(2, rel=0.2)
    without = forms.choose(points, points, {"train": triplets}, groups, MapsPlan(8, 4, (0.0,)), drawn)
    errors = [forms.wrong_under(more, form.rows[None], others).mean() for form in (choice, without)]
    assert errors[0] < 0.03 and (drawn or errors[1] > 0.03)


def test_known_rows_are_those_of_learned_maps(parent, tmp_path):
    """Without the rows of a condition that keeps the raw vectors, and without rows of zeros."""
    run = open_run(parent)
    _, state = run.restore()
    kept = np.asarray(state.statistics["kept"])
    axes = extend.axes_of(run, state, None)
    assert extend.known_rows(run, state, axes).tobytes() == kept.reshape(-1, 12).tobytes()
    raw = dataclasses.replace(run, record=dataclasses.replace(run.record, raw={"unit": False, "conditions": ["tags"]}))
    assert extend.known_rows(raw, state, axes).tobytes() == kept[0].tobytes()


def test_items_of_a_fold_are_not_learned_from():
    """With few validation triplets, or none: no item of a fold is in a triplet to learn from. Triplets of people keep
    all of them, and groups make the folds."""
    _, triplets = drawn_by(np.eye(8), 25, 2_000)
    parts = {
        "train": forms.take(triplets, np.arange(1_500)),
        "validation": forms.take(triplets, np.arange(1_500, 2_000)),
    }
    for splits in (("train", "validation"), ("train",)):
        given = {split: parts[split] for split in splits}
        groups = {split: part.anchor for split, part in given.items()}
        asked, _, folds = forms._folds(given, groups, drawn=True)
        assert len(folds) == 5 and len(asked.anchor) == sum(len(part.anchor) for part in given.values())
        for learned, held in folds:
            seen, unseen = ({*np.concatenate([role[rows] for role in asked[:3]]).tolist()} for rows in (learned, held))
            assert not seen & unseen and len(learned) and 0 < len(held) <= forms.MOST
    asked, group, folds = forms._folds({"train": parts["train"]}, groups, drawn=False)
    assert sorted(np.concatenate([held for _, held in folds]).tolist()) == list(range(1_500))
    assert all(not {*group[learned].tolist()} & {*group[held].tolist()} for learned, held in folds)


def test_the_error_of_a_choice_is_that_of_the_other_folds():
    """In each fold one setting is right by chance and wrong elsewhere: a choice that saw the fold would look good."""
    folds = [(np.flatnonzero(np.arange(50) // 10 != k), np.arange(10 * k, 10 * k + 10)) for k in range(5)]
    wrong = np.ones((5, 50), bool)
    for k, (_, held) in enumerate(folds):
        wrong[k, held] = False
    raw = np.arange(50) % 10 < 9
    honest = forms._by_the_others({"map": wrong}, raw, np.arange(50), folds, np.arange(50), False)
    assert honest.all()


def test_clearly_positive_gains_are_above_one_standard_error_over_groups():
    rng = np.random.default_rng(0)
    for seed in range(40):
        gain, group = rng.integers(-1, 2, 30) + (seed % 4) / 10, rng.integers(0, 8, 30) * 3
        mean = sum(gain) / 30
        squares = sum(sum(gain[t] - mean for t in range(30) if group[t] == g) ** 2 for g in set(group.tolist()))
        assert clearly_positive(gain, group) == (mean > np.sqrt(squares) / 30)
    assert not clearly_positive(np.zeros(4), np.arange(4))


def test_some_dozen_items_need_no_validation_triplets(parent, tmp_path):
    """Four of the thirty items that have a colour are for validation, which gives no triplet."""
    columns = shop.columns(N)
    rows = np.arange(0, N, 10)
    table = {name: [columns[name][row] for row in rows] for name in ("colour",)} | {
        "id": [columns["image"][row] for row in rows]
    }
    path = shop.write(tmp_path / "few.csv", table)
    _, report = learn(parent, tmp_path / "new", f"--table={path}")
    assert report["learned_from"] == "labels of 30 items in few.csv" and "cross-validated" in report["reason"]
    assert report["triplet_error"] <= report["unmasked"]["ci95"][1]


def test_maps_over_a_network_of_images(tmp_path):
    """The coordinates are the embedding's own; raw is the embedding. Other maps keep their bits."""
    config = Config(
        variant="maps",
        backbone=BackboneConfig("small", embedding_dim=16),
        data=DataConfig("imported", conditions=("a",)),
        preprocess=PreprocessConfig(16, mean=(0.5,) * 3, std=(0.25,) * 3),
    )
    none = {"train": 0, "validation": 0, "test": 0}
    record = {"source": "imported", "conditions": [{"name": "a", "kind": "categorical"}], "input_shape": [16, 16, 3]}
    record |= {"items": none, "triplets": none, "maps": {"axes": 0, "rank": 4, "pulls": [0.0]}}
    record = Record.from_object(record)
    network = network_of(config, record)
    beta = np.random.default_rng(0).normal(0, 1, (1, 1, 4, 16)).astype(np.float32)
    state = network.state
    write_run(
        tmp_path / "run",
        config,
        record,
        initial_state(state.params["backbone"], state.statistics, beta, network.optimizer),
    )
    run = open_run(tmp_path / "run")
    points, triplets = drawn_by(np.eye(16)[:2], 60, 200)
    lesson = Lesson(
        Condition("b", "triplets"),
        Items(np.arange(60).astype(str), None, "", points),
        {"train": triplets},
        {"train": np.arange(200)},
        "",
    )
    wider, report = learn_condition(lesson, run, run.model())
    assert report["form"] != "none" and report["triplet_error"] < report["unmasked"]["triplet_error"]
    assert wider.state.params["beta"][0, 0, :4].tobytes() == beta.tobytes()
    assert wider.model.masks.shape[0] == 2 and rows_of(wider.model, "b").shape[1] == 16
    raw = extend.with_choice(
        run, run.restore()[1], run.model(), lesson, Choice("none", None, 0.5, "", None, None), None, points
    )
    own = rows_of(raw.model, "b")
    assert np.count_nonzero(own) == 16 and np.ptp(np.diag(own)) == 0 and own[0, 0] > 0


def test_rows_of_zeros_do_not_change_the_last_bits_of_a_map():
    """A map of one row, beside one of 64: linear algebra takes other ways for one row and for several."""
    config, rng = Config(variant="maps", backbone=BackboneConfig("projection")), np.random.default_rng(0)
    own, axes = rng.normal(0, 1, (1, 128)).astype(np.float32), rng.normal(0, 1, (128, 768)).astype(np.float32)
    matrices = []
    for rank in (1, 64):
        record = {"source": "imported", "conditions": [{"name": "a", "kind": "categorical"}], "input_shape": [768]}
        record |= {"items": {"train": 9}, "triplets": {"train": 9}, "maps": {"axes": 128, "rank": rank, "pulls": [0.0]}}
        record = Record.from_object(record)
        network = network_of(config, record)
        kept = np.zeros((1, rank, 128), np.float32)
        kept[0, :1] = own
        state = network.state._replace(statistics=network.state.statistics | {"kept": kept, "axes": axes})
        parts = (record.names, (768,), state, make_programs(network), make_shardings())
        matrices.append(make_model(config, *parts).maps.matrix)
    assert matrices[0].shape == (1, 768) and matrices[0].tobytes() == matrices[1].tobytes()


def test_stored_vectors_serve_without_the_items(parent, adapted, tmp_path):
    """The new condition is that of the run's own labels, and searches the file that the old run wrote."""
    path = tmp_path / "all.parquet"
    embed.main([f"--workdir={parent}", "--split=all", f"--out={path}"])
    model, report = learn(parent, tmp_path / "new", f"--index={path}")
    assert_keeps_the_parent(tmp_path / "new", parent)
    assert report["triplet_error"] == adapted[2]["triplet_error"] and not report["own_data"]
    index = Index.open(path).of_model(model.sha256, model.conditions, model.masks, model.maps)
    rows, distances = index.nearest(index.vectors[:9], {"colour": 1}, 2)
    x, y = (index.vectors[column] for column in rows.T)
    np.testing.assert_allclose(np.sqrt(distances[:, 1]), model.distance(x, y, "colour"), rtol=1e-4, atol=1e-4)
