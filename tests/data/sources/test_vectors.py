"""Feature vectors of a table: a Parquet column, an .npy or an .npz file."""

import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import shop
import tiny

from csn_jax.config import Config, DataConfig
from csn_jax.data.columns import read_columns
from csn_jax.data.item_set import ItemSet
from csn_jax.data.sources import table
from csn_jax.data.sources.vectors import read_vectors
from csn_jax.errors import UserError

N, F = 60, 12
VECTORS = shop.vectors(shop.columns())


def read(columns, skip_bad=False, **settings):
    """The vectors [K, F]. As in training, a row without a usable vector is an error, unless skip_bad."""
    found = read_vectors(columns, DataConfig(**settings), columns.text["id"])
    for row, fault in enumerate(found.faults):
        if fault and not skip_bad:
            raise UserError(f"{columns.where(row)} {fault}; remove it.")
    return found.values


def from_parquet(folder, column, name="vector"):
    pyarrow.parquet.write_table(
        pyarrow.table({"id": [str(i) for i in range(len(column))], "vector": column}),
        folder / "t.parquet",
        row_group_size=25,
    )
    return read(read_columns(folder / "t.parquet"), vectors=name)


@pytest.fixture
def csv(tmp_path):
    return read_columns(shop.write(tmp_path / "products.csv", {"id": [str(i) for i in range(N)]}))


def beside(csv, name="v.npy"):
    return read(csv, vectors=name)


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.list_(pyarrow.float32()),
        pyarrow.list_(pyarrow.float32(), F),
        pyarrow.list_(pyarrow.float64()),
        pyarrow.large_list(pyarrow.float16()),
    ],
    ids=str,
)
def test_a_parquet_column(tmp_path, kind):
    """Lists and fixed-size lists of any float, over several row groups; float16 stays so, and has half the size."""
    expected = VECTORS.astype(np.float16) if "half" in str(kind) else VECTORS
    vectors = from_parquet(tmp_path, pyarrow.array(list(expected.astype(kind.value_type.to_pandas_dtype())), kind))
    assert vectors.dtype == expected.dtype and vectors.shape == (N, F)
    np.testing.assert_array_equal(vectors, expected)


def test_files_beside_the_table(csv):
    """An .npy file of float32 or float16 is memory-mapped. An .npz file may hold ids, by which vectors are ordered."""
    folder = csv.path.parent
    np.save(folder / "v.npy", VECTORS)
    vectors = beside(csv)
    assert isinstance(vectors, np.memmap)
    np.testing.assert_array_equal(vectors, VECTORS)
    np.save(folder / "v.npy", VECTORS.astype(np.float16))
    halves = beside(csv)
    assert isinstance(halves, np.memmap) and halves.dtype == np.float16
    np.testing.assert_array_equal(halves, VECTORS.astype(np.float16))
    np.save(folder / "v.npy", VECTORS.astype(np.float64))
    np.testing.assert_array_equal(beside(csv), VECTORS)
    assert beside(csv).dtype == np.float32
    with open(folder / "v.npz", "wb") as file:  # an .npy file named .npz
        np.save(file, VECTORS)
    np.testing.assert_array_equal(beside(csv, "v.npz"), VECTORS)
    order = np.random.default_rng(0).permutation(N)
    more = np.concatenate([VECTORS, VECTORS[:5]])
    names = np.array([*csv.text["id"], *"abcde"])
    order = np.append(order, np.arange(N, N + 5))
    np.savez(folder / "v.npz", vectors=more[order], ids=names[order], other=np.zeros((2, 2)))
    np.testing.assert_array_equal(beside(csv, "v.npz"), VECTORS)


