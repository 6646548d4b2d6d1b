"""Qdrant, embedded in this process: what is stored, what is found against Index, what is refused, and the commands."""

import gc
import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny
from test_cli import assert_told, run
from test_embed import cache, config_of, folder, of_pictures  # noqa: F401  (fixtures)

from csn_jax import embed, search
from csn_jax.data.item_set import Condition
from csn_jax.errors import UserError
from csn_jax.search.qdrant_search import Collection
from csn_jax.store.index import Index
from csn_jax.store.qdrant import connected, point_id, upload
from csn_jax.store.vector_file import Embeddings, read_embeddings

# A client that cannot open a folder leaves its lock file to the garbage collector, which these tests call.
LEFT_OPEN = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

N, D = 240, 8
ITEM = ("--id=images/007.jpg", "--condition=colour")


def embeddings(seed: int = 0, n: int = N) -> Embeddings:
    """Items in clumps under three masks: two that overlap, of which one has a hard name, and one of a single number."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(12, D))[rng.integers(0, 12, n)] + rng.normal(0, 0.6, (n, D))
    masks = np.zeros((4, D), np.float32)
    masks[0, :5], masks[1, 3:], masks[2, 0] = rng.uniform(0.2, 2, 5), rng.uniform(0.2, 2, 5), 1.5
    columns = {
        "colour": rng.choice(["red", "blue", ""], n),
        "tags": rng.choice(["a", "b", "a;b", "a;b;c"], n),
        "kind of.shoe": rng.choice(["x", "y"], n),
    }
    return Embeddings(
        ids=np.array([f"items/ü {i}" for i in range(n)], object),
        vectors=vectors.astype(np.float32),
        columns={name: column.astype(object) for name, column in columns.items()},
        conditions=tuple(Condition(name, "categorical") for name in ("style", 'a/b: 5%?"', "one", "dead")),
        masks=masks,
        model_sha256="a" * 64,
        pictures={},
        made_from="here",
    )


@pytest.fixture(scope="module")
def items():
    return embeddings()


@pytest.fixture(scope="module")
def place(items, tmp_path_factory):
    """A folder with the items in the collection `shop`. Copy it to change it."""
    place = tmp_path_factory.mktemp("qdrant") / "store"
    assert upload(items, str(place), "shop")
    return place


def index_of(items: Embeddings) -> Index:
    return Index(items, tuple(name for name, _ in items.conditions), items.masks)


def found(place: Path, *argv, name: str = "", **options):
    """Ids [Q, k] and squares of Collection.search."""
    with connected(str(place), "--qdrant") as client:
        found = Collection.open(client, name, "--qdrant").search(*argv, **({"filters": {}, "candidates": 60} | options))
    return np.where(found.rows < 0, "", found.index.ids[found.rows]), found


MIXTURES = [
    {"style": 1},
    {'a/b: 5%?"': 2},
    {"one": 1},
    {"style": 1, 'a/b: 5%?"': 0.4},
    {"style": 0.2, "one": 1, "dead": 3},
    {"style": 1, 'a/b: 5%?"': -0.5},
    {"style": -1},
]


@pytest.mark.parametrize("weights", MIXTURES, ids=str)
def test_finds_what_index_finds(items, place, weights):
    """Embedded, Qdrant is exact, so single conditions and negative weights are too; distances are those of Index."""
    index, rows = index_of(items), np.arange(0, N, 8)
    own = items.ids[rows].tolist()
    candidates = 60 if len(weights) > 1 else 1  # ranking many again would hide what the engine finds
    ids, answer = found(place, items.vectors[rows], own, weights, 10, candidates=candidates)
    true, squares = index.nearest(items.vectors[rows], weights, 10, exclude=rows)
    truth = items.ids[true]
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)])
    if len(weights) == 1 or min(weights.values()) < 0:
        assert (ids == truth).all()
        np.testing.assert_allclose(answer.squares, squares, rtol=1e-12, atol=1e-12)
    else:
        assert recall >= 0.97
    assert answer.index.ids[answer.own].tolist() == own
    np.testing.assert_array_equal(answer.index.vectors[answer.own], items.vectors[rows])


def test_more_candidates_find_more_of_a_mixture(items, place):
    """The nearest alone of each condition are not enough, all items are. Query by query: candidates are shared."""
    rows = np.arange(0, N, 8)
    truth, _ = index_of(items).nearest(items.vectors[rows], MIXTURES[3], 3, exclude=rows)
    with connected(str(place), "--qdrant") as client:
        shop = Collection.open(client, "shop", "--qdrant")

        def recall(candidates):
            right = 0
            for row, true in zip(rows, truth, strict=True):
                argv = (items.vectors[[row]], [items.ids[row]], MIXTURES[3], 3)
                answer = shop.search(*argv, filters={}, candidates=candidates)
                assert (answer.rows >= 0).all()
                right += len({*answer.index.ids[answer.rows[0]]} & {*items.ids[true]})
            return right / truth.size

        few, more, every = recall(1), recall(20), recall(N)
        assert few < 0.9 < more <= every == 1

        # A query that was not left out is its own nearest.
        answer = shop.search(items.vectors[[5]], [""], MIXTURES[3], 3, filters={}, candidates=9)
        assert answer.index.ids[answer.rows[0, 0]] == items.ids[5] and answer.squares[0, 0] == 0


@pytest.mark.parametrize(
    "filters",
    [
        {"colour": ["red"]},
        {"colour": ["red", ""]},
        {"tags": ["b"]},
        {"tags": ["a;b"]},
        {"tags": ["a;b", "c"], "kind of.shoe": ["y"], "colour": [""]},
    ],
    ids=str,
)
@pytest.mark.parametrize("weights", [MIXTURES[0], MIXTURES[5]], ids=str)
def test_filters_are_those_of_index(items, place, filters, weights):
    """Alternatives, missing values, members of sets and whole sets."""
    index = index_of(items)
    ids, _ = found(place, items.vectors[:20], items.ids[:20].tolist(), weights, 60, filters=filters)
    truth, _ = index.search(items.vectors[:20], weights, 60, filters=filters, exclude=range(20))
    assert (ids == truth).all() and (index.passing(filters).sum() < 60) == (truth == "").any()


def test_a_filter_that_only_the_query_passes_leaves_nothing(tmp_path):
    few = embeddings(n=3)._replace(columns={"colour": np.array(["red", "blue", "blue"], object)})
    upload(few, str(tmp_path / "q"), "few")
    ids, answer = found(tmp_path / "q", few.vectors[:1], [few.ids[0]], {"style": 1}, 2, filters={"colour": ["red"]})
    assert ids.tolist() == [["", ""]] and answer.index.ids[answer.own].tolist() == [few.ids[0]]


def test_what_is_stored(items, place):
    """Named vectors cut to the dimensions that count, id and attributes as payload, the rest in the metadata."""
    with connected(str(place), "--qdrant") as client:
        (point,) = client.retrieve("shop", [point_id(items.ids[5])], with_payload=True, with_vectors=True)
        info = client.get_collection("shop")
        assert client.count("shop").count == N
    assert {name: len(vector) for name, vector in point.vector.items()} == {
        "vec_style": 5,
        "vec_a%2Fb%3A 5%25%3F%22": 5,
        "vec_one": 1,
        "vector_and_squares": 2 * D,
    }
    np.testing.assert_array_equal(np.float32(point.vector["vec_style"]), items.vectors[5, :5] * items.masks[0, :5])
    assert {str(v.distance) for name, v in info.config.params.vectors.items() if name != "vector_and_squares"} == {
        "Euclid"
    }
    assert info.config.params.vectors["vector_and_squares"].hnsw_config.m == 0
    values = {name: column[5] for name, column in items.columns.items()}
    expected = {"id": items.ids[5]} | {name: value for name, value in values.items() if value}
    expected["tags"] = expected["tags"].split(";") if ";" in expected["tags"] else expected["tags"]
    assert point.payload == expected
    head = info.config.metadata["csn_jax"]
    assert head["model_sha256"] == items.model_sha256 and np.float32(head["masks"]).tolist() == items.masks.tolist()
    # A later version must find these again.
    assert point_id("images/1.jpg") == "54d9de7b-a267-5504-8b6a-0aabfb8779d6"


def test_again_it_adds_what_is_missing_and_refuses_what_is_other(items, place, tmp_path):
    store = str(shutil.copytree(place, tmp_path / "store"))
    assert upload(items, store, "shop") is False
    with connected(store, "--qdrant") as client:
        gone = [point_id(one) for one in items.ids[100:103]]
        client.delete("shop", gone)
        client.set_payload("shop", {"mine": "kept"}, [point_id(items.ids[0])])
    assert upload(items, store, "shop") is True
    with connected(store, "--qdrant") as client:
        assert len(client.retrieve("shop", gone)) == 3 and client.count("shop").count == N
    masks = items.masks.copy()
    masks[0, 0] = np.nextafter(masks[0, 0], 9)
    for other, told in (
        (items._replace(model_sha256="b" * 64), "another model"),
        (items._replace(masks=masks), "other conditions or masks"),
        (items._replace(made_from="there"), "other items"),
    ):
        with pytest.raises(UserError, match=f"'shop' is there and holds vectors of {told}; give another"):
            upload(other, store, "shop")
    fewer = embeddings(n=50)
    assert upload(fewer, store, "shop", rebuild=True)
    with connected(store, "--qdrant") as client:
        assert client.count("shop").count == 50
        client.create_collection("foreign", vectors_config={})
    with pytest.raises(UserError, match="'foreign' holds no vectors of csn_jax"):
        upload(fewer, store, "foreign", rebuild=True)
    assert upload(fewer, store, "second")
    with connected(store, "--qdrant") as client, pytest.raises(UserError, match=r"several .*\(second, shop\)"):
        Collection.open(client, "", "--qdrant")
    with pytest.raises(UserError, match="quote"):
        upload(fewer._replace(columns={'a"b': fewer.ids}), store, "third")


def test_a_killed_upload_goes_on(items, tmp_path, monkeypatch):
    """What was sent stays, and is not sent again."""
    monkeypatch.setattr("csn_jax.store.qdrant.BATCH", 50)
    from qdrant_client import QdrantClient

    upsert, sent = QdrantClient.upsert, []

    def counting(self, name, points, **options):
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(len(points.ids))
        return upsert(self, name, points, **options)

    monkeypatch.setattr(QdrantClient, "upsert", counting)
    with pytest.raises(KeyboardInterrupt):
        upload(items, str(tmp_path / "q"), "shop")
    sent[:] = [0, 0, 0]
    assert upload(items, str(tmp_path / "q"), "shop") and sent == [0, 0, 0, 50, 50, 40]


@pytest.fixture(scope="module")
def shop_store(of_pictures, folder, tmp_path_factory):  # noqa: F811
    """(file, folder of Qdrant) of the shop as a table: ids are image paths."""
    place = tmp_path_factory.mktemp("stores")
    out = place / "shop.parquet"
    embed.main(
        [
            f"--workdir={of_pictures[0]}",
            f"--table={folder / 'products.csv'}",
            f"--out={out}",
            f"--to_qdrant={place / 'q'}",
        ]
    )
    return out, place / "q"


def told_by(capsys, *argv: str) -> str:
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
def test_search_tells_the_same_as_in_the_file(shop_store, words, capsys):
    argv = ("--id=images/007.jpg", "--k=6", *words)
    told = [told_by(capsys, where, *argv) for where in (f"--index={shop_store[0]}", f"--qdrant={shop_store[1]}")]
    assert told[0] == told[1] and "images/0" in told[0]


def test_queries_by_image(shop_store, of_pictures, folder, tmp_path, capsys):  # noqa: F811
    """An item's own file is the item and no hit, and the sheet shows it; a folder of queries has an answer each."""
    for argv in (
        (f"--image={folder / 'images/013.jpg'}", "--k=60", f"--save={tmp_path / 's.png'}"),
        (f"--image={folder / 'images'}", "--k=3"),
    ):
        argv = (*argv, f"--workdir={of_pictures[0]}", "--condition=colour", "--json")
        told, sheets = [], []
        for where in (f"--index={shop_store[0]}", f"--qdrant={shop_store[1]}"):
            told.append(json.loads(told_by(capsys, where, *argv)))
            sheets.append((tmp_path / "s.png").read_bytes())
        assert told[0] == told[1] and sheets[0] == sheets[1]


