"""search: the real commands from a training to a sheet of pictures, and every mistake as one sentence."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from test_cli import assert_told, run
from test_embed import cache, config_of, folder, of_pictures, of_vectors  # noqa: F401  (fixtures)

import csn_jax
from csn_jax import embed, search
from csn_jax.cli import gathered


@pytest.fixture(scope="module")
def index_file(of_pictures, folder, tmp_path_factory):  # noqa: F811
    """The shop embedded as a table: ids are image paths."""
    out = tmp_path_factory.mktemp("index") / "shop.parquet"
    embed.main([f"--workdir={of_pictures[0]}", f"--table={folder / 'products.csv'}", f"--out={out}"])
    return out


def told_by(capsys, *argv: str) -> str:
    capsys.readouterr()
    search.main(argv)
    return capsys.readouterr().out


def test_from_a_training_to_answers(finished, tmp_path):
    """embed and search as commands on a trained run; what they print is what Index.search finds."""
    index = tmp_path / "glyphs.parquet"
    done = tiny.command("embed", f"--workdir={finished}", "--split=test", f"--out={index}", "--by_condition")
    assert done.returncode == 0 and "with the masks of character, font" in done.stdout, done.stderr
    opened = csn_jax.Index.open(index)
    item, sheet = opened.ids[40], tmp_path / "sheet.png"
    argv = (f"--index={index}", f"--id={item}", "--condition", "character", "--condition", "font=-0.25", "--k=4")
    done = tiny.command("search", *argv, "--json", "--explain", f"--workdir={finished}", f"--save={sheet}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ids, distances = opened.search(opened.vectors[[40]], {"character": 1, "font": -0.25}, 4, exclude=[40])
    assert found["query"] == item and [hit["id"] for hit in found["hits"]] == ids[0].tolist()
    np.testing.assert_allclose([hit["distance"] for hit in found["hits"]], distances[0], rtol=1e-6)
    assert item not in ids[0] and opened_picture(sheet).width > 600
    plain = tiny.command("search", *argv)
    assert plain.returncode == 0 and plain.stderr == ""
    assert all(one in plain.stdout for one in ids[0].tolist())


def test_a_table_for_people(index_file, folder, capsys):  # noqa: F811
    """A line a hit with rank, id, distance and attributes, after one that says what was searched for among what."""
    argv = (f"--index={index_file}", "--id=images/007.jpg", "--condition", "colour", "category=0.5", "--k=3")
    head, columns, rule, *rows = told_by(capsys, *argv, "--filter", "colour=red", "colour=blue").splitlines()
    assert head == "images/007.jpg: nearest by colour, category x 0.5, among 60 items, colour red or blue"
    assert columns.split() == [
        "rank",
        "id",
        "distance",
        "category",
        "colour",
        "price",
        "size",
        "tags",
        "product",
        "title",
    ]
    assert set(rule) == {"-", " "} and [row.split()[0] for row in rows] == ["1", "2", "3"]
    index = csn_jax.Index.open(index_file)
    filters = {"colour": ["red", "blue"]}
    row = index.row("images/007.jpg")
    weights = {"colour": 1, "category": 0.5}
    ids, distances = index.search(index.vectors[[row]], weights, 3, filters=filters, exclude=[row])
    for line, one, distance in zip(rows, ids[0], distances[0], strict=True):
        cells = line.split()
        assert cells[1:3] == [one, f"{distance:.4f}"]
        assert index.columns["colour"][index.row(one)] in cells
    alone = told_by(capsys, *argv, "--filter", "product=p3", "--filter=colour=" + index.columns["colour"][row])
    assert "product p3" in alone and ("no item is left to find" in alone or "images/006.png" in alone)


def test_words_in_any_form(index_file, capsys):
    """Repeated or side by side, with = or a space."""
    forms = (
        ("--condition", "colour", "category=-0.5"),
        ("--condition", "colour", "--condition", "category=-0.5"),
        ("--condition=colour", "--condition=category=-0.5"),
        ("--condition=colour", "category=-0.5"),
        ("--condition=colour=1.0", "--k=10", "--condition", "category=-.5"),
    )
    argv = (f"--index={index_file}", "--id=images/007.jpg", "--json")
    told = {told_by(capsys, *argv, *form) for form in forms}
    assert len(told) == 1 and json.loads(told.pop())["conditions"] == {"colour": 1.0, "category": -0.5}
    assert gathered(["a", "--x", "1", "2", "--y", "3", "--x=4", "5"], "--x") == [
        "a",
        "--y",
        "3",
        "--x",
        "1",
        "2",
        "4",
        "5",
    ]
    assert gathered(["a", "--xy", "1"], "--x") == ["a", "--xy", "1"]
    assert search.parse_weights(["a=b", "a"], ("a=b", "a")) == {"a=b": 1.0, "a": 1.0}
    assert search.parse_weights(["a=b=2"], ("a=b", "a")) == {"a=b": 2.0}
    assert search.parse_filters(["a=b=c", "d=e=f", "a=b="], {"a=b": 0, "d": 0}) == {"a=b": ["c", ""], "d": ["e=f"]}


def test_an_image_is_embedded_as_in_training(index_file, of_pictures, folder, tmp_path, capsys):  # noqa: F811
    """A copy of an item's picture finds the item at no distance; the item's own file is the item and never a hit."""
    argv = (f"--index={index_file}", f"--workdir={of_pictures[0]}", "--condition=colour", "--k=60", "--json")
    shutil.copy(folder / "images/013.jpg", tmp_path / "q.jpg")
    found = json.loads(told_by(capsys, *argv, f"--image={tmp_path / 'q.jpg'}"))
    assert found["query"] == str(tmp_path / "q.jpg") and len(found["hits"]) == 60
    assert found["hits"][0]["id"] == "images/013.jpg" and abs(found["hits"][0]["distance"]) < 1e-6
    own = json.loads(told_by(capsys, *argv, f"--image={folder / 'images/013.jpg'}"))
    assert len(own["hits"]) == 59 and "images/013.jpg" not in [hit["id"] for hit in own["hits"]]
    by_id = json.loads(told_by(capsys, *argv, "--id=images/013.jpg"))
    assert [hit["id"] for hit in by_id["hits"]][:10] == [hit["id"] for hit in own["hits"]][:10]


def test_an_item_is_no_hit_however_the_table_spells_it(of_pictures, folder, tmp_path, capsys):  # noqa: F811
    """`./` before the path, a picture that is a link to another, a whole path, and a way around."""
    shop_folder = shutil.copytree(folder / "images", tmp_path / "shop" / "images").parent
    (shop_folder / "images/link.jpg").symlink_to("013.jpg")
    names = ("./images/013.jpg", "images/link.jpg", "images/001.jpg", f"{shop_folder}/images/004.jpg")
    names += ("images//010.jpg", "images/../images/007.jpg")
    (shop_folder / "t.csv").write_text("\n".join(("image", *names)))
    model = (f"--workdir={of_pictures[0]}",)
    embed.main([*model, f"--table={shop_folder / 't.csv'}", f"--out={tmp_path / 'i.npz'}"])
    for own in names:
        argv = (f"--index={tmp_path / 'i.npz'}", *model, "--condition=colour", "--json")
        found = json.loads(told_by(capsys, *argv, f"--image={shop_folder / own}"))
        assert len(found["hits"]) == len(names) - 1 and own not in [hit["id"] for hit in found["hits"]]


def test_the_spellings_that_a_store_is_asked_for(tmp_path):
    """A store finds items by the very text; it is asked for the usual ones, of a file below the pictures' folder."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.jpg").touch()
    own, path = {"kind": "table", "root": str(tmp_path)}, tmp_path / "a" / ".." / "a" / "x.jpg"
    assert search._spellings(path, own) == ["a/x.jpg", "./a/x.jpg", f"{tmp_path}/a/x.jpg"]
    assert search._spellings(path, own | {"root": str(tmp_path / "b")}) == []
    assert search._spellings(path, own | {"kind": "split"}) == []


