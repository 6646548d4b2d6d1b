"""Feature vectors of a table: a Parquet column, an .npy or an .npz file."""

import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import shop
import tiny

from csn_jax.config import Config, DataConfig
from csn_jax.data.columns import read_columns
from csn_jax.data.sources import table
from csn_jax.data.sources.vectors import read_vectors
from csn_jax.errors import UserError

N, F = 60, 12
VECTORS = shop.vectors(shop.columns())


def from_parquet(folder, column, name="vector"):
    pyarrow.parquet.write_table(
        pyarrow.table({"id": [str(i) for i in range(len(column))], "vector": column}),
        folder / "t.parquet",
        row_group_size=25,
    )
    return read_vectors(read_columns(folder / "t.parquet"), name, [str(i) for i in range(len(column))])


@pytest.fixture
def csv(tmp_path):
    return read_columns(shop.write(tmp_path / "products.csv", {"id": [str(i) for i in range(N)]}))


def beside(csv, name="v.npy"):
    return read_vectors(csv, name, csv.text["id"])


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
    """Lists and fixed-size lists of any float, over several row groups."""
    expected = VECTORS.astype(np.float16) if "half" in str(kind) else VECTORS
    vectors = from_parquet(tmp_path, pyarrow.array(list(expected.astype(kind.value_type.to_pandas_dtype())), kind))
    assert vectors.dtype == np.float32 and vectors.shape == (N, F)
    np.testing.assert_array_equal(vectors, expected.astype(np.float32))


def test_files_beside_the_table(csv):
    """A float32 .npy file is memory-mapped. An .npz file may hold ids, which give the order of its vectors."""
    folder = csv.path.parent
    np.save(folder / "v.npy", VECTORS)
    vectors = beside(csv)
    assert isinstance(vectors, np.memmap)
    np.testing.assert_array_equal(vectors, VECTORS)
    np.save(folder / "v.npy", VECTORS.astype(np.float64))
    np.testing.assert_array_equal(beside(csv), VECTORS)
    assert beside(csv).dtype == np.float32
    np.savez(folder / "v.npz", anything=VECTORS)
    np.testing.assert_array_equal(beside(csv, "v.npz"), VECTORS)
    with open(folder / "v.npz", "wb") as file:  # an .npy file named .npz
        np.save(file, VECTORS)
    np.testing.assert_array_equal(beside(csv, "v.npz"), VECTORS)
    order = np.random.default_rng(0).permutation(N)
    more = np.concatenate([VECTORS, VECTORS[:5]])
    names = np.array([*csv.text["id"], *"abcde"])
    order = np.append(order, np.arange(N, N + 5))
    np.savez(folder / "v.npz", vectors=more[order], ids=names[order], other=np.zeros((2, 2)))
    np.testing.assert_array_equal(beside(csv, "v.npz"), VECTORS)


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
    "infinite": (lambda: spoilt(lambda v: v[8].__setitem__(3, float("inf"))), "vector", ["row 9", "NaN or infinity"]),
    "null": (lambda: spoilt(lambda v: v[8].__setitem__(3, None)), "vector", ["row 9", "NaN or infinity"]),
    "all empty": (
        lambda: spoilt(lambda v: v.__setitem__(slice(None), [[]] * N)),
        "vector",
        ["row 1", "no vector"],
    ),
    "no column": (lambda: list(VECTORS), "vectr", ["no column 'vectr' (did you mean vector?)", "config.data.vectors"]),
    "texts": (lambda: ["a"] * N, "vector", ["column 'vector'", "string", "list of numbers"]),
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
    "column of CSV": ("id", lambda path: None, ["CSV", "Parquet"]),
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
