"""The command line: flags from dataclasses, presets, help, completion, and one line per failure. Imports no JAX."""

import codecs
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from csn_jax.cli.parse import parse, without
from csn_jax.cli.presets import load_preset
from csn_jax.errors import MachineError, Stopped, UserError
from csn_jax.runtime import starting

__all__ = ["load_preset", "parse", "run", "without"]

FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
FAILED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.ESTALE, errno.EMFILE, errno.ENFILE}


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a command and exit: 0, 2 after a usage error, 1 after a runtime failure, 143 after a saved stop.

    Ctrl-C exits 130, and a reader of standard output that has gone exits 141.
    """
    starting.guard()
    # TensorFlow imports Keras at once, or an old stub where this is set: a third of its import time, for nothing that
    # we use. Set here and not beside the import, since a notebook may want Keras.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    _open_streams()
    hook, ours = sys.unraisablehook, _repeating(sys.unraisablehook)
    sys.unraisablehook = ours
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)  # see _repeating
        status, message = _ending(error)
        if status is None:
            raise
        exec("")  # else Python remembers an interrupt inside an exec, as dataclasses use, and ends by the signal
        if message:
            with suppress(OSError):
                print(message, file=sys.stderr)
        sys.exit(status)
    finally:
        if signal.getsignal(signal.SIGINT) is starting.interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream in (sys.stdout, sys.stderr):
            _let_go(stream)
        if sys.unraisablehook is ours:  # else a command put its own over it, which silences Orbax until the exit
            sys.unraisablehook = hook


def _ending(error: BaseException) -> tuple[int | None, str]:
    """Exit status and message for an exception; status None for a bug, whose traceback is wanted."""
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    if isinstance(error, MachineError):
        return 1, f"error: {error}"
    if isinstance(error, Stopped):  # the same status for other signals: launchers restart after it
        return 128 + (signal.SIGINT if error.signum == signal.SIGINT else signal.SIGTERM), str(error)
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE, ""
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # from pathlib, for ~NAME
        return 2, "error: a path begins with ~NAME, and there is no such user; give it from / on."
    if isinstance(error, FileNotFoundError) and not error.filename:  # from os.getcwd
        return 2, "error: the folder that the shell is in was removed; cd to another one."
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return 2, f"error: {error.filename} is too long for a path; give a shorter one."
    if isinstance(error, OSError) and error.errno in FORBIDDEN | FAILED:
        what = os.strerror(error.errno)
        if error.errno in FORBIDDEN:
            where = error.filename or error.strerror  # pyarrow names the file in its text
            return 2, f"error: {where} cannot be used ({what}); check its rights, or give another path."
        where = f"{error.filename} cannot be read or written" if error.filename else "the output cannot be written"
        return 1, f"error: {where} ({what}); fix that and run the same command again."
    cause: BaseException | None = error
    while cause and not isinstance(error, SystemExit):  # an import that Ctrl-C broke may end in another exception
        if isinstance(cause, KeyboardInterrupt):
            return 128 + signal.SIGINT, f"interrupted; {starting.left()}"
        if isinstance(cause, Stopped):
            return _ending(cause)
        cause = cause.__cause__ or cause.__context__
    return None, ""


def _let_go(stream: Any) -> None:
    """Drop what a stream holds that cannot be written: Python would complain while exiting, and exit 120."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()


def _open_streams() -> None:
    """Make standard output usable where it is closed (cron, `>&-`), and lossless where it cannot encode a character.

    A closed descriptor is opened first: the next file that the program opens would get its number and our output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    codecs.register_error("csn_jax.escape", _escape)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="csn_jax.escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Characters that the output cannot encode, as \uXXXX: readable, and in JSON still the same text."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end


def _repeating(report: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A hook that repeats a Ctrl-C that came in a callback of the garbage collector, where Python drops what is raised,
    and reports everything else."""

    def hook(event: Any) -> None:
        if event.exc_type and issubclass(event.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm inside of this hook would be dropped
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            report(event)

    return hook
