"""Search in Qdrant, embedded in this process: it finds what Index finds, and refuses what it cannot search. The
server of CSN_JAX_QDRANT, where there is one, must find the same."""

import dataclasses
import gc
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import qdrant
from small_index import clumps
from test_cli import assert_message, run

import csn_jax
from csn_jax import embed, search
from csn_jax.core.maps import stacked, with_raw
from csn_jax.errors import UserError
from csn_jax.model.run import Run
from csn_jax.search.qdrant_search import Collection, _checked_maps
from csn_jax.store.filters import passing
from csn_jax.store.index import Index
from csn_jax.store.qdrant import connected, upload

# `connected` silences this while a command runs. The fixture `collection` stays open between tests.
pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact")
N = 240
MIXTURES = [
    {"style": 1},
    {'a/b: 5%?"': 2},
    {"one": 1},
    {"style": 1, 'a/b: 5%?"': 0.4},
    {"style": 0.2, "one": 1, "dead": 3},
    {"style": 1, 'a/b: 5%?"': -0.5},
    {"style": -1},
]
FILTERS = [
    {"colour": ["red"]},
    {"colour": ["red", ""]},
    {"tags": ["b"]},
    {"tags": ["a;b"]},
    {"tags": ["a;b", "c"], "kind of.shoe": ["y"], "colour": [""]},
    {"colour": {"!=": ["red", ""]}},
    {"price": {"<": 20, ">=": "3.5"}, "tags": {"!=": "c"}},
    ["price>1000"],
]


@pytest.fixture(scope="module")
def index():
    items = clumps(N)
    return Index(items, tuple(name for name, _ in items.conditions), items.masks)


@pytest.fixture(scope="module", params=qdrant.KINDS)
def collection(request, index, tmp_path_factory):
    with qdrant.place(request.param, tmp_path_factory.mktemp("qdrant")) as (where, name):
        assert upload(index.items, where, name) == (N, 0)
        with connected(where, "--qdrant") as client:
            yield Collection.open(client, "" if request.param == "folder" else name, "--qdrant")


def ids_of(hits, k=None) -> np.ndarray:
    """[Q, k], empty after the last hit."""
    ids = np.where(hits.rows < 0, "", hits.index.ids[hits.rows])
    return ids if k is None else np.pad(ids, ((0, 0), (0, k - ids.shape[1])), constant_values="")


@pytest.mark.parametrize("weights", MIXTURES, ids=str)
def test_hits_are_those_of_index(index, collection, weights):
    """Embedded, Qdrant is exact, and so are single conditions and negative weights. Distances are those of Index."""
    rows = np.arange(0, N, 8)
    vectors, own = index.vectors[rows], index.ids[rows].tolist()
    candidates = 60 if len(weights) > 1 else 1  # with many candidates, ranking them again would hide the engine's order
    hits = collection.search(vectors, own, weights, 10, filters={}, candidates=candidates)
    expected, squares = index.nearest(vectors, weights, 10, exclude=rows)
    ids, expected_ids = ids_of(hits), index.ids[expected]
    if len(weights) == 1 or min(weights.values()) < 0:
        assert (ids == expected_ids).all()
        np.testing.assert_allclose(hits.squares, squares, rtol=1e-12, atol=1e-12)
    else:
        pairs = zip(ids.tolist(), expected_ids.tolist(), strict=True)
        assert np.mean([len({*a} & {*b}) / 10 for a, b in pairs]) >= 0.97
    assert hits.index.ids[hits.own].tolist() == own
    np.testing.assert_array_equal(hits.index.vectors[hits.own], vectors)


def test_more_candidates_find_more_of_a_mix(index, collection):
    """One candidate per condition is not enough, and all items are. One query per call, as calls share candidates."""
    rows = np.arange(0, N, 8)
    expected, _ = index.nearest(index.vectors[rows], MIXTURES[3], 3, exclude=rows)

    def recall(candidates):
        right = 0
        for row, true in zip(rows, expected, strict=True):
            argv = (index.vectors[[row]], [index.ids[row]], MIXTURES[3], 3)
            hits = collection.search(*argv, filters={}, candidates=candidates)
            assert (hits.rows >= 0).all()
            right += len({*ids_of(hits)[0]} & {*index.ids[true]})
        return right / expected.size

    few, more, every = recall(1), recall(20), recall(N)
    assert few < 0.9 < more <= every == 1


