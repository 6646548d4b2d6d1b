"""Measure the rate of tf.data over a memory map that is larger than memory.

    python benchmarks/larger_than_memory.py --gigabytes=8
    systemd-run --scope -p MemoryMax=3G python benchmarks/larger_than_memory.py --gigabytes=8

Reads rows of 112 x 112 grey pixels in random order, as training does. The first command measures with memory to spare,
the second with less memory than the file needs.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import jax
import numpy as np

from csn_jax.core.steps import Batch
from csn_jax.runtime.sharding import make_shardings
from csn_jax.train import tf_feed

SIDE, TRIPLETS = 112, 256


def write(path, rows):
    """A memory map of random pixels. Reuses the file if it exists."""
    if not path.exists():
        piece = np.random.default_rng(0).integers(0, 256, (8192, SIDE, SIDE, 1), np.uint8)
        file = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, SIDE, SIDE, 1))
        for start in range(0, rows, len(piece)):
            file[start : start + len(piece)] = piece[: rows - start]
        file.flush()
    return np.load(path, mmap_mode="r")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--file", type=Path, default=Path("larger_than_memory.npy"))
    parser.add_argument("--gigabytes", type=float, default=8)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--page_faults", action="store_true", help="do not request rows ahead of time")
    args = parser.parse_args()
    if args.page_faults:
        tf_feed.read_ahead = lambda *_: None
    rows = int(args.gigabytes * 1e9 / SIDE**2)
    pixels = write(args.file, rows)

    def batch_at(step):
        anchor, positive, negative = np.random.default_rng(step).integers(0, rows, (3, TRIPLETS), np.int32)
        return Batch(anchor, positive, negative, np.zeros(TRIPLETS, np.int32), np.ones(TRIPLETS, bool))

    feed = tf_feed.tf_feed(pixels, batch_at, 0, 1 << 30, make_shardings().batch)
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        for batch in itertools.islice(feed, args.batches // 5):
            jax.block_until_ready(batch.anchor)
        rates.append(round(args.batches // 5 * 3 * TRIPLETS / (time.perf_counter() - began)))
    print(json.dumps({"gigabytes": args.gigabytes, "images_per_second": rates}))


if __name__ == "__main__":
    main()
