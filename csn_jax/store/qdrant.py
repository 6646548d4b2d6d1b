"""Embeddings in Qdrant: a collection with one named vector per condition."""

import os
import re
import sqlite3
import sys
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.errors import MachineError, UserError
from csn_jax.runtime.writer import Progress
from csn_jax.store.embeddings import (
    BY_CONDITION,
    OTHER_ITEMS,
    ROW_DIGEST,
    Embeddings,
    active_dimensions,
    difference,
    holds_other,
    rows_and_views,
    store_head,
)
from csn_jax.store.lacking import Wanted
from csn_jax.text import duration, first_sentence

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

KEY = "csn_jax"  # our key in a collection's metadata
WHOLE = "vector_and_squares"  # the name of the unmasked vector followed by its squares
FLAG = "--to_qdrant"  # gives the place to write to
BATCH = 256  # points sent or fetched at a time
PAGE = 10_000  # points whose digests are read, or that are removed, at a time
NUMBERS = 1 << 20  # sent at a time: as text they take about 20 MB, and servers refuse 32
SECONDS = 60  # to wait for an answer
MANY = 20_000  # items above which a folder is slow
SECONDS_PER_ITEM = 0.01  # that a folder takes to store one, on two slow cores
HEX = re.compile("[0-9a-f]{32}")
NAMESPACE = uuid.UUID("6c8d8f8b-3a3c-5d0c-9a55-0f2f6b7a1c11")  # of point ids; another would duplicate stored items


@contextmanager
def connected(where: str, flag: str, *, create: bool = False) -> Iterator["QdrantClient"]:
    """A client of a server's URL, whose key is in the environment variable QDRANT_API_KEY; or of a folder, in which
    Qdrant runs embedded in this process. `flag` gave it, for messages; `create` makes a folder that does not exist.

    A UserError if qdrant-client is missing, or the folder is not Qdrant's, in use, or not writable. A MachineError if
    the server cannot be reached or fails.
    """
    try:
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ImportError:
        raise UserError(f"{flag} needs qdrant-client; install it with: pip install qdrant-client.") from None
    place = f"{flag}={where}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large folders and keys over http, meant for programmers
            with closing(_client(where, place, create)) as client:
                yield client
    except ResponseHandlingException as error:
        reason = first_sentence(error)
        raise MachineError(f"{place} cannot be reached ({reason}); check that the server runs there.") from None
    except UnexpectedResponse as error:
        if error.status_code in (401, 403):
            raise UserError(f"{place} refuses the key; set QDRANT_API_KEY to the right one.") from None
        reason = first_sentence(error.content.decode(errors="replace"))
        raise MachineError(f"{place} answers {error.status_code} ({reason}).") from None
    except sqlite3.Error as error:  # Qdrant stores a folder in SQLite
        raise MachineError(f"{place} cannot be read or written ({first_sentence(error)}).") from None


def _client(where: str, place: str, create: bool) -> "QdrantClient":
    from qdrant_client import QdrantClient

    if where.startswith(("http://", "https://")):
        key = os.environ.get("QDRANT_API_KEY") or None
        return QdrantClient(url=where, api_key=key, timeout=SECONDS, check_compatibility=False)
    folder = _folder(where, place, create)
    try:
        return QdrantClient(path=str(folder))
    except Exception as error:  # damage raises a dozen types
        if "already accessed" in str(error):
            problem = "is in use by another process; wait for it, or use a server, which serves many"
            raise UserError(f"{place} {problem}.") from None
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        raise UserError(f"{place} cannot be opened ({reason}); give another.") from None


def _folder(where: str, place: str, create: bool) -> Path:
    folder = Path(where).expanduser().absolute()
    if re.fullmatch(r"[\w.-]+:\d+/?", where) or "://" in where:
        raise UserError(f"{place} is not a folder; give a server as http://HOST:6333 or https://HOST:6333.")
    if (folder / "meta.json").is_file():
        return folder
    if not create:
        raise UserError(f"{place} is not a folder of Qdrant; give one that csn_jax embed --to_qdrant wrote, or a URL.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{place} exists but is not a folder of Qdrant; give another.")
    if not folder.parent.is_dir():
        raise UserError(f"{place}: the folder {folder.parent} does not exist; make it first, or give another.")
    return folder


