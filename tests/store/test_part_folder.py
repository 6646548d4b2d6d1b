"""An index of part files: the hits of one file, read from the disk; damaged, missing and foreign parts are named."""

import json
import pickle
import tracemalloc

import numpy as np
import pyarrow.parquet
import pytest
import tiny
from small_index import assert_hits, clumps

import csn_jax
from csn_jax import search
from csn_jax.errors import UserError
from csn_jax.store import int8, part_folder, parts
from csn_jax.store.index import Index
from csn_jax.store.int8 import rounded
from csn_jax.store.vector_file import DamagedFile, read_embeddings, write_embeddings

N, CUTS = 300, (0, 130, 131, 300)
MIXTURES = ({"style": 1}, {"style": 1, 'a/b: 5%?"': 0.5}, {"style": 1, "one": -0.3})


@pytest.fixture
def small(monkeypatch):
    """Several batches per part, and several pieces per batch."""
    monkeypatch.setattr(int8, "ROWS", 64)
    monkeypatch.setattr(parts, "PIECE", 8 * 10)


def written(folder, dtype="float16", suffix=".arrow", items=None):
    """Parts of 300 items in a folder, and the same items in memory."""
    items = items or clumps(N)._replace(ids=np.array([f"item {i}" for i in range(N)], object))
    folder.mkdir(exist_ok=True)
    found = []
    for number, (start, stop) in enumerate(zip(CUTS, CUTS[1:], strict=False)):
        rows = slice(start, stop)
        vectors, scale = items.vectors[rows].copy(), None
        vectors, scale = rounded(vectors) if dtype == "int8" else (vectors.astype(dtype), None)
        columns = {name: column[rows] for name, column in items.columns.items()}
        part = items._replace(ids=items.ids[rows], vectors=vectors, columns=columns, scale=scale)
        write_embeddings(folder / f"part-{number:05}-of-00003{suffix}", part)
        found.append(vectors)
    items = items._replace(vectors=np.concatenate(found).astype(np.float32))
    return Index(items, tuple(name for name, _ in items.conditions), items.masks)


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_hits_are_those_of_one_file(dtype, tmp_path, small):
    """By vector and by id, under mixtures, filters and left-out products; rows are those of the parts in order."""
    whole, index = written(tmp_path / "parts", dtype), Index.open(tmp_path / "parts")
    assert len(index) == N and index.ids.tolist() == whole.ids.tolist()
    queries = whole.vectors[[5, 200]].astype(np.float64) + 0.1
    for weights in MIXTURES:
        assert_hits(index, queries, weights, 7)
        for options in ({}, {"filters": ["price<20", "colour=red"]}, {"exclude": [3, 4]}):
            for ours, theirs in zip(*(i.nearest(queries, weights, 9, **options) for i in (index, whole)), strict=True):
                np.testing.assert_array_equal(ours, theirs)
    items = ["item 7", "item 131"]
    for options in ({}, {"leave_out_same": "tags"}):
        ours, theirs = (i.search(items, MIXTURES[1], 5, **options)[0].tolist() for i in (index, whole))
        assert ours == theirs
    assert index.row("item 299") == 299
    with pytest.raises(UserError, match="did you mean item 299"):
        index.row("ITEM 299")
    assert (
        pickle.loads(pickle.dumps(index)).search(items, "style", 5)[0].tolist()
        == index.search(items, "style", 5)[0].tolist()
    )


def test_vectors_and_texts_stand_for_arrays(tmp_path, small):
    whole, index = written(tmp_path / "parts"), Index.open(tmp_path / "parts")
    keys = (0, -1, slice(None), slice(10, 250), slice(200, 100), slice(None, None, 7), [3, 299, 130, 3], [],
            np.arange(N) % 3 == 0, np.int64(131))  # fmt: skip
    for key in keys:
        np.testing.assert_array_equal(index.vectors[key], whole.vectors[key])
        assert np.array_equal(index.ids[key], whole.ids[key])
        assert np.array_equal(index.columns["colour"][key], whole.columns["colour"][key])
    np.testing.assert_array_equal(index.vectors[:, 2], whole.vectors[:, 2])
    np.testing.assert_array_equal(index.vectors[[4, 140], 2:4], whole.vectors[[4, 140], 2:4])
    assert index.to_arrow().equals(whole.to_arrow().cast(index.to_arrow().schema))
    with pytest.raises(IndexError):
        index.vectors[[N]]


def test_float16_is_widened_exactly():
    """All finite numbers of float16, also the smallest and both zeros."""
    values = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    values = values[np.isfinite(values)].reshape(-1, 1)
    found = parts.widened(values, None, np.empty(values.shape, np.float32))
    assert found.tobytes() == values.astype(np.float32).tobytes()


def test_opening_and_searching_leave_the_parts_on_the_disk(tmp_path):
    rng, n = np.random.default_rng(0), 20_000
    few = clumps(4)
    items = few._replace(
        ids=np.array([f"item {i}" for i in range(n)], object),
        vectors=rng.normal(size=(n, 128)).astype(np.float16),
        columns={},
        masks=np.abs(rng.normal(size=(4, 128))).astype(np.float32),
    )
    (tmp_path / "parts").mkdir()
    write_embeddings(tmp_path / "parts/a.arrow", items)
    tracemalloc.start()
    index = Index.open(tmp_path / "parts")
    index.search(np.zeros(128), "style")
    index.row("item 19999")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < items.vectors.nbytes / 3


