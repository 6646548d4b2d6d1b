"""Time to a triplet error: from the command to the first validation at or below it."""

import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from csn_jax.benchmark.suites import Case, seconds_until

TARGET = 0.031  # overall, on the quickstart's validation triplets: the reference's way after 10 minutes
REFERENCE = {"PyTorch, the reference's way": ("accuracy", TARGET)}
EVERY = 100  # steps between two validations, on both sides


def make(tiny: bool, flags: tuple[str, ...]) -> Callable[[], float]:
    """The whole command: it imports, reads, compiles, trains, validates and saves. Each turn has another seed."""
    temporary = tempfile.TemporaryDirectory(prefix="csn_jax_accuracy_")  # removed when this process ends
    flags = (*flags, f"--config.eval_every={EVERY}")
    if tiny:
        flags = (*flags, "--config.eval_every=2", "--config.steps=4", "--config.batch_size=32")
    target, seeds = 1.0 if tiny else TARGET, itertools.count()

    def measure() -> float:
        seed = next(seeds)
        workdir = Path(temporary.name) / str(seed)
        command = [sys.executable, "-m", "csn_jax.train", f"--workdir={workdir}", f"--config.seed={seed}", *flags]
        reached = lambda: best(workdir / "metrics.jsonl") <= target  # noqa: E731
        return seconds_until(reached, command, Path(temporary.name) / "output", poll=0.02)

    return measure


def best(log: Path) -> float:
    """The least validation error in a metrics log so far."""
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else ()
    records = (json.loads(line) for line in lines if line.endswith("\n"))
    return min((record.get("validation/triplet_error/overall", 1.0) for record in records), default=1.1)


# As in configs/glyphs.py:in_batch.
IN_BATCH = ("--config.loss.name=batch_all", "--config.batch_size=384", "--config.steps=800")
TRIPLETS = ("--config.steps=3600",)
CASES = [
    Case(f"{name}, to {TARGET:.1%} triplet error", partial(make, flags=flags), REFERENCE, "s", memory=False)
    for name, flags in {"in-batch learning": IN_BATCH, "the paper's triplets": TRIPLETS}.items()
]
