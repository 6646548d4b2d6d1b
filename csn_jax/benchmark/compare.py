"""Comparisons: each side runs in a process of its own and the two take turns; their figures, tables and machine."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from csn_jax.benchmark.suites import Case
from csn_jax.errors import MachineError
from csn_jax.runtime.writer import say
from csn_jax.text import table

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"
MEMORY = ", peak memory"  # ends the name of a figure


class Worker:
    """One side's process."""

    def __init__(self, command: Sequence[str]):
        # Both sides share an accelerator: neither may reserve all of its memory.
        environment, pipe = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ, subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.peak_bytes = 0

    def prepared(self) -> bool:
        """Wait until the process is ready. False if it ended instead."""
        return bool(self.process.stdout.readline())

    def measure(self) -> float:
        """One measurement; a MachineError when the process ends instead."""
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
            theirs = Worker([sys.executable, str(PEERS), *map(str, case.theirs[peer]), *flags])
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


def summary(name: str, values: Sequence[tuple[float, float | None]], unit: str, more: bool) -> dict[str, Any]:
    """Medians of both sides and of their ratios turn by turn. None for what the other side lacks."""
    ours, theirs = zip(*values, strict=True)
    ratios = sorted(a / b if more else b / a for a, b in values if a and b) or [None]
    return {
        "name": name,
        "ours": statistics.median(ours),
        "theirs": None if theirs[0] is None else statistics.median(theirs),
        "ratio": None if ratios[0] is None else statistics.median(ratios),
        "low": ratios[0],
        "high": ratios[-1],
        "unit": unit,
    }


def table_of_results(results: Sequence[dict[str, Any]]) -> str:
    """One table per comparison: a row for the speed, and one for the memory where it was measured."""
    tables, width = [], max(len(result["unit"]) for result in results)
    for speed in results:
        if speed["name"].endswith(MEMORY):
            continue
        rows = [("".ljust(len(MEMORY)), "unit".rjust(width), "csn_jax", "the other", "times better", "from", "to")]
        memory = [result for result in results if result["name"] == speed["name"] + MEMORY]
        for label, result in (("speed", speed), *((MEMORY.lstrip(", "), result) for result in memory)):
            sides = ("-" if result[side] is None else f"{result[side]:,.4g}" for side in ("ours", "theirs"))
            ratios = ("-" if result[name] is None else f"{result[name]:.2f}" for name in ("ratio", "low", "high"))
            rows.append((label, result["unit"], *(side.rjust(7) for side in sides), *ratios))
        tables.append(f"{speed['name']}\n{table(rows)}")
    return "\n\n".join(tables)


def machine(packages: Sequence[str] = ("jax", "torch", "timm", "pytorch-metric-learning", "faiss-cpu")) -> str:
    """The machine in words: processor, cores, memory, accelerators, and the versions of packages."""
    import jax

    from csn_jax.data.workers import usable_cores

    processor, flags = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
        elif line.startswith("flags"):
            flags = next((f" with {flag.upper()}" for flag in ("avx512f", "avx2") if flag in line.split()), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    devices = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    accelerators = f"; {len(devices)} x {devices[0]}" if devices else "; no accelerator"
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return f"{processor}{flags}, {usable_cores()} cores, {memory:.0f} GiB{accelerators}; {', '.join(versions)}"
