"""What csn_jax.benchmark measures, one suite per file, and the worker process that each side runs in.

Each side is a process of its own, so that threads and memory do not mix. It prepares, says that it is ready, and then
measures once per line of input, so that the sender can alternate between the two. Imports no JAX.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One comparison."""

    name: str
    make: Callable[[bool], Callable[[], float]]  # make(tiny) -> measure(), our side; `tiny` is a size for tests
    theirs: dict[str, tuple[str | float, ...]]  # {name in the table: words for benchmarks/peers.py}
    unit: str
    more: bool = False  # larger is better, as for images/s
    once: bool = False  # it takes long, and one measurement is enough
    memory: bool = True  # the process that measures is the one that works


def serve(make: Callable[[bool], Callable[[], float]], tiny: bool) -> None:
    """A worker's loop: one JSON line on standard output when ready, and one per line of standard input."""
    out = sys.stdout
    sys.stdout = sys.stderr  # keeps what libraries print out of the protocol
    measure = make(tiny)
    print(json.dumps({"ready": True}), file=out, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"value": measure(), "peak_bytes": peak_bytes()}), file=out, flush=True)


def peak_bytes() -> int:
    """The peak resident memory of this process; 0 if the system does not report it. A fork inherits the parent's
    ru_maxrss, so that is not used."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def timed(work: Callable[[], object], scale: float = 1) -> Callable[[], float]:
    """measure(): the seconds that the work takes, times `scale`."""

    def measure() -> float:
        began = time.perf_counter()
        work()
        return scale * (time.perf_counter() - began)

    return measure


def seconds_until(reached: Callable[[], bool], command: list[str], output: Path, poll: float, **options) -> float:
    """Seconds from the start of a command until `reached`, checked every `poll` seconds. Then the command is killed.

    Ends this process if the command ends first. `output` takes what it prints; `options` are those of Popen.
    """
    with open(output, "w") as file:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=file, stderr=file, **options)
        while not (done := reached()) and child.poll() is None:
            time.sleep(poll)
        spent = time.perf_counter() - began
    child.kill()
    child.wait()
    if not (done or reached()):
        sys.exit(f"{' '.join(command[1:])} ended too early, with status {child.returncode}:\n{output.read_text()}")
    return spent
