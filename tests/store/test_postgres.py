"""Embeddings in a real PostgreSQL with pgvector: rows, updates, cut connections, searches, hostile texts, failures."""

import json
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import postgres
import pytest
from small_index import clumps, sliced
from test_cli import assert_message, run

from csn_jax import embed, search
from csn_jax.core.maps import stacked
from csn_jax.embed import to_postgres
from csn_jax.embed.to_postgres import upload
from csn_jax.errors import MachineError, UserError
from csn_jax.search.postgres_search import Table
from csn_jax.store import postgres as module
from csn_jax.store.index import Index
from csn_jax.store.postgres import connected, place_of, type_of
from csn_jax.store.vector_file import write_embeddings

pytestmark = pytest.mark.slow
N = 240
STYLE, OTHER = "style", 'a/b: 5%?"'


@pytest.fixture(scope="module")
def url():
    with postgres.server() as url:
        yield url


@pytest.fixture
def place(url):
    with postgres.database(url) as place:
        yield place


@pytest.fixture(scope="module")
def shop(url):
    """(place of a table `shop` of the items, their index)"""
    items = clumps(N)
    with postgres.database(url) as place:
        assert upload(items, place, "shop") == (N, 0)
        yield place, Index(items, tuple(name for name, _ in items.conditions), items.masks)


def rows(place, name="shop"):
    """{id: {column: text}} of a table."""
    with connected(place, "") as connection:
        cursor = connection.execute(f'SELECT * FROM "{name}"', ())
        columns = [column.name for column in cursor.description]
        found = {}
        for row in cursor:
            cells = {column: str(value) for column, value in zip(columns, row, strict=True)}
            found[cells["id"]] = cells
        return found


def types(place, name="shop"):
    query = "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = "
    query += "quote_ident(%s)::regclass AND a.attnum > 0 AND NOT a.attisdropped"
    with connected(place, "") as connection:
        return dict(connection.execute(query, [name]).fetchall())


def test_rows_types_and_graphs(shop):
    """Attributes have types from which their texts come back; vectors are cut to the dimensions that count."""
    place, index = shop
    assert types(place) == {
        "id": "text",
        "colour": "text",
        "tags": "text[]",
        "kind of.shoe": "text",
        "price": "numeric",
        "vector": "vector(8)",
        "vec_style": "vector(5)",
        f"vec_{OTHER}": "vector(5)",
        "vec_one": "vector(1)",
        "row_digest": "bytea",
    }
    items = index.items
    with connected(place, "") as connection:
        query = "SELECT id, vector, vec_style, price::text, tags, colour FROM shop ORDER BY id"
        with connection.cursor(binary=True) as cursor:
            stored = {row[0]: row[1:] for row in cursor.execute(query)}
        graphs = connection.execute(
            "SELECT count(*) FROM pg_indexes WHERE tablename = 'shop' AND indexdef LIKE '%hnsw%'"
        )
        assert graphs.fetchone()[0] == 3
    assert stored.keys() == {*items.ids.tolist()}
    for row, item in enumerate(items.ids.tolist()):
        vector, cut, price, tags, colour = stored[item]
        np.testing.assert_array_equal(vector, items.vectors[row])
        np.testing.assert_array_equal(cut, items.vectors[row, :5] * items.masks[0, :5])
        assert (price or "", colour or "") == (items.columns["price"][row], items.columns["colour"][row])
        assert ";".join(tags) == items.columns["tags"][row]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "0", ""], "bigint"),
        (["007", "1"], "text"),
        (["9" * 19], "numeric"),
        (["1.50", "2"], "numeric"),
        (["-0.0"], "text"),
        (["1e5"], "text"),
        (["true", "false"], "boolean"),
        (["2024-02-29", ""], "date"),
        (["2023-02-29"], "text"),
        (["a;b", "c"], "text[]"),
        (["", ""], "text"),
    ],
)
def test_a_type_gives_the_same_texts_back(values, kind, shop):
    from psycopg import sql

    assert type_of(values) == kind
    with connected(shop[0], "") as connection:
        back = module.as_text(module.from_text(sql.SQL("nullif(%s, '')"), kind), kind)
        query = sql.SQL("SELECT coalesce({}, '')").format(back)
        assert [connection.execute(query, [value]).fetchone()[0] for value in values] == values


