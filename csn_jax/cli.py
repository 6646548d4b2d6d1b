"""The command line: presets FILE.py:FUNCTION, typed overrides, and errors as one sentence. Imports no JAX."""

import contextlib
import dataclasses
import errno
import importlib.util
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from csn_jax.config import Config
from csn_jax.errors import MachineError, Stopped, UserError
from csn_jax.text import did_you_mean

Args = TypeVar("Args")


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a verb and exit: 0, 2 after a user's mistake, 1 when the machine failed, 143 after a saved stop."""
    # TensorFlow imports Keras at once, or its old self where told to and there is one: a third of the time that its
    # import takes, for nothing that we use. Set here and not beside the import, since a notebook may want Keras.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        sys.exit(_told(error, 2))
    except MachineError as error:
        sys.exit(_told(error, 1))
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)  # whichever signal it was: launchers start again what ended so
    except RuntimeError as error:
        if "home directory" not in str(error):  # what pathlib says of ~NAME
            raise
        sys.exit(_told(UserError("a path begins with ~NAME, and there is no such user; give it from / on."), 2))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `--help | head`: the reader has left, and Python would complain again while exiting
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        sys.exit(_told(UserError(f"{error.filename} is too long for a path; give a shorter one."), 2))


def _told(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def parse(args_type: type[Args], argv: Sequence[str], prog: str, *, positional: bool = False) -> Args:
    """Read a verb's arguments; exits 0 after --help.

    Where `args_type` has a field `config`, `--config=FILE.py[:FUNCTION]` chooses the preset that `--config.x.y=v`
    overrides. With `positional`, fields without a default are words in their place and no flags.

    Raises:
        UserError: naming what is wrong and the valid choices, or suggesting what was meant.
    """
    import tyro  # 0.1 s, so not before somebody parses

    argv, default = list(argv), None
    switches = [f"--{item.name}" for item in dataclasses.fields(args_type) if item.type is bool]
    for i, word in enumerate(argv):  # a bare --json means --json=True; tyro has either this or =False
        if word in switches and argv[i + 1 : i + 2] not in (["True"], ["False"]):
            argv[i] += "=True"
    for item in dataclasses.fields(args_type):
        if item.type == tuple[str, ...]:
            argv = gathered(argv, f"--{item.name}")
    if "config" in args_type.__dataclass_fields__:
        presets = [i for i, word in enumerate(argv) if word == "--config" or word.startswith("--config=")]
        if len(presets) > 1:
            raise UserError("--config is given twice; give one preset, and overrides as --config.field=value.")
        if presets:
            i = presets[0]
            _, equals, reference = argv[i].partition("=")
            if not equals:
                if i + 1 == len(argv):
                    raise UserError("--config needs a preset: --config=FILE.py[:FUNCTION].")
                reference = argv.pop(i + 1)
            del argv[i]
            default = args_type(config=load_preset(reference))
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            args = tyro.cli(
                args_type,
                args=argv,
                default=default,
                prog=prog,
                use_underscores=True,
                config=(tyro.conf.FlagConversionOff, *((tyro.conf.PositionalRequiredArgs,) if positional else ())),
            )
    except SystemExit as end:
        if end.code == 2:
            raise UserError(one_sentence(box.getvalue(), prog)) from None
        raise
    if hasattr(args, "config"):
        args.config.validate()
    return args


def gathered(argv: Sequence[str], flag: str) -> list[str]:
    """The words with those of a flag of several values in one place: tyro takes `--flag a b` and forgets the `a` of
    `--flag a --flag b`, which people write just as well, and does not know `--flag=a b`."""
    rest, values, here = [], [], False
    for word in argv:
        if word == flag or word.startswith(f"{flag}="):
            here = True
            values += [word.removeprefix(f"{flag}=")] if word != flag else []
        elif here and not word.startswith("--"):
            values.append(word)
        else:
            here = False
            rest.append(word)
    return [*rest, flag, *values] if values else list(argv)


def one_sentence(box: str, prog: str) -> str:
    """The error that tyro draws as a box over several lines, as one sentence.

    Between rules stand the message, then what is similar to a mistyped option, then where to find help.
    """
    box = re.sub(r"\x1b\[[\d;]*m", "", box)
    lines = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    parts = [" ".join(part.split()) for part in re.split(r"^[─-]{3,}$", "\n".join(lines), flags=re.MULTILINE)]
    if not box.startswith("╭") and parts[1:]:
        del parts[0]  # without UTF-8 the title stands above a rule of its own
    message = re.sub(r"\. (\S)", lambda match: f"; {match[1].lower()}", parts[0].removeprefix("Error ").rstrip("."))
    near = ""
    if message.startswith("invalid choice"):
        value, _, *choices = re.findall("'([^']*)'", message)
        near = did_you_mean(value, choices)
    elif parts[1:] and parts[1].startswith("Perhaps you meant"):
        option = re.search(r"--[\w.]+", parts[1])
        near = f" (did you mean {option[0]}?)" if option else ""
    return f"{message[:1].lower()}{message[1:]}{near}; see {prog} --help."


def load_preset(reference: str) -> Config:
    """The Config that FILE.py[:FUNCTION] returns; FUNCTION is `default` unless named.

    Raises:
        UserError: when the file, the function or its result is not what it should be.
    """
    name, _, function = reference.partition(":")
    function = function or "default"
    path = Path(name).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"--config={reference}: {name} is no Python file; give --config=FILE.py[:FUNCTION].")
    spec = importlib.util.spec_from_file_location(f"preset_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look up their types
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--config={reference}: {name} cannot be run ({type(error).__name__}: {error}).") from error
    presets = presets_of(module)
    if function not in presets:
        near = did_you_mean(function, presets)
        raise UserError(f"--config={reference}: {name} has no preset {function!r}{near}; it has {', '.join(presets)}.")
    try:
        config = presets[function]()
    except Exception as error:
        raise UserError(f"--config={reference}: {function}() fails ({type(error).__name__}: {error}).") from error
    if not isinstance(config, Config):
        raise UserError(f"--config={reference}: {function}() returns a {type(config).__name__}; it should be a Config.")
    config.validate()
    return config


def presets_of(module: Any) -> dict[str, Callable[[], Config]]:
    """The public functions that a preset file defines itself."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
