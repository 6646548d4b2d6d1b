"""Pictures for people: of items that are vectors, of files, and inside a table."""

import base64
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import shop
import tiny
from PIL import Image

from csn_jax import cli, train
from csn_jax.data import thumbnails
from csn_jax.data.dataset import load_dataset
from csn_jax.data.images import resize_and_pad
from csn_jax.data.thumbnails import pixels_of, read_thumbnails
from csn_jax.explore import folder
from csn_jax.explore.items import of_rows
from csn_jax.pictures.sheets import draw_all

N = 60
COLUMNS = {name: values[:N] for name, values in shop.columns().items()}
COLUMNS["id"] = [f"p{i}" for i in range(N)]


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Decode here: starting workers takes a second."""

    def read_here(function, tasks):
        results = (function(task) for task in tasks)
        return ((None, result) if isinstance(result, str) else (result, None) for result in results)

    monkeypatch.setattr(thumbnails, "read_in_workers", read_here)


@pytest.fixture(scope="module", params=["files", "bytes"])
def config(request, tmp_path_factory):
    """Of a table of vectors with pictures; that of row 7 is missing."""
    place = tmp_path_factory.mktemp(request.param)
    shop.write(place / "shop.csv", COLUMNS, pictures=True)
    image = list(COLUMNS["image"])
    (place / image[7]).unlink()
    if request.param == "bytes":
        image = [
            None if i == 7 else {"bytes": (place / name).read_bytes(), "path": name} for i, name in enumerate(image)
        ]
    columns = COLUMNS | {"image": image, "vector": list(shop.vectors(COLUMNS))}
    pyarrow.parquet.write_table(pyarrow.table(columns), place / "t.parquet", row_group_size=8)
    few = ("--config.data.train_triplets=30", "--config.data.validation_triplets=20", "--config.data.test_triplets=20")
    flags = ("--config=features:tiny", "--config.variant=learned", f"--config.data.path={place / 't.parquet'}", *few)
    return cli.parse(train.Args, [*flags, "--config.data.conditions", "category", "colour"]).config


def expected(config, row, size):
    """The picture of a row, decoded from the file that the shop wrote."""
    path = config.data.path.replace("t.parquet", COLUMNS["image"][row])
    with Image.open(path) as image:
        return resize_and_pad(image, size, 3)


def test_pictures_of_vectors_are_whole_on_white(config):
    """Those of other items than asked for are not read. A missing one is white."""
    items = load_dataset(config).items
    assert items.inputs.ndim == 2
    pixels = pixels_of(items, np.array([20, 7, 3]), 48)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 48, 48, 3)
    np.testing.assert_array_equal(pixels[0], expected(config, 20, 48))
    np.testing.assert_array_equal(pixels[2], expected(config, 3, 48))
    assert (pixels[1] == 255).all()


def test_thumbnails_keep_their_shape(config, tmp_path):
    where, names = load_dataset(config).items.pictures
    found = read_thumbnails(where, names[[20, 7]].tolist(), 12)
    assert found[0].shape == (10, 12, 3) and found[1] is None
    gone = where | {"root": str(tmp_path / "gone.parquet")}
    assert read_thumbnails(gone, names[[20]].tolist(), 12) == [None]
    assert read_thumbnails({}, ["a.png"], 12) == [None]


def test_sheets_and_pages_show_the_pictures_of_vectors(config, tmp_path):
    """Each where its item stands."""
    dataset = load_dataset(config)
    items = dataset.items
    model = tiny.untrained(tmp_path / "run", config)
    vectors = model.embed(items.inputs)
    (tmp_path / "out").mkdir()
    draw_all(tmp_path / "out", model, vectors, dataset)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "masks.png",
        "neighbours_category.png",
        "neighbours_colour.png",
    }
    rows = np.array([3, 20, 7])
    shown = of_rows(items, rows, vectors[rows], model.conditions, model.masks, None, {"total": 3, "seed": 0})
    files = folder.page_files(shown)
    data = json.loads(files["data.js"].decode().partition(" = ")[2].rstrip(";\n"))
    sheets = {"files": ["pictures_0.webp"], "side": 96, "sheet": 1024, "ink": False, "leads": 3, "missing": [2]}
    assert data["pictures"] == sheets
    (tmp_path / "sheet.webp").write_bytes(files["pictures_0.webp"])
    with Image.open(tmp_path / "sheet.webp") as sheet:
        pixels = np.asarray(sheet).astype(int)
    for i, row in enumerate(rows[:2]):
        gap = np.abs(pixels[:, 96 * i : 96 * i + 96] - expected(config, row, 96))
        assert gap.mean() < 6
    assert (pixels[8:88, 200:280] > 250).all()
    stored = json.loads(files["vectors.js"].decode().partition(" = ")[2].rstrip(";\n"))
    assert base64.b64decode(stored["data"])
