"""Index under maps: the hits of a naive float64 scan, whatever is kept, streamed or stored in 16 bits."""

import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_index import make

from csn_jax.core.maps import stacked, with_raw
from csn_jax.search.explain import explain
from csn_jax.store import candidates, vector_file, views
from csn_jax.store.index import Index
from csn_jax.store.maps_text import maps_of, text_of
from csn_jax.store.vector_file import DamagedFile, read_embeddings, write_embeddings

MIXTURES = ({"a": 1}, {"b": 2.5}, {"raw": 1}, {"a": 1, "b": 0.25}, {"a": 1, "raw": 0.5}, {"b": 1, "a": -0.4}, {"b": -1})
NAMES = ("a", "b", "raw")


def made(n=700, width=24, dtype=np.float32, unit=True, seed=0) -> Index:
    """n items, some of them equal, under two maps of different ranks and one condition of raw vectors."""
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(n, width)) + 0.3).astype(dtype)
    vectors[n // 2 : n // 2 + 40] = vectors[:40]  # equal distances keep the order of the file
    maps, masks = stacked([rng.normal(size=(rank, width)).astype(np.float32) for rank in (5, 3, 2)], unit)
    maps, masks = with_raw(maps, masks, np.array([False, False, True]), 0.7)
    items = make(n, width, vectors=vectors.astype(np.float32)).items._replace(vectors=vectors, masks=masks, maps=maps)
    items = items._replace(conditions=tuple(items.conditions[0]._replace(name=name) for name in NAMES))
    return Index(items, NAMES, masks, "made", maps)


def scan(index: Index, query, weights, k, passes=lambda row: True, exclude=-1):
    """(rows, squared distances) by a loop in float64 over the definition."""

    def view(vector):
        x = vector.astype(np.float64)
        x = x / max(np.linalg.norm(x), 1e-12) if index.maps.unit else x
        return index.maps.matrix.astype(np.float64) @ x

    own, squares = view(query), []
    for row in range(len(index)):
        gap = np.square(own - view(index.vectors[row]))
        total = sum(weight * float(gap[index.masks[NAMES.index(name)] > 0].sum()) for name, weight in weights.items())
        squares.append((round(total, 11), row, total))
    left = [found for found in sorted(squares) if passes(found[1]) and found[1] != exclude][:k]
    return [row for _, row, _ in left], [total for *_, total in left]


@pytest.mark.parametrize("weights", MIXTURES, ids=str)
@pytest.mark.parametrize("how", ["kept", "streamed", "float16", "longer vectors"])
def test_hits_are_those_of_a_naive_scan(how, weights, monkeypatch):
    monkeypatch.setattr(candidates, "BLOCK", 64)
    if how == "streamed":
        monkeypatch.setattr(views, "BUDGET", 10)
    index = made(dtype=np.float16 if how == "float16" else np.float32, unit=how != "longer vectors")
    colour = index.columns["colour"]
    for query, exclude in ((index.vectors[3], 3), (index.vectors[5] * np.float16(1.5), -1)):
        for filters, passes in (({}, lambda row: True), ({"colour": "red"}, lambda row: colour[row] == "red")):
            rows, squares = index.nearest(query[None], weights, 9, filters=filters, exclude=[exclude])
            expected, distances = scan(index, query, weights, 9, passes, exclude)
            assert rows[0].tolist() == expected
            np.testing.assert_allclose(squares[0], distances, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("budget", [views.BUDGET, 10], ids=["kept", "streamed"])
def test_parts_on_the_disk_give_the_hits_of_memory(budget, tmp_path, monkeypatch):
    monkeypatch.setattr(views, "BUDGET", budget)
    index = made(dtype=np.float16)
    for number, rows in enumerate((slice(0, 300), slice(300, None))):
        columns = {name: column[rows] for name, column in index.columns.items()}
        part = index.items._replace(ids=index.ids[rows], vectors=index.vectors[rows], columns=columns)
        write_embeddings(tmp_path / f"{number}.arrow", part)
    mapped = Index.open(tmp_path)
    for weights in MIXTURES:
        for ours, theirs in zip(*(i.nearest(index.vectors[:2], weights, 9) for i in (mapped, index)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_views_are_kept_within_the_budget_and_made_once(monkeypatch):
    index = made()
    made_of, size = [], 4 * len(index)
    original = type(index.maps).views
    monkeypatch.setattr(
        type(index.maps), "views", lambda self, *a, **k: made_of.append(len(a[0])) or original(self, *a, **k)
    )
    monkeypatch.setattr(views, "BUDGET", 9 * size)  # for a and b, of ranks 5 and 3, but not for the raw vectors
    search = lambda **weights: index.nearest(index.vectors[:2], weights, 3)  # noqa: E731
    search(a=1), search(b=1), search(a=1, b=-0.5), search(a=2)
    assert made_of == [len(index)] * 2
    monkeypatch.setattr(views, "BUDGET", 7 * size)  # b leaves, as a was asked for later
    other = made()
    other.nearest(other.vectors[:2], {"b": 1}, 3), other.nearest(other.vectors[:2], {"a": 1}, 3)
    assert [len(cache.vectors.T) for cache in other._cache._kept.values()] == [5]


@pytest.mark.parametrize("unit", [True, False])
def test_raw_vectors_are_streamed_without_a_product_of_matrices(unit, monkeypatch):
    """Over several spans, of which the last is not full."""
    monkeypatch.setattr(views, "BUDGET", 10)
    monkeypatch.setattr(views, "SPAN", 300)
    monkeypatch.setattr("csn_jax.core.maps.PIECE", 70 * 24)  # the last piece of a span is not full either
    index, plain = made(unit=unit), made(unit=unit)
    assert views.raw_scale(index.maps.matrix[-24:]) == np.float32(0.7)
    assert views.raw_scale(index.maps.matrix[:5]) is None and views.raw_scale(index.maps.matrix[-25:-1]) is None
    expected = [scan(index, query, {"raw": 2.0}, 5) for query in index.vectors[:3]]
    monkeypatch.setattr(type(index.maps), "views", None)
    rows, squares = plain.nearest(plain.vectors[:3], {"raw": 2.0}, 5)
    assert rows.tolist() == [rows for rows, _ in expected]
    np.testing.assert_allclose(squares, [squares for _, squares in expected], rtol=1e-9, atol=1e-12)


def test_threads_share_views():
    index, queries = made(), made().vectors[:1]
    expected = [made().nearest(queries, weights, 5) for weights in MIXTURES]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: index.nearest(queries, MIXTURES[i % len(MIXTURES)], 5), range(56)))
    finally:
        sys.setswitchinterval(before)
    for i, hits in enumerate(found):
        for array, other in zip(hits, expected[i % len(MIXTURES)], strict=True):
            np.testing.assert_array_equal(array, other)


def test_an_index_of_other_maps_forgets_the_views_of_the_old_ones():
    index = made()
    index.nearest(index.vectors[:1], {"a": 1}, 3)
    wider = index.of_model(
        index.items.model_sha256, NAMES, index.masks, index.maps._replace(matrix=-2 * index.maps.matrix)
    )
    np.testing.assert_allclose(
        wider.nearest(index.vectors[:1], {"a": 1}, 3)[1],
        4 * index.nearest(index.vectors[:1], {"a": 1}, 3)[1],
        rtol=1e-6,
    )
    assert dataclasses.replace(index, maps=wider.maps).maps is wider.maps


def test_reasons_are_by_condition_and_not_by_dimension():
    index = made()
    weights, query = {"a": 1, "b": -0.5}, index.vectors[3]
    rows = index.nearest(query[None], weights, 4, exclude=[3])[0][0]
    reasons = explain(index, query, rows, weights, 3)
    for place, row in enumerate(rows.tolist()):
        parts = [
            weight * dict(zip(*scan(index, query, {name: 1}, 700), strict=True))[row]
            for name, weight in weights.items()
        ]
        np.testing.assert_allclose(reasons.by_condition[place], np.array(parts) / np.abs(parts).sum(), rtol=1e-9)
        for c, name in enumerate(NAMES):
            ordered = dict(zip(*scan(index, query, {name: 1}, 700, exclude=3), strict=True))
            nearer = sum(distance < ordered[row] * (1 - 1e-9) for distance in ordered.values())
            assert reasons.ranks[place, c] == nearer + 1
    assert reasons.by_dimension.shape == (4, 0)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
@pytest.mark.parametrize("by_condition", [False, True])
def test_a_file_holds_vectors_and_maps(suffix, by_condition, tmp_path):
    index = made(100, dtype=np.float16)
    path = tmp_path / f"items{suffix}"
    write_embeddings(path, index.items, by_condition=by_condition)
    read = read_embeddings(path)
    np.testing.assert_array_equal(read.maps.matrix, index.maps.matrix)
    assert read.maps.unit == index.maps.unit and read.vectors.dtype == np.float16
    opened = Index.open(path)
    for array, other in zip(opened.search("item 3", {"a": 1}), index.search("item 3", {"a": 1}), strict=True):
        np.testing.assert_array_equal(array, other)
    if by_condition and suffix == ".npz":
        with np.load(path) as arrays:
            expected = index.maps.views(index.vectors)[:, :5].astype(np.float16)
            np.testing.assert_array_equal(arrays["vec_a"], expected)


@pytest.mark.parametrize("raw", [(False, False), (False, True), (True, True)], ids=str)
def test_maps_as_text_are_exact_and_without_the_identity(raw):
    """D x D numbers of raw vectors would not fit into a request to a server."""
    rng = np.random.default_rng(0)
    maps, masks = stacked([rng.normal(size=(2, 300)).astype(np.float32) for _ in raw], unit=True)
    maps, _ = with_raw(maps, masks, np.array(raw), 0.7) if any(raw) else (maps, masks)
    text = json.loads(json.dumps(text_of(maps)))
    read = maps_of({"maps": text})
    np.testing.assert_array_equal(read.matrix, maps.matrix)
    assert read.matrix.dtype == np.float32 and read.unit is True
    assert len(text["float32"]) < 1.4 * 4 * (300 * 2 * raw.count(False) + 1) + 4


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_maps_are_in_the_digest(suffix, tmp_path, monkeypatch):
    """A file with other maps and the old digest is refused."""
    path, items = tmp_path / f"items{suffix}", made(100).items
    digest = vector_file.digest_of(items, vector_file.head_of(items))
    for maps in (items.maps._replace(unit=False), items.maps._replace(matrix=items.maps.matrix * np.float32(1.1))):
        with monkeypatch.context() as patch:
            patch.setattr(vector_file, "digest_of", lambda *_: digest)
            write_embeddings(path, items._replace(maps=maps))
        with pytest.raises(DamagedFile, match="SHA-256"):
            read_embeddings(path)
