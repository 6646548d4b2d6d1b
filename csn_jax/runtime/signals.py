"""SIGTERM and SIGUSR1 end a run: at once where nothing is lost, after saving where there is something to save."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from csn_jax.errors import Stopped


class StopRequest:
    """Holds the number of the signal that asked to stop, or None."""

    def __init__(self):
        self.signum: int | None = None
        self._waiting = False

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

    Outside the main thread Python allows no handlers: then nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request.note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
