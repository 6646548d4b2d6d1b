"""Time to a triplet error: from the command to the first validation at or below it."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from csn_jax.benchmark.suites import Case

TARGET = 0.031  # overall, on the quickstart's validation triplets: where the reference's way stood after 10 minutes
REFERENCE = {"PyTorch, the reference's way": ("accuracy", str(TARGET))}
EVERY = 100  # steps between two validations, of the other side too


def make(tiny: bool, flags: tuple[str, ...]) -> Callable[[], float]:
    """The real command, whole: it imports, reads, compiles, trains, validates and saves. Another seed at each turn."""
    temporary = tempfile.TemporaryDirectory(prefix="csn_jax_accuracy_")  # goes when this process ends
    flags = (*flags, f"--config.eval_every={EVERY}")
    if tiny:
        flags = (*flags, "--config.eval_every=2", "--config.steps=4", "--config.batch_size=32")
    target, seed = 1.0 if tiny else TARGET, -1

    def measure() -> float:
        nonlocal seed
        seed += 1
        workdir = Path(temporary.name) / str(seed)
        command = [sys.executable, "-m", "csn_jax.train", f"--workdir={workdir}", f"--config.seed={seed}", *flags]
        with open(Path(temporary.name) / "told", "w") as told:
            began = time.perf_counter()
            child = subprocess.Popen(command, stdout=told, stderr=told)
            while not (reached := best(workdir / "metrics.jsonl") <= target) and child.poll() is None:
                time.sleep(0.02)
            spent = time.perf_counter() - began
        child.kill()
        child.wait()
        if not (reached or best(workdir / "metrics.jsonl") <= target):
            sys.exit(f"csn_jax.train did not come to {target:.1%}:\n{(Path(temporary.name) / 'told').read_text()}")
        return spent

    return measure


def best(log: Path) -> float:
    """The least validation error in a metrics log so far."""
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else ()
    records = (json.loads(line) for line in lines if line.endswith("\n"))
    return min((record.get("validation/triplet_error/overall", 1.0) for record in records), default=1.1)


# As configs/glyphs.py:in_batch.
IN_BATCH = ("--config.loss.name=batch_all", "--config.batch_size=384", "--config.steps=800")
TRIPLETS = ("--config.steps=3600",)
CASES = [
    Case(f"{name}, to {TARGET:.1%} triplet error", partial(make, flags=flags), REFERENCE, "s", False, memory=False)
    for name, flags in {"in-batch learning": IN_BATCH, "the paper's triplets": TRIPLETS}.items()
]
