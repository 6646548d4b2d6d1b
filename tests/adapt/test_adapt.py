"""adapt: a new condition from labels or triplets. The old masks and the embedding stay bit-identical."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import shop
import tiny
from test_cli import assert_message, run

import csn_jax
from csn_jax import adapt, embed, evaluate, port, search, train
from csn_jax.adapt.labels import from_table
from csn_jax.adapt.lesson import Items
from csn_jax.adapt.people import from_triplets, group_triplets, holds_triplets
from csn_jax.adapt.report import summary
from csn_jax.adapt.sources import find_lesson
from csn_jax.backbones.plain import MAGNIFIED, PROJECTION_SCALE
from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.core.steps import initial_state
from csn_jax.data.columns import Columns
from csn_jax.data.dataset import load_dataset
from csn_jax.data.triplets import Triplets
from csn_jax.errors import UserError
from csn_jax.evaluate.triplet_error import wrong_triplets
from csn_jax.model.network import build_network
from csn_jax.model.run import open_run
from csn_jax.runtime.record import Record, read_record, to_json
from csn_jax.runtime.whole import write_run
from csn_jax.runtime.workdir import read_config
from csn_jax.store.index import Index

N = 300
COLOUR = slice(4, 7)  # the dimensions of shop.vectors that hold the colour; the last one is loud noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Products with vectors, and a column that has nothing to do with them."""
    folder = tmp_path_factory.mktemp("shop")
    columns = shop.columns(N)
    columns["luck"] = [str(i) for i in np.random.default_rng(5).choice(["x", "y", "z"], N)]
    columns["same"] = ["one"] * N
    columns["long"] = ["text " * 60] * N
    shop.write(folder / "products.parquet", columns, vector=shop.vectors(columns))
    shop.write(folder / "products.csv", columns)
    np.save(folder / "v.npy", shop.vectors(columns))
    return folder


def known_run(workdir: Path, data: DataConfig) -> Path:
    """A workdir whose embedding is the vector itself, with masks for category and tags, on the shop's data."""
    config = Config(steps=5, backbone=BackboneConfig("projection", embedding_dim=12), batch_size=16, data=data)
    record = {"conditions": [{"name": name, "kind": "set"} for name in ("category", "tags")], "input_shape": [12]}
    record = Record.from_object(record | {"source": "imported", "items": {"train": 0}, "triplets": {"train": 100}})
    if data.source == "table":
        record = load_dataset(config).record
    network = build_network(config, (12,), 2, 100)
    params, statistics = network.state.params["backbone"], network.state.statistics
    params["fc"] = {"kernel": np.eye(12, dtype=np.float32) / PROJECTION_SCALE, "bias": np.zeros(12, np.float32)}
    statistics["bn"]["var"] = np.full(12, MAGNIFIED**2, np.float32)
    beta = np.random.default_rng(0).normal(0.5, 0.5, (2, 12)).astype(np.float32)
    write_run(workdir, config, record, initial_state(params, statistics, beta, network.optimizer))
    return workdir


@pytest.fixture(scope="module")
def parent(folder, tmp_path_factory):
    counts = {"train_triplets": 400, "validation_triplets": 100, "test_triplets": 300}
    data = DataConfig(
        "table", str(folder / "products.parquet"), conditions=("category", "tags"), vectors="vector", **counts
    )
    workdir = known_run(tmp_path_factory.mktemp("parent") / "run", data)
    results = evaluate_json(workdir)
    (workdir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return workdir


def evaluate_json(workdir):
    box = io.StringIO()
    with contextlib.redirect_stdout(box):
        evaluate.main([f"--workdir={workdir}", "--json"])
    return json.loads(box.getvalue())


def learn(parent, out, *flags, condition="colour"):
    """(the adapted model, its report in data.json)."""
    before = tiny.contents(parent)
    adapt.main([f"--workdir={parent}", f"--condition={condition}", f"--out={out}", *map(str, flags)])
    assert tiny.contents(parent) == before
    return csn_jax.load(out), read_record(Path(out)).adapted[-1]


def assert_keeps_the_parent(model, parent, name="colour"):
    """The embedding and the old masks are bit-identical; the new mask comes last and is not negative."""
    old = csn_jax.load(parent)
    assert model.conditions == (*old.conditions, name)
    assert model.masks[:-1].tobytes() == old.masks.tobytes()
    assert model.masks.shape == (len(old.conditions) + 1, old.masks.shape[1]) and (model.masks[-1] >= 0).all()
    assert model.sha256 == old.sha256 and model.step == old.step


def beta_of(workdir):
    """The masks of a run before the rectifier."""
    _, state = open_run(workdir).restore()
    return np.asarray(state.params["beta"])


def weight_of(mask, dimensions):
    """The share of the squared distance between the shop's vectors that comes from these dimensions."""
    share = np.square(mask) * shop.vectors(shop.columns(N)).var(axis=0)
    return share[dimensions].sum() / share.sum()


def triplets_of_colour(n, seed=0):
    """n triplets of the shop's items [n, 3] that are right by colour."""
    rng, colours = np.random.default_rng(seed), np.array(shop.columns(N)["colour"])
    triplets = []
    while len(triplets) < n:
        a, p, other = rng.choice(N, 3, replace=False)
        if colours[a] == colours[p] != colours[other]:
            triplets.append((a, p, other))
    return triplets


def write_triplets(path, triplets, name=lambda i: f"images/{i:03}.{('png', 'jpg', 'webp')[i % 3]}", **more):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["anchor", "positive", "negative", *more])
        writer.writerows([*map(name, row), *(values[t] for values in more.values())] for t, row in enumerate(triplets))
    return path


