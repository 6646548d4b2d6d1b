"""Files of vectors: they round-trip, other readers understand them, and damage is detected."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import tiny

from csn_jax.config import Config, DataConfig
from csn_jax.data.sources import table
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition
from csn_jax.store import vector_file as module
from csn_jax.store.int8 import rounded
from csn_jax.store.vector_file import DamagedFile, Embeddings, read_embeddings, write_embeddings

KINDS = [(suffix, dtype) for suffix in (".parquet", ".arrow", ".npz") for dtype in ("float32", "float16", "int8")]


def make(n=50, width=8, dtype="float32") -> Embeddings:
    rng = np.random.default_rng(0)
    vectors, scale = rng.normal(size=(n, width)).astype("float16" if dtype == "float16" else "float32"), None
    if dtype == "int8":
        vectors, scale = rounded(vectors)
    return Embeddings(
        ids=np.array([f"ü/{i}.jpg" for i in range(n)]),
        vectors=vectors,
        columns={
            "colour": rng.choice(["red", "grün", ""], n),
            "tags, or so": np.array([f"a;b{i}" for i in range(n)], object),
        },
        conditions=(Condition("colour", "categorical"), Condition("tags", "set"), Condition("dead", "numeric")),
        masks=np.concatenate([np.maximum(rng.normal(0.3, 1, (2, width)), 0), np.zeros((1, width))]).astype(np.float32),
        model_sha256="0123abcd",
        pictures={"kind": "folder", "root": "/photos"},
        made_from="xyz",
        scale=scale,
    )


def assert_same(read: Embeddings, expected: Embeddings) -> None:
    assert read.ids.tolist() == expected.ids.tolist()
    assert read.vectors.dtype == expected.vectors.dtype
    np.testing.assert_array_equal(read.vectors, expected.vectors)
    columns, expected_columns = (
        {name: column.tolist() for name, column in embeddings.columns.items()} for embeddings in (read, expected)
    )
    assert columns == expected_columns
    assert read.masks.dtype == np.float32
    np.testing.assert_array_equal(read.masks, expected.masks)
    for field in ("conditions", "model_sha256", "pictures", "made_from"):
        assert getattr(read, field) == getattr(expected, field)
    assert (read.scale is None) == (expected.scale is None)
    assert read.scale is None or read.scale.tolist() == expected.scale.tolist()


@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
def test_round_trip_with_the_same_bytes_each_time(suffix, dtype, tmp_path, monkeypatch):
    """Also over several row groups, and from a memory map."""
    monkeypatch.setattr(module, "ROWS", 16)
    expected, path = make(dtype=dtype), tmp_path / f"e{suffix}"
    write_embeddings(path, expected)
    assert_same(read_embeddings(path), expected)
    assert os.listdir(tmp_path) == [path.name]
    before = path.read_bytes()
    np.save(tmp_path / "v.npy", expected.vectors)
    write_embeddings(path, expected._replace(vectors=np.load(tmp_path / "v.npy", mmap_mode="r")))
    assert path.read_bytes() == before
    features = expected._replace(conditions=(), masks=np.zeros((0, 8), np.float32), columns={}, pictures={})
    write_embeddings(path, features)
    assert_same(read_embeddings(path), features)


def test_int8_is_the_nearest_of_255_steps_per_dimension(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 16)
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(50, 4)) * [1e-3, 1, 50, 0]).astype(np.float32)
    nearest, scale = rounded(vectors.copy())
    for d in range(4):
        step = max(abs(x) for x in vectors[:, d].tolist()) / 127 or 1
        assert scale[d] == pytest.approx(step)
        steps = [min(range(-127, 128), key=lambda q, x=x, step=step: abs(q * step - x)) for x in vectors[:, d].tolist()]
        np.testing.assert_allclose(nearest[:, d], np.array(steps) * step, rtol=1e-6)
    path = tmp_path / "e.parquet"
    write_embeddings(path, make(width=4)._replace(vectors=nearest, scale=scale))
    column = pyarrow.parquet.read_table(path).column("vector")
    assert column.type == pyarrow.list_(pyarrow.int8(), 4)
    np.testing.assert_allclose(np.array(column.to_pylist()) * scale, nearest, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_as_others_read_it(dtype, tmp_path):
    """Ids, attributes with null if missing, a list of fixed size, and per condition a vector without the dimensions of
    weight 0. Any store's Euclidean distance between these vectors is that of the condition."""
    expected, path = make(dtype=dtype), tmp_path / "e.parquet"
    write_embeddings(path, expected, by_condition=True)
    rows = pyarrow.parquet.read_table(path, page_checksum_verification=True)
    assert rows.column_names == ["id", "colour", "tags, or so", "vector", "vec_colour", "vec_tags"]
    assert rows["id"].to_pylist() == expected.ids.tolist()
    assert rows["colour"].to_pylist() == [value or None for value in expected.columns["colour"].tolist()]
    assert rows.schema.field("vector").type.list_size == 8
    assert str(rows.schema.field("vector").type.value_type) == {"float32": "float", "float16": "halffloat"}[dtype]
    assert rows["vector"].to_pylist() == expected.vectors.tolist()
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for mask, (name, _) in zip(expected.masks[:2], expected.conditions[:2], strict=True):
        cut = np.array(rows[f"vec_{name}"].to_pylist(), np.float64).reshape(50, -1)
        assert cut.shape[1] == (mask > 0).sum()
        for i, j in ((0, 1), (3, 40)):
            x, y = expected.vectors[i].tolist(), expected.vectors[j].tolist()
            naive = sum((mask[d] * (x[d] - y[d])) ** 2 for d in range(8))
            assert np.sum((cut[i] - cut[j]) ** 2) == pytest.approx(naive, rel=tolerance, abs=tolerance / 100)
    head = json.loads(rows.schema.metadata[b"csn_jax"])
    assert head["conditions"][1] == {"name": "tags", "kind": "set"} and head["model_sha256"] == "0123abcd"
    np.testing.assert_array_equal(np.array(head["masks"], np.float32), expected.masks)
    assert read_embeddings(path).vectors.shape == (50, 8)