def test_vectors_of_16_bits_are_never_copied_to_32(tmp_path):
    """From file to items, a table of float16 takes the room of its vectors (Parquet) or none (a memory map), and gives
    the digest of the same table in float32: runs from before can be resumed."""
    n, width = 1000, 2048
    vectors = np.random.default_rng(0).integers(-99, 99, (n, width)).astype(np.float16)
    names, digests = {"id": [str(i) for i in range(n)], "colour": ["red", "blue"] * (n // 2)}, set()
    for dtype in (np.float16, np.float32):
        flat = pyarrow.array(vectors.astype(dtype).ravel())
        lists = pyarrow.FixedSizeListArray.from_arrays(flat, width)
        file, beside = (tmp_path / f"{dtype.__name__}.{kind}" for kind in ("parquet", "npy"))
        pyarrow.parquet.write_table(pyarrow.table(names | {"vector": lists}), file, row_group_size=400)
        np.save(beside, vectors.astype(dtype))
        for source in ("vector", beside.name):
            tracemalloc.start()
            rows = table.read(Config(data=DataConfig(source="table", path=str(file), vectors=source)))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert rows.inputs.dtype == dtype and isinstance(rows.inputs, np.memmap) == (source != "vector")
            np.testing.assert_array_equal(rows.inputs, vectors)
            assert peak < (rows.inputs.nbytes if source == "vector" else 0) + vectors.nbytes
            items = ItemSet(rows.inputs, rows.ids, rows.labels, np.full(n, "train"), rows.conditions)
            digests.add(items.digest())
    assert len(digests) == 1


def spoilt(change):
    vectors = [list(map(float, row)) for row in VECTORS]
    change(vectors)
    return pyarrow.array(vectors, pyarrow.list_(pyarrow.float32()))


# (column of the Parquet file, name in config.data.vectors, words of the message)
COLUMNS = {
    "unequal": (lambda: spoilt(lambda v: v[8].pop()), "vector", ["row 9", "11 numbers", "12"]),
    "missing": (lambda: spoilt(lambda v: v.__setitem__(8, None)), "vector", ["row 9", "no vector"]),
    "empty": (lambda: spoilt(lambda v: v.__setitem__(8, [])), "vector", ["row 9", "no vector"]),
    "NaN": (lambda: spoilt(lambda v: v[8].__setitem__(3, float("nan"))), "vector", ["row 9", "NaN or infinity"]),
    "too large for float32": (
        lambda: [[1.0] * F] * 8 + [[1e300] * F] + [[1.0] * F] * 51,
        "vector",
        ["row 9", "NaN or infinity"],
    ),
    "too large to square": (lambda: spoilt(lambda v: v[8].__setitem__(3, 1e30)), "vector", ["row 9", "beyond 1e+15"]),
    "infinite": (lambda: spoilt(lambda v: v[8].__setitem__(3, float("inf"))), "vector", ["row 9", "NaN or infinity"]),
    "null": (lambda: spoilt(lambda v: v[8].__setitem__(3, None)), "vector", ["row 9", "NaN or infinity"]),
    "all empty": (
        lambda: spoilt(lambda v: v.__setitem__(slice(None), [[]] * N)),
        "vector",
        ["row 1", "no vector"],
    ),
    "no column": (lambda: list(VECTORS), "vectr", ["no column 'vectr' (did you mean vector?)", "config.data.vectors"]),
    "texts": (lambda: ["a"] * N, "vector", ["column 'vector'", "such as 'a'", "list of numbers"]),
    "matrices": (
        lambda: [[[1.0, 2.0], [3.0, 4.0]]] * N,
        "vector",
        ["column 'vector'", "list<element: list<element: double>>", "list of numbers"],
    ),
    "bytes": (lambda: [b"abcd"] * N, "vector", ["column 'vector'", "binary", "list of numbers"]),
    "cut by NumPy": (
        lambda: ["[1 2 3]"] * 8 + ["[1 ... 3]"] + ["[1 2 3]"] * 51,
        "vector",
        ["row 9", "cut or not made of numbers, '[1 ... 3]'"],
    ),
    "a list of another length as text": (
        lambda: ["[1, 2, 3]"] * 8 + ["[1, 2]"] + ["[1, 2, 3]"] * 51,
        "vector",
        ["row 9", "a vector of 2 numbers and the others have 3"],
    ),
}


@pytest.mark.parametrize("mistake", COLUMNS)
def test_a_bad_column_is_named(tmp_path, mistake):
    make, name, words = COLUMNS[mistake]
    with pytest.raises(UserError) as error:
        from_parquet(tmp_path, make(), name)
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value))


def cut(path):
    np.savez_compressed(path, vectors=VECTORS)
    path.write_bytes(path.read_bytes()[:700])


