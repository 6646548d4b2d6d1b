"""Upload to PostgreSQL: makes a table hold these items by sending what it lacks, in batches of one transaction each."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.errors import MachineError, UserError
from csn_jax.runtime.writer import Progress
from csn_jax.store.embeddings import (
    OTHER_ITEMS,
    ROW_DIGEST,
    Embeddings,
    active_dimensions,
    difference,
    holds_other,
    rows_and_views,
    store_head,
)
from csn_jax.store.int8 import pieces
from csn_jax.store.lacking import Wanted
from csn_jax.store.postgres import (
    HEADS,
    WHOLE,
    WIDEST,
    as_text,
    check_names,
    connected,
    exists,
    from_text,
    identifier,
    place_of,
    read_head,
    type_of,
    vector_column,
    write_head,
)

if TYPE_CHECKING:
    from psycopg import Connection, sql

    from csn_jax.store.texts import Texts

FLAG = "--to_postgres"
BATCH = 1000  # rows of a transaction
PAGE = 10_000  # rows whose digests are compared at a time
PATIENCE = 10  # seconds to wait for an upload that may have ended
INDEXED = 2000  # numbers of a vector that a graph of pgvector takes; wider columns are scanned


def check_place(
    where: str, name: str, model_sha256: str, columns: list[str], conditions: tuple[str, ...], *, rebuild: bool
) -> None:
    """Raise what `upload` of a model's embeddings would raise, as far as that can be known without them."""
    check_names(name, columns, conditions)
    with connected(where, FLAG, create=True) as connection:
        head = _known(connection, where, name)
        if head and head["model_sha256"] != model_sha256 and not rebuild:
            raise holds_other(f"{place_of(where, FLAG)}: the table {name!r}", "another model")
        right = "SELECT has_schema_privilege(current_schema(), 'CREATE')"
        if not head and not connection.execute(right).fetchone()[0]:
            fix = "use a user that may, or another schema by ?options=-csearch_path=SCHEMA"
            raise UserError(f"{place_of(where, FLAG)}: this user may not create a table in the schema; {fix}.")


def upload(
    embeddings: Embeddings, where: str, name: str, *, rebuild: bool = False, update: bool = False
) -> tuple[int, int]:
    """Make a table hold these embeddings: (rows sent, rows removed). Rows that it holds already are not sent.

    A row has `id`, the attributes with their types, `vector` (unmasked), `vec_CONDITION` per condition (the vector, or
    under maps its view, times the mask, without the dimensions of weight 0) with a graph for Euclidean distance, and
    `row_digest`, by which a row is known to be complete. The table `csn_jax_tables` holds model, masks and maps.

    A table of other items is brought to these with `update`, one of another model is replaced with `rebuild`; both are
    else a UserError, as is a table that csn_jax did not write. Further errors as for `store.postgres.connected`.
    """
    check_names(name, embeddings.columns, [condition.name for condition in embeddings.conditions])
    wide = max(embeddings.vectors.shape[1], *(len(active) for _, active, _ in active_dimensions(embeddings)), 0)
    if wide > WIDEST:
        raise UserError(f"{FLAG}: vectors have {wide:,} numbers, and pgvector takes {WIDEST:,}; use fewer dimensions.")
    types = {column: type_of(_texts(values)) for column, values in embeddings.columns.items()}
    head = store_head(embeddings) | {"types": types, "complete": True}
    with connected(where, FLAG, create=True) as connection:
        _lock(connection, where, name)
        stored = _known(connection, where, name)
        other = difference(stored, head) if stored else ""
        kept = not other or (update and other == OTHER_ITEMS)
        if not kept and not rebuild:
            raise holds_other(f"{place_of(where, FLAG)}: the table {name!r}", other)
        if stored and not other and stored["complete"] and _count(connection, name) == len(embeddings.ids):
            return 0, 0
        if not kept:
            stored = None
        wanted = Wanted(embeddings, _key)
        with connection.transaction():
            present = _prepare(connection, name, embeddings, stored, types)
            write_head(connection, name, head | {"types": present, "complete": False})
        gone = _compared(connection, name, wanted)
        lacking = wanted.lacking().tolist()
        _send(connection, name, embeddings, present, wanted.digests, gone, lacking)
        with connection.transaction():
            _finish(connection, name, embeddings, present, types)
            if (n := _count(connection, name)) != len(embeddings.ids):
                raise MachineError(
                    f"{place_of(where, FLAG)}: another program changed the table {name!r} during the upload, which has "
                    f"{n:,} rows now; run the same command again with --update."
                )
            write_head(connection, name, head)
        _run(connection, "ANALYZE {}", name)
    return len(lacking), len(gone)