def test_a_folder_of_queries(index_file, of_pictures, folder, tmp_path, capsys):  # noqa: F811
    """Each has its answers; what is no image is named and left out; one sheet shows all."""
    queries = tmp_path / "queries"
    (queries / "sub").mkdir(parents=True)
    for name in ("images/001.jpg", "images/002.webp"):
        shutil.copy(folder / name, queries / "sub")
    (queries / "bad.png").write_text("x")
    argv = (
        f"--index={index_file}",
        f"--workdir={of_pictures[0]}",
        f"--image={queries}",
        "--condition=category",
        "--k=2",
    )
    capsys.readouterr()
    search.main([*argv, "--json", f"--save={tmp_path / 's.png'}"])
    told = capsys.readouterr()
    answers = json.loads(told.out)
    assert [answer["query"] for answer in answers] == ["sub/001.jpg", "sub/002.webp"]
    assert [answer["hits"][0]["id"] for answer in answers] == ["images/001.jpg", "images/002.webp"]
    assert "left out bad.png, which is not a JPEG" in told.err
    text = told_by(capsys, *argv)
    assert text.count("nearest by category") == 2


def opened_picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def colours_of(image: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.getcolors(1 << 24)}


def test_the_sheet_shows_the_pictures_of_query_and_hits(index_file, folder, tmp_path, capsys):  # noqa: F811
    """Where each belongs, in full; a picture that is gone leaves an empty frame; no JSON or text is lost."""
    sheet = tmp_path / "sheet.png"
    argv = (f"--index={index_file}", "--id=images/000.png", "--condition=colour", "--k=12", f"--save={sheet}", "--json")
    hits = json.loads(told_by(capsys, *argv))["hits"]
    drawn = opened_picture(sheet)
    from csn_jax.search.sheet import ACROSS, GAP, SIDE

    def tile(place):  # 0: the query
        x = GAP if place == 0 else GAP + SIDE + 3 * GAP + (place - 1) % ACROSS * (SIDE + GAP)
        lines = 6 + 3 * 17 + GAP  # id, distance and the searched condition's value
        return drawn.crop((x + 2, 90, x + SIDE - 2, 90 + SIDE - 4)) if place <= ACROSS else drawn.crop(
            (x + 2, 90 + SIDE + lines, x + SIDE - 2, 90 + SIDE + lines + SIDE - 4)
        )  # fmt: skip

    for place, name in enumerate(["images/000.png", *(hit["id"] for hit in hits)]):
        if name.endswith("png"):  # exact colours
            own = colours_of(opened_picture(folder / name)) - {(255, 255, 255)}
            assert len(own & colours_of(tile(place))) > 0.9 * len(own), place
    moved = csn_jax.Index.open(index_file).items
    assert moved.pictures["root"] == str(folder)
    assert (0, 158, 115) in colours_of(drawn) or (213, 94, 0) in colours_of(drawn)  # alike in colour or not


