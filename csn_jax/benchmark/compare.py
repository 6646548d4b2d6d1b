"""One comparison: each side runs in a process of its own, and the two take turns."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from csn_jax.benchmark.figures import MEMORY, summary
from csn_jax.benchmark.suites import Case
from csn_jax.errors import MachineError
from csn_jax.runtime.writer import say

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"


class Worker:
    """One side's process."""

    def __init__(self, command: Sequence[str]):
        # Both sides share an accelerator: neither may reserve all of its memory.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment)
        self.peak_bytes = 0

    def prepared(self) -> bool:
        """Wait until the process is ready. False if it ended instead."""
        return bool(self.process.stdout.readline())

    def measure(self) -> float:
        """One measurement.

        Raises:
            MachineError: when the process ends instead.
        """
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            command, status = " ".join(self.process.args[1:]), self.process.wait()
            raise MachineError(f"{command} ended early with status {status}; its own message is above.") from None
        self.peak_bytes = answer["peak_bytes"]
        return answer["value"]

    def close(self) -> None:
        with suppress(OSError):  # the process ended before it read all input
            self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def compare(suite: str, number: int, case: Case, peer: str, turns: int, tiny: bool) -> list[dict[str, Any]]:
    """The figures of a suite's case against one peer: what the case measures, and the peak memory of both sides."""
    title = f"{case.name}, against {peer}" if peer else case.name
    say(title)
    flags, theirs, values = ["--tiny"] if tiny else [], None, []
    with ExitStack() as stack:
        ours = Worker([sys.executable, "-m", "csn_jax.benchmark.suites", suite, str(number), *flags])
        stack.callback(ours.close)
        if not ours.prepared():
            raise MachineError(f"csn_jax could not prepare {case.name}; its own message is above.")
        if peer and PEERS.is_file():
            theirs = Worker([sys.executable, str(PEERS), *case.theirs[peer], *flags])
            stack.callback(theirs.close)
        if peer and not (theirs and theirs.prepared()):
            theirs = None
            say(f"{peer} is not measured: {PEERS} or a package of its requirements.txt is missing")
        for turn in range(1 if case.once else turns):
            values.append((ours.measure(), theirs.measure() if theirs else None))
            figures = " and ".join(f"{value:,.4g}" for value in values[-1] if value is not None)
            say(f"  {turn + 1}: {figures} {case.unit}")
    results = [summary(title, values, case.unit, case.more)]
    if case.memory:
        memory = [(ours.peak_bytes / 1e6, theirs.peak_bytes / 1e6 if theirs else None)]
        results.append(summary(f"{title}{MEMORY}", memory, "MB", False))
    return results