def overwritten(path):
    np.savez_compressed(path, vectors=VECTORS)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + b"\xff" * 50 + whole[250:])


def member_of_text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vectors.npy", b"not an array")


UNREADABLE = ["cannot be read as vectors"]
NAMES = np.array([*map(str, range(N - 1)), "x"])
# (name in config.data.vectors, what makes the file, words of the message)
FILES = {
    "absent": ("v.npy", lambda path: None, ["v.npy", "does not exist"]),
    "too few": ("v.npy", lambda path: np.save(path, VECTORS[:-1]), ["59 vectors", "60 rows"]),
    "one axis": ("v.npy", lambda path: np.save(path, VECTORS[0]), ["an array [12] of float32"]),
    "texts": ("v.npy", lambda path: np.save(path, np.full((N, 3), "a")), ["an array [60, 3] of <U1"]),
    "bfloat16": ("v.npy", lambda path: np.save(path, np.zeros((N, 3), "V2")), ["as NumPy writes bfloat16", "float32"]),
    "pickled": ("v.npy", lambda path: np.save(path, np.full((N, 3), None), allow_pickle=True), UNREADABLE),
    "no array": ("v.npy", lambda path: path.write_text("hello"), UNREADABLE),
    "empty": ("v.npy", lambda path: path.write_text(""), UNREADABLE),
    "open bracket": ("v.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x02\x00{\n"), UNREADABLE),
    "half": ("v.npy", lambda path: (np.save(path, VECTORS), path.write_bytes(path.read_bytes()[:900])), UNREADABLE),
    "NaN": (
        "v.npy",
        lambda path: np.save(path, np.where(np.arange(N)[:, None] == 7, np.nan, VECTORS)),
        ["row 8 (line 9)", "NaN or infinity"],
    ),
    "two arrays": ("v.npz", lambda path: np.savez(path, a=VECTORS, b=VECTORS), ["arrays a, b", "`vectors`"]),
    "another id": (
        "v.npz",
        lambda path: np.savez(path, vectors=VECTORS, ids=NAMES),
        ["row 60 (line 61)", "item '59'", "`ids`"],
    ),
    "half an archive": ("v.npz", cut, UNREADABLE),
    "overwritten archive": ("v.npz", overwritten, UNREADABLE),
    "member of text": ("v.npz", member_of_text, [*UNREADABLE, "member 'vectors' is not an array"]),
    "column of numbers": ("id", lambda path: None, ["column 'id'", "such as '0'", "list of numbers"]),
    "another file": ("v.pt", lambda path: path.write_bytes(b"PK"), ["v.pt is not an .npy or .npz file"]),
    "no ids": ("v.npz", lambda path: np.savez(path, vectors=VECTORS), ["no array `ids`", ".npy file", "row by row"]),
    "fewer ids": ("v.npz", lambda path: np.savez(path, vectors=VECTORS, ids=NAMES[1:]), ["60 vectors and 59 names"]),
    "names under another key": (
        "v.npz",
        lambda path: np.savez(path, embeddings=VECTORS, filenames=NAMES),
        ["no array `ids`", "embeddings and filenames", "--config.data.vector_ids=filenames"],
    ),
    "the same id twice": (
        "v.npz",
        lambda path: np.savez(path, vectors=VECTORS, ids=np.where(NAMES == "7", "4", NAMES)),
        ["two vectors of '4': 5 and 8 of `ids`"],
    ),
    "other ids": (
        "v.npz",
        lambda path: np.savez(path, vectors=VECTORS, ids=np.char.add("x", NAMES)),
        ["no item of", "names x0, and the table 0", "--config.data.id"],
    ),
    "ids as objects": (
        "v.npz",
        lambda path: np.savez(path, vectors=VECTORS, ids=NAMES.astype(object)),
        ["holds Python objects", "ids.astype(str)"],
    ),
    "no column of CSV": ("vector", lambda path: None, ["no column 'vector'"]),
}


@pytest.mark.parametrize("mistake", FILES)
def test_a_bad_file_is_named(csv, mistake):
    name, make, words = FILES[mistake]
    make(csv.path.parent / name)
    with pytest.raises(UserError) as error:
        beside(csv, name)
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value))


