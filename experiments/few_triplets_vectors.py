"""Measure a new condition that csn_jax adapt learns from k triplets, on a run of vectors that was trained without it.

    python experiments/few_triplets_vectors.py --workdir=RUN --condition=usage

Prints JSON with the errors on the test triplets: of the raw vectors; for each k, of what was learned from k training
triplets, in five random draws; and of what was learned from all labels.
"""

import argparse
import json
from pathlib import Path

from few_triplets import sample

from csn_jax.adapt.forms import take
from csn_jax.adapt.labels import from_run
from csn_jax.adapt.lesson import Lesson
from csn_jax.adapt.report import learn
from csn_jax.model.run import open_run

COUNTS, DRAWS = (30, 100, 300, 1_000), 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--condition", required=True, help="an attribute of the run's data that was not a condition")
    parser.add_argument("--tiny", action="store_true", help="one draw of 30 triplets")
    args = parser.parse_args()
    run = open_run(args.workdir)
    model = run.model()
    lesson = from_run(run, model, args.condition, None)._replace(own=None)  # only the new condition is measured
    whole = learn(lesson, run, model).report
    raw = whole["unmasked"] if model.maps else whole["raw"]
    of_triplets, forms = {}, {}
    for k in COUNTS[:1] if args.tiny else COUNTS:
        reports = [learn(few(lesson, k, draw), run, model).report for draw in range(1 if args.tiny else DRAWS)]
        of_triplets[k] = [report["triplet_error"] for report in reports]
        forms[k] = [report["form"] for report in reports]
    errors = {"raw": raw["triplet_error"], "all_labels": whole["triplet_error"], "of_triplets": of_triplets}
    print(json.dumps(errors | {"forms": forms}, indent=2))


def few(lesson: Lesson, k: int, draw: int) -> Lesson:
    """The lesson from k of its training triplets, as if people had given them."""
    train = lesson.triplets["train"]
    chosen = sample(train.anchor, k, draw)
    triplets = {"train": take(train, chosen), "test": lesson.triplets["test"]}
    groups = {"train": lesson.groups["train"][chosen], "test": lesson.groups["test"]}
    return lesson._replace(triplets=triplets, groups=groups, n_values=0)


if __name__ == "__main__":
    main()
