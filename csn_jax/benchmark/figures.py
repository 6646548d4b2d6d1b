"""Figures of comparisons: medians and ratios, their tables, and the machine that they come from."""

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from csn_jax.text import table

MEMORY = ", peak memory"  # ends the name of a figure


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


def machine(packages: Sequence[str] = ("jax", "torch", "pytorch-metric-learning", "faiss-cpu")) -> str:
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
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            pass
    return f"{processor}{flags}, {usable_cores()} cores, {memory:.0f} GiB{accelerators}; {', '.join(versions)}"