def test_roles_may_have_other_names():
    """head, winner and loser give the lesson of anchor, positive and negative, and a note."""
    cells = np.array([[str(i) for i in row] for row in triplets_of_colour(40)]).T
    items = Items(np.array([str(i) for i in range(N)]), None, "items", np.zeros((N, 2), np.float32))
    usual, others = (
        Columns(Path("t.csv"), dict(zip(names, map(list, cells), strict=True)), None, None)
        for names in (("anchor", "positive", "negative"), ("Head", "winner", "loser"))
    )
    assert holds_triplets(others, "colour") and not holds_triplets(others, "winner")
    lessons = [from_triplets(columns, "colour", items, None) for columns in (usual, others)]
    for first, second in zip(*(lesson.triplets["train"] for lesson in lessons), strict=True):
        np.testing.assert_array_equal(first, second)
    assert [lesson.note for lesson in lessons] == [
        "",
        "column Head is read as anchor, winner is read as positive, loser is read as negative",
    ]


@pytest.fixture(scope="module")
def adapted(parent, folder, tmp_path_factory):
    """(workdir, model, report) with colour, learned from the run's own table."""
    out = tmp_path_factory.mktemp("adapted") / "new"
    return out, *learn(parent, out, f"--table={folder / 'products.parquet'}")


def test_labels_of_the_runs_own_table(parent, adapted):
    """The mask weighs the dimensions that hold the colour. Old results stay. Config and data are those of a training
    with colour."""
    out, model, report = adapted
    assert_keeps_the_parent(model, parent)
    assert weight_of(model.masks[-1], COLOUR) > 0.8 > 0.3 > weight_of(np.ones(12), COLOUR)
    results = json.loads((out / "results.json").read_text())
    assert evaluate_json(out) == results and results["conditions"] == ["category", "tags", "colour"]
    before = json.loads((parent / "results.json").read_text())
    for part in ("triplet_error", "ci95", "n_triplets"):
        assert (
            json.dumps(before[part]["by_condition"]).encode()[:-1] in json.dumps(results[part]["by_condition"]).encode()
        )
    for name in ("category", "tags"):
        assert results["retrieval"]["by_condition"][name] == before["retrieval"]["by_condition"][name]
    assert results["triplet_error"]["by_condition"]["colour"] == report["triplet_error"] < 0.02
    assert results["ci95"]["by_condition"]["colour"] == report["ci95"] and results["adapted"] == [report]
    assert report["unmasked"]["triplet_error"] > 0.2 and report["own_data"] and not report["cross_validated"]
    low, high = report["better_than_unmasked"]["ci95"]
    by = report["better_than_unmasked"]["by"]
    assert low < by < high and by == report["unmasked"]["triplet_error"] - report["triplet_error"]
    config = read_config(parent)
    trained = dataclasses.replace(config, data=dataclasses.replace(config.data, conditions=model.conditions))
    assert read_config(out) == trained
    assert dataclasses.replace(read_record(out), adapted=()) == load_dataset(trained).record
    assert (out / "masks.png").stat().st_size > 1000


def test_old_masks_keep_their_values_before_the_rectifier(parent, adapted):
    """Negative ones too, so that an export has what was trained."""
    old, new = beta_of(parent), beta_of(adapted[0])
    assert (old < 0).any() and new.shape == (3, 12)
    assert new[:2].tobytes() == old.tobytes()
    assert new[2].tobytes() == adapted[1].masks[2].tobytes()


def test_errors_are_those_of_a_naive_loop(adapted):
    """In float64 over the held-out triplets, under the new mask and without a mask."""
    out, model, report = adapted
    dataset = load_dataset(read_config(out))
    vectors, wrong = dataset.items.inputs.astype(float), {"masked": 0, "unmasked": 0}
    triplets = dataset.triplets["test"].of_condition(2)
    for a, p, n in zip(*triplets[:3], strict=True):
        for which, mask in (("masked", model.masks[-1].astype(float)), ("unmasked", np.ones(12))):
            d_p, d_n = (np.sqrt(((mask * vectors[a] - mask * vectors[x] + 1e-6) ** 2).sum()) for x in (p, n))
            wrong[which] += not d_n > d_p
    assert report["n_triplets"] == 300
    assert (report["triplet_error"], report["unmasked"]["triplet_error"]) == (
        wrong["masked"] / 300,
        wrong["unmasked"] / 300,
    )
    assert (dataset.items.split[np.concatenate(triplets[:3])] == "test").all()