def changed(items):
    """Of the items: ten are gone, ten have other vectors, five other colours, twelve are new; a column is gone, one is
    new, and two have another type."""
    more = clumps(N + 12)
    kept = np.r_[np.arange(10, N), np.arange(N, N + 12)]
    ids = np.array([f"items/ü {i}" for i in kept], object)
    vectors = np.concatenate([items.vectors, more.vectors[N:]])[kept]
    vectors[20:30] += 1
    columns = {name: np.concatenate([column, more.columns[name][N:]])[kept] for name, column in items.columns.items()}
    columns["colour"][40:45] = "violet; or so"
    columns["price"][3] = "on request"
    del columns["kind of.shoe"]
    columns["season"] = np.array([""] * (len(kept) - 12) + ["summer"] * 12, object)
    return items._replace(ids=ids, vectors=vectors, columns=columns, made_from="later")


def test_an_update_sends_what_changed_and_equals_a_fresh_table(place, monkeypatch):
    monkeypatch.setattr(to_postgres, "BATCH", 7)
    items = clumps(N)
    items = items._replace(columns=items.columns | {"kind of.shoe": np.array([""] * N, object)})
    upload(items, place, "shop")
    later = changed(items)
    with pytest.raises(UserError, match="'shop' exists and holds vectors of other items.*--update"):
        upload(later, place, "shop")
    assert upload(later, place, "shop", update=True) == (10 + 5 + 1 + 12, 10)
    assert upload(later, place, "shop") == upload(later, place, "shop", update=True) == (0, 0)
    upload(later, place, "fresh")
    assert rows(place) == rows(place, "fresh") and types(place) == types(place, "fresh")
    assert upload(items, place, "shop", update=True)[1] == 12  # and back
    upload(items, place, "fresh", rebuild=True)
    assert rows(place) == rows(place, "fresh") and types(place) == types(place, "fresh")


def cut(monkeypatch, url, after):
    """Let the server end the upload's connection in the middle of a batch."""
    import psycopg

    made, digests_and_rows = [], to_postgres._rows

    def rows_then_cut(*arguments):
        made.append(0)
        for i, cells in enumerate(digests_and_rows(*arguments)):
            if len(made) == after and i == 3:
                with psycopg.connect(url, autocommit=True) as admin:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'csn_jax'"
                    )
            yield cells

    monkeypatch.setattr(to_postgres, "_rows", rows_then_cut)


def test_a_folder_of_parts_is_one_upload(place, tmp_path, monkeypatch):
    """The rows, types and update of one file, read in pieces of 16 items; an id that repeats is named."""
    monkeypatch.setattr("csn_jax.store.int8.ROWS", 16)
    items, parts = clumps(60), tmp_path / "parts"
    parts.mkdir()
    for number, part in enumerate((slice(0, 25), slice(25, 60))):
        write_embeddings(parts / f"part-{number:05}-of-00002.arrow", sliced(items, part))
    embed.main([f"--index={parts}", f"--to_postgres={place}"])
    upload(items, place, "fresh")
    assert rows(place, "parts") == rows(place, "fresh") and types(place, "parts") == types(place, "fresh")
    write_embeddings(parts / "part-00001-of-00002.arrow", sliced(items, slice(40, 60)))
    assert upload(Index.open(parts).items, place, "parts", update=True) == (0, 15)
    write_embeddings(parts / "part-00001-of-00002.arrow", sliced(items, slice(24, 60)))
    monkeypatch.setattr("csn_jax.store.part_folder.FEW", 0)  # of more items, opening does not compare all ids
    again = Index.open(parts).items
    refused(UserError, [items.ids[24], "several items"], lambda: upload(again, place, "parts", update=True))
    assert len(rows(place, "parts")) == 45


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_cut_connection_loses_nothing(url, place, monkeypatch, after):
    """One sentence. What was sent stays, a batch is there entirely or not at all, and the next run sends the rest."""
    monkeypatch.setattr(to_postgres, "BATCH", 50)
    items = clumps(N)
    with monkeypatch.context() as patch:
        cut(patch, url, after)
        with pytest.raises(MachineError, match="was lost.*run the same command again to resume"):
            upload(items, place, "shop")
    sent = len(rows(place))
    assert sent == 50 * (after - 1)
    assert upload(items, place, "shop") == (N - sent, 0)
    upload(items, place, "fresh")
    assert rows(place) == rows(place, "fresh")
    later = changed(items)
    with monkeypatch.context() as patch:
        cut(patch, url, 1)
        with pytest.raises(MachineError, match="was lost"):
            upload(later, place, "shop", update=True)
    upload(later, place, "shop")  # begun, so it needs no --update
    upload(later, place, "fresh", rebuild=True)
    assert rows(place) == rows(place, "fresh") and types(place) == types(place, "fresh")


