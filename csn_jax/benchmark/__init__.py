"""Measure csn_jax against the tools that people use instead.

    csn_jax benchmark --suite=step --out=step.json
    csn_jax benchmark --suite=search --turns=9 --out=search.json

Each side runs in its own process and they take turns, so that a busy machine slows both. The ratio is the median over
the turns, above 1 where csn_jax is better; its range is the smallest and the largest ratio. The other tools are in the
repository's folder benchmarks/ and need its requirements.txt. Without them, only csn_jax is measured.
"""

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from csn_jax import cli
from csn_jax.errors import UserError


@dataclass(frozen=True)
class Args:
    out: str
    """The JSON file to write."""
    suite: Literal["step", "feed", "loss", "evaluate", "search", "startup", "accuracy", "encoders"] = "step"
    """step: training; feed: batches; loss: in-batch learning; evaluate: triplet error and retrieval; search: nearest
    neighbours; startup: from the command to the first step; accuracy: from the command to a triplet error; encoders:
    training and embedding by a vision transformer and EfficientNet-Lite0."""
    turns: int = 5
    """How many measurements to take of each side."""
    tiny: bool = False
    """Use sizes for tests, which say nothing about speed."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    out = Path(args.out).expanduser()
    if args.turns < 1:
        raise UserError(f"--turns={args.turns}; give a whole number of at least 1.")
    if out.is_dir() or not out.parent.is_dir():
        problem = "this is a folder; give a file" if out.is_dir() else f"{out.parent} is not a folder; make it"
        raise UserError(f"--out={args.out}: {problem}, or give another path.")

    from csn_jax.benchmark.compare import compare, machine, table_of_results
    from csn_jax.runtime.workdir import write_atomically
    from csn_jax.runtime.writer import next_step

    results = []
    for number, case in enumerate(importlib.import_module(f"csn_jax.benchmark.suites.{args.suite}").CASES):
        for peer in case.theirs or ("",):
            results += compare(args.suite, number, case, peer, args.turns, args.tiny)
    report = {"suite": args.suite, "machine": machine(), "turns": args.turns, "results": results}
    write_atomically(out, (json.dumps(report, indent=2) + "\n").encode())
    print(f"{report['machine']}\n\n{table_of_results(results)}")
    suites = get_args(Args.__annotations__["suite"])
    following = suites[(suites.index(args.suite) + 1) % len(suites)]
    next_step("benchmark", f"--suite={following}", f"--out={out.with_name(f'{following}.json')}")
