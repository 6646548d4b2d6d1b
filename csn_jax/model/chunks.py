"""Vectors of chunks of items, with the same bits however many items are embedded, and what decides over them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from csn_jax.data.to_embed import Chunk
from csn_jax.errors import MachineError, UserError
from csn_jax.model.model import Model

# An update must give the bits of a fresh file, whatever is embedded together. On a CPU, XLA rounds the last few rows of
# a call differently, and those of a small call.
SMALLEST, SPARE = 128, 8  # inputs of a call, and how many at its end are padding

# Vectors [k, D] of the readable items of a chunk, and what is wrong with each item of the chunk, or None.
Embedded = tuple[np.ndarray, list[str | None]]


def digest_of_request(model: Model, made_from: Any, dtype: str, *, features: bool, by_condition: bool) -> str:
    """SHA-256 of what decides over the content of files; `made_from` as in ToEmbed."""
    masks = [] if features else model.masks.tolist()
    if not features and model.maps:
        masks.append([model.maps.unit, hashlib.sha256(model.maps.matrix).hexdigest()])
    request = [model.sha256, features, dtype, by_condition, masks, made_from]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()


def steady(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The function, whose result for an item depends on no other item of the call."""

    def of(inputs: np.ndarray) -> np.ndarray:
        missing = max(SPARE, SMALLEST - len(inputs))
        return function(np.concatenate([inputs, np.repeat(inputs[:1], missing, axis=0)]))[: len(inputs)]

    return of


def embed_chunk(chunk: Chunk, ids: Sequence[str], function: Callable[[np.ndarray], np.ndarray], dtype: str) -> Embedded:
    """Embed the readable items of a chunk. int8 is rounded later, as its scale depends on all vectors. A UserError if a
    vector does not fit float16; a MachineError if one is not finite."""
    inputs, faults = chunk
    vectors = function(inputs) if len(inputs) else np.zeros((0, 0), np.float32)
    for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]:
        item = [name for name, fault in zip(ids, faults, strict=True) if not fault][row]
        raise MachineError(f"the vector of {item} is not finite; look at that item and at the model.")
    if dtype == "float16" and np.abs(vectors).max(initial=0) > np.finfo(np.float16).max:
        raise UserError("--dtype=float16 reaches 65,504 and a vector has larger numbers; leave out --dtype.")
    return vectors.astype("float32" if dtype == "int8" else dtype), faults
