"""Training on your own table: pictures or vectors, CSV or Parquet, labels or triplets from people."""

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shop
import tiny

import csn_jax
from csn_jax import cli, evaluate, train
from csn_jax.pictures import sheets as pictures

CONFIGS = Path(__file__).parents[2] / "configs"
CONDITIONS = ("category", "colour", "price", "size", "tags")


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(pictures, "QUERIES", 3)
        patch.setattr(pictures, "NEIGHBOURS", 3)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shop as CSV and as Parquet with vectors, and triplets from people."""
    folder = tmp_path_factory.mktemp("shop")
    columns = shop.columns(120)
    shop.write(folder / "products.csv", columns, pictures=True)
    shop.write(folder / "products.parquet", columns, vector=shop.vectors(columns))
    shop.write(folder / "plain.csv", {"image": columns["image"]})
    np.save(folder / "v.npy", shop.vectors(columns))
    rng = np.random.default_rng(0)
    rows = [[*(columns["image"][i] for i in rng.choice(120, 3, replace=False)), "comfort"] for _ in range(100)]
    with open(folder / "people.csv", "w", newline="") as file:
        csv.writer(file).writerows([["anchor", "positive", "negative", "condition"], *rows])
    return folder


def arguments(folder, preset, table, *more):
    return [f"--config={CONFIGS / preset}:tiny", f"--config.data.path={folder / table}", "--config.feed=device", *more]


PICTURES = ("table.py", "products.csv", "--config.preprocess.size=16", "--config.data.conditions", *CONDITIONS)
VECTORS = ("features.py", "products.parquet", "--config.data.conditions", "category", "colour")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """{pictures, vectors: (workdir, standard output, standard error)} of two runs."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    runs = {}
    for name, plan in (("pictures", PICTURES), ("vectors", VECTORS)):
        workdir, out, err = tmp_path_factory.mktemp(name) / "run", StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            train.main([*arguments(folder, *plan), f"--workdir={workdir}"])
        runs[name] = workdir, out.getvalue(), err.getvalue()
    return runs


def test_a_run_on_pictures(trained):
    """A data report before training, results after it, and a sheet of neighbours per condition of any kind."""
    workdir, out, err = trained["pictures"]
    assert err.index("data report: ") < err.index("training") and "6 million" not in out
    assert all(name in err for name in CONDITIONS) and "possible triplets" in err
    assert "learned masks, test split" in out and "linear probe" not in out
    results = json.loads((workdir / "results.json").read_text())
    assert results["conditions"] == list(CONDITIONS) and "baselines" not in results
    for name in CONDITIONS:
        assert (workdir / f"neighbours_{name}.png").stat().st_size > 1000
    record = json.loads((workdir / "data.json").read_text())
    assert record["source"] == "table" and record["input_shape"] == [16, 16, 3]
    kinds = ("categorical", "categorical", "numeric", "ordinal", "set")
    assert record["conditions"] == [{"name": n, "kind": k} for n, k in zip(CONDITIONS, kinds, strict=True)]
    embedded = csn_jax.load(workdir).embed(np.zeros((3, 16, 16, 3), np.uint8))
    assert embedded.shape == (3, 64)


def test_a_run_on_vectors(trained):
    """With the errors of the raw vectors, of examples and of a linear probe on the same triplets, and a verdict."""
    workdir, out, _ = trained["vectors"]
    assert all(words in out for words in ("Euclidean", "cosine", "4 examples", "linear probe"))
    results = json.loads((workdir / "results.json").read_text())
    for name in ("euclidean", "cosine", "prototypes", "linear_probe"):
        assert set(results["baselines"][name]["by_condition"]) == {"category", "colour"}
        assert 0 <= results["baselines"][name]["overall"] < 0.6
    assert set(results["verdict"]) == {"category", "colour"}
    assert all(f"{name:<8}  {sentence[:30]}" in out for name, sentence in results["verdict"].items())
    assert (workdir / "masks.png").exists()
    assert len(list(workdir.glob("neighbours_*"))) == 2  # the pictures beside the vectors
    assert json.loads((workdir / "data.json").read_text())["input_shape"] == [12]
    model = csn_jax.load(workdir)
    vectors = shop.vectors(shop.columns(120))
    embedded = model.embed(vectors[:7])
    assert embedded.shape == (7, 12) and embedded.dtype == np.float32
    np.testing.assert_allclose(model.embed(vectors[:7].astype(np.float64)), embedded, atol=1e-6)


