"""Tables of other programs as an index: what their vectors are taken for, and what is refused."""

import dataclasses
import json

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
import tiny
from test_cli import assert_message, run

import csn_jax
from csn_jax import embed, search
from csn_jax.errors import UserError
from csn_jax.store.index import Index
from csn_jax.store.int8 import rounded
from csn_jax.store.vector_file import ForeignFile, read_embeddings, write_embeddings


@pytest.fixture(scope="module")
def model(shop_runs):
    """It takes 12 numbers and gives 6."""
    return csn_jax.load(shop_runs / "vectors")


@pytest.fixture(scope="module")
def stored(shop_runs, tmp_path_factory):
    """The file that embed wrote."""
    out = tmp_path_factory.mktemp("stored") / "e.parquet"
    embed.main([f"--workdir={shop_runs / 'vectors'}", f"--table={shop_runs / 'products.parquet'}", f"--out={out}"])
    return out


def hits_of(index: Index, item: str = "images/007.jpg") -> list[str]:
    return index.search(item, {"colour": 1, "category": 0.5}, 5)[0].tolist()


def ours(path) -> pyarrow.Table:
    return pyarrow.parquet.read_table(path)


def without_metadata(table: pyarrow.Table) -> pyarrow.Table:
    """As pandas, Polars and DuckDB write it: lists of any length, large texts, no metadata of others."""
    columns = {name: table[name] for name in table.column_names}
    columns["vector"] = table["vector"].cast(pyarrow.list_(pyarrow.float64()))
    return pyarrow.table(columns | {"id": table["id"].cast(pyarrow.large_string())})


def texts(table: pyarrow.Table) -> pyarrow.Array:
    return pyarrow.array([str(row) for row in table["vector"].to_pylist()])


def dimensions(table: pyarrow.Table) -> pyarrow.Table:
    """One column per dimension."""
    rows = np.array(table["vector"].to_pylist())
    others = {name: table[name] for name in table.column_names if name != "vector"}
    return pyarrow.table(others | {f"vector_{i}": rows[:, i] for i in range(6)})


