"""Several processes as one run: how they join, which one writes, and how the others get its results.

All processes run the same program over the same batches. Only the first writes into the workdir. It sends what it alone
does or decides to the others through the service that JAX joins them with.
"""

import atexit
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from csn_jax.errors import MachineError, Stopped, UserError
from csn_jax.text import first_sentence

Value = TypeVar("Value")
FORMS = "leave it out for one process, or give auto (Slurm, TPU pod, GKE) or HOST:PORT,N,ID with 0 <= ID < N"
DAYS = 30 * 86_400  # in effect without limit: the heartbeat ends a process that waits for a dead one
_turns = itertools.count()  # of `on_first` and `first_of_all`, which all processes call in the same order


class Address(NamedTuple):
    """Where the first process listens, and which one this is. None where JAX detects it."""

    coordinator: str | None
    processes: int | None
    process: int | None


def parse(text: str) -> Address | None:
    """Read --distributed, or refuse it by a UserError that names its forms. None if it is empty: one process alone."""
    if text in ("", "auto"):
        return Address(None, None, None) if text else None
    parts = text.split(",")
    host, _, port = parts[0].rpartition(":")
    numbers = [part for part in (port, *parts[1:]) if part.isascii() and part.isdecimal()]
    if not host or len(parts) != 3 or len(numbers) != 3:
        raise UserError(f"--distributed={text} cannot be read; {FORMS}.")
    port, processes, process = map(int, numbers)
    if not (0 < port < 65_536 and process < processes):
        raise UserError(f"--distributed={text} has a number out of range; {FORMS}.")
    return Address(parts[0], processes, process)


@contextmanager
def joined(text: str) -> Iterator[None]:
    """Inside, be one of several processes, as --distributed says. If it is empty, nothing happens.

    The environment can set two times in whole seconds: CSN_JAX_START_UP (120), within which all must join, and
    CSN_JAX_HEARTBEAT (30), after which a silent process counts as dead and JAX ends the others (SIGABRT). A UserError
    if the flag cannot be read, or `auto` finds no cluster; a MachineError if not all processes join.
    """
    address = parse(text)
    if address is None:
        yield
        return
    import jax

    heartbeat, start_up = _seconds("CSN_JAX_HEARTBEAT", 30), _seconds("CSN_JAX_START_UP", 120)
    _keep_stdout()
    _meet(text, address, heartbeat, start_up)
    try:
        yield
    except Stopped:
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        if _is_of_jax(error):
            # A collective reports a dead process sooner than the heartbeat. JAX ends this process within that time.
            # If it does not, the others live and the error is our own.
            time.sleep(heartbeat + 5)
        # Wait for the others, which fail alike if the mistake is shared. If the error is ours alone, our absence ends
        # them, and we must leave before JAX kills this process because its shutdown fails.
        shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(min(5, heartbeat / 2))
        if shutdown.is_alive():
            atexit.register(_leave, 2 if isinstance(error, UserError) else 1)
        raise
    jax.distributed.shutdown()


def _keep_stdout() -> None:
    """Keep standard output for results: lines that Gloo, which joins CPUs, prints there go to standard error."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(2, 1)


def _is_of_jax(error: BaseException | None) -> bool:
    """Whether an error comes from JAX's runtime, or was raised while handling one that does."""
    import jax

    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _meet(text: str, address: Address, heartbeat: int, start_up: int) -> None:
    """Run jax.distributed.initialize in a thread. At its timeout it kills the process, so it gets a longer one and the
    message is ours."""
    if address.coordinator and address.process == 0:
        try:  # if another program has the port, JAX crashes with a segmentation fault
            socket.create_server(("", int(address.coordinator.rpartition(":")[2]))).close()
        except OSError as error:
            raise MachineError(
                f"--distributed={text}: process 0 cannot listen on that port ({error.strerror}); give a free one."
            ) from None
    import jax

    failures: list[Exception] = []
    times = {"heartbeat_timeout_seconds": heartbeat, "shutdown_timeout_seconds": heartbeat}

    def initialize() -> None:
        try:
            jax.distributed.initialize(*address, initialization_timeout=start_up + 60, **times)
        except Exception as error:  # detection of a cluster can raise anything
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(start_up)
    group = "the processes" if address.coordinator is None else f"the {address.processes} processes"
    if thread.is_alive():
        raise MachineError(
            f"--distributed={text}: {group} did not all join within {start_up} s; check that each was started, that "
            "each reaches the coordinator's port, and that none of an earlier start still runs."
        )
    for failure in failures:
        reason = f"{type(failure).__name__}: {first_sentence(failure)}"
        if address.coordinator is None:
            raise UserError(f"--distributed=auto finds no cluster ({reason}); {FORMS}.")
        raise MachineError(f"--distributed={text}: the processes cannot be joined ({reason}).")


def count() -> int:
    """How many processes the run has."""
    return sys.modules["jax"].process_count() if _is_joined() else 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return index() == 0


def index() -> int:
    """Which of the processes this one is."""
    return sys.modules["jax"].process_index() if _is_joined() else 0


def _is_joined() -> bool:
    """Whether JAX joins this process to others. JAX takes seconds to load, so it is not imported here."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def on_first(work: Callable[[], Value]) -> Value:
    """Do the work on the first process only. All processes return its result, which must survive JSON, or raise its
    UserError or MachineError."""
    if count() == 1:
        return work()
    key = f"csn_jax/{next(_turns)}"
    if not is_first():
        message = json.loads(_service().blocking_key_value_get(key, DAYS * 1000))
        if "error" in message:
            raise {"UserError": UserError, "MachineError": MachineError}[message["error"]](message["text"])
        return message["result"]
    try:
        result = work()
    except (UserError, MachineError) as error:
        _service().key_value_set(key, json.dumps({"error": type(error).__name__, "text": str(error)}))
        raise
    _service().key_value_set(key, json.dumps({"result": result}))
    return result


def first_of_all(work: Callable[[], Value]) -> Value:
    """Do the work on the first process, then on the others, which find what it left (a cache). Where it fails on the
    first, all raise its UserError or MachineError."""
    results: list[Value] = []
    on_first(lambda: results.append(work()))
    return results[0] if results else work()


def _service() -> Any:
    """JAX's key-value store, which has no public name; Orbax uses it too. A collective over the devices would time out
    while the first process decodes images for an hour."""
    from jax._src import distributed

    return distributed.global_state.client


def _seconds(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UserError(f"{name}={text} in the environment is not a time; give whole seconds, 1 or more.")
    return int(text)
