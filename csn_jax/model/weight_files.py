"""Weight files: named tensors of a .safetensors file, a PyTorch checkpoint, a repository on the Hugging Face hub or an
installed package."""

import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from csn_jax.errors import UserError
from csn_jax.model.torch_archive import read_tensors
from csn_jax.model.torch_pickle import Refused, from_bfloat16, shown
from csn_jax.text import first_sentence

MAX_FILE = 6 << 30  # bytes; a ResNet-50 has 100 million, DINOv2 giant 4.5 billion
MAX_INDEX = 16 << 20
TORCH = (".pth", ".pt", ".ckpt", ".bin", ".tar")
INDEX = (".safetensors.index.json", ".bin.index.json")  # of a model in several files
PARTS = (".safetensors", ".bin")
IN_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
DTYPES = {"BF16": "<u2", "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1", "U8": "|u1"}
DTYPES |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"}


class Weights(NamedTuple):
    """Tensors by name, the metadata of safetensors, and the file's SHA-256 in hex."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    sha256: str


def read_weights(source: str, place: str) -> Weights:
    """Read every tensor of a file, without running code in it and without PyTorch. A UserError if the file does not
    exist, has another format, is damaged, or asks to run code.

    `source` is a path that ends in .safetensors or one of TORCH; the index of a model in several files; a folder of
    either; hf:OWNER/NAME, whose safetensors huggingface_hub downloads once; or package:NAME, an installed Python
    package that holds one such file. `place` is the flag or config field that
    named it, for messages.
    """
    path = weights_path(source, place)
    if path.is_dir():
        path = next((path / name for name in IN_FOLDER if (path / name).is_file()), path)
    name = path.name.lower()
    if not name.endswith((".safetensors", *TORCH, *INDEX)):
        raise UserError(
            f"{place}={source} is not a weight file; give one of .safetensors, {', '.join(TORCH)}, or "
            "model.safetensors.index.json."
        )
    if not path.is_file():
        raise UserError(f"{place}={source}: no such file; give the path of a weight file.")
    if not name.endswith(INDEX):
        return _read_file(path)
    try:
        parts = [_read_file(part) for part in _parts(path)]
        tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
        if len(tensors) < sum(len(part.tensors) for part in parts):
            raise Refused("names files that hold the same tensor twice")
    except Refused as refusal:
        raise UserError(f"{path} {refusal}.") from None
    digests = "".join(part.sha256 for part in parts)
    return Weights(tensors, parts[0].metadata, hashlib.sha256(digests.encode()).hexdigest())


def weights_path(source: str, place: str) -> Path:
    """The file or folder that `read_weights` reads, downloaded if need be."""
    if source.startswith("hf:"):
        return _from_hub(source, place)
    return _in_package(source, place) if source.startswith("package:") else Path(source).expanduser()


def licence_of(source: str) -> str | None:
    """The licence of the package in `package:NAME`, by its metadata or the first line of its licence file. None for
    other sources, and if it states none."""
    name = source.removeprefix("package:")
    for owner in importlib.metadata.packages_distributions().get(name, ()) if name != source else ():
        package = importlib.metadata.distribution(owner)
        stated = [package.metadata.get(field) for field in ("License-Expression", "License")]
        stated += [
            line.split(" :: ")[-1] for line in package.metadata.get_all("Classifier", ()) if "License ::" in line
        ]
        stated += [file.read_text() for file in package.files or () if re.match("licen[sc]e", file.name, re.IGNORECASE)]
        for text in stated:
            if text and text.strip() and text != "UNKNOWN":
                return text.strip().splitlines()[0][:80]
    return None


def _in_package(source: str, place: str) -> Path:
    """The one weight file of an installed package, which is not imported."""
    name = source.removeprefix("package:")
    try:
        spec = importlib.util.find_spec(name) if re.fullmatch(r"[A-Za-z]\w*", name) else None
    except (ImportError, ValueError):
        spec = None
    folders = (spec.submodule_search_locations if spec else None) or []
    if not folders:
        raise UserError(f"{place}={source}: no such package is installed; run pip install {name.replace('_', '-')}.")
    endings = (".safetensors", *TORCH)
    found = [path for folder in folders for path in sorted(Path(folder).rglob("*")) if path.name.endswith(endings)]
    if len(found) != 1:
        raise UserError(f"{place}={source}: the package holds {len(found)} weight files; give the path of one.")
    return found[0]


def _parts(index: Path) -> list[Path]:
    """The files of a model, which all lie beside their index."""
    parts = [index.parent / name for name in _part_names(index)]
    for part in parts:
        if not part.is_file():
            raise Refused(f"names {part.name}, which is not beside it", "put all files of the model in one folder")
    if sum(part.stat().st_size for part in parts) > MAX_FILE:
        raise Refused(f"names files of more than {MAX_FILE:,} bytes in all", "give the weights of a smaller model")
    return parts


def _part_names(index: Path) -> list[str]:
    try:
        names = sorted({*json.loads(_bytes_of(index, MAX_INDEX))["weight_map"].values()})
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        names = []
    for name in names:
        if not (isinstance(name, str) and re.fullmatch(r"[\w.-]{1,200}", name) and name.endswith(PARTS)):
            raise Refused(f"names the file {shown(name)}, which cannot be a weight file beside it")
    if not names:
        raise Refused("is not an index of weight files: it needs weight_map {tensor: file}")
    return names


def _bytes_of(path: Path, most: int) -> bytes:
    size = path.stat().st_size
    if size > most:
        raise UserError(f"{path} has {size:,} bytes; give a weight file of at most {most:,} bytes.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file you may read.") from None


def _read_file(path: Path) -> Weights:
    data = _bytes_of(path, MAX_FILE)
    try:
        if path.name.lower().endswith(".safetensors"):
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
            tensor = np.frombuffer(part["data"], DTYPES[part["dtype"]]).reshape(part["shape"])
            tensors[name] = from_bfloat16(tensor) if part["dtype"] == "BF16" else tensor
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
        with suppress(Exception):  # a model in several files
            index = Path(huggingface_hub.hf_hub_download(repository, "model.safetensors.index.json"))
            for name in _part_names(index):
                huggingface_hub.hf_hub_download(repository, name)
            return index
        raise UserError(
            f"{place}={source} cannot be downloaded ({type(error).__name__}: {first_sentence(error)}); check the name "
            "and the connection, or download the repository's model.safetensors elsewhere and give its path."
        ) from error
