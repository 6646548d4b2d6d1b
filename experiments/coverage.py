"""How often the 95 % intervals of an evaluation hold the true value: a simulation, printed as the table of
docs/RELIABILITY.md.

    python experiments/coverage.py

Each row is a measure and a number of groups: anchors with 1 to 9 triplets, whose errors are independent or cluster; or
queries. Each column is a true error.
"""

import argparse
from collections.abc import Callable

import numpy as np

from csn_jax.evaluate.bootstrap import interval_of_difference, intervals
from csn_jax.evaluate.triplet_error import interval

GROUPS = (20, 31, 40, 60, 100, 200, 500)
ERRORS = (0.01, 0.03, 0.1, 0.2, 0.3)
Drawn = tuple[np.ndarray, float]  # an interval, and the true value
Draw = Callable[[np.random.Generator, int, float], Drawn]


def _triplets(rng: np.random.Generator, n: int, error: float, likeness: float) -> tuple[np.ndarray, np.ndarray]:
    """(wrong, anchor) of triplets of n anchors. likeness: the correlation of two triplets of one anchor."""
    strength = (1 - likeness) / likeness if likeness else np.inf
    rates = rng.beta(error * strength, (1 - error) * strength, n) if likeness else np.full(n, error)
    anchor = np.repeat(np.arange(n), rng.integers(1, 10, n))
    return rng.random(len(anchor)) < rates[anchor], anchor


def _error(likeness: float) -> Draw:
    return lambda rng, n, error: (np.array(interval(*_triplets(rng, n, error, likeness))), error)


def _retrieval(rng: np.random.Generator, n: int, error: float) -> Drawn:
    """Recall@1 and off-task top-1: right or wrong per query."""
    return intervals((rng.random(n) >= error)[None].astype(float), np.ones(n))[0], 1 - error


def _leakage(rng: np.random.Generator, n: int, error: float) -> Drawn:
    """Accuracy above chance, which differs between queries."""
    chance = rng.choice([0.05, 0.1, 0.3], n)
    right = (rng.random(n) >= error).astype(float)
    return intervals((right - chance)[None], np.ones(n), least=-chance)[0], 0.85 - error


def _difference(rng: np.random.Generator, n: int, error: float) -> Drawn:
    """Two models' errors on the same triplets: one loses `error`, and gains a third of that elsewhere."""
    lost, anchor = _triplets(rng, n, error * 4 / 3, 0.1)
    net = lost * np.where(rng.random(len(lost)) < 0.75, 1.0, -1.0)
    return interval_of_difference(np.bincount(anchor, net), np.bincount(anchor)), error * 2 / 3


MEASURES: dict[str, Draw] = {
    "triplet error, independent": _error(0),
    "triplet error, correlation 0.1 within an anchor": _error(0.1),
    "triplet error, correlation 0.3 within an anchor": _error(0.3),
    "recall@1, off-task top-1": _retrieval,
    "leakage": _leakage,
    "difference of two models": _difference,
}


def coverage(draw: Draw, n: int, error: float, times: int, seed: int = 0) -> float:
    """The share of intervals that hold the true value."""
    rng, held = np.random.default_rng(seed), 0
    for _ in range(times):
        (low, high), true = draw(rng, n, error)
        held += low <= true <= high
    return held / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--times", type=int, default=1_000, help="intervals per cell")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS)
    args = parser.parse_args()
    print("| measure | groups | " + " | ".join(f"{error:.0%}" for error in ERRORS) + " |")
    print("|---|---:|" + "---:|" * len(ERRORS))
    for name, draw in MEASURES.items():
        for n in args.groups:
            cells = (f"{100 * coverage(draw, n, error, args.times):.1f}" for error in ERRORS)
            print(f"| {name} | {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