MIXTURES = [
    {STYLE: 1},
    {"one": 1},
    {STYLE: 1, OTHER: 0.4},
    {STYLE: 0.2, "one": 1, "dead": 3},
    {STYLE: 1, OTHER: -0.5},
    {STYLE: -1},
]
FILTERS = [
    {},
    {"colour": ["red", ""]},
    {"tags": ["a;b", "c"], "kind of.shoe": ["y"], "colour": [""]},
    {"colour": {"!=": ["red", ""]}},
    {"price": {"<": 20, ">=": "3.5"}, "tags": {"!=": "c"}},
    {"price": "3.5"},
    ["price>1000"],
]


@pytest.mark.parametrize("weights", MIXTURES, ids=str)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_hits_are_those_of_index(shop, weights, filters):
    """Alternatives, missing values, members of sets and ranges; distances are those of Index."""
    place, index = shop
    some = np.arange(0, N, 8)
    vectors, own = index.vectors[some], index.ids[some].tolist()
    expected, squares = index.nearest(vectors, weights, 10, filters=filters, exclude=some)
    with connected(place, "--postgres") as connection:
        hits = Table.open(connection, "", "").search(vectors, own, weights, 10, filters=filters, candidates=60)
    found = np.full(expected.shape, "", object)
    found[:, : hits.rows.shape[1]] = np.where(hits.rows < 0, "", hits.index.ids[hits.rows])
    answers = np.where(expected < 0, "", index.ids[expected])
    assert np.mean([len({*a} & {*b}) / len({*b}) for a, b in zip(found.tolist(), answers.tolist(), strict=True)]) > 0.99
    if len(weights) == 1 or min(weights.values()) < 0:
        assert (found == answers).all()
        np.testing.assert_allclose(hits.squares, squares[:, : hits.rows.shape[1]], rtol=1e-12, atol=1e-12)
    assert hits.index.ids[hits.own].tolist() == own


def test_a_model_of_maps(place):
    """The whole vector is stored beside the views, so distances are those of Index."""
    rng = np.random.default_rng(0)
    maps, masks = stacked(rng.normal(size=(3, 3, 8)).astype(np.float32), unit=True)
    items = clumps(N)._replace(maps=maps, masks=masks, conditions=clumps(N).conditions[:3])
    upload(items, place, "maps")
    index = Index(items, tuple(name for name, _ in items.conditions), masks, maps=maps)
    assert types(place, "maps")["vec_style"] == "vector(3)"
    with connected(place, "") as connection:
        table = Table.open(connection, "maps", "")
        assert table.width == 8
        for weights in ({STYLE: 1}, {STYLE: 1, OTHER: 0.5}, {STYLE: 1, OTHER: -0.5}):
            expected, squares = index.nearest(items.vectors[:9], weights, 10, exclude=range(9))
            hits = table.search(items.vectors[:9], items.ids[:9].tolist(), weights, 10, filters={}, candidates=100)
            assert (hits.index.ids[hits.rows] == items.ids[expected]).all()
            np.testing.assert_allclose(hits.squares, squares, rtol=1e-12, atol=1e-12)


