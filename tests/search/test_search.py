"""search: the command from a trained run to a sheet of pictures, and one sentence for every mistake."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_index
import tiny
from PIL import Image
from test_cli import assert_message, run

import csn_jax
from csn_jax import embed, search
from csn_jax.model.run import Run
from csn_jax.store.vector_file import write_embeddings


@pytest.fixture(scope="module")
def index_file(shop_runs, tmp_path_factory):
    """The shop embedded as a table: ids are image paths."""
    out = tmp_path_factory.mktemp("index") / "shop.parquet"
    embed.main([f"--workdir={shop_runs / 'pictures'}", f"--table={shop_runs / 'products.csv'}", f"--out={out}"])
    return out


def printed_by(capsys, *argv: str) -> str:
    capsys.readouterr()
    search.main(argv)
    return capsys.readouterr().out


def found_by(capsys, *argv: str):
    return json.loads(printed_by(capsys, *argv, "--json"))


def ids_of(answer) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


def test_the_command_prints_what_index_search_finds(finished, glyph_index, tmp_path):
    """In processes of its own, with and without the workdir. It says what to run next."""
    index = csn_jax.Index.open(glyph_index)
    item, sheet = index.ids[40], tmp_path / "sheet.png"
    argv = (f"--index={glyph_index}", f"--id={item}", "--condition", "character", "--condition", "font=-0.25", "--k=4")
    done = tiny.command("search", *argv, "--json", "--explain", f"--workdir={finished}", f"--save={sheet}")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    ids, distances = index.search(index.vectors[[40]], {"character": 1, "font": -0.25}, 4, exclude=[40])
    assert answer["query"] == item and ids_of(answer) == ids[0].tolist() and item not in ids[0]
    np.testing.assert_allclose([hit["distance"] for hit in answer["hits"]], distances[0], rtol=1e-6)
    assert opened_picture(sheet).width > 600
    plain = tiny.command("search", *argv)
    assert plain.returncode == 0 and all(hit in plain.stdout for hit in ids[0].tolist())
    (line,) = plain.stderr.splitlines()
    assert line.startswith("next: ") and line.endswith("--k=4 --explain")


def test_a_search_by_id_does_not_load_jax(index_file):
    """It would double the time that the command takes."""
    argv = [f"--index={index_file}", *ITEM, "--explain"]
    code = (
        f"import sys; from csn_jax import search; search.main({argv}); print({{'jax', 'pyarrow'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("{'pyarrow'}\n"), done.stdout + done.stderr


def test_a_table_for_people(index_file, capsys):
    """One line per hit with rank, id, distance and attributes, below a line that says what was searched. Attributes
    that do not fit 80 columns follow in a second table."""
    argv = (f"--index={index_file}", "--id=images/007.jpg", "--condition", "colour", "category=0.5", "--k=3")
    text = printed_by(capsys, *argv, "--filter", "colour=red", "colour=blue")
    (head, columns, rule, own, *rows), (more_columns, *_) = (part.splitlines() for part in text.split("\n\n"))
    assert head == "images/007.jpg: nearest by colour, category x 0.5, among 60 items, colour red or blue"
    assert columns.split() == "rank id distance category colour price size tags product".split()
    assert more_columns.split() == ["rank", "title"]
    assert set(rule) == {"-", " "} and [row.split()[0] for row in rows] == ["1", "2", "3"]
    index = csn_jax.Index.open(index_file)
    filters, weights = {"colour": ["red", "blue"]}, {"colour": 1, "category": 0.5}
    row = index.row("images/007.jpg")
    values = [index.columns[name][row] for name in "category colour price size tags product".split()]
    assert own.split() == ["query", "images/007.jpg", *filter(None, values)]
    ids, distances = index.search(index.vectors[[row]], weights, 3, filters=filters, exclude=[row])
    for line, item, distance in zip(rows, ids[0], distances[0], strict=True):
        cells = line.split()
        assert cells[1:3] == [item, f"{distance:.4f}"]
        assert index.columns["colour"][index.row(item)] in cells
    alone = printed_by(capsys, *argv, "--filter", "product=p3", "--filter=colour=" + index.columns["colour"][row])
    assert "product p3" in alone and ("no item is left to find" in alone or "images/006.png" in alone)


def test_conditions_in_every_usual_spelling(index_file, capsys):
    """Repeated or side by side, after a space or after an equals sign."""
    spellings = (
        ("--condition", "colour", "category=-0.5"),
        ("--condition", "colour", "--condition", "category=-0.5"),
        ("--condition=colour", "--condition=category=-0.5"),
        ("--condition=colour", "category=-0.5"),
        ("--condition=colour=1.0", "--k=10", "--condition", "category=-.5"),
    )
    argv = (f"--index={index_file}", "--id=images/007.jpg", "--json")
    outputs = {printed_by(capsys, *argv, *spelling) for spelling in spellings}
    assert len(outputs) == 1 and json.loads(outputs.pop())["conditions"] == {"colour": 1.0, "category": -0.5}


def test_an_image_is_embedded_as_in_training(index_file, shop_runs, tmp_path, capsys):
    """A copy of an item's picture finds the item at distance 0. The item's own file is the item, so it is not a hit."""
    argv = (f"--index={index_file}", f"--workdir={shop_runs / 'pictures'}", "--condition=colour", "--k=60")
    picture = shop_runs / "images/013.jpg"
    shutil.copy(picture, tmp_path / "q.jpg")
    copied = found_by(capsys, *argv, f"--image={tmp_path / 'q.jpg'}")
    assert copied["query"] == str(tmp_path / "q.jpg") and len(copied["hits"]) == 60
    assert copied["hits"][0]["id"] == "images/013.jpg" and abs(copied["hits"][0]["distance"]) < 1e-6
    own = ids_of(found_by(capsys, *argv, f"--image={picture}"))
    assert len(own) == 59 and "images/013.jpg" not in own
    assert ids_of(found_by(capsys, *argv, "--id=images/013.jpg"))[:10] == own[:10]


def test_a_folder_of_queries(index_file, shop_runs, tmp_path, capsys):
    """Each image has its answer. A file that is not an image is named and left out. One sheet shows all."""
    queries = tmp_path / "queries"
    (queries / "sub").mkdir(parents=True)
    for name in ("images/001.jpg", "images/002.webp"):
        shutil.copy(shop_runs / name, queries / "sub")
    (queries / "bad.png").write_text("x")
    argv = (f"--index={index_file}", f"--workdir={shop_runs / 'pictures'}", f"--image={queries}")
    argv += ("--condition=category", "--k=2")
    capsys.readouterr()
    search.main([*argv, "--json", f"--save={tmp_path / 's.png'}"])
    printed = capsys.readouterr()
    answers = json.loads(printed.out)
    assert [answer["query"] for answer in answers] == ["sub/001.jpg", "sub/002.webp"]
    assert [answer["hits"][0]["id"] for answer in answers] == ["images/001.jpg", "images/002.webp"]
    assert "left out bad.png" in printed.err and (tmp_path / "s.png").exists()
    assert printed_by(capsys, *argv).count("nearest by category") == 2


def opened_picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def colours_of(image: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in image.getcolors(1 << 24)}


def test_the_sheet_shows_the_pictures_of_query_and_hits(index_file, shop_runs, tmp_path, capsys):
    """Each in its place and in full, and whether the colours are alike."""
    sheet = tmp_path / "sheet.png"
    argv = (f"--index={index_file}", "--id=images/000.png", "--condition=colour", "--k=12", f"--save={sheet}")
    hits = ids_of(found_by(capsys, *argv))
    drawn = opened_picture(sheet)
    from csn_jax.search.sheet import ACROSS, GAP, SIDE

    def tile(place):  # 0: the query
        x = GAP if place == 0 else GAP + SIDE + 3 * GAP + (place - 1) % ACROSS * (SIDE + GAP)
        lines = 6 + 3 * 17 + GAP  # id, distance and the searched condition's value
        return drawn.crop((x + 2, 90, x + SIDE - 2, 90 + SIDE - 4)) if place <= ACROSS else drawn.crop(
            (x + 2, 90 + SIDE + lines, x + SIDE - 2, 90 + SIDE + lines + SIDE - 4)
        )  # fmt: skip

    for place, name in enumerate(["images/000.png", *hits]):
        if name.endswith("png"):  # without loss
            own = colours_of(opened_picture(shop_runs / name)) - {(255, 255, 255)}
            assert len(own & colours_of(tile(place))) > 0.9 * len(own), place
    assert csn_jax.Index.open(index_file).items.pictures["root"] == str(shop_runs)
    assert (0, 158, 115) in colours_of(drawn) or (213, 94, 0) in colours_of(drawn)


def test_reasons_for_people_and_programs(index_file, capsys):
    words = ("--condition", "colour", "category=-0.5", "--k=3", "--explain")
    argv = (f"--index={index_file}", "--id=images/007.jpg", *words)
    answer = found_by(capsys, *argv)
    index = csn_jax.Index.open(index_file)
    row = index.row("images/007.jpg")
    for hit in answer["hits"]:
        why = hit["explain"]
        assert sum(map(abs, why["by_condition"].values())) == pytest.approx(1)
        assert why["by_condition"]["colour"] > 0 > why["by_condition"]["category"]
        assert len(why["by_dimension"]) == 6 and sum(map(abs, why["by_dimension"])) == pytest.approx(1)
        ranks = why["place_by_condition"]
        assert ranks[why["closest_on"]] == min(ranks.values()) < max(ranks.values()) == ranks[why["furthest_on"]]
        for name, rank in ranks.items():
            ids, _ = index.search(index.vectors[[row]], {name: 1}, 59, exclude=[row])
            assert ids[0].tolist().index(hit["id"]) + 1 == rank
    for dimension, ends in answer["dimensions"].items():
        order = index.ids[np.argsort(index.vectors[:, int(dimension)])].tolist()
        assert ends["low"] == order[:3] and ends["high"] == order[-3:]
    text = printed_by(capsys, *argv)
    assert text.count("closest on") == 3 and text.count("furthest on") == 3 and "its distance: colour" in text
    dimension, ends = next(iter(answer["dimensions"].items()))
    assert f"dimension {dimension}, which has the largest weight for {ends['condition']}" in text
    assert all(item in text for item in (*ends["low"], *ends["high"]))


def test_with_one_condition_the_reasons_say_only_the_rank(tmp_path, capsys):
    items = small_index.make(30).items
    write_embeddings(tmp_path / "i.npz", items._replace(conditions=items.conditions[:1], masks=items.masks[:1]))
    argv = (f"--index={tmp_path / 'i.npz'}", "--id=item 7", "--condition=a", "--k=2", "--explain")
    for rank, hit in enumerate(found_by(capsys, *argv)["hits"], 1):
        assert hit["explain"]["place_by_condition"] == {"a": rank}
        assert hit["explain"]["closest_on"] is hit["explain"]["furthest_on"] is None
    text = printed_by(capsys, *argv)
    assert "rank 1 under a" in text and "rank 2 under a" in text and "its distance: dimensions" in text
    assert "closest" not in text and "furthest" not in text


def test_newer_masks_of_the_workdir_are_used(index_file, shop_runs, monkeypatch, capsys):
    """A search with --workdir knows a condition that was added after the vectors were stored."""
    workdir = shop_runs / "pictures"
    model = csn_jax.load(workdir)
    masks = np.concatenate([model.masks, np.ones((1, 6), np.float32)])
    wider = dataclasses.replace(model, conditions=(*model.conditions, "new"), masks=masks)
    monkeypatch.setattr(Run, "model", lambda run: wider)
    argv = (f"--index={index_file}", "--id=images/007.jpg", "--condition=new", "--k=3")
    answer = found_by(capsys, *argv, f"--workdir={workdir}")
    index = csn_jax.Index.open(index_file)
    gaps = np.linalg.norm((index.vectors - index.vectors[7]).astype(np.float64), axis=1)
    assert ids_of(answer) == index.ids[np.argsort(gaps)[1:4]].tolist()
    assert_message(*run(search, monkeypatch, capsys, *argv), 2, "unknown condition 'new'", "category, colour")


def test_ranges_and_products(index_file, capsys):
    """`price<100` and `size>=40`, and none of the other photos of the query's product."""
    argv = (f"--index={index_file}", "--id=images/006.png", "--condition=colour", "--k=1000000000000")
    index = csn_jax.Index.open(index_file)
    price, size = (index.columns[name].astype(float) for name in ("price", "size"))
    product = index.columns["product"]
    fitting = (price < 100) & (size >= 40) & (np.arange(60) != 6)
    answer = found_by(capsys, *argv, "--filter", "price<100", "size>=40")
    assert sorted(ids_of(answer)) == sorted(index.ids[fitting])
    assert (
        answer["columns"]["product"] == product[6] == "p3" and answer["columns"]["price"] == index.columns["price"][6]
    )
    others = found_by(capsys, *argv, "--leave_out_same=product")
    assert sorted(ids_of(others)) == sorted(index.ids[product != "p3"])
    text = printed_by(capsys, *argv, "--filter", "price < 100", "colour!=red", "--leave_out_same=product")
    assert text.startswith(
        "images/006.png: nearest by colour, among 60 items, colour not red, price < 100, of another product\n"
    )


