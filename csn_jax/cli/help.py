"""What --help prints: what a command does, examples, and its flags."""

import dataclasses
import functools
import inspect
import shutil
import sys
import textwrap
from collections.abc import Sequence

from csn_jax.cli.flags import Flag, flags_of, texts_of
from csn_jax.cli.presets import preset_files

NARROWEST, WIDEST, COLUMN = 40, 100, 24
PRESETS = (
    "Start from a preset: {}, NAME:FUNCTION for another of its functions, or FILE.py[:FUNCTION] of your own. "
    "Flags override it."
)


def help_text(args_type: type, prog: str, first: Flag | None, everyday: Sequence[str] = ()) -> str:
    """The help of a command.

    Args:
        args_type: its dataclass.
        prog: its name.
        first: the flag whose values are also taken without it.
        everyday: the fields of Config to show; all when empty.
    """
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    word = ""
    if first:
        value = first.name.upper().removesuffix("S") if first.many else first.name.upper()
        word = f"{value} [{value} ...] " if first.many else f"{value} "
    groups: dict[type | None, list[Flag]] = {args_type: []}
    for flag in flags_of(args_type):
        if not (flag.name.startswith("config.") and everyday and flag.name not in everyday):
            groups.setdefault(flag.owner if not everyday or flag.owner is args_type else None, []).append(flag)
    parts = [f"usage: {prog} {word}[OPTIONS]", prose(about(args_type), width)]
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
        entries += [(flag.written(), _described(flag)) for flag in members]
        lines = [line for flag, text in entries for line in _entry(flag, text, width)]
        parts.append("\n".join([textwrap.fill(head, width), *lines]))
    return "\n\n".join(parts)


def about(args_type: type) -> str:
    """What a command does: the docstring of its arguments, or else of their module."""
    own = args_type.__doc__ or ""
    if own.startswith(f"{args_type.__name__}("):  # written by dataclass
        own = sys.modules[args_type.__module__].__doc__ or ""
    return inspect.cleandoc(own)


def prose(text: str, width: int) -> str:
    """Paragraphs wrapped to a width; indented ones, the examples, stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else textwrap.fill(part, width) for part in paragraphs)


def _described(flag: Flag) -> str:
    text = texts_of(flag.owner).get(flag.name.rpartition(".")[2], "")
    if flag.default is dataclasses.MISSING:
        return f"{text} (required)"
    if flag.default in ("", ()) or flag.default is False:
        return text
    shown = " ".join(map(str, flag.default)) if flag.many else flag.default
    return f"{text} (default: {shown})".lstrip()


def _entry(flag: str, text: str, width: int) -> list[str]:
    """The lines of a flag: its text beside it where it is short, below it where it is long."""
    wrap = functools.partial(textwrap.wrap, width=width, break_on_hyphens=False)
    flag = f"  {flag}"
    if len(flag) > COLUMN - 2 or width < 2 * COLUMN:
        indent = " " * 6
        return [*wrap(flag, subsequent_indent="    "), *wrap(text, initial_indent=indent, subsequent_indent=indent)]
    return wrap(text, initial_indent=f"{flag:{COLUMN}}", subsequent_indent=" " * COLUMN) or [flag]
