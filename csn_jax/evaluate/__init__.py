"""Measure a trained model: triplet error and retrieval by condition.

    csn_jax evaluate runs/quickstart
    csn_jax evaluate runs/quickstart --against=runs/standard --full

All figures are exact counts over one split, with 95 % intervals.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from csn_jax import cli
from csn_jax.cli.flags import Place

if TYPE_CHECKING:
    from csn_jax.runtime.record import Results


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax train."""
    split: Literal["train", "validation", "test"] = "test"
    """Which items to measure on."""
    full: bool = False
    """Ask all queries in retrieval instead of a sample. Also measure which other attributes each condition's space
    reveals (leakage), and what a linear probe predicts of labels that are not conditions (off-task)."""
    ladder: bool = False
    """Also print, per condition, intervals and retrieval of raw vectors, four examples per value and a linear probe
    beside the run. On images, these are measured on the features before the network's last layer."""
    against: str = ""
    """The folder of another run on the same data. Also print how much higher its error is on the same triplets, with a
    95 % interval of the difference, which overlapping intervals of the two errors would hide."""
    json: bool = False
    """Print the results as JSON instead of a table."""
    data: Place = field(default_factory=Place)
    distributed: str = ""
    """Share the embedding of the items among several processes, as in csn_jax train."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, positional=True)

    from csn_jax.evaluate.table import results_table
    from csn_jax.runtime.hosts import is_first, joined
    from csn_jax.runtime.writer import next_step

    with joined(args.distributed):
        results = _measure(args)
        if is_first():
            print(json.dumps(results.as_object(), indent=2) if args.json else results_table(results, args.ladder))
        next_step("report", args.workdir, *([args.against] if args.against else []), "--out=report")


def _measure(args: Args) -> "Results":
    from csn_jax.evaluate.measure import measure
    from csn_jax.evaluate.triplet_error import difference, wrong_triplets
    from csn_jax.model.run import open_run

    run = open_run(args.workdir, args.data.path)
    model, dataset = run.model(), run.dataset()
    n = len(dataset.items.conditions)  # behind these come what csn_jax.adapt learned from other data
    model = model.with_masks(model.conditions[:n], model.masks[:n])
    results, embeddings = measure(model, dataset, args.split, run.config.variant, args.full, args.ladder or None)
    results = replace(results, adapted=run.record.adapted)
    if not args.against:
        return results
    run = open_run(args.against)
    other = run.model()
    run.record.check(dataset.record, run.workdir)
    triplets = dataset.triplets[args.split]
    others = other.view_rows(dataset.items.inputs, dataset.rows(args.split))
    wrong = wrong_triplets(embeddings, model.masks, triplets)
    wrong_there = wrong_triplets(others, other.masks, triplets)
    more = difference(wrong, wrong_there, dataset.items, triplets)
    return replace(results, against={"workdir": args.against} | more)
