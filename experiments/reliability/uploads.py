"""Uploads that kill_work.py kills: 400 made-up items, 400 that differ from them, and what a store holds of either."""

import atexit
import re
import sqlite3
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import postgres
from small_index import clumps

BATCH = 8  # rows that are sent at a time here
N, GONE = 400, 40


def before() -> Any:
    return part_of(clumps(N + GONE), slice(0, N))


def after() -> Any:
    """Of the items before, GONE are gone, every third has another vector, and GONE are new."""
    made = clumps(N + GONE)
    made.vectors[::3] += 1
    made.columns["price"][::7] = "8"
    return part_of(made, slice(GONE, None))._replace(made_from="later")


def part_of(items: Any, rows: slice) -> Any:
    columns = {name: column[rows] for name, column in items.columns.items()}
    return items._replace(ids=items.ids[rows], vectors=items.vectors[rows], columns=columns)


def digests(items: Any) -> set[str]:
    from csn_jax.store.lacking import Wanted

    return {bytes(digest).hex() for digest in Wanted(items, str.encode).digests}


class Qdrant:
    """A folder of Qdrant in a place."""

    def send(self, place: Path, items: Any) -> int:
        """Bring the store to the items; how many were sent."""
        from csn_jax.store import qdrant

        qdrant.BATCH = BATCH
        return qdrant.upload(items, str(place / "store"), "items", update=True)[0]

    def digests(self, place: Path) -> set[str]:
        """The digests of what is there, while another process has the folder open: read from SQLite's file."""
        found: set[str] = set()
        for path in place.glob("store/collection/items/storage.sqlite"):
            with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                cells = database.execute("SELECT point FROM points").fetchall()
                matches = (re.search(rb"row_digest.{1,8}?([0-9a-f]{32})", cell, re.DOTALL) for (cell,) in cells)
                found = {match[1].decode() for match in matches if match}
        return found

    def contents(self, place: Path) -> dict[str, Any]:
        """{id: all that the store holds of an item}, and whether the collection is complete."""
        from csn_jax.store.qdrant import connected, read_head

        if not (place / "store" / "meta.json").is_file():
            return {}
        with connected(str(place / "store"), "") as client:
            if not client.collection_exists("items"):
                return {}
            records, _ = client.scroll("items", limit=10 * N, with_payload=True, with_vectors=True)
            head = read_head(client, "items", "")
        rows = {record.payload["id"]: repr((record.payload, record.vector)) for record in records}
        return rows | ({"head": head} if head.get("complete", True) else {})


class Postgres:
    """Tables of a server, one for each place."""

    def __init__(self) -> None:
        stack = ExitStack()
        self.url = stack.enter_context(postgres.server())
        atexit.register(stack.close)

    def send(self, place: Path, items: Any) -> int:
        from csn_jax.embed import to_postgres

        to_postgres.BATCH = BATCH
        return to_postgres.upload(items, self.url, place.name, update=True)[0]

    def rows(self, place: Path, columns: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            with suppress(psycopg.errors.UndefinedTable):
                return connection.execute(f'SELECT {columns} FROM "{place.name}" ORDER BY id').fetchall()
            return []

    def digests(self, place: Path) -> set[str]:
        return {digest.hex() for (digest,) in self.rows(place, "row_digest")}

    def contents(self, place: Path) -> dict[str, Any]:
        """When the server has noticed that the last upload ended."""
        import psycopg

        from csn_jax.store.postgres import read_head

        with psycopg.connect(self.url, autocommit=True) as connection:
            others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'csn_jax'"
            while connection.execute(others).fetchone()[0]:
                time.sleep(0.01)
            head = read_head(connection, place.name)
        rows = {row[0]: repr(row[1:]) for row in self.rows(place, "*")}
        return rows | ({"head": head} if head and head["complete"] else {})
