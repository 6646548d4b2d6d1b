"""SIGTERM and SIGUSR1 end a run: at once where nothing is lost, after saving where there is something to save."""

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
from csn_jax.runtime import hosts


class StopRequest:
    """Holds the number of the signal that asked to stop, or None."""

    def __init__(self):
        self.signum: int | None = None
        self._waiting = False
        self._asked = 0

    def asked(self) -> bool:
        """Whether the run is to stop; to be asked after every step, and of several processes by all of them. They agree
        on one step, whichever of them was signalled, a few steps after the signal."""
        if hosts.count() > 1:
            # Counted here, since steps begin anew with each specialist and JAX wants them to rise.
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self.signum = signal.SIGTERM
        return self.signum is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals are only noted meanwhile; who asks for this looks at `signum`, saves, and raises Stopped."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Signals wait for the end of this, and then raise Stopped. For calls into Orbax, whose event loop would print
        and swallow what a handler raises inside it."""
        with self.deferred():
            yield
        if self.signum is not None:
            raise Stopped(self.signum)

    def note(self, signum: int, _frame: object) -> None:
        """The handler of the signals."""
        self.signum = signum
        if not self._waiting:
            raise Stopped(signum)


@contextmanager
def catch_stop() -> Iterator[StopRequest]:
    """Raise Stopped at these signals instead of dying of them, or have them noted under `StopRequest.deferred`.

    Outside the main thread Python allows no handlers: then nothing changes. Of several processes JAX takes SIGTERM and
    tells it to all, which a handler of ours would keep from it: SIGUSR1 is passed on as one, and `asked` knows.
    """
    request = StopRequest()
    _raise_what_is_swallowed()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = dict.fromkeys((signal.SIGTERM, signal.SIGUSR1), request.note)
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
    """Have a signal come again that came inside a finalizer or a weak reference's callback, where Python prints what is
    raised and goes on."""
    told = sys.unraisablehook

    def tell(orphan: Any) -> None:
        if isinstance(orphan.exc_value, Stopped):
            # A little later, since what this hook raises is swallowed, too.
            threading.Timer(0.01, os.kill, (os.getpid(), orphan.exc_value.signum)).start()
        else:
            told(orphan)

    sys.unraisablehook = tell
