"""Measure search under two conditions at once: how many of the ten nearest share both values with the query?

    python experiments/mixtures.py --index=test.parquet --conditions category colour

Prints JSON: for each pair of conditions, the precision at 10 of their mixture, of each condition alone, and by chance.
The queries are up to 1,000 items with both values known, drawn with a fixed seed. The gallery is all other items.
"""

import argparse
import itertools
import json

import numpy as np

import csn_jax
from csn_jax.evaluate.retrieval import sample

K, QUERIES = 10, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--index", required=True, help="a file of csn_jax.embed, with the attributes as columns")
    parser.add_argument("--conditions", nargs="+", required=True)
    args = parser.parse_args()
    index = csn_jax.Index.open(args.index)
    pairs = itertools.combinations(args.conditions, 2)
    print(json.dumps({"precision@10": {f"{a} and {b}": precisions(index, a, b) for a, b in pairs}}, indent=2))


def precisions(index: csn_jax.Index, a: str, b: str) -> dict[str, float]:
    """{distance: precision@10}. An item is right if it has both values of the query."""
    values = np.array([index.columns[a], index.columns[b]])  # [2, N]
    known = (values != "").all(axis=0)
    _, both = np.unique(values, axis=1, return_inverse=True)  # one code per pair of values
    both = np.where(known, both.ravel(), -1)
    queries = sample(np.flatnonzero(known), QUERIES)
    precision = {}
    for name, weights in {"mixture": {a: 1.0, b: 1.0}, a: {a: 1.0}, b: {b: 1.0}}.items():
        rows, _ = index.nearest(index.vectors[queries], weights, K, exclude=queries)
        precision[name] = float(np.mean(both[rows] == both[queries][:, None]))
    right = np.bincount(both[known])[both[queries]] - 1  # per query, among all other items
    return precision | {"chance": float(np.mean(right)) / (len(both) - 1)}


if __name__ == "__main__":
    main()