def test_npz_as_others_read_it(tmp_path):
    expected, path = make(), tmp_path / "e.npz"
    write_embeddings(path, expected, by_condition=True)
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == expected.ids.tolist()
        np.testing.assert_array_equal(arrays["vectors"], expected.vectors)
        assert arrays["column_colour"].tolist() == expected.columns["colour"].tolist()
        active = expected.masks[0] > 0
        np.testing.assert_array_equal(arrays["vec_colour"], expected.vectors[:, active] * expected.masks[0][active])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_table_of_features_to_train_on(dtype, tmp_path):
    """The source `table` reads the file as it is: ids, attributes and vectors."""
    features = make(dtype=dtype)._replace(conditions=(), masks=np.zeros((0, 8), np.float32))
    write_embeddings(tmp_path / "f.parquet", features)
    data = DataConfig(source="table", path=str(tmp_path / "f.parquet"), vectors="vector", conditions=("colour",))
    rows = table.read(Config(data=data))
    assert rows.ids.tolist() == features.ids.tolist() and rows.inputs.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(rows.inputs, features.vectors.astype(np.float32))
    assert rows.labels["colour"].tolist() == features.columns["colour"].tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".npz"])
def test_damage_is_detected_or_harmless(suffix, tmp_path):
    """Cut anywhere or with any bit flipped, a file is refused by name, or it reads as before."""
    expected, path = make(), tmp_path / f"e{suffix}"
    write_embeddings(path, expected)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match="half-written or damaged.*--rebuild") as error:
            read_embeddings(path)
        assert str(path) in str(error.value) and tiny.is_one_sentence(str(error.value))
    for place in rng.integers(len(whole), size=200):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.integers(8))]) + whole[place + 1 :])
        try:
            assert_same(read_embeddings(path), expected)
        except UserError as error:
            refused += isinstance(error, DamagedFile) or "not written by csn_jax embed" in str(error)
            assert tiny.is_one_sentence(str(error))
    assert refused > 100


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".npz"])
def test_every_part_is_in_the_digest(suffix, tmp_path, monkeypatch):
    """A file with one part of another file and the old digest is refused."""
    expected, path = make(), tmp_path / f"e{suffix}"
    digest = module.digest_of(expected, module.head_of(expected))
    changed = {
        "ids": expected.ids[::-1],
        "vectors": expected.vectors + np.float32(1e-3),
        "columns": expected.columns | {"colour": expected.columns["colour"][::-1]},
        "conditions": expected.conditions[::-1],
        "masks": expected.masks * 2,
        "model_sha256": "other",
        "pictures": {},
        "made_from": "",
    }
    for name, value in changed.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, "digest_of", lambda *_: digest)
            write_embeddings(path, expected._replace(**{name: value}))
        with pytest.raises(UserError, match="SHA-256"):
            read_embeddings(path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "digest_of", lambda *_: digest)
        write_embeddings(path, expected)
    assert_same(read_embeddings(path), expected)


