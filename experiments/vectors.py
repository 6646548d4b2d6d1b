"""Train on a table of vectors with several splits, and print how each rung of the ladder does.

    python experiments/vectors.py --table=footwear.parquet --conditions category gender colour season usage
    python experiments/vectors.py --table=footwear.parquet --conditions usage --set=--config.maps.rank=64

Prints per condition the mean test error over splits, the number of training steps, and the CPU seconds of a whole run.
Each split is a run of `csn_jax train --config=features` with another data.seed, in --out.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from csn_jax.text import table

RUNGS = ("euclidean", "cosine", "prototypes", "linear_probe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--conditions", nargs="+", required=True)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/vectors"), help="a folder for the runs")
    parser.add_argument("--set", nargs="*", default=[], help="more flags of csn_jax train")
    args = parser.parse_args()
    results, seconds = [], []
    for seed in range(args.splits):
        results.append(trained(args, seed))
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(spent.ru_utime + spent.ru_stime - sum(seconds))
    names = [*args.conditions, "overall"]
    rows = [("mean error", "this run", *(rung.replace("_", " ") for rung in RUNGS), "raw kept in")]
    for name in names:
        errors = [[value_of(part, name) for part in parts_of(result)] for result in results]
        kept = sum(name in result["raw"] for result in results)
        rows.append((name, *map(percent, np.array(errors, float).mean(axis=0)), f"{kept} of {len(results)}"))
    print(table(rows))
    steps = [result["step"] for result in results]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    spent = f"median of {np.median(seconds):.0f} CPU seconds per run, {peak / 1e6:.1f} GB"
    print(f"best step {min(steps):,} to {max(steps):,}; {spent}")


def trained(args: argparse.Namespace, seed: int) -> dict:
    """results.json of a run, with the conditions that keep the raw vectors."""
    workdir = args.out / f"{args.table.stem}-{seed}"
    flags = ["--config=features", f"--config.data.path={args.table}", f"--config.data.seed={seed}"]
    command = [sys.executable, "-m", "csn_jax.train", *flags, *args.set, f"--workdir={workdir}"]
    subprocess.run([*command, "--config.data.conditions", *args.conditions], check=True, stdout=subprocess.DEVNULL)
    raw = json.loads((workdir / "data.json").read_text())["raw"]["conditions"]
    return json.loads((workdir / "results.json").read_text()) | {"raw": raw}


def parts_of(result: dict) -> list[dict]:
    return [result["triplet_error"], *(result["baselines"][rung] for rung in RUNGS)]


def value_of(part: dict, name: str) -> float | None:
    return part["overall"] if name == "overall" else part["by_condition"][name]


def percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2%}"


if __name__ == "__main__":
    main()
