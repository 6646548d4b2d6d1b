"""The page of csn_jax.explore as files; test_explore_page.py opens it in a browser."""

import base64
import io
import json
import os
import re
import sys

import numpy as np
import pytest
import showcase
import tiny
from PIL import Image
from test_cli import assert_message, run

import csn_jax
from csn_jax import explore
from csn_jax.errors import MachineError, UserError
from csn_jax.explore import folder, narrow
from csn_jax.explore.items import of_index
from csn_jax.model.run import open_run
from csn_jax.pictures import maps, page_sheets
from csn_jax.pictures.maps import draw_maps, place
from csn_jax.pictures.page_sheets import Thumbnails, draw_sheets, in_order, side_of
from csn_jax.runtime.whole import check_folder, write_folder
from csn_jax.store.shown import kind_of
from csn_jax.store.vector_file import write_embeddings


def read(script: bytes):
    """The value that a script sets, and the name it sets it to."""
    name, text = re.fullmatch(r"const (\w+) = (.*);\n", script.decode("ascii"), re.DOTALL).groups()
    return name, json.loads(text)


@pytest.fixture(scope="module")
def page():
    return showcase.files(showcase.items())


def test_a_run_becomes_a_page(finished, tmp_path, capsys):
    """With the model's vectors of the named items. A sample says that it is one."""
    explore.main([f"--workdir={finished}", f"--out={tmp_path / 'page'}", "--split=validation", "--max_items=40"])
    out, err = capsys.readouterr()
    assert re.search(r"page/index.html shows 40 of [\d,]+ validation items", out)
    assert "drawing maps 100%" in err
    name, data = read((tmp_path / "page/data.js").read_bytes())
    assert name == "CSN_DATA"
    dataset, model = open_run(finished).dataset(), csn_jax.load(finished)
    assert (len(data["ids"]), data["total"]) == (40, len(dataset.rows("validation")))
    rows = [dataset.items.ids.tolist().index(name) for name in data["ids"]]
    assert set(dataset.items.split[rows]) == {"validation"}
    _, text = read((tmp_path / "page/vectors.js").read_bytes())
    vectors = np.frombuffer(base64.b64decode(text["data"]), "<f4").reshape(40, -1)
    embedded = model.embed(dataset.items.inputs[rows])[:, text["live"]]
    np.testing.assert_allclose(vectors, embedded, rtol=0, atol=1e-6)
    assert [condition["mask"] for condition in data["conditions"]] == model.masks.tolist()
    assert data["results"]["rows"][-1][0] == "overall" and data["pictures"]["ink"]
    sheet = Image.open(tmp_path / "page" / data["pictures"]["files"][0])
    across = data["pictures"]["sheet"] // 32
    for i, row in enumerate(rows):  # glyphs as the opacity of black
        pixels = np.asarray(sheet.crop((x := i % across * 32, y := i // across * 32, x + 32, y + 32)))
        np.testing.assert_array_equal(pixels[..., 1], dataset.items.inputs[row, ..., 0])
        assert not pixels[..., 0].any()


def test_labels_are_stored_unchanged(page):
    _, data = read(page["data.js"])
    shown = showcase.items()
    assert data["ids"] == shown.ids.tolist()
    for column in data["columns"]:
        codes = np.frombuffer(base64.b64decode(column["codes"]), f"<u{column['bytes']}")
        values = [column["values"][code] for code in codes]
        assert values == shown.labels[column["name"]].tolist()
    assert [column["name"] for column in data["columns"]][-1] == "__proto__"  # conditions come first
    assert b"<" not in page["data.js"]


def test_numbers_are_stored_unchanged(page):
    made, vectors = showcase.model()
    _, data = read(page["data.js"])
    np.testing.assert_array_equal(np.float32([condition["mask"] for condition in data["conditions"]]), made.masks)
    _, text = read(page["vectors.js"])
    assert text["scale"] is None and text["live"] == np.flatnonzero(made.masks.any(axis=0)).tolist()
    stored = np.frombuffer(base64.b64decode(text["data"]), "<f4").reshape(80, -1)
    np.testing.assert_array_equal(stored, vectors[:, text["live"]])
    places = np.frombuffer(base64.b64decode(data["maps"]), "<u2").reshape(3, 80, 2)
    assert (places.min(axis=(1, 2)) < 400).all() and (places.max(axis=(1, 2)) > 65_000).all()
    assert data["results"]["rows"][1] == [showcase.HOSTILE, 0.25, [0.1, 0.6], 1000]


def test_a_page_has_the_same_bytes_every_time(page):
    assert showcase.files(showcase.items()) == page


def test_a_page_loads_only_files_beside_it(page):
    """Its policy allows no others."""
    text = page["index.html"].decode()
    loaded = re.findall(r"(?:src|href)=\"([^\"]*)\"", text)
    assert set(loaded) == set(page) - {"index.html", "pictures_0.webp", "vectors.js"}  # the script loads the last two
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for name in sorted(name for name in page if name.endswith(".js") and name not in ("data.js", "vectors.js")):
        code = page[name].decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|fetch\(|https?:", code), name


@pytest.mark.parametrize(("channels", "side", "kind"), [(1, 24, "png"), (3, 24, "webp"), (1, 120, "png")])
def test_thumbnails_are_where_the_page_reads_them(channels, side, kind, monkeypatch):
    """Row by row on sheets in the given order, at most 96 pixels per side. Items without a picture are named."""
    monkeypatch.setattr(page_sheets, "SHEET", 200)
    inputs = np.zeros((40, side, side, channels), np.uint8)
    inputs += np.arange(0, 200, 5, dtype=np.uint8)[:, None, None, None]
    order = np.random.default_rng(0).permutation(40)
    thumbnails = Thumbnails(lambda some, _: [None if item == 7 else inputs[item] for item in some], side)
    shown = side_of(40, side)
    drawn = draw_sheets(thumbnails, order, 40, shown)
    assert shown == min(side, 96)
    across = 200 // shown
    assert list(drawn.files) == [f"pictures_{i}.{kind}" for i in range(-(-40 // across**2))]
    assert drawn.about["missing"] == [7]
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("L"), int) for data in drawn.files.values()]
    for i, item in enumerate(order):
        sheet, position = divmod(i, across**2)
        top, left = position // across * shown, position % across * shown
        middle = pictures[sheet][top + 6 : top + shown - 6, left + 6 : left + shown - 6]
        assert np.abs(middle - (0 if item == 7 else 5 * item)).max() <= (4 if kind == "webp" else 0)


def test_no_picture_at_all_gives_no_sheets():
    assert draw_sheets(Thumbnails(lambda some, _: [None] * len(some)), np.arange(9), 9, 96) == ({}, None)


def test_pictures_of_any_shape_are_whole_on_white():
    pictures = [np.zeros((10, 64, 3), np.uint8), np.zeros((200, 50, 3), np.uint8)]
    drawn = draw_sheets(Thumbnails(lambda some, _: [pictures[item] for item in some]), np.arange(2), 2, 96)
    sheet = np.asarray(Image.open(io.BytesIO(drawn.files["pictures_0.webp"])).convert("L"), int)
    assert (sheet[48, 2:94] < 60).all() and sheet[10, 48] > 200 and sheet[86, 48] > 200  # wide, in the middle
    assert (sheet[2:94, 96 + 48] < 60).all() and sheet[48, 96 + 5] > 200


def test_thumbnails_of_many_items_are_smaller():
    assert [side_of(n, 112) for n in (3000, 3001, 20_001)] == [96, 64, 48]
    assert side_of(3001, 32) == 32 and side_of(10, None) == 96


def test_of_many_items_those_that_lead_come_first(monkeypatch):
    """One in each cell of each map; the others follow along a curve, so that neighbours share sheets."""
    maps = np.random.default_rng(0).random((2, 4000, 2))
    order, leads = in_order(maps)
    assert leads == 4000 and order.tolist() == list(range(4000))
    monkeypatch.setattr(page_sheets, "NEAR", 100)
    order, leads = in_order(maps)
    assert sorted(order) == list(range(4000)) and leads < 2 * 22**2
    for places in maps:
        cells = (places * 22).astype(int) @ [22, 1]
        assert set(cells[order[:leads]]) == set(cells)
    steps = np.linalg.norm(np.diff(maps[0][order[leads:]], axis=0), axis=1)
    assert np.median(steps) < 0.05  # of random pairs: 0.5


def test_many_vectors_are_rounded_to_8_bits(monkeypatch):
    """By less than half a step of the scale of each dimension; dimensions without weight are left out."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 6)) * [1, 100, 1e-3, 1, 0, 1]).astype(np.float32)
    masks = np.float32([[1, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 2]])
    monkeypatch.setattr(folder, "EXACT", 10)
    stored = folder._vectors(vectors, masks)
    assert stored["live"] == [0, 1, 2, 4, 5]
    values = np.frombuffer(base64.b64decode(stored["data"]), "i1").reshape(50, 5) * stored["scale"]
    assert (np.abs(values - vectors[:, stored["live"]]) <= np.float64(stored["scale"]) * 0.501).all()


def test_wide_vectors_are_narrowed_without_changing_distances(monkeypatch):
    """Where the axes that are left hold everything, distances under each condition and a mixture stay. Dimensions that
    conditions weigh differently are never mixed, and those without weight are left out."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 40))  # 5 axes
    vectors = np.concatenate([wide, rng.normal(size=(60, 4))], axis=1).astype(np.float32)
    masks = np.zeros((3, 44), np.float32)
    masks[:2, :40] = [[1], [0.5]]  # one group: both conditions weigh all 40 alike
    masks[:, 40:43] = rng.random((3, 3))
    monkeypatch.setattr(narrow, "LEAST", 5)
    assert narrow.narrowed(vectors, masks)[2] == 1 and narrow.narrowed(vectors, masks)[1] is masks
    monkeypatch.setattr(narrow, "MOST", 60 * 22)
    found, weights, share = narrow.narrowed(vectors, masks)
    assert found.shape == (60, 5 + 3) and weights.shape == (3, 8) and share == pytest.approx(1)
    for mixture in ([1, 0, 0], [0, 1, 0], [0.3, -0.2, 1]):
        squares = [
            np.square((x[:, None] - x)[..., None, :] * m).sum(axis=-1) @ mixture
            for x, m in ((vectors, masks), (found, weights))
        ]
        np.testing.assert_allclose(squares[1], squares[0], rtol=1e-4, atol=1e-3)
    monkeypatch.setattr(narrow, "LEAST", 2)
    monkeypatch.setattr(narrow, "MOST", 60 * 8)
    found, _, share = narrow.narrowed(vectors, masks)
    centred = vectors[:, :40] - vectors[:, :40].mean(axis=0)
    values = np.linalg.eigvalsh(centred.T @ centred)
    assert found.shape == (60, 2 + 3) and share == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-4)


def test_a_map_groups_what_its_mask_groups():
    """Groups under the first mask are groups on the first map only. A mask times -2 gives the same map, not a mirrored
    or rotated one."""
    rng = np.random.default_rng(0)
    group, other = rng.integers(0, 4, (2, 90))
    vectors = np.concatenate([8 * np.eye(4)[group], 8 * np.eye(4)[other]], axis=1) + rng.normal(0, 1, (90, 8))
    masks = np.repeat(np.eye(2, dtype=np.float32)[[0, 1, 0]], 4, axis=1)
    masks[2] *= -2  # turns every axis around
    drawn = draw_maps(vectors.astype(np.float32), masks, ["a", "b", "c"])
    assert drawn.shape == (3, 90, 2) and drawn.min() >= 0 and drawn.max() <= 1
    for places, like, unlike in ((drawn[0], group, other), (drawn[1], other, group)):
        gaps = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(90)
        nearest = gaps.argmin(axis=1)
        assert (like[nearest] == like).mean() > 0.95
        assert (unlike[nearest] == unlike).mean() < 0.5
    assert np.abs(drawn[2] - drawn[0]).mean() < 0.05


@pytest.mark.parametrize(
    "masked",
    [np.zeros((20, 3)), np.ones((3, 3)), np.arange(5.0)[:, None], np.eye(30)[:, :1] * np.ones(4), np.ones((1, 2))],
    ids=["a zero mask", "few equal items", "one dimension", "one item differs", "one item"],
)
def test_a_map_of_very_little(masked):
    places = place(masked)
    assert places.shape == (len(masked), 2) and np.isfinite(places).all()
    if np.ptp(masked) == 0:
        assert not places.any()
    drawn = draw_maps(masked.astype(np.float32), np.ones((1, masked.shape[1]), np.float32), ["a"])
    assert np.isfinite(drawn).all() and drawn.min() >= 0 and drawn.max() <= 1


def test_a_mask_of_one_dimension_gives_a_plane():
    masked = np.zeros((60, 4))
    masked[:, 1] = np.random.default_rng(0).normal(0, 1, 60)
    assert place(masked).std(axis=0).min() > 0.1


def test_of_many_items_a_sample_is_placed_and_the_others_beside_it(monkeypatch):
    """Each near the places of its own group; points that coincide stay apart."""
    monkeypatch.setattr(maps, "MOST", 200)
    monkeypatch.setattr(maps, "SAMPLE", 120)
    group = np.random.default_rng(0).integers(0, 4, 400)
    masked = 20 * np.eye(4)[group] + np.random.default_rng(1).normal(0, 1, (400, 4))
    masked[:5], group[:5] = masked[0], group[0]
    places = place(masked)
    gaps = np.linalg.norm(places[:, None] - places, axis=-1) + 1e9 * np.eye(400)
    assert (group[gaps.argmin(axis=1)] == group).mean() > 0.98
    assert gaps.min() > 0 and np.isfinite(places).all()
    np.testing.assert_array_equal(places, place(masked))
    # An item of the sample is put where the sample is.
    rng = np.random.default_rng(0)
    sample, spots = rng.normal(size=(50, 3)), rng.random((50, 2))
    assert np.abs(maps.place_beside(sample, sample, spots, rng) - spots).max() < 0.02


@pytest.mark.slow  # openTSNE finds neighbours of so many items approximately, by seeded trees
def test_a_larger_map_is_the_same_twice():
    masked = np.random.default_rng(0).normal(0, 1, (1100, 8))
    np.testing.assert_array_equal(place(masked), place(masked))


def test_an_older_page_is_replaced_whole(tmp_path):
    out = tmp_path / "page"
    showcase.write(out, showcase.items(70))
    (out / "pictures_7.webp").write_bytes(b"old")
    showcase.write(out, showcase.items(60))
    assert sorted(path.name for path in out.iterdir()) == sorted(showcase.files(showcase.items(60)))
    assert len(read((out / "data.js").read_bytes())[1]["ids"]) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_a_full_disk_leaves_the_older_page(tmp_path, monkeypatch, page):
    out = tmp_path / "page"
    write_folder(out, page, folder.OURS, folder.MARK)
    before = tiny.contents(out)

    def full(path, data):
        if path.name == "vectors.js":
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(data)

    monkeypatch.setattr("csn_jax.runtime.whole.write_atomically", full)
    with pytest.raises(MachineError, match="vectors.js"):
        write_folder(out, page | {"data.js": b"new"}, folder.OURS, folder.MARK)
    assert tiny.contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_a_page_that_cannot_be_moved_into_place_leaves_the_older_one(tmp_path, monkeypatch, page):
    out = tmp_path / "page"
    write_folder(out, page, folder.OURS, folder.MARK)
    before = tiny.contents(out)
    rename = os.rename

    def refuse(source, target):
        if str(source).endswith(".partial"):
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UserError, match="cannot be written"):
        write_folder(out, page | {"data.js": b"new"}, folder.OURS, folder.MARK)
    assert tiny.contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "pictures_holiday.png"])
def test_files_of_others_are_never_replaced(tmp_path, name, page):
    out = tmp_path / "page"
    write_folder(out, page if name != "index.html" else {}, folder.OURS, folder.MARK)
    (out / name).write_text("mine")
    before = tiny.contents(out)
    with pytest.raises(UserError, match=f"holds {name}, ") as caught:
        write_folder(out, page, folder.OURS, folder.MARK)
    assert tiny.is_one_sentence(str(caught.value))
    assert tiny.contents(out) == before and len(list(tmp_path.iterdir())) == 1


def test_an_empty_folder_is_filled_and_a_file_or_link_refused(tmp_path, page):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", page, folder.OURS, folder.MARK)
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(UserError, match="is not a folder"):
            check_folder(tmp_path / name, folder.OURS, folder.MARK)
    with pytest.raises(UserError, match="cannot be written"):
        write_folder(tmp_path / "file" / "page", page, folder.OURS, folder.MARK)


def test_usage_errors_are_one_line(finished, tmp_path, capsys, monkeypatch):
    """Each row: flags, and the words of the message. No command writes anything."""
    out, workdir = f"--out={tmp_path / 'page'}", f"--workdir={finished}"
    (tmp_path / "mine").write_text("")

    def check(flags, *words):
        assert_message(*run(explore, monkeypatch, capsys, *flags), 2, *words)

    check([workdir, out, "--max_items=1"], "--max_items=1", "2 or more")
    check([out], "nothing to show", "--workdir", "--index")
    check([f"--index={tmp_path / 'none.parquet'}", out], "none.parquet is not a file")
    for link in ("https://shop.example/", "javascript:alert('{id}')", "shop/{id}", "https://{id}/"):
        check([workdir, out, f"--link={link}"], f"--link={link}", "https://shop.example/{id}")
    check([f"--workdir={tmp_path}", out], "no config.json")
    check([workdir, out, "--split=tset"], "--split", "'tset'")
    check([workdir, f"--out={tmp_path}"], f"--out={tmp_path} holds mine")
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    check([workdir, out], "pip install openTSNE")
    assert os.listdir(tmp_path) == ["mine"]


def test_a_file_of_vectors_becomes_a_page(tmp_path, capsys, monkeypatch):
    """All its items, with its columns, conditions first; items without a picture are named."""
    stored = showcase.index(showcase.items()).items
    labels = {name: np.array(values, object) for name, values in showcase.items().labels.items()}
    (tmp_path / "images").mkdir()
    names = [f"images/{i}.png" if i % 3 else "" for i in range(80)]
    for name in filter(None, names):
        Image.new("RGB", (30, 20), "red").save(tmp_path / name)
    where = {"kind": "table", "root": str(tmp_path), "image": "photo"}
    columns = labels | {"photo": np.array(names, object), "size": np.array([str(i) for i in range(80)], object)}
    write_embeddings(tmp_path / "e.parquet", stored._replace(columns=columns, pictures=where))
    explore.main(
        [f"--index={tmp_path / 'e.parquet'}", f"--out={tmp_path / 'page'}", "--link=https://shop.example/?q={id}"]
    )
    assert "shows 80 of 80 items" in capsys.readouterr().out
    _, data = read((tmp_path / "page/data.js").read_bytes())
    assert data["ids"] == stored.ids.tolist() and data["link"] == "https://shop.example/?q={id}"
    assert data["run"] == "e.parquet" and data["results"] is None
    kinds = [(column["name"], column["kind"]) for column in data["columns"]]
    assert kinds[0] == ("shape", "categorical") and ("price", "numeric") in kinds[:3] and ("size", "numeric") in kinds
    assert "photo" not in dict(kinds)
    assert data["pictures"]["missing"] == [i for i in range(80) if i % 3 == 0]
    sheet = np.asarray(Image.open(tmp_path / "page/pictures_0.webp").convert("RGB"), int)
    assert (np.abs(sheet[48, 96 + 48] - [254, 0, 0]) < 12).all() and (sheet[48, 48] > 240).all()
    _, text = read((tmp_path / "page/vectors.js").read_bytes())
    vectors = np.frombuffer(base64.b64decode(text["data"]), "<f4").reshape(80, -1)
    np.testing.assert_array_equal(vectors, stored.vectors[:, text["live"]])


def test_a_large_file_is_sampled():
    index = showcase.index(showcase.items())
    shown = of_index(index, None, 30)
    assert (len(shown.ids), shown.about["total"]) == (30, 80)
    rows = [index.ids.tolist().index(name) for name in shown.ids]
    np.testing.assert_array_equal(shown.vectors, index.vectors[rows])
    assert rows == sorted(rows)


def test_a_column_of_many_numbers_is_an_amount():
    assert kind_of(np.array([str(i) for i in range(11)] + [""])) == "numeric"
    assert kind_of(np.array([str(i) for i in range(10)])) == "categorical"
    assert kind_of(np.array([str(i) for i in range(11)] + ["x"])) == "categorical"
    assert kind_of(np.array([str(i) for i in range(11)] + ["nan"])) == "categorical"
