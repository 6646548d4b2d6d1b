"""Index: the hits of a naive float64 scan, under single conditions, mixtures, negative weights and filters."""

import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny

import csn_jax
from csn_jax.data.item_set import Condition
from csn_jax.errors import UserError
from csn_jax.search.explain import exemplars, explain, owner
from csn_jax.store import index as module
from csn_jax.store import search_cache
from csn_jax.store.index import Index
from csn_jax.store.vector_file import Embeddings, write_embeddings

MIXTURES = ({"a": 1}, {"b": 2.5}, {"a": 1, "b": 0.25}, {"a": 1, "c": -0.5}, {"b": -1})


def make(n=400, width=6, *, scale=1.0, offset=0.0, seed=0, vectors=None) -> Index:
    """N items under masks with zeros, of which the last condition's is a single dimension."""
    rng = np.random.default_rng(seed)
    masks = np.maximum(rng.normal(0.3, 0.8, (3, width)), 0).astype(np.float32)
    masks[0, 0], masks[2] = 0.7, np.eye(width)[1] * 1.3
    if vectors is None:
        vectors = (rng.normal(size=(n, width)) * scale + offset).astype(np.float32)
    n = len(vectors)
    columns = {
        "colour": rng.choice(["red", "green", "blue", ""], n).astype(object),
        "tags": np.array(
            [";".join(rng.choice(list("uvwxyz"), rng.integers(0, 3), replace=False)) for _ in range(n)], object
        ),
    }
    conditions = tuple(Condition(name, "categorical") for name in "abc")
    items = Embeddings(
        np.array([f"item {i}" for i in range(n)], object), vectors, columns, conditions, masks, "f00d", {}
    )
    return Index(items, tuple("abc"), masks)


def naive(index, query, weights, k, passes=lambda row: True) -> list[tuple[int, float]]:
    """(row, squared distance) of the nearest k, an item and a dimension at a time in float64."""
    found = []
    for row, item in enumerate(index.vectors.tolist()):
        if passes(row):
            square = 0.0
            for name, weight in weights.items():
                mask = index.masks[index.conditions.index(name)].tolist()
                square += weight * math.fsum((m * (q - x)) ** 2 for m, q, x in zip(mask, query, item, strict=True))
            found.append((square, row))
    return [(row, square) for square, row in sorted(found)[:k]]


def assert_hits(index, queries, weights, k, filters=None, exclude=None, passes=lambda row: True) -> None:
    rows, squares = index.nearest(queries, weights, k, filters=filters, exclude=exclude)
    ids, distances = index.search(queries, weights, k, filters=filters, exclude=exclude)
    assert rows.shape == squares.shape == ids.shape == distances.shape == (len(queries), k)
    assert distances.dtype == np.float32 and ids.dtype.kind == "U"
    for i, query in enumerate(queries):
        expected = naive(
            index, query, weights, k, lambda row, i=i: passes(row) and row != (exclude or [-1] * (i + 1))[i]
        )
        n = len(expected)
        values = [square for _, square in expected]
        # Ties aside: what is equal in float64's rounding may stand in any order.
        scale = max(1e-300, *np.abs(values)) if values else 1
        np.testing.assert_allclose(squares[i, :n], values, rtol=1e-12, atol=1e-12 * scale)
        if len(set(np.round(np.array(values) / scale, 11))) == n:
            assert rows[i, :n].tolist() == [row for row, _ in expected]
        assert ids[i].tolist() == [f"item {row}" for row in rows[i, :n]] + [""] * (k - n)
        assert (rows[i, n:] == -1).all() and np.isinf(distances[i, n:]).all()
        roots = [math.copysign(math.sqrt(abs(value)), value) for value in values]
        np.testing.assert_allclose(distances[i, :n], roots, rtol=1e-6, atol=1e-7 * math.sqrt(scale))


CASES = {
    "few": {"n": 5},
    "one block": {"n": 400},
    "several blocks": {"n": 2_600},
    "far from the origin": {"n": 500, "offset": 300.0},
    "tiny": {"n": 500, "scale": 1e-6},
    "huge": {"n": 60, "scale": 1e25},
    "wide": {"n": 300, "width": 70},
}


LOST = {"n": 3_000, "offset": 1_000.0, "scale": 1e-2}  # on float32


