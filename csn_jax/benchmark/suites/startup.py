"""From the command to the first training step, in seconds: a start that finds compiled programs against the first."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from csn_jax.benchmark.suites import Case


def make(tiny: bool, *, backbone: str, cold: bool) -> Callable[[], float]:
    """The real command, with TensorFlow's feed, killed after its first step; `cold` forgets what was compiled."""
    temporary = tempfile.TemporaryDirectory(prefix="csn_jax_startup_")  # goes when this process ends
    folder = Path(temporary.name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    environment |= {"CSN_JAX_CACHE": str(folder / "cache")}
    flags = ["--config.batch_size=16", "--config.log_every=1", f"--config.backbone.name={backbone}"]
    flags += ["--config.data.train_triplets=100", "--config.data.test_triplets=60"] if tiny else []

    def measure() -> float:
        workdir = Path(temporary.name) / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        if cold:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        log = workdir / "metrics.jsonl"
        command = [sys.executable, "-m", "csn_jax.train", f"--workdir={workdir}", *flags]
        with open(folder / "told", "w") as told:
            began = time.perf_counter()
            child = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
            while not (log.exists() and log.stat().st_size) and child.poll() is None:
                time.sleep(0.005)
            spent = time.perf_counter() - began
        if child.poll() is not None:
            sys.exit(f"csn_jax.train ended with status {child.returncode}:\n{(folder / 'told').read_text()}")
        child.kill()
        child.wait()
        return spent

    if not cold:
        measure()
    return measure


CASES = tuple(
    Case(
        f"second start, {backbone}",
        partial(make, backbone=backbone, cold=False),
        {"the first start": ("startup", backbone)},
        "s",
        more=False,
        memory=False,
    )
    for backbone in ("small", "resnet18_csn")
)
