"""Source `zappos50k` on a small tree in the exact form of UT-Zappos50K, made here."""

import csv
import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csn_jax import cli, train
from csn_jax.config import Config
from csn_jax.data.dataset import load_dataset
from csn_jax.data.decode import resize_and_crop
from csn_jax.data.sources import zappos50k
from csn_jax.data.sources.zappos50k import HEELS, IMAGES, TABLE, read_catalogue
from csn_jax.errors import UserError

PRESETS = Path(__file__).parents[2] / "configs/zappos50k.py"
COLUMNS = "CID,Category,SubCategory,HeelHeight,Insole,Closure,Gender,Material,ToeStyle".split(",")
LEVIS = "Levi%27s%C2%AE%20Kids"  # so the folder is called on disk


def add_image(folder: Path, seed: int, name: str) -> None:
    path = folder / IMAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((136, 102), Image.Resampling.NEAREST).save(path, quality=95)


def make_tree(folder: Path, n: int = 160) -> list[dict[str, str]]:
    """n shoes of 136 x 102 pixels with their rows; returns the rows."""
    rng, rows = np.random.default_rng(0), []
    kinds = {"Shoes": "Oxfords", "Boots": "Ankle", "Sandals": "Flat", "Slippers": "Slipper Flats"}
    for i in range(n):
        category = list(kinds)[i % 4]
        brand = ("adidas", LEVIS, "UGG")[i % 3]
        product, colour = 8000000 + i // 2, 100 + i
        add_image(folder, i, f"{category}/{kinds[category]}/{brand}/{product}.{colour}.jpg")
        closures = rng.choice(["Lace up", "Buckle", "Zipper", "Slip-On"], size=rng.integers(0, 3), replace=False)
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {
                "CID": f"{product}-{colour}",
                "Category": category,
                "SubCategory": kinds[category],
                "HeelHeight": (*HEELS, "")[rng.integers(8)],
                "Closure": ";".join(closures),
                "Gender": ("Men", "Women", "Boys;Girls")[rng.integers(3)],
                "Material": "Rubber; Leather",
            }
        )
    write_table(folder, rows)
    return rows


def write_table(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / TABLE).parent.mkdir(exist_ok=True)
    with open(folder / TABLE, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "zappos").mkdir()
    make_tree(tmp_path / "zappos")
    return tmp_path / "zappos"


def config(folder: Path, preset: str = "tiny", **data) -> Config:
    found = cli.load_preset(f"{PRESETS}:{preset}")
    return dataclasses.replace(found, data=dataclasses.replace(found.data, path=str(folder), **data))


def read(folder: Path, **data):
    return zappos50k.read(config(folder, **data))


def test_reads_pictures_and_labels(tree):
    """Every row has its picture by the table's dash and the file's dot; labels as the table has them, sets sorted, the
    heel as a level; ids are paths as in the reference's filenames.json, escapes untouched; brand is the folder."""
    rows = read(tree)
    with open(tree / TABLE, newline="") as file:
        table = list(csv.DictReader(file))
    assert [condition.name for condition in rows.conditions] == ["class", "closure", "gender", "heel"]
    assert [condition.kind for condition in rows.conditions] == ["categorical", "set", "set", "ordinal"]
    assert rows.inputs.shape == (160, 32, 32, 3) and rows.split is None and len(table) == 160
    for i, row in enumerate(table):
        product, _, colour = row["CID"].partition("-")
        brand = ("adidas", LEVIS, "UGG")[i % 3]
        assert rows.ids[i] == f"{row['Category']}/{row['SubCategory']}/{brand}/{product}.{colour}.jpg"
        labels = {name: column[i] for name, column in rows.labels.items()}
        assert labels["class"] == row["Category"] and labels["brand"] == brand and labels["product"] == product
        assert labels["closure"] == ";".join(sorted(filter(None, row["Closure"].split(";"))))
        assert labels["gender"] == row["Gender"] and labels["material"] == "Leather;Rubber"
        assert labels["heel"] == (str(HEELS.index(row["HeelHeight"])) if row["HeelHeight"] else "")
        with Image.open(tree / IMAGES / rows.ids[i]) as image:
            np.testing.assert_array_equal(rows.inputs[i], resize_and_crop(image, 32, 3))
    assert set(rows.labels["heel"]) == {"", *"0123456"} and "" in rows.labels["closure"]
    assert (tree / IMAGES / "Boots/Ankle" / LEVIS).is_dir()


