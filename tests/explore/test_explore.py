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
from csn_jax.explore import folder
from csn_jax.model.run import open_run
from csn_jax.pictures.maps import draw_maps, place
from csn_jax.runtime.whole import check_folder, write_folder


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
    vectors = np.frombuffer(base64.b64decode(text), "<f4").reshape(40, -1)
    np.testing.assert_allclose(vectors, model.embed(dataset.items.inputs[rows]), rtol=0, atol=1e-6)
    assert [condition["mask"] for condition in data["conditions"]] == model.masks.tolist()
    assert data["results"]["rows"][-1][0] == "overall" and data["pictures"]["ink"]
    sheet = Image.open(tmp_path / "page" / data["pictures"]["files"][0])
    for i, row in enumerate(rows):  # glyphs as the opacity of black
        pixels = np.asarray(sheet.crop((32 * i, 0, 32 * i + 32, 32)))
        np.testing.assert_array_equal(pixels[..., 1], dataset.items.inputs[row, ..., 0])
        assert not pixels[..., 0].any()


def test_labels_are_stored_unchanged(page):
    _, data = read(page["data.js"])
    shown = showcase.items()
    assert data["ids"] == shown.ids.tolist()
    for column in data["columns"]:
        values = [column["values"][code] for code in column["codes"]]
        assert values == shown.labels[column["name"]].tolist()
    assert [column["name"] for column in data["columns"]][-1] == "__proto__"  # conditions come first
    assert b"<" not in page["data.js"]


def test_numbers_are_stored_unchanged(page):
    made, vectors = showcase.model()
    _, data = read(page["data.js"])
    np.testing.assert_array_equal(np.float32([condition["mask"] for condition in data["conditions"]]), made.masks)
    _, text = read(page["vectors.js"])
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(text), "<f4"), vectors.ravel())
    maps = np.frombuffer(base64.b64decode(data["maps"]), "<u2").reshape(3, 80, 2)
    assert (maps.min(axis=(1, 2)) < 400).all() and (maps.max(axis=(1, 2)) > 65_000).all()
    assert data["results"]["rows"][1] == [showcase.HOSTILE, 0.25, [0.1, 0.6], 1000]


def test_a_page_has_the_same_bytes_every_time(page):
    assert showcase.files(showcase.items()) == page


def test_a_page_loads_only_files_beside_it(page):
    """Its policy allows no others."""
    text = page["index.html"].decode()
    loaded = re.findall(r"(?:src|href)=\"([^\"]*)\"", text)
    assert set(loaded) == set(page) - {"index.html", "pictures_0.webp"}
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for name in ("page.js", "map.js", "search.js"):
        code = page[name].decode()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|fetch\(|https?:", code), name


@pytest.mark.parametrize(("channels", "side", "kind"), [(1, 24, "png"), (3, 24, "webp"), (1, 120, "png")])
def test_thumbnails_are_where_the_page_reads_them(channels, side, kind, monkeypatch):
    """Row by row on sheets, at most 96 pixels per side."""
    monkeypatch.setattr(folder, "SHEET", 200)
    inputs = np.zeros((50, side, side, channels), np.uint8)
    inputs += np.arange(0, 250, 5, dtype=np.uint8)[:, None, None, None]
    rows = np.arange(49, 9, -1)
    sheets = folder.draw_sheets(inputs, rows, ink=False)
    shown = min(side, 96)
    across = 200 // shown
    assert list(sheets) == [f"pictures_{i}.{kind}" for i in range(-(-40 // across**2))]
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("L"), int) for data in sheets.values()]
    for i, row in enumerate(rows):
        sheet, position = divmod(i, across**2)
        top, left = position // across * shown, position % across * shown
        middle = pictures[sheet][top + 6 : top + shown - 6, left + 6 : left + shown - 6]
        assert np.abs(middle - 5 * row).max() <= (4 if kind == "webp" else 0)


def test_thumbnails_of_many_items_are_smaller():
    assert folder.side_of(np.zeros((1, 112, 112, 3)), np.arange(3000)) == 96
    assert folder.side_of(np.zeros((1, 112, 112, 3)), np.arange(3001)) == 64
    assert folder.side_of(np.zeros((1, 32, 32, 3)), np.arange(3001)) == 32


def test_a_map_groups_what_its_mask_groups():
    """Groups under the first mask are groups on the first map only. A mask times -2 gives the same map, not a mirrored
    or rotated one."""
    rng = np.random.default_rng(0)
    group, other = rng.integers(0, 4, (2, 90))
    vectors = np.concatenate([8 * np.eye(4)[group], 8 * np.eye(4)[other]], axis=1) + rng.normal(0, 1, (90, 8))
    masks = np.repeat(np.eye(2, dtype=np.float32)[[0, 1, 0]], 4, axis=1)
    masks[2] *= -2  # turns every axis around
    maps = draw_maps(vectors.astype(np.float32), masks, ["a", "b", "c"])
    assert maps.shape == (3, 90, 2) and maps.min() >= 0 and maps.max() <= 1
    for places, like, unlike in ((maps[0], group, other), (maps[1], other, group)):
        gaps = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(90)
        nearest = gaps.argmin(axis=1)
        assert (like[nearest] == like).mean() > 0.95
        assert (unlike[nearest] == unlike).mean() < 0.5
    assert np.abs(maps[2] - maps[0]).mean() < 0.05


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
    maps = draw_maps(masked.astype(np.float32), np.ones((1, masked.shape[1]), np.float32), ["a"])
    assert np.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1


def test_a_mask_of_one_dimension_gives_a_plane():
    masked = np.zeros((60, 4))
    masked[:, 1] = np.random.default_rng(0).normal(0, 1, 60)
    assert place(masked).std(axis=0).min() > 0.1


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
    check([f"--workdir={tmp_path}", out], "no config.json")
    check([workdir, out, "--split=tset"], "--split", "'tset'")
    check([workdir, f"--out={tmp_path}"], f"--out={tmp_path} holds mine")
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    check([workdir, out], "pip install openTSNE")
    assert os.listdir(tmp_path) == ["mine"]