def test_the_commands(of_pictures, folder, tmp_path):  # noqa: F811
    """As a user types them, each in a process of its own; the second time there is nothing to do."""
    store = f"--to-qdrant={tmp_path / 'store'}"  # - and _ are one
    argv = (
        f"--workdir={of_pictures[0]}",
        f"--table={folder / 'products.csv'}",
        f"--out={tmp_path / 'shoes.npz'}",
        store,
    )
    first, again = (tiny.command("embed", *argv, PYTHONWARNINGS="error") for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert "60 vectors, in the collection shoes" in first.stdout and "60 vectors already, in the" in again.stdout
    items = read_embeddings(tmp_path / "shoes.npz")
    argv = (f"--qdrant={tmp_path / 'store'}", f"--id={items.ids[40]}", "--condition=colour", "--json")
    done = tiny.command("search", *argv, "--collection=shoes", PYTHONWARNINGS="error")
    assert done.returncode == 0 and done.stderr.startswith("next: ") and done.stderr.count("\n") == 1
    truth, _ = index_of(items).search(items.vectors[[40]], {"colour": 1}, 10, exclude=[40])
    assert [hit["id"] for hit in json.loads(done.stdout)["hits"]] == truth[0].tolist()


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ((), ("nothing to search in", "--index=FILE and --qdrant=FOLDER_OR_URL")),
        (("--index=a.npz", "--qdrant=b"), ("--index and --qdrant are both",)),
        (("--index=a.npz", "--collection=b"), ("--collection is given without --qdrant",)),
        (("--qdrant=STORE", "--candidates=0"), ("--candidates is 0", "at least 1")),
        (("--qdrant=STORE", "--explain"), ("--explain", "--index=FILE")),
        (("--qdrant=STORE", "--collection=shpo"), ("no collection 'shpo' (did you mean shop?)", "it has shop")),
        (("--qdrant=STORE", "--filter=color=red"), ("no column 'color' (did you mean colour?)",)),
        (("--qdrant=STORE", "--filter=colour=rad"), ("no item has 'rad' (did you mean red?)", "blue, green, red")),
        (("--qdrant=STORE", "--condition=color"), ("unknown condition 'color' (did you mean colour?)",)),
        (
            ("--qdrant=STORE", "--id=images/7.jpg"),
            ("no item of the collection 'shop' has the id 'images/7.jpg'", "like"),
        ),
        (("--qdrant=STORE/none",), ("is no folder of Qdrant's",)),
        (("--qdrant=localhost:6333",), ("http://HOST:6333",)),
    ],
)
def test_mistakes(shop_store, argv, parts, monkeypatch, capsys):
    argv = [word.replace("STORE", str(shop_store[1])) for word in argv]
    assert_told(*run(search, monkeypatch, capsys, *ITEM, *argv), 2, *parts)
    assert not (shop_store[1] / "none").exists()


