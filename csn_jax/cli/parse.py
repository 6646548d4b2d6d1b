"""From the words of a command line to the dataclass of a command."""

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from csn_jax.cli.flags import Flag, flags_of, help_text
from csn_jax.cli.presets import load_preset, preset_files
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

Args = TypeVar("Args")
NUMBERS = {int: "a whole number", float: "a number"}
SWITCH = {"True": True, "true": True, "False": False, "false": False}


def parse(
    args_type: type[Args],
    argv: Sequence[str],
    prog: str = "",
    *,
    positional: bool = False,
    everyday: Sequence[str] = (),
) -> Args:
    """Read a command's arguments; exits 0 after --help. A UserError names what is wrong and the valid choices, or
    suggests what was meant.

    Args:
        args_type: a dataclass. A field `config` takes a preset as --config=NAME or FILE.py[:FUNCTION], which
            --config.x.y=v overrides.
        argv: the words after the command.
        prog: the command as messages name it; `csn_jax MODULE` when empty.
        positional: words that belong to no flag are values of the first field.
        everyday: the flags that --help shows where --help-all shows all; all when empty.
    """
    prog = prog or f"csn_jax {args_type.__module__.rpartition('.')[2]}"
    flags = {flag.name: flag for flag in flags_of(args_type)}
    first = next(iter(flags.values())) if positional else None
    for word in argv:
        if word in ("-h", "--help", "--help-all"):
            print(help_text(args_type, prog, first, () if word == "--help-all" else everyday))
            sys.exit(0)
    hint = f"; see {prog} --help."
    given, preset = _given(argv, flags, first, "config" in args_type.__dataclass_fields__, hint)
    values: dict[str, Any] = {}
    for name, words in given.items():
        read = tuple(_value(flags[name], word) for word in words)
        values[name] = read if flags[name].many else read[-1]
    missing = [flag for flag in flags.values() if flag.default is dataclasses.MISSING and flag.name not in values]
    if missing:
        raise UserError(f"give {' and '.join(flag.written() for flag in missing)}{hint}")
    args = _filled(args_type, {"config": load_preset(preset)} if preset else {}, values, "")
    if hasattr(args, "config"):
        args.config.validate()
    return args


def without(argv: Sequence[str], *names: str) -> list[str]:
    """The words of a command line without some flags and their values."""
    kept, left_out = [], False
    for word in argv:
        if word.startswith("--"):
            left_out = word.partition("=")[0].removeprefix("--").replace("-", "_") in names
        if not left_out:
            kept.append(word)
    return kept


def _given(
    argv: Sequence[str], flags: dict[str, Flag], first: Flag | None, presets: bool, hint: str
) -> tuple[dict[str, list[str]], str | None]:
    """(the values given for each flag, the preset)."""
    given: dict[str, list[str]] = {}
    preset, words = None, list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not word.startswith("-"):
            if not first or (first.name in given and not first.many):
                is_preset = presets and word.partition(":")[0] in preset_files()
                near = f" (did you mean --config={word}?)" if is_preset else ""
                raise UserError(f"unexpected word {word!r}{near}{hint}")
            given.setdefault(first.name, []).append(word)
        elif presets and name == "config":
            if preset:
                raise UserError("--config is given twice; give one preset, and overrides as --config.field=value.")
            preset = value if equals else (words.pop(0) if words else "")
            if not preset:
                raise UserError(f"--config needs a preset: {', '.join(preset_files())}, or FILE.py[:FUNCTION].")
        elif name not in flags or not word.startswith("--"):
            raise UserError(f"unknown option {word}{_meant(name, flags)}{hint}")
        else:
            flag, values = flags[name], [value] if equals else []
            if flag.many:
                while words and not words[0].startswith("--"):
                    values.append(words.pop(0))
                values = given.get(name, []) + values
            elif flag.kind is bool and not equals:
                values = [words.pop(0)] if words and words[0] in SWITCH else ["True"]
            elif not equals:
                if not words or words[0].startswith("--"):
                    raise UserError(f"--{name} needs a value: {flag.written()}{hint}")
                values = [words.pop(0)]
            given[name] = values
    return given, preset


def _meant(name: str, flags: dict[str, Flag]) -> str:
    """` (did you mean --config.steps?)` for `steps`, or for what is spelt alike."""
    leaves: dict[str, list[str]] = {}
    for flag in flags.values():
        leaves.setdefault(flag.leaf, []).append(flag.name)
    leaf = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, flags, n=1)
    if leaf in leaves and not (near and near[0].rpartition(".")[2] == leaf):
        near = leaves[leaf]
    elif not near:
        near = [flag for close in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75) for flag in leaves[close]]
    return f" (did you mean {' or '.join(f'--{flag}' for flag in near)}?)" if near else ""


def _value(flag: Flag, word: str) -> Any:
    if flag.choices:
        if word not in flag.choices:
            near = did_you_mean(word, flag.choices)
            choices = ", ".join(choice for choice in flag.choices if choice)
            raise UserError(f"--{flag.name} is {word!r}{near}; choose one of {choices}.")
    elif flag.kind is bool:
        if word not in SWITCH:
            raise UserError(f"--{flag.name} is {word!r}; give --{flag.name} alone, or =True or =False.")
        return SWITCH[word]
    elif flag.kind in NUMBERS:
        try:
            return flag.kind(word)
        except ValueError:
            raise UserError(f"--{flag.name} is {word!r}; give {NUMBERS[flag.kind]}.") from None
    return word


def _filled(kind: type, start: dict[str, Any], values: dict[str, Any], prefix: str) -> Any:
    """A dataclass of the values, those of `start` where none is given, and its defaults elsewhere."""
    fields = dict(start)
    for item in dataclasses.fields(kind):
        name = prefix + item.name
        if dataclasses.is_dataclass(item.type):
            inner = vars(fields[item.name]) if item.name in fields else {}
            fields[item.name] = _filled(item.type, inner, values, f"{name}.")
        elif name in values:
            fields[item.name] = values[name]
    return kind(**fields)
