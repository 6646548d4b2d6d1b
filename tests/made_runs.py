"""Finished runs without a training, for reports."""

import dataclasses
from pathlib import Path

from csn_jax.config import Config
from csn_jax.model.run import Run
from csn_jax.report.runs import Finished
from csn_jax.runtime.record import Record, Results

NAMES = ("shape", "colour")


def make_run(
    name: str, config: Config, errors=(0.1, 0.3), data="d", train=(2000, "t"), names=NAMES, **more
) -> Finished:
    """A run as it would be read, with errors by condition."""
    overall = sum(errors) / len(errors)
    by = dict(zip(names, errors, strict=True))
    around = lambda value: [value - 0.01, value + 0.02]  # noqa: E731
    results = {
        "variant": config.variant,
        "conditions": list(names),
        "split": "test",
        "step": 7,
        "triplet_error": {"overall": overall, "by_condition": by},
        "ci95": {"overall": around(overall), "by_condition": {k: around(v) for k, v in by.items()}},
        "n_triplets": {"overall": 1000, "by_condition": dict.fromkeys(by, 500)},
    }
    record = {
        "source": "table",
        "conditions": [{"name": condition, "kind": "categorical"} for condition in names],
        "input_shape": [8, 8, 1],
        "items": {"train": 70, "validation": 10, "test": 20},
        "triplets": {"train": train[0], "validation": 100, "test": 1000},
        "items_sha256": data * 64,
        "triplets_sha256": {"train": train[1] * 64, "validation": "v" * 64, "test": "e" * 64},
    }
    results = Results.from_object(results | more)
    return Finished(name, Run(Path("nowhere") / name, config, Record.from_object(record), results, ()), results)


def config(variant: str, seed: int = 0, **changes) -> Config:
    return dataclasses.replace(Config(), variant=variant, seed=seed, **changes)