def _lock(connection: "Connection[Any]", where: str, name: str) -> None:
    """Hold the table for this connection; a UserError if another upload holds it. The server may take a moment to
    notice that an earlier one has ended."""
    lock = "SELECT pg_try_advisory_lock(hashtextextended(current_schema() || '.' || %s, 6121))"
    until = time.monotonic() + PATIENCE
    while not connection.execute(lock, [name]).fetchone()[0]:
        if time.monotonic() > until:
            raise UserError(f"{place_of(where, FLAG)}: another upload writes to the table {name!r}; wait for it.")
        time.sleep(0.1)


def _known(connection: "Connection[Any]", where: str, name: str) -> dict[str, Any] | None:
    """The head of a table, or None if the table does not exist. A UserError for a table of another program."""
    if not exists(connection, name):
        return None
    head = read_head(connection, name)
    if head is None:
        raise UserError(
            f"{place_of(where, FLAG)}: the table {name!r} exists and was not written by csn_jax; give another "
            "--collection."
        )
    return head


def _run(connection: "Connection[Any]", text: str, *identifiers: str, then: "sql.Composable | str" = "") -> Any:
    """The result of a statement with quoted names in its braces, and with more behind it."""
    from psycopg import sql

    then = sql.SQL(then) if isinstance(then, str) else then
    return connection.execute(_sql(text, *identifiers) + then, ())


def _sql(text: str, *identifiers: str) -> "sql.Composed":
    """A statement with quoted names in its braces."""
    from psycopg import sql

    return sql.SQL(text).format(*map(identifier, identifiers))


def _count(connection: "Connection[Any]", name: str) -> int:
    return _run(connection, "SELECT count(*) FROM {}", name).fetchone()[0]


def _widths(embeddings: Embeddings) -> dict[str, int]:
    """The columns of vectors, and how many numbers each has."""
    cut = {vector_column(condition): len(active) for condition, active, _ in active_dimensions(embeddings)}
    return {WHOLE: embeddings.vectors.shape[1]} | cut


def _prepare(
    connection: "Connection[Any]",
    name: str,
    embeddings: Embeddings,
    stored: dict[str, Any] | None,
    types: dict[str, str],
) -> dict[str, str]:
    """Make the table, or give one of other items the columns of these. Returns the types of the attributes: text for
    those whose type changes, until all rows are there."""
    from psycopg import sql

    _run(connection, "CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, head text NOT NULL)", HEADS)
    if stored is None:
        columns = [_sql("id text PRIMARY KEY")]
        columns += [sql.SQL("{} {}").format(identifier(column), sql.SQL(kind)) for column, kind in types.items()]
        columns += [
            sql.SQL("{} vector({}) NOT NULL").format(identifier(column), sql.Literal(width))
            for column, width in _widths(embeddings).items()
        ]
        columns.append(_sql("{} bytea NOT NULL", ROW_DIGEST))
        _run(connection, "DROP TABLE IF EXISTS {}", name)
        _run(connection, "CREATE TABLE {} (", name, then=sql.SQL(", ").join(columns) + sql.SQL(")"))
        return types
    present = {}
    for column in stored["types"].keys() - types.keys():
        _run(connection, "ALTER TABLE {} DROP COLUMN {}", name, column)
    for column, kind in types.items():
        before, here = stored["types"].get(column), identifier(column)
        present[column] = kind if before in (kind, None) else "text"
        if before is None:
            _run(connection, "ALTER TABLE {} ADD COLUMN {} ", name, column, then=kind)
        elif before not in (kind, "text"):
            change = "ALTER TABLE {} ALTER COLUMN {} TYPE text USING "
            _run(connection, change, name, column, then=as_text(here, before))
    return present


def _texts(column: "np.ndarray | Texts") -> Iterator[str]:
    """The different texts of a column. Of part files they come piece by piece, some of them repeatedly."""
    for rows in pieces(len(column)):
        yield from set(column[rows].tolist())


def _key(item: str) -> bytes:
    return hashlib.sha256(item.encode(errors="surrogatepass")).digest()[:16]


