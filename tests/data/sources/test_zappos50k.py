"""Source `zappos50k` on a small folder of the form of UT-Zappos50K, made here."""

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from csn_jax import cli, train
from csn_jax.config import Config
from csn_jax.data.dataset import load_dataset
from csn_jax.data.images import resize_and_crop
from csn_jax.data.sources import zappos50k
from csn_jax.data.sources.zappos50k import HEELS, IMAGES, TABLE, read_catalogue
from csn_jax.errors import UserError

PRESETS = Path(__file__).parents[3] / "configs/zappos50k.py"
COLUMNS = "CID,Category,SubCategory,HeelHeight,Insole,Closure,Gender,Material,ToeStyle".split(",")
LEVIS = "Levi%27s%C2%AE%20Kids"  # the name of the folder on disk


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


def read_table(folder: Path) -> list[dict[str, str]]:
    with open(folder / TABLE, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the data set. Tests that change it take `tree`, a copy."""
    folder = tmp_path_factory.mktemp("zappos")
    make_tree(folder)
    return folder


@pytest.fixture
def tree(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "zappos"))


def config(folder: Path, **data) -> Config:
    preset = cli.load_preset(f"{PRESETS}:tiny")
    return dataclasses.replace(preset, data=dataclasses.replace(preset.data, path=str(folder), **data))


def read(folder: Path, **data):
    return zappos50k.read(config(folder, **data))


def test_each_row_has_its_picture_and_labels(whole):
    """Sets are sorted, the heel is a level, the brand is the folder. Ids are paths as in filenames.json,
    with their escapes."""
    rows, table = read(whole), read_table(whole)
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
        with Image.open(whole / IMAGES / rows.ids[i]) as image:
            np.testing.assert_array_equal(rows.inputs[i], resize_and_crop(image, 32, 3))
    assert set(rows.labels["heel"]) == {"", *"0123456"} and "" in rows.labels["closure"]
    assert (whole / IMAGES / "Boots/Ankle" / LEVIS).is_dir()


def test_heels_are_levels_in_order():
    """Seven heights as in the table, from flat to five inches."""
    heights = "Flat|Under 1in|1in - 1 3/4in|2in - 2 3/4in|3in - 3 3/4in|4in - 4 3/4in|5in & over"
    assert tuple(heights.split("|")) == HEELS


def test_a_heel_of_two_heights_is_unknown(tree):
    """A note names it."""
    table = read_table(tree)
    table[3]["HeelHeight"], table[4]["HeelHeight"], table[5]["HeelHeight"] = "Flat;Under 1in", "High", "Flat;Flat"
    write_table(tree, table)
    shoes, notes = read_catalogue(tree)
    assert [shoes[i].labels["heel"] for i in (3, 4, 5)] == ["", "", "0"]
    assert notes == [f"heel '{heel}' of 1 shoes is not a single height: unknown" for heel in ("Flat;Under 1in", "High")]


def test_triplets_follow_the_conditions(whole):
    """Closures share a member, heels have a smaller gap. Other columns are conditions when named."""
    dataset = load_dataset(config(whole))
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
    named = load_dataset(config(whole, conditions=("heel", "subcategory"), split_by="product"))
    assert named.items.conditions == (("heel", "ordinal"), ("subcategory", "categorical"))
    assert dict(named.items.attributes)["material"] == "set"
    product = named.items.labels["product"]
    train_products, test_products = (set(product[named.items.split == split]) for split in ("train", "test"))
    assert not train_products & test_products


def test_drawn_triplets_can_be_written_and_read(whole, tmp_path, capsys):
    """`--write_triplets` writes the layout of the reference with seed and digests. A run that reads it has the same
    triplets."""
    preset, out = f"--config={PRESETS}:tiny", tmp_path / "lists"
    train.main([preset, f"--config.data.path={whole}", "--config.data.seed=3", f"--write_triplets={out}"])
    assert "data report" in capsys.readouterr().out
    names = [
        f"{c}_tripletlist_{s}.txt" for c in ("class", "closure", "gender", "heel") for s in ("test", "train", "val")
    ]
    assert sorted(os.listdir(out / "tripletlists")) == sorted(names)
    drawn = load_dataset(config(whole, seed=3))
    files = (out / "filenames.json").read_text().splitlines()
    assert files == drawn.items.ids.tolist() and all((whole / IMAGES / name).is_file() for name in files)
    note = json.loads((out / "triplets.json").read_text())
    assert note["seed"] == 3 and note["triplets_sha256"] == drawn.record.triplets_sha256
    for line in (out / "tripletlists/class_tripletlist_test.txt").read_text().splitlines():
        anchor, far, close = (files[int(word)].split("/")[0] for word in line.split())
        assert anchor == close != far
    again = load_dataset(config(whole, triplets=str(out)))
    assert again.record.triplets_sha256 == drawn.record.triplets_sha256
    with pytest.raises(UserError, match="cannot be made .Not a directory.; give another folder"):
        train.main([preset, f"--config.data.path={whole}", f"--write_triplets={out / 'filenames.json' / 'below'}"])
    with pytest.raises(UserError, match="lists is not empty"):
        train.main([preset, f"--config.data.path={whole}", f"--write_triplets={out}"])


def image_of(folder: Path, row: int) -> Path:
    return next((folder / IMAGES).rglob(f"{read_table(folder)[row]['CID'].replace('-', '.')}.jpg"))


def damage(folder):
    image = image_of(folder, 7)
    image.write_bytes(image.read_bytes()[:500])


def link_outside(folder):
    (folder.parent / "elsewhere.jpg").write_bytes(b"x")
    image_of(folder, 7).unlink()
    image_of(folder, 6).with_name("linked.jpg").symlink_to(folder.parent / "elsewhere.jpg")


def rename_heel(folder):
    (folder / TABLE).write_text((folder / TABLE).read_text().replace("HeelHeight", "Heel_Height", 1))


# (change of the folder, words of the message)
MISTAKES = {
    "no images": (lambda folder: shutil.rmtree(folder / IMAGES), [f"holds no {IMAGES}", "give the folder"]),
    "no table": (lambda folder: (folder / TABLE).unlink(), [f"holds no {TABLE}", "give the folder"]),
    "damaged image": (damage, ["8000003.107.jpg'", "skip_bad=True"]),
    "missing image": (
        lambda folder: image_of(folder, 7).unlink(),
        ["meta-data.csv, row 8 (line 9)", "has no image", "skip_bad=True"],
    ),
    "two images": (
        lambda folder: add_image(folder, 99, f"Boots/Ankle/Another/{image_of(folder, 7).name}"),
        ["are both images of"],
    ),
    "same row": (
        lambda folder: write_table(folder, [*read_table(folder), read_table(folder)[0]]),
        ["row 161", "the same CID as row 1"],
    ),
    "missing column": (rename_heel, ["no column 'HeelHeight' (did you mean Heel_Height?)"]),
    "link": (link_outside, ["is a link to outside"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name, tree):
    change, words = MISTAKES[name]
    change(tree)
    with pytest.raises(UserError) as error:
        read(tree)
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value))


def test_no_path_is_refused():
    with pytest.raises(UserError, match="data.path is empty"):
        read("")


def test_bad_images_can_be_skipped(tree):
    """Damaged and missing images and images without a row are left out with notes."""
    damage(tree)
    image_of(tree, 9).unlink()
    add_image(tree, 99, "Boots/Ankle/UGG/1.2.jpg")
    rows = read(tree, skip_bad=True)
    assert len(rows.ids) == 158
    assert any(note.startswith("left out") and "row 10 (line 11)" in note for note in rows.notes)
    assert any(note.startswith("left out") and "image 'Slippers/" in note for note in rows.notes)
    assert f"1 images have no row in {TABLE} and are left out" in rows.notes


def test_the_paper_preset_is_the_recipe_of_the_paper():
    """200,000 / 20,000 / 40,000 triplets per condition, 5e-5 * 0.985^epoch, batches of 256, 200 epochs, ImageNet."""
    paper = cli.load_preset(f"{PRESETS}:paper")
    counts = (paper.data.train_triplets, paper.data.validation_triplets, paper.data.test_triplets)
    assert counts == (200_000, 20_000, 40_000)
    assert (paper.learning_rate, paper.schedule, paper.schedule_decay) == (5e-5, "exponential", 0.985)
    assert paper.batch_size == 256 and paper.steps == 200 * (4 * 200_000 // 256) and paper.eval_every == 3_125
    assert (paper.backbone.name, paper.preprocess.size, paper.preprocess.flip) == ("resnet18_csn", 112, True)
    assert paper.preprocess.mean == (0.485, 0.456, 0.406) and paper.preprocess.std == (0.229, 0.224, 0.225)
    assert (paper.loss.margin, paper.loss.embedding_weight, paper.loss.mask_weight) == (0.2, 5e-3, 5e-4)
    assert "We ran none of the three presets" in PRESETS.read_text()


def test_a_model_is_probed_for_brands(whole, tmp_path, capsys, monkeypatch):
    """`evaluate --full` probes attributes that are not conditions, such as brand."""
    from csn_jax import evaluate
    from csn_jax.evaluate import off_task

    monkeypatch.setattr(off_task, "LEAST", 5)
    settings = config(whole)
    backbone = dataclasses.replace(settings.backbone, embedding_dim=8)
    tiny.untrained(tmp_path / "run", dataclasses.replace(settings, backbone=backbone))
    evaluate.main([f"--workdir={tmp_path / 'run'}", "--full", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert set(results["off_task"]["by_label"]) >= {"brand", "subcategory"}
    assert set(results["leakage"]["by_condition"]) == {"class", "closure", "gender", "heel"}
    assert "material" in results["leakage"]["by_condition"]["heel"]
    assert list(results["retrieval"]["by_condition"]) == ["class", "closure", "gender", "heel"]