def test_reasons_for_people_and_programs(index_file, capsys):
    argv = (
        f"--index={index_file}",
        "--id=images/007.jpg",
        "--condition",
        "colour",
        "category=-0.5",
        "--k=3",
        "--explain",
    )
    found = json.loads(told_by(capsys, *argv, "--json"))
    index = csn_jax.Index.open(index_file)
    for hit in found["hits"]:
        why = hit["explain"]
        assert sum(map(abs, why["by_condition"].values())) == pytest.approx(1)
        assert why["by_condition"]["colour"] > 0 > why["by_condition"]["category"]
        assert len(why["by_dimension"]) == 6 and sum(map(abs, why["by_dimension"])) == pytest.approx(1)
        places = why["place_by_condition"]
        assert places[why["closest_on"]] == min(places.values()) and places[why["furthest_on"]] == max(places.values())
        for name, place in places.items():
            row = index.row("images/007.jpg")
            ids, _ = index.search(index.vectors[[row]], {name: 1}, 59, exclude=[row])
            assert ids[0].tolist().index(hit["id"]) + 1 == place
    for dimension, ends in found["dimensions"].items():
        order = index.ids[np.argsort(index.vectors[:, int(dimension)])].tolist()
        assert ends["low"] == order[:3] and ends["high"] == order[-3:]
    text = told_by(capsys, *argv)
    assert text.count("closest on") == 3 and text.count("furthest on") == 3 and "its distance: colour" in text
    dimension, ends = next(iter(found["dimensions"].items()))
    assert f"dimension {dimension}, which counts most for {ends['condition']}" in text
    assert all(one in text for one in (*ends["low"], *ends["high"]))
    single = told_by(capsys, f"--index={index_file}", "--id=images/007.jpg", "--condition=colour", "--k=1", "--explain")
    assert "its distance: dimensions" in single


