"""Call a function in worker processes that may die: a hostile or broken file costs only its own result."""

import os
import resource
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple

import numpy as np

from csn_jax.errors import MachineError

CPU_SECONDS = 20
MEMORY = 2 << 30  # address space of a worker, in bytes
# Workers ignore these: a terminal and a batch system send them to all processes, and the death of a worker would be
# blamed on its item. The parent ends its workers itself.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class WorkerDied:
    """Takes the place of a result when the worker died; `reason` says how."""

    def __init__(self, status: int):
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self.reason = f"ended its reader with {how}"


class _Raised(NamedTuple):
    """Takes the place of a result when the function raised: the traceback."""

    text: str


def read_in_workers(
    function: Callable[[Any], np.ndarray | str], tasks: Iterable, workers: int | None = None
) -> Iterator[tuple[np.ndarray | None, str | None]]:
    """Yield (picture, None) or (None, fault) for each task, in order. Closing the iterator ends its workers.

    The function returns the array of a task, or what is wrong with its file; see isolated_map. By default, there is one
    worker per usable core.
    """
    with closing(isolated_map(function, tasks, workers or usable_cores())) as results:
        for result in in_order(results):
            if isinstance(result, WorkerDied):
                result = result.reason
            yield (None, result) if isinstance(result, str) else (result, None)


def isolated_map(
    function: Callable, items: Iterable, workers: int, cpu_seconds: int = CPU_SECONDS
) -> Iterator[tuple[int, Any]]:
    """Yield (position, function(item)) as results arrive, or (position, WorkerDied). Each position comes once.

    Args:
        function: from an importable module, not from `__main__`. It returns what is wrong with a bad item: an
            exception counts as a bug.
        items: items and results must pickle (our own processes alone exchange them).
        workers: processes at a time.
        cpu_seconds: limit per item; the kernel kills a worker that takes longer.

    Raises:
        RuntimeError: when the function raises, with the worker's traceback.
        MachineError: when no worker can start.
    """
    rest = enumerate(items)
    queue = deque(islice(rest, workers))  # items may be large: few are held
    crew: dict[Connection, subprocess.Popen] = {}
    tasks: dict[Connection, tuple[int, Any]] = {}  # (position, item) per worker; none before it reports ready
    retried: set[int] = set()

    def hire() -> None:
        ours, theirs = Pipe()
        with theirs:  # close our copy, so that recv() below sees the worker's death
            crew[ours] = _start_worker(theirs, cpu_seconds)
        _send(ours, function)

    def dismiss(pipe: Connection) -> int:
        pipe.close()
        return crew.pop(pipe).wait()

    try:
        for _ in range(len(queue)):
            hire()
        while crew:
            for pipe in wait(list(crew)):
                try:
                    result = pipe.recv()
                except (EOFError, OSError):  # the worker died; OSError in the middle of a result
                    status = dismiss(pipe)
                    if pipe not in tasks:
                        raise MachineError(f"a worker process could not start (exit status {status}).") from None
                    position, item = tasks.pop(pipe)
                    if status == -signal.SIGKILL and position not in retried:
                        # Only the kernel sends this signal, when the whole machine runs out of memory.
                        retried.add(position)
                        queue.append((position, item))
                    else:
                        yield position, WorkerDied(status)
                    if queue:
                        hire()
                    continue
                if isinstance(result, _Raised):
                    raise RuntimeError(f"{function.__qualname__} failed in a worker:\n{result.text}")
                if pipe in tasks:
                    yield tasks.pop(pipe)[0], result
                if queue:
                    queue.extend(islice(rest, 1))
                    tasks[pipe] = queue.popleft()
                    _send(pipe, tasks[pipe][1])
                else:
                    dismiss(pipe)
    finally:
        for pipe in list(crew):
            crew[pipe].kill()
            dismiss(pipe)


def usable_cores() -> int:
    """The cores that this process may use. On a shared machine they are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(results: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Yield the results of (position, result) pairs in the order of positions, each as early as possible."""
    early: dict[int, Any] = {}
    following = 0
    for position, result in results:
        early[position] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _start_worker(pipe: Connection, cpu_seconds: int) -> subprocess.Popen:
    """Start a fresh interpreter. multiprocessing would run the caller's main module again in each worker: that imports
    JAX in a notebook and fails in a script without a guard. A fork would copy the locks of JAX's threads."""
    serve = f"from {__name__} import _serve; _serve({pipe.fileno()}, {cpu_seconds})"
    # One thread: the address space of NumPy's thread pools grows with the number of cores.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # the worker inherits the mask
    try:
        return subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {serve}"],
            pass_fds=[pipe.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    except OSError as error:
        raise MachineError(f"a worker process could not start ({error.strerror}).") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(pipe: Connection, message: Any) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # recv() reports the death
        pipe.send(message)


def _serve(descriptor: int, cpu_seconds: int) -> None:
    """The loop of a worker: receive the function, report ready, then answer each item until the pipe closes."""
    pipe, function = Connection(descriptor), None
    while True:
        try:
            message = pipe.recv()
            if function is None:
                function, result = message, None
                _limit(resource.RLIMIT_AS, MEMORY)
                _limit(resource.RLIMIT_CORE, 0)
            else:
                _limit(resource.RLIMIT_CPU, int(sum(os.times()[:2])) + cpu_seconds)
                try:
                    result = function(message)
                except Exception:
                    result = _Raised(traceback.format_exc())
            pipe.send(result)
        except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone or needs no more results
            return
        except Exception:  # the item or the result does not pickle
            _send(pipe, _Raised(traceback.format_exc()))
            return


def _limit(kind: int, amount: int) -> None:
    with suppress(ValueError, OSError):  # a stricter limit holds already, or macOS refuses one on address space
        resource.setrlimit(kind, (amount, resource.getrlimit(kind)[1]))