def test_the_same_bytes_as_another_type_are_damage(tmp_path):
    """The digest takes vectors as bytes, so the type is compared too."""
    expected, path = make(), tmp_path / "e.npz"
    write_embeddings(path, expected)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"vectors": arrays["vectors"].view(np.int32)})
    with pytest.raises(DamagedFile):
        read_embeddings(path)
    np.savez(path, **arrays)
    assert_same(read_embeddings(path), expected)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "e.npz"
    write_embeddings(path, make())
    before = path.read_bytes()

    def fail(*_):
        raise OSError(5, "died here")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="cannot be written .died here."):
        write_embeddings(path, make(n=20))
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def written(name, **changes):
    return lambda folder: write_embeddings(folder / name, make()._replace(**changes))


def read(name):
    return lambda folder: read_embeddings(folder / name)


def column(name):
    return written("new.npz", columns={name: make().ids})


# (call with a folder that holds an .npz and a .parquet file of others, words of the message)
REFUSED = {
    "write another suffix": (written("e.csv"), ["e.csv", ".parquet or .npz"]),
    "write no suffix": (written("e"), ["/e ", ".parquet or .npz"]),
    "read another suffix": (read("e.csv"), ["e.csv", ".parquet or .npz"]),
    "column id": (column("id"), ["'id'", "rename"]),
    "column vector": (column("vector"), ["'vector'", "rename"]),
    "column of a condition": (column("vec_colour"), ["'vec_colour'", "rename"]),
    "no folder": (written("missing/e.npz"), ["missing/e.npz", "cannot be written"]),
    "no file": (read("new.npz"), ["new.npz", "not a file"]),
    "npz of others": (read("other.npz"), ["other.npz", "not written by csn_jax embed"]),
    "Parquet of others": (read("other.parquet"), ["other.parquet", "not written by csn_jax embed"]),
    "pickle": (read("pickle.npz"), ["pickle.npz", "damaged"]),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes(mistake, tmp_path):
    call, words = REFUSED[mistake]
    np.savez(tmp_path / "other.npz", vectors=make().vectors)
    np.savez(tmp_path / "pickle.npz", csn_jax=np.array([{}], object))
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "other.parquet")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError) as error:
        call(tmp_path)
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value).removesuffix(".")) and sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".npz"])
def test_a_full_disk_leaves_the_old_file(suffix, tmp_path):
    path = tmp_path / f"e{suffix}"
    write_embeddings(path, make())
    before = path.read_bytes()
    code = (
        f"import resource, signal, sys; sys.path[:0] = {[os.path.dirname(__file__), os.path.dirname(tiny.__file__)]}\n"
        "from pathlib import Path; from test_vector_file import make, write_embeddings\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        f"write_embeddings(Path({str(path)!r}), make(n=200))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "MachineError: no room to write" in done.stderr, done.stderr
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4000