def test_newer_masks_of_the_workdir_are_used(index_file, of_pictures, tmp_path, monkeypatch, capsys):  # noqa: F811
    """With --workdir its masks count, so that a condition that was added later is found in older vectors."""
    import dataclasses

    workdir, model = of_pictures
    wider = dataclasses.replace(
        model, conditions=(*model.conditions, "new"), masks=np.concatenate([model.masks, np.ones((1, 6), np.float32)])
    )
    monkeypatch.setattr("csn_jax.model.model.load", lambda path: wider)
    argv = (f"--index={index_file}", "--id=images/007.jpg", "--condition=new", "--k=3", "--json")
    found = json.loads(told_by(capsys, *argv, f"--workdir={workdir}"))
    index = csn_jax.Index.open(index_file)
    gaps = np.linalg.norm((index.vectors - index.vectors[7]).astype(np.float64), axis=1)
    assert [hit["id"] for hit in found["hits"]] == index.ids[np.argsort(gaps)[1:4]].tolist()
    assert_told(*run(search, monkeypatch, capsys, *argv), 2, "unknown condition 'new'", "category, colour")


ITEM = ("--id=images/007.jpg", "--condition=colour")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("--condition=colour",), ("no query", "--image=FILE.jpg", "--id=ID")),
        (("--id=a", "--image=b", "--condition=colour"), ("--image and --id are both", "give one")),
        (("--image=b.jpg", "--condition=colour"), ("--image needs", "--workdir")),
        (("--id=images/007.jpg",), ("no --condition is given", "category, colour")),
        (("--id=images/007.jpg", "--condition=color"), ("unknown condition 'color' (did you mean colour?)",)),
        (("--id=images/007.jpg", "--condition=color=2"), ("unknown condition 'color' (did you mean colour?)",)),
        (("--id=images/007.jpg", "--condition=colour=much"), ("'much' is no number", "colour=0.5")),
        (("--id=images/007.jpg", "--condition=colour=nan"), ("colour has weight nan",)),
        (("--id=images/007.jpg", "--condition", "colour", "colour=2"), ("names colour twice",)),
        (("--id=images/007.jpg", "--condition", "colour=0", "category=0"), ("all weights are zero",)),
        ((*ITEM, "--k=0"), ("--k is 0", "at least 1")),
        ((*ITEM, "--k=many"), ("many",)),
        (("--id=images/7.jpg", "--condition=colour"), ("has the id 'images/7.jpg' (did you mean", "shop.parquet")),
        ((*ITEM, "--filter=prize=3"), ("no column 'prize' (did you mean price?)",)),
        ((*ITEM, "--filter=colour=reed"), ("no item has 'reed' (did you mean red?)",)),
        ((*ITEM, "--filter=colour"), ("--filter colour has no value", "COLUMN=VALUE")),
        ((*ITEM, "--save=x.jpg"), ("--save=x.jpg", "FILE.png")),
        ((*ITEM, "--save=nowhere/x.png"), ("--save=nowhere/x.png",)),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes(index_file, tmp_path, monkeypatch, capsys, argv, parts):
    monkeypatch.chdir(tmp_path)
    assert_told(*run(search, monkeypatch, capsys, f"--index={index_file}", *argv), 2, *parts)
    assert os.listdir(tmp_path) == []


