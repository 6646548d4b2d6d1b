"""The flags of a command, read from its dataclass, and the help that lists them."""

import ast
import dataclasses
import functools
import inspect
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

from csn_jax.cli.presets import preset_files

NARROWEST, WIDEST, COLUMN = 40, 100, 24
PRESETS = """Start from a preset: {}, NAME:FUNCTION for another of its functions, or FILE.py[:FUNCTION] of your own.
Flags override it."""


@dataclass(frozen=True)
class Place:
    """Where the data of a run lies: a field of the commands that read it again."""

    path: str = ""
    """Where the run's data lies now, if it moved: as its config.data.path. Other data is refused."""


class Flag(NamedTuple):
    """One field of a command's arguments, or of the Config inside them."""

    name: str  # config.data.path
    kind: type  # of one value
    many: bool
    choices: tuple[str, ...]
    default: Any  # dataclasses.MISSING: required
    owner: type  # the dataclass with this field

    @property
    def leaf(self) -> str:
        """The field's own name."""
        return self.name.rpartition(".")[2]

    @property
    def text(self) -> str:
        """The docstring below the field."""
        return _texts_of(self.owner).get(self.leaf, "")

    def written(self) -> str:
        """The flag as help shows it: --k=N."""
        if self.kind is bool:
            return f"--{self.name}"
        value = {int: "N", float: "X"}.get(self.kind, self.leaf.upper())
        if self.choices:
            value = "{" + ",".join(filter(None, self.choices)) + "}"
        return f"--{self.name} {value} ..." if self.many else f"--{self.name}={value}"

    def described(self) -> str:
        """Its text and its default."""
        if self.default is dataclasses.MISSING:
            return f"{self.text} (required)"
        if self.default in ("", ()) or self.default is False:
            return self.text
        shown = " ".join(map(str, self.default)) if self.many else self.default
        return f"{self.text} (default: {shown})".lstrip()


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
def _texts_of(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    texts = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def help_text(args_type: type, prog: str, first: Flag | None, everyday: Sequence[str]) -> str:
    """What --help prints of a command: what it does, examples, and its flags. `first`: the flag whose values are also
    taken without it; `everyday`: the fields of Config to show, all when empty."""
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    word = ""
    if first:
        value = first.name.upper().removesuffix("S") if first.many else first.name.upper()
        word = f"{value} [{value} ...] " if first.many else f"{value} "
    about = args_type.__doc__ or ""
    if about.startswith(f"{args_type.__name__}("):  # written by dataclass
        about = sys.modules[args_type.__module__].__doc__ or ""
    paragraphs = inspect.cleandoc(about).split("\n\n")  # indented ones, the examples, stay as they are
    prose = (part if part.startswith(" ") else textwrap.fill(part, width) for part in paragraphs)
    parts = [f"usage: {prog} {word}[OPTIONS]", *prose]
    groups: dict[type | None, list[Flag]] = {args_type: []}
    for flag in flags_of(args_type):
        if not (flag.name.startswith("config.") and everyday and flag.name not in everyday):
            groups.setdefault(flag.owner if not everyday or flag.owner is args_type else None, []).append(flag)
    for owner, members in groups.items():
        entries = []
        if owner is args_type:
            head, entries = "options:", [("--help", "Show this text and exit.")]
            if everyday:
                entries.append(("--help-all", "Show all settings and exit."))
            if "config" in args_type.__dataclass_fields__:
                entries.append(("--config=PRESET", PRESETS.format(", ".join(preset_files()))))
        elif owner is None:
            head = f"settings that people use ({prog} --help-all shows all):"
        else:
            head = f"--{members[0].name.rpartition('.')[0]}: {inspect.getdoc(owner)}"
        entries += [(flag.written(), flag.described()) for flag in members]
        lines = [line for flag, text in entries for line in _entry(flag, text, width)]
        parts.append("\n".join([textwrap.fill(head, width), *lines]))
    return "\n\n".join(parts)


def _entry(flag: str, text: str, width: int) -> list[str]:
    """The lines of a flag: its text beside it where it is short, below it where it is long."""
    wrap = functools.partial(textwrap.wrap, width=width, break_on_hyphens=False)
    flag = f"  {flag}"
    if len(flag) > COLUMN - 2 or width < 2 * COLUMN:
        indent = " " * 6
        return [*wrap(flag, subsequent_indent="    "), *wrap(text, initial_indent=indent, subsequent_indent=indent)]
    return wrap(text, initial_indent=f"{flag:{COLUMN}}", subsequent_indent=" " * COLUMN) or [flag]