def test_equal_vectors_stay_together(tmp_path):
    vectors = VECTORS.copy()
    vectors[9] = vectors[4]
    np.save(tmp_path / "v.npy", vectors)
    path = shop.write(tmp_path / "products.csv", shop.columns())
    rows = table.read(Config(data=DataConfig(source="table", path=str(path), vectors="v.npy")))
    assert rows.together[9] == 4 and (np.delete(rows.together, 9) == np.delete(np.arange(N), 9)).all()
    assert any(
        "vectors that repeat an earlier one exactly: 1" in note and "images/004.jpg and images/009.png" in note
        for note in rows.notes
    )


def as_texts(spell):
    return [spell([f"{number!r}" for number in row]) for row in VECTORS.tolist()]


# Spellings of JSON, pgvector, PostgreSQL, Python, NumPy 1 and 2, PyTorch, R, spreadsheets and people.
TEXTS = {
    "JSON": lambda numbers: f"[{', '.join(numbers)}]",
    "pgvector": lambda numbers: f"[{','.join(numbers)}]",
    "PostgreSQL": lambda numbers: f"{{{','.join(numbers)}}}",
    "a tuple": lambda numbers: f"({', '.join(numbers)})",
    "NumPy": lambda numbers: f"[ {'  '.join(numbers[:6])}\n {' '.join(numbers[6:])}]",
    "NumPy 2": lambda numbers: f"[{', '.join(f'np.float32({number})' for number in numbers)}]",
    "an array": lambda numbers: f"array([{', '.join(numbers)}], dtype=float32)",
    "PyTorch": lambda numbers: f"tensor([{', '.join(numbers)}], device='cuda:0')",
    "R": lambda numbers: f"c({', '.join(numbers)})",
    "one row of a matrix": lambda numbers: f"[[{', '.join(numbers)}]]",
    "bare": lambda numbers: " ".join(numbers),
    "semicolons": lambda numbers: ";".join(numbers),
    "decimal commas": lambda numbers: "; ".join(numbers).replace(".", ","),
    "pipes": lambda numbers: "|".join(numbers),
}


@pytest.mark.parametrize("spelling", TEXTS)
def test_vectors_as_text(tmp_path, spelling):
    """In a CSV and in a Parquet file."""
    columns = {"id": [str(i) for i in range(N)], "vector": as_texts(TEXTS[spelling])}
    for name in ("t.csv", "t.parquet"):
        vectors = read(read_columns(shop.write(tmp_path / name, columns)), vectors="vector")
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, VECTORS)


def tensors(*shape):
    storage = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(VECTORS.ravel()), F)
    return pyarrow.ExtensionArray.from_storage(pyarrow.fixed_shape_tensor(pyarrow.float32(), shape), storage)


OTHER_LISTS = {
    "a view": lambda: pyarrow.array(VECTORS.tolist(), pyarrow.list_view(pyarrow.float32())),
    "a large view": lambda: pyarrow.array(VECTORS.tolist(), pyarrow.large_list_view(pyarrow.float64())),
    "tensors": lambda: tensors(F),
    "tensors of one row": lambda: tensors(1, F),
    "lists of one vector": lambda: pyarrow.array([[row] for row in VECTORS.tolist()]),
    "halves": lambda: pyarrow.array(list(VECTORS.astype("f2")), pyarrow.list_(pyarrow.float16(), F)),
    "decimals": lambda: pyarrow.array(VECTORS.tolist()).cast(pyarrow.list_(pyarrow.decimal128(38, 30))),
}


@pytest.mark.parametrize("kind", OTHER_LISTS)
def test_other_lists(tmp_path, kind):
    expected = VECTORS.astype("f2").astype("f4") if kind == "halves" else VECTORS
    np.testing.assert_array_equal(from_parquet(tmp_path, OTHER_LISTS[kind]()), expected)


