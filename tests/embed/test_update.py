"""embed --update: only what is new or changed is embedded, and the file is that of a fresh command, byte for byte."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import shop
from test_cli import assert_message, run

from csn_jax import embed
from csn_jax.data import to_embed
from csn_jax.model.model import Model
from csn_jax.store.vector_file import read_embeddings, write_embeddings

N = 60


@pytest.fixture(autouse=True)
def cache(shop_runs, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(shop_runs / "cache"))
    monkeypatch.setattr(to_embed, "CHUNK", 16)
    monkeypatch.setattr(to_embed, "MANY", 10)


@pytest.fixture
def embedded_rows(monkeypatch):
    """The number of different inputs that each call of the model got. Padding repeats inputs."""
    sizes, embedding = [], Model.embed

    def counted(self, inputs):
        sizes.append(len(np.unique(np.asarray(inputs).reshape(len(inputs), -1), axis=0)))
        return embedding(self, inputs)

    monkeypatch.setattr(Model, "embed", counted)
    return sizes


def changed_shop(folder, table):
    """Of 60 products, 2 are gone, 3 have another picture, 2 another colour as an attribute, and 4 are new. The order is
    another one, and a picture is damaged."""
    changed = {name: [values[i] for i in range(N) if i not in (5, 17)] for name, values in table.items()}
    for row in (3, 20, 40):
        shop.draw(folder / changed["image"][row], 1000 + row, "boot", "red")
    for row in (9, 10):
        changed["title"][row] = f"another title {row}"
    more = shop.columns(N + 4)
    for name, values in changed.items():
        values += [f"new/{i}.png" if name == "image" else more[name][i] for i in range(N, N + 4)]
        values[:] = values[::-1]
    (folder / "new").mkdir(exist_ok=True)
    for i in range(N, N + 4):
        shop.draw(folder / f"new/{i}.png", i, "sandal", "blue")
    (folder / changed["image"][-1]).write_bytes(b"no picture any more")
    shop.write(folder / "products.csv", changed)


@pytest.fixture
def place(shop_runs, tmp_path):
    """A copy of the shop with its table."""
    shutil.copytree(shop_runs / "images", tmp_path / "images")
    shutil.copy(shop_runs / "products.csv", tmp_path)
    return tmp_path


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_changed_table_of_pictures(shop_runs, place, suffix, embedded_rows, capsys):
    """Counted: what the model is called for, and what the command says."""
    argv = [f"--workdir={shop_runs / 'pictures'}", f"--table={place / 'products.csv'}", "--by_condition"]
    out, fresh = place / f"out{suffix}", place / f"fresh{suffix}"
    embed.main([*argv, f"--out={out}", "--update"])  # there is no file yet
    assert sum(embedded_rows) == N
    before = out.read_bytes()
    embed.main([*argv, f"--out={out}", "--update"])
    assert out.read_bytes() == before and "nothing to embed" in capsys.readouterr().out
    changed_shop(place, shop.columns(N))
    embedded_rows.clear()
    embed.main([*argv, f"--out={out}", "--update"])
    assert sum(embedded_rows) == 7  # 3 + 4; the damaged picture cannot be read
    said = capsys.readouterr().out
    assert "holds 61 vectors" in said and "(4 new, 3 changed, 3 gone; 54 vectors kept, 2 with other attributes)" in said
    embed.main([*argv, f"--out={fresh}"])
    assert out.read_bytes() == fresh.read_bytes() != before
    shop.write(place / "products.csv", {name: values[:30] for name, values in shop.columns(N).items()})
    embedded_rows.clear()
    embed.main([*argv, f"--out={out}", "--update"])
    assert "30 vectors kept" not in capsys.readouterr().out and 0 < sum(embedded_rows) <= 5


def test_only_attributes_or_nothing_but_removals(shop_runs, tmp_path, embedded_rows, capsys):
    """The model is not called. Vectors come from the table."""
    columns, vectors = shop.columns(N), shop.vectors(shop.columns(N))
    table = shop.write(tmp_path / "products.parquet", columns, vector=vectors)
    argv = [f"--workdir={shop_runs / 'vectors'}", f"--table={table}", "--dtype=float16"]
    embed.main([*argv, f"--out={tmp_path / 'out.parquet'}"])
    columns["extra"] = [str(i) for i in range(N)]
    half = {name: values[::2] for name, values in columns.items()}
    shop.write(table, half, vector=vectors[::2])
    embedded_rows.clear()
    embed.main([*argv, f"--out={tmp_path / 'out.parquet'}", "--update"])
    assert embedded_rows == [] and "30 gone; 30 vectors kept, 30 with other" in capsys.readouterr().out
    embed.main([*argv, f"--out={tmp_path / 'fresh.parquet'}"])
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "fresh.parquet").read_bytes()


def test_a_file_of_an_older_version_is_embedded_whole_once(shop_runs, tmp_path, embedded_rows):
    argv = [f"--workdir={shop_runs / 'vectors'}", f"--table={shop_runs / 'products.parquet'}"]
    out = tmp_path / "out.parquet"
    embed.main([*argv, f"--out={out}"])
    before, whole = read_embeddings(out), out.read_bytes()
    assert before.digests.shape == (N, 16) and len(np.unique(before.digests, axis=0)) == N
    assert pyarrow.parquet.read_schema(out).names[-1] == "input_digest"
    write_embeddings(out, before._replace(digests=None, made_from="an older one"))
    assert read_embeddings(out).digests is None
    embedded_rows.clear()
    embed.main([*argv, f"--out={out}", "--update"])
    assert sum(embedded_rows) == N and out.read_bytes() == whole


def test_mistakes(shop_runs, tmp_path, monkeypatch, capsys):
    """One sentence, exit status 2, and the file is as it was."""
    out, table = tmp_path / "out.parquet", shop_runs / "products.parquet"
    argv = (f"--workdir={shop_runs / 'vectors'}", f"--table={table}", f"--out={out}")
    embed.main(argv)
    items = read_embeddings(out)
    for change, flags, words in (
        ({}, ("--rebuild",), ("--update and --rebuild",)),
        ({}, ("--features",), ("--features", "digests")),
        ({}, ("--dtype=int8",), ("--dtype=int8", "scale", "float16")),
        ({}, ("--dtype=float16",), ("holds vectors of float32", "--dtype is float16")),
        ({"model_sha256": "b" * 64}, (), ("by another model (bbbbbbbbbbbb)", "--rebuild")),
        ({"conditions": (), "masks": np.zeros((0, 6), np.float32)}, (), ("holds features", "--rebuild")),
    ):
        write_embeddings(out, items._replace(made_from="other", **change))
        before = out.read_bytes()
        assert_message(*run(embed, monkeypatch, capsys, *argv, "--update", *flags), 2, *words)
        assert out.read_bytes() == before
    assert_message(*run(embed, monkeypatch, capsys, *argv), 2, "--update to embed what changed", "--rebuild")


ALONE = """
import sys, numpy as np
from csn_jax import load
from csn_jax.model.chunks import steady
model, rng = load(sys.argv[1]), np.random.default_rng(0)
function, pixels = steady(model.embed), rng.integers(0, 256, (504, *model.input_shape), np.uint8)
whole = function(pixels)
for n in (1, 2, 119, 120, 121, 128, 250, 504):
    rows = rng.permutation(504)[:n]
    np.testing.assert_array_equal(function(pixels[rows]), whole[rows])
"""


@pytest.mark.slow
def test_the_vector_of_an_item_does_not_depend_on_what_is_embedded_with_it(shop_runs):
    """Any number of inputs, in any order: the same bits. On one device, as users have it: these tests split a batch."""
    command = [sys.executable, "-c", ALONE, str(shop_runs / "pictures")]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
