"""Embeddings: N embedded items in memory, with everything that a search needs; their head as JSON, and their digest."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from csn_jax.core.maps import Maps
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition
from csn_jax.store.int8 import pieces, scale_of
from csn_jax.store.maps_text import maps_of, text_of

BY_CONDITION = "vec_"  # prefix of what files and stores call the vectors of a condition
DIGEST = "input_digest"  # what files call the digests
ROW_DIGEST = "row_digest"  # what stores call the digest of all that they hold of an item
OTHER_ITEMS = "other items"  # what an update brings to the items of now
OF_FILES = ("dtype", "shape", "scale", "digests")  # parts of a head that stores have no use for


class Embeddings(NamedTuple):
    """N embedded items, with everything that a search needs.

    ids: [N] str, unique. As read from a file, text arrays are object arrays that share equal values of a column.
    vectors: [N, D] float32 or float16, unmasked. `embed --features` stores [N, F] and no conditions.
    columns: {name: [N] str}, the attributes. An empty string is a missing value.
    conditions: in the order of the masks' rows.
    masks: [C, D] float32, as applied; [C, V] under maps.
    model_sha256: `Model.sha256` of the model that embedded the items.
    pictures: where the items' pictures are, for `data.thumbnails.read_thumbnails`; {} if there are none.
    made_from: a digest of the request to `embed`, which recognises a finished file by it.
    scale: [D] float32 if the file stores int8 (`vectors` are those integers times the scale), else None.
    maps: of a model of the variant maps: what makes the views [N, V] of the vectors, to which masks apply.
    digests: [N, 16] uint8 of the picture's bytes, or of the input vector's: what `embed --update` need not embed again.
    """

    ids: np.ndarray
    vectors: np.ndarray
    columns: dict[str, np.ndarray]
    conditions: tuple[Condition, ...]
    masks: np.ndarray
    model_sha256: str
    pictures: dict[str, str]
    made_from: str = ""
    scale: np.ndarray | None = None
    maps: Maps | None = None
    digests: np.ndarray | None = None


def head_of(embeddings: Embeddings) -> dict[str, Any]:
    """Everything but texts and vectors, as JSON. Decimal notation keeps every float32 exactly."""
    return {
        "format": 1,
        "conditions": [condition._asdict() for condition in embeddings.conditions],
        "masks": embeddings.masks.tolist(),
        "model_sha256": embeddings.model_sha256,
        "pictures": embeddings.pictures,
        "made_from": embeddings.made_from,
        "columns": list(embeddings.columns),
        "dtype": embeddings.vectors.dtype.name if embeddings.scale is None else "int8",
        "shape": list(embeddings.vectors.shape),
        **({} if embeddings.scale is None else {"scale": embeddings.scale.tolist()}),
        **({} if embeddings.maps is None else {"maps": text_of(embeddings.maps)}),
        **({} if embeddings.digests is None else {"digests": True}),
    }


def store_head(embeddings: Embeddings) -> dict[str, Any]:
    """What a store notes about its vectors: the head, with the number of items."""
    head = {name: value for name, value in head_of(embeddings).items() if name not in OF_FILES}
    return head | {"items": len(embeddings.ids)}


def digest_of(embeddings: Embeddings, head: dict[str, Any]) -> str:
    hasher = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for rows in pieces(len(embeddings.ids)):
        for column in (embeddings.ids, *embeddings.columns.values()):
            hasher.update("\x00".join(column[rows].tolist()).encode("utf-8") + b"\x01")
        hasher.update(np.ascontiguousarray(embeddings.vectors[rows]))
        if embeddings.digests is not None:
            hasher.update(np.ascontiguousarray(embeddings.digests[rows]))
    return hasher.hexdigest()


def active_dimensions(embeddings: Embeddings) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields (condition, dimensions of nonzero weight, their weights), but no condition that weighs none. Under maps
    these are dimensions of the views."""
    for mask, (name, _) in zip(embeddings.masks, embeddings.conditions, strict=True):
        active = np.flatnonzero(mask)
        if len(active):  # Arrow crashes on lists of size 0
            yield name, active, mask[active]


def from_head(
    head: dict[str, Any],
    ids: np.ndarray,
    vectors: np.ndarray,
    columns: Iterable[np.ndarray],
    digests: np.ndarray | None = None,
) -> Embeddings:
    """Embeddings of a head that was read back, and of the arrays that it describes."""
    maps = maps_of(head)
    if maps and maps.matrix.shape != (len(head["masks"][0]), vectors.shape[1]):
        raise ValueError("its maps do not fit its masks and vectors")
    return Embeddings(
        ids=ids,
        vectors=vectors,
        columns=dict(zip(head["columns"], columns, strict=True)),
        conditions=tuple(Condition(**condition) for condition in head["conditions"]),
        masks=np.array(head["masks"], np.float32).reshape(len(head["conditions"]), -1 if maps else vectors.shape[1]),
        model_sha256=head["model_sha256"],
        pictures=head["pictures"],
        made_from=head["made_from"],
        scale=scale_of(head),
        maps=maps,
        digests=digests,
    )


def weighed(maps: Maps | None, vectors: np.ndarray, active: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What `by_condition` stores of a condition."""
    views = vectors[:, active] if maps is None else maps.views(vectors, active)
    return (views * mask).astype(vectors.dtype)


def difference(stored: dict[str, Any], head: dict[str, Any]) -> str:
    """How the head of embeddings differs from that of a store, as text; empty if it does not."""
    if stored["model_sha256"] != head["model_sha256"]:
        return "another model"
    masks = (np.array(part["masks"], np.float32) for part in (stored, head))  # a server may change the last decimals
    if stored["conditions"] != head["conditions"] or not np.array_equal(*masks):
        return "other conditions or masks"
    if stored.get("maps") != head.get("maps"):
        return "other maps"
    same = stored["made_from"] == head["made_from"] and stored["items"] == head["items"]
    return "" if same else OTHER_ITEMS


def holds_other(place: str, other: str) -> UserError:
    """The error of a place in a store that has vectors which differ by `difference`."""
    fix = "--update to change what differs" if other == OTHER_ITEMS else "--rebuild to replace it"
    return UserError(f"{place} exists and holds vectors of {other}; give another --collection, or {fix}.")


def rows_and_views(embeddings: Embeddings, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(vectors [R, D] of some rows, what masks apply to: under maps their views [R, V], else the vectors), float32."""
    vectors = np.asarray(embeddings.vectors[rows], np.float32)
    if embeddings.maps is None:
        return vectors, vectors
    views = embeddings.maps.views(vectors, dtype=np.float64)  # float64, so that equal vectors have equal views
    return vectors, views.astype(np.float32)
