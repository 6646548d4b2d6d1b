"""Files of embeddings: they come back as they were, other readers understand them, and no damage goes unseen."""

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
from csn_jax.data.item_set import Condition
from csn_jax.data.sources import table
from csn_jax.errors import UserError
from csn_jax.store import int8
from csn_jax.store import vector_file as module
from csn_jax.store.int8 import rounded
from csn_jax.store.vector_file import Embeddings, read_embeddings, write_embeddings

KINDS = [(suffix, dtype) for suffix in (".parquet", ".npz") for dtype in ("float32", "float16", "int8")]


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


def assert_same(found: Embeddings, expected: Embeddings) -> None:
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.vectors.dtype == expected.vectors.dtype
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert {name: column.tolist() for name, column in found.columns.items()} == {
        name: column.tolist() for name, column in expected.columns.items()
    }
    assert found.masks.dtype == np.float32
    np.testing.assert_array_equal(found.masks, expected.masks)
    assert found[3] == expected[3] and found[5:-1] == expected[5:-1]
    assert (found.scale is None) == (expected.scale is None)
    assert found.scale is None or found.scale.tolist() == expected.scale.tolist()


@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
def test_they_come_back_as_they_were_and_the_same_bytes_each_time(suffix, dtype, tmp_path, monkeypatch):
    """Also over several row groups, read and written from a memory map."""
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


