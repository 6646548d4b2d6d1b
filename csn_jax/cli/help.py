"""What --help prints: what a command does, examples, and its flags."""

import dataclasses
import inspect
import shutil
import sys
import textwrap
from collections.abc import Sequence

from csn_jax.cli.flags import Flag, flags_of, texts_of
from csn_jax.cli.presets import preset_files

NARROWEST, WIDEST, COLUMN = 40, 100, 24


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
    parts = [f"usage: {prog} {word}[OPTIONS]", prose(about(args_type), width)]
    flags, texts, groups = flags_of(args_type), {}, {args_type: []}
    for flag in flags:
        if flag.name.startswith("config.") and everyday and flag.name not in everyday:
            continue
        if flag.owner not in texts:
            texts[flag.owner] = texts_of(flag.owner)
        groups.setdefault(flag.owner if not everyday or flag.owner is args_type else None, []).append(flag)
    for owner, members in groups.items():
        lines = []
        if owner is args_type:
            head = "options:"
            lines += _entry("--help", "Show this text and exit.", width)
            if everyday:
                lines += _entry("--help-all", "Show all settings and exit.", width)
            if "config" in args_type.__dataclass_fields__:
                lines += _entry("--config=PRESET", _presets_text(), width)
        elif owner is None:
            head = f"settings that people use ({prog} --help-all shows all):"
        else:
            head = f"--{members[0].name.rpartition('.')[0]}: {inspect.getdoc(owner)}"
        for flag in members:
            lines += _entry(flag.written(), _described(flag, texts[flag.owner]), width)
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


def _presets_text() -> str:
    return (
        f"Start from a preset: {', '.join(preset_files())}, NAME:FUNCTION for another of its functions, or "
        "FILE.py[:FUNCTION] of your own. Flags override it."
    )


def _described(flag: Flag, texts: dict[str, str]) -> str:
    text = texts.get(flag.name.rpartition(".")[2], "")
    if flag.default is dataclasses.MISSING:
        return f"{text} (required)"
    if flag.default in ("", ()) or flag.default is False:
        return text
    shown = " ".join(map(str, flag.default)) if flag.many else flag.default
    return f"{text} (default: {shown})".lstrip()


def _entry(flag: str, text: str, width: int) -> list[str]:
    """The lines of a flag: its text beside it where it is short, below it where it is long."""
    flag = f"  {flag}"
    if len(flag) > COLUMN - 2 or width < 2 * COLUMN:
        indent = {"initial_indent": " " * 6, "subsequent_indent": " " * 6}
        below = textwrap.fill(text, width, break_on_hyphens=False, **indent)
        return [*textwrap.wrap(flag, width, subsequent_indent=" " * 4, break_on_hyphens=False), *below.splitlines()]
    lines = textwrap.wrap(text, width - COLUMN, break_on_hyphens=False) or [""]
    return [f"{flag:{COLUMN}}{lines[0]}".rstrip(), *(" " * COLUMN + line for line in lines[1:])]