@pytest.mark.parametrize("weights", MIXTURES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_hits_are_those_of_a_naive_scan(case, weights):
    index = make(**CASES[case])
    rng = np.random.default_rng(1)
    spread = index.vectors.std(axis=0, dtype=np.float64)
    queries = index.vectors[[0, 3]] + rng.normal(size=(2, len(spread))) * 0.3 * spread
    assert_hits(index, queries, weights, 10)
    assert_hits(index, index.vectors[[2]].astype(np.float64), weights, 3, exclude=[2])


@pytest.mark.parametrize("weights", MIXTURES[2:4], ids=str)
def test_filters(weights):
    """One value, one of several, members of sets, whole sets, several columns that must all pass; few or none left."""
    index = make(600)
    queries = index.vectors[:2].astype(np.float64)
    colour, tags = index.columns["colour"], [set(text.split(";")) for text in index.columns["tags"]]
    assert_hits(index, queries, weights, 7, {"colour": "red"}, passes=lambda row: colour[row] == "red")
    assert_hits(index, queries, weights, 7, {"colour": ["red", ""]}, passes=lambda row: colour[row] in ("red", ""))
    assert_hits(index, queries, weights, 7, {"tags": "u"}, passes=lambda row: "u" in tags[row])
    both = {"colour": ["red", "blue"], "tags": ["u", "v"]}
    pair = "v;w"  # the whole set, in this spelling
    passing = [row for row, text in enumerate(index.columns["tags"]) if text == pair]
    assert 0 < len(passing) < sum({"v", "w"} <= members for members in tags)  # else the next line would say little
    assert_hits(index, queries, weights, 200, {"tags": pair}, passes=lambda row: row in passing)
    assert_hits(
        index, queries, weights, 200, both, [0, 1],
        passes=lambda row: colour[row] in ("red", "blue") and bool(tags[row] & {"u", "v"}),
    )  # fmt: skip
    index.columns["colour"][:] = "red"
    index.columns["colour"][5] = "blue"
    assert_hits(index, queries, weights, 3, {"colour": "blue"}, passes=lambda row: row == 5)
    index.columns["colour"][0], index.columns["colour"][5] = "blue", "red"
    assert_hits(index, queries[:1], weights, 3, {"colour": "blue"}, [0], passes=lambda row: row == 0)  # itself only


def test_ties_stand_in_the_order_of_the_file():
    """Among 5,000 copies of three vectors, so that far more are at the k-th distance than are asked for."""
    rng = np.random.default_rng(0)
    index = make(vectors=rng.normal(size=(3, 6)).astype(np.float32)[rng.integers(3, size=5_000)])
    rows, squares = index.nearest(index.vectors[:1] + 0.1, {"a": 1, "b": 1}, 300)
    alike = np.flatnonzero((index.vectors == index.vectors[rows[0, 0]]).all(axis=1))
    assert rows[0].tolist() == alike[:300].tolist() and len(set(squares[0])) == 1


def test_the_order_holds_where_float32_loses_it():
    """Near neighbours far from the origin: the bits of a float32 score do not tell them apart, the hits are right."""
    index = make(**LOST)
    vectors = index.vectors
    queries = vectors[:3].astype(np.float64) + 1e-3
    assert_hits(index, queries, {"a": 1, "b": 0.5}, 20)
    scores = np.square(vectors) @ np.square(index.masks[0]) - 2 * vectors @ (np.square(index.masks[0]) * vectors[0])
    assert len(np.unique(scores)) < 2_000  # else the test would say little


def test_queries_in_pieces_and_remembered_squares(monkeypatch):
    """However many queries go together, and however many weightings came before."""
    index = make(900)
    queries = index.vectors[:50].astype(np.float64)
    whole = index.nearest(queries, {"a": 1}, 5)
    monkeypatch.setattr(module, "PAIRS", 2_000)
    for place in (module, search_cache):
        monkeypatch.setattr(place, "PIECE", 60)
    other = make(900)
    for found, expected in zip(other.nearest(queries, {"a": 1}, 5), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
    for weight in range(1, 30):
        index.search(queries[:1], {"a": weight, "b": 1}, 5)
    assert len(index._cache._squares) == search_cache.REMEMBERED
    for found, expected in zip(index.nearest(queries, {"a": 1}, 5), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.fixture
def hasty_threads():
    """Threads that take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("accelerator", [False, True])
def test_threads_share_an_index(accelerator, hasty_threads, monkeypatch):
    """Eight threads search under more weightings than the index remembers. The answers are those of one thread."""
    monkeypatch.setattr(module, "_accelerator", lambda: accelerator)
    monkeypatch.setattr(search_cache, "PIECE", 60)  # many turns of a loop, between which threads change
    queries = make(60).vectors[:1].astype(np.float64)
    mixtures = [{"a": 1, "b": weight / 7 - 1} for weight in range(24)]
    serial = [make(60).nearest(queries, weights, 5) for weights in mixtures]

    def search(index, seed):
        for i in np.random.default_rng(seed).permutation(24).tolist() * 2:
            for found, expected in zip(index.nearest(queries, mixtures[i], 5), serial[i], strict=True):
                np.testing.assert_array_equal(found, expected)

    for _ in range(1 if accelerator else 15):
        index = make(60)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(search, [index] * 8, range(8)))
        assert len(index._cache._squares) == search_cache.REMEMBERED


@pytest.mark.parametrize("accelerator", [False, True])
def test_an_index_with_other_items_forgets_the_squares_of_the_old_ones(accelerator, monkeypatch):
    """`dataclasses.replace` finds what a new index of the new items finds. Copies and pickles work, too."""
    monkeypatch.setattr(module, "_accelerator", lambda: accelerator)
    index, other = make(200), make(200, scale=5.0, seed=1)
    queries = index.vectors[:3].astype(np.float64)
    index.nearest(queries, {"a": 1}, 5)
    replaced = dataclasses.replace(index, items=index.items._replace(vectors=other.vectors))
    assert_hits(replaced, queries, {"a": 1}, 5)
    for copied in (copy.copy(replaced), copy.deepcopy(replaced), pickle.loads(pickle.dumps(replaced))):
        assert_hits(copied, queries, {"a": 1}, 5)
    with pytest.raises((TypeError, ValueError), match="init"):
        dataclasses.replace(index, _cache=index._cache)


def test_a_query_that_float32_cannot_hold():
    """Its distances are taken in float64, where all items are as far."""
    index = make(100)
    rows, squares = index.nearest(np.full((1, 6), 1e39), {"a": 1}, 4)
    assert rows.tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(squares, 1e78 * np.sum(np.square(index.masks[0], dtype=np.float64)))


@pytest.mark.parametrize("case", [*CASES.values(), LOST], ids=str)
def test_an_accelerator_gives_the_same(case, monkeypatch):
    """By JAX on the devices of this test; where its candidates may not suffice, the host takes over."""
    host = make(**case)
    queries = host.vectors[:4].astype(np.float64)
    monkeypatch.setattr(module, "_accelerator", lambda: True)
    for weights in (MIXTURES[0], MIXTURES[3]):
        for filters in ({}, {"colour": sorted(set(host.columns["colour"]))[:2]}):
            found = host.nearest(queries, weights, 10, filters=filters, exclude=[0, -1, 2, 3])
            with monkeypatch.context() as patch:
                patch.setattr(module, "_accelerator", lambda: False)
                expected = host.nearest(queries, weights, 10, filters=filters, exclude=[0, -1, 2, 3])
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
    assert host._cache._on_device is not None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_single_condition_has_the_order_of_the_models_distance(finished, tmp_path, dtype):
    """On trained masks, from the file that embed writes, opened without JAX; the model's 1e-6 aside."""
    tiny_index = tmp_path / "e.parquet"
    done = tiny.command("embed", f"--workdir={finished}", "--split=test", f"--out={tiny_index}", f"--dtype={dtype}")
    assert done.returncode == 0, done.stderr
    model, index = csn_jax.load(finished), csn_jax.Index.open(tiny_index)
    assert index.conditions == model.conditions and index.items.model_sha256 == model.sha256
    assert index.vectors.dtype == np.float32
    np.testing.assert_array_equal(index.masks, model.masks)
    for condition in model.conditions:
        for row in (0, 17):
            distances = model.distance(index.vectors[row], index.vectors, condition).astype(np.float64)
            distances[row] = np.inf
            ids, found = index.search(index.vectors[[row]], {condition: 1}, 20, exclude=[row])
            np.testing.assert_allclose(found[0], np.sort(distances)[:20], rtol=1e-4, atol=1e-5)
            clear = np.diff(np.sort(distances)[:21]) > 1e-5
            order = np.argsort(distances)[:20]
            if clear[:19].all():
                assert ids[0].tolist() == index.ids[order].tolist()
    for weights in ({"character": 1}, {"font": 0.3}, {"character": 1, "font": -0.5}):  # trained masks, naive scan
        rows, squares = index.nearest(index.vectors[:2], weights, 10)
        for i in range(2):
            expected = naive(index, index.vectors[i].tolist(), weights, 10)
            np.testing.assert_allclose(squares[i], [square for _, square in expected], rtol=1e-9, atol=1e-14)
            assert len(set(rows[i].tolist())) == 10


def test_masks_of_a_model_with_more_conditions():
    """Another model's are refused by digest."""
    index = make()
    masks = np.concatenate([index.masks, np.ones((1, 6), np.float32)])
    wider = index.of_model("f00d", ["a", "b", "c", "new"], masks)
    assert_hits(wider, index.vectors[:2].astype(np.float64), {"new": 1, "a": -0.1}, 5)
    assert index.conditions == ("a", "b", "c")
    with pytest.raises(UserError, match="made by another model") as error:
        index.of_model("beef", ["a", "b", "c"], index.masks)
    assert tiny.is_one_sentence(str(error.value).removesuffix("."))


@pytest.mark.parametrize(
    ("weights", "k", "more", "match"),
    [
        ({"aa": 1}, 3, {}, r"unknown condition 'aa' \(did you mean a\?\); the index has a, b, c"),
        ({"a": 0, "b": 0.0}, 3, {}, r"all weights are zero \(a, b\)"),
        ({}, 3, {}, "no condition is given"),
        ({"a": float("nan")}, 3, {}, "a has weight nan"),
        ({"b": float("inf")}, 3, {}, "b has weight inf"),
        ({"a": 1}, 0, {}, "k is 0"),
        ({"a": 1}, 3, {"filters": {"color": "red"}}, r"no column 'color' \(did you mean colour\?\).*colour, tags"),
        ({"a": 1}, 3, {"filters": {"colour": "reed"}}, r"no item has 'reed' \(did you mean red\?\) in column 'colour'"),
        ({"a": 1}, 3, {"filters": {"tags": ["u", "q"]}}, "no item has 'q' in column 'tags'; it has u, v, w, x, y, z"),
    ],
)
def test_what_is_refused(weights, k, more, match):
    index = make()
    with pytest.raises(UserError, match=match) as error:
        index.search(index.vectors[:1], weights, k, **more)
    assert tiny.is_one_sentence(str(error.value).removesuffix("."))


def test_queries_of_another_shape_dead_masks_and_unknown_ids():
    index = make()
    for queries in (index.vectors[0], index.vectors[:, :4], np.full((1, 6), np.nan)):
        with pytest.raises(UserError, match=r"give finite embeddings \[Q, 6\]"):
            index.search(queries, {"a": 1}, 1)
    dead = index.of_model("f00d", ["a"], np.zeros((1, 6), np.float32))
    with pytest.raises(UserError, match="masks of a are zero in every dimension"):
        dead.search(index.vectors[:1], {"a": 1}, 1)
    dead = index.of_model("f00d", ["a", "b"], np.array([[0] * 6, [1] * 6], np.float32))
    with pytest.raises(UserError, match="are zero in every dimension"):  # b takes no part
        dead.search(index.vectors[:1], {"a": 1, "b": 0}, 1)
    twins = index.of_model("f00d", ["a", "b"], np.ones((2, 6), np.float32))
    with pytest.raises(UserError, match="masks of a, b cancel each other out"):
        twins.search(index.vectors[:1], {"a": 1, "b": -1}, 1)
    assert index.row("item 3") == 3
    with pytest.raises(UserError, match=r"'ITEM 39' \(did you mean item 39 or item 390 or item 391\?\)"):
        index.row("ITEM 39")
    with pytest.raises(UserError, match=r"the id 'itm 7' \(did you mean item 7\?\); its ids are like item 0"):
        index.row("itm 7")


def test_features_are_no_index(tmp_path):
    index = make()
    features = index.items._replace(conditions=(), masks=np.zeros((0, 6), np.float32))
    write_embeddings(tmp_path / "f.npz", features)
    with pytest.raises(UserError, match="features that embed --features wrote"):
        Index.open(tmp_path / "f.npz")


@pytest.mark.parametrize("weights", [{"a": 1}, {"a": 1, "b": 0.3}, {"a": 1, "c": -0.5}], ids=str)
def test_reasons_equal_a_naive_loop(weights, monkeypatch):
    """Shares of the squared distance by condition and dimension, and places under each condition, by single items."""
    monkeypatch.setattr("csn_jax.search.explain.PIECE", 64)
    index = make(200)
    query = index.vectors[70].astype(np.float64)
    rows, squares = index.nearest(query[None], weights, 6, exclude=[70])
    found = explain(index, query, rows[0], weights, 70)
    assert found.by_condition.shape == (6, len(weights)) and found.by_dimension.shape == (6, 6)
    for hit, row in enumerate(rows[0].tolist()):
        item = index.vectors[row].tolist()
        parts = {}
        for name, weight in weights.items():
            mask = index.masks["abc".index(name)].tolist()
            parts[name] = [weight * (m * (q - x)) ** 2 for m, q, x in zip(mask, query, item, strict=True)]
        by_condition = [math.fsum(values) for values in parts.values()]
        by_dimension = [math.fsum(values) for values in zip(*parts.values(), strict=True)]
        assert math.fsum(by_condition) == pytest.approx(squares[0, hit], rel=1e-12)
        for shares, part in ((found.by_condition[hit], by_condition), (found.by_dimension[hit], by_dimension)):
            np.testing.assert_allclose(shares, np.array(part) / np.abs(part).sum(), rtol=1e-12)
            assert np.abs(shares).sum() == pytest.approx(1)
        for c, name in enumerate("abc"):
            ranked = [other for other, _ in naive(index, query, {name: 1}, 200, lambda other: other != 70)]
            assert found.places[hit, c] == ranked.index(row) + 1
    same = explain(index, query, [70], weights)
    assert not same.by_condition.any() and not same.by_dimension.any() and same.places.tolist() == [[1, 1, 1]]


def test_exemplars_and_owners_of_dimensions():
    index = make(50)
    for dimension in range(6):
        low, high = exemplars(index, dimension, 3)
        ranked = sorted(range(50), key=lambda row: index.vectors[row, dimension])
        assert low.tolist() == ranked[:3] and high.tolist() == ranked[-3:]
        assert index.masks[:, dimension].max() == index.masks["abc".index(owner(index, dimension)), dimension]


MILLION = """
import json, sys, time
from csn_jax.index import Index
began = time.perf_counter()
index = Index.open(sys.argv[1])
told, query = {"open_s": time.perf_counter() - began}, index.vectors[7:8]
def best(name, run, times):
    walls, works = [], []
    for i in range(times):
        wall, work = time.perf_counter(), time.process_time()
        run(i)
        walls.append(1e3 * (time.perf_counter() - wall))
        works.append(1e3 * (time.process_time() - work))
    told[name + "_ms"], told[name + "_processor_ms"] = min(walls), min(works)
best("one_query_of_a_new_mixture", lambda i: index.search(query, {"a": 1, "b": 0.1 * i - 0.5}, 10, exclude=[7]), 5)
best("one_query", lambda i: index.search(index.vectors[i : i + 1], {"a": 1}, 10, exclude=[i]), 9)
best("one_filtered", lambda i: index.search(query, {"a": 1}, 10, filters={"colour": "red"}), 3)
best("64_queries", lambda i: index.search(index.vectors[:64], {"a": 1}, 10), 2)
with open("/proc/self/status") as file:  # ru_maxrss would begin with that of pytest, which forked
    told["peak_mb"] = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1e3
told["jax"] = "jax" in sys.modules
print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_million_items_in_less_than_800_megabytes(tmp_path, capsys):
    """1,000,000 x 64, without JAX. Prints the times besides, which are no part of the test:

    python -m pytest -m slow tests/test_index.py -k million -s
    """
    rng = np.random.default_rng(0)
    n = 1_000_000
    base = make(2, 64)
    colours = np.array(["red", "green", "blue"], object)[rng.integers(3, size=n)]
    items = base.items._replace(
        ids=np.array([f"images/{i}.jpg" for i in range(n)], object),
        vectors=rng.standard_normal((n, 64), dtype=np.float32),
        columns={"colour": colours, "tags": colours, "more": colours},
    )
    write_embeddings(tmp_path / "million.parquet", items)
    done = subprocess.run(
        [sys.executable, "-c", MILLION, str(tmp_path / "million.parquet")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    with capsys.disabled():
        print("\n" + "\n".join(f"  {name} {value:,.1f}" for name, value in told.items()))
    assert told["peak_mb"] < 800 and not told["jax"]


def test_opening_and_searching_need_no_jax(tmp_path):
    index = make(30)
    write_embeddings(tmp_path / "e.parquet", index.items)
    code = (
        "import sys, csn_jax; index = csn_jax.Index.open(sys.argv[1])\n"
        "print(index.search(index.vectors[:1], {'a': 1}, 2)[0].tolist(), 'jax' in sys.modules, 'flax' in sys.modules)"
    )
    path = str(Path(tmp_path / "e.parquet"))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, path], capture_output=True, text=True)
    expected = index.search(index.vectors[:1], {"a": 1}, 2)[0].tolist()
    assert (done.stdout, done.stderr) == (f"{expected} False False\n", "")


def test_an_index_without_items_has_no_hits():
    ids, distances = make(0).search(np.zeros((2, 6)), {"a": 1}, 3)
    assert ids.tolist() == [[""] * 3] * 2 and np.isinf(distances).all()


def test_weights_too_large_to_add_up_are_refused():
    with pytest.raises(UserError, match="the weights of a, b are too large to add up"):
        make().search(np.zeros((1, 6)), {"a": 1.7e308, "b": 1.7e308}, 2)
