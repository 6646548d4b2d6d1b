"""Source `table`: kinds of columns, ids, splits, images, and the messages for a table that cannot be used."""

import dataclasses
import shutil

import numpy as np
import pyarrow.parquet
import pytest
import shop
import tiny

from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.data.columns import read_columns
from csn_jax.data.item_set import split_rows
from csn_jax.data.sources import table
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The shop as CSV with its pictures. Copy the folder before changing it."""
    return shop.write(tmp_path_factory.mktemp("shop") / "products.csv", shop.columns(), pictures=True)


@pytest.fixture(scope="module")
def whole_rows(whole):
    return table.read(config(whole))


def config(path, **data) -> Config:
    data = DataConfig(source="table", path=str(path), **data)
    backbone = BackboneConfig(name="projection" if data.vectors else "small")
    preprocess = PreprocessConfig(size=16, mean=(0.5,) * 3, std=(0.3,) * 3)
    return Config(data=data, backbone=backbone, preprocess=preprocess)


def labelled(folder, change=None, suffix=".csv", **data):
    """The rows of the shop with vectors in place of pictures, which is fast, after a change of its columns."""
    columns = shop.columns()
    if change:
        columns = change(columns) or columns
    path = shop.write(folder / f"products{suffix}", columns)
    np.save(folder / "v.npy", shop.vectors(shop.columns()))
    return table.read(config(path, vectors="v.npy", **data))


def test_kinds_follow_from_the_values_of_a_column(whole_rows):
    """A column whose values never repeat is not a condition."""
    rows, columns = whole_rows, shop.columns()
    assert rows.inputs.shape == (60, 16, 16, 3) and rows.inputs.dtype == np.uint8
    assert rows.ids.tolist() == columns["image"] and rows.split is None
    assert dict(rows.conditions) == {
        "category": "categorical",
        "colour": "categorical",
        "price": "numeric",
        "size": "ordinal",
        "tags": "set",
        "product": "categorical",
    }
    assert rows.others == (Condition("title", "categorical"),)
    assert rows.labels["category"].tolist() == columns["category"] and "" in columns["category"]
    assert [float(value) for value in rows.labels["price"]] == [float(value) for value in columns["price"]]
    assert rows.labels["tags"].tolist() == [";".join(sorted(set(tags.split(";")))) for tags in columns["tags"]]
    assert any("size" in note and "levels" in note for note in rows.notes)
    assert any("title (categorical)" in note for note in rows.notes)


def test_each_row_gets_the_picture_that_it_names(whole_rows):
    """PNG, JPEG and WebP: each picture has the colour of its row."""
    strongest = np.median(whole_rows.inputs[:, 12:14, 3:12], axis=(1, 2)).argmax(axis=1)
    assert [list(shop.COLOURS)[channel] for channel in strongest] == whole_rows.labels["colour"].tolist()


def test_parquet_and_csv_give_equal_rows(tmp_path):
    """Also when Parquet holds numbers and lists where CSV holds text."""

    def typed(columns):
        columns["price"] = [float(value) for value in columns["price"]]
        columns["size"] = [float(value) for value in columns["size"]]  # pandas writes a column with gaps so
        columns["tags"] = [tags.split(";") if tags else None for tags in columns["tags"]]
        columns["category"] = [value or None for value in columns["category"]]

    ours, theirs = labelled(tmp_path, typed, ".parquet"), labelled(tmp_path)
    assert ours.conditions == theirs.conditions and ours.labels.keys() == theirs.labels.keys()
    for name in ours.labels:
        np.testing.assert_array_equal(ours.labels[name], theirs.labels[name], err_msg=name)


@pytest.mark.parametrize(
    "values, kind",
    [
        (["a", "b"] * 30, "categorical"),
        (["0", "1"] * 30, "categorical"),
        (["2010", "2011", "2012.0", ""] * 15, "ordinal"),
        ([str(i / 7) for i in range(60)], "numeric"),
        (["007", "042", "100"] * 20, "categorical"),
        (["a", "a;b", ""] * 20, "set"),
        (["nan", "1", "2"] * 20, "categorical"),
        (["1e3", "-2", "+3.5"] * 20, "ordinal"),
        ([str(10_000 + i) for i in range(60)], "numeric"),
        ([str(i % 20 / 2) for i in range(60)], "ordinal"),
        ([str(i % 21 / 2) for i in range(60)], "numeric"),
    ],
)
def test_a_kind_is_inferred(tmp_path, values, kind):
    rows = labelled(tmp_path, lambda columns: columns | {"new": values})
    assert dict((*rows.conditions, *rows.others))["new"] == kind
    if kind == "ordinal":
        assert {"2012.0", "1e3", "+3.5"}.isdisjoint(rows.labels["new"])  # one spelling per number


def test_article_numbers_are_a_condition_only_if_named(tmp_path):
    """Whole numbers that never repeat."""
    change = lambda columns: columns | {"sku": [str(10_000 + i) for i in range(60)]}  # noqa: E731
    assert "sku" not in dict(labelled(tmp_path, change).conditions)
    assert dict(labelled(tmp_path, change, conditions=("sku",)).conditions)["sku"] == "numeric"


@pytest.mark.parametrize(("n", "kind"), [(20, "ordinal"), (21, None)])
def test_up_to_twenty_whole_numbers_that_never_repeat_are_levels(n, kind, tmp_path):
    """All other rows are blank."""
    change = lambda columns: columns | {"sku": [str(i) if i < n else "" for i in range(60)]}  # noqa: E731
    assert dict(labelled(tmp_path, change).conditions).get("sku") == kind


def test_kinds_can_be_set(tmp_path):
    rows = labelled(tmp_path, kinds=("size=categorical", "price=ordinal", "category=set"))
    kinds = dict(rows.conditions)
    assert (kinds["size"], kinds["price"], kinds["category"]) == ("categorical", "ordinal", "set")


@pytest.mark.parametrize("text", ["word " * 100, "x" * 200_000])  # csv reads 131,072 characters by default
def test_long_texts_are_left_out(tmp_path, text):
    rows = labelled(tmp_path, fill("description", text))
    assert "description" not in rows.labels and any("description (long texts)" in note for note in rows.notes)


def test_ids_come_from_the_id_column_the_image_or_the_row(tmp_path):
    assert labelled(tmp_path, lambda c: c | {"id": [f"n{i}" for i in range(60)]}).ids[3] == "n3"
    assert labelled(tmp_path).ids[3] == "images/003.png"
    by_title = labelled(tmp_path, id="title")
    assert by_title.ids[3] == "product number 3" and "title" not in by_title.labels
    assert labelled(tmp_path, lambda c: {name: c[name] for name in c if name != "image"}).ids[3] == "4"


def test_columns_that_are_not_read_are_named(tmp_path):
    """Ids as bytes, as old Hive and Impala write texts, are not replaced by row numbers."""
    shape = [{"heel": i % 3} for i in range(60)]
    rows = labelled(tmp_path, lambda columns: columns | {"shape": shape}, ".parquet")
    assert "not read, as they hold neither text nor numbers: shape" in rows.notes
    with pytest.raises(UserError, match="column 'id' of .* holds binary; --config.data.id needs text"):
        labelled(tmp_path, lambda columns: columns | {"id": [f"n{i}".encode() for i in range(60)]}, ".parquet")


def test_a_split_column_sets_the_split(tmp_path):
    """In any case of letters, with val for validation. The column is not a condition."""
    names = ["train", "Val", "TEST", "validation", "train", "train"] * 10
    rows = labelled(tmp_path, lambda columns: columns | {"split": names})
    assert rows.split.tolist() == ["train", "validation", "test", "validation", "train", "train"] * 10
    assert "split" not in rows.labels
    np.testing.assert_array_equal(split_rows(rows, DataConfig())[0], rows.split)


def test_photos_of_a_product_stay_together(tmp_path):
    """split_by names a column that is not a condition. Each item without a value is split on its own."""

    def blank(columns):
        columns["product"][20:] = [""] * 40

    rows = labelled(tmp_path, blank, split_by="product", conditions=("colour",))
    split, _ = split_rows(rows, DataConfig(split_by="product", conditions=("colour",)))
    assert all(split[i] == split[i + 1] for i in range(0, 20, 2))
    assert len(set(split[20:])) == 3
    assert "product" not in dict(labelled(tmp_path, split_by="product").conditions)


def put(name, row, value):
    def change(columns):
        columns.setdefault(name, [f"{name}{i}" for i in range(60)])[row] = value

    return change


def fill(name, value):
    return lambda columns: columns | {name: [value] * 60}


# (settings, change of the columns, words of the message)
MISTAKES = {
    "condition": ({"conditions": ("colr",)}, None, ["'colr'", "did you mean colour?", "category", "title"]),
    "condition twice": ({"conditions": ("colour", "colour")}, None, ["colour colour"]),
    "condition of images": ({"conditions": ("image",)}, None, ["'image'", "cannot be a condition"]),
    "one value": ({"conditions": ("country",)}, fill("country", "PT"), ["'country'", "one value only", "'PT'"]),
    "no value": ({"conditions": ("country",)}, fill("country", ""), ["'country'", "no value"]),
    "slash": ({"conditions": ("a/b",)}, fill("a/b", "x"), ["'a/b'", "cannot name a file"]),
    "dot": ({"conditions": ("..",)}, fill("..", "x"), ["'..'", "cannot name a file"]),
    "control character": ({"conditions": ("a\x1b",)}, fill("a\x1b", "x"), ["cannot name a file"]),
    "overall": ({"conditions": ("overall",)}, fill("overall", "x"), ["'overall'", "rename"]),
    "long text": ({"conditions": ("text",)}, fill("text", "x" * 300), ["'text'", "200 characters"]),
    "id column": ({"id": "sku"}, None, ["no column 'sku'", "size"]),
    "same id": ({}, put("id", 7, "id3"), ["row 8 (line 9)", "same id", "row 4", "'id3'"]),
    "same image": ({}, put("image", 7, "images/003.png"), ["row 8 (line 9)", "row 4", "data.id"]),
    "blank id": ({}, put("id", 7, ""), ["row 8 (line 9)", "'id'"]),
    "endless id": ({}, put("id", 7, "x" * 600), ["row 8 (line 9)", "600 characters"]),
    "split_by": ({"split_by": "prodct"}, None, ["'prodct'", "did you mean product?"]),
    "split_by and split": (
        {"split_by": "product"},
        lambda c: c | {"split": ["train", "val", "test"] * 20},
        ["split_by", "'split'"],
    ),
    "split's name": ({}, lambda c: c | {"split": ["train", "val", "tset"] * 20}, ["row 3 (line 4)", "'tset'", "test?"]),
    "no validation": ({}, lambda c: c | {"split": ["train", "test"] * 30}, ["no item of validation"]),
    "kind": ({"kinds": ("size=ordnal",)}, None, ["'size=ordnal'", "did you mean ordinal?", "numeric"]),
    "kind of nothing": ({"kinds": ("sze=ordinal",)}, None, ["'sze'", "did you mean size?"]),
    "no number": ({"kinds": ("colour=numeric",)}, None, ["row 1 (line 2)", "colour", "not a number"]),
    "infinite number": ({"kinds": ("price=numeric",)}, put("price", 4, "inf"), ["row 5 (line 6)", "'inf'"]),
    "NUL": ({}, put("colour", 4, "a\0"), ["row 5 (line 6)", "'colour'", "NUL"]),
    "no attribute": (
        {},
        lambda c: {"image": c["image"], "title": c["title"]},
        ["no column", "two different values", "data.triplets"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_table_is_named(name, tmp_path):
    data, change, words = MISTAKES[name]
    with pytest.raises(UserError) as error:
        labelled(tmp_path, change, **data)
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value).replace("Val.", ""))


def parquet(array) -> bytes:
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"image": array}), buffer)
    return buffer.getvalue().to_pybytes()


# Arrow writes and reads any bytes as text.
BYTES = pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff"))
WHOLE = parquet(pyarrow.array([f"images/{i}.png" for i in range(500)]))
# (file name, content, words of the message)
FILES = {
    "ragged": ("a.csv", b"image,colour\na.png,red\nb.png,red,\n", ["line 3", "3 cells", "2"]),
    "quote": ("a.csv", b'image,colour\na.png,"red\nb.png,red\n', ["line 3", "quotes"]),
    "not UTF-8": ("a.csv", b"image,colour\na.png,cr\xe8me\n", ["UTF-8", "byte"]),
    "empty": ("a.csv", b"", ["is empty"]),
    "no rows": ("a.csv", b"image,colour\n", ["no row"]),
    "same columns": ("a.csv", b"image,a,a\nx,y,z\n", ["two columns named 'a'"]),
    "nameless column": ("a.csv", b"image,\nx,y\n", ["a column named ''"]),
    "no image column": (
        "a.csv",
        b"imag,colour\na.png,red\n",
        ["no column 'image' (did you mean imag?)", "imag, colour"],
    ),
    "empty Parquet": ("a.parquet", b"", ["cannot be read as Parquet"]),
    "zeros in Parquet": ("a.parquet", b"PAR1" + bytes(50), ["cannot be read as Parquet"]),
    "half a Parquet file": ("a.parquet", WHOLE[: len(WHOLE) // 2], ["cannot be read as Parquet"]),
    "a gap in Parquet": ("a.parquet", WHOLE[:500] + WHOLE[-300:], ["cannot be read as Parquet"]),
    "bytes for text": ("a.parquet", parquet(BYTES), ["cannot be read as Parquet", "utf-8"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_named(name, tmp_path):
    file, content, words = FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as error:
        table.read(config(tmp_path / file))
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value))


@pytest.mark.parametrize("path", ["", "absent.csv"])
def test_a_path_without_a_table_is_refused(path):
    with pytest.raises(UserError, match="not a file; give a CSV or Parquet table"):
        table.read(config(path))


def test_rows_are_counted_with_their_lines(tmp_path):
    """Cells of several lines and blank lines do not shift the count of lines."""
    path = tmp_path / "products.csv"
    path.write_bytes(b'\xef\xbb\xbfimage,text\r\na.png,"one\r\ntwo"\r\n\r\nb.png,x\r\n')
    columns = read_columns(path)
    assert columns.text == {"image": ["a.png", "b.png"], "text": ["one\r\ntwo", "x"]}
    assert columns.where(0).endswith("row 1 (line 2)") and columns.where(1).endswith("row 2 (line 5)")
    (tmp_path / "t.tsv").write_text("a\tb\n1,5\t2\n")
    assert read_columns(tmp_path / "t.tsv").text == {"a": ["1,5"], "b": ["2"]}


OUTSIDE = ["../secret.png", "/etc/passwd", "images/../../secret.png", "link/secret.png", "link.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_path_that_leaves_the_folder_is_refused(name, whole, tmp_path):
    """Also through links, and also with skip_bad."""
    folder = shutil.copytree(whole.parent, tmp_path / "shop")
    shop.draw(tmp_path / "secret.png", 0, "boot", "red")
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    columns = shop.columns()
    columns["image"][4] = name
    path = shop.write(folder / "products.csv", columns)
    with pytest.raises(UserError, match=r"row 5 \(line 6\): image .* lies outside"):
        table.read(config(path, skip_bad=True))
    columns["image"][4] = str(folder / "images" / "004.jpg")  # absolute, inside the folder
    assert len(table.read(config(shop.write(path, columns))).ids) == 60


def test_bad_images_are_named_by_row_or_skipped(whole, whole_rows, tmp_path, capsys):
    """The error names row, file and reason of the first, and counts the others. With skip_bad they are left out."""
    folder = shutil.copytree(whole.parent, tmp_path / "shop")
    path, columns = folder / "products.csv", shop.columns()
    (folder / columns["image"][4]).unlink()
    jpeg = folder / columns["image"][7]
    jpeg.write_bytes(jpeg.read_bytes()[:-200])
    columns["image"][9] = ""
    shop.write(path, columns | {"id": [f"n{i}" for i in range(60)]})
    with pytest.raises(UserError) as error:
        table.read(config(path))
    message = str(error.value)
    assert "row 5 (line 6): image 'images/004.jpg' is missing; 2 more" in message and "data.skip_bad=True" in message
    assert tiny.is_one_sentence(message)
    lines = capsys.readouterr().err
    assert "row 8 (line 9): image 'images/007.jpg' is truncated" in lines
    assert "row 10 (line 11): no image is named" in lines
    rows = table.read(config(path, skip_bad=True))
    kept = [i for i in range(60) if i not in (4, 7, 9)]
    assert rows.ids.tolist() == [f"n{i}" for i in kept] and len(rows.inputs) == len(rows.together) == 57
    assert rows.labels["colour"].tolist() == [columns["colour"][i] for i in kept]
    assert sum("left out" in note for note in rows.notes) == 4
    assert "left out 3 of 60 rows without usable images" in rows.notes
    np.testing.assert_array_equal(rows.inputs, whole_rows.inputs[kept])


def test_a_table_without_readable_images_is_refused(tmp_path):
    path = shop.write(tmp_path / "products.csv", {"image": ["a.png", "b.png"], "colour": ["red", "red"], "n": [1, 2]})
    with pytest.raises(UserError, match=r"none of the 2 images can be read; .*row 1 \(line 2\).* is missing"):
        table.read(config(path, skip_bad=True, conditions=("n",)))


def test_one_mean_gives_grey_images(whole):
    grey = dataclasses.replace(config(whole), preprocess=PreprocessConfig(size=16))
    assert table.read(grey).inputs.shape == (60, 16, 16, 1)