def test_a_view_may_have_missing_vectors(tmp_path):
    """Arrow converts such views wrongly: they are read as they are."""
    rows = VECTORS.tolist()
    rows[3] = rows[40] = None
    rows[5] = rows[5][1:]
    column = pyarrow.array(rows, pyarrow.list_view(pyarrow.float32()))
    pyarrow.parquet.write_table(pyarrow.table({"id": list(map(str, range(N))), "v": column}), tmp_path / "t.parquet")
    vectors = read(read_columns(tmp_path / "t.parquet"), vectors="v", skip_bad=True)
    np.testing.assert_array_equal(vectors, np.delete(VECTORS, [3, 5, 40], axis=0))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    "spell, name",
    [
        ("dim_{}", "vector"),
        ("{}", "vector"),
        ("emb.{}", "emb"),
        ("x{:03}", "x"),
        ("feature[{}]", "feature"),
        ("dim_{}", "dim_"),
    ],
)
def test_one_column_per_dimension(tmp_path, suffix, spell, name):
    """In the order of their numbers, wherever they stand in the table; they are not attributes."""
    texts = [[f"{number!r}" for number in column] for column in VECTORS.T.tolist()]
    values = texts if suffix == "csv" else VECTORS.T.tolist()
    order = np.random.default_rng(0).permutation(F)
    columns = (
        {"id": [str(i) for i in range(N)]} | {spell.format(i): values[i] for i in order} | {"dim_x": ["a", "b"] * 30}
    )
    path = shop.write(tmp_path / f"t.{suffix}", columns | {"colour": ["red", "blue", "red"] * 20})
    np.testing.assert_array_equal(read(read_columns(path), vectors=name), VECTORS)
    rows = table.read(Config(data=DataConfig(source="table", path=str(path), vectors=name)))
    assert set(rows.labels) == {"dim_x", "colour"}
    assert any(f"the 12 columns {spell.format(0)} to {spell.format(11)}" in note for note in rows.notes)


def test_dimensions_with_a_gap_are_not_a_vector(tmp_path):
    """A column was lost: the numbers left are not taken for the whole vector."""
    left = {f"dim_{i}": column for i, column in enumerate(VECTORS.T.tolist()) if i != 1}
    columns = read_columns(shop.write(tmp_path / "t.parquet", {"id": [str(i) for i in range(N)]} | left))
    with pytest.raises(UserError, match="has no column 'vector'"):
        read_vectors(columns, DataConfig(vectors="vector"), columns.text["id"])


def test_columns_of_dimensions_in_a_spreadsheet_of_another_country(tmp_path):
    """Decimal commas; rows without numbers have no vector, those with a few have another length, words are bad."""
    texts = [[f"{number!r}".replace(".", ",") for number in column] for column in VECTORS.T.tolist()]
    for column in texts:
        column[4] = ""
    texts[2][7], texts[3][9] = "", "n.d."
    table_of = {"id": [str(i) for i in range(N)]} | {f"v{i}": column for i, column in enumerate(texts)}
    columns = read_columns(shop.write(tmp_path / "t.csv", table_of))
    found = read_vectors(columns, DataConfig(vectors="vector"), columns.text["id"])
    np.testing.assert_array_equal(found.values, np.delete(VECTORS, [4, 7, 9], axis=0))
    assert {row: fault for row, fault in enumerate(found.faults) if fault} == {
        4: "has no vector and the others have 12",
        7: "has a vector of 11 numbers and the others have 12",
        9: "has 'n.d.' in column 'v3', which is not a number",
    }