def test_another_model_is_refused(shop_store, of_pictures, monkeypatch, capsys):  # noqa: F811
    """By its digest, and a mask that changed since; one that was learned since is no harm."""
    import dataclasses

    workdir, model = of_pictures
    argv = (f"--qdrant={shop_store[1]}", f"--workdir={workdir}", *ITEM)
    wider = model.with_masks((*model.conditions, "new"), np.concatenate([model.masks, model.masks[:1]]))
    monkeypatch.setattr("csn_jax.model.model.load", lambda path: wider)
    assert "nearest by colour" in told_by(capsys, *argv)
    monkeypatch.setattr("csn_jax.model.model.load", lambda path: model.with_masks(model.conditions, model.masks * 2))
    assert_told(*run(search, monkeypatch, capsys, *argv), 2, "mask of category is another", "--rebuild")
    monkeypatch.setattr("csn_jax.model.model.load", lambda path: dataclasses.replace(model, _digest=lambda: "c" * 64))
    assert_told(*run(search, monkeypatch, capsys, *argv), 2, "made by another model")


@LEFT_OPEN
def test_places_that_cannot_be_used(shop_store, of_pictures, folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    out, store = shop_store
    argv = (f"--workdir={of_pictures[0]}", f"--table={folder / 'products.csv'}", f"--out={out}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("x")
    for words, part in (
        ((f"--to_qdrant={tmp_path / 'mine'}",), "none of Qdrant's folders"),
        ((f"--to_qdrant={tmp_path / 'no/where'}",), "there is no folder"),
        ((f"--to_qdrant={store}", "--collection=a/b"), "is no name for a collection"),
        (("--collection=ab",), "--collection is given without --to_qdrant"),
        ((f"--to_qdrant={store}", "--features"), "--to_qdrant is given with --features"),
    ):
        assert_told(*run(embed, monkeypatch, capsys, *argv, *words), 2, part)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    damaged = shutil.copytree(store, tmp_path / "damaged")
    (damaged / "meta.json").write_text('{"collections')
    assert_told(*run(search, monkeypatch, capsys, f"--qdrant={damaged}", *ITEM), 2, "cannot be opened")
    monkeypatch.setitem(sys.modules, "qdrant_client.http.exceptions", None)
    assert_told(*run(search, monkeypatch, capsys, f"--qdrant={store}", *ITEM), 2, "pip install qdrant-client")
    gc.collect()


@LEFT_OPEN
def test_a_folder_in_use(shop_store, monkeypatch, capsys):
    """By another process: told at once."""
    code = "import sys, qdrant_client\nkept = qdrant_client.QdrantClient(path=sys.argv[1])\nprint(flush=True)\ninput()"
    words = [sys.executable, "-c", code, str(shop_store[1])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        told = run(search, monkeypatch, capsys, f"--qdrant={shop_store[1]}", *ITEM)
        other.communicate("\n")
    assert_told(*told, 2, "is in use by another process")
    gc.collect()


class Answering(BaseHTTPRequestHandler):
    """A server that answers every request with the status in its path's place of `status`, and keeps the keys."""

    status, keys = 200, []

    def do_GET(self):
        self.keys.append(self.headers.get("api-key"))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_servers_that_fail(monkeypatch, capsys):
    """Nothing listens: exit 1. The key is sent; where it is refused that is the user's to mend."""
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        url = f"--qdrant=http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("QDRANT_API_KEY", "secret")
        try:
            for status, expected, part in ((403, 2, "refuses the key"), (500, 1, "answers 500")):
                Answering.status = status
                told = run(search, monkeypatch, capsys, url, *ITEM)
                assert_told(*told, expected, part)
                assert "secret" not in told[1]
        finally:
            server.shutdown()
            thread.join()
    assert set(Answering.keys) == {"secret"}
    assert_told(*run(search, monkeypatch, capsys, url, *ITEM), 1, "cannot be reached")
