"""The pictures of a table's rows: files by name or template, and bytes inside the table."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import shop

from csn_jax.config import Config, DataConfig, PreprocessConfig
from csn_jax.data import images, to_embed
from csn_jax.data.sources import table
from csn_jax.data.table_pictures import TablePictures
from csn_jax.data.to_embed import from_table
from csn_jax.errors import UserError

N = 18
COLUMNS = {name: values[:N] for name, values in shop.columns().items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The shop as a CSV table with its pictures beside it."""
    return shop.write(tmp_path_factory.mktemp("shop") / "products.csv", COLUMNS, pictures=True)


@pytest.fixture(autouse=True)
def in_process(tmp_path, monkeypatch):
    """Decode here: starting workers takes a second. The cache is empty."""
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))
    for module in (images, to_embed):
        monkeypatch.setattr(module, "read_in_workers", read_here)


def read_here(function, tasks):
    results = (function(task) for task in tasks)
    return ((None, result) if isinstance(result, str) else (result, None) for result in results)


def config(path, fit="crop", **data):
    preprocess = PreprocessConfig(size=16, mean=(0.5,) * 3, std=(0.3,) * 3, fit=fit)
    return Config(data=DataConfig(source="table", path=str(path), **data), preprocess=preprocess)


def contents(files):
    return [(files.parent / name).read_bytes() for name in COLUMNS["image"]]


def write(path, image, **columns):
    others = {name: COLUMNS[name] for name in ("category", "colour")}
    pyarrow.parquet.write_table(pyarrow.table({"image": image} | others | columns), path, row_group_size=7)
    return path


def structs(files, change=lambda i, value: value):
    values = [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(contents(files))]
    return pyarrow.array([change(i, value) for i, value in enumerate(values)])


def embedded(path, **settings):
    """(pixels, faults) of the rows that embed would embed."""
    found = from_table(path, DataConfig(source="table", **settings), (16, 16, 3), (16, 3, "crop"))
    parts = list(found.chunks(np.arange(len(found.ids))))
    return np.concatenate([part[0] for part in parts]), sum((part[1] for part in parts), []), found


