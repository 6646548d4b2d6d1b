"""Seconds from the command to the first training step: a start with cached programs against the very first."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from csn_jax.benchmark.suites import Case, seconds_until


def make(tiny: bool, *, backbone: str, cold: bool) -> Callable[[], float]:
    """The whole command with TensorFlow's feed, killed after its first step. `cold` empties the cache before it."""
    temporary = tempfile.TemporaryDirectory(prefix="csn_jax_startup_")  # removed when this process ends
    folder = Path(temporary.name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    environment |= {"CSN_JAX_CACHE": str(folder / "cache")}
    backbone = "small" if tiny else backbone
    flags = ["--config.batch_size=16", "--config.log_every=1", f"--config.backbone.name={backbone}"]
    flags += ["--config.data.train_triplets=100", "--config.data.test_triplets=60"] if tiny else []

    def measure() -> float:
        workdir = Path(temporary.name) / "run"  # by its name, which keeps the folder for as long as `measure`
        shutil.rmtree(workdir, ignore_errors=True)
        if cold:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        log = workdir / "metrics.jsonl"
        command = [sys.executable, "-m", "csn_jax.train", f"--workdir={workdir}", *flags]
        stepped = lambda: log.exists() and log.stat().st_size > 0  # noqa: E731
        return seconds_until(stepped, command, folder / "output", poll=0.005, env=environment)

    if not cold:
        measure()
    return measure


def case(backbone: str) -> Case:
    ours = partial(make, backbone=backbone, cold=False)
    return Case(f"second start, {backbone}", ours, {"the first start": ("startup", backbone)}, "s", memory=False)


CASES = (case("small"), case("resnet18_csn"))
