"""Measure `csn_jax embed --update` against a fresh build of the same table, and compare their files.

    python benchmarks/update.py --rows=20000
    python benchmarks/update.py --rows=100000 --of=vectors

Draws JPEG files of 240 x 180, or vectors of 1,280 numbers, makes a network for them that is not trained, and embeds
them. Then 1 % of the rows change, 0.5 % are new and 0.5 % are gone; a first update follows. Then the table becomes what
it was: as many rows change, come and go again. The file of the second update must have the bytes of the first of all.
Prints the seconds of each command and of its processors, start included.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

COLOURS, WIDTH = ("red", "green", "blue"), 1280
QUICK = [f"--config.data.{split}_triplets=60" for split in ("train", "validation", "test")]
QUICK += ["--config.steps=1", "--config.batch_size=16", "--config.feed=device", "--config.data.conditions", "colour"]


def draw(folder: Path, name: str, seed: int) -> None:
    """A picture, unlike every other, with a time of its own: files of vectors note the times of pictures."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
    coarse.resize((240, 180), Image.Resampling.BICUBIC).save(folder / f"{name}.jpg", quality=85)
    os.utime(folder / f"{name}.jpg", (seed, seed))


def write(path: Path, names: list[str], seeds: np.ndarray, of_vectors: bool) -> None:
    """The table of some items, each with a seed that decides its colour and its vector."""
    colours = [COLOURS[seed % 3] for seed in seeds.tolist()]
    if not of_vectors:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("image", "colour"), *zip((f"{n}.jpg" for n in names), colours, strict=True)])
        return
    vectors = np.empty((len(names), WIDTH), np.float16)
    for row, seed in enumerate(seeds.tolist()):
        vectors[row] = np.random.default_rng(seed).standard_normal(WIDTH, np.float32)
    flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), WIDTH)
    pyarrow.parquet.write_table(pyarrow.table({"id": names, "colour": colours, "vector": flat}), path)


def timed(*arguments: str) -> tuple[float, float, str]:
    """(seconds, seconds of processors, output) of a command of csn_jax."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "csn_jax", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent, done.stdout


def measure(folder: Path, n: int, of_vectors: bool, backbone: str) -> dict:
    names, seeds = [f"{row:07}" for row in range(n)], np.arange(n)
    suffix = "parquet" if of_vectors else "csv"
    table, few, out = folder / f"items.{suffix}", folder / f"few.{suffix}", folder / "vectors.parquet"
    if not of_vectors:
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(draw, folder), names, seeds.tolist(), chunksize=500))
    write(few, names[:200], seeds[:200], of_vectors)
    flags = ["--config=features"] if of_vectors else ["--config=table", f"--config.backbone.name={backbone}"]
    flags += [] if of_vectors else ["--config.preprocess.size=112"]
    timed("train", *flags, *QUICK, f"--config.data.path={few}", f"--workdir={folder / 'run'}")
    embed = ["embed", f"--workdir={folder / 'run'}", f"--table={table}", f"--out={out}"]
    write(table, names, seeds, of_vectors)
    whole = timed(*embed)
    first = hashlib.sha256(out.read_bytes()).digest()

    rng = np.random.default_rng(0)
    kept = np.sort(rng.permutation(n)[n // 200 :])
    changed = rng.choice(len(kept), n // 100, replace=False)
    new_names = [names[row] for row in kept] + [f"new{row:07}" for row in range(n // 200)]
    new_seeds = np.concatenate([seeds[kept], np.arange(n, n + n // 200)])
    new_seeds[changed] += 2 * n
    touched = [*changed.tolist(), *range(len(kept), len(new_names))]
    for row in touched if not of_vectors else ():
        draw(folder, new_names[row], int(new_seeds[row]))
    write(table, new_names, new_seeds, of_vectors)
    there = timed(*embed, "--update")
    for row in kept[changed].tolist() if not of_vectors else ():
        draw(folder, names[row], int(seeds[row]))
    write(table, names, seeds, of_vectors)
    back = timed(*embed, "--update")
    return {
        "rows": n,
        "of": "vectors" if of_vectors else f"pictures, {backbone}",
        "updates": [re.search(r"\((.* kept).*\)", update[2])[1] for update in (there, back)],
        "seconds": [round(run[0], 1) for run in (there, back, whole)],
        "processor_seconds": [round(run[1], 1) for run in (there, back, whole)],
        "times_faster": [round(2 * whole[i] / (there[i] + back[i]), 1) for i in range(2)],
        "same_bytes": hashlib.sha256(out.read_bytes()).digest() == first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--of", choices=("pictures", "vectors"), default="pictures")
    parser.add_argument("--backbone", default="resnet18_csn")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="csn_jax_update_") as folder:
        report = measure(Path(folder), args.rows, args.of == "vectors", args.backbone)
    print(json.dumps(report))
    sys.exit(not report["same_bytes"])


if __name__ == "__main__":
    main()
