"""Measure csn_jax beam with worker processes of this machine beside csn_jax embed, in turns, and compare their bits.

    python benchmarks/beam.py --workdir=runs/products --table=products.csv --folder=/tmp/beam

Copies pictures of the table until there are 10,000, damages 200 of them in six ways, and embeds all of them by both
commands, each in processes of its own. Prints seconds and seconds of processor time, and whether the vectors, ids and
digests are the same.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from csn_jax.store.vector_file import read_embeddings

DAMAGES = (
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"<html>not found</html>"),
    lambda path: path.write_bytes(path.read_bytes()[300:]),
    lambda path: path.unlink(),
    lambda path: (path.unlink(), path.mkdir()),
)


def prepare(table: Path, folder: Path, image: str, n: int, n_damaged: int) -> Path:
    """A table of n pictures beside their files, some of them damaged."""
    if (folder / "table.csv").exists():
        return folder / "table.csv"
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (folder / "pictures").mkdir(parents=True)
    bad = set(np.random.default_rng(0).choice(n, n_damaged, replace=False).tolist())
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in range(n):
            source = rows[row % len(rows)]
            path = folder / "pictures" / f"{row:06}{Path(source[image]).suffix}"
            shutil.copy(table.parent / source[image], path)
            if row in bad:
                DAMAGES[row % len(DAMAGES)](path)
            writer.writerow(source | {image: f"pictures/{path.name}"})
    return folder / "table.csv"


def run(*words: str) -> list[float]:
    """[seconds, seconds of processor time] of a command and all processes that it starts."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return [round(time.perf_counter() - began, 1), round(used, 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--image", default="image", help="the table's column of images")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--damaged", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    table = prepare(args.table, args.folder, args.image, args.pictures, args.damaged)
    words = (f"--workdir={args.workdir}", f"--table={table}", f"--image={args.image}")
    options = f"direct_running_mode=multi_processing,direct_num_workers={args.workers}"
    one, parts, seconds = args.folder / "one.arrow", args.folder / "parts", {"embed": [], "beam": []}
    for _ in range(args.turns):
        shutil.rmtree(parts, ignore_errors=True)
        seconds["embed"].append(run("csn_jax.embed", *words, f"--out={one}", "--rebuild"))
        seconds["beam"].append(run("csn_jax.beam", *words, f"--out={parts}", f"--beam_pipeline_options={options}"))
        print(json.dumps(seconds), flush=True)
    theirs, ours = read_embeddings(one), [read_embeddings(path) for path in sorted(parts.glob("*.arrow"))]
    bad = [json.loads(line) for line in (parts / "left_out.jsonl").read_text().splitlines()]
    expected = set(np.random.default_rng(0).choice(args.pictures, args.damaged, replace=False).tolist())
    result = {
        "seconds_and_cpu": seconds,
        "throughput": round(min(seconds["embed"])[0] / min(seconds["beam"])[0], 2),
        "parts": len(ours),
        "vectors": len(theirs.ids),
        "same_bits": b"".join(part.vectors.tobytes() for part in ours) == theirs.vectors.tobytes(),
        "same_ids": [item for part in ours for item in part.ids.tolist()] == theirs.ids.tolist(),
        "same_digests": b"".join(part.digests.tobytes() for part in ours) == theirs.digests.tobytes(),
        "left_out": len(bad),
        "named_by_row": {item["row"] - 1 for item in bad} == expected,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
