"""Call a function in worker processes that may die: a hostile or broken file costs its own result and nothing else."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

CPU_SECONDS = 20  # for one item; the kernel ends a worker that takes longer
MEMORY = 2 << 30  # address space of a worker, in bytes


class WorkerDied:
    """Stands for the result of an item whose worker was ended; `reason` says how."""

    def __init__(self, exitcode: int | None):
        self.reason = f"ended its reader with signal {-exitcode}" if exitcode and exitcode < 0 else "ended its reader"


def isolated_map(function: Callable, items: Iterable, workers: int) -> Iterator[tuple[int, Any]]:
    """Yield (position, function(item)) as results arrive, or (position, WorkerDied).

    `function` must be importable, its exceptions should be part of its result, and items and results must pickle
    (between our own processes only).
    """
    context = multiprocessing.get_context("spawn")  # fork would copy the threads' locks of JAX and TensorFlow
    todo = iter(enumerate(items))
    running: dict[Connection, tuple[multiprocessing.process.BaseProcess, int]] = {}

    def start() -> tuple[Connection, multiprocessing.process.BaseProcess]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        process.start()
        theirs.close()  # so that recv() below sees the end of the file when the worker dies
        return ours, process

    def feed(pipe: Connection, process: multiprocessing.process.BaseProcess) -> None:
        position, item = next(todo, (None, None))
        if position is None:
            pipe.close()
            process.join()
        else:
            running[pipe] = (process, position)
            try:
                pipe.send(item)
            except BrokenPipeError:
                pass  # recv() reports the death

    try:
        for _ in range(workers):
            feed(*start())
        while running:
            for pipe in wait(list(running)):
                process, position = running.pop(pipe)
                try:
                    result = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    result = WorkerDied(process.exitcode)
                    pipe.close()
                    pipe, process = start()
                yield position, result
                feed(pipe, process)
    finally:
        for process, _ in running.values():
            process.kill()


def _serve(pipe: Connection, function: Callable) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ImportError:  # not a POSIX system: no limits, still another process
        resource = None
    while True:
        try:
            item = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        if resource:
            used = sum(os.times()[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used) + CPU_SECONDS, resource.RLIM_INFINITY))
        pipe.send(function(item))
