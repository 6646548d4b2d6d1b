"""Measure a new condition learned from k triplets, on the frozen embedding of a run that was trained without it.

    python experiments/few_triplets.py --workdir=RUN --condition=usage

Prints JSON with the errors on the test triplets: for each k, of masks learned from k training triplets, in 20 random
draws; of no mask; and of a mask learned from all labels.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from csn_jax.adapt import fit as new_mask
from csn_jax.adapt.labels import from_run
from csn_jax.data.triplets import Triplets
from csn_jax.model.run import open_run

COUNTS, DRAWS, LEAST_ANCHORS = (10, 30, 100, 300, 1_000), 20, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--condition", required=True, help="an attribute of the run's data that was not a condition")
    args = parser.parse_args()
    run = open_run(args.workdir)
    lesson = from_run(run, run.model(), args.condition, None)
    vectors = lesson.items.embed(np.arange(len(lesson.items.ids)))
    gains = {split: new_mask.gains(vectors, *triplets[:3]) for split, triplets in lesson.triplets.items()}

    def error(weights: np.ndarray) -> float:
        return float(new_mask.wrong(weights, gains["test"]).mean())

    train = lesson.triplets["train"]
    whole, _ = new_mask.learn(gains["train"], train.anchor, gains["validation"])
    of_triplets = {
        k: [error(learned(gains["train"], train, k, draw)) for draw in range(DRAWS)]
        for k in COUNTS
        if k <= len(train[0])
    }
    report = {"unmasked": error(np.ones(vectors.shape[1])), "all_labels": error(whole), "of_triplets": of_triplets}
    print(json.dumps(report, indent=2))


def learned(gain: np.ndarray, triplets: Triplets, k: int, draw: int) -> np.ndarray:
    """Weights [D] learned from k triplets with gains [T, D], as csn_jax.adapt learns them from people's triplets."""
    chosen = sample(triplets.anchor, k, draw)
    return new_mask.learn(gain[chosen], triplets.anchor[chosen])[0]


def sample(anchor: np.ndarray, k: int, draw: int) -> np.ndarray:
    """The positions of k triplets with enough different anchors [T], drawn at random."""
    rng = np.random.default_rng((k, draw))
    while len(np.unique(anchor[chosen := rng.choice(len(anchor), k, replace=False)])) < LEAST_ANCHORS:
        pass
    return chosen


if __name__ == "__main__":
    main()