def test_files_of_every_kind_are_parts(tmp_path):
    """Parquet and npz too, and files of any name, which are read in the order of their names."""
    whole = written(tmp_path / "arrow")
    for suffix in (".parquet", ".npz"):
        written(tmp_path / suffix, suffix=suffix)
        assert Index.open(tmp_path / suffix).ids.tolist() == whole.ids.tolist()
        np.testing.assert_array_equal(Index.open(tmp_path / suffix).vectors[:], whole.vectors)
    second = tmp_path / ".parquet" / "part-00001-of-00003.parquet"
    second.unlink()
    (tmp_path / "arrow" / "part-00001-of-00003.arrow").rename(second.with_suffix(".arrow"))
    assert Index.open(tmp_path / ".parquet").ids.tolist() == whole.ids.tolist()


def test_the_command_searches_a_folder(tmp_path, capsys):
    written(tmp_path / "parts")
    search.main([f"--index={tmp_path / 'parts'}", "--id=item 3", "--condition=style", "--json", "--explain"])
    out = capsys.readouterr().out
    found = json.loads(out[: out.rindex("\n}") + 2])
    whole = Index.open(tmp_path / "parts")
    assert [hit["id"] for hit in found["hits"]] == whole.search("item 3", "style")[0].tolist()


def change(path, offset=None, other=b"\x07"):
    content = bytearray(path.read_bytes())
    if offset is None:
        offset = content.index(read_embeddings(path).vectors.tobytes()) + 5
    content[offset : offset + 1] = bytes([content[offset] ^ other[0]])
    path.write_bytes(content)


def foreign(folder):
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), folder / "zzz.parquet")


def other(**fields):
    def make(folder):
        write_embeddings(folder / "zzz.arrow", read_embeddings(folder / "part-00000-of-00003.arrow")._replace(**fields))

    return make


def narrow(folder):
    items = read_embeddings(folder / "part-00000-of-00003.arrow")
    write_embeddings(folder / "zzz.arrow", items._replace(vectors=items.vectors[:, :5], masks=items.masks[:, :5]))


def keep(folder, rows):
    """One part more, with some items of the first."""
    items = read_embeddings(folder / "part-00000-of-00003.arrow")
    columns = {name: column[rows] for name, column in items.columns.items()}
    less = items._replace(ids=items.ids[rows], vectors=items.vectors[rows], columns=columns)
    write_embeddings(folder / "zzz.arrow", less)


SECOND = "part-00001-of-00003.arrow"
MISTAKES = {
    "missing": (lambda folder: (folder / SECOND).unlink(), ["lacks part 00001-of-00003"]),
    "of two sets": (lambda folder: (folder / SECOND).rename(folder / "part-00001-of-00004.arrow"), ["several sets"]),
    "half-written": (lambda folder: (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-200]), [SECOND]),
    "empty": (lambda folder: (folder / SECOND).write_bytes(b""), [SECOND, "damaged"]),
    "flipped bit": (lambda folder: change(folder / SECOND), [SECOND, "SHA-256"]),
    "foreign": (foreign, ["zzz.parquet", "not written by csn_jax"]),
    "other model": (other(model_sha256="b" * 64), ["zzz.arrow", "another model (bbbbbbbbbbbb)"]),
    "other columns": (other(columns={}), ["zzz.arrow", "other columns (none)"]),
    "other masks": (other(masks=np.ones((4, 8), np.float32)), ["zzz.arrow", "other conditions or masks"]),
    "other width": (narrow, ["zzz.arrow", "other "]),
    "an item twice": (lambda folder: keep(folder, slice(3, 4)), ["zzz.arrow", "part-00000", "both hold 'item 3'"]),
    "nothing": (lambda folder: [path.unlink() for path in folder.iterdir()], ["no part file"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_part(mistake, tmp_path):
    spoil, words = MISTAKES[mistake]
    written(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError) as error:
        Index.open(tmp_path).search(np.zeros(8), "style")
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value).removesuffix("."))


def test_a_copied_part_is_noticed_among_many_items(tmp_path, monkeypatch):
    monkeypatch.setattr(part_folder, "FEW", 0)
    written(tmp_path)
    Index.open(tmp_path)
    (tmp_path / "copy.arrow").write_bytes((tmp_path / SECOND).read_bytes())
    with pytest.raises(UserError, match=f"{SECOND} and copy.arrow both hold the same items"):
        Index.open(tmp_path)


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    """In any place of a part: the search, the ids and the attributes are those of the whole part, or an error."""
    written(tmp_path)
    path, rng = tmp_path / "part-00000-of-00003.arrow", np.random.default_rng(0)
    content, caught = path.read_bytes(), 0
    expected = search_all(tmp_path)
    places = rng.integers(0, len(content), 50)
    for place in places.tolist():
        change(path, place, bytes([int(rng.integers(1, 256))]))
        try:
            assert search_all(tmp_path) == expected
        except DamagedFile as error:
            assert path.name in str(error)
            caught += 1
        path.write_bytes(content)
    assert caught > len(places) / 2


def search_all(folder):
    index = Index.open(folder)
    hits = index.search(np.zeros(8), "style", 5)
    texts = [index.ids.tolist(), *(column.tolist() for column in index.columns.values())]
    return [part.tolist() for part in hits], texts, index.vectors[:].tobytes()


def test_a_folder_is_opened_under_newer_masks(tmp_path):
    whole, index = written(tmp_path), Index.open(tmp_path)
    masks = np.ones((1, 8), np.float32)
    newer = [one.of_model("a" * 64, ["all"], masks) for one in (whole, index)]
    assert newer[0].search(np.zeros(8), "all")[0].tolist() == newer[1].search(np.zeros(8), "all")[0].tolist()
    with pytest.raises(UserError, match="another model"):
        csn_jax.Index.open(tmp_path).of_model("b" * 64, ["all"], masks)
