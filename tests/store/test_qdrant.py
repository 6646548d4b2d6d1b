"""Embeddings in Qdrant, embedded in this process: what is stored, what an upload adds, and what it refuses. An
update also runs against the server of CSN_JAX_QDRANT, where there is one."""

import gc
import io
import json
import shutil
import sys

import numpy as np
import pytest
import qdrant
import tiny
from small_index import clumps, sliced
from test_cli import assert_message, run

from csn_jax import embed, search
from csn_jax.errors import UserError
from csn_jax.search.qdrant_search import Collection
from csn_jax.store import qdrant as module
from csn_jax.store.qdrant import connected, point_id, read_head, upload
from csn_jax.store.vector_file import read_embeddings, write_embeddings

N, D = 60, 8


@pytest.fixture(scope="module")
def items():
    return clumps(N)


@pytest.fixture(scope="module")
def place(items, tmp_path_factory):
    """A folder with the items in the collection `shop`. Copy it to change it."""
    place = tmp_path_factory.mktemp("qdrant") / "store"
    assert upload(items, str(place), "shop") == (N, 0)
    return place


def test_named_vectors_attributes_and_metadata(items, place):
    """Vectors are cut to the dimensions that count. The payload has id and attributes, the metadata the rest."""
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
    distances = {name: str(vector.distance) for name, vector in info.config.params.vectors.items()}
    assert distances.pop("vector_and_squares") == "Dot" and set(distances.values()) == {"Euclid"}
    assert info.config.params.vectors["vector_and_squares"].hnsw_config.m == 0
    values = {name: column[5] for name, column in items.columns.items()}
    expected = {"id": items.ids[5]} | {name: value for name, value in values.items() if value}
    expected["tags"] = expected["tags"].split(";") if ";" in expected["tags"] else expected["tags"]
    assert len(point.payload.pop("row_digest")) == 32 and point.payload == expected
    head = info.config.metadata["csn_jax"]
    assert head["model_sha256"] == items.model_sha256 and np.float32(head["masks"]).tolist() == items.masks.tolist()
    # A later version must find these points again.
    assert point_id("images/1.jpg") == "54d9de7b-a267-5504-8b6a-0aabfb8779d6"


def test_a_second_upload_adds_only_what_is_missing(items, place, tmp_path, monkeypatch):
    """Batch by batch: one that is complete is not sent again."""
    monkeypatch.setattr("csn_jax.store.qdrant.BATCH", 13)
    store = str(shutil.copytree(place, tmp_path / "store"))
    assert upload(items, store, "shop") == (0, 0)
    with connected(store, "--qdrant") as client:
        gone = [point_id(item) for item in items.ids[10:13]]
        client.delete("shop", gone)
        client.set_payload("shop", {"mine": "kept"}, [point_id(items.ids[30])])
    assert upload(items, store, "shop") == (3, 0)
    with connected(store, "--qdrant") as client:
        assert len(client.retrieve("shop", gone)) == 3 and client.count("shop").count == N
        (kept,) = client.retrieve("shop", [point_id(items.ids[30])])
        assert kept.payload["mine"] == "kept"


def test_other_embeddings_are_refused_and_replaced_on_request(items, place, tmp_path):
    """A collection that csn_jax did not write is never replaced."""
    store = str(shutil.copytree(place, tmp_path / "store"))
    masks = items.masks.copy()
    masks[0, 0] = np.nextafter(masks[0, 0], 9)
    fewer = clumps(5)
    for other, name, options, words in (
        (items._replace(model_sha256="b" * 64), "shop", {}, ["'shop'", "another model", "--collection", "--rebuild"]),
        (items._replace(masks=masks), "shop", {}, ["other conditions or masks"]),
        (items._replace(made_from="there"), "shop", {}, ["other items"]),
        (fewer._replace(columns={'a"b': fewer.ids}), "third", {}, ["'a\"b'", "quote"]),
    ):
        with pytest.raises(UserError) as error:
            upload(other, store, name, **options)
        assert [word for word in words if word not in str(error.value)] == []
    assert upload(fewer, store, "shop", rebuild=True) == upload(fewer, store, "second") == (5, 0)
    with connected(store, "--qdrant") as client:
        assert client.count("shop").count == 5
        client.create_collection("foreign", vectors_config={})
        with pytest.raises(UserError, match=r"several collections \(second, shop\)"):
            Collection.open(client, "", "--qdrant")
    with pytest.raises(UserError, match="'foreign' was not written by csn_jax"):
        upload(fewer, store, "foreign", rebuild=True)


def test_a_killed_upload_resumes(items, tmp_path, monkeypatch):
    """What was sent stays and is not sent again."""
    from qdrant_client import QdrantClient

    upsert, sent = QdrantClient.upsert, []

    def counting(self, name, points, **options):
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(len(points.ids))
        return upsert(self, name, points, **options)

    monkeypatch.setattr("csn_jax.store.qdrant.BATCH", 13)
    monkeypatch.setattr(QdrantClient, "upsert", counting)
    with pytest.raises(KeyboardInterrupt):
        upload(items, str(tmp_path / "q"), "shop")
    sent[:] = [0, 0, 0]
    assert upload(items, str(tmp_path / "q"), "shop") == (34, 0) and sent == [0, 0, 0, 13, 13, 8]