def test_heels_are_levels_in_order():
    """Seven heights as in the table, from flat to five inches."""
    assert HEELS == (
        "Flat",
        "Under 1in",
        "1in - 1 3/4in",
        "2in - 2 3/4in",
        "3in - 3 3/4in",
        "4in - 4 3/4in",
        "5in & over",
    )


def test_a_heel_of_two_heights_is_unknown(tree):
    """It draws no triplet, and is told."""
    with open(tree / TABLE, newline="") as file:
        table = list(csv.DictReader(file))
    table[3]["HeelHeight"], table[4]["HeelHeight"], table[5]["HeelHeight"] = "Flat;Under 1in", "High", "Flat;Flat"
    write_table(tree, table)
    shoes, notes = read_catalogue(tree)
    assert [shoes[i].labels["heel"] for i in (3, 4, 5)] == ["", "", "0"]
    assert notes == [
        "heel 'Flat;Under 1in' of 1 shoes is no single height and counts as unknown",
        "heel 'High' of 1 shoes is no single height and counts as unknown",
    ]


def test_triplets_are_of_the_conditions(tree):
    """Closures that share a member, heels of which one is nearer; other columns are conditions when named."""
    dataset = load_dataset(config(tree))
    items, triplets = dataset.items, dataset.triplets["train"]
    assert np.bincount(triplets.condition).tolist() == [200] * 4
    heel, closure = items.labels["heel"], items.labels["closure"]
    for anchor, positive, negative, condition in zip(*(column.tolist() for column in triplets), strict=True):
        if condition == 1:
            a, p, n = (set(closure[i].split(";")) for i in (anchor, positive, negative))
            assert a & p and not a & n and "" not in a | p | n
        if condition == 3:
            levels = np.unique(heel[heel != ""]).tolist()
            a, p, n = (levels.index(heel[i]) for i in (anchor, positive, negative))
            assert abs(a - p) < abs(a - n)
    named = load_dataset(config(tree, conditions=("heel", "subcategory"), split_by="product"))
    assert [tuple(condition) for condition in named.items.conditions] == [
        ("heel", "ordinal"),
        ("subcategory", "categorical"),
    ]
    assert dict(named.items.attributes)["material"] == "set"
    product = named.items.labels["product"]
    of = {split: set(product[named.items.split == split]) for split in ("train", "test")}
    assert not of["train"] & of["test"]


def test_the_drawn_lists_can_be_written_and_read(tree, tmp_path, capsys):
    """`--write_triplets`: the reference's layout (lines `anchor far close`, plain lines of filenames), with seed and
    digests; another run that reads them has the same triplets."""
    preset, out = f"--config={PRESETS}:tiny", tmp_path / "lists"
    train.main([preset, f"--config.data.path={tree}", "--config.data.seed=3", f"--write_triplets={out}"])
    assert "data report" in capsys.readouterr().out
    names = [
        f"{c}_tripletlist_{s}.txt" for c in ("class", "closure", "gender", "heel") for s in ("test", "train", "val")
    ]
    assert sorted(os.listdir(out / "tripletlists")) == sorted(names)
    drawn = load_dataset(config(tree, seed=3))
    files = (out / "filenames.json").read_text().splitlines()
    assert files == drawn.items.ids.tolist() and all((tree / IMAGES / name).is_file() for name in files)
    note = json.loads((out / "triplets.json").read_text())
    assert note["seed"] == 3 and note["triplets_sha256"] == drawn.record.triplets_sha256
    for line in (out / "tripletlists/class_tripletlist_test.txt").read_text().splitlines():
        anchor, far, close = (files[int(word)].split("/")[0] for word in line.split())
        assert anchor == close != far
    again = load_dataset(config(tree, triplets=str(out)))
    assert again.record.triplets_sha256 == drawn.record.triplets_sha256
    with pytest.raises(UserError, match="cannot be made .Not a directory.; give another folder"):
        train.main([preset, f"--config.data.path={tree}", f"--write_triplets={out / 'filenames.json' / 'below'}"])
    with pytest.raises(UserError, match="lists is not empty"):
        train.main([preset, f"--config.data.path={tree}", f"--write_triplets={out}"])