def test_distances_have_the_size_of_those_under_the_old_masks(adapted):
    model = adapted[1]
    vectors = shop.vectors(shop.columns(N))
    typical = [np.square(model.distance(vectors[:-1], vectors[1:], name)).mean() for name in model.conditions]
    assert 0.5 < typical[2] / np.mean(typical[:2]) < 2


def test_the_runs_own_labels_need_no_table_and_no_out(parent, adapted, tmp_path, capsys):
    """The same bytes as with the table, a summary, and the next step."""
    copy = shutil.copytree(parent, tmp_path / "run")
    capsys.readouterr()
    adapt.main([f"--workdir={copy}", "--condition=colour"])
    stdout, stderr = capsys.readouterr()
    out = tmp_path / "run_colour"
    assert csn_jax.load(out).masks.tobytes() == adapted[1].masks.tobytes()
    for name in ("results.json", "config.json", "data.json"):
        assert (out / name).read_bytes() == (adapted[0] / name).read_bytes()
    records = [next(folder.glob("checkpoints/*/meta/metadata")).read_bytes() for folder in (out, adapted[0])]
    assert records[0] == records[1]  # with the digest of every array
    lines = stdout.splitlines()
    assert lines[0] == "colour, learned from labels of 300 items of the run's own data; 300 held-out triplets"
    report = adapted[2]
    assert lines[3].split()[:3] == ["under", "colour", f"{report['triplet_error']:.2%}"]
    assert lines[4].split()[:2] == ["unmasked", f"{report['unmasked']['triplet_error']:.2%}"]
    assert "points below that of the unmasked distance" in lines[6]
    assert lines[7] == f"{out} holds the model, with conditions category, tags, colour"
    assert max(map(len, lines[1:6])) <= 80
    last = stderr.splitlines()[-1]
    assert last.startswith("next: ") and last.endswith(f"embed --workdir={out} --split=all --out={out}.parquet")


@pytest.mark.parametrize("kind, column", [("numeric", "price"), ("ordinal", "size"), ("inferred", "tags2")])
def test_other_kinds_of_labels(parent, folder, tmp_path, kind, column):
    """A table beside the run's own that names its items by their images."""
    columns = shop.columns(N)
    columns["tags2"] = columns["tags"]
    path = shop.write(tmp_path / "ids.csv", {"id": columns["image"], column: columns[column]})
    model, report = learn(parent, tmp_path / "new", f"--table={path}", f"--kind={kind}", condition=column)
    assert report["kind"] == {"inferred": "set"}.get(kind, kind) and not report["own_data"]
    assert_keeps_the_parent(model, parent, column)


def test_triplets_from_people(parent, tmp_path, capsys):
    """Sixty, by the items' ids: the error is cross-validated, and results on the run's data are byte-identical."""
    path = write_triplets(tmp_path / "people.csv", triplets_of_colour(60))
    model, report = learn(parent, tmp_path / "new", f"--table={path}")
    assert_keeps_the_parent(model, parent)
    assert weight_of(model.masks[-1], COLOUR) > 0.6
    assert report["cross_validated"] and report["n_triplets"] == 60 and report["kind"] == "triplets"
    assert report["triplet_error"] < 0.15 < report["unmasked"]["triplet_error"]
    assert "60 held-out triplets, each measured by a fit without its fold" in capsys.readouterr().out
    assert (tmp_path / "new/config.json").read_bytes() == (parent / "config.json").read_bytes()
    results = evaluate_json(tmp_path / "new")
    assert results == json.loads((tmp_path / "new/results.json").read_text())
    assert results.pop("adapted") == [report]
    assert json.dumps(results, indent=2) + "\n" == (parent / "results.json").read_text()
    evaluate.main([f"--workdir={tmp_path / 'new'}"])
    printed = capsys.readouterr().out
    assert "learned by adapt" in printed and "60 triplets in people.csv" in printed


def test_conditions_are_learned_one_after_the_other(parent, folder, tmp_path):
    """After other data, the run's own table counts as other data too: it lacks a condition of the masks."""
    path = write_triplets(tmp_path / "people.csv", triplets_of_colour(60))
    first, _ = learn(parent, tmp_path / "a", f"--table={path}", condition="hue")
    second, report = learn(tmp_path / "a", tmp_path / "b", f"--table={folder / 'products.parquet'}")
    assert second.conditions == ("category", "tags", "hue", "colour") and not report["own_data"]
    assert second.masks[:3].tobytes() == first.masks.tobytes()
    assert [report["condition"] for report in evaluate_json(tmp_path / "b")["adapted"]] == ["hue", "colour"]
    both, _ = learn(parent, tmp_path / "c")
    last, report = learn(tmp_path / "c", tmp_path / "d", condition="size")
    assert report["own_data"] and evaluate_json(tmp_path / "d")["conditions"] == ["category", "tags", "colour", "size"]
    assert last.masks[:3].tobytes() == both.masks.tobytes()


