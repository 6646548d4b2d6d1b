"""Ctrl-C while a command is imported: one line and status 130, no traceback. Then `cli.run` takes over."""

import os
import signal
import sys


def interrupted(*_: object) -> None:
    os.write(2, b"interrupted; nothing was done\n")
    os._exit(128 + signal.SIGINT)


def is_command() -> bool:
    """Whether this process is `csn_jax ...` or `python -m csn_jax.COMMAND ...`, and not a program that imports us."""
    program = next(iter(getattr(sys, "argv", [])), "")
    if program == "-m":  # until Python has found the module
        words = sys.orig_argv
        return words[words.index("-m") + 1].partition(".")[0] == "csn_jax"
    return os.path.basename(program) == "csn_jax"


def guard() -> None:
    """Handle Ctrl-C, unless somebody else does: a shell that started us in the background lets it be ignored."""
    if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
