"""SIGTERM and SIGUSR1 end a run at once or after saving; the handlers of whoever called come back."""

import os
import signal
import threading
import time

import pytest

from csn_jax.errors import Stopped
from csn_jax.train.signals import catch_stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_at_once_or_is_noted_where_there_is_something_to_save(number):
    with catch_stop() as stop:
        assert stop.signum is None
        with pytest.raises(Stopped, match=f"stopped by signal {int(number)}; the same command"):
            os.kill(os.getpid(), number)
        stop.signum = None
        with stop.deferred():
            os.kill(os.getpid(), number)
            assert stop.signum == number
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)


def test_no_handler_of_failures_swallows_a_stop():
    """Restoring takes any Exception for damage, and would set a good checkpoint aside."""
    with catch_stop(), pytest.raises(Stopped):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")


def test_shielded_work_ends_before_the_stop():
    """Inside, a signal interrupts nothing; at the end it stops the run, and without one nothing happens."""
    done = []
    with catch_stop() as stop:
        with stop.shielded():
            done.append("without a signal")
        with pytest.raises(Stopped), stop.shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("in spite of one")
    assert done == ["without a signal", "in spite of one"]


def test_the_former_handlers_come_back_also_after_an_error():
    def mine(*_):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(ZeroDivisionError), catch_stop():
            assert signal.getsignal(signal.SIGTERM) is not mine
            1 / 0  # noqa: B018
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_signals_are_left_alone():
    """Ctrl-C stays Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    with catch_stop():
        assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_caught():
    """Python allows no handlers there; a notebook's or a tuner's thread must train all the same."""
    seen = []

    def work():
        with catch_stop() as stop:
            seen.append(stop.signum)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_stop_inside_a_finalizer_is_not_lost():
    """Python prints what a finalizer raises, and goes on: the signal comes again behind it."""

    class Dying:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(100))  # where the handler raises

    with catch_stop() as stop, pytest.raises(Stopped):
        Dying()
        time.sleep(5)
        pytest.fail("the run went on")
    assert stop.signum == signal.SIGTERM