def _compared(connection: "Connection[Any]", name: str, wanted: Wanted) -> list[str]:
    """Compare all rows of the table with those that it is to hold. Returns the ids of those that are gone."""
    gone = []
    with connection.transaction(), connection.cursor("digests", binary=True) as cursor:
        cursor.execute(_sql("SELECT id, {} FROM {}", ROW_DIGEST, name), ())
        while page := cursor.fetchmany(PAGE):
            ids, digests = zip(*page, strict=True)
            gone += np.array(ids, object)[wanted.compare([*map(_key, ids)], [*map(bytes, digests)])].tolist()
    return sorted(gone)


def _rows(embeddings: Embeddings, digests: np.ndarray, rows: list[int]) -> Iterator[list[Any]]:
    """The cells of some rows, in the order of `_send`."""
    vectors, views = rows_and_views(embeddings, rows)
    parts = [vectors] + [views[:, active] * weights for _, active, weights in active_dimensions(embeddings)]
    texts = [embeddings.ids[rows].tolist(), *(column[rows].tolist() for column in embeddings.columns.values())]
    for place, row in enumerate(rows):
        cells = [column[place] or None for column in texts]
        yield [*cells, *(part[place] for part in parts), bytes(digests[row])]


def _send(
    connection: "Connection[Any]",
    name: str,
    embeddings: Embeddings,
    types: dict[str, str],
    digests: np.ndarray,
    gone: list[str],
    lacking: list[int],
) -> None:
    """Remove the rows that are gone and write those that the table lacks. A batch is there entirely or not at all."""
    from psycopg import sql

    for start in range(0, len(gone), BATCH):
        connection.execute(_sql("DELETE FROM {} WHERE id = ANY(%s)", name), [gone[start : start + BATCH]])
    vectors = [*_widths(embeddings)]
    columns = ["id", *types, *vectors, ROW_DIGEST]
    kinds = ["text"] * (1 + len(types)) + ["vector"] * len(vectors) + ["bytea"]
    places = [identifier(f"c{i}") for i in range(len(columns))]  # of a table of this connection alone
    fields = [sql.SQL("{} {}").format(place, sql.SQL(kind)) for place, kind in zip(places, kinds, strict=True)]
    connection.execute(sql.SQL("CREATE TEMPORARY TABLE csn_jax_batch ({})").format(sql.SQL(", ").join(fields)))
    target = ["text", *types.values(), *kinds[1 + len(types) :]]
    values = [from_text(place, kind) if kind != "vector" else place for place, kind in zip(places, target, strict=True)]
    replaced = [_sql("{0} = excluded.{0}", column) for column in columns[1:]]
    insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM csn_jax_batch ON CONFLICT (id) DO UPDATE SET {}").format(
        identifier(name),
        sql.SQL(", ").join(map(identifier, columns)),
        sql.SQL(", ").join(values),
        sql.SQL(", ").join(replaced),
    )
    oid = connection.execute("SELECT 'vector'::regtype::oid").fetchone()[0]
    with closing(Progress("sending", len(lacking), unit="row")) as progress:
        for start in range(0, len(lacking), BATCH):
            rows = lacking[start : start + BATCH]
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute("TRUNCATE csn_jax_batch")
                with cursor.copy("COPY csn_jax_batch FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types([oid if kind == "vector" else kind for kind in kinds])
                    for cells in _rows(embeddings, digests, rows):
                        copy.write_row(cells)
                cursor.execute(insert, ())
            progress.advance(len(rows))
    connection.execute("DROP TABLE csn_jax_batch")


def _finish(
    connection: "Connection[Any]", name: str, embeddings: Embeddings, present: dict[str, str], types: dict[str, str]
) -> None:
    """Give attributes their types, and each condition its graph: made after the rows, which is faster."""
    from psycopg import sql

    for column, kind in types.items():
        if present[column] != kind:
            value = sql.SQL(f"{kind} USING ") + from_text(identifier(column), kind)
            _run(connection, "ALTER TABLE {} ALTER COLUMN {} TYPE ", name, column, then=value)
    query = (
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) "
        "WHERE i.indrelid = quote_ident(%s)::regclass"
    )
    indexed = {column for (column,) in connection.execute(query, [name])}
    for column, width in _widths(embeddings).items():
        if column != WHOLE and column not in indexed and width <= INDEXED:
            _run(connection, "CREATE INDEX ON {} USING hnsw ({} vector_l2_ops)", name, column)
