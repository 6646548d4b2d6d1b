"""Embeddings in Qdrant: a collection with a named vector for each condition."""

import os
import re
import sqlite3
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.errors import MachineError, UserError
from csn_jax.runtime.writer import Progress
from csn_jax.store.vector_file import BY_CONDITION, Embeddings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

KEY = "csn_jax"  # of our part in a collection's metadata
WHOLE = "vector_and_squares"  # the name of the unmasked vector with its square behind it
BATCH = 256  # points sent or fetched at a time
SECONDS = 60  # to wait for an answer
NAMESPACE = uuid.UUID("6c8d8f8b-3a3c-5d0c-9a55-0f2f6b7a1c11")  # of point ids; another one would double the items


@contextmanager
def connected(where: str, flag: str, *, create: bool = False) -> Iterator["QdrantClient"]:
    """A client of a server's http(s) URL, or of a folder in which Qdrant runs embedded in this process.

    A server's key is read from the environment's QDRANT_API_KEY. Whatever goes wrong below is told as one sentence.

    Args:
        where: URL or folder.
        flag: how the user gave it, for messages.
        create: make the folder if it is not there.

    Raises:
        UserError: when qdrant-client is not installed, or the folder is none of Qdrant's, in use, or cannot be written.
        MachineError: when the server cannot be reached, or fails.
    """
    try:
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ImportError:
        raise UserError(f"{flag} needs qdrant-client; install it with: pip install qdrant-client.") from None
    told = f"{flag}={where}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large folders and keys over http, written for programmers
            with closing(_client(where, told, create)) as client:
                yield client
    except ResponseHandlingException as error:
        raise MachineError(f"{told} cannot be reached ({short(error)}); look whether the server runs there.") from None
    except UnexpectedResponse as error:
        if error.status_code in (401, 403):
            raise UserError(
                f"{told} refuses the key; give the right one in the environment's QDRANT_API_KEY."
            ) from None
        raise MachineError(
            f"{told} answers {error.status_code} ({short(error.content.decode(errors='replace'))})."
        ) from None
    except sqlite3.Error as error:  # of which a folder is made
        raise MachineError(f"{told} cannot be read or written ({short(error)}).") from None


def _client(where: str, told: str, create: bool) -> "QdrantClient":
    from qdrant_client import QdrantClient

    if where.startswith(("http://", "https://")):
        key = os.environ.get("QDRANT_API_KEY") or None
        return QdrantClient(url=where, api_key=key, timeout=SECONDS, check_compatibility=False)
    folder = _folder(where, told, create)
    try:
        return QdrantClient(path=str(folder))
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        raise UserError(
            f"{told} is in use by another process; wait for it, or use a server, which serves many."
        ) from None
    except Exception as error:  # a damaged folder shows as any of a dozen kinds
        raise UserError(f"{told} cannot be opened ({type(error).__name__}: {short(error)}); give another.") from None


def _folder(where: str, told: str, create: bool) -> Path:
    folder = Path(where).expanduser().absolute()
    if re.fullmatch(r"[\w.-]+:\d+/?", where) or "://" in where:
        raise UserError(f"{told} is no folder; give a server as http://HOST:6333 or https://HOST:6333.")
    if not (folder / "meta.json").is_file():
        if not create:
            raise UserError(
                f"{told} is no folder of Qdrant's; give one that csn_jax.embed --to_qdrant wrote, or a URL."
            )
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{told} is there and none of Qdrant's folders; give another.")
        if not folder.parent.is_dir():
            raise UserError(f"{told}: there is no folder {folder.parent}; make it first, or give another.")
    return folder


def short(error: object) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200] or type(error).__name__


def check_place(where: str, name: str, model_sha256: str, flag: str = "--to_qdrant", *, rebuild: bool = False) -> None:
    """Whether `upload` can bring a model's embeddings to a collection, as far as is known before they are there.

    Raises:
        UserError: as there.
        MachineError: as there.
    """
    if re.search(r'[<>:"/\\|?*\x00-\x1f]', name) or not 0 < len(name) < 200:
        raise UserError(f"--collection={name!r} is no name for a collection; give letters, digits, - and _.")
    with connected(where, flag, create=True) as client:
        if client.collection_exists(name):
            found = read_head(client, name, f"{flag}={where}")
            if found["model_sha256"] != model_sha256 and not rebuild:
                raise _holds_other(f"{flag}={where}", name, "another model")


def _holds_other(told: str, name: str, other: str) -> UserError:
    return UserError(
        f"{told}: the collection {name!r} is there and holds vectors of {other}; give another --collection, or "
        "--rebuild to replace it."
    )