def test_triplets_of_several_conditions_and_with_a_split(parent, tmp_path):
    """Only rows of the condition are used, and only test rows are measured."""
    right = triplets_of_colour(80)
    opposite = [(a, n, p) for a, p, n in triplets_of_colour(40, seed=1)]
    path = write_triplets(
        tmp_path / "people.csv",
        [*right, *opposite, *opposite],
        condition=["colour"] * 120 + ["other"] * 40,
        split=["train"] * 60 + ["val"] * 20 + ["test"] * 40 + ["train"] * 40,
    )
    model, report = learn(parent, tmp_path / "new", f"--table={path}")
    assert weight_of(model.masks[-1], COLOUR) > 0.6
    assert report["n_triplets"] == 40 and not report["cross_validated"]
    assert report["triplet_error"] > 0.8  # test triplets are reversed, and nothing was learned from them


def test_many_triplets_are_held_out_by_anchor(parent, tmp_path):
    path = write_triplets(tmp_path / "people.csv", triplets_of_colour(1_500))
    _, report = learn(parent, tmp_path / "new", f"--table={path}")
    assert not report["cross_validated"] and 200 < report["n_triplets"] < 450 and report["triplet_error"] < 0.02


def test_triplets_of_the_same_three_items_share_a_group():
    """Odd one out of three gives two triplets: no fold learns from one and is measured on the other."""
    rng = np.random.default_rng(0)
    three = np.array([rng.choice(90, 3, replace=False) for _ in range(40)])
    anchor, positive, negative = np.concatenate([three, three[:, [1, 0, 2]]]).T
    group = group_triplets(anchor, positive, negative)
    assert (group[:40] == group[40:]).all() and len(np.unique(group)) > 5
    for a in np.unique(anchor):
        assert len(np.unique(group[anchor == a])) == 1
    smallest = list(range(80))  # by a naive search for connected triplets
    alike = [(t, u) for t in range(80) for u in range(80) if anchor[t] == anchor[u] or t % 40 == u % 40]
    for _ in range(80):
        for t, u in alike:
            smallest[t] = smallest[u] = min(smallest[t], smallest[u])
    assert len({*zip(smallest, group, strict=True)}) == len(set(smallest)) == len(np.unique(group))
    chain = np.array([[i, i + 1, 100 + i] for i in range(40)] + [[i, i + 50, i + 60] for i in range(200, 206)])
    anchor, positive, negative = np.concatenate([chain, chain[:, [1, 0, 2]]]).T
    sizes = np.bincount(group_triplets(anchor, positive, negative))
    assert (sizes == 2).all()  # a chain joins most triplets, so only those of the same three items stay together
    few = rng.choice(6, (40, 3))  # six items join all triplets
    assert len(np.unique(group_triplets(*few.T))) == len({tuple(sorted(row)) for row in few.tolist()})


def test_many_triplets_of_few_anchors_are_cross_validated(parent, tmp_path):
    rows = triplets_of_colour(6_000)
    anchors = sorted({row[0] for row in rows})[:6]
    chosen = [row for row in rows if row[0] in anchors]
    path = write_triplets(tmp_path / "people.csv", (chosen * 1_100)[:1_100])
    _, report = learn(parent, tmp_path / "new", f"--table={path}")
    assert report["cross_validated"] and report["n_triplets"] == 1_100


