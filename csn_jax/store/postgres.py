"""Embeddings in PostgreSQL with pgvector: connections, types of columns, and what the database knows of a table.

Values travel as parameters and names as quoted identifiers: no text of a user becomes SQL.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.errors import MachineError, UserError
from csn_jax.store.embeddings import BY_CONDITION, ROW_DIGEST
from csn_jax.text import first_sentence

if TYPE_CHECKING:
    from psycopg import Connection, sql

EXTENSION = "vector"  # pgvector
HEADS = "csn_jax_tables"  # our table of (name, head), beside the others
WHOLE = "vector"  # the column of the unmasked vector
SYSTEM = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")  # columns that every table has
LONGEST = 63  # bytes of a name; PostgreSQL cuts longer ones
WIDEST = 16_000  # numbers of a vector; pgvector takes no more
OLDEST = (0, 8)  # version of pgvector: the first that searches further when a filter leaves too few rows
SECONDS = 60  # to wait for a connection or a lock

WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,17}")
DECIMAL = re.compile(r"(?!-0(?:\.0+)?$)-?(?:0|[1-9]\d{0,30})(?:\.\d{1,30})?")
DAY = re.compile(r"\d{4}-\d\d-\d\d")


def place_of(where: str, flag: str = "") -> str:
    """A place as messages name it: without the password."""
    shown = re.sub(r"(://[^:/@]*):[^@]*@", r"\1@", where)
    shown = re.sub(r"([?&\s]|^)password=('(?:[^'\\]|\\.)*'|[^\s&]*)", r"\1password=...", shown)
    return f"{flag}={shown}" if flag else shown


@contextmanager
def connected(where: str, flag: str, *, create: bool = False) -> Iterator["Connection[Any]"]:
    """A connection, in which numpy vectors are parameters and results. `flag` gave it, for messages; `create` adds the
    extension where the database lacks it.

    A UserError if psycopg is missing, the place is not a database, the extension is missing or old, or the role lacks a
    right. A MachineError if the server cannot be reached, is lost, has no room, or keeps what is needed locked.
    """
    try:
        import psycopg
        from psycopg import errors
    except ImportError:
        raise UserError(f"{flag} needs psycopg; install it with: pip install 'psycopg[binary]'.") from None
    place = place_of(where, flag)
    try:
        options = {"connect_timeout": SECONDS, "application_name": "csn_jax", "client_encoding": "UTF8"}
        connection = psycopg.connect(where, autocommit=True, **options)
    except psycopg.ProgrammingError:
        raise UserError(f"{place} is not a database; give postgresql://USER@HOST/DATABASE.") from None
    except psycopg.Error as error:
        raise MachineError(f"{place} cannot be reached ({_reason(error)}); check server, database and user.") from None
    try:
        with connection:
            connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{SECONDS}s"])
            connection.execute("SET datestyle = ISO")
            _with_vectors(connection, place, create)
            yield connection
    except errors.InsufficientPrivilege as error:
        raise UserError(f"{place} denies a right to this user ({_reason(error)}); use one that has it.") from None
    except errors.ReadOnlySqlTransaction:
        raise UserError(f"{place} is read-only; give the primary server.") from None
    except errors.DataError as error:
        raise UserError(f"{place} cannot store a value ({_reason(error)}); change that value in the table.") from None
    except (errors.DiskFull, errors.OutOfMemory) as error:
        again = "run the same command again when there is room"
        raise MachineError(f"{place} has no room ({_reason(error)}); {again}.") from None
    except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
        again = "run the same command again when the other is done"
        raise MachineError(f"{place} is locked by another transaction ({_reason(error)}); {again}.") from None
    except psycopg.OperationalError as error:
        again = "run the same command again to resume"
        raise MachineError(f"{place} was lost ({_reason(error)}); {again}.") from None
    except psycopg.Error as error:
        raise MachineError(f"{place} answers with an error ({_reason(error)}).") from None


def _reason(error: Exception) -> str:
    return first_sentence(error).rstrip(".")


def _with_vectors(connection: "Connection[Any]", place: str, create: bool) -> None:
    """Find pgvector, and teach the connection its type."""
    from psycopg import errors, sql

    query = (
        "SELECT e.extversion, n.nspname, t.oid, t.typarray FROM pg_extension e JOIN pg_namespace n "
        "ON n.oid = e.extnamespace JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = 'vector' "
        "WHERE e.extname = 'vector'"
    )
    found = connection.execute(query).fetchone()
    if not found and create:
        try:
            connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(identifier(EXTENSION)), ())
        except (errors.FeatureNotSupported, errors.UndefinedFile, errors.UndefinedObject):
            raise UserError(f"{place} has no pgvector; install it on the server (package pgvector).") from None
        except errors.InsufficientPrivilege:
            fix = "let its administrator run CREATE EXTENSION vector"
            raise UserError(f"{place} has no extension vector, and this user may not add it; {fix}.") from None
        found = connection.execute(query).fetchone()
    if not found:
        raise UserError(f"{place} has no extension vector, so csn_jax embed --to_postgres has not written there.")
    version, schema, oid, _ = found
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise UserError(f"{place} has pgvector {version}; update it to {needed} or newer.")
    connection.execute(
        "SELECT set_config('search_path', current_setting('search_path') || ', ' || quote_ident(%s), false)", [schema]
    )
    _register(connection, oid)


def _register(connection: "Connection[Any]", oid: int) -> None:
    """Send and read vectors as bytes: as text they take four times as long."""
    from psycopg.adapt import Dumper, Loader
    from psycopg.pq import Format

    class VectorDumper(Dumper):
        format = Format.BINARY

        def dump(self, vector: np.ndarray) -> bytes:
            return struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()

    class VectorLoader(Loader):
        format = Format.BINARY

        def load(self, data: Any) -> np.ndarray:
            return np.frombuffer(data, ">f4", offset=4).astype(np.float32)

    VectorDumper.oid = oid
    connection.adapters.register_dumper(np.ndarray, VectorDumper)
    connection.adapters.register_loader(oid, VectorLoader)


def identifier(name: str) -> "sql.Identifier":
    """A name, quoted, for a statement that is given parameters (also none, as `()`): psycopg reads %% as %."""
    from psycopg import sql

    return sql.Identifier(name.replace("%", "%%"))


def vector_column(condition: str) -> str:
    """The column of a condition's vectors."""
    return BY_CONDITION + condition


