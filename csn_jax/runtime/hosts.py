"""Several processes as one run: how they find each other, who writes, and how all learn what one has found.

All of them run the same program over the same batches. Only the first writes into the workdir; what it alone does or
decides, it tells the others through the service by which JAX holds them together.
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

Value = TypeVar("Value")
FORMS = "leave it out for one process, or give auto (Slurm, TPU pod, GKE) or HOST:PORT,N,ID with 0 <= ID < N"
DAYS = 30 * 86_400  # as good as for ever: who waits for a process that died is ended by the heartbeat
_turns = itertools.count()  # of `on_first` and `first_of_all`, which all processes come to in the same order


class Address(NamedTuple):
    """Where the first process listens, and who this one is. None where JAX finds it out."""

    coordinator: str | None
    processes: int | None
    process: int | None


def parse(text: str) -> Address | None:
    """Read --distributed; None where it is empty, so for one process alone.

    Raises:
        UserError: naming the flag and its forms.
    """
    if text in ("", "auto"):
        return Address(None, None, None) if text else None
    parts = text.split(",")
    host, _, port = parts[0].rpartition(":")
    numbers = [part for part in (port, *parts[1:]) if part.isascii() and part.isdecimal()]
    if not host or len(parts) != 3 or len(numbers) != 3:
        raise UserError(f"--distributed={text} cannot be read; {FORMS}.")
    port, processes, process = map(int, numbers)
    if not (0 < port < 65_536 and process < processes):
        raise UserError(f"--distributed={text} has a number out of its range; {FORMS}.")
    return Address(parts[0], processes, process)


@contextmanager
def joined(text: str) -> Iterator[None]:
    """Be one of several processes inside, as --distributed says; where it is empty, nothing happens.

    Two times can be set in the environment, in whole seconds: CSN_JAX_START_UP (120), in which all must have come, and
    CSN_JAX_HEARTBEAT (30), after which one that is silent is taken for dead and the others are ended by JAX (SIGABRT).

    Raises:
        UserError: when the flag cannot be read, or `auto` finds no cluster.
        MachineError: when the processes did not all come.
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
            # So a collective tells of a neighbour's death, sooner than the heartbeat. JAX ends this process in that
            # time as it does elsewhere; where it does not, the others live and the trouble is our own.
            time.sleep(heartbeat + 5)
        # The others leave by the same mistake and are waited for; but this one may be alone with its trouble. Then its
        # absence ends them, and it must be gone before JAX ends it for not being able to say farewell.
        farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        farewell.start()
        farewell.join(min(5, heartbeat / 2))
        if farewell.is_alive():
            atexit.register(_leave, 2 if isinstance(error, UserError) else 1)
        raise
    jax.distributed.shutdown()


def _keep_stdout() -> None:
    """Keep standard output for results: Gloo, which joins CPUs, prints its own lines there, now to standard error."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
    os.dup2(2, 1)


def _is_of_jax(error: BaseException | None) -> bool:
    """Whether an error is of JAX's runtime, or was raised where one was handled."""
    import jax

    return error is not None and (
        isinstance(error, jax.errors.JaxRuntimeError) or _is_of_jax(error.__cause__ or error.__context__)
    )


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _meet(text: str, address: Address, heartbeat: int, start_up: int) -> None:
    """jax.distributed.initialize in a thread: when not all come in time, it ends the process where it stands, so we
    give it longer and say ourselves what happened."""
    if address.coordinator and address.process == 0:
        try:  # JAX would crash (a segmentation fault) where another program has the port
            socket.create_server(("", int(address.coordinator.rpartition(":")[2]))).close()
        except OSError as error:
            raise MachineError(
                f"--distributed={text}: process 0 cannot listen on that port ({error.strerror}); give a free one."
            ) from None
    import jax

    failures: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                *address,
                initialization_timeout=start_up + 60,
                heartbeat_timeout_seconds=heartbeat,
                shutdown_timeout_seconds=heartbeat,
            )
        except Exception as error:  # ValueError, RuntimeError, JaxRuntimeError and what a cluster's detection raises
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(start_up)
    who = "the processes" if address.coordinator is None else f"the {address.processes} processes"
    if thread.is_alive():
        raise MachineError(
            f"--distributed={text}: {who} did not all meet within {start_up} s; see that each was started, that all "
            "reach the coordinator's port, and that none of an earlier start still runs."
        )
    if failures and address.coordinator is None:
        raise UserError(f"--distributed=auto finds no cluster ({_first_line(failures[0])}); {FORMS}.")
    if failures:
        raise MachineError(f"--distributed={text}: the processes cannot be joined ({_first_line(failures[0])}).")


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
    """Whether JAX joins this process to others. Loading it takes seconds, which searching and reading do without."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def on_first(work: Callable[[], Value]) -> Value:
    """Do some work on the first process only, and have all return its result, which must survive JSON.

    Raises:
        UserError, MachineError: on all processes, where the work raises it.
    """
    if count() == 1:
        return work()
    key = f"csn_jax/{next(_turns)}"
    if not is_first():
        told = json.loads(_service().blocking_key_value_get(key, DAYS * 1000))
        if "error" in told:
            raise {"UserError": UserError, "MachineError": MachineError}[told["error"]](told["text"])
        return told["result"]
    try:
        result = work()
    except (UserError, MachineError) as error:
        _service().key_value_set(key, json.dumps({"error": type(error).__name__, "text": str(error)}))
        raise
    _service().key_value_set(key, json.dumps({"result": result}))
    return result


def first_of_all(work: Callable[[], Value]) -> Value:
    """Do some work on the first process, and then on the others too, which find its traces (a cache) ready made.

    Raises:
        UserError, MachineError: on all processes, where the first one's work raises it.
    """
    results: list[Value] = []
    on_first(lambda: results.append(work()))
    return results[0] if results else work()


def _service() -> Any:
    """Its key-value store has no public name in JAX; Orbax goes the same way. A collective over the devices would give
    up where the first process decodes images for an hour."""
    from jax._src import distributed

    return distributed.global_state.client


def _seconds(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UserError(f"{name}={text} in the environment is no time; give whole seconds, 1 or more.")
    return int(text)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0].rstrip('.')}" if str(error) else repr(error)
