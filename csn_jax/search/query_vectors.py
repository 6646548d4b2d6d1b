"""Query vectors from a file or from standard input: .npy, JSON, or numbers in text."""

import io
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.errors import UserError
from csn_jax.runtime.writer import say
from csn_jax.text import first_sentence

if TYPE_CHECKING:
    from csn_jax.model.model import Model

KEYS = ("vector", "embedding")  # of a JSON object
NEEDED = "give a list of numbers as .npy, JSON or text"


def read_vectors(source: str) -> np.ndarray:
    """The vector [n], or the vectors [Q, n], of a file, or of standard input for `-`: float64. A UserError if there are
    none, or a number is not finite."""
    place = f"--vector={source}"
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror}); {NEEDED}, or - for standard input.") from None
    try:
        vectors = np.asarray(_numbers(data))
        if vectors.dtype == bool:
            raise TypeError("it has true and false")
        vectors = vectors.astype(np.float64, casting="same_kind" if vectors.dtype.kind in "iu" else "safe")
    except Exception as error:  # of JSON, NumPy and zip
        raise UserError(f"{place} holds no vector ({first_sentence(error)}); {NEEDED}.") from None
    if vectors.ndim not in (1, 2) or not vectors.size:
        raise UserError(f"{place} holds an array {[*vectors.shape]}; {NEEDED}.")
    wrong = np.flatnonzero(~np.isfinite(vectors))
    if len(wrong):
        raise UserError(f"{place} has {vectors.flat[wrong[0]]} at position {wrong[0]}; give finite numbers.")
    return vectors


def _numbers(data: bytes) -> Any:
    if data.startswith((b"\x93NUMPY", b"PK\x03\x04")):
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        (name,) = loaded.files  # several arrays raise
        return loaded[name]
    text = data.decode("utf-8-sig").strip()
    try:
        read = json.loads(text)
    except ValueError:
        words = re.split(r"[\s,;]+", re.sub(r"^[\[({]+|[\])}]+$", "", text).strip())
        return [float(word) for word in words]
    if isinstance(read, dict):
        read = next((read[key] for key in KEYS if key in read), read)
    if not isinstance(read, list):
        read = [read] if isinstance(read, int | float) else read
    return read


def as_embeddings(vectors: np.ndarray, dim: int, model: "Model | None", source: str) -> np.ndarray:
    """Embeddings [Q, D] of vectors [Q, n]: as they are, or embedded by a model that takes n numbers. A UserError if
    they are neither D wide nor as wide as its inputs."""
    width = vectors.shape[1]
    takes = model.input_shape[0] if model and len(model.input_shape) == 1 else None
    if width == takes:
        if takes == dim:
            say(
                f"--vector={source}: {width} numbers, taken as an input of the model and embedded; leave out --workdir "
                "if it is an embedding"
            )
        return model.embed(vectors.astype(np.float32))
    if width != dim:
        fit = f"{dim} numbers for an embedding" + (f", or {takes} for an input of the model" if takes else "")
        more = "" if model else "; an input of the model needs --workdir"
        raise UserError(f"--vector={source} has {width} numbers; give {fit}{more}.")
    return vectors
