"""Measure a trained model on one split: triplet errors and retrieval, exact and with 95 % intervals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from csn_jax import cli

if TYPE_CHECKING:
    import numpy as np

    from csn_jax.data.dataset import Dataset
    from csn_jax.model.model import Model


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax.train."""
    split: Literal["train", "validation", "test"] = "test"
    """Which items to measure on."""
    full: bool = False
    """Retrieval by every query however many, and besides: what else each condition's space tells (leakage), and what a
    linear probe on the embeddings tells of labels that are no condition (off-task)."""
    against: str = ""
    """The folder of another run on the same data: tells besides how much higher its error is on the same triplets, with
    an interval of that difference, which overlapping intervals of the two errors hide."""
    json: bool = False
    """Print the results as JSON instead of a table."""
    distributed: str = ""
    """Be one of several processes that share the embedding of the items; as in csn_jax.train."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, "python -m csn_jax.evaluate")

    from csn_jax.runtime.hosts import is_first, joined

    with joined(args.distributed):
        results = _measure(args)
        if is_first():
            print(json.dumps(results, indent=2) if args.json else cli.results_table(results))


def _measure(args: Args) -> dict[str, Any]:
    from csn_jax.data.dataset import load_dataset
    from csn_jax.model.model import load
    from csn_jax.runtime.hosts import first_of_all
    from csn_jax.runtime.workdir import check_record, read_config, read_record
    from csn_jax.train.loop import evaluate

    workdir = Path(args.workdir).expanduser()
    model = load(workdir)
    config = read_config(workdir)
    dataset = first_of_all(lambda: load_dataset(config))
    check_record(workdir, dataset.record)
    n = len(dataset.items.conditions)  # behind these come what csn_jax.adapt learned from other data
    model = model.with_masks(model.conditions[:n], model.masks[:n])
    results, embeddings = evaluate(model, dataset, args.split, config.variant, args.full)
    if adapted := read_record(workdir).get("adapted"):
        results["adapted"] = adapted
    if args.against:
        results["against"] = {"workdir": args.against} | _against(args, model, embeddings, dataset)
    return results


def _against(args: Args, model: "Model", embeddings: "np.ndarray", dataset: "Dataset") -> dict[str, Any]:
    """The other run's error less this one's, on the same triplets."""
    from csn_jax.evaluate.triplet_error import difference, wrong_triplets
    from csn_jax.model.model import load
    from csn_jax.runtime.workdir import check_record

    other = load(args.against)
    check_record(Path(args.against).expanduser(), dataset.record)
    triplets = dataset.triplets[args.split]
    others = other.embed_rows(dataset.items.inputs, dataset.rows(args.split))
    wrong, wrong_there = (
        wrong_triplets(vectors, masks, triplets)
        for vectors, masks in ((embeddings, model.masks), (others, other.masks))
    )
    return difference(wrong, wrong_there, dataset.items, triplets)
