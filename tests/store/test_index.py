"""Index: the hits of a naive float64 search, under single conditions, mixes, negative weights and filters."""

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow
import pytest
import tiny
from small_index import assert_hits, make, naive

import csn_jax
from csn_jax.errors import UserError
from csn_jax.store import candidates, search_cache
from csn_jax.store import index as module
from csn_jax.store.index import Index
from csn_jax.store.vector_file import write_embeddings

MIXTURES = ({"a": 1}, {"b": 2.5}, {"a": 1, "b": 0.25}, {"a": 1, "c": -0.5}, {"b": -1})
CASES = {
    "few": {"n": 5},
    "one block": {"n": 64},
    "several blocks": {"n": 400},
    "far from the origin": {"n": 200, "offset": 300.0},
    "tiny": {"n": 200, "scale": 1e-6},
    "huge": {"n": 60, "scale": 1e25},
    "wide": {"n": 200, "width": 70},
}
LOST = {"n": 1_000, "offset": 1_000.0, "scale": 1e-2}  # float32 cannot tell many of these apart


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(candidates, "BLOCK", 64)


@pytest.mark.parametrize("weights", MIXTURES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_hits_are_those_of_a_naive_search(case, weights, small_blocks):
    index = make(**CASES[case])
    rng = np.random.default_rng(1)
    spread = index.vectors.std(axis=0, dtype=np.float64)
    queries = index.vectors[[0, 3]] + rng.normal(size=(2, len(spread))) * 0.3 * spread
    assert_hits(index, queries, weights, 10)
    assert_hits(index, index.vectors[[2]].astype(np.float64), weights, 3, exclude=[2])


@pytest.mark.parametrize("weights", MIXTURES[2:4], ids=str)
def test_filters(weights):
    """One value, one of several, a member of a set, a whole set, and several columns; few items or none are left."""
    index = make(600)
    queries = index.vectors[:2].astype(np.float64)
    colour, tags = index.columns["colour"], [set(text.split(";")) for text in index.columns["tags"]]
    assert_hits(index, queries, weights, 7, {"colour": "red"}, passes=lambda row: colour[row] == "red")
    assert_hits(index, queries, weights, 7, {"colour": ["red", ""]}, passes=lambda row: colour[row] in ("red", ""))
    assert_hits(index, queries, weights, 7, {"tags": "u"}, passes=lambda row: "u" in tags[row])
    both = {"colour": ["red", "blue"], "tags": ["u", "v"]}
    pair = "v;w"  # the whole set, in this spelling
    passing = [row for row, text in enumerate(index.columns["tags"]) if text == pair]
    assert 0 < len(passing) < sum({"v", "w"} <= members for members in tags)  # else the next line is weak
    assert_hits(index, queries, weights, 200, {"tags": pair}, passes=lambda row: row in passing)
    assert_hits(
        index, queries, weights, 200, both, [0, 1],
        passes=lambda row: colour[row] in ("red", "blue") and bool(tags[row] & {"u", "v"}),
    )  # fmt: skip
    index.columns["colour"][:] = "red"
    index.columns["colour"][5] = "blue"
    assert_hits(index, queries, weights, 3, {"colour": "blue"}, passes=lambda row: row == 5)
    index.columns["colour"][0], index.columns["colour"][5] = "blue", "red"
    assert_hits(index, queries[:1], weights, 3, {"colour": "blue"}, [0], passes=lambda row: row == 0)  # only itself


def test_ties_keep_the_order_of_the_file():
    """Among 5,000 copies of three vectors, where far more than k items are at the k-th distance."""
    rng = np.random.default_rng(0)
    index = make(vectors=rng.normal(size=(3, 6)).astype(np.float32)[rng.integers(3, size=5_000)])
    rows, squares = index.nearest(index.vectors[:1] + 0.1, {"a": 1, "b": 1}, 300)
    alike = np.flatnonzero((index.vectors == index.vectors[rows[0, 0]]).all(axis=1))
    assert rows[0].tolist() == alike[:300].tolist() and len(set(squares[0])) == 1


def test_the_order_holds_where_float32_loses_it():
    """Of near neighbours far from the origin, float32 scores tie where distances do not. The hits are right."""
    index = make(**LOST)
    vectors = index.vectors
    queries = vectors[:3].astype(np.float64) + 1e-3
    assert_hits(index, queries, {"a": 1, "b": 0.5}, 20)
    scores = np.square(vectors) @ np.square(index.masks[0]) - 2 * vectors @ (np.square(index.masks[0]) * vectors[0])
    assert len(np.unique(scores)) < 700  # else the test is weak


def test_hits_depend_neither_on_pieces_nor_on_earlier_searches(monkeypatch):
    index = make(900)
    queries = index.vectors[:50].astype(np.float64)
    whole = index.nearest(queries, {"a": 1}, 5)
    monkeypatch.setattr(module, "PAIRS", 2_000)
    for place in (module, search_cache):
        monkeypatch.setattr(place, "PIECE", 60)
    other = make(900)
    for array, expected in zip(other.nearest(queries, {"a": 1}, 5), whole, strict=True):
        np.testing.assert_array_equal(array, expected)
    for weight in range(1, 30):
        index.search(queries[:1], {"a": weight, "b": 1}, 5)
    assert index._cache._squares.cache_info().currsize == search_cache.REMEMBERED
    for array, expected in zip(index.nearest(queries, {"a": 1}, 5), whole, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.fixture
def hasty_threads():
    """Threads that take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("accelerator", [False, True])
def test_threads_share_an_index(accelerator, hasty_threads, monkeypatch):
    """Eight threads search under more weightings than the index keeps. The hits are those of one thread."""
    monkeypatch.setattr(module, "has_accelerator", lambda: accelerator)
    monkeypatch.setattr(search_cache, "PIECE", 60)  # many short pieces, between which threads change
    queries = make(60).vectors[:1].astype(np.float64)
    mixtures = [{"a": 1, "b": weight / 7 - 1} for weight in range(24)]
    serial = [make(60).nearest(queries, weights, 5) for weights in mixtures]

    def search(index, seed):
        for i in np.random.default_rng(seed).permutation(24).tolist() * 2:
            for array, expected in zip(index.nearest(queries, mixtures[i], 5), serial[i], strict=True):
                np.testing.assert_array_equal(array, expected)

    for _ in range(1 if accelerator else 15):
        index = make(60)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(search, [index] * 8, range(8)))
        assert index._cache._squares.cache_info().currsize == search_cache.REMEMBERED


@pytest.mark.parametrize("accelerator", [False, True])
def test_an_index_with_other_items_forgets_the_squares_of_the_old_ones(accelerator, monkeypatch):
    """An index from `dataclasses.replace` finds what a new one finds. So do copies and pickles."""
    monkeypatch.setattr(module, "has_accelerator", lambda: accelerator)
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
    """Its distances are computed in float64, where all items are equally far."""
    index = make(100)
    rows, squares = index.nearest(np.full((1, 6), 1e39), {"a": 1}, 4)
    assert rows.tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(squares, 1e78 * np.sum(np.square(index.masks[0], dtype=np.float64)))


@pytest.mark.parametrize("case", [*CASES.values(), LOST], ids=str)
def test_an_accelerator_gives_the_same(case, monkeypatch):
    """JAX's CPU devices stand for one. Where their candidates may not suffice, the host takes over."""
    host = make(**case)
    queries = host.vectors[:4].astype(np.float64)
    monkeypatch.setattr(module, "has_accelerator", lambda: True)
    for weights in (MIXTURES[0], MIXTURES[3]):
        for filters in ({}, {"colour": sorted(set(host.columns["colour"]))[:2]}):
            hits = host.nearest(queries, weights, 10, filters=filters, exclude=[0, -1, 2, 3])
            with monkeypatch.context() as patch:
                patch.setattr(module, "has_accelerator", lambda: False)
                expected = host.nearest(queries, weights, 10, filters=filters, exclude=[0, -1, 2, 3])
            for array, other in zip(hits, expected, strict=True):
                np.testing.assert_array_equal(array, other)
    assert host._cache._on_device is not None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_single_condition_has_the_order_of_the_models_distance(finished, glyph_index, tmp_path, dtype):
    """On trained masks, apart from the model's 1e-6. A file in float16 opens as float32."""
    stored = csn_jax.Index.open(glyph_index).items
    write_embeddings(tmp_path / "e.npz", stored._replace(vectors=stored.vectors.astype(dtype)))
    model, index = csn_jax.load(finished), csn_jax.Index.open(tmp_path / "e.npz")
    assert index.conditions == model.conditions and index.items.model_sha256 == model.sha256
    assert index.vectors.dtype == np.float32
    np.testing.assert_array_equal(index.masks, model.masks)
    for condition in model.conditions:
        for row in (0, 17):
            distances = model.distance(index.vectors[row], index.vectors, condition).astype(np.float64)
            distances[row] = np.inf
            ids, nearest = index.search(index.vectors[[row]], {condition: 1}, 20, exclude=[row])
            np.testing.assert_allclose(nearest[0], np.sort(distances)[:20], rtol=1e-4, atol=1e-5)
            if (np.diff(np.sort(distances)[:20]) > 1e-5).all():
                assert ids[0].tolist() == index.ids[np.argsort(distances)[:20]].tolist()
    for weights in ({"character": 1}, {"font": 0.3}, {"character": 1, "font": -0.5}):
        rows, squares = index.nearest(index.vectors[:2], weights, 10)
        for i in range(2):
            expected = naive(index, index.vectors[i].tolist(), weights, 10)
            np.testing.assert_allclose(squares[i], [square for _, square in expected], rtol=1e-9, atol=1e-14)
            assert len(set(rows[i].tolist())) == 10


def test_masks_of_a_model_with_more_conditions():
    index = make()
    masks = np.concatenate([index.masks, np.ones((1, 6), np.float32)])
    wider = index.of_model("f00d", ["a", "b", "c", "new"], masks)
    assert_hits(wider, index.vectors[:2].astype(np.float64), {"new": 1, "a": -0.1}, 5)
    assert index.conditions == ("a", "b", "c")


def search(index, weights, k=3, queries=None, **options):
    return index.search(index.vectors[:1] if queries is None else queries, weights, k, **options)


def masked(index, *rows):
    """The index under the conditions a, b, ... with these masks."""
    return index.of_model("f00d", list("abc"[: len(rows)]), np.array(rows, np.float32))


ZEROS, ONES, SHAPE = [0] * 6, [1] * 6, ["queries", "finite", "[Q, 6]"]
# (call, words of the message)
REFUSED = {
    "condition": (lambda index: search(index, {"aa": 1}), ["'aa' (did you mean a?)", "a, b, c"]),
    "zeros": (lambda index: search(index, {"a": 0, "b": 0.0}), ["weights are zero (a, b)"]),
    "no weights": (lambda index: search(index, {}), ["no condition", "a, b, c"]),
    "NaN": (lambda index: search(index, {"a": float("nan")}), ["a has weight nan", "finite"]),
    "infinite": (lambda index: search(index, {"b": float("inf")}), ["b has weight inf", "finite"]),
    "too large": (lambda index: search(index, {"a": 1.7e308, "b": 1.7e308}), ["weights of a, b", "too large"]),
    "too large for float32": (lambda index: search(index, {"a": 1e300}), ["weights of a", "too large"]),
    "k": (lambda index: search(index, {"a": 1}, 0), ["k is 0", "at least 1"]),
    "column": (
        lambda index: search(index, {"a": 1}, filters={"color": "red"}),
        ["'color' (did you mean colour?)", "colour, tags"],
    ),
    "value": (
        lambda index: search(index, {"a": 1}, filters={"colour": "reed"}),
        ["'reed' (did you mean red?)", "'colour'", "blue, green, red"],
    ),
    "member": (
        lambda index: search(index, {"a": 1}, filters={"tags": ["u", "q"]}),
        ["'q'", "'tags'", "u, v, w, x, y, z"],
    ),
    "one number": (lambda index: search(index, {"a": 1}, queries=0.5), SHAPE),
    "nothing": (lambda index: search(index, {"a": 1}, queries=[None]), SHAPE),
    "a set": (lambda index: search(index, {"a": 1}, queries={"item 1"}), [*SHAPE, "a set", "ids"]),
    "vectors of two lengths": (lambda index: search(index, {"a": 1}, queries=[[1.0], [1.0, 2.0]]), SHAPE),
    "a column with a gap": (
        lambda index: search(index, {"a": 1}, queries=np.array([index.vectors[0], None], object)),
        [*SHAPE, "no value at position 1"],
    ),
    "an unknown id": (
        lambda index: search(index, "a", queries=["item 1", "itm 7"]),
        ["'itm 7' (did you mean item 7?)"],
    ),
    "a number for the condition": (lambda index: search(index, 3), ["condition is 3", "{name: weight}"]),
    "text for a weight": (lambda index: search(index, {"a": "1"}), ["a has weight '1'", "number"]),
    "k of text": (lambda index: search(index, {"a": 1}, "5"), ["k is '5'", "whole number"]),
    "one text as filters": (lambda index: search(index, "a", filters="colour=red"), ["'colour=red'", "['price<50']"]),
    "no sign": (lambda index: search(index, "a", filters=["colour"]), ["the filter colour has no value"]),
    "unknown sign": (lambda index: search(index, "a", filters={"colour": {"~": "red"}}), ["'~'", "<=", "!="]),
    "range of words": (lambda index: search(index, "a", filters=["colour<5"]), ["'colour'", "no numbers", "'blue'"]),
    "leave out of a vector": (
        lambda index: search(index, "a", leave_out_same="colour"),
        ["not an item", "'colour'", "id"],
    ),
    "leave out unknown": (
        lambda index: search(index, "a", queries="item 1", leave_out_same="color"),
        ["'color' (did you mean colour?)"],
    ),
    "narrow queries": (lambda index: search(index, {"a": 1}, queries=index.vectors[:, :4]), SHAPE),
    "NaN in a query": (lambda index: search(index, {"a": 1}, queries=np.full((1, 6), np.nan)), SHAPE),
    "dead mask": (lambda index: search(masked(index, ZEROS), {"a": 1}), ["masks of a", "zero in every dimension"]),
    "dead mask and weight 0": (
        lambda index: search(masked(index, ZEROS, ONES), {"a": 1, "b": 0}),
        ["zero in every dimension"],
    ),
    "twin masks": (lambda index: search(masked(index, ONES, ONES), {"a": 1, "b": -1}), ["masks of a, b", "cancel"]),
    "id in capitals": (
        lambda index: index.row("ITEM 39"),
        ["'ITEM 39' (did you mean item 39 or item 390 or item 391?)"],
    ),
    "misspelt id": (lambda index: index.row("itm 7"), ["'itm 7' (did you mean item 7?)", "look like item 0"]),
    "another model": (lambda index: index.of_model("beef", ["a"], index.masks[:1]), ["another model", "f00d", "beef"]),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes(mistake):
    call, words = REFUSED[mistake]
    with pytest.raises(UserError) as error:
        call(make())
    assert [word for word in words if word not in str(error.value)] == []
    assert tiny.is_one_sentence(str(error.value).removesuffix("."))


def test_the_row_of_an_id():
    assert make().row("item 3") == 3


def test_features_are_not_an_index(tmp_path):
    index = make()
    features = index.items._replace(conditions=(), masks=np.zeros((0, 6), np.float32))
    write_embeddings(tmp_path / "f.npz", features)
    with pytest.raises(UserError, match="features from embed --features"):
        Index.open(tmp_path / "f.npz")


MILLION = """
import json, sys, time
from csn_jax.store.index import Index
began = time.perf_counter()
index = Index.open(sys.argv[1])
figures, query = {"open_s": time.perf_counter() - began}, index.vectors[7:8]
def best(name, run, times):
    walls, works = [], []
    for i in range(times):
        wall, work = time.perf_counter(), time.process_time()
        run(i)
        walls.append(1e3 * (time.perf_counter() - wall))
        works.append(1e3 * (time.process_time() - work))
    figures[name + "_ms"], figures[name + "_processor_ms"] = min(walls), min(works)
best("one_query_of_a_new_mixture", lambda i: index.search(query, {"a": 1, "b": 0.1 * i - 0.5}, 10, exclude=[7]), 5)
best("one_query", lambda i: index.search(index.vectors[i : i + 1], {"a": 1}, 10, exclude=[i]), 9)
best("one_filtered", lambda i: index.search(query, {"a": 1}, 10, filters={"colour": "red"}), 3)
best("64_queries", lambda i: index.search(index.vectors[:64], {"a": 1}, 10), 2)
with open("/proc/self/status") as file:  # ru_maxrss would start with that of pytest, which forked
    figures["peak_mb"] = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1e3
figures["jax"] = "jax" in sys.modules
print(json.dumps(figures))
"""


@pytest.mark.slow
def test_a_million_items_in_less_than_800_megabytes(tmp_path, capsys):
    """1,000,000 x 64, without JAX. It also prints times, which are not tested:

    python -m pytest -m slow tests/store/test_index.py -k million -s
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
    figures = json.loads(done.stdout)
    with capsys.disabled():
        print("\n" + "\n".join(f"  {name} {value:,.1f}" for name, value in figures.items()))
    assert figures["peak_mb"] < 800 and not figures["jax"]


def test_opening_and_searching_need_no_jax(tmp_path):
    index = make(30)
    write_embeddings(tmp_path / "e.parquet", index.items)
    code = (
        "import sys, csn_jax; index = csn_jax.Index.open(sys.argv[1])\n"
        "print(index.search(index.vectors[:1], {'a': 1}, 2)[0].tolist(), 'jax' in sys.modules, 'flax' in sys.modules)"
    )
    argv = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "e.parquet")]
    done = subprocess.run(argv, capture_output=True, text=True)
    expected = index.search(index.vectors[:1], {"a": 1}, 2)[0].tolist()
    assert (done.stdout, done.stderr) == (f"{expected} False False\n", "")


def test_an_index_without_items_has_no_hits():
    ids, distances = make(0).search(np.zeros((2, 6)), {"a": 1}, 3)
    assert ids.shape == distances.shape == (2, 0)


def test_k_is_at_most_the_number_of_items():
    """Room for a trillion hits would be petabytes."""
    rows, _ = make(20).nearest(make(20).vectors[:1], "a", 10**12, exclude=[0])
    assert sorted(rows[0].tolist()) == [-1, *range(1, 20)]


def test_queries_may_be_ids_or_vectors_and_conditions_names():
    """One query gives one row. An item that is searched for by its id is not a hit."""
    index = make()
    expected, distances = index.search(index.vectors[[7, 3]], {"a": 1}, 5, exclude=[7, 3])
    for queries in (["item 7", "item 3"], np.array(["item 7", "item 3"]), pyarrow.array(["item 7", "item 3"])):
        ids, found = index.search(queries, "a", 5)
        assert ids.tolist() == expected.tolist() and found.tolist() == distances.tolist()
    ids, found = index.search("item 7", "a", 5)
    assert ids.tolist() == expected[0].tolist() and found.tolist() == distances[0].tolist()
    assert index.search("item 7", "a")[0].shape == (10,)
    vectors = index.vectors[[7, 3]].astype(np.float64)
    column = np.empty(2, object)  # as pandas and Polars give vectors
    column[:] = list(vectors)
    chunks = pyarrow.chunked_array([pyarrow.array(list(vectors))])
    for queries in (vectors.tolist(), list(vectors), column, chunks):
        ids, _ = index.search(queries, ["a", "b"], 5, exclude=[7, 3])
        assert ids.tolist() == index.search(vectors, {"a": 1, "b": 1}, 5, exclude=[7, 3])[0].tolist()
    assert index.search(vectors[0], "c", 3)[0].tolist() == index.search(vectors, "c", 3)[0][0].tolist()
    numbers = dataclasses.replace(index, items=index.items._replace(ids=np.arange(400).astype(str).astype(object)))
    assert numbers.search(7, "a", 5)[0].tolist() == [item.split()[1] for item in expected[0].tolist()]


def test_hits_that_share_a_value_with_the_query_can_be_left_out():
    """As the other photos of a product; of a set, one shared member is enough. A blank value is shared by none."""
    index = make(60)
    for column in ("colour", "tags"):
        values = [set(value.split(";")) - {""} for value in index.columns[column]]
        queries = [next(row for row in range(60) if values[row]), next(row for row in range(60) if not values[row])]
        rows, _ = index.nearest(index.vectors[queries], "a", 60, exclude=queries, leave_out_same=column)
        for query, hits in zip(queries, rows, strict=True):
            left = {row for row in range(60) if row != query and not values[row] & values[query]}
            assert {*hits.tolist()} - {-1} == left
        filtered, _ = index.nearest(
            index.vectors[queries], "a", 60, exclude=queries, leave_out_same=column, filters={"colour": ["red", "blue"]}
        )
        kept = [row for row in rows[0].tolist() if row >= 0 and index.columns["colour"][row] in ("red", "blue")]
        assert [row for row in filtered[0].tolist() if row >= 0] == kept
