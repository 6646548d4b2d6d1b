"""Measure csn_jax against the tools that people use instead.

    csn_jax benchmark --suite=step --out=step.json
    csn_jax benchmark --suite=search --turns=9 --out=search.json

Both sides run in processes of their own and take turns, so that a busy machine is busy for both. The ratio is the
median over the turns, above 1 where csn_jax is better; its range is the smallest and the largest ratio. The other tools
are in the folder benchmarks/ of the repository and need its requirements.txt. Without them csn_jax is measured alone.
"""

import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from csn_jax import cli
from csn_jax.benchmark.suites import Case
from csn_jax.errors import MachineError, UserError
from csn_jax.text import table

MEMORY = ", peak memory"  # ends the name of a figure
PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"


@dataclass(frozen=True)
class Args:
    out: str
    """The JSON file to write."""
    suite: Literal["step", "feed", "loss", "evaluate", "search", "startup", "accuracy"] = "step"
    """step: training; feed: batches; loss: in-batch learning; evaluate: triplet error and retrieval; search: nearest
    neighbours; startup: from the command to the first step; accuracy: from the command to a triplet error."""
    turns: int = 5
    """How many measurements to take of each side."""
    tiny: bool = False
    """Use sizes for tests, which say nothing about speed."""


class Worker:
    """One side's process."""

    def __init__(self, command: Sequence[str]):
        # On an accelerator both are there at once: neither may take all of its memory ahead.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.peak_bytes = 0

    def prepared(self) -> bool:
        """Waits until it is ready; False where it ended instead."""
        return bool(self.process.stdout.readline())

    def measure(self) -> float:
        """One measurement.

        Raises:
            MachineError: when the process ends instead.
        """
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            found = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise MachineError(
                f"{' '.join(self.process.args[1:])} ended in the middle with status {self.process.wait()}; what it "
                "says stands above."
            ) from None
        self.peak_bytes = found["peak_bytes"]
        return found["value"]

    def close(self) -> None:
        with suppress(OSError):  # it has ended, and what was to be sent is still there
            self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    out = Path(args.out).expanduser()
    if args.turns < 1:
        raise UserError(f"--turns={args.turns}; give a whole number of at least 1.")
    if out.is_dir() or not out.parent.is_dir():
        why = "this is a folder; give a file" if out.is_dir() else f"there is no folder {out.parent}; make it"
        raise UserError(f"--out={args.out}: {why}, or give another place.")

    from csn_jax.runtime.workdir import write_atomically
    from csn_jax.runtime.writer import next_step, say

    cases = importlib.import_module(f"csn_jax.benchmark.suites.{args.suite}").CASES
    results: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        for peer, words in (case.theirs or {"": ()}).items():
            say(f"{case.name}" + (f", against {peer}" if peer else ""))
            results += compare(args, number, case, peer, words)
    report = {"suite": args.suite, "machine": machine(), "turns": args.turns, "results": results}
    write_atomically(out, (json.dumps(report, indent=2) + "\n").encode())
    print(f"{report['machine']}\n\n{told(results)}")
    suites = get_args(Args.__annotations__["suite"])
    following = suites[(suites.index(args.suite) + 1) % len(suites)]
    next_step("benchmark", f"--suite={following}", f"--out={out.with_name(f'{following}.json')}")


def compare(args: Args, number: int, case: Case, peer: str, words: Sequence[str]) -> list[dict[str, Any]]:
    """The case's figures: what it measures, and the most memory that each side had."""
    from csn_jax.runtime.writer import say

    tiny = ["--tiny"] if args.tiny else []
    ours, theirs, values = (
        Worker([sys.executable, "-m", "csn_jax.benchmark.suites", args.suite, str(number), *tiny]),
        None,
        [],
    )
    with ExitStack() as stack:
        stack.callback(ours.close)
        if not ours.prepared():
            raise MachineError(f"csn_jax could not prepare {case.name}; what it says stands above.")
        if peer and PEERS.is_file():
            theirs = Worker([sys.executable, str(PEERS), *words, *tiny])
            stack.callback(theirs.close)
        if peer and not (theirs and theirs.prepared()):
            theirs = None
            say(f"{peer} is not measured: {PEERS} is missing, or the packages of its requirements.txt are")
        for turn in range(1 if case.once else args.turns):
            values.append((ours.measure(), theirs.measure() if theirs else None))
            say(
                f"  {turn + 1}: {values[-1][0]:,.4g}"
                + (f" and {values[-1][1]:,.4g}" if theirs else "")
                + f" {case.unit}"
            )
    name = case.name + (f", against {peer}" if peer else "")
    memory = [(ours.peak_bytes / 1e6, theirs.peak_bytes / 1e6 if theirs else None)]
    speed = summary(name, values, case.unit, case.more)
    return [speed, summary(f"{name}{MEMORY}", memory, "MB", False)] if case.memory else [speed]


def summary(name: str, values: Sequence[tuple[float, float | None]], unit: str, more: bool) -> dict[str, Any]:
    """Medians of both sides and of their ratios turn by turn; what theirs lacks is None."""
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


def told(results: Sequence[dict[str, Any]]) -> str:
    """The figures as a table for each comparison."""
    parts, width = [], max(len(one["unit"]) for one in results)
    for first in (one for one in results if not one["name"].endswith(MEMORY)):
        rows = [("".ljust(len(MEMORY)), "unit".rjust(width), "csn_jax", "the other", "times better", "from", "to")]
        for one in (one for one in results if one["name"] in (first["name"], first["name"] + MEMORY)):
            figures = ("-" if one[part] is None else f"{one[part]:,.4g}" for part in ("ours", "theirs"))
            ratios = ("-" if one[part] is None else f"{one[part]:.2f}" for part in ("ratio", "low", "high"))
            what = "speed" if one is first else MEMORY.lstrip(", ")
            rows.append((what, one["unit"], *(figure.rjust(7) for figure in figures), *ratios))
        parts.append(f"{first['name']}\n{table(rows)}")
    return "\n\n".join(parts)


def machine(packages: Sequence[str] = ("jax", "torch", "pytorch-metric-learning", "faiss-cpu")) -> str:
    """The machine in words: processor, cores, memory, accelerators, and the versions of packages."""
    from importlib.metadata import PackageNotFoundError, version

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
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            pass
    return f"{processor}{flags}, {usable_cores()} cores, {memory:.0f} GiB{accelerators}; {', '.join(versions)}"
