"""The pickles inside files of `torch.save`, read without running them.

A pickle is a program, and Python's unpickler calls whatever it names. This reader knows only the instructions that
tensors, dictionaries and what stands beside them need, and calls nothing: it refuses unknown instructions and names
that are not listed. Values of the listed harmless types are skipped, as no tensor needs them.
"""

import io
import pickletools
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_PICKLE = 1 << 20  # bytes of instructions; a ResNet-50 has 60,000
MAX_SIZE = 1 << 40
DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper halves of float32
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
# Of settings and scores beside the tensors: skipped.
HARMLESS = re.compile(
    r"numpy\.(_?core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer)|ndarray|dtype|dtypes\.\w+|bool_?|u?int\d+"
    r"|float\d+)|argparse\.Namespace|types\.SimpleNamespace|_codecs\.encode|pathlib\.(_local\.)?\w*Path|datetime\.\w+"
    r"|collections\.(defaultdict|Counter|deque)|(builtins|__builtin__)\.(set|frozenset|bytearray|complex|range|slice|dict"
    r"|list|tuple|int|float|str|bool)|torch\.(Size|device|b?float\d+|u?int\d+|bool|torch_version\.TorchVersion)"
    r"|(omegaconf|lightning|lightning_fabric|pytorch_lightning|easydict|yacs)\.[\w.]+|typing\.Any"
)
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
class _Skipped:
    """A harmless type, or a value of one. Nothing of it is read."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers in a file. key: their name there; size: how many; bfloat16: whether dtype stands for that type."""

    key: str
    dtype: np.dtype
    size: int
    bfloat16: bool = False


@dataclass(frozen=True)
class Tensor:
    """A part of a storage. offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def unpickle(data: bytes, start: int) -> tuple[Any, dict[str, Storage], int]:
    """Read one pickle from an offset: (its value, its storages by key, the offset behind it).

    It may hold dictionaries, lists, tuples, strings, numbers, None, tensors and harmless types. Nothing is called.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}
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
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8" | "EMPTY_SET":
                stack.append(_Skipped(opcode.name))
            case "NONE" | "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append(EMPTY[opcode.name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                values = [stack.pop()] if opcode.name == "APPEND" else since_mark()
                if type(stack[-1]) is not _Skipped:
                    expect(stack[-1], list).extend(values)
            case "SETITEM" | "SETITEMS":
                values = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                if type(stack[-1]) is not _Skipped:
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
                name, module = expect(stack.pop(), str), expect(stack.pop(), str)
                stack.append(_global(f"{module}.{name}"))
            case "REDUCE":
                arguments, what = expect(stack.pop(), tuple), stack.pop()
                skipped = type(what) is _Skipped
                stack.append(what if skipped else _build(expect(what, _Global).name, arguments))
            case "FROZENSET":
                since_mark()
                stack.append(_Skipped(opcode.name))
            case "NEWOBJ" if type(stack[-2]) is _Skipped:
                stack.pop()
            case "BUILD":
                stack.pop()  # the `_metadata` of a state dict, or the content of what is skipped
                if type(stack[-1]) is not _Skipped:
                    expect(stack[-1], dict)
            case "BINPERSID":
                found = _storage(stack.pop())
                if storages.setdefault(found.key, found) != found:
                    raise Refused(f"is damaged: storage {shown(found.key)} has two types or sizes")
                stack.append(found)
            case _:
                raise Refused(f"uses the pickle instruction {opcode.name}, which no tensor needs, so it was not loaded")
    raise Refused("is damaged: a pickle in it does not end")


def _global(name: str) -> _Global | _Skipped:
    if HARMLESS.fullmatch(name):
        return _Skipped(name)
    if re.fullmatch(r"torch\.\w+Storage", name) and name not in ALLOWED:
        raise Refused(f"holds a {shown(name)}, a number type that is not supported", "save it as float32")
    if name not in ALLOWED:
        what = f"asks for {shown(name)}, which is not a tensor and could run code, so it was not loaded"
        if name.split(".")[0] in {*sys.stdlib_module_names, "__builtin__", "posix", "nt", ""} - {"__main__"}:
            raise Refused(what)
        raise Refused(what, "open it with the code that made it, and save model.state_dict()")
    return _Global(name)


def _build(name: str, arguments: tuple[Any, ...]) -> Any:
    """The value that a listed name makes of its arguments."""
    if name == ORDERED_DICT:
        made: dict[Any, Any] = {}
        for pair in expect(arguments[0], list) if arguments else ():
            _set_items(made, list(pair))
        return made
    if name in REBUILD_TENSOR:
        storage, offset, shape, strides = arguments[:4]
        return Tensor(expect(storage, Storage), offset, expect(shape, tuple), expect(strides, tuple))
    if name == REBUILD_PARAMETER:
        return expect(arguments[0], Tensor)
    raise Refused(f"calls {name}, which is not a function, so it was not loaded")


def _storage(reference: Any) -> Storage:
    """From ("storage", type, key, device, number of values), in old files also None or a view of another storage."""
    kind, what, key, _, size, *view = expect(reference, tuple)
    name = expect(what, _Global).name.removeprefix("torch.")
    if kind != "storage" or name not in DTYPES or not isinstance(key, str) or not is_size(size):
        raise Refused("is damaged: a storage has a description that torch.save does not write")
    if view not in ([], [None]):
        raise Refused("holds a view of a storage, as an old PyTorch wrote it", "load and save it with a newer one")
    return Storage(key, np.dtype(DTYPES[name]), size, name == "BFloat16Storage")


def _set_items(target: Any, flat: list[Any]) -> None:
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if not isinstance(key, (str, int)):  # hashing nested tuples can take forever
            raise Refused("has a dictionary with keys other than text and numbers")
        expect(target, dict)[key] = value


def expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__.strip('_')} stands where a {kind.__name__.strip('_')} should")
    return value


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_SIZE


def shown(value: Any) -> str:
    """A text of the file for a message: short, one line, no control characters, no full stop that ends a sentence."""
    text = " ".join(str(value).split()).encode("unicode_escape").decode().replace(". ", ", ").rstrip(".")
    return text if len(text) <= 100 else text[:100] + "..."


def from_bfloat16(halves: np.ndarray) -> np.ndarray:
    """float32 [...] from bfloat16 as uint16 [...]."""
    return (halves.astype("<u4") << 16).view("<f4")
