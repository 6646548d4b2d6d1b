"""Finished runs side by side: which share a test, and which differ in nothing but their seed."""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from csn_jax.config import VARIANTS, Config
from csn_jax.errors import UserError
from csn_jax.model.run import Run, open_run
from csn_jax.runtime.record import Record, Results

# Settings that change no result, or whose effect the digests in data.json show.
SILENT = ("seed", "variant", "feed", "log_every", "checkpoint_every", "data")


class Finished(NamedTuple):
    """A finished run. name: its folder as the user gave it."""

    name: str
    run: Run
    results: Results

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def record(self) -> Record:
        return self.run.record


class Row(NamedTuple):
    """Runs that differ in nothing but their seed, in its order.

    label: the variant, and what else sets it apart from the other rows.
    series: the label without the number of training triplets.
    """

    label: str
    series: str
    runs: tuple[Finished, ...]

    @property
    def triplets(self) -> int:
        """Training triplets of all conditions together."""
        return self.runs[0].record.triplets["train"]


class Section(NamedTuple):
    """Rows measured on the same test: the same items and labels, split and triplets. Only these share a table."""

    conditions: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def record(self) -> Record:
        """The record of the data. All rows share it, except for their training triplets."""
        return self.rows[0].runs[0].record


class Summary(NamedTuple):
    """A figure over the seeds of a row: the mean, with the sample standard deviation or a single run's interval."""

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    seeds: int


def read_finished(names: Sequence[str]) -> tuple[list[Finished], list[str]]:
    """The finished ones of some runs, and the names of the others; a UserError as in `read_run`, or when no run is
    finished."""
    runs = {name: read_run(name) for name in dict.fromkeys(names)}
    unfinished = [name for name, finished in runs.items() if finished is None]
    if len(unfinished) == len(runs):
        raise UserError(f"none of these runs is finished ({', '.join(unfinished)}); train them to the end first.")
    return [finished for finished in runs.values() if finished], unfinished


def read_run(name: str) -> Finished | None:
    """A run from its folder, or None if it is not finished; a UserError when the folder is not a workdir, or a file in
    it is damaged."""
    if not Path(name).expanduser().is_dir():
        raise UserError(f"{name} is not a folder; give workdirs of csn_jax train.")
    run = open_run(name)
    if run.results is None:
        return None
    finished = Finished(name, run, run.results)
    try:
        test_of(finished)
    except (KeyError, TypeError):
        problem = "a field is missing or of another type"
        raise UserError(f"{run.workdir / 'data.json'} is damaged ({problem}); restore it from a copy.") from None
    return finished


def test_of(finished: Finished) -> tuple[Any, ...]:
    """What is equal in two runs that were measured on the same test."""
    results, record = finished.results, finished.record
    return results.conditions, results.split, record.items_sha256, record.triplets_sha256[results.split]


def summarise(row: Row, measure: str, condition: str) -> Summary:
    """One figure over the seeds of a row."""
    figures = [finished.results.figure(condition, measure) for finished in row.runs]
    if len(figures) == 1:
        return Summary(figures[0].value, None, (figures[0].low, figures[0].high), 1)
    values = [figure.value for figure in figures]
    return Summary(statistics.fmean(values), statistics.stdev(values), None, len(values))


def arrange(runs: Sequence[Finished]) -> list[Section]:
    """Runs as sections of rows: variants in the paper's order, fewer training triplets first; a UserError when two are
    the same run, since a deviation over copies would be wrong."""
    tests: dict[tuple[Any, ...], list[Finished]] = {}
    for finished in runs:
        tests.setdefault(test_of(finished), []).append(finished)
    return [Section(test[0], tuple(_rows(group))) for test, group in tests.items()]


def _rows(runs: Sequence[Finished]) -> list[Row]:
    groups: dict[str, list[Finished]] = {}
    for finished in runs:
        key = json.dumps([finished.config.variant, _settings(finished)], sort_keys=True)
        groups.setdefault(key, []).append(finished)
    for group in groups.values():
        group.sort(key=lambda finished: finished.config.seed)
        for first, second in pairwise(group):
            if first.config.seed == second.config.seed:
                same = f"seed {first.config.seed} of the same config on the same data"
                raise UserError(f"{first.name} and {second.name} are the same run, {same}; give one of them.")
    settings = [_settings(group[0]) for group in groups.values()]
    names = {name for values in settings for name in values}
    differ = [name for name in sorted(names) if len({json.dumps(values.get(name)) for values in settings}) > 1]
    numbers = {values["training triplets"] for values in settings}
    if len(numbers) == len({values["which training triplets"] for values in settings}):
        differ = [name for name in differ if name != "which training triplets"]  # their number tells them apart
    rows = []
    for group, values in zip(groups.values(), settings, strict=True):
        label = [group[0].config.variant, *(_words(name, values[name]) for name in differ)]
        series = [words for words in label if not words.endswith(" training triplets")]
        rows.append(Row(", ".join(label), ", ".join(series), tuple(group)))
    rows.sort(key=lambda row: (VARIANTS.index(row.runs[0].config.variant), row.series, row.triplets, row.label))
    return rows


def _settings(finished: Finished) -> dict[str, Any]:
    """All settings that may make a run better or worse, except variant and seed: flat, by their name in the config."""
    settings: dict[str, Any] = {}
    for name, value in dataclasses.asdict(finished.config).items():
        if name not in SILENT:
            settings |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    record = finished.record
    settings["training triplets"] = record.triplets["train"]
    settings["which training triplets"] = record.triplets_sha256["train"][:8]
    settings["which validation triplets"] = record.triplets_sha256["validation"][:8]
    return settings


def _words(name: str, value: Any) -> str:
    if name == "training triplets":
        return f"{value:,} training triplets"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{name} {value:,}"
    return f"{name} {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"


def curve(finished: Finished, metric: str) -> tuple[list[int], list[float]]:
    """(steps, values) of `validation/triplet_error/overall` or `train/loss` in metrics.jsonl; a UserError when it is
    damaged. For specialists, at the steps that all of them have: the error over all validation triplets, the mean loss.
    """
    run = finished.run
    if not run.specialists:
        return _read_curve(run.workdir / "metrics.jsonl", metric)
    parts, weights = [], []
    for specialist in run.specialists:
        steps, values = _read_curve(specialist.workdir / "metrics.jsonl", metric)
        parts.append(dict(zip(steps, values, strict=True)))
        weights.append(specialist.record.triplets["validation"] if metric.startswith("validation/") else 1)
    shared = sorted(set.intersection(*(set(part) for part in parts)))
    means = [sum(part[step] * w for part, w in zip(parts, weights, strict=True)) / sum(weights) for step in shared]
    return shared, means


def _read_curve(path: Path, metric: str) -> tuple[list[int], list[float]]:
    steps, values = [], []
    try:
        for line in path.read_bytes().splitlines():
            entry = json.loads(line)
            if metric in entry and math.isfinite(value := float(entry[metric])):
                steps.append(int(entry["step"]))
                values.append(value)
    except FileNotFoundError:
        pass  # the run was not trained here: it was adapted or imported
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy.") from None
    return steps, values