def check_place(
    where: str, name: str, model_sha256: str, n: int = 0, *, rebuild: bool = False, yes: bool = False
) -> None:
    """Raise what `upload` of a model's embeddings would raise, as far as that can be known without them. Unless `yes`,
    ask before a folder gets more than MANY of n items, as it would be slow."""
    if re.search(r'[<>:"/\\|?*\x00-\x1f]', name) or not 0 < len(name) < 200:
        raise UserError(f"--collection={name!r} cannot name a collection; use letters, digits, - and _.")
    with connected(where, FLAG, create=True) as client:
        stored = 0
        if client.collection_exists(name):
            head = read_head(client, name, f"{FLAG}={where}")
            if head["model_sha256"] == model_sha256:
                stored = client.count(name, exact=True).count
            elif not rebuild:
                raise holds_other(f"{FLAG}={where}: the collection {name!r}", "another model")
        if n - stored > MANY and not yes and not where.startswith("http"):
            _ask(where, n - stored)


def _ask(where: str, n: int) -> None:
    """Return if the user wants to send n items to a folder; else a UserError."""
    slow = f"{FLAG}={where} is a folder, which takes {duration(n * SECONDS_PER_ITEM)} or more to store {n:,} items"
    fix = "give the URL of a Qdrant server, or --yes for the folder"
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError(f"{slow}; {fix}.")
    print(f"{slow}.\nStore them there? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError(f"nothing was embedded and nothing stored; {fix}.")


def upload(
    embeddings: Embeddings, where: str, name: str, *, rebuild: bool = False, update: bool = False
) -> tuple[int, int]:
    """Make a collection hold these embeddings: (points sent, points removed). Points that are there are not sent.

    Each point has the named vectors `vec_CONDITION` (the vector times the mask, without the dimensions of weight 0, for
    Euclidean distance) and `vector_and_squares` (the unmasked x and x * x, without a graph). Under maps, x is the view
    of the vector, so `vec_CONDITION` has as many numbers as the condition's map has rows. Its payload is `id`,
    the attributes (a set, with semicolons, is a list), and `row_digest`, by which a point is known to be whole. Point
    ids are computed from item ids. The collection's metadata hold model, masks, maps and conditions.

    A collection of other items is brought to these with `update`, and one of other embeddings is replaced with
    `rebuild`; both are else a UserError, as is a column by whose name Qdrant cannot filter. Further errors as for
    `connected`, which takes `where`.
    """
    from qdrant_client import models

    for column in embeddings.columns:
        if '"' in column:
            raise UserError(f"column {column!r} has a quote in its name, by which Qdrant cannot filter; rename it.")
        if column == ROW_DIGEST:
            raise UserError(f"column {column!r} has a name that the collection needs itself; rename it.")
    head = store_head(embeddings)
    with connected(where, FLAG, create=True) as client:
        kept, known = False, client.collection_exists(name)
        if known:
            stored = read_head(client, name, f"{FLAG}={where}")
            other = difference(stored, head)
            kept = not other or (update and other == OTHER_ITEMS)
            if not kept and not rebuild:
                raise holds_other(f"{FLAG}={where}: the collection {name!r}", other)
            whole = not other and stored.get("complete", True)
            if whole and client.count(name, exact=True).count == len(embeddings.ids):
                return 0, 0
        if known and not kept:
            client.delete_collection(name)
        begun = {KEY: head | {"complete": False}}
        if kept:
            client.update_collection(name, metadata=begun)
        else:
            vectors = {
                vector_name(condition): models.VectorParams(size=len(active), distance=models.Distance.EUCLID)
                for condition, active, _ in active_dimensions(embeddings)
            }
            # Fetched by id, and scanned for negative weights, which no graph can search: it needs no graph.
            vectors[WHOLE] = models.VectorParams(
                size=2 * embeddings.masks.shape[1],
                distance=models.Distance.DOT,
                hnsw_config=models.HnswConfigDiff(m=0),
                on_disk=True,
            )
            client.create_collection(name, vectors_config=vectors, metadata=begun)
            read_head(client, name, f"{FLAG}={where}")  # an old server drops the metadata silently
        if where.startswith("http"):  # embedded, Qdrant has no indexes
            for column in ("id", *embeddings.columns):
                client.create_payload_index(name, json_path(column), models.PayloadSchemaType.KEYWORD)
        with closing(Progress("sending", len(embeddings.ids), unit="vector")) as progress:
            counts = _bring(client, name, embeddings, progress)
        if client.count(name, exact=True).count != len(embeddings.ids):
            raise MachineError(
                f"{FLAG}={where}: another program changed the collection {name!r} during the upload; run the same "
                "command again with --update."
            )
        client.update_collection(name, metadata={KEY: head | {"complete": True}})
    return counts


def _bring(client: "QdrantClient", name: str, embeddings: Embeddings, progress: Progress) -> tuple[int, int]:
    """Remove the points that are gone, and send those that are missing or differ."""
    from qdrant_client import models

    wanted, after, n_gone = Wanted(embeddings, lambda item: uuid.UUID(point_id(item)).bytes), None, 0
    while True:
        records, after = client.scroll(name, limit=PAGE, offset=after, with_payload=[ROW_DIGEST])
        gone = wanted.compare(*zip(*map(_key_and_digest, records), strict=True)) if records else ()
        points = [record.id for record, is_gone in zip(records, gone, strict=True) if is_gone]
        if points:
            client.delete(name, models.PointIdsList(points=points), wait=True)
        n_gone += len(points)
        if after is None:
            break
    lacking = wanted.lacking().tolist()
    progress.advance(len(embeddings.ids) - len(lacking))
    active = [*active_dimensions(embeddings)]
    size = in_a_request(sum((2 * embeddings.masks.shape[1], *(len(places) for _, places, _ in active))))
    for start in range(0, len(lacking), size):
        rows = lacking[start : start + size]
        _, views = rows_and_views(embeddings, rows)
        named = {WHOLE: np.concatenate([views, np.square(views)], axis=1).tolist()}
        for condition, places, weights in active:
            named[vector_name(condition)] = (views[:, places] * weights).tolist()
        ids = embeddings.ids[rows].tolist()
        payloads = [
            {"id": item, ROW_DIGEST: bytes(wanted.digests[row]).hex()} for item, row in zip(ids, rows, strict=True)
        ]
        for column, values in embeddings.columns.items():
            for payload, value in zip(payloads, values[rows].tolist(), strict=True):
                payload |= {column: to_payload(value)} if value else {}
        batch = models.Batch(ids=[*map(point_id, ids)], vectors=named, payloads=payloads)
        client.upsert(name, batch, wait=True)
        progress.advance(len(rows))
    return len(lacking), n_gone


def _key_and_digest(record: Any) -> tuple[bytes, bytes]:
    """Of a point, as `Wanted` compares them. Points of other programs may have numbers for ids, and any payload."""
    key = record.id.to_bytes(16, "big") if isinstance(record.id, int) else uuid.UUID(record.id).bytes
    digest = str((record.payload or {}).get(ROW_DIGEST))
    return key, bytes.fromhex(digest) if HEX.fullmatch(digest) else b""


def in_a_request(width: int) -> int:
    """How many points, or queries, of so many numbers are sent at a time."""
    return max(1, min(BATCH, NUMBERS // max(1, width)))


def cut(vectors: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Vectors [N, D] times a mask [D], or views [N, V] times [V], without the dimensions of weight 0: [N, active]."""
    active = np.flatnonzero(mask)
    return vectors[:, active] * mask[active]


def point_id(item: str) -> str:
    """The id of an item's point. Qdrant takes numbers and UUIDs only."""
    return str(uuid.uuid5(NAMESPACE, item))


def vector_name(condition: str) -> str:
    """`vec_` and the condition, with characters that Qdrant forbids in names as %XX."""
    return BY_CONDITION + re.sub(r'[<>:"/\\|?*%\x00-\x1f]', lambda match: f"%{ord(match[0]):02X}", condition)


def json_path(column: str) -> str:
    """The JSON path of a column in the payload, for filters."""
    return column if re.fullmatch(r"\w+", column, re.ASCII) else f'"{column}"'


def to_payload(value: str) -> str | list[str]:
    """An attribute as stored: a set becomes a list."""
    return value.split(";") if ";" in value else value


def from_payload(value: str | list[str]) -> str:
    """The attribute that `to_payload` stored."""
    return value if isinstance(value, str) else ";".join(value)


def read_head(client: "QdrantClient", name: str, place: str) -> dict[str, Any]:
    """Our part of a collection's metadata. Raises UserError if there is none."""
    head = (getattr(client.get_collection(name).config, "metadata", None) or {}).get(KEY)
    if not isinstance(head, dict) or head.get("format") != 1:
        raise UserError(
            f"{place}: the collection {name!r} was not written by csn_jax, or the server is older than 1.16 and stores "
            "no metadata; give another --collection, or update the server."
        )
    return head