def test_an_item_that_is_not_left_out_is_its_own_nearest(index, collection):
    hits = collection.search(index.vectors[[5]], [""], MIXTURES[3], 3, filters={}, candidates=9)
    assert ids_of(hits)[0, 0] == index.ids[5] and hits.squares[0, 0] == 0 and hits.own == [-1]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("weights", [MIXTURES[0], MIXTURES[5]], ids=str)
def test_filters_are_those_of_index(index, collection, filters, weights):
    """Alternatives, missing values, members of sets and whole sets."""
    rows = range(0, N, 12)
    vectors, own = index.vectors[rows], index.ids[rows].tolist()
    hits = collection.search(vectors, own, weights, 60, filters=filters, candidates=60)
    expected, _ = index.search(vectors, weights, 60, filters=filters, exclude=rows)
    assert (ids_of(hits, 60) == expected).all()
    assert (passing(index.columns, filters, "").sum() < 60) == (expected == "").any()


def test_a_filter_that_only_the_query_passes_leaves_nothing(tmp_path):
    few = clumps(3)._replace(columns={"colour": np.array(["red", "blue", "blue"], object)})
    upload(few, str(tmp_path / "q"), "few")
    with connected(str(tmp_path / "q"), "--qdrant") as client:
        argv = (few.vectors[:1], [few.ids[0]], {"style": 1}, 2)
        hits = Collection.open(client, "few", "").search(*argv, filters={"colour": ["red"]}, candidates=60)
    assert ids_of(hits, 2).tolist() == [["", ""]] and hits.index.ids[hits.own].tolist() == [few.ids[0]]


@pytest.fixture(scope="module")
def shop_store(shop_runs, tmp_path_factory):
    """The embedded shop (file, folder of Qdrant). Ids are image paths."""
    place = tmp_path_factory.mktemp("stores")
    out, store = place / "shop.parquet", place / "q"
    argv = (f"--workdir={shop_runs / 'pictures'}", f"--table={shop_runs / 'products.csv'}")
    embed.main([*argv, f"--out={out}", f"--to_qdrant={store}"])
    return out, store


def printed_by(capsys, *argv: str) -> str:
    capsys.readouterr()
    search.main(argv)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("--condition=colour", "--json"),
        ("--condition=colour",),
        ("--condition", "colour", "category=0.5", "--filter", "colour=red", "colour=blue", "--candidates=30", "--json"),
        ("--condition", "colour", "category=-0.5", "--filter", "product=p3", "product=p9"),
    ],
    ids=str,
)
def test_the_command_prints_the_same_as_for_the_file(shop_store, words, capsys):
    argv = ("--id=images/007.jpg", "--k=6", *words)
    file, store = (printed_by(capsys, place, *argv) for place in places(shop_store))
    assert file == store and "images/0" in file


def places(shop_store) -> tuple[str, str]:
    return f"--index={shop_store[0]}", f"--qdrant={shop_store[1]}"


@pytest.mark.slow
def test_queries_by_image(shop_store, shop_runs, tmp_path, capsys):
    """An item's own file is the item, so it is not a hit, and the sheet shows it. A folder has an answer per image."""
    for argv in (
        (f"--image={shop_runs / 'images/013.jpg'}", "--k=6", f"--save={tmp_path / 's.png'}"),
        (f"--image={shop_runs / 'images'}", "--k=3"),
    ):
        argv = (*argv, f"--workdir={shop_runs / 'pictures'}", "--condition=colour", "--json")
        answers, sheets = [], []
        for place in places(shop_store):
            answers.append(json.loads(printed_by(capsys, place, *argv)))
            sheets.append((tmp_path / "s.png").read_bytes())
        assert answers[0] == answers[1] and sheets[0] == sheets[1]