@pytest.mark.parametrize("name", ["pictures", "vectors"])
def test_evaluate_gives_the_results_and_refuses_other_data(trained, folder, name, tmp_path, capsys):
    workdir = trained[name][0]
    evaluate.main([f"--workdir={workdir}", "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads((workdir / "results.json").read_text())
    evaluate.main([f"--workdir={workdir}", "--ladder", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["ladder"]["raw"] == ("features" if name == "pictures" else "vectors")
    assert set(found["verdict"]) == set(found["conditions"])
    assert found["ladder"]["rungs"]["run"]["triplet_error"] == found["triplet_error"]
    moved = shutil.copytree(folder, tmp_path / "shop")
    columns = shop.columns(120)
    columns["colour"][3], columns["colour"][4] = "red", "blue" if columns["colour"][4] != "blue" else "green"
    shop.write(moved / "products.csv", columns)
    shop.write(moved / "products.parquet", columns, vector=shop.vectors(shop.columns(120)))
    other = shutil.copytree(workdir, tmp_path / "run")
    config = (other / "config.json").read_text().replace(str(folder), str(moved))
    (other / "config.json").write_text(config)
    with pytest.raises(csn_jax.UserError, match="was trained on other data"):
        evaluate.main([f"--workdir={other}"])


def test_csv_and_parquet_give_the_same_run(trained, folder, tmp_path):
    """CSV with a file of vectors, or Parquet with a column of them: the same bytes of results."""
    workdir, _, _ = trained["vectors"]
    plan = ("features.py", "products.csv", "--config.data.vectors=v.npy", *VECTORS[2:])
    train.main([*arguments(folder, *plan), f"--workdir={tmp_path / 'run'}"])
    for name in ("results.json", "metrics.jsonl", "data.json"):
        assert (tmp_path / "run" / name).read_bytes() == (workdir / name).read_bytes()


@pytest.mark.slow
def test_triplets_of_people_need_no_labels(folder, tmp_path):
    """Pictures and triplets are enough to train, evaluate and show neighbours."""
    more = (f"--config.data.triplets={folder / 'people.csv'}", "--config.preprocess.size=16")
    workdir = tmp_path / "run"
    train.main([*arguments(folder, "table.py", "plain.csv", *more), f"--workdir={workdir}"])
    results = json.loads((workdir / "results.json").read_text())
    assert results["conditions"] == ["comfort"] and results["n_triplets"]["overall"] == 20
    assert (workdir / "neighbours_comfort.png").stat().st_size > 1000
    evaluate.main([f"--workdir={workdir}"])


@pytest.mark.parametrize("plan", [PICTURES, VECTORS], ids=["pictures", "vectors"])
def test_check_stops_after_the_report(folder, tmp_path, plan, capsys, monkeypatch):
    """It prints the report, creates no workdir, and needs no TensorFlow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    more = ("--config.feed=tfdata", f"--workdir={tmp_path / 'run'}", "--check")
    train.main([*arguments(folder, *plan), *more])
    out = capsys.readouterr().out
    assert out.startswith("data report: ") and "120 items" in out and "category" in out
    assert not list(tmp_path.iterdir())


def spoiled(change):
    def make(folder):
        columns = shop.columns(120)
        change(columns, folder)
        shop.write(folder / "products.csv", columns)

    return make


def bad_image(content):
    def change(columns, folder):
        path = folder / columns["image"][4]
        path.unlink()
        if content:
            path.write_bytes(content(folder / columns["image"][7]))

    return spoiled(change)


MISTAKES = {
    "missing image": (bad_image(None), [], ["row 5 (line 6)", "images/004.jpg", "is missing"]),
    "truncated image": (bad_image(lambda p: p.read_bytes()[:-150]), [], ["row 5 (line 6)", "004.jpg", "is truncated"]),
    "bomb": (bad_image(lambda _: shop.bomb(30_000, 30_000)), [], ["row 5 (line 6)", "004.jpg", "decompression bomb"]),
    "not an image": (bad_image(lambda p: b"hello"), [], ["row 5 (line 6)", "004.jpg", "is not a JPEG, PNG, WEBP"]),
    "outside": (
        spoiled(lambda c, _: c["image"].__setitem__(4, "../x.png")),
        [],
        ["row 5 (line 6)", "'../x.png'", "lies outside"],
    ),
    "column": (None, ["--config.data.image=imag"], ["'imag'", "did you mean image?"]),
    "condition": (None, ["--config.data.conditions", "colur"], ["'colur'", "did you mean colour?"]),
    "one value": (
        spoiled(lambda c, _: c.update(country=["PT"] * 120)),
        ["--config.data.conditions", "country"],
        ["'country' has one value only, 'PT'"],
    ),
    "no triplet": (None, ["--config.data.conditions", "title"], ["'title' has no triplet in the train split"]),
    "same id": (spoiled(lambda c, _: c.update(id=["a", *map(str, range(118)), "a"])), [], ["row 120", "row 1, 'a'"]),
    "backbone": (None, ["--config.backbone.name=projection"], ["projection", "images"]),
    "vectors on an image network": (None, ["--config.data.vectors=v.npy"], ["backbone.name is small", "projection"]),
    "triplet file": (None, ["--config.data.triplets=absent.csv"], ["'absent.csv'", "does not exist"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_exits_2_and_claims_no_workdir(name, folder, tmp_path, monkeypatch, capsys):
    """The corrected command can train in the same folder."""
    make, flags, parts = MISTAKES[name]
    copy = shutil.copytree(folder, tmp_path / "shop")
    if make:
        make(copy)
    workdir = tmp_path / "run"
    plan = arguments(copy, "table.py", "products.csv", "--config.preprocess.size=16", *flags)
    monkeypatch.setattr(sys, "argv", ["train", *plan, f"--workdir={workdir}"])
    with pytest.raises(SystemExit) as end:
        cli.run(train.main)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and message.startswith("error: ")
    assert all(part in message for part in parts), message
    assert tiny.is_one_sentence(message.removesuffix("."))
    assert not (workdir / "config.json").exists()


def test_bad_images_can_be_skipped(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "shop")
    bad_image(None)(copy)
    more = ("--config.preprocess.size=16", "--config.data.skip_bad=True", "--check", "--config.data.conditions")
    train.main(arguments(copy, "table.py", "products.csv", *more, "colour"))
    out = capsys.readouterr().out
    assert "119 items" in out and "row 5 (line 6): image 'images/004.jpg' is missing" in out


BOTH = """
import sys
from csn_jax import train
for variant in ("learned", "standard"):
    train.main([*sys.argv[2:], f"--config.variant={variant}", f"--workdir={sys.argv[1]}/{variant}"])
"""


@pytest.mark.slow
def test_masks_learn_what_the_raw_vectors_hide(tmp_path):
    """After seconds of training, masks beat the raw cosine and a single space, under each condition."""
    columns = shop.columns(1_200)
    path = shop.write(tmp_path / "products.parquet", columns, vector=shop.vectors(columns))
    flags = [
        f"--config={CONFIGS / 'features.py'}",
        f"--config.data.path={path}",
        "--config.steps=300",
        "--config.feed=device",
        "--config.eval_every=100",
        "--config.batch_size=64",
        "--config.data.train_triplets=5000",
        "--config.data.test_triplets=2000",
        "--config.data.conditions",
        "category",
        "colour",
    ]
    # On one device: four devices on two busy cores may not meet in time.
    command, environment = [sys.executable, "-c", BOTH, str(tmp_path), *flags], os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = {
        variant: json.loads((tmp_path / variant / "results.json").read_text()) for variant in ("learned", "standard")
    }
    for name in ("category", "colour"):
        learned = results["learned"]["triplet_error"]["by_condition"][name]
        assert learned < 0.02 < 0.2 < results["learned"]["baselines"]["cosine"]["by_condition"][name]
        assert learned < results["standard"]["triplet_error"]["by_condition"][name] - 0.05


def test_presets_return_configs():
    for preset, function in itertools.product(("table.py", "features.py"), ("default", "tiny")):
        assert cli.load_preset(f"{CONFIGS / preset}:{function}").data.source == "table"


@pytest.mark.slow
def test_a_table_as_a_shop_brings_it_goes_through_every_command(tmp_path, monkeypatch, capsys):
    """Ids of 19 digits, decimal commas, money, NA, lists as JSON, codes, a column Split, pictures in the table: every
    stored attribute is the table's own text. A CSV with semicolons, of another encoding, has the same cells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from csn_jax import adapt, embed, explore, search
    from csn_jax.data.columns import read_columns

    monkeypatch.chdir(tmp_path)
    n, rng = 90, np.random.default_rng(0)
    cells = {
        "id": [str(10**18 + 7919 * i) for i in range(n)],
        "category": [shop.SHAPES[i % 3] for i in range(n)],
        "price": [f"{rng.uniform(1000, 2000):,.2f} €".translate(str.maketrans(",.", ".,")) for _ in range(n)],
        "weight": [f"{weight:.3f}".replace(".", ",") for weight in rng.uniform(0.1, 2, n)],
        "season": [("Summer", "NA", "Winter", "null")[i % 4] for i in range(n)],
        "tags": [json.dumps(rng.choice(list("abcde"), rng.integers(1, 3), replace=False).tolist()) for _ in range(n)],
        "brand_id": [str(i % 7 + 1) for i in range(n)],
        "version": [("1.10", "1.1", "4E3")[i % 3] for i in range(n)],
        "Split": [("Train", "train", "Valid", "TEST", "TRAIN")[i % 5] for i in range(n)],
    }
    names = shop.columns(n)["image"]
    shop.write(tmp_path / "p.csv", {"image": names} | cells | {"colour": ["red"] * n}, pictures=True)
    pictures = [{"bytes": (tmp_path / name).read_bytes(), "path": name} for name in names]
    pq.write_table(pa.table(cells | {"image": pictures}), "p.parquet")
    with open("p.csv", "w", newline="", encoding="latin-1", errors="ignore") as file:
        csv.writer(file, delimiter=";").writerows([["", *cells], *zip(range(n), *cells.values(), strict=True)])
    table = read_columns(tmp_path / "p.csv").text
    assert table == cells | {"price": [price.removesuffix("€").strip() for price in cells["price"]]}

    settings = arguments(tmp_path, "table.py", "p.parquet", "--config.preprocess.size=16", "--workdir=run")
    train.main([*settings, "--check"])
    report = capsys.readouterr().out
    assert [line for line in ("season ", "brand_id ", "tags ", "price ") if line not in report] == []
    assert "(54 train, 18 validation, 18 test)" in report and "NA" in report and "codes" in report
    train.main([*settings, "--config.data.conditions", "category", "tags", "price"])
    embed.main(["--workdir=run", "--table=p.parquet", "--out=e.parquet"])
    stored = pq.read_table("e.parquet").to_pydict()
    assert {name: stored[name] for name in cells} == cells
    embed.main(["--workdir=run", "--split=all", "--out=s.parquet"])
    own = pq.read_table("s.parquet").to_pydict()
    order = [own["id"].index(item) for item in cells["id"]]
    assert all([own[name][i] for i in order] == cells[name] for name in cells if name != "Split")
    capsys.readouterr()
    query = ["--index=e.parquet", f"--id={10**18}", "--condition", "tags"]
    search.main([*query, "--filter", "tags=a", "price<1.500,00 €", "--json"])
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert hits and all("a" in json.loads(hit["columns"]["tags"]) for hit in hits)
    assert all(hit["columns"]["price"] < "1.500" for hit in hits)
    search.main([*query, "--explain", "--save=sheet.png"])
    for source in ("--table=p.parquet", "--index=e.parquet"):
        adapt.main(["--workdir=run", "--condition=season", source, f"--out=adapted{source[-9]}"])
    explore.main(["--workdir=run", "--out=page"])
    assert "Summer" in Path("page/data.js").read_text()