KINDS = {
    "Hugging Face": structs,
    "path first": lambda files: pyarrow.array(
        [{"path": None, "bytes": data} for data in contents(files)],
        pyarrow.struct({"path": pyarrow.string(), "bytes": pyarrow.large_binary()}),
    ),
    "binary": lambda files: pyarrow.array(contents(files)),
    "large binary": lambda files: pyarrow.array(contents(files), pyarrow.large_binary()),
    "a view": lambda files: pyarrow.array(contents(files), pyarrow.binary_view()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_inside_a_table_are_those_of_the_files(files, tmp_path, kind):
    """In training and in embed. Their names are ids if they differ, else the numbers of the rows are."""
    expected = table.read(config(files)).inputs
    path = write(tmp_path / "t.parquet", KINDS[kind](files))
    rows = table.read(config(path))
    np.testing.assert_array_equal(rows.inputs, expected)
    names = [f"{i}.jpg" for i in range(N)] if kind == "Hugging Face" else [str(i + 1) for i in range(N)]
    assert rows.ids.tolist() == names and set(rows.labels) == {"category", "colour"}
    assert rows.pictures.where == {"kind": "bytes", "root": str(path), "image": "image"}
    assert rows.pictures.names.tolist() == [str(i + 1) for i in range(N)]
    pixels, faults, found = embedded(path)
    np.testing.assert_array_equal(pixels, expected)
    assert faults == [None] * N and found.ids.tolist() == names and found.pictures == rows.pictures.where


def test_bad_pictures_inside_a_table_are_named_or_left_out(files, tmp_path):
    """A path without bytes is a file beside the table."""
    shop.draw(tmp_path / "beside.png", 3, "boot", "red")

    def change(i, value):
        return {3: {"bytes": None, "path": "beside.png"}, 5: {"bytes": b"<html>", "path": "5.jpg"}, 8: None}.get(
            i, value
        )

    path = write(tmp_path / "t.parquet", structs(files, change), id=[f"p{i}" for i in range(N)])
    with pytest.raises(UserError, match=r"row 6: image '5.jpg' is not a JPEG.* but HTML.*; 1 more cannot be read"):
        table.read(config(path))
    rows = table.read(config(path, skip_bad=True))
    kept = [i for i in range(N) if i not in (5, 8)]
    assert rows.ids.tolist() == [f"p{i}" for i in kept]
    assert rows.pictures.names.tolist() == [str(i + 1) for i in kept]
    assert any("row 9: no image is named" in note for note in rows.notes)
    pixels, faults, _ = embedded(path)
    np.testing.assert_array_equal(pixels, rows.inputs)
    assert faults[5].startswith("is not a JPEG") and faults[8] == "has no image"


def test_bad_rows_of_bytes_without_names(files, tmp_path):
    """Cut bytes are named by their row alone."""
    data = contents(files)
    data[7] = data[7][:100]
    with pytest.raises(UserError, match=r"row 8: its image is truncated"):
        table.read(config(write(tmp_path / "t.parquet", pyarrow.array(data))))


def test_a_template_names_files_by_columns(files, tmp_path):
    """A row without one of the cells has no picture. Ids stay what they are."""
    columns = {name: COLUMNS[name] for name in ("category", "colour")}
    columns |= {"id": [f"{i:03}" for i in range(N)], "kind": [("png", "jpg", "webp")[i % 3] for i in range(N)]}
    path = shop.write(files.parent / "template.csv", columns)
    rows = table.read(config(path, image="images/{id}.{kind}"))
    np.testing.assert_array_equal(rows.inputs, table.read(config(files)).inputs)
    assert rows.ids.tolist() == columns["id"] and rows.pictures.where["image"] == "images/{id}.{kind}"
    assert rows.pictures.names.tolist() == COLUMNS["image"]
    pixels, _, found = embedded(path, image="images/{id}.{kind}")
    np.testing.assert_array_equal(pixels, rows.inputs)
    assert found.columns["images/{id}.{kind}"].tolist() == COLUMNS["image"]
    columns["kind"][4] = ""
    path = shop.write(files.parent / "template.csv", columns)
    with pytest.raises(UserError, match=r"row 5 \(line 6\): no image is named"):
        table.read(config(path, image="images/{id}.{kind}"))
    with pytest.raises(UserError, match=r"has no column 'ix', which config.data.image needs"):
        table.read(config(path, image="images/{ix}.png"))
    with pytest.raises(UserError, match=r"row 1 \(line 2\): image '../000.png' lies outside"):
        table.read(config(path, image="../{id}.png"))


NAMES = {
    "https://cdn.example.com/4.jpg": "is a URL, and pictures are read from files; download it",
    "s3://bucket/4.jpg": "is a URL",
    "//cdn.example.com/4.jpg": "is a URL",
    "data:image/png;base64,iVBORw0KGgo": "is a picture as text; store its bytes in a binary column",
    "/9j/4AAQSkZJRgABAQ" + "A" * 6000: "is a picture as text",
    "images\\004.jpg": "is written with backslashes; write 'images/004.jpg'",
    "C:\\photos\\004.jpg": "is written with backslashes",
    "images/my%20shoe.png": "is missing, and the file is called 'images/my shoe.png'; write it so",
    "images/100%.png": "is missing",
    "images/004.jpg" + "x" * 5000: "lies outside|is missing|cannot be",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_another_kind_are_named_for_what_they_are(files, name):
    shop.draw(files.parent / "images" / "my shoe.png", 1, "boot", "red")
    columns = {key: list(values) for key, values in COLUMNS.items()}
    columns["image"][4], columns["id"] = name, [str(i) for i in range(N)]
    path = shop.write(files.parent / "named.csv", columns)
    with pytest.raises(UserError) as error:
        table.read(config(path))
    assert any(f"row 5 (line 6): image {name!r} {words}" in str(error.value) for words in NAMES[name].split("|"))
    _, faults, _ = embedded(path)
    assert faults[4] and faults[:4] + faults[5:] == [None] * (N - 1)


def test_files_may_have_such_names(files):
    """Percent signs and backslashes are letters of a name, if a file has it."""
    columns = {key: list(values) for key, values in COLUMNS.items()}
    for row, name in ((4, "images/a%20b.png"), (5, "images/c\\d.png")):
        shop.draw(files.parent / name, row, columns["category"][row], columns["colour"][row])
        columns["image"][row] = name
    assert len(table.read(config(shop.write(files.parent / "odd.csv", columns))).inputs) == N


def test_padded_pictures_are_the_same_in_training_and_embed(files):
    """White rows above and below: the pictures are wide. A crop has none."""
    rows = table.read(config(files, fit="pad"))
    assert (rows.inputs[:, 0] == 255).all() and (rows.inputs[:, -1] == 255).all()
    found = from_table(files, DataConfig(source="table"), (16, 16, 3), (16, 3, "pad"))
    np.testing.assert_array_equal(
        np.concatenate([part[0] for part in found.chunks(np.arange(len(found.ids)))]), rows.inputs
    )
    assert (table.read(config(files)).inputs != rows.inputs).any()


def test_a_table_of_vectors_keeps_its_pictures(files, tmp_path):
    """Whatever they are, if they exist. Otherwise a note says so."""
    vectors = shop.vectors(COLUMNS)
    ids = [f"p{i}" for i in range(N)]
    path = write(files.parent / "v.parquet", COLUMNS["image"], vector=list(vectors), id=ids)
    rows = table.read(config(path, vectors="vector"))
    np.testing.assert_array_equal(rows.inputs, vectors)
    assert rows.pictures.where == {"kind": "table", "root": str(files.parent), "image": "image"}
    assert rows.pictures.names.tolist() == COLUMNS["image"]
    path = write(tmp_path / "v.parquet", COLUMNS["image"], vector=list(vectors), id=ids)
    rows = table.read(config(path, vectors="vector"))
    assert rows.pictures is None and any("show no pictures" in note for note in rows.notes)
    path = write(tmp_path / "v.parquet", structs(files), vector=list(vectors), id=ids)
    rows = table.read(config(path, vectors="vector"))
    assert rows.pictures.where["kind"] == "bytes"
    path = write(tmp_path / "u.parquet", structs(files), vector=list(vectors))
    assert table.read(config(path, vectors="vector")).ids.tolist() == [str(i + 1) for i in range(N)]
    path = write(tmp_path / "v.parquet", structs(files), vector=[*vectors[:9], None, *vectors[10:]], id=ids)
    rows = table.read(config(path, vectors="vector", skip_bad=True))
    assert rows.pictures.names.tolist() == [str(i + 1) for i in range(N) if i != 9]


def test_folders_are_resolved_once_and_links_are_followed(tmp_path):
    """Each path is that of `resolve`, also of links, `..` and folders that link to outside."""
    for name in ("shop/a", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.jpg").write_bytes(b"x")
    folder = tmp_path / "shop"
    for link, target in (("in.jpg", "a/x.jpg"), ("out.jpg", "../outside/x.jpg"), ("b", "a"), ("c", "../outside"),
                         ("loop", "loop")):  # fmt: skip
        (folder / link).symlink_to(target)
    inside = ["a/x.jpg", "./a//x.jpg", "b/x.jpg", "c/x.jpg", "in.jpg", "out.jpg", "a/../in.jpg", "a/..", "none/x.jpg"]
    names = [
        *inside,
        "../outside/x.jpg",
        "loop",
        "loop/x.jpg",
        str(folder / "b/x.jpg"),
        str(tmp_path / "outside/x.jpg"),
    ]
    pictures = TablePictures(names, folder, {"kind": "table", "root": str(folder), "image": "image"})
    found = [path for path, _ in pictures.sources(range(len(names)))]
    assert found == [images.resolve(folder, name) for name in names]
    assert [str(path.relative_to(folder)) if path else None for path in found[:6]] == [
        *["a/x.jpg"] * 3, None, "a/x.jpg", None
    ]  # fmt: skip