def test_vectors_as_queries(index_file, tmp_path, monkeypatch, capsys):
    """From .npy, .npz, JSON, text and standard input; several at once. They have no picture."""
    index = csn_jax.Index.open(index_file)
    vector = index.vectors[13]
    files = {name: tmp_path / name for name in ("v.npy", "v.npz", "v.json", "o.json", "v.txt", "pgvector.txt")}
    np.save(files["v.npy"], vector)
    np.savez(files["v.npz"], vector=vector)
    files["v.json"].write_text(json.dumps(vector.tolist()))
    files["o.json"].write_text(json.dumps({"model": "x", "embedding": vector.tolist()}))
    files["v.txt"].write_text("\n".join(map(str, vector.tolist())))
    files["pgvector.txt"].write_text(str(vector.tolist()).replace(" ", ""))
    argv = (f"--index={index_file}", "--condition=colour", "--k=3")
    expected = index.search(vector, "colour", 3)[0].tolist()
    for name, path in files.items():
        answer = found_by(capsys, *argv, f"--vector={path}")
        assert (name, ids_of(answer)) == (name, expected) and answer["hits"][0]["distance"] == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(files["v.json"].read_bytes())))
    assert ids_of(found_by(capsys, *argv, "--vector=-", f"--save={tmp_path / 's.png'}")) == expected
    np.save(tmp_path / "two.npy", index.vectors[[13, 4]])
    first, second = found_by(capsys, *argv, f"--vector={tmp_path / 'two.npy'}")
    assert ids_of(first) == expected and ids_of(second) == index.search(index.vectors[4], "colour", 3)[0].tolist()


