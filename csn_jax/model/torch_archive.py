"""Tensors of files that `torch.save` wrote, without PyTorch and without running code of the file.

A pickle is a program, and Python's unpickler calls whatever it names. This reader knows only the instructions that
tensors and dictionaries need, and calls nothing: it refuses names that are not listed and unknown instructions. It
checks sizes before allocating. Tensors are read-only views of the file's bytes.
"""

import functools
import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_PICKLE = 1 << 20  # bytes of instructions; a ResNet-50 has 60,000
MAX_SIZE = 1 << 40
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LEGACY_START = b"\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")  # near the start, behind the protocol
DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
EMPTY = {"NONE": type(None), "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
ORDERED_DICT = "collections.OrderedDict"
REBUILD_TENSOR = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")  # the first until PyTorch 0.3
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
ALLOWED = {ORDERED_DICT, *REBUILD_TENSOR, REBUILD_PARAMETER, *(f"torch.{name}" for name in DTYPES)}


class Refused(Exception):
    """Why a file is refused, and the fix: the end of a sentence that begins with the file's name."""

    def __init__(self, what: str, remedy: str = "get the weights again from a source you trust"):
        super().__init__(f"{what}; {remedy}")


@dataclass(frozen=True)
class _Global:
    """A listed name that an instruction pushed. It cannot be called."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint: of its `state_dict` or `model`, or else of the top-level dictionary.

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
        tree = next((tree[name] for name in ("state_dict", "model") if isinstance(tree.get(name), dict)), tree)
        tensors = {
            name: _view(value, storage(value.storage))
            for name, value in tree.items()
            if isinstance(name, str) and isinstance(value, _Tensor)
        }
        if not tensors:
            raise Refused("holds no named tensors")
        return tensors
    except Refused:
        raise
    except Exception as error:  # damage raises some 24 types, of zipfile, struct, NumPy and Python
        raise Refused(f"is damaged ({type(error).__name__}: {_shown(error)})") from error


def _open_zip(data: bytes) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """The tree of a zip archive, and a function that reads its storages. Never closed: the bytes are in memory."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise Refused(f"is a zip archive with {len(pickles)} data.pkl, where torch.save writes one")
    for info in archive.infolist():
        # torch.save never compresses. Refusing compressed members also rules out zip bombs.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Refused(f"is not an archive of torch.save: {_shown(info.filename)} is compressed")
    if sum(info.file_size for info in archive.infolist()) > len(data):
        raise Refused("is damaged: its members are larger than the file")
    root, names = pickles[0].removesuffix("data.pkl"), set(archive.namelist())
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise Refused("was written on a big-endian machine", "save it again on a little-endian one")
    tree, _, _ = _unpickle(archive.read(pickles[0]), 0)

    @functools.cache  # tensors may share a storage
    def storage(wanted: _Storage) -> np.ndarray:
        name = f"{root}data/{wanted.key}"
        if name not in names:
            raise Refused(f"is damaged: storage {_shown(wanted.key)} is missing")
        content = archive.read(name)
        if len(content) != wanted.size * wanted.dtype.itemsize:
            raise Refused(
                f"is damaged: storage {_shown(wanted.key)} has {len(content):,} bytes, not {wanted.size:,} values"
            )
        return np.frombuffer(content, wanted.dtype)

    return tree, storage


def _open_legacy(data: bytes) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    """The same for a file from before PyTorch 1.6: five pickles, then each storage behind its length."""
    magic, _, place = _unpickle(data, 0)
    protocol, _, place = _unpickle(data, place)
    machine, _, place = _unpickle(data, place)
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or machine.get("little_endian") is not True:
        raise Refused("is damaged: its head is not one that torch.save writes on a little-endian machine")
    tree, known, place = _unpickle(data, place)
    keys, _, place = _unpickle(data, place)
    arrays = {}
    for key in keys:
        _expect(key, str)
        size = int.from_bytes(data[place : place + 8], "little")
        if key not in known or size != known[key].size:
            raise Refused(f"is damaged: storage {_shown(key)} has {size:,} values, which contradicts its tensors")
        arrays[key] = np.frombuffer(data, known[key].dtype, size, place + 8)  # raises when the file is too short
        place += 8 + arrays[key].nbytes

    def storage(wanted: _Storage) -> np.ndarray:
        if wanted.key not in arrays:
            raise Refused(f"is damaged: storage {_shown(wanted.key)} is missing")
        return arrays[wanted.key]

    return tree, storage


def _view(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """A tensor as a read-only view of its storage [N]."""
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or len(shape) > 8 or not all(map(_is_size, (tensor.offset, *shape, *strides))):
        raise Refused("is damaged: a tensor has an impossible shape")
    if 0 in shape:
        return np.zeros(0, values.dtype).reshape(shape)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if last >= values.size or math.prod(shape) > values.size:  # strides of 0 repeat values
        raise Refused("is damaged: a tensor reaches past its storage")
    steps = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], shape, steps, writeable=False)