ITEM = ("--id=images/007.jpg", "--condition=colour")
# (flags, words of the message); STORE stands for the shop's folder of Qdrant
FLAGS = {
    "nowhere": ((), ["--index=FILE", "--qdrant=FOLDER_OR_URL"]),
    "reasons": (("--qdrant=STORE", "--explain"), ["--explain", "--index=FILE"]),
    "unknown collection": (("--qdrant=STORE", "--collection=shpo"), ["'shpo' (did you mean shop?)"]),
    "unknown column": (("--qdrant=STORE", "--filter=color=red"), ["'color' (did you mean colour?)"]),
    "unknown value": (
        ("--qdrant=STORE", "--filter=colour=rad"),
        ["'rad' (did you mean red?)", "'colour'", "blue, green, red"],
    ),
    "unknown condition": (("--qdrant=STORE", "--condition=color"), ["'color' (did you mean colour?)"]),
    "unknown id": (
        ("--qdrant=STORE", "--id=images/7.jpg"),
        ["collection 'shop'", "'images/7.jpg'", "look like images/"],
    ),
    "not a folder": (("--qdrant=STORE/none",), ["not a folder of Qdrant"]),
    "host without http": (("--qdrant=localhost:6333",), ["http://HOST:6333"]),
}


@pytest.mark.parametrize("mistake", FLAGS)
def test_mistakes(shop_store, mistake, monkeypatch, capsys):
    argv, words = FLAGS[mistake]
    argv = [word.replace("STORE", str(shop_store[1])) for word in argv]
    assert_message(*run(search, monkeypatch, capsys, *ITEM, *argv), 2, *words)
    assert not (shop_store[1] / "none").exists()


def test_another_model_is_refused(shop_store, shop_runs, monkeypatch, capsys):
    """By its digest, and by a mask that changed. A condition that it learned since is accepted."""
    model = csn_jax.load(shop_runs / "pictures")
    argv = (f"--qdrant={shop_store[1]}", f"--workdir={shop_runs / 'pictures'}", *ITEM)
    wider = model.with_masks((*model.conditions, "new"), np.concatenate([model.masks, model.masks[:1]]))
    monkeypatch.setattr(Run, "model", lambda run: wider)
    assert "nearest by colour" in printed_by(capsys, *argv)
    monkeypatch.setattr(Run, "model", lambda run: model.with_masks(model.conditions, model.masks * 2))
    assert_message(*run(search, monkeypatch, capsys, *argv), 2, "mask of category", "--rebuild")
    monkeypatch.setattr(Run, "model", lambda run: dataclasses.replace(model, _digest=lambda: "c" * 64))
    assert_message(*run(search, monkeypatch, capsys, *argv), 2, "another model")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # a client that cannot open a folder leaves it
def test_a_folder_in_use(shop_store, monkeypatch, capsys):
    code = "import sys, qdrant_client\nkept = qdrant_client.QdrantClient(path=sys.argv[1])\nprint(flush=True)\ninput()"
    argv = [sys.executable, "-c", code, str(shop_store[1])]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        refusal = run(search, monkeypatch, capsys, f"--qdrant={shop_store[1]}", *ITEM)
        other.communicate("\n")
    assert_message(*refusal, 2, "in use by another process")
    gc.collect()


class Answering(BaseHTTPRequestHandler):
    """A server that answers every request with `status` and records the keys."""

    status, keys = 200, []

    def do_GET(self):
        self.keys.append(self.headers.get("api-key"))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_servers_that_fail(monkeypatch, capsys):
    """A refused key is the user's mistake. A server that fails or does not listen exits 1. No message shows the key."""
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        url = f"--qdrant=http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("QDRANT_API_KEY", "secret")
        try:
            for status, expected, words in ((403, 2, "QDRANT_API_KEY"), (500, 1, "answers 500")):
                Answering.status = status
                code, message = run(search, monkeypatch, capsys, url, *ITEM)
                assert_message(code, message, expected, words)
                assert "secret" not in message
        finally:
            server.shutdown()
            thread.join()
    assert set(Answering.keys) == {"secret"}
    assert_message(*run(search, monkeypatch, capsys, url, *ITEM), 1, "cannot be reached")