def stored(place, name="shop"):
    """{id: (payload, vectors)} of a collection, and its metadata."""
    with connected(str(place), "--qdrant") as client:
        records, after = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
        assert after is None
        return {record.id: (record.payload, record.vector) for record in records}, read_head(client, name, "")


@pytest.mark.parametrize("kind", qdrant.KINDS)
def test_an_update_sends_what_changed_and_equals_a_fresh_collection(items, kind, tmp_path, monkeypatch):
    """Also when it was killed in between: the next upload goes on, and needs no --update."""
    from qdrant_client import QdrantClient

    monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(module, "PAGE", 16)
    kept = np.r_[np.arange(5, N), np.arange(7)]
    later = items._replace(
        ids=np.array([f"items/ü {i}" for i in range(5, N + 7)], object),
        vectors=items.vectors[kept] + (np.arange(len(kept)) == 9)[:, None].astype(np.float32),
        columns={"colour": np.where(np.arange(len(kept)) < 3, "violet", items.columns["colour"][kept])},
        made_from="later",
    )
    with qdrant.place(kind, tmp_path) as (store, name):
        upload(items, store, name)
        with pytest.raises(UserError, match="other items.*--update to change what differs"):
            upload(later, store, name)
        upsert, sent = QdrantClient.upsert, []

        def dying(self, name, points, **options):
            if len(sent) == 2:
                raise KeyboardInterrupt
            sent.append(len(points.ids))
            return upsert(self, name, points, **options)

        with monkeypatch.context() as patch:
            patch.setattr(QdrantClient, "upsert", dying)
            with pytest.raises(KeyboardInterrupt):
                upload(later, store, name, update=True)
        n_sent, n_gone = upload(later, store, name)
        assert n_sent == N + 2 - 8 and n_gone == 0  # all payloads lost columns; five points were removed before
        assert upload(later, store, name, update=True) == (0, 0)
        with qdrant.place(kind, tmp_path / "fresh") as fresh:
            upload(later, *fresh)
            assert stored(store, name) == stored(*fresh)
        columns = later.columns["colour"].copy()
        columns[:2] = "green"
        later = later._replace(columns={"colour": columns}, made_from="x")
        assert upload(later, store, name, update=True) == (2, 0)


def test_requests_hold_as_many_numbers_as_a_server_takes(items, tmp_path, monkeypatch):
    """A point has 16 + 5 + 5 + 1 numbers, and a query by a negative weight 16."""
    from qdrant_client import QdrantClient

    sizes = []
    for name, size_of in (("upsert", lambda batch: len(batch.ids)), ("query_batch_points", len)):
        sent = getattr(QdrantClient, name)

        def counting(self, collection, batch, *, sent=sent, size_of=size_of, **options):
            sizes.append(size_of(batch))
            return sent(self, collection, batch, **options)

        monkeypatch.setattr(QdrantClient, name, counting)
    monkeypatch.setattr(module, "NUMBERS", 27 * 25 + 26)
    assert upload(items, str(tmp_path / "q"), "shop") and sizes == [25, 25, 10]
    sizes.clear()
    with connected(str(tmp_path / "q"), "--qdrant") as client:
        collection = Collection.open(client, "shop", "--qdrant")
        weights = {"style": 1, "one": -1}
        collection.search(items.vectors, [""] * N, weights, 1, filters={}, candidates=1)
    assert sizes == [43, 17]


def test_a_folder_of_parts(items, place, tmp_path, monkeypatch, capsys):
    """What a file sends, read in pieces of 16 items; the command names what it was given in vain."""
    monkeypatch.setattr("csn_jax.store.int8.ROWS", 16)
    parts, store = tmp_path / "parts", str(tmp_path / "store")
    parts.mkdir()
    for number, rows in enumerate((slice(0, 25), slice(25, N))):
        write_embeddings(parts / f"part-{number:05}-of-00002.arrow", sliced(items, rows))
    embed.main([f"--index={parts}", f"--to_qdrant={store}"])
    printed = capsys.readouterr()
    assert "60 vectors in the collection parts; 60 sent" in printed.out and "--collection=parts" in printed.err
    assert stored(store, "parts")[0] == stored(place)[0]
    embed.main([f"--index={parts}", f"--to_qdrant={store}"])
    assert "holds these 60 vectors already" in capsys.readouterr().out
    changed = items._replace(columns=items.columns | {"colour": np.full(N, "green", object)})
    write_embeddings(parts / "part-00001-of-00002.arrow", sliced(changed, slice(30, N)))
    argv = (f"--index={parts}", f"--to_qdrant={store}")
    assert_message(*run(embed, monkeypatch, capsys, *argv), 2, "other items", "--update")
    embed.main([*argv, "--update"])
    assert "these 55 vectors in the collection parts; 30 sent, 5 removed" in capsys.readouterr().out
    write_embeddings(parts / "part-00001-of-00002.arrow", sliced(items, slice(24, N)))
    assert_message(*run(embed, monkeypatch, capsys, *argv, "--update"), 2, items.ids[24], "would be found twice")
    monkeypatch.setattr("csn_jax.store.part_folder.FEW", 0)  # of more items, opening does not compare all ids
    assert_message(*run(embed, monkeypatch, capsys, *argv, "--update"), 2, items.ids[24], "several items")
    for flag, word in (("--dtype=int8", "--dtype"), ("--out=a.parquet", "--out"), ("--rebuild", "--update")):
        assert_message(*run(embed, monkeypatch, capsys, *argv, "--update", flag), 2, word)
    assert_message(*run(embed, monkeypatch, capsys, argv[0]), 2, "--to_qdrant=", "--to_postgres=")


