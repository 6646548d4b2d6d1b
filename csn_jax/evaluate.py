"""Measure a trained model on one split: triplet errors and retrieval, exact and with 95 % intervals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from csn_jax import cli


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax.train."""
    split: Literal["train", "validation", "test"] = "test"
    """Which items to measure on."""
    full: bool = False
    """Retrieval by every query however many, and besides: what else each condition's space tells (leakage), and what a
    linear probe on the embeddings tells of labels that are no condition (off-task)."""
    json: bool = False
    """Print the results as JSON instead of a table."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, "python -m csn_jax.evaluate")

    from csn_jax.data.dataset import load_dataset
    from csn_jax.loop import evaluate
    from csn_jax.model import load
    from csn_jax.runtime.workdir import check_record, read_config, read_record

    workdir = Path(args.workdir)
    model = load(workdir)
    config = read_config(workdir)
    dataset = load_dataset(config)
    check_record(workdir, dataset.record)
    n = len(dataset.items.conditions)  # behind these come what csn_jax.adapt learned from other data
    results, _ = evaluate(
        model.with_masks(model.conditions[:n], model.masks[:n]), dataset, args.split, config.variant, args.full
    )
    if adapted := read_record(workdir).get("adapted"):
        results["adapted"] = adapted
    print(json.dumps(results, indent=2) if args.json else cli.results_table(results))


if __name__ == "__main__":
    cli.run(main)
