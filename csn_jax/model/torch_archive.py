"""Tensors of files that `torch.save` wrote, without PyTorch and without running code of the file.

Sizes are checked before allocating. Tensors are read-only views of the file's bytes; bfloat16 becomes float32.
"""

import functools
import io
import math
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from csn_jax.model.torch_pickle import Refused, Storage, Tensor, expect, from_bfloat16, is_size, shown, unpickle
from csn_jax.text import listed

# Where training programs keep the network, in order of preference; the last ones are averages over the training.
NESTS = """state_dict model_state_dict model_state model net network module weights params
state_dict_ema model_ema ema_state_dict ema_model ema params_ema""".split()
DEPTH = 4  # of dictionaries
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LEGACY_START = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")  # near the start, behind the protocol


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint: of its `state_dict`, `model` or the like, or else of the top-level dictionary,
    or else of the only other dictionary that has some.

    `data` is the file, in the zip format of PyTorch 1.6 or the format before it; anything else is Refused, as are
    damage and what asks for anything but tensors.
    """
    try:
        if data.startswith(b"PK"):
            tree, storage = _open_zip(data)
        elif LEGACY_START in data[:32]:
            tree, storage = _open_legacy(data)
        else:
            raise Refused("is not a PyTorch checkpoint: it begins like neither format of torch.save")
        if not isinstance(tree, dict):
            raise Refused(f"holds a {type(tree).__name__.strip('_')}, not a dictionary of named tensors")
        tensors = _network(tree, {}, DEPTH)
        if not tensors:
            raise Refused("holds no named tensors")
        return {name: _view(value, storage(value.storage)) for name, value in tensors.items()}
    except Refused:
        raise
    except Exception as error:  # damage raises some 24 types, of zipfile, struct, NumPy and Python
        raise Refused(f"is damaged ({type(error).__name__}: {shown(error)})") from error


def _network(tree: dict[Any, Any], known: dict[int, dict[str, Tensor]], depth: int) -> dict[str, Tensor]:
    """The tensors of the network in a dictionary. `known`: of dictionaries that were seen, by their id()."""
    if id(tree) not in known:
        known[id(tree)] = {}
        named = {name: value for name, value in tree.items() if isinstance(name, str)}
        inner = {
            name: tensors
            for name, value in named.items()
            if depth and type(value) is dict and not name.startswith("optim")
            if (tensors := _network(value, known, depth - 1))
        }
        own = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        found = next((inner[name] for name in NESTS if name in inner), own)
        if not found and len(inner) > 1 and depth == DEPTH:
            raise Refused(
                f"holds several networks, {shown(listed(inner))}", "save the state_dict of one in a file of its own"
            )
        known[id(tree)] = found or (next(iter(inner.values())) if len(inner) == 1 else {})
    return known[id(tree)]


def _open_zip(data: bytes) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """The tree of a zip archive, and a function that reads its storages. Never closed: the bytes are in memory."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    if any(name.endswith("/constants.pkl") for name in archive.namelist()):
        raise Refused("is a whole model of TorchScript, which holds code", "save model.state_dict()")
    pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise Refused(f"is a zip archive with {len(pickles)} data.pkl, where torch.save writes one")
    for info in archive.infolist():
        # torch.save never compresses. Refusing compressed members also rules out zip bombs.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Refused(f"is not an archive of torch.save: {shown(info.filename)} is compressed")
    if sum(info.file_size for info in archive.infolist()) > len(data):
        raise Refused("is damaged: its members are larger than the file")
    root, names = pickles[0].removesuffix("data.pkl"), set(archive.namelist())
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise Refused("was written on a big-endian machine", "save it again on a little-endian one")
    tree, _, _ = unpickle(archive.read(pickles[0]), 0)

    @functools.cache  # tensors may share a storage
    def storage(wanted: Storage) -> np.ndarray:
        name = f"{root}data/{wanted.key}"
        if name not in names:
            raise Refused(f"is damaged: storage {shown(wanted.key)} is missing")
        content = archive.read(name)
        if len(content) != wanted.size * wanted.dtype.itemsize:
            raise Refused(
                f"is damaged: storage {shown(wanted.key)} has {len(content):,} bytes, not {wanted.size:,} values"
            )
        return np.frombuffer(content, wanted.dtype)

    return tree, storage


def _open_legacy(data: bytes) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """The same for a file from before PyTorch 1.6: five pickles, then each storage behind its length."""
    magic, _, place = unpickle(data, 0)
    protocol, _, place = unpickle(data, place)
    machine, _, place = unpickle(data, place)
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or machine.get("little_endian") is not True:
        raise Refused("is damaged: its head is not one that torch.save writes on a little-endian machine")
    tree, known, place = unpickle(data, place)
    keys, _, place = unpickle(data, place)
    arrays = {}
    for key in keys:
        expect(key, str)
        size = int.from_bytes(data[place : place + 8], "little")
        if key not in known or size != known[key].size:
            raise Refused(f"is damaged: storage {shown(key)} has {size:,} values, which contradicts its tensors")
        arrays[key] = np.frombuffer(data, known[key].dtype, size, place + 8)  # raises when the file is too short
        place += 8 + arrays[key].nbytes

    def storage(wanted: Storage) -> np.ndarray:
        if wanted.key not in arrays:
            raise Refused(f"is damaged: storage {shown(wanted.key)} is missing")
        return arrays[wanted.key]

    return tree, storage


def _view(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """A tensor as a read-only view of its storage [N]."""
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or len(shape) > 8 or not all(map(is_size, (tensor.offset, *shape, *strides))):
        raise Refused("is damaged: a tensor has an impossible shape")
    if 0 in shape:
        return np.zeros(0, np.float32 if tensor.storage.bfloat16 else values.dtype).reshape(shape)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if last >= values.size or math.prod(shape) > values.size:  # strides of 0 repeat values
        raise Refused("is damaged: a tensor reaches past its storage")
    steps = [stride * values.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], shape, steps, writeable=False)
    return from_bfloat16(view) if tensor.storage.bfloat16 else view