WRONG_VECTORS = {
    "narrow": ("[1, 2]", ["has 2 numbers", "give 6 numbers", "--workdir"]),
    "not finite": ("1 2 3 nan 5 6", ["nan at position 3", "finite"]),
    "words": ("red", ["holds no vector", "'red'", ".npy, JSON or text"]),
    "empty": ("", ["--vector"]),
    "truth values": ("[true, true, false, true, true, true]", ["true and false"]),
    "an object": ('{"a": 1}', ["holds no vector"]),
    "lists of two lengths": ("[[1, 2], [1]]", ["holds no vector"]),
}


@pytest.mark.parametrize("mistake", WRONG_VECTORS)
def test_mistakes_in_vectors(index_file, tmp_path, monkeypatch, capsys, mistake):
    text, words = WRONG_VECTORS[mistake]
    (tmp_path / "v.txt").write_text(text)
    argv = (f"--index={index_file}", "--condition=colour", f"--vector={tmp_path / 'v.txt'}")
    assert_message(*run(search, monkeypatch, capsys, *argv), 2, *words)


ITEM = ("--id=images/007.jpg", "--condition=colour")
# (flags besides --index, words of the message)
FLAGS = {
    "no query": (("--condition=colour",), ["--image=FILE.jpg", "--image=FOLDER", "--id=ID"]),
    "two queries": (("--id=a", "--image=b", "--condition=colour"), ["--image", "--id", "both"]),
    "two indexes": ((*ITEM, "--qdrant=b"), ["--index", "--qdrant", "both"]),
    "collection of a file": ((*ITEM, "--collection=b"), ["--collection", "--qdrant"]),
    "three queries": (("--id=a", "--image=b", "--vector=c", "--condition=colour"), ["--id", "--vector", "all"]),
    "leave out same as a vector": (("--vector=b", "--leave_out_same=product"), ["--leave_out_same", "product!=VALUE"]),
    "leave out an unknown column": ((*ITEM, "--leave_out_same=produce"), ["'produce' (did you mean product?)"]),
    "no vector": (("--vector=none.npy", "--condition=colour"), ["--vector=none.npy", "No such file"]),
    "range of words": ((*ITEM, "--filter=colour<5"), ["'colour'", "no numbers or dates", "colour=VALUE"]),
    "filter without a sign": ((*ITEM, "--filter=colour"), ["--filter=colour", "COLUMN=VALUE", "'price<50'"]),
    "image without model": (("--image=b.jpg", "--condition=colour"), ["--image", "--workdir"]),
    "no condition": (("--id=images/007.jpg",), ["--condition", "category, colour"]),
    "unknown condition": (("--id=images/007.jpg", "--condition=color"), ["'color' (did you mean colour?)"]),
    "unknown and weighted": (("--id=images/007.jpg", "--condition=color=2"), ["'color' (did you mean colour?)"]),
    "NaN": (("--id=images/007.jpg", "--condition=colour=nan"), ["colour", "nan", "finite"]),
    "all zero": (("--id=images/007.jpg", "--condition", "colour=0", "category=0"), ["zero (colour, category)"]),
    "k of 0": ((*ITEM, "--k=0"), ["--k is 0", "at least 1"]),
    "k of text": ((*ITEM, "--k=many"), ["--k", "'many'"]),
    "no candidates": ((*ITEM, "--candidates=0"), ["--candidates is 0", "at least 1"]),
    "unknown id": (("--id=images/7.jpg", "--condition=colour"), ["'images/7.jpg' (did you mean", "shop.parquet"]),
    "unknown column": ((*ITEM, "--filter=prize=3"), ["'prize' (did you mean price?)"]),
    "unknown value": ((*ITEM, "--filter=colour=reed"), ["'reed' (did you mean red?)", "blue, green, red"]),
    "sheet not PNG": ((*ITEM, "--save=x.jpg"), ["--save=x.jpg", "FILE.png"]),
    "sheet nowhere": ((*ITEM, "--save=nowhere/x.png"), ["--save=nowhere/x.png", "exists"]),
}


