"""SIGTERM, SIGUSR1 and Ctrl-C end a run at once or after saving. The former handlers are restored."""

import os
import signal
import threading
import time

import pytest

from csn_jax.errors import Stopped
from csn_jax.train.signals import catch_stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_run_at_once_or_is_deferred(number):
    with catch_stop() as stop:
        assert stop.signum is None
        with pytest.raises(Stopped, match=f"stopped by signal {int(number)};.* same command"):
            os.kill(os.getpid(), number)
        stop.signum = None
        with stop.deferred():
            os.kill(os.getpid(), number)
            assert stop.signum == number
        with pytest.raises(Stopped):
            os.kill(os.getpid(), number)


def test_except_exception_does_not_catch_a_stop():
    """Restoring takes any Exception for damage, and would move a good checkpoint away."""
    with catch_stop(), pytest.raises(Stopped):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("caught")


def test_shielded_work_finishes_before_the_stop():
    """A signal stops the run at the end of the block. Without a signal, nothing happens."""
    done = []
    with catch_stop() as stop:
        with stop.shielded():
            done.append("without a signal")
        with pytest.raises(Stopped), stop.shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("despite a signal")
    assert done == ["without a signal", "despite a signal"]


def test_the_former_handlers_are_restored_after_an_error():
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


def test_ctrl_c_saves_and_a_second_one_does_not_wait():
    with catch_stop() as stop:
        with pytest.raises(Stopped, match="^interrupted; run the same command again to resume$"):
            os.kill(os.getpid(), signal.SIGINT)
        stop.signum = None
        with pytest.raises(KeyboardInterrupt), stop.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signum == signal.SIGINT
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_keeps_the_handler_of_somebody_else():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    try:
        with catch_stop():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_caught():
    """Python allows no handlers there, but the thread of a notebook or a tuner must be able to train."""
    seen = []

    def work():
        with catch_stop() as stop:
            seen.append(stop.signum)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_a_stop_inside_a_finalizer_is_not_lost():
    """Python prints and ignores what a finalizer raises, so the signal is raised again after it."""

    class Dying:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(100))  # the handler raises here

    with catch_stop() as stop, pytest.raises(Stopped):
        Dying()
        time.sleep(5)
        pytest.fail("the run continued")
    assert stop.signum == signal.SIGTERM
