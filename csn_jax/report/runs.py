"""Finished runs read side by side: which of them share a test, and which differ in their seed alone."""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from csn_jax.config import VARIANTS
from csn_jax.errors import UserError
from csn_jax.model.run import Run, open_run
from csn_jax.runtime.record import Record, Results

# Settings that change no result, or whose effect the digests in data.json tell.
SILENT = ("seed", "variant", "feed", "log_every", "checkpoint_every", "data")


class Finished(NamedTuple):
    """A finished run. name: its folder as the user gave it."""

    name: str
    run: Run
    results: Results


class Row(NamedTuple):
    """Runs that differ in their seed alone, in its order.

    label: the variant, with what else sets it apart from the other rows.
    series: the label without the number of training triplets.
    """

    label: str
    series: str
    runs: tuple[Finished, ...]

    @property
    def triplets(self) -> int:
        """Training triplets, of all conditions together."""
        return self.runs[0].run.record.triplets["train"]


class Section(NamedTuple):
    """Rows measured on the same test: the same items and labels, split and triplets. Only these share a table."""

    conditions: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def record(self) -> Record:
        """What data.json says of the data, which is true of all rows but for their training triplets."""
        return self.rows[0].runs[0].run.record


class Summary(NamedTuple):
    """A figure over the seeds of a row: mean, with the sample standard deviation of several or the interval of one."""

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    seeds: int


def read_run(name: str) -> Finished | None:
    """A run from its folder, or None if it is not finished.

    Raises:
        UserError: when the folder is not a workdir, or a file in it is damaged.
    """
    if not Path(name).expanduser().is_dir():
        raise UserError(f"{name} is not a folder; give workdirs of csn_jax.train.")
    run = open_run(name)
    if run.results is None:
        return None
    finished = Finished(name, run, run.results)
    try:
        test_of(finished)
    except (KeyError, TypeError):
        raise UserError(
            f"{run.workdir / 'data.json'} is damaged (a field is missing or of another type); restore it from a copy."
        ) from None
    return finished


def test_of(finished: Finished) -> tuple[Any, ...]:
    """What two runs share that were measured on the same test."""
    results, record = finished.results, finished.run.record
    return results.conditions, results.split, record.items_sha256, record.triplets_sha256[results.split]


def summarise(row: Row, measure: str, condition: str) -> Summary:
    """One figure over the seeds of a row."""
    found = [finished.results.figure(condition, measure) for finished in row.runs]
    values = [figure.value for figure in found]
    if len(values) == 1:
        return Summary(values[0], None, (found[0].low, found[0].high), 1)
    return Summary(statistics.fmean(values), statistics.stdev(values), None, len(values))


def arrange(runs: Sequence[Finished]) -> list[Section]:
    """Runs as sections of rows: variants in the paper's order, fewer training triplets first.

    Raises:
        UserError: when two are the same run, as a deviation over copies would be a lie.
    """
    tests: dict[tuple[Any, ...], list[Finished]] = {}
    for run in runs:
        tests.setdefault(test_of(run), []).append(run)
    return [Section(test[0], tuple(_rows(those))) for test, those in tests.items()]


def _rows(runs: Sequence[Finished]) -> list[Row]:
    alike: dict[str, list[Finished]] = {}
    for run in runs:
        alike.setdefault(json.dumps([run.run.config.variant, _settings(run)], sort_keys=True), []).append(run)
    for those in alike.values():
        those.sort(key=lambda finished: finished.run.config.seed)
        for one, other in zip(those, those[1:], strict=False):
            if one.run.config.seed == other.run.config.seed:
                raise UserError(
                    f"{one.name} and {other.name} are the same run, seed {one.run.config.seed} of the same config on "
                    "the same data; give one of them."
                )
    settings = [_settings(those[0]) for those in alike.values()]
    names = {name for found in settings for name in found}
    differ = [name for name in sorted(names) if len({json.dumps(found.get(name)) for found in settings}) > 1]
    numbers = {found["training triplets"] for found in settings}
    if len(numbers) == len({found["which training triplets"] for found in settings}):
        differ = [name for name in differ if name != "which training triplets"]  # their number tells them apart
    rows = []
    for those, found in zip(alike.values(), settings, strict=True):
        label = [those[0].run.config.variant, *(_told(name, found[name]) for name in differ)]
        series = [word for word in label if not word.endswith(" training triplets")]
        rows.append(Row(", ".join(label), ", ".join(series), tuple(those)))
    rows.sort(key=lambda row: (VARIANTS.index(row.runs[0].run.config.variant), row.series, row.triplets, row.label))
    return rows


def _settings(finished: Finished) -> dict[str, Any]:
    """All that may make a run better or worse but for variant and seed, flat, by its name in the config."""
    found: dict[str, Any] = {}
    for name, value in dataclasses.asdict(finished.run.config).items():
        if name not in SILENT:
            found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    found["training triplets"] = finished.run.record.triplets["train"]
    found["which training triplets"] = finished.run.record.triplets_sha256["train"][:8]
    found["which validation triplets"] = finished.run.record.triplets_sha256["validation"][:8]
    return found


def _told(name: str, value: Any) -> str:
    if name == "training triplets":
        return f"{value:,} training triplets"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{name} {value:,}"
    return f"{name} {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"


def curve(finished: Finished, metric: str) -> tuple[list[int], list[float]]:
    """(steps, values) of `validation/triplet_error/overall` or `train/loss` in metrics.jsonl.

    Of specialists, at the steps that all of them have: the error over all their validation triplets, the mean loss.

    Raises:
        UserError: when the log is damaged.
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
            if metric in entry:
                steps.append(int(entry["step"]))
                values.append(float(entry[metric]))
    except FileNotFoundError:
        pass  # a run that was not trained here, as an adapted one
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy.") from None
    kept = [i for i, value in enumerate(values) if math.isfinite(value)]
    return [steps[i] for i in kept], [values[i] for i in kept]
