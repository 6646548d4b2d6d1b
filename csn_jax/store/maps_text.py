"""Maps as JSON, in the head of a file of vectors and in a collection's metadata."""

import base64
from typing import Any

import numpy as np

from csn_jax.core.maps import Maps
from csn_jax.store.views import raw_scale


def text_of(maps: Maps) -> dict[str, Any]:
    """Maps as JSON. Of raw vectors, which `core.maps.with_raw` puts last, only the scale is kept, as the last number:
    D x D numbers would not fit into a request to a server."""
    numbers, width = maps.matrix, maps.matrix.shape[1]
    scale = raw_scale(numbers[-width:])
    if scale is not None:
        numbers = np.append(numbers[:-width], np.float32(scale))
    text = base64.b64encode(np.ascontiguousarray(numbers, "<f4")).decode()
    head = {"unit": maps.unit, "shape": list(maps.matrix.shape), "float32": text}
    return head if scale is None else head | {"raw": True}


def maps_of(head: dict[str, Any]) -> Maps | None:
    """The maps of a head; None of a model without maps. A ValueError, KeyError or TypeError if they are damaged."""
    if "maps" not in head:
        return None
    text = head["maps"]
    n_rows, width = text["shape"]
    matrix = np.frombuffer(base64.b64decode(text["float32"], validate=True), "<f4").astype(np.float32)
    if text.get("raw"):
        scale, matrix = matrix[-1:], matrix[:-1].reshape(n_rows - width, width)
        matrix = np.concatenate([matrix, scale * np.eye(width, dtype=np.float32)])
    return Maps(matrix.reshape(n_rows, width), bool(text["unit"]))