@pytest.mark.slow
def test_the_commands(shop_runs, tmp_path, capsys):
    """As a user types them. The second embed has nothing to do."""
    store, out = tmp_path / "store", tmp_path / "shoes.npz"
    argv = (f"--workdir={shop_runs / 'vectors'}", f"--table={shop_runs / 'products.parquet'}", f"--out={out}")
    argv = (*argv, f"--to-qdrant={store}")  # - and _ are the same
    done = tiny.command("embed", *argv, PYTHONWARNINGS="error")
    assert done.returncode == 0 and "60 vectors in the collection shoes; 60 sent, 0 removed" in done.stdout, done.stderr
    embed.main(argv)
    assert "60 vectors already, in the collection shoes" in capsys.readouterr().out
    items = read_embeddings(out)
    argv = (f"--qdrant={store}", f"--id={items.ids[40]}", "--condition=colour", "--json", "--collection=shoes")
    search.main(argv)
    found, said = capsys.readouterr()
    (line,) = said.splitlines()
    assert line.startswith("next: ")
    search.main((f"--index={out}", *argv[1:-1]))
    assert json.loads(found) == json.loads(capsys.readouterr().out)


def test_many_items_in_a_folder_are_asked_for(shop_runs, tmp_path, monkeypatch, capsys):
    """Without a terminal they need --yes. Items that are stored already do not count."""
    monkeypatch.setattr(module, "MANY", 40)
    argv = (f"--workdir={shop_runs / 'vectors'}", f"--table={shop_runs / 'products.parquet'}")
    argv = (*argv, f"--out={tmp_path / 'e.npz'}", f"--to_qdrant={tmp_path / 'store'}")
    assert_message(*run(embed, monkeypatch, capsys, *argv), 2, "is a folder", "60 items", "--yes", "server")
    assert not (tmp_path / "e.npz").exists()
    for answer in ("n\n", "", "yes\n"):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("sys.stdin", terminal)
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
        with monkeypatch.context() as patch:
            patch.setattr(module, "upload", lambda *args, **options: (60, 0))
            if answer.startswith("y"):
                embed.main(argv)
            else:
                with pytest.raises(UserError, match="nothing was embedded and nothing stored; .*--yes"):
                    embed.main(argv)
        assert "Store them there? [y/N]" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO())
    embed.main([*argv, "--yes"])
    assert "holds these 60 vectors in the collection" in capsys.readouterr().out
    embed.main(argv)
    assert "holds these 60 vectors already" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # a client that cannot open a folder leaves it
def test_places_that_cannot_be_used(place, shop_runs, tmp_path, monkeypatch, capsys):
    argv = (
        f"--workdir={shop_runs / 'pictures'}",
        f"--table={shop_runs / 'products.csv'}",
        f"--out={tmp_path / 'e.npz'}",
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("x")
    for flags, words in (
        ((f"--to_qdrant={tmp_path / 'mine'}",), ["mine", "not a folder of Qdrant"]),
        ((f"--to_qdrant={tmp_path / 'no/where'}",), [f"folder {tmp_path / 'no'} does not exist"]),
        ((f"--to_qdrant={place}", "--collection=a/b"), ["--collection='a/b'", "cannot name"]),
        (("--collection=ab",), ["--collection", "--to_qdrant"]),
        ((f"--to_qdrant={place}", "--features"), ["--to_qdrant", "--features"]),
    ):
        assert_message(*run(embed, monkeypatch, capsys, *argv, *flags), 2, *words)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    query = ("--id=items/1", "--condition=style")
    damaged = shutil.copytree(place, tmp_path / "damaged")
    (damaged / "meta.json").write_text('{"collections')
    assert_message(*run(search, monkeypatch, capsys, f"--qdrant={damaged}", *query), 2, "cannot be opened")
    monkeypatch.setitem(sys.modules, "qdrant_client.http.exceptions", None)
    assert_message(*run(search, monkeypatch, capsys, f"--qdrant={place}", *query), 2, "pip install qdrant-client")
    gc.collect()