@pytest.fixture(scope="module")
def index(parent, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "all.parquet"
    embed.main([f"--workdir={parent}", "--split=all", f"--out={path}"])
    return path


def test_stored_vectors_serve_without_the_items(parent, folder, adapted, index, tmp_path):
    """Labels from the index itself or from a table, triplets by id. Items keep the split of the index."""
    moved = shutil.copytree(parent, tmp_path / "run")
    config = read_config(moved)
    (moved / "config.json").write_text(config.to_json().replace(config.data.path, "/no/such.parquet"))
    people = write_triplets(tmp_path / "people.csv", triplets_of_colour(60))
    for name, flags in {
        "own": (),
        "table": (f"--table={folder / 'products.csv'}",),
        "file": (f"--table={index}",),
    }.items():
        model, report = learn(moved, tmp_path / name, f"--index={index}", *flags)
        assert_keeps_the_parent(model, parent)
        assert report["triplet_error"] == adapted[2]["triplet_error"] and not report["own_data"]
        np.testing.assert_allclose(model.masks[-1], adapted[1].masks[-1], rtol=1e-5, atol=1e-6)
    model, _ = learn(moved, tmp_path / "people", f"--index={index}", f"--table={people}")
    assert weight_of(model.masks[-1], COLOUR) > 0.6


def test_stored_vectors_stay_valid(adapted, index, capsys):
    """The new condition searches an index of the parent."""
    out, model, _ = adapted
    stored = Index.open(index).of_model(model.sha256, model.conditions, model.masks)
    rows, _ = stored.nearest(stored.vectors[:20], {"colour": 1}, 6)
    colours = stored.columns["colour"]
    assert (colours[rows[:, 1:]] == colours[rows[:, :1]]).mean() > 0.95
    item = stored.ids[0]
    search.main([f"--index={index}", f"--workdir={out}", f"--id={item}", "--condition=colour", "--k=3", "--json"])
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [hit["id"] for hit in hits] == [stored.ids[row] for row in rows[0] if stored.ids[row] != item][:3]


def test_an_adapted_model_is_exported_and_comes_back(adapted, parent, tmp_path):
    out, model, report = adapted
    port.main(["export", f"--workdir={out}", f"--out={tmp_path / 'out'}"])
    port.main(["import", str(tmp_path / "out"), f"--workdir={tmp_path / 'run'}"])
    again = csn_jax.load(tmp_path / "run")
    assert again.conditions == model.conditions and again.masks.tobytes() == model.masks.tobytes()
    card = (tmp_path / "out/README.md").read_text()
    assert "| colour | categorical |" in card
    made = card[card.index("## How it was made") :]
    assert "--config.data.conditions category tags --" in made  # training did not know colour
    assert f"added colour, from {report['learned_from']}." in made


def test_a_table_of_other_items(parent, tmp_path):
    """Their own vectors are embedded and split. A column `split` is kept."""
    columns = shop.columns(N)
    vectors = shop.vectors(columns)
    columns["image"] = [f"other/{i}" for i in range(N)]
    path = shop.write(tmp_path / "other.parquet", columns, vector=vectors)
    model, report = learn(parent, tmp_path / "new", f"--table={path}")
    assert_keeps_the_parent(model, parent)
    assert weight_of(model.masks[-1], COLOUR) > 0.8 and report["triplet_error"] < 0.03
    assert report["learned_from"] == "labels of 300 items in other.parquet" and not report["own_data"]
    columns["split"] = ["test", "train", "val"] * (N // 3)
    path = shop.write(tmp_path / "split.parquet", columns, vector=vectors)
    _, report = learn(parent, tmp_path / "again", f"--table={path}")
    assert report["n_triplets"] == 300


def test_equal_vectors_share_a_split():
    vectors = np.repeat(np.random.default_rng(0).normal(size=(60, 3)), 2, axis=0).astype(np.float32)
    ids = [str(i) for i in range(120)]
    columns = Columns(Path("t.csv"), {"colour": [("red", "blue")[i // 2 % 2] for i in range(120)]}, None, None)
    items = Items(np.array(ids), None, "t", vectors)
    triplets = from_table(columns, ids, "colour", None, items, DataConfig(), False).triplets
    pairs = [set((np.concatenate(triplets[split][:3]) // 2).tolist()) for split in ("train", "validation", "test")]
    assert sum(map(len, pairs)) == len(set.union(*pairs)) == 60


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """An untrained network for images, without data of its own."""
    workdir = tmp_path_factory.mktemp("imported") / "run"
    config = Config(
        backbone=BackboneConfig("small", embedding_dim=16),
        data=DataConfig("imported", conditions=("a",), train_triplets=300, validation_triplets=100, test_triplets=100),
        preprocess=PreprocessConfig(16, mean=(0.5,) * 3, std=(0.25,) * 3),
    )
    none = {"train": 0, "validation": 0, "test": 0}
    conditions = [{"name": "a", "kind": "categorical"}]
    record = {"source": "imported", "conditions": conditions, "input_shape": [16, 16, 3], "items": none} | {
        "triplets": none,
        "rectified": False,
    }
    network = build_network(config, (16, 16, 3), 1, 0)
    write_run(workdir, config, Record.from_object(record), network.state)
    return workdir


def test_pictures_inside_a_table(imported, tmp_path, capfd):
    """Without ids: the rows keep their numbers although one is left out."""
    columns = shop.columns(120)
    path = shop.write(tmp_path / "products.csv", columns, pictures=True)
    data = [(path.parent / name).read_bytes() for name in columns["image"]]
    data[7] = b"no picture"
    pyarrow.parquet.write_table(pyarrow.table(columns | {"image": data}), tmp_path / "t.parquet")
    _, report = learn(imported, tmp_path / "new", f"--table={tmp_path / 't.parquet'}")
    assert "left out 8, which is not a JPEG" in capfd.readouterr().err
    assert report["learned_from"] == "labels of 119 items in t.parquet"


def test_images_of_a_table(imported, tmp_path, capfd):
    """They are embedded from their files, and a bad one is left out. Triplets may name files too."""
    columns = shop.columns(120)
    path = shop.write(tmp_path / "shop/products.csv", columns, pictures=True)
    (tmp_path / "shop" / columns["image"][7]).write_bytes(b"no picture")
    model, report = learn(imported, tmp_path / "labels", f"--table={path}")
    assert_keeps_the_parent(model, imported)
    printed = capfd.readouterr().err
    assert f"left out {columns['image'][7]}, which is not a JPEG, PNG, WEBP, AVIF, GIF, BMP or TIFF image" in printed
    assert report["learned_from"] == "labels of 119 items in products.csv"
    assert report["n_triplets"] == 100  # as the run's config says
    assert report["triplet_error"] < report["unmasked"]["triplet_error"]
    rows = [row for row in triplets_of_colour(400) if max(row) < 120 and 7 not in row][:30]
    people = write_triplets(tmp_path / "shop/people.csv", rows)
    model, report = learn(imported, tmp_path / "files", f"--table={people}")
    assert_keeps_the_parent(model, imported)
    assert report["n_triplets"] == len(rows) >= 20
    assert csn_jax.load(tmp_path / "files").embed(np.zeros((1, 16, 16, 3), np.uint8)).shape == (1, 16)


def test_labels_that_the_dimensions_do_not_carry(parent, tmp_path, capsys):
    """The mask is written, and a sentence says so."""
    model, report = learn(parent, tmp_path / "new", condition="luck")
    assert report["ci95"][1] >= 0.5
    assert "do not carry luck" in capsys.readouterr().out
    assert_keeps_the_parent(model, parent, "luck")


REPORT = {
    "condition": "x",
    "kind": "categorical",
    "learned_from": "labels",
    "form": "mask",
    "reason": "lowest error",
    "triplet_error": 0.3,
    "ci95": [0.25, 0.35],
    "unmasked": {"triplet_error": 0.31, "ci95": [0.26, 0.36]},
    "better_than_unmasked": {"by": 0.01, "ci95": [0.002, 0.02]},
    "n_triplets": 100,
    "cross_validated": False,
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, "its error is 1.00 points below that of the unmasked distance"),
        (
            {"better_than_unmasked": {"by": 0.01, "ci95": [0.0, 0.02]}},
            "no mask is clearly better",
        ),
        ({"ci95": [0.2, 0.5]}, "do not carry x"),
        ({"ci95": [0.2, 0.5], "kind": "triplets"}, "give more triplets, or train with x as a condition"),
        ({"form": "map"}, "1.00 points below that of the raw vectors"),
        ({"form": "map", "better_than_unmasked": {"by": 0.01, "ci95": [0.0, 0.02]}}, "it is not clearly better for x"),
        ({"form": "none"}, "x keeps the raw vectors"),
        ({"form": "none", "ci95": [0.2, 0.5]}, "these vectors do not carry x"),
    ],
)
def test_verdicts(change, words):
    last = summary(REPORT | change).splitlines()[-1]
    assert words in last and tiny.is_one_sentence(last.removesuffix("."))


def test_a_mask_beside_conditions_that_keep_raw_vectors(parent, tmp_path):
    """The mask covers the embedding, and not the raw vector that lies beside it. Raw vectors are among what is
    reported."""
    copy = shutil.copytree(parent, tmp_path / "run")
    record = dataclasses.replace(read_record(copy), raw={"unit": True, "conditions": ["tags"], "scale": 2.0})
    (copy / "data.json").write_bytes(to_json(record.as_object()))
    model, report = learn(copy, tmp_path / "new")
    assert_keeps_the_parent(model, copy)
    assert model.masks.shape == (3, 24) and beta_of(tmp_path / "new").shape == (3, 12)
    assert model.masks[2, :12].any() and not model.masks[2, 12:].any() and report["form"] == "mask"
    dataset, wrong = load_dataset(read_config(tmp_path / "new")), 0
    vectors = dataset.items.inputs / np.linalg.norm(dataset.items.inputs, axis=1, keepdims=True)
    for a, p, n in zip(*dataset.triplets["test"].of_condition(2)[:3], strict=True):
        wrong += np.linalg.norm(vectors[a] - vectors[n]) <= np.linalg.norm(vectors[a] - vectors[p])
    assert report["raw"]["triplet_error"] == wrong / 300
    assert "raw vectors" in summary(report)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder of tables with a mistake each."""
    folder, rows = tmp_path_factory.mktemp("tables"), triplets_of_colour(20)
    write_triplets(folder / "few.csv", rows[:9])
    write_triplets(folder / "anchors.csv", [rows[0]] * 30)
    write_triplets(folder / "ids.csv", rows, name=lambda i: f"item {i}")
    write_triplets(folder / "same.csv", [*rows, (3, 3, 4)])
    write_triplets(folder / "condition.csv", rows, condition=["colours"] * 20)
    write_triplets(folder / "split.csv", rows, split=["test"] * 20)
    for name, lines in {
        "head": "",
        "unknown": "images/000.png,red\nimages/999.png,blue\n",
        "pairs": "images/000.png,red\nimages/001.jpg,blue\n",
        "twice": "images/000.png,red\nimages/000.png,blue\n",
        "words": "images/000.png,red\nimages/001.jpg,2\n",
    }.items():
        (folder / f"{name}.csv").write_text(f"id,colour\n{lines}")
    return folder


# Flags of find_lesson, and words of the message. A bare file name lies in `tables`.
UNUSABLE = {
    "no table": ({"table": "/no/such.csv"}, ("--table=/no/such.csv is not a file",)),
    "missing column": ({"condition": "colur"}, ("no column 'colur' (did you mean colour?)", "--condition")),
    "missing in the run": ({"table": "", "condition": "colur"}, ("--condition=colur (did you mean colour?)",)),
    "one value": ({"condition": "same"}, ("'same'", "one value only, 'one'")),
    "one value in the run": ({"table": "", "condition": "same"}, ("'same'", "1 value")),
    "long texts": ({"condition": "long"}, ("texts of more than 200 characters",)),
    "names": ({"condition": "title"}, ("'title' has no triplet in the train split",)),
    "no numbers": ({"table": "words.csv", "kind": "numeric"}, ("row 1 (line 2)", "'red'", "--kind=categorical")),
    "no rows": ({"table": "head.csv"}, ("has no row",)),
    "unknown item": ({"table": "unknown.csv"}, ("row 2 (line 3)", "'images/999.png'", "the run's own data", "--index")),
    "id twice": ({"table": "twice.csv"}, ("row 2 (line 3)", "same id as row 1")),
    "too few items": ({"table": "pairs.csv"}, ("no triplet in the train split", "label more items")),
    "too few triplets": ({"table": "few.csv"}, ("has 9 triplets of", "at least 10 triplets")),
    "one anchor": ({"table": "anchors.csv"}, ("has 30 triplets of 1 different anchors",)),
    "unknown ids": ({"table": "ids.csv"}, ("row 1 (line 2): anchor 'item", "not an item of the run's own data")),
    "an item twice": ({"table": "same.csv"}, ("row 21 (line 22) names an item twice",)),
    "another condition": ({"table": "condition.csv"}, ("'colour' (did you mean colours?)",)),
    "only tests": ({"table": "split.csv"}, ("0 different anchors", "not test triplets")),
    "no index": ({"index": "/no/such.parquet"}, ("/no/such.parquet is not a file",)),
    "no vectors": ({"index": "CSV"}, ("products.csv", "vector")),
    "unknown id of an index": ({"table": "unknown.csv", "index": "INDEX"}, ("'images/999.png'", "all.parquet")),
}


@pytest.fixture(scope="module")
def opened(parent):
    """(run, model)."""
    run = open_run(parent)
    return run, run.model()


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_nothing_can_be_learned_from(opened, folder, tables, index, name):
    flags, words = UNUSABLE[name]
    places = {"PRODUCTS": folder / "products.parquet", "CSV": folder / "products.csv", "INDEX": index}
    places |= {path.name: path for path in tables.iterdir()}
    flags = {"table": "PRODUCTS", "condition": "colour"} | flags
    flags = {flag: str(places.get(value, value)) for flag, value in flags.items()}
    flags["table"] = (flags["table"],) if flags["table"] else ()
    with pytest.raises(UserError) as raised:
        find_lesson(adapt.Args(workdir="", **flags), *opened)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert tiny.is_one_sentence(message.removesuffix(".")), message


MISTAKES = {
    "existing condition": (["--condition=tags"], ["has a condition 'tags' already"]),
    "no name": (["--condition="], ["--condition is empty"]),
    "not a file's name": (["--condition=a/b"], ["'a/b' cannot name a file"]),
    "kind": (["--kind=categorial"], ["'categorial'", "did you mean categorical?"]),
    "itself": (["--out=PARENT"], ["is the --workdir itself"]),
    "taken": (["--out=TAKEN"], ["holds a model already; give another --out"]),
    "no run": (["--workdir=/no/such"], ["/no/such has no config.json"]),
    "misspelt flag": (["--tabel=x"], ["--tabel", "--help"]),
    "missing table": (["--table=/no/such.csv"], ["--table=/no/such.csv is not a file"]),
}


def test_mistakes_are_one_sentence_and_write_nothing(parent, adapted, tmp_path, monkeypatch, capsys):
    before = tiny.contents(parent), tiny.contents(adapted[0])
    usual = {"workdir": parent, "condition": "colour", "out": tmp_path / "new"}
    for flags, words in MISTAKES.values():
        flags = [flag.replace("PARENT", str(parent)).replace("TAKEN", str(adapted[0])) for flag in flags]
        given = {flag[2:].split("=")[0] for flag in flags}
        argv = [*flags, *(f"--{flag}={value}" for flag, value in usual.items() if flag not in given)]
        assert_message(*run(adapt, monkeypatch, capsys, *argv), 2, *words)
        assert os.listdir(tmp_path) == []
    assert (tiny.contents(parent), tiny.contents(adapted[0])) == before


def test_an_index_of_another_model_is_refused(parent, index, tmp_path, monkeypatch, capsys):
    other = shutil.copytree(parent, tmp_path / "other")
    config = read_config(other)
    changed = dataclasses.replace(config, preprocess=dataclasses.replace(config.preprocess, size=64))
    (other / "config.json").write_text(changed.to_json())
    argv = (f"--workdir={other}", f"--index={index}", "--condition=colour", f"--out={tmp_path / 'new'}")
    assert_message(*run(adapt, monkeypatch, capsys, *argv), 2, "made by another model")


def test_a_changed_table_of_the_run_is_refused(parent, tmp_path, monkeypatch, capsys):
    """The run's own table was changed since: old conditions would be measured on other items."""
    columns = shop.columns(N)
    columns["category"][3], columns["category"][4] = "boot", "shoe"
    columns["category"][5] = "sandal"
    path = shop.write(tmp_path / "products.parquet", columns, vector=shop.vectors(shop.columns(N)))
    copy = shutil.copytree(parent, tmp_path / "run")
    config = read_config(copy)
    (copy / "config.json").write_text(config.to_json().replace(config.data.path, str(path)))
    argv = (f"--workdir={copy}", "--condition=colour", f"--table={path}")
    assert_message(*run(adapt, monkeypatch, capsys, *argv), 2, "was trained on other data", "items_sha256")
    assert not (tmp_path / "run_colour").exists()


def test_specialists_and_runs_without_labels_are_refused(parent, imported, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(parent, tmp_path / "run")
    config = dataclasses.replace(read_config(copy), variant="specialists")
    for name in ("category", "tags"):
        shutil.copytree(parent, copy / name)
    (copy / "config.json").write_text(config.to_json())
    argv = (f"--workdir={copy}", "--condition=colour")
    assert_message(*run(adapt, monkeypatch, capsys, *argv), 2, "holds specialists", "adapt a run of another variant")
    argv = (f"--workdir={imported}", "--condition=colour")
    assert_message(*run(adapt, monkeypatch, capsys, *argv), 2, "no labels of its own to learn 'colour' from", "--table")
    (tmp_path / "ids.csv").write_text("id,colour\na,red\nb,blue\n")
    argv = (*argv, f"--table={tmp_path / 'ids.csv'}")
    assert_message(*run(adapt, monkeypatch, capsys, *argv), 2, "imported", "no data")


def test_an_in_batch_run_learns_from_its_own_labels(parent, tmp_path):
    """Categories and numbers: the wider data is what loading with the new condition gives."""
    workdir = shutil.copytree(parent, tmp_path / "run")
    config = read_config(workdir)
    data = dataclasses.replace(config.data, conditions=("category",))
    config = dataclasses.replace(config, data=data, loss=dataclasses.replace(config.loss, name="batch_hard"))
    (workdir / "config.json").write_text(config.to_json())
    (workdir / "data.json").write_bytes(to_json(load_dataset(config).record.as_object()))
    run, model = open_run(workdir), csn_jax.load(parent)
    for condition in ("colour", "price"):
        dataset, wider = find_lesson(adapt.Args(workdir="", condition=condition), run, model).own
        assert dataset.record == load_dataset(wider).record and dataset.record.names == ("category", condition)


FOOTWEAR = Path(__file__).parents[3] / "shared/data/footwear/products.csv"


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.skipif(not FOOTWEAR.is_file(), reason=f"no {FOOTWEAR}")
def test_usage_of_shoes_is_learned_without_training(tmp_path, optimized):
    """After a short training on photos without `usage`: the error is clearly below that of the unmasked distance, and a
    hundred triplets come close."""
    workdir = tmp_path / "run"
    train.main(
        [
            "--config=table",
            f"--config.data.path={FOOTWEAR}",
            *("--config.data.conditions", "category", "gender", "colour", "season"),
            "--config.steps=200",
            "--config.preprocess.size=32",
            f"--workdir={workdir}",
        ]
    )
    _, report = learn(workdir, tmp_path / "labels", condition="usage")
    assert report["better_than_unmasked"]["ci95"][0] > 0
    dataset = load_dataset(read_config(tmp_path / "labels"))
    triplets = dataset.triplets["train"].of_condition(4)
    chosen = np.random.default_rng(0).choice(len(triplets.anchor), 100, replace=False)
    rows = list(zip(*(column[chosen].tolist() for column in triplets[:3]), strict=True))
    path = write_triplets(tmp_path / "people.csv", rows, name=lambda i: dataset.items.ids[i])
    model, few = learn(workdir, tmp_path / "few", f"--table={path}", condition="usage")
    assert few["n_triplets"] == 100
    test = dataset.triplets["test"].of_condition(4)
    vectors = model.view_rows(dataset.items.inputs, dataset.rows("test"))
    error = wrong_triplets(vectors, model.masks[-1:], Triplets(*test[:3], np.zeros_like(test.anchor))).mean()
    assert error < report["triplet_error"] + 0.08