ATTACKS = [
    "'; DROP TABLE shop; --",
    '"; DROP TABLE shop; --',
    "' OR '1'='1",
    "x' UNION SELECT name FROM csn_jax_tables --",
    "%s",
    "%(id)s",
    "100%",
    "\\'; DELETE FROM shop; --",
    "$$; TRUNCATE shop; $$",
    "{}",
    "{0}{1}",
    "'); COMMIT; DROP TABLE csn_jax_tables; --",
    "\t\n\r",
    "NULL",
    "\\N",
    "\\.",
    "[1,2]",
    "{a,b}",
    "a\x01b",
    "ü'\"\u202e",
]


def test_no_text_becomes_sql(place):
    """In ids, attributes, names of columns, conditions and tables, filters and pictures: 20 texts in ten places. All
    come back as they were, and a table beside is never touched."""
    upload(clumps(30), place, "shop")
    before = rows(place)
    for number, attack in enumerate(ATTACKS):
        items = clumps(12)
        condition = items.conditions[0]._replace(name=attack)
        items = items._replace(
            ids=np.array([f"{attack}{i}" for i in range(12)], object),
            columns={attack: np.array([attack, "b"] * 6, object)},
            conditions=(condition, *items.conditions[1:]),
            made_from=attack,
        )
        table = f"t {number} {attack}"
        assert upload(items, place, table) == (12, 0)
        assert upload(items._replace(ids=items.ids[::-1], made_from="x"), place, table, update=True)[0] > 0
        upload(items, place, table, update=True)
        with connected(place, "") as connection:
            opened = Table.open(connection, table, "")
            assert opened.item_of(attack) == ""
            with pytest.raises(UserError):
                opened.vector(attack)
            for filters in ({attack: attack}, {attack: {"!=": attack}}):
                hits = opened.search(items.vectors[:1], [f"{attack}0"], {attack: 1}, 5, filters=filters, candidates=9)
                assert {*hits.index.columns[attack][hits.rows[0]]} == {attack if filters[attack] == attack else "b"}
                assert all(item.startswith(attack) for item in hits.index.ids.tolist())
            with pytest.raises(UserError):
                opened.filter_conditions({attack: f"{attack} or not"})
            with pytest.raises(UserError):
                Table.open(connection, f"{table}'", "")
    assert rows(place) == before


def refused(error, words, call):
    with pytest.raises(error) as raised:
        call()
    assert [word for word in words if word not in str(raised.value)] == []


