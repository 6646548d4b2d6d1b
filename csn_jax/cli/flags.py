"""The flags of a command, read from its dataclass: names, types, choices, defaults and docstrings."""

import ast
import dataclasses
import functools
import inspect
import textwrap
from typing import Any, Literal, NamedTuple, get_args, get_origin


class Flag(NamedTuple):
    """One field of a command's arguments, or of the Config inside them."""

    name: str  # config.data.path
    kind: type  # of one value
    many: bool
    choices: tuple[str, ...]
    default: Any  # dataclasses.MISSING: required
    owner: type  # the dataclass with this field

    def written(self) -> str:
        """The flag as help shows it: --k=N."""
        if self.kind is bool:
            return f"--{self.name}"
        value = {int: "N", float: "X"}.get(self.kind, self.name.rpartition(".")[2].upper())
        if self.choices:
            value = "{" + ",".join(choice for choice in self.choices if choice) + "}"
        return f"--{self.name} {value} ..." if self.many else f"--{self.name}={value}"


def flags_of(kind: type, prefix: str = "", start: Any = None) -> list[Flag]:
    """The flags of a dataclass and of the dataclasses in its fields, in order; `start` holds defaults of its own."""
    flags = []
    for item in dataclasses.fields(kind):
        name, hint = prefix + item.name, item.type
        default = getattr(start, item.name) if start is not None else item.default
        if default is dataclasses.MISSING and item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if dataclasses.is_dataclass(hint):
            flags += flags_of(hint, f"{name}.", default)
            continue
        many, choices = get_origin(hint) is tuple, get_args(hint) if get_origin(hint) is Literal else ()
        value = get_args(hint)[0] if many else str if choices else hint
        flags.append(Flag(name, value, many, choices, default, kind))
    return flags


@functools.cache
def texts_of(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    texts = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts
