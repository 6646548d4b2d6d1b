"""Ctrl-C in a command: one line and status 130, also while modules are imported."""

import os
import signal
import sys
from types import FrameType

# What Ctrl-C leaves, by command; others write whole files or none.
LEFT = {
    "train": "run the same command again to resume",
    "embed": "finished parts are kept: run the same command again to resume",
    "beam": "finished parts are kept: run the same command again to resume",
    "adapt": "run the same command again to start anew",
    "evaluate": "nothing was changed",
    "search": "nothing was changed",
}


def interrupt(_: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C. It raises KeyboardInterrupt, but ends an import at once: libraries of C crash on an
    exception in their start, or replace it by another one."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"interrupted; {left()}\n".encode())
            os._exit(128 + signal.SIGINT)
        frame = frame.f_back
    raise KeyboardInterrupt


def left() -> str:
    """What Ctrl-C leaves of the command that runs: its name is the folder of `python -m csn_jax.COMMAND`, or a word."""
    folder, file = os.path.split(sys.argv[0])
    of_module = file == "__main__.py" and os.path.basename(folder) != "csn_jax"
    return LEFT.get(os.path.basename(folder) if of_module else "".join(sys.argv[1:2]), "nothing was written")


def is_command() -> bool:
    """Whether this process is `csn_jax ...` or `python -m csn_jax.COMMAND ...`, and not a program that imports us."""
    program = next(iter(getattr(sys, "argv", [])), "")
    if program == "-m":  # until Python has found the module
        return any(word.removeprefix("-m").partition(".")[0] == "csn_jax" for word in sys.orig_argv[1:])
    folder, file = os.path.split(program)
    of_module = file == "__main__.py" and "csn_jax" in folder.split(os.sep)[-2:]
    return of_module or file == "csn_jax"


def guard() -> None:
    """Handle Ctrl-C, unless somebody else does: a shell that started us in the background lets it be ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