def test_rights_locks_and_other_tables(url, place, monkeypatch):
    """One sentence each, and nothing is half-written."""
    import psycopg

    items = clumps(9)
    upload(items, place, "shop")
    before = rows(place)
    with psycopg.connect(place, autocommit=True) as admin:
        admin.execute("CREATE TABLE mine (id int)")
        admin.execute("DROP ROLE IF EXISTS csn_guest")
        admin.execute("CREATE ROLE csn_guest LOGIN PASSWORD 'secret'")
        guest = postgres.at(place, user="csn_guest") + " password=secret"
        for name in ("shop", "new"):
            refused(
                UserError,
                ["csn_guest", "den" if name == "shop" else "may not"],
                lambda n=name: checked(items, guest, n),
            )
            refused(UserError, ["denies a right", "permission denied"], lambda n=name: upload(items, guest, n))
        refused(
            UserError,
            ["'mine' exists and was not written by csn_jax"],
            lambda: upload(items, place, "mine", rebuild=True),
        )
        refused(
            UserError, ["another model", "--rebuild"], lambda: upload(items._replace(model_sha256="b"), place, "shop")
        )
        refused(
            UserError,
            ["other conditions or masks"],
            lambda: upload(items._replace(masks=items.masks * 2), place, "shop"),
        )
        later = items._replace(ids=items.ids[::-1], made_from="later")
        monkeypatch.setattr(module, "SECONDS", 1)
        monkeypatch.setattr(to_postgres, "PATIENCE", 0.3)
        with admin.transaction():
            admin.execute("LOCK TABLE shop IN ACCESS EXCLUSIVE MODE")
            refused(MachineError, ["locked by another transaction"], lambda: upload(later, place, "shop", update=True))
        with connected(place, "") as other:
            lock = "SELECT pg_advisory_lock(hashtextextended(current_schema() || '.' || %s, 6121))"
            other.execute(lock, ["shop"])
            refused(UserError, ["another upload"], lambda: upload(later, place, "shop", update=True))
        readonly = place + " options='-c default_transaction_read_only=on'"
        refused(UserError, ["read-only"], lambda: upload(later, readonly, "shop", update=True))
        admin.execute("DROP OWNED BY csn_guest")
        admin.execute("DROP ROLE csn_guest")
    assert rows(place) == before
    nul = items._replace(ids=np.array([f"a\0{i}" for i in range(9)], object))
    refused(UserError, ["cannot store a value"], lambda: upload(nul, place, "nul"))
    for name, columns in (
        ("x" * 64, {}),
        ("", {}),
        ("csn_jax_tables", {}),
        ("t", {"ctid": items.ids}),
        ("t", {"ü" * 32: items.ids}),
    ):
        refused(
            UserError,
            ["PostgreSQL" if columns or name != "csn_jax_tables" else "table of heads"],
            lambda n=name, c=columns: upload(items._replace(columns=c), place, n),
        )
    refused(UserError, ["no table 'shob'", "did you mean shop"], lambda: opened(place, "shob"))
    with postgres.database(url) as empty:
        refused(UserError, ["no extension vector"], lambda: opened(empty, ""))
        monkeypatch.setattr(module, "EXTENSION", "no_such_extension")
        refused(UserError, ["has no pgvector"], lambda: upload(items, empty, "shop"))


def opened(place, name):
    with connected(place, "--postgres") as connection:
        return Table.open(connection, name, "--postgres=x")


def checked(items, place, name):
    names = tuple(condition.name for condition in items.conditions)
    to_postgres.check_place(place, name, items.model_sha256, [*items.columns], names, rebuild=False)


@contextmanager
def full_disk(url, place, folder):
    """New tables of a database lie on a disk of 1 MB; calling what this gives makes it larger."""
    import psycopg

    def mount(*options):
        done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True)
        return done.returncode == 0

    if os.environ.get("CSN_JAX_POSTGRES") or not mount("-o", "size=1m"):
        pytest.skip("needs a server of its own, and the right to mount a file system")
    try:
        with psycopg.connect(url, autocommit=True) as admin:
            data = Path(admin.execute("SHOW data_directory").fetchone()[0])
            os.chown(folder, data.stat().st_uid, data.stat().st_gid)
            admin.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
            name = admin.execute("SELECT %s::text", [psycopg.conninfo.conninfo_to_dict(place)["dbname"]]).fetchone()[0]
            admin.execute(f'ALTER DATABASE "{name}" SET default_tablespace = small')
        yield lambda: mount("-o", "remount,size=100m")
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            admin.execute("DROP TABLESPACE small")
            admin.execute(f'CREATE DATABASE "{name}"')  # for the fixture to remove
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(url, place, monkeypatch):
    """One sentence. With more room, the same command sends the rest."""
    monkeypatch.setattr(to_postgres, "BATCH", 200)
    items, folder = clumps(4000), Path(tempfile.mkdtemp(prefix="csn_pg_disk_"))
    try:
        with full_disk(url, place, folder) as enlarge:
            refused(MachineError, ["has no room", "No space left on device"], lambda: upload(items, place, "shop"))
            sent = len(rows(place))
            assert 0 < sent < 4000 and sent % 200 == 0
            assert enlarge()
            assert upload(items, place, "shop") == (4000 - sent, 0)
            upload(items, place, "fresh")
            assert rows(place) == rows(place, "fresh")
    finally:
        folder.rmdir()


