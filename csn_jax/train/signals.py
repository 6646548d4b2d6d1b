"""SIGTERM, SIGUSR1 and Ctrl-C end a run: at once if nothing is lost, else after saving."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jax.experimental import multihost_utils

from csn_jax.errors import Stopped
from csn_jax.runtime import hosts, starting


class StopRequest:
    """Holds the number of the signal that asked to stop, or None."""

    def __init__(self):
        self.signum: int | None = None
        self._waiting = False
        self._asked = 0

    def asked(self) -> bool:
        """Whether the run must stop. Every process asks after every step. They agree on one step, a few steps after the
        signal, whichever of them was signalled."""
        if hosts.count() > 1:
            # Counted here: JAX needs rising numbers, and steps start again with each specialist.
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self.signum = signal.SIGTERM
        return self.signum is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note signals inside. The caller looks at `signum`, saves, and raises Stopped."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Raise Stopped at the end instead of inside: for calls into Orbax, whose event loop would print and swallow
        what a handler raises."""
        with self.deferred():
            yield
        if self.signum is not None:
            raise Stopped(self.signum)

    def note(self, signum: int, _frame: object) -> None:
        """The handler of the signals. A second Ctrl-C does not wait for the save."""
        if signum == self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        if not self._waiting:
            raise Stopped(signum)


@contextmanager
def catch_stop() -> Iterator[StopRequest]:
    """Raise Stopped at these signals, or note them under `StopRequest.deferred`.

    Outside the main thread Python allows no handlers, and nothing changes. With several processes, JAX handles SIGTERM
    and informs them all, which a handler of ours would prevent. SIGUSR1 is forwarded as SIGTERM, and Ctrl-C, which a
    terminal sends to all of them, ends them at once. It stays as it is where somebody else handles it.
    """
    request = StopRequest()
    _raise_what_is_swallowed()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = dict.fromkeys((signal.SIGTERM, signal.SIGUSR1), request.note)
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, starting.interrupt):
        handlers[signal.SIGINT] = request.note
    if hosts.count() > 1:
        handlers = {signal.SIGUSR1: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@functools.cache
def _raise_what_is_swallowed() -> None:
    """Repeat a signal that came inside a finalizer or a weak reference's callback, where Python prints an exception and
    continues."""
    report = sys.unraisablehook

    def repeat_or_report(orphan: Any) -> None:
        if isinstance(orphan.exc_value, Stopped):
            # A little later: an exception from this hook would be swallowed too.
            threading.Timer(0.01, os.kill, (os.getpid(), orphan.exc_value.signum)).start()
        else:
            report(orphan)

    sys.unraisablehook = repeat_or_report