def test_other_names_of_the_column(tmp_path):
    """Only in place of the preset's name, and only one of them."""
    columns = {"id": [str(i) for i in range(N)], "embedding": as_texts(TEXTS["JSON"])}
    path = shop.write(tmp_path / "t.csv", columns)
    found = read_vectors(read_columns(path), DataConfig(vectors="vector"), columns["id"])
    np.testing.assert_array_equal(found.values, VECTORS)
    assert found.notes == ("vectors: the column embedding, as there is no column vector",)
    dims = {"id": columns["id"], "Emb_1": ["0.5"] * N, "Emb_2": ["2"] * N, "tag_1": ["1"] * N, "tag_2": ["3"] * N}
    few = read(read_columns(shop.write(tmp_path / "few.csv", dims)), vectors="vector")
    np.testing.assert_array_equal(few, [[0.5, 2]] * N)
    upper = shop.write(tmp_path / "upper.csv", {"id": columns["id"], "EMBEDDING": columns["embedding"]})
    np.testing.assert_array_equal(read(read_columns(upper), vectors="vector"), VECTORS)
    with pytest.raises(UserError, match="no column 'clip'"):
        read(read_columns(path), vectors="clip")
    path = shop.write(tmp_path / "t.csv", columns | {"embeddings": columns["embedding"]})
    with pytest.raises(UserError, match=r"several that may hold vectors: embedding, embeddings; .*vectors=embedding"):
        read(read_columns(path), vectors="vector")
    dims = {f"{prefix}{i}": ["0.5"] * N for prefix in ("a_", "b_") for i in range(9)}
    path = shop.write(tmp_path / "t.csv", {"id": columns["id"]} | dims)
    with pytest.raises(UserError, match=r"a_0 to a_8, b_0 to b_8; name one with --config.data.vectors=a\."):
        read(read_columns(path), vectors="vector")


def test_names_in_an_archive(csv):
    """Bytes and numbers name items as text does. What the table does not name is counted."""
    for names in (np.array(csv.text["id"]).astype("S"), np.arange(N), np.array(csv.text["id"])[:, None]):
        order = np.random.default_rng(0).permutation(N)
        np.savez(
            csv.path.parent / "v.npz",
            emb=np.concatenate([VECTORS[order], VECTORS[:2]]),
            sku=np.concatenate([names[order], names[:2]]),
        )
        with pytest.raises(UserError, match="two vectors of"):
            read(csv, vectors="v.npz", vector_ids="sku")
        np.savez(csv.path.parent / "v.npz", emb=VECTORS[order], sku=names[order])
        np.testing.assert_array_equal(read(csv, vectors="v.npz", vector_ids="sku"), VECTORS)
    np.savez(csv.path.parent / "v.npz", emb=VECTORS[5:], ids=np.arange(5, N))
    found = read_vectors(csv, DataConfig(vectors="v.npz"), csv.text["id"])
    np.testing.assert_array_equal(found.values, VECTORS[5:])
    assert found.faults[0].startswith("has no vector: item '0'") and found.faults[5:] == [None] * 55
    assert found.notes == ("vectors: by the array ids of v.npz",)
    np.savez(csv.path.parent / "v.npz", emb=np.tile(VECTORS, (2, 1)), ids=np.arange(2 * N))
    found = read_vectors(csv, DataConfig(vectors="v.npz"), csv.text["id"])
    assert found.notes[1] == "60 vectors of v.npz belong to no row of the table"
    np.save(csv.path.parent / "v.npy", VECTORS)
    notes = read_vectors(csv, DataConfig(vectors="v.npy"), csv.text["id"]).notes
    assert notes == ("vectors: row by row from v.npy, which names no items",)


def test_rows_without_a_vector_are_left_out_and_counted(tmp_path):
    """Or refused with the first of them. Labels and ids stay with their vectors."""
    columns = {
        "id": [f"p{i}" for i in range(N)],
        "colour": ["red", "blue", "red"] * 20,
        "vector": as_texts(TEXTS["JSON"]),
    }
    columns["vector"][3], columns["vector"][9] = "", columns["vector"][9].replace("]", ", 1]")
    columns["vector"][11] = TEXTS["JSON"](["nan"] * F)
    config = Config(
        data=DataConfig(source="table", path=str(shop.write(tmp_path / "t.csv", columns)), vectors="vector")
    )
    with pytest.raises(
        UserError, match=r"row 4 \(line 5\) has no vector and the others have 12; 2 more cannot be read"
    ):
        table.read(config)
    rows = table.read(replace(config, data=replace(config.data, skip_bad=True)))
    kept = np.delete(np.arange(N), [3, 9, 11])
    np.testing.assert_array_equal(rows.inputs, VECTORS[kept])
    assert rows.ids.tolist() == [f"p{i}" for i in kept]
    assert rows.labels["colour"].tolist() == [columns["colour"][i] for i in kept]
    assert "left out 3 of 60 rows without usable vectors" in rows.notes
    assert any("row 12 (line 13) has NaN or infinity in its vector" in note for note in rows.notes)
