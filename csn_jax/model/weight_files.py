"""Weight files: named tensors of a .safetensors file, a PyTorch checkpoint or a repository on the Hugging Face hub."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from csn_jax.errors import UserError
from csn_jax.model.torch_archive import Refused, read_tensors
from csn_jax.text import first_sentence

MAX_FILE = 4 << 30  # bytes; a ResNet-50 has 100 million
TORCH = (".pth", ".pt", ".pth.tar")
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1", "U8": "|u1"}
DTYPES |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"}


class Weights(NamedTuple):
    """Tensors by name, the metadata of safetensors, and the file's SHA-256 in hex."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    sha256: str


def read_weights(source: str, place: str) -> Weights:
    """Read every tensor of a file, without running code in it and without PyTorch. A UserError if the file does not
    exist, has another format, is damaged, or asks to run code.

    `source` is a path that ends in .safetensors, .pth, .pt or .pth.tar; or hf:OWNER/NAME, whose model.safetensors
    huggingface_hub downloads once. `place` is the flag or config field that named it, for messages.
    """
    path = _from_hub(source, place) if source.startswith("hf:") else Path(source).expanduser()
    name = path.name.lower()
    if not name.endswith((".safetensors", *TORCH)):
        raise UserError(f"{place}={source} is not a weight file; give one of .safetensors, {', '.join(TORCH)}.")
    if not path.is_file():
        raise UserError(f"{place}={source}: no such file; give the path of a weight file.")
    size = path.stat().st_size
    if size > MAX_FILE:
        raise UserError(f"{path} has {size:,} bytes; give a weight file of at most {MAX_FILE:,} bytes.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file you may read.") from None
    try:
        if name.endswith(".safetensors"):
            tensors, metadata = _read_safetensors(data)
        else:
            tensors, metadata = read_tensors(data), {}
        _check_names(tensors)
    except Refused as refusal:
        raise UserError(f"{path} {refusal}.") from None
    return Weights(tensors, metadata, hashlib.sha256(data).hexdigest())


def to_safetensors(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The bytes of a .safetensors file. With at most one metadata entry they do not depend on order."""
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in tensors.items()}, metadata)


def _check_names(names: Iterable[str]) -> None:
    if not all(re.fullmatch(r"[!-~]{1,200}", name) for name in names):
        raise Refused("has a tensor whose name is not 1 to 200 visible ASCII characters")


def _read_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        parts = safetensors.deserialize(data)  # checks every size against the file's size
        tensors = {}
        _check_names(name for name, _ in parts)  # before a message names one
        for name, part in parts:
            if part["dtype"] not in DTYPES:
                raise Refused(f"has tensor {name} in {part['dtype']}, which is not supported", "save it as float32")
            tensors[name] = np.frombuffer(part["data"], DTYPES[part["dtype"]]).reshape(part["shape"])
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, header.get("__metadata__", {})
    except Refused:
        raise
    except Exception as error:  # the package has its own type; damage also raises Python's and NumPy's
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        raise Refused(f"is not a complete .safetensors file ({reason})") from error


def _from_hub(source: str, place: str) -> Path:
    repository = source.removeprefix("hf:")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise UserError(f"{place}={source}: give a repository as hf:OWNER/NAME, such as hf:timm/resnet18.a1_in1k.")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{place}={source} needs the package huggingface_hub; run pip install huggingface_hub, or download the "
            "repository's model.safetensors and give its path."
        ) from None
    try:
        return Path(huggingface_hub.hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # a wrong name, no connection, a full disk: types of three packages
        raise UserError(
            f"{place}={source} cannot be downloaded ({type(error).__name__}: {first_sentence(error)}); check the name "
            "and the connection, or download the repository's model.safetensors elsewhere and give its path."
        ) from error
