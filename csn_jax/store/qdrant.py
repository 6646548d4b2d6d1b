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
from csn_jax.store.vector_file import BY_CONDITION, Embeddings, active_dimensions, head_of
from csn_jax.text import duration, first_sentence

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

KEY = "csn_jax"  # our key in a collection's metadata
WHOLE = "vector_and_squares"  # the name of the unmasked vector followed by its squares
FLAG = "--to_qdrant"  # gives the place to write to
BATCH = 256  # points sent or fetched at a time
SECONDS = 60  # to wait for an answer
MANY = 20_000  # items above which a folder is slow
SECONDS_PER_ITEM = 0.01  # that a folder takes to store one, on two slow cores
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
                raise _holds_other(where, name, "another model")
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


def _holds_other(where: str, name: str, other: str) -> UserError:
    return UserError(
        f"{FLAG}={where}: the collection {name!r} exists and holds vectors of {other}; give another --collection, or "
        "--rebuild to replace it."
    )


def upload(embeddings: Embeddings, where: str, name: str, *, rebuild: bool = False) -> bool:
    """Make a collection hold these embeddings by adding what it lacks. Returns whether anything was sent.

    Each point has the named vectors `vec_CONDITION` (the vector times the mask, without the dimensions of weight 0, for
    Euclidean distance) and `vector_and_squares` (the unmasked x and x * x, without a graph). Its payload is `id` and
    the attributes; a set, with semicolons, is a list. Point ids are computed from item ids. The collection's metadata
    hold model, masks and conditions.

    A collection of other embeddings is replaced with `rebuild`, and else a UserError, as is a column by whose name
    Qdrant cannot filter. Further errors as for `connected`, which takes `where`.
    """
    from qdrant_client import models

    for column in embeddings.columns:
        if '"' in column:
            raise UserError(f"column {column!r} has a quote in its name, by which Qdrant cannot filter; rename it.")
    head = {name: value for name, value in head_of(embeddings).items() if name not in ("dtype", "shape", "scale")}
    head["items"] = len(embeddings.ids)
    with connected(where, FLAG, create=True) as client:
        if client.collection_exists(name):
            other = _difference(read_head(client, name, f"{FLAG}={where}"), head)
            if other and not rebuild:
                raise _holds_other(where, name, other)
            if other:
                client.delete_collection(name)
        if not client.collection_exists(name):
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
            client.create_collection(name, vectors_config=vectors, metadata={KEY: head})
            read_head(client, name, f"{FLAG}={where}")  # an old server drops the metadata silently
            if where.startswith("http"):  # embedded, Qdrant has no indexes
                for column in ("id", *embeddings.columns):
                    client.create_payload_index(name, json_path(column), models.PayloadSchemaType.KEYWORD)
        stored = client.count(name, exact=True).count
        if stored == len(embeddings.ids):
            return False
        _send(client, name, embeddings, check_stored=stored > 0)
    return True


def _send(client: "QdrantClient", name: str, embeddings: Embeddings, *, check_stored: bool) -> None:
    from qdrant_client import models

    with closing(Progress("sending", len(embeddings.ids), unit="vector")) as progress:
        for start in range(0, len(embeddings.ids), BATCH):
            rows = slice(start, start + BATCH)
            ids = embeddings.ids[rows].tolist()
            points = [point_id(item) for item in ids]
            stored = client.retrieve(name, points, with_payload=False) if check_stored else ()
            if len(stored) < len(points):
                vectors = np.asarray(embeddings.vectors[rows], np.float32)
                named = {WHOLE: np.concatenate([vectors, np.square(vectors)], axis=1).tolist()}
                for condition, active, weights in active_dimensions(embeddings):
                    named[vector_name(condition)] = (vectors[:, active] * weights).tolist()
                columns = {column: values[rows].tolist() for column, values in embeddings.columns.items()}
                payloads = [
                    {"id": item} | {column: to_payload(values[i]) for column, values in columns.items() if values[i]}
                    for i, item in enumerate(ids)
                ]
                client.upsert(name, models.Batch(ids=points, vectors=named, payloads=payloads), wait=True)
            progress.advance(len(ids))


def cut(vectors: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Vectors [N, D] times a mask [D], without the dimensions of weight 0: [N, active]."""
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


def _difference(stored: dict[str, Any], head: dict[str, Any]) -> str:
    """How the head of embeddings differs from a collection's, as text; empty if it does not."""
    if stored["model_sha256"] != head["model_sha256"]:
        return "another model"
    masks = (np.array(part["masks"], np.float32) for part in (stored, head))  # a server may change the last decimals
    if stored["conditions"] != head["conditions"] or not np.array_equal(*masks):
        return "other conditions or masks"
    same = stored["made_from"] == head["made_from"] and stored["items"] == head["items"]
    return "" if same else "other items"