def test_another_writer_during_an_upload(place, monkeypatch):
    """A row that another program removes is noticed, and the same command again brings it back."""
    import psycopg

    items, made = clumps(60), to_postgres._rows
    monkeypatch.setattr(to_postgres, "BATCH", 20)

    def while_another_writes(embeddings, digests, batch):
        if 20 in batch:
            with psycopg.connect(place, autocommit=True) as other:
                other.execute("DELETE FROM shop WHERE id = %s", [items.ids[3]])
        return made(embeddings, digests, batch)

    with monkeypatch.context() as patch:
        patch.setattr(to_postgres, "_rows", while_another_writes)
        refused(MachineError, ["another program changed", "59 rows"], lambda: upload(items, place, "shop"))
    assert upload(items, place, "shop") == (1, 0)
    upload(items, place, "fresh")
    assert rows(place) == rows(place, "fresh")


def test_a_server_that_fails(place):
    from psycopg import errors

    for error, kind, words in (
        (errors.DiskFull("could not extend file"), MachineError, ["has no room (could not extend file)", "again"]),
        (errors.OutOfMemory("out of memory"), MachineError, ["has no room"]),
        (errors.DeadlockDetected("deadlock"), MachineError, ["locked by another"]),
        (errors.InternalError_("cache lookup failed"), MachineError, ["answers with an error"]),
    ):

        def fail(error=error):
            with connected(place, "--to_postgres", create=True):
                raise error

        refused(kind, words, fail)
    nowhere = "postgresql://ann:s3cret@localhost:1/shop"
    with pytest.raises(MachineError) as error:
        upload(clumps(3), nowhere, "shop")
    assert "s3cret" not in str(error.value) and "--to_postgres=postgresql://ann@localhost:1/shop cannot" in str(
        error.value
    )
    refused(UserError, ["is not a database"], lambda: upload(clumps(3), "no place = at = all", "shop"))
    assert place_of("host=a password='x y' user=b") == "host=a password=... user=b"


def test_the_commands(shop_runs, place, tmp_path, monkeypatch, capsys):
    """As a user types them. The second embed has nothing to do, and hits are those of the file."""
    monkeypatch.setenv("CSN_JAX_CACHE", str(shop_runs / "cache"))
    out = tmp_path / "shoes.parquet"
    argv = (f"--workdir={shop_runs / 'vectors'}", f"--table={shop_runs / 'products.parquet'}", f"--out={out}")
    argv += (f"--to_postgres={place}",)
    embed.main(argv)
    printed = capsys.readouterr()
    assert "in the table shoes; 60 sent, 0 removed" in printed.out and "--collection=shoes" in printed.err
    embed.main([*argv, "--update"])
    assert "in the table shoes already" in capsys.readouterr().out
    query = ("--id=images/003.png", "--condition", "category", "colour=0.5", "--filter", "price<200", "--json")
    answers = []
    for where in (f"--index={out}", f"--postgres={place}"):
        search.main([where, *query])
        answers.append(json.loads(capsys.readouterr().out)["hits"])
    assert answers[0] == answers[1] and len(answers[0]) == 10
    image = f"--image={shop_runs / 'images/003.png'}"
    assert_message(
        *run(search, monkeypatch, capsys, f"--postgres={place}", image, "--condition=colour"), 2, "--workdir"
    )
    for flag in ("--explain", "--leave_out_same=product", f"--index={out}"):
        assert_message(*run(search, monkeypatch, capsys, f"--postgres={place}", *query[:3], flag), 2, "--postgres")
    assert_message(*run(embed, monkeypatch, capsys, *argv, "--features"), 2, "--to_postgres", "--features")