def test_mistaken_files(index_file, finished, of_pictures, of_vectors, folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    """A query that is no image, an index of another model, half of one or none at all, a model of vectors."""

    def told(*argv):
        return run(search, monkeypatch, capsys, *argv, "--condition=colour")

    index, workdir = f"--index={index_file}", f"--workdir={of_pictures[0]}"
    (tmp_path / "q.jpg").write_text("x")
    (tmp_path / "half.png").write_bytes((folder / "images/000.png").read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    for name, part in {
        "q.jpg": "is not a JPEG, PNG or WEBP image",
        "half.png": "truncated",
        "none.jpg": "is missing",
        "empty": "holds no file that ends in .jpg",
    }.items():
        assert_told(*told(index, workdir, f"--image={tmp_path / name}"), 2, name, part)
    other = f"--workdir={finished}"
    assert_told(*told(index, other, "--id=images/007.jpg"), 2, str(index_file), "made by another model")
    assert_told(*told(index, f"--workdir={tmp_path}", "--id=images/007.jpg"), 2, "has no config.json")
    half = tmp_path / "half.parquet"
    half.write_bytes(index_file.read_bytes()[:-1000])
    assert_told(*told(f"--index={half}", "--id=images/007.jpg"), 2, str(half), "half-written", "--rebuild")
    assert_told(*told(f"--index={tmp_path / 'no.parquet'}", "--id=a"), 2, "no.parquet is no file")
    assert_told(*told(f"--index={tmp_path / 'q.jpg'}", "--id=a"), 2, ".parquet or .npz")
    vectors = tmp_path / "v.parquet"
    table = folder / "products.parquet"
    embed.main([f"--workdir={of_vectors[0]}", f"--table={table}", f"--out={vectors}"])
    argv = (f"--index={vectors}", f"--workdir={of_vectors[0]}")
    assert_told(*told(*argv, f"--image={folder / 'images/000.png'}"), 2, "embeds vectors and no images", "--id")
    found = json.loads(
        told_by(capsys, *argv, "--id=images/007.jpg", "--condition=colour", "--json", f"--save={tmp_path / 'v.png'}")
    )
    assert len(found["hits"]) == 10 and (tmp_path / "v.png").exists()  # frames without pictures


SHOES = Path(__file__).parent.parent.parent / "shared/data/footwear/products.csv"


@pytest.mark.slow
@pytest.mark.shared_data
def test_on_footwear_each_condition_finds_its_own(tmp_path):
    """On real photos, a short training by the commands: the nearest by colour share the colour far above chance, the
    nearest by category the category, and each more than the other condition's do."""
    if not SHOES.is_file():
        pytest.skip("no ../shared/data/footwear")
    configs = Path(__file__).parent.parent / "configs"
    run_, index = tmp_path / "run", tmp_path / "shoes.parquet"
    small = ("--config.steps=150", "--config.preprocess.size=32", "--config.batch_size=48", "--config.feed=device")
    small += ("--config.data.train_triplets=10000", "--config.data.test_triplets=2000")
    small += ("--config.data.conditions", "category", "colour")
    for verb, *argv in (
        ("train", f"--config={configs / 'table.py'}", f"--config.data.path={SHOES}", *small, f"--workdir={run_}"),
        ("embed", f"--workdir={run_}", "--split=test", f"--out={index}"),
    ):  # fmt: skip
        done = tiny.command(verb, *argv, XLA_FLAGS="")  # four devices would wait for each other on a busy machine
        assert done.returncode == 0, done.stderr
    opened, results = csn_jax.Index.open(index), json.loads((run_ / "results.json").read_text())
    precision = {}
    for searched in ("category", "colour"):
        rows, _ = opened.nearest(opened.vectors, {searched: 1}, 10, exclude=range(len(opened.ids)))
        for told in ("category", "colour"):
            column = opened.columns[told]
            precision[searched, told] = np.mean(column[rows] == column[:, None])
        figures = results["retrieval"]
        chance = figures["chance"]["by_condition"][searched]
        assert precision[searched, searched] == pytest.approx(
            figures["by_condition"][searched]["precision@10"], abs=0.01
        )
        assert precision[searched, searched] > 1.5 * chance
    assert precision["category", "category"] > precision["colour", "category"]
    assert precision["colour", "colour"] > precision["category", "colour"]