def test_mistakes_are_told(tree, tmp_path):
    """No path, another folder, a missing column, picture, row twice, two pictures of one name, a damaged picture."""
    with pytest.raises(UserError, match="data.path is empty"):
        read("")
    with pytest.raises(UserError, match=f"holds no {IMAGES}; give the folder into which"):
        read(tmp_path)
    with open(tree / TABLE, newline="") as file:
        table = list(csv.DictReader(file))
    image = next((tree / IMAGES).rglob(f"{table[7]['CID'].replace('-', '.')}.jpg"))
    whole = image.read_bytes()
    image.write_bytes(whole[:500])
    with pytest.raises(UserError, match=f"{image.name}' (is truncated or damaged|cannot be decoded) .*skip_bad=True"):
        read(tree)
    rows = read(tree, skip_bad=True)
    assert len(rows.ids) == 159 and rows.notes[0].startswith(f"left out image '{table[7]['Category']}/")
    image.unlink()
    with pytest.raises(UserError, match=r"meta-data.csv, row 8 \(line 9\).* has no image .*skip_bad=True"):
        read(tree)
    assert len(read(tree, skip_bad=True).ids) == 159
    image.write_bytes(whole)
    add_image(tree, 99, f"Boots/Ankle/Another/{image.name}")
    with pytest.raises(UserError, match="are both images of"):
        read(tree)
    (tree / "ut-zap50k-images/Boots/Ankle/Another" / image.name).rename(image.with_name("1.2.jpg"))
    assert read(tree).notes[0] == f"1 images have no row in {TABLE} and are left out"
    write_table(tree, [*table, table[0]])
    with pytest.raises(UserError, match="row 161 .* has the same CID as row 1"):
        read(tree)
    (tree / TABLE).write_text((tree / TABLE).read_text().replace("HeelHeight", "Heel_Height", 1))
    with pytest.raises(UserError, match=r"no column 'HeelHeight' \(did you mean Heel_Height\?\)"):
        read(tree)


def test_a_picture_outside_the_folder_is_refused(tree, tmp_path):
    """A link in an archive does not lead out of it."""
    (tmp_path / "elsewhere.jpg").write_bytes(b"x")
    image = next((tree / IMAGES).rglob("*.jpg"))
    image.unlink()
    image.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(UserError, match="is a link out of"):
        read(tree)


def test_the_paper_preset_is_the_papers_recipe():
    """200,000 / 20,000 / 40,000 triplets a condition; 5e-5 * 0.985^epoch, batches of 256, 200 epochs, ImageNet."""
    paper = cli.load_preset(f"{PRESETS}:paper")
    assert (paper.data.train_triplets, paper.data.validation_triplets, paper.data.test_triplets) == (
        200_000,
        20_000,
        40_000,
    )
    assert (paper.learning_rate, paper.schedule, paper.schedule_decay) == (5e-5, "exponential", 0.985)
    assert paper.batch_size == 256 and paper.steps == 200 * (4 * 200_000 // 256) and paper.eval_every == 3_125
    assert (paper.backbone.name, paper.preprocess.size, paper.preprocess.flip) == ("resnet18_csn", 112, True)
    assert paper.preprocess.mean == (0.485, 0.456, 0.406) and paper.preprocess.std == (0.229, 0.224, 0.225)
    assert (paper.loss.margin, paper.loss.embedding_weight, paper.loss.mask_weight) == (0.2, 5e-3, 5e-4)
    spec = importlib.util.spec_from_file_location("preset", PRESETS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "Not run by us" in module.__doc__


def test_trains_and_is_probed_for_brands(tree, tmp_path, capsys, monkeypatch):
    """The tiny preset trains; `evaluate --full` probes brands, which no condition is made of."""
    from csn_jax import evaluate
    from csn_jax.evaluate import off_task

    monkeypatch.setattr(off_task, "LEAST", 5)
    monkeypatch.setattr("csn_jax.pictures.sheets.QUERIES", 1)
    monkeypatch.setattr("csn_jax.pictures.sheets.NEIGHBOURS", 1)
    flags = [f"--config.data.path={tree}", "--config.feed=device", "--config.backbone.embedding_dim=8"]
    train.main([f"--config={PRESETS}:tiny", *flags, f"--workdir={tmp_path / 'run'}"])
    assert "heel" in capsys.readouterr().out
    evaluate.main([f"--workdir={tmp_path / 'run'}", "--full", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert set(results["off_task"]["by_label"]) >= {"brand", "subcategory"}
    assert set(results["leakage"]["by_condition"]) == {"class", "closure", "gender", "heel"}
    assert "material" in results["leakage"]["by_condition"]["heel"]
    assert list(results["retrieval"]["by_condition"]) == ["class", "closure", "gender", "heel"]