def upload(embeddings: Embeddings, where: str, name: str, flag: str = "--to_qdrant", *, rebuild: bool = False) -> bool:
    """Bring a collection to hold these embeddings, adding only what it lacks; whether anything was sent.

    Each point has the named vectors `vec_CONDITION` (the vector times the mask, dimensions of weight 0 left out, for
    Euclidean distance) and `vector_and_squares` (the unmasked x and x * x, without an index), and as payload its `id`
    and attributes; a set, with semicolons, becomes a list. Point ids are made of item ids. The collection's metadata
    hold model, masks and conditions.

    Args:
        embeddings: of `embed`.
        where: URL or folder.
        name: of the collection; made if it is not there.
        flag: for messages.
        rebuild: replace a collection of other embeddings.

    Raises:
        UserError: when the collection holds anything else, or a column has a name that Qdrant cannot filter by.
        MachineError: when the server fails.
    """
    from qdrant_client import models

    for column in embeddings.columns:
        if '"' in column:
            raise UserError(f"a column is called {column!r} and Qdrant has no way to filter by a name with a quote.")
    head = {
        "format": 1,
        "model_sha256": embeddings.model_sha256,
        "conditions": [condition._asdict() for condition in embeddings.conditions],
        "masks": embeddings.masks.tolist(),
        "columns": list(embeddings.columns),
        "pictures": embeddings.pictures,
        "made_from": embeddings.made_from,
        "items": len(embeddings.ids),
    }
    sizes = {
        vector_name(c.name): np.count_nonzero(m) for c, m in zip(embeddings.conditions, embeddings.masks, strict=True)
    }
    with connected(where, flag, create=True) as client:
        if client.collection_exists(name):
            found = read_head(client, name, f"{flag}={where}")
            other = _other(found, head)
            if other and not rebuild:
                raise _holds_other(f"{flag}={where}", name, other)
            if other:
                client.delete_collection(name)
        if not client.collection_exists(name):
            vectors = {
                vector: models.VectorParams(size=int(size), distance=models.Distance.EUCLID)
                for vector, size in sizes.items()
                if size
            }
            # Fetched, and scanned for what no graph can find: no graph is made of it.
            vectors[WHOLE] = models.VectorParams(
                size=2 * embeddings.masks.shape[1],
                distance=models.Distance.DOT,
                hnsw_config=models.HnswConfigDiff(m=0),
                on_disk=True,
            )
            client.create_collection(name, vectors_config=vectors, metadata={KEY: head})
            read_head(client, name, f"{flag}={where}")  # an old server forgets it without a word
            if where.startswith("http"):  # embedded, it has no indexes
                for column in ("id", *embeddings.columns):
                    client.create_payload_index(name, json_path(column), models.PayloadSchemaType.KEYWORD)
        here = client.count(name, exact=True).count
        if here == len(embeddings.ids):
            return False
        _send(client, name, embeddings, some_are_there=here > 0)
    return True


def _send(client: "QdrantClient", name: str, embeddings: Embeddings, *, some_are_there: bool) -> None:
    from qdrant_client import models

    with closing(Progress("sending", len(embeddings.ids), unit="vector")) as progress:
        for start in range(0, len(embeddings.ids), BATCH):
            rows = slice(start, start + BATCH)
            ids = embeddings.ids[rows].tolist()
            points = [point_id(one) for one in ids]
            there = client.retrieve(name, points, with_payload=False) if some_are_there else ()
            if len(there) < len(points):
                vectors = np.asarray(embeddings.vectors[rows], np.float32)
                named = {WHOLE: np.concatenate([vectors, np.square(vectors)], axis=1).tolist()}
                for (condition, _), mask in zip(embeddings.conditions, embeddings.masks, strict=True):
                    if np.any(mask):
                        named[vector_name(condition)] = cut(vectors, mask).tolist()
                columns = {column: values[rows].tolist() for column, values in embeddings.columns.items()}
                payloads = [
                    {"id": one} | {column: _stored(values[i]) for column, values in columns.items() if values[i]}
                    for i, one in enumerate(ids)
                ]
                client.upsert(name, models.Batch(ids=points, vectors=named, payloads=payloads), wait=True)
            progress.advance(len(ids))


def cut(vectors: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Vectors [N, D] times a mask [D], dimensions of weight 0 left out: [N, active]."""
    active = np.flatnonzero(mask)
    return vectors[:, active] * mask[active]


def point_id(item: str) -> str:
    """The id that an item has as a point, which must be a number or UUID."""
    return str(uuid.uuid5(NAMESPACE, item))


def vector_name(condition: str) -> str:
    """`vec_` and the condition, characters that Qdrant forbids in names written as %XX."""
    return BY_CONDITION + re.sub(r'[<>:"/\\|?*%\x00-\x1f]', lambda found: f"%{ord(found[0]):02X}", condition)


def json_path(column: str) -> str:
    """A column as the JSON path that payloads are filtered by."""
    return column if re.fullmatch(r"\w+", column, re.ASCII) else f'"{column}"'


def _stored(value: str) -> str | list[str]:
    return value.split(";") if ";" in value else value


def read_head(client: "QdrantClient", name: str, told: str) -> dict[str, Any]:
    """Our part of a collection's metadata."""
    head = (getattr(client.get_collection(name).config, "metadata", None) or {}).get(KEY)
    if not isinstance(head, dict) or head.get("format") != 1:
        raise UserError(
            f"{told}: the collection {name!r} holds no vectors of csn_jax, or the server is older than 1.16, which "
            "keeps no metadata; give another --collection, or update the server."
        )
    return head


def _other(found: dict[str, Any], head: dict[str, Any]) -> str:
    """In what embeddings differ from those of a collection, in words, or the empty string."""
    if found["model_sha256"] != head["model_sha256"]:
        return "another model"
    if found["conditions"] != head["conditions"] or not np.array_equal(masks_of(found), masks_of(head)):
        return "other conditions or masks"
    return "" if found["made_from"] == head["made_from"] and found["items"] == head["items"] else "other items"


def masks_of(head: dict[str, Any]) -> np.ndarray:
    return np.array(head["masks"], np.float32)
