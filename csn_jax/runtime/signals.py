"""SIGTERM and SIGUSR1 ask for a saved end; the loop looks between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Holds the number of the signal that asked to stop, or None."""

    signum: int | None = None


@contextmanager
def catch_stop() -> Iterator[StopRequest]:
    """Note the signals instead of dying of them. Outside the main thread Python allows no handlers: then none asks."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, _frame: object) -> None:
        request.signum = signum

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
