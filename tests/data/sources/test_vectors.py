"""Feature vectors of a table."""

import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import shop
import tiny

from csn_jax.config import DataConfig
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
    wanted = VECTORS.astype(np.float16) if "half" in str(kind) else VECTORS
    found = from_parquet(tmp_path, pyarrow.array(list(wanted.astype(kind.value_type.to_pandas_dtype())), kind))
    assert found.dtype == np.float32 and found.shape == (N, F)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_files_beside_the_table(csv):
    """npy memory-mapped; other floats and npz in memory; npz by the items' ids where it names them."""
    folder = csv.path.parent
    np.save(folder / "v.npy", VECTORS)
    found = beside(csv)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, VECTORS)
    np.save(folder / "v.npy", VECTORS.astype(np.float64))
    np.testing.assert_array_equal(beside(csv), VECTORS)
    assert beside(csv).dtype == np.float32
    np.savez(folder / "v.npz", anything=VECTORS)
    np.testing.assert_array_equal(beside(csv, "v.npz"), VECTORS)
    order = np.random.default_rng(0).permutation(N)
    more = np.concatenate([VECTORS, VECTORS[:5]])
    names = np.array([*csv.text["id"], *"abcde"])
    order = np.append(order, np.arange(N, N + 5))
    np.savez(folder / "v.npz", vectors=more[order], ids=names[order], other=np.zeros((2, 2)))
    np.testing.assert_array_equal(beside(csv, "v.npz"), VECTORS)


def broken(change):
    vectors = [list(map(float, row)) for row in VECTORS]
    change(vectors)
    return vectors


COLUMNS = {
    "unequal": (lambda v: v[8].pop(), ["row 9 has a vector of 11 numbers", "others have 12"]),
    "missing": (lambda v: v.__setitem__(8, None), ["row 9 has no vector"]),
    "empty": (lambda v: v.__setitem__(8, []), ["row 9 has no vector"]),
    "NaN": (lambda v: v[8].__setitem__(3, float("nan")), ["row 9", "NaN or infinity"]),
    "infinite": (lambda v: v[8].__setitem__(3, float("inf")), ["row 9", "NaN or infinity"]),
    "null": (lambda v: v[8].__setitem__(3, None), ["row 9", "NaN or infinity"]),
    "all empty": (lambda v: v.__setitem__(slice(None), [[]] * N), ["row 1 has no vector"]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_bad_vector_is_told_by_row(tmp_path, name):
    change, parts = COLUMNS[name]
    column = pyarrow.array(broken(change), pyarrow.list_(pyarrow.float32()))
    with pytest.raises(UserError) as error:
        from_parquet(tmp_path, column)
    assert all(part in str(error.value) for part in parts), error.value
    assert tiny.is_one_sentence(str(error.value))


def test_other_mistakes_are_told(tmp_path, csv):
    with pytest.raises(UserError, match=r"no column 'vectr' \(did you mean vector\?\)"):
        from_parquet(tmp_path, list(VECTORS), "vectr")
    with pytest.raises(UserError, match="column 'vector' .* holds string.*list of numbers"):
        from_parquet(tmp_path, ["a"] * N)
    with pytest.raises(UserError, match="no column 'vector'"):
        beside(csv, "vector")
    with pytest.raises(UserError, match="column of the CSV file.*Parquet"):
        beside(csv, "id")
    with pytest.raises(UserError, match="v.npy, which is not there"):
        beside(csv)


FILES = {
    "too few": (lambda path: np.save(path, VECTORS[:-1]), "has 59 vectors and .* 60 rows"),
    "one axis": (lambda path: np.save(path, VECTORS[0]), r"an array \[12\] of float32"),
    "texts": (lambda path: np.save(path, np.full((N, 3), "a")), r"an array \[60, 3\] of <U1"),
    "pickled": (lambda path: np.save(path, np.full((N, 3), None), allow_pickle=True), "cannot be read as vectors"),
    "no array": (lambda path: path.write_text("hello"), "cannot be read as vectors"),
    "empty": (lambda path: path.write_text(""), "cannot be read as vectors"),
    "an open bracket": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x02\x00{\n"), "cannot be read as vectors"),
    "half": (lambda path: (np.save(path, VECTORS), path.write_bytes(path.read_bytes()[:900])), "cannot be read as"),
    "NaN": (lambda path: np.save(path, np.where(np.arange(N)[:, None] == 7, np.nan, VECTORS)), r"row 8 \(line 9\)"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_one_sentence(csv, name):
    make, expected = FILES[name]
    make(csv.path.parent / "v.npy")
    with pytest.raises(UserError, match=expected) as error:
        beside(csv)
    assert tiny.is_one_sentence(str(error.value))


def test_bad_archives(csv):
    path = csv.path.parent / "v.npz"
    np.savez(path, a=VECTORS, b=VECTORS)
    with pytest.raises(UserError, match="holds the arrays a, b; name the one of vectors `vectors`"):
        beside(csv, "v.npz")
    with open(path, "wb") as file:
        np.save(file, VECTORS)
    np.testing.assert_array_equal(beside(csv, "v.npz"), VECTORS)
    np.savez(path, vectors=VECTORS, ids=np.array([*csv.text["id"][:-1], "x"]))
    with pytest.raises(UserError, match=r"row 60 \(line 61\): item '59'.* has no vector"):
        beside(csv, "v.npz")
    np.savez_compressed(path, vectors=VECTORS)
    whole = path.read_bytes()
    for damaged in (whole[:700], whole[:200] + b"\xff" * 50 + whole[250:]):  # cut, and not to be inflated
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as vectors"):
            beside(csv, "v.npz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vectors.npy", b"no array")
    with pytest.raises(UserError, match="member 'vectors' is no array"):
        beside(csv, "v.npz")


def test_equal_vectors_are_kept_together(tmp_path):
    """Rows of the table source say which items may not straddle splits."""
    from csn_jax.config import Config

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
