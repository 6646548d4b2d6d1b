"""A training of a few seconds for several processes: 20 steps on the pictures or the vectors of a small shop."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import shop

ROOT = Path(__file__).parents[1]
STEPS, HEARTBEAT = 20, 5
PLAN = (
    f"--config.steps={STEPS}",
    "--config.batch_size=10",  # padded to 12 on four devices
    "--config.log_every=2",
    "--config.eval_every=8",
    "--config.checkpoint_every=3",
    "--config.data.train_triplets=60",
    "--config.data.validation_triplets=61",
    "--config.data.test_triplets=60",
)
KINDS = {
    "pictures": ("table.py", "products.csv", "--config.learning_rate=2e-5", "--config.preprocess.size=16"),
    "vectors": ("features.py", "products.parquet"),
}


def flags(folder: Path, kind: str) -> tuple[str, ...]:
    """The flags of a run of this kind. Its table is written into `folder`."""
    preset, name, *more = KINDS[kind]
    table = folder / "shop" / name
    if not table.exists():
        columns = shop.columns(120)
        shop.write(table, columns, pictures=kind == "pictures", vector=shop.vectors(columns))
    preset = f"--config={ROOT / 'configs' / preset}:tiny"
    return (preset, *PLAN, *more, f"--config.data.path={table}", "--config.data.conditions", "category", "colour")


def environment(folder: Path, devices: int) -> dict[str, str]:
    """The environment of a process with this many devices."""
    rest = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return rest | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder / "compiled"),
        "CSN_JAX_CACHE": str(folder / "cache"),
        "CSN_JAX_HEARTBEAT": str(HEARTBEAT),
        "PJRT_NPROC": "4",
        "PYTHON": sys.executable,
    }


def launch(
    folder: Path, workdir: Path, kind: str, *more: str, processes: int = 2, devices: int = 2
) -> subprocess.Popen:
    """Start launch/local.sh with its output in one pipe. `processes` 0: a single process without --distributed."""
    return subprocess.Popen(
        [str(ROOT / "launch" / "local.sh"), *flags(folder, kind), f"--workdir={workdir}", *more],
        env=environment(folder, devices) | {"PROCESSES": str(processes or "")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(process: subprocess.Popen) -> list[int]:
    """The processes that launch/local.sh has started, in order. The first is the coordinator."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = map(int, path.read_text().split()) if path.exists() else ()
    return [pid for pid in pids if b"csn_jax.train" in _command(pid)]


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""  # the process has ended


def end(process: subprocess.Popen) -> None:
    """End a launch and its processes."""
    for child in children(process):
        os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait()