def _unpickle(data: bytes, start: int) -> tuple[Any, dict[str, _Storage], int]:
    """Read one pickle from an offset: (its value, its storages by key, the offset behind it).

    It may hold dictionaries, lists, tuples, strings, numbers, None and tensors. Nothing is called.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, _Storage] = {}
    stream = io.BytesIO(data)
    stream.seek(start)

    def since_mark() -> list[Any]:
        mark = marks.pop()
        values = stack[mark:]
        del stack[mark:]
        return values

    for opcode, argument, place in pickletools.genops(stream):
        if place - start > MAX_PICKLE:
            raise Refused(f"has more than {MAX_PICKLE:,} bytes of pickle, more than tensors need")
        match opcode.name:
            case "PROTO" | "FRAME":  # they repeat what the other instructions show
                pass
            case "STOP":
                return stack.pop(), storages, stream.tell()
            case "MARK":
                marks.append(len(stack))
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":  # the last two are from Python 2
                stack.append(argument)
            case "NONE" | "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append(EMPTY[opcode.name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "APPEND" | "APPENDS":
                values = since_mark() if opcode.name == "APPENDS" else [stack.pop()]
                _expect(stack[-1], list).extend(values)
            case "SETITEM" | "SETITEMS":
                values = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                _set_items(stack[-1], values)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                stack.append(_global(f"{module}.{name}"))
            case "REDUCE":
                arguments, what = _expect(stack.pop(), tuple), _expect(stack.pop(), _Global)
                stack.append(_build(what.name, arguments))
            case "BUILD":
                stack.pop()  # the `_metadata` of a state dict, not needed here
                _expect(stack[-1], dict)
            case "BINPERSID":
                found = _storage(stack.pop())
                if storages.setdefault(found.key, found) != found:
                    raise Refused(f"is damaged: storage {_shown(found.key)} has two types or sizes")
                stack.append(found)
            case _:
                raise Refused(f"uses the pickle instruction {opcode.name}, which no tensor needs, so it was not loaded")
    raise Refused("is damaged: a pickle in it does not end")


def _global(name: str) -> _Global:
    if re.fullmatch(r"torch\.\w+Storage", name) and name not in ALLOWED:
        raise Refused(f"holds a {_shown(name)}, a number type that is not supported", "save it as float32")
    if name not in ALLOWED:
        raise Refused(f"asks for {_shown(name)}, which is not a tensor and could run code, so it was not loaded")
    return _Global(name)


def _build(name: str, arguments: tuple[Any, ...]) -> Any:
    """The value that a listed name makes of its arguments."""
    if name == ORDERED_DICT:
        made: dict[Any, Any] = {}
        for pair in _expect(arguments[0], list) if arguments else ():
            _set_items(made, list(pair))
        return made
    if name in REBUILD_TENSOR:
        storage, offset, shape, strides = arguments[:4]
        return _Tensor(_expect(storage, _Storage), offset, _expect(shape, tuple), _expect(strides, tuple))
    if name == REBUILD_PARAMETER:
        return _expect(arguments[0], _Tensor)
    raise Refused(f"calls {name}, which is not a function, so it was not loaded")


def _storage(reference: Any) -> _Storage:
    """From ("storage", type, key, device, number of values), in old files also None or a view of another storage."""
    kind, what, key, _, size, *view = _expect(reference, tuple)
    name = _expect(what, _Global).name.removeprefix("torch.")
    if kind != "storage" or name not in DTYPES or not isinstance(key, str) or not _is_size(size):
        raise Refused("is damaged: a storage has a description that torch.save does not write")
    if view not in ([], [None]):
        raise Refused("holds a view of a storage, as an old PyTorch wrote it", "load and save it with a newer one")
    return _Storage(key, np.dtype(DTYPES[name]), size)


def _set_items(target: Any, flat: list[Any]) -> None:
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if not isinstance(key, (str, int)):  # hashing nested tuples can take forever
            raise Refused("has a dictionary with keys other than text and numbers")
        _expect(target, dict)[key] = value


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__.strip('_')} stands where a {kind.__name__.strip('_')} should")
    return value


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_SIZE


def _shown(value: Any) -> str:
    """A text of the file for a message: short, one line, no control characters, no full stop that ends a sentence."""
    text = " ".join(str(value).split()).encode("unicode_escape").decode().replace(". ", ", ").rstrip(".")
    return text if len(text) <= 100 else text[:100] + "..."
