"""Measure an index of part files: the time to open it, a first query under new weights, the next, and the memory.

    python benchmarks/parts.py --items=10_000_000 --folder=/tmp/parts

Writes made-up items of 64 numbers once, a million to a part, then opens them in a new process. The hits are compared
with a float64 scan.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import csn_jax
from csn_jax.runtime.record import Condition
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.int8 import rounded
from csn_jax.store.vector_file import write_embeddings

WIDTH, PART = 64, 1_000_000


def write(folder: Path, items: int, dtype: str) -> None:
    """Parts of random items in clumps, under two masks that overlap. Those that exist are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    masks, centres = np.maximum(rng.normal(0.9, 0.7, (2, WIDTH)), 0), rng.normal(size=(200, WIDTH))
    n_parts = -(-items // PART)
    for number in range(n_parts):
        path = folder / f"part-{number:05}-of-{n_parts:05}.arrow"
        rng, n = np.random.default_rng(number), min(PART, items - number * PART)
        if path.exists():
            continue
        vectors, scale = (centres[rng.integers(0, 200, n)] + rng.normal(0, 0.5, (n, WIDTH))).astype(np.float32), None
        if dtype == "int8":
            vectors, scale = rounded(vectors)
        embeddings = Embeddings(
            ids=np.array([f"item-{number * PART + i:09}" for i in range(n)], object),
            vectors=vectors if dtype == "int8" else vectors.astype(dtype),
            columns={"colour": rng.choice(["red", "green", "blue", ""], n).astype(object)},
            conditions=(Condition("a", "categorical"), Condition("b", "categorical")),
            masks=masks.astype(np.float32),
            model_sha256="made up",
            pictures={},
            scale=scale,
        )
        write_embeddings(path, embeddings)


def timed(work):
    """(what work returns, [seconds, seconds of processor time of all threads])."""
    began, used = time.perf_counter(), time.process_time()
    result = work()
    return result, [round(time.perf_counter() - began, 2), round(time.process_time() - used, 2)]


def high_water() -> float:
    """The most memory that this process held, in GB, mapped files included. `ru_maxrss` would start at that of the
    process which started this one."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e6


def measure(folder: Path, scan: bool) -> dict:
    """The figures of this process, and whether the hits are those of a float64 scan."""
    before = high_water()
    index, opening = timed(lambda: csn_jax.Index.open(folder))
    query, seconds = np.random.default_rng(9).normal(size=(1, WIDTH)), {"open": opening}
    mixtures = ({"a": 1.0}, {"a": 1.0, "b": 0.5}, {"a": 1.0, "b": -0.2})
    found = []
    for name, mixture in zip(
        ("first of all", "first of new weights", "first, a negative weight"), mixtures, strict=True
    ):
        hits, seconds[name] = timed(lambda mixture=mixture: index.nearest(query, mixture, 10))
        found.append(hits)
    again = [timed(lambda: index.nearest(query, mixtures[1], 10))[1] for _ in range(5)]
    seconds["next, median of 5"] = sorted(again)[2]
    _, seconds["next, filtered"] = timed(lambda: index.nearest(query, mixtures[1], 10, filters={"colour": "red"}))
    row, seconds["id to row"] = timed(lambda: index.row(str(index.ids[len(index) - 1])))
    figures = {"items": len(index), "seconds_and_cpu": seconds}
    figures |= {"gb_before": round(before, 2), "gb_at_most": round(high_water(), 2)}
    figures["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
    if scan:
        figures["equals_float64_scan"] = row == len(index) - 1 and all(
            naive(index, query, mixture).tolist() == rows[0].tolist()
            for mixture, (rows, _) in zip(mixtures, found, strict=True)
        )
    return figures


def naive(index: csn_jax.Index, query: np.ndarray, mixture: dict[str, float]) -> np.ndarray:
    w, squares = index.weight(mixture), np.empty(len(index))
    for start in range(0, len(index), 1 << 16):
        piece = index.vectors[start : start + (1 << 16)].astype(np.float64)
        squares[start : start + len(piece)] = np.sum(w * np.square(query - piece), axis=1)
    return np.lexsort((np.arange(len(squares)), squares))[:10]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("parts"))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dtype", choices=("float16", "int8", "float32"), default="float16")
    parser.add_argument("--scan", action="store_true", help="compare with a float64 scan")
    parser.add_argument("--measure", action="store_true", help="do not write anything, measure in this process")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.folder, args.scan)))
        return
    write(args.folder, args.items, args.dtype)
    words = [f"--folder={args.folder}", "--measure", *["--scan"] * args.scan]
    subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