CHANGES = {
    "no metadata": without_metadata,
    "rows filtered, metadata kept": lambda table: table.filter(pyarrow.compute.not_equal(table["product"], "p9")),
    "float16": lambda table: table.set_column(
        table.column_names.index("vector"), "vector", table["vector"].cast(pyarrow.list_(pyarrow.float16(), 6))
    ).replace_schema_metadata(None),
    "text, as in pgvector": lambda table: (
        table.drop_columns(["vector"]).append_column("vector", texts(table)).replace_schema_metadata(None)
    ),
    "a column per dimension": lambda table: dimensions(table),
    "called embedding": lambda table: without_metadata(table).rename_columns(
        [{"vector": "embedding"}.get(name, name) for name in without_metadata(table).column_names]
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_index_is_searched_under_the_masks_of_the_run(change, stored, model, shop_runs, tmp_path, capsys):
    """By its path, as a table in memory and by the command, with the hits of the whole file among the rows left."""
    table = CHANGES[change](ours(stored))
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet")
    whole = Index.open(stored)
    left = set(table["id"].to_pylist())
    expected = [
        item for item in whole.search("images/007.jpg", {"colour": 1, "category": 0.5}, 60)[0].tolist() if item in left
    ]
    for index in (Index.from_table(tmp_path / "f.parquet", model), Index.from_table(table, model)):
        tolerance = 1e-2 if change == "float16" else 1e-6
        np.testing.assert_allclose(
            index.vectors, [whole.vectors[whole.row(item)] for item in index.ids], tolerance, 1e-3
        )
        assert change == "float16" or hits_of(index) == expected[:5]
        assert index.columns["price"].tolist() == table["price"].to_pylist()
    capsys.readouterr()
    argv = (f"--index={tmp_path / 'f.parquet'}", "--id=images/007.jpg", "--condition", "colour", "category=0.5")
    search.main([*argv, "--k=5", f"--workdir={shop_runs / 'vectors'}", "--json"])
    printed = capsys.readouterr()
    assert change == "float16" or [hit["id"] for hit in json.loads(printed.out)["hits"]] == expected[:5]
    assert "6 numbers per vector, taken as embeddings" in printed.err


def test_raw_vectors_are_embedded_by_the_run(stored, model, shop_runs, tmp_path, monkeypatch, capsys):
    """The shop's own table: 12 numbers per vector; the hits and a query vector are those of the file of embed."""
    table, workdir = shop_runs / "products.parquet", f"--workdir={shop_runs / 'vectors'}"
    raw = pyarrow.parquet.read_table(table).rename_columns(
        [{"image": "id"}.get(name, name) for name in pyarrow.parquet.read_table(table).column_names]
    )
    index, whole = Index.from_table(raw, model), Index.open(stored)
    np.testing.assert_allclose(index.vectors, whole.vectors, rtol=1e-5, atol=1e-6)
    assert index.columns["tags"].tolist() == whole.columns["tags"].tolist() and hits_of(index) == hits_of(whole)
    pyarrow.parquet.write_table(raw, tmp_path / "raw.parquet")
    np.save(tmp_path / "v.npy", np.array(raw["vector"][7].as_py()))
    query = (f"--vector={tmp_path / 'v.npy'}", "--condition=colour", "--k=3", "--json")
    answers = []
    for file in (tmp_path / "raw.parquet", stored):
        capsys.readouterr()
        search.main([f"--index={file}", workdir, *query])
        answers.append(json.loads(capsys.readouterr().out)["hits"])
    assert [hit["id"] for hit in answers[0]] == [hit["id"] for hit in answers[1]]
    assert answers[0][0]["id"] == "images/007.jpg" and answers[0][0]["distance"] < 1e-4
    pyarrow.csv.write_csv(raw.drop_columns(["vector"]).append_column("vector", texts(raw)), tmp_path / "raw.csv")
    for file in (table, tmp_path / "raw.csv"):  # the pictures' paths are ids where there is no id
        capsys.readouterr()
        search.main([f"--index={file}", workdir, "--id=images/007.jpg", "--condition=colour", "--json"])
        answer = json.loads(capsys.readouterr().out)
        assert [hit["id"] for hit in answer["hits"]][:5] == whole.search("images/007.jpg", "colour", 5)[0].tolist()
    argv = (f"--index={tmp_path / 'raw.parquet'}", "--id=images/007.jpg", "--condition=colour")
    assert_message(
        *run(search, monkeypatch, capsys, *argv), 2, "not written by csn_jax embed", "--workdir", "from_table"
    )


def test_where_inputs_and_embeddings_are_equally_wide_the_metadata_decide(model, shop_runs):
    """Without them, vectors are inputs: a doubt that the notes tell."""
    from csn_jax.config import DataConfig
    from csn_jax.store.foreign import embeddings_of, table_of

    square = dataclasses.replace(model, masks=np.ones((2, 12), np.float32), _width=12)
    rows = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    table = pyarrow.table({"id": list("abcd"), "vector": list(rows)})
    items, notes = embeddings_of(table_of(table), square, DataConfig(vectors="vector"))
    np.testing.assert_allclose(items.vectors, model.embed(rows), rtol=1e-6)
    assert "taken as inputs of the model and embedded; if they are embeddings" in notes[-1]
    head = {"conditions": [{"name": "colour"}], "model_sha256": model.sha256}
    marked = table.replace_schema_metadata({"csn_jax": json.dumps(head)})
    items, notes = embeddings_of(table_of(marked), square, DataConfig(vectors="vector"))
    np.testing.assert_array_equal(items.vectors, rows)
    assert "taken as embeddings" in notes[-1]


@pytest.mark.parametrize(("image", "found"), [("", True), ("photo", True), ("gone", False)])
def test_pictures_are_where_embed_noted_them(image, found):
    """Also for a file of features, which is no index of its own."""
    from csn_jax.config import DataConfig
    from csn_jax.store.foreign import embeddings_of, table_of

    where = {"kind": "folder", "root": "photos"} | ({"image": image} if image else {})
    table = pyarrow.table({"id": ["a", "b"], "photo": ["a.jpg", "b.jpg"], "vector": [[1.0, 2.0], [3.0, 4.0]]})
    head = {"conditions": [], "model_sha256": "0", "pictures": where}
    marked = table.replace_schema_metadata({"csn_jax": json.dumps(head)})
    items, _ = embeddings_of(table_of(marked), None, DataConfig(vectors="vector"))
    assert items.pictures == (where if found else {})
    assert embeddings_of(table_of(table), None, DataConfig(vectors="vector"))[0].pictures == {}


def test_a_filtered_file_of_int8_keeps_its_scale(stored, model, tmp_path):
    """As long as it keeps the metadata."""
    items = read_embeddings(stored)
    vectors, scale = rounded(items.vectors.copy())
    write_embeddings(tmp_path / "e.parquet", items._replace(vectors=vectors, scale=scale))
    half = pyarrow.parquet.read_table(tmp_path / "e.parquet").slice(0, 30)
    np.testing.assert_array_equal(Index.from_table(half, model).vectors, vectors[:30])
    pyarrow.parquet.write_table(half, tmp_path / "half.parquet")
    with pytest.raises(UserError, match=r"changed by another program .* \(it has 30 rows and had 60\); .*--workdir"):
        Index.open(tmp_path / "half.parquet")
    pyarrow.parquet.write_table(half.drop_columns(["price", "id"]), tmp_path / "half.parquet")
    with pytest.raises(UserError, match=r"it lacks id, price"):
        Index.open(tmp_path / "half.parquet")
    with pytest.raises(UserError, match="without their scale"):
        Index.from_table(half.replace_schema_metadata(None), model)


def test_a_file_that_was_sorted_or_edited_is_not_called_damaged(stored, model, tmp_path):
    """pyarrow keeps the metadata, so the rows do not match the digest; with the model the rows of now are searched."""
    table, path = pyarrow.parquet.read_table(stored), tmp_path / "e.parquet"
    lists = pyarrow.array(table["vector"].to_pylist(), pyarrow.list_(pyarrow.float64()))
    place = table.schema.get_field_index("vector")
    for changed in (table.sort_by([("id", "descending")]), table.set_column(place, "vector", lists)):
        pyarrow.parquet.write_table(changed, path)
        with pytest.raises(ForeignFile, match="changed by another program .*--workdir"):
            Index.open(path)
        index = Index.from_table(path, model)
        assert index.ids.tolist() == changed["id"].to_pylist()
        np.testing.assert_allclose(index.vectors, np.array(changed["vector"].to_pylist()), rtol=1e-6)


def test_rows_without_a_vector_are_left_out_and_named(model):
    from csn_jax.config import DataConfig
    from csn_jax.store.foreign import embeddings_of, table_of

    vectors = [[float(i)] * 6 for i in range(4)]
    table = pyarrow.table(
        {"id": list("abcd"), "colour": list("rgbw"), "vector": [vectors[0], None, [np.nan] * 6, vectors[3]]}
    )
    items, notes = embeddings_of(table_of(table), model, DataConfig(vectors="vector"))
    assert items.ids.tolist() == ["a", "d"] and items.columns["colour"].tolist() == ["r", "w"]
    assert [note.split(",")[0] for note in notes[:2]] == ["left out b", "left out c"]


def of(**columns) -> pyarrow.Table:
    return pyarrow.table({"id": ["a", "b"], "vector": [[0.0] * 6, [1.0] * 6]} | columns)


WRONG = {
    "no id": (lambda: of().drop_columns(["id"]), ["no column 'id'", "vector"]),
    "no vector": (lambda: of().drop_columns(["vector"]), ["no column 'vector'"]),
    "ids twice": (lambda: of(id=["a", "a"]), ["row 2", "'a'", "differ"]),
    "another width": (lambda: of(vector=[[0.0] * 5] * 2), ["vectors of 5 numbers", "takes 12 and gives 6"]),
    "int8 without its scale": (
        lambda: of(vector=pyarrow.array([[1] * 6] * 2, pyarrow.list_(pyarrow.int8()))),
        ["--dtype=int8", "scale"],
    ),
    "no row": (lambda: of().slice(0, 0), ["no row"]),
    "no usable vector": (
        lambda: of(vector=pyarrow.array([None, None], pyarrow.list_(pyarrow.float32()))),
        ["no usable vector"],
    ),
    "another type": (lambda: 5, ["the table is a int", "pandas, Polars"]),
    "another model": (
        lambda: of().replace_schema_metadata({"csn_jax": json.dumps({"conditions": [1], "model_sha256": "beef"})}),
        ["another model (beef)"],
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes(mistake, model):
    table, words = WRONG[mistake]
    with pytest.raises(UserError) as error:
        Index.from_table(table(), model)
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value).removesuffix("."))


def test_an_index_as_a_table(stored, model):
    """`to_arrow` gives what the file has, and `from_table` takes it back."""
    index = Index.open(stored)
    table = index.to_arrow()
    assert table["vector"].type == pyarrow.list_(pyarrow.float32(), 6)
    assert table["category"].to_pylist() == [value or None for value in index.columns["category"].tolist()]
    assert table["category"].null_count and table.column_names[-1] == "vector"
    back = Index.from_table(table, model)
    np.testing.assert_array_equal(back.vectors, index.vectors)
    assert hits_of(back) == hits_of(index) and back.conditions == index.conditions