def check_names(table: str, columns: Iterable[str], conditions: Iterable[str]) -> None:
    """Raise UserError for a name that PostgreSQL cannot take, or that a table has itself."""
    own = {name.lower() for name in (*SYSTEM, ROW_DIGEST)}
    for kind, name in (
        ("--collection", table),
        *(("column", name) for name in columns),
        *(("the column of condition", vector_column(name)) for name in conditions),
    ):
        if not name or "\0" in name or len(name.encode(errors="replace")) > LONGEST:
            raise UserError(f"{kind} {name!r} is not a name for PostgreSQL (1 to {LONGEST} bytes); rename it.")
        if kind == "column" and name.lower() in own:
            raise UserError(f"column {name!r} has a name that tables in PostgreSQL reserve; rename it.")
        if kind == "--collection" and name == HEADS:
            raise UserError(f"--collection={name} is the table of heads; give another name.")


def type_of(values: Iterable[str]) -> str:
    """The narrowest type from whose values the texts of an attribute come back as they are. Empty texts are NULL."""
    kinds, known, of_sets = [*TESTS], False, False
    for value in filter(None, values):
        kinds, known, of_sets = [kind for kind in kinds if TESTS[kind](value)], True, of_sets or ";" in value
    if known and kinds:
        return kinds[0]
    return "text[]" if of_sets else "text"


def _is_day(text: str) -> bool:
    try:
        return bool(DAY.fullmatch(text)) and bool(date.fromisoformat(text))
    except ValueError:
        return False


TESTS = {  # of a text, by the type that it fits; the narrowest first
    "bigint": WHOLE_NUMBER.fullmatch,
    "numeric": DECIMAL.fullmatch,
    "boolean": ("true", "false").__contains__,
    "date": _is_day,
}


def as_text(column: "sql.Composable", kind: str) -> "sql.Composed":
    """A column as the text of the attribute; NULL where it is missing."""
    from psycopg import sql

    return sql.SQL("array_to_string({}, ';')" if kind == "text[]" else "{}::text").format(column)


def from_text(column: "sql.Composable", kind: str) -> "sql.Composed":
    """A text as a value of a type."""
    from psycopg import sql

    if kind == "text[]":
        return sql.SQL("string_to_array({}, ';')").format(column)
    return sql.SQL("{}::{}").format(column, sql.SQL(kind))  # `kind` is one of `type_of`


def exists(connection: "Connection[Any]", name: str) -> bool:
    """Whether a table, or anything else, has this name."""
    query = "SELECT to_regclass(quote_ident(%s)) IS NOT NULL"
    return bool(connection.execute(query, [name]).fetchone()[0])


def read_head(connection: "Connection[Any]", name: str) -> dict[str, Any] | None:
    """What csn_jax noted about a table; None if it did not write it."""
    from psycopg import sql

    if not exists(connection, HEADS):
        return None
    query = sql.SQL("SELECT head FROM {} WHERE name = %s").format(identifier(HEADS))
    found = connection.execute(query, [name]).fetchone()
    head = json.loads(found[0]) if found else None
    return head if isinstance(head, dict) and head.get("format") == 1 else None


def write_head(connection: "Connection[Any]", name: str, head: dict[str, Any]) -> None:
    """Note something about a table."""
    from psycopg import sql

    query = "INSERT INTO {} (name, head) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET head = excluded.head"
    connection.execute(sql.SQL(query).format(identifier(HEADS)), [name, json.dumps(head)])


def names(connection: "Connection[Any]") -> list[str]:
    """The tables that csn_jax wrote."""
    from psycopg import sql

    if not exists(connection, HEADS):
        return []
    query = sql.SQL("SELECT name FROM {} WHERE to_regclass(quote_ident(name)) IS NOT NULL ORDER BY name")
    return [name for (name,) in connection.execute(query.format(identifier(HEADS)))]