def test_a_collection_of_maps_stores_views(tmp_path):
    """One named vector of as many numbers as the map has rows; hits are those of Index, and other maps are refused."""
    rng = np.random.default_rng(1)
    plain = clumps(N)._replace(conditions=clumps(1).conditions[:3])
    maps, masks = stacked([rng.normal(size=(rank, 8)).astype(np.float32) for rank in (3, 2)], unit=True)
    maps, masks = with_raw(maps, np.concatenate([masks, 0 * masks[:1]]), np.array([False, False, True]), 0.5)
    items = plain._replace(masks=masks, maps=maps, vectors=plain.vectors.astype(np.float16))
    names = tuple(name for name, _ in items.conditions)
    index, place = Index(items, names, masks, maps=maps), str(tmp_path / "store")
    assert upload(items, place, "shop")[0] and upload(items, place, "shop") == (0, 0)
    with pytest.raises(UserError, match="other maps"):
        upload(items._replace(maps=maps._replace(matrix=2 * maps.matrix)), place, "shop")
    with connected(place, "--qdrant") as client:
        collection = Collection.open(client, "shop", "--qdrant")
        sizes = {name: space.size for name, space in client.get_collection("shop").config.params.vectors.items()}
        assert sizes == {"vec_style": 3, "vec_a%2Fb%3A 5%25%3F%22": 2, "vec_one": 8, "vector_and_squares": 26}
        assert collection.width == 8
        queries = index.vectors[:4].astype(np.float32) + np.float32(0.01)
        stored = collection.vector(items.ids[7])
        np.testing.assert_allclose(stored, maps.views(items.vectors[7:8])[0], rtol=1e-6)
        views = [collection.vector(item) for item in items.ids[:20]]  # rounded once, so that equal vectors stay equal
        np.testing.assert_array_equal(views, maps.exact_views(items.vectors[:20]).astype(np.float32))
        for weights in ({"style": 1}, {"one": 2}, {"style": 1, "one": 0.3}, {"one": 1, "style": -0.5}):
            expected, squares = index.nearest(queries, weights, 5)
            hits = collection.search(collection.view(queries), [""] * 4, weights, 5, filters={}, candidates=N)
            assert hits.index.ids[hits.rows].tolist() == items.ids[expected].tolist()
            np.testing.assert_allclose(hits.squares, squares, rtol=1e-5, atol=1e-7)
        collection.check_model(items.model_sha256, names, masks, maps)
        wider = np.concatenate([maps.matrix, np.ones((1, 8), np.float32)])  # a model that has learned since
        more = np.concatenate([np.pad(masks, ((0, 0), (0, 1))), np.eye(len(wider), dtype=np.float32)[-1:]])
        collection.check_model(items.model_sha256, (*names, "new"), more, maps._replace(matrix=wider))
        for other in (maps._replace(unit=False), maps._replace(matrix=maps.matrix + np.float32(0.1)), None):
            with pytest.raises(UserError, match="another map of style"):
                collection.check_model(items.model_sha256, names, masks, other)


@pytest.mark.slow
def test_the_commands_under_maps(maps_on_vectors, on_vectors, tmp_path, capsys):
    """By an item, and by a vector with and without the model. Views in Qdrant are float32, so distances are not the
    bits of the file's."""
    workdir, out, store = f"--workdir={maps_on_vectors}", tmp_path / "items.npz", tmp_path / "store"
    table = next(flag.partition("path=")[2] for flag in on_vectors if "data.path=" in flag)
    embed.main([workdir, f"--table={table}", f"--out={out}", f"--to_qdrant={store}"])
    assert "12 dimensions, with the maps of category, colour" in capsys.readouterr().out
    np.save(tmp_path / "query.npy", Index.open(out).vectors[4] + np.float32(0.1))
    for query in ((f"--id={Index.open(out).ids[9]}",), (f"--vector={tmp_path / 'query.npy'}",)):
        for more in ((), (workdir,)):
            for weights in (("colour",), ("colour", "category=0.5"), ("colour", "category=-0.5")):
                argv = (*query, *more, "--condition", *weights, "--json", "--k=6")
                file, qdrant = (json.loads(printed_by(capsys, place, *argv)) for place in places((out, store)))
                distances = [[hit.pop("distance") for hit in answer["hits"]] for answer in (file, qdrant)]
                assert file == qdrant and len(distances[0]) == 6
                np.testing.assert_allclose(*distances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "maps",
    [
        {},
        {"unit": True, "shape": [3, 8], "raw": False, "float32": "?"},
        {"unit": True, "shape": [3, 2], "raw": True, "float32": "AAAA"},
        {"float32": "AAAA"},
        5,
    ],
)
def test_damaged_maps_of_a_collection_are_refused(maps):
    with pytest.raises(UserError, match="damaged maps.*--rebuild"):
        _checked_maps({"masks": [[1, 1, 1]], "maps": maps}, "the place")
