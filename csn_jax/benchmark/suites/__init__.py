"""What csn_jax.benchmark measures, one suite a file; and the worker that both sides of a comparison run in.

A side is a process of its own, so that their threads and their memory do not mix. It prepares, says that it is ready,
and then measures once for every line it is sent, so that whoever sends them can take the two in turns. Imports no JAX.
"""

import json
import sys
from collections.abc import Callable
from typing import NamedTuple


class Case(NamedTuple):
    """One comparison.

    name: what is measured.
    make: make(tiny) -> measure() -> float, our side; `tiny` is a size for tests.
    theirs: {what it is called in the table: (words for benchmarks/peers.py)}.
    unit: of the figures.
    more: whether more of it is better, as images/s are; else less is.
    once: of long work, one measurement tells enough.
    memory: whether the process that measures is the one that works.
    """

    name: str
    make: Callable[[bool], Callable[[], float]]
    theirs: dict[str, tuple[str, ...]]
    unit: str
    more: bool
    once: bool = False
    memory: bool = True


def serve(make: Callable[[bool], Callable[[], float]], tiny: bool) -> None:
    """A worker's life: JSON lines on standard output, one when ready and one for each line of standard input."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is none of the protocol
    measure = make(tiny)
    print(json.dumps({"ready": True}), file=out, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"value": measure(), "peak_bytes": peak_bytes()}), file=out, flush=True)


def peak_bytes() -> int:
    """The most memory that this process has had resident. 0 where the system does not tell. (ru_maxrss would be the
    parent's, too: a fork inherits it.)"""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0