def test_int8_is_the_nearest_of_255_steps_in_each_dimension(tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "ROWS", 16)
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(50, 4)) * [1e-3, 1, 50, 0]).astype(np.float32)
    found, scale = rounded(vectors.copy())
    for d in range(4):
        step = max(abs(x) for x in vectors[:, d].tolist()) / 127 or 1
        assert scale[d] == pytest.approx(step)
        steps = [min(range(-127, 128), key=lambda q, x=x, step=step: abs(q * step - x)) for x in vectors[:, d].tolist()]
        np.testing.assert_allclose(found[:, d], np.array(steps) * step, rtol=1e-6)
    path = tmp_path / "e.parquet"
    write_embeddings(path, make(width=4)._replace(vectors=found, scale=scale))
    column = pyarrow.parquet.read_table(path).column("vector")
    assert column.type == pyarrow.list_(pyarrow.int8(), 4)
    np.testing.assert_allclose(np.array(column.to_pylist()) * scale, found, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_as_others_read_it(dtype, tmp_path):
    """Ids, attributes with null where missing, a list of fixed size; and a vector for each condition without the
    dimensions that it does not weigh."""
    expected, path = make(dtype=dtype), tmp_path / "e.parquet"
    write_embeddings(path, expected, by_condition=True)
    found = pyarrow.parquet.read_table(path, page_checksum_verification=True)
    assert found.column_names == ["id", "colour", "tags, or so", "vector", "vec_colour", "vec_tags"]
    assert found["id"].to_pylist() == expected.ids.tolist()
    assert found["colour"].to_pylist() == [value or None for value in expected.columns["colour"].tolist()]
    assert found.schema.field("vector").type.list_size == 8
    assert str(found.schema.field("vector").type.value_type) == {"float32": "float", "float16": "halffloat"}[dtype]
    assert found["vector"].to_pylist() == expected.vectors.tolist()
    for mask, (name, _) in zip(expected.masks[:2], expected.conditions[:2], strict=True):
        cut = np.array(found[f"vec_{name}"].to_pylist(), np.float64).reshape(50, -1)
        assert cut.shape[1] == (mask > 0).sum()
        # Any store's Euclidean distance between these is the condition's.
        for i, j in ((0, 1), (3, 40)):
            naive = sum(
                (mask[d] * (float(expected.vectors[i, d]) - float(expected.vectors[j, d]))) ** 2 for d in range(8)
            )
            tolerance = 1e-5 if dtype == "float32" else 2e-2
            assert np.sum((cut[i] - cut[j]) ** 2) == pytest.approx(naive, rel=tolerance, abs=tolerance / 100)
    head = json.loads(found.schema.metadata[b"csn_jax"])
    assert head["conditions"][1] == {"name": "tags", "kind": "set"} and head["model_sha256"] == "0123abcd"
    np.testing.assert_array_equal(np.array(head["masks"], np.float32), expected.masks)
    assert read_embeddings(path).vectors.shape == (50, 8)


def test_npz_as_others_read_it(tmp_path):
    expected, path = make(), tmp_path / "e.npz"
    write_embeddings(path, expected, by_condition=True)
    with np.load(path, allow_pickle=False) as found:
        assert found["ids"].tolist() == expected.ids.tolist()
        np.testing.assert_array_equal(found["vectors"], expected.vectors)
        assert found["column_colour"].tolist() == expected.columns["colour"].tolist()
        active = expected.masks[0] > 0
        np.testing.assert_array_equal(found["vec_colour"], expected.vectors[:, active] * expected.masks[0][active])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_table_of_features_to_train_on(dtype, tmp_path):
    """The source `table` takes the file as it is: ids, attributes as notions, the vectors."""
    features = make(dtype=dtype)._replace(conditions=(), masks=np.zeros((0, 8), np.float32))
    write_embeddings(tmp_path / "f.parquet", features)
    data = DataConfig(source="table", path=str(tmp_path / "f.parquet"), vectors="vector", conditions=("colour",))
    rows = table.read(Config(data=data))
    assert rows.ids.tolist() == features.ids.tolist() and rows.inputs.dtype == np.float32
    np.testing.assert_array_equal(rows.inputs, features.vectors.astype(np.float32))
    assert rows.labels["colour"].tolist() == features.columns["colour"].tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_no_damage_goes_unseen(suffix, tmp_path):
    """Cut anywhere or with any byte changed, a file is refused by name or gives what it gave."""
    expected, path = make(), tmp_path / f"e{suffix}"
    write_embeddings(path, expected)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="half-written or damaged.*--rebuild") as error:
            read_embeddings(path)
        assert str(path) in str(error.value) and tiny.is_one_sentence(str(error.value))
    for place in rng.integers(len(whole), size=400):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.integers(8))]) + whole[place + 1 :])
        try:
            assert_same(read_embeddings(path), expected)
        except UserError as error:
            refused += "damaged" in str(error) or "no vectors of csn_jax" in str(error)
            assert tiny.is_one_sentence(str(error))
    assert refused > 200


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_every_part_is_in_the_digest(suffix, tmp_path, monkeypatch):
    """A file whose parts were exchanged by somebody who left the digest is refused."""
    expected, path = make(), tmp_path / f"e{suffix}"
    digest = module._digest(expected, module._head(expected))
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
            patch.setattr(module, "_digest", lambda *_: digest)
            write_embeddings(path, expected._replace(**{name: value}))
        with pytest.raises(UserError, match="SHA-256"):
            read_embeddings(path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_digest", lambda *_: digest)
        write_embeddings(path, expected)
    assert_same(read_embeddings(path), expected)


def test_the_same_bytes_of_another_type_are_damage(tmp_path):
    """The digest takes vectors as bytes, so the type is compared by itself."""
    expected, path = make(), tmp_path / "e.npz"
    write_embeddings(path, expected)
    with np.load(path) as found:
        arrays = dict(found)
    np.savez(path, **arrays | {"vectors": arrays["vectors"].view(np.int32)})
    with pytest.raises(UserError, match="damaged"):
        read_embeddings(path)
    np.savez(path, **arrays)
    assert_same(read_embeddings(path), expected)


def test_a_file_is_replaced_by_its_last_act(tmp_path, monkeypatch):
    path = tmp_path / "e.npz"
    write_embeddings(path, make())
    before = path.read_bytes()

    def fail(*_):
        raise OSError(5, "died here")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="cannot be written .died here."):
        write_embeddings(path, make(n=20))
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_what_is_refused(tmp_path):
    expected = make()
    for name, match in (("e.csv", "ends in '.csv'"), ("e", "ends in 'nothing'")):
        with pytest.raises(UserError, match=match):
            write_embeddings(tmp_path / name, expected)
        with pytest.raises(UserError, match=match):
            read_embeddings(tmp_path / name)
    for name in ("id", "vector", "vec_colour"):
        with pytest.raises(UserError, match=f"called {name!r}"):
            write_embeddings(tmp_path / "e.npz", expected._replace(columns={name: expected.ids}))
    with pytest.raises(UserError, match="cannot be written"):
        write_embeddings(tmp_path / "missing" / "e.npz", expected)
    with pytest.raises(UserError, match="is no file"):
        read_embeddings(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", vectors=expected.vectors)
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "e.parquet")
    for name in ("e.npz", "e.parquet"):
        with pytest.raises(UserError, match="holds no vectors of csn_jax"):
            read_embeddings(tmp_path / name)
    np.savez(tmp_path / "e.npz", csn_jax=np.array([{}], object))  # a pickle is not opened
    with pytest.raises(UserError, match="damaged"):
        read_embeddings(tmp_path / "e.npz")
    assert sorted(os.listdir(tmp_path)) == ["e.npz", "e.parquet"]


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_full_disk_leaves_the_old_file(suffix, tmp_path):
    path = tmp_path / f"e{suffix}"
    write_embeddings(path, make())
    before = path.read_bytes()
    code = (
        "import resource, signal, sys; sys.path[:0] = ['tests', 'tests/data']\n"
        "from pathlib import Path; from test_embeddings import make, write_embeddings\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        f"write_embeddings(Path({str(path)!r}), make(n=200))"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode and "MachineError: no room to write" in done.stderr, done.stderr
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4000