@pytest.mark.parametrize("mistake", FLAGS)
def test_mistakes_in_flags(index_file, tmp_path, monkeypatch, capsys, mistake):
    argv, words = FLAGS[mistake]
    monkeypatch.chdir(tmp_path)
    assert_message(*run(search, monkeypatch, capsys, f"--index={index_file}", *argv), 2, *words)
    assert os.listdir(tmp_path) == []


def test_mistakes_in_files(index_file, finished, shop_runs, tmp_path, monkeypatch, capsys):
    """Queries that are not images; an index of another model, half of one, or another file; not a workdir."""
    index, workdir = f"--index={index_file}", f"--workdir={shop_runs / 'pictures'}"
    (tmp_path / "q.jpg").write_text("x")
    (tmp_path / "half.png").write_bytes((shop_runs / "images/000.png").read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.parquet").write_bytes(index_file.read_bytes()[:-1000])
    for argv, words in (
        ((index, workdir, f"--image={tmp_path / 'q.jpg'}"), ["q.jpg", "JPEG, PNG, WEBP"]),
        ((index, workdir, f"--image={tmp_path / 'half.png'}"), ["half.png", "truncated"]),
        ((index, workdir, f"--image={tmp_path / 'none.jpg'}"), ["none.jpg", "missing"]),
        ((index, workdir, f"--image={tmp_path / 'empty'}"), ["empty", ".jpg"]),
        ((index, f"--workdir={finished}", "--id=images/007.jpg"), [str(index_file), "another model"]),
        ((index, f"--workdir={tmp_path}", "--id=images/007.jpg"), [str(tmp_path), "config.json"]),
        ((f"--index={tmp_path / 'half.parquet'}", "--id=a"), ["half.parquet", "half-written", "--rebuild"]),
        ((f"--index={tmp_path / 'no.parquet'}", "--id=a"), ["no.parquet", "not a file"]),
        ((f"--index={tmp_path / 'q.jpg'}", "--id=a"), ["q.jpg", ".parquet or .npz"]),
    ):
        assert_message(*run(search, monkeypatch, capsys, *argv, "--condition=colour"), 2, *words)


def test_a_model_of_vectors_searches_by_id_only(shop_runs, tmp_path, monkeypatch, capsys):
    """An image is refused. The sheet has frames without pictures."""
    workdir, vectors = shop_runs / "vectors", tmp_path / "v.parquet"
    embed.main([f"--workdir={workdir}", f"--table={shop_runs / 'products.parquet'}", f"--out={vectors}"])
    argv = (f"--index={vectors}", f"--workdir={workdir}", "--condition=colour")
    image = f"--image={shop_runs / 'images/000.png'}"
    assert_message(*run(search, monkeypatch, capsys, *argv, image), 2, "--image", "vectors, not images", "--id")
    answer = found_by(capsys, *argv, "--id=images/007.jpg", f"--save={tmp_path / 'v.png'}")
    assert len(answer["hits"]) == 10 and (tmp_path / "v.png").exists()


ROOT = Path(__file__).parents[2]
SHOES = ROOT.parent / "shared/data/footwear/products.csv"


@pytest.mark.slow
@pytest.mark.shared_data
def test_on_footwear_each_condition_finds_its_own(tmp_path, optimized):
    """After a short training on real photos, the nearest by colour share the colour far above chance, and the nearest
    by category the category. Each condition is better at its own attribute than the other one is."""
    if not SHOES.is_file():
        pytest.skip("the footwear data are not at hand")
    workdir, index = tmp_path / "run", tmp_path / "shoes.parquet"
    small = ("--config.steps=150", "--config.preprocess.size=32", "--config.batch_size=48", "--config.feed=device")
    small += ("--config.data.train_triplets=10000", "--config.data.test_triplets=2000")
    small += ("--config.data.conditions", "category", "colour")
    for verb, *argv in (
        ("train", "--config=table", f"--config.data.path={SHOES}", *small, f"--workdir={workdir}"),
        ("embed", f"--workdir={workdir}", "--split=test", f"--out={index}"),
    ):
        done = tiny.command(verb, *argv, XLA_FLAGS="")  # four devices would wait for each other on a busy machine
        assert done.returncode == 0, done.stderr
    opened, retrieval = csn_jax.Index.open(index), json.loads((workdir / "results.json").read_text())["retrieval"]
    precision = {}
    for searched in ("category", "colour"):
        rows, _ = opened.nearest(opened.vectors, {searched: 1}, 10, exclude=range(len(opened.ids)))
        for attribute in ("category", "colour"):
            column = opened.columns[attribute]
            precision[searched, attribute] = np.mean(column[rows] == column[:, None])
        measured = retrieval["by_condition"][searched]["precision@10"]
        assert precision[searched, searched] == pytest.approx(measured, abs=0.01)
        assert precision[searched, searched] > 1.5 * retrieval["chance"]["by_condition"][searched]
    assert precision["category", "category"] > precision["colour", "category"]
    assert precision["colour", "colour"] > precision["category", "colour"]
