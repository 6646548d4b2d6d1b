"""Reads the result files of runs and evaluates them: means with intervals, and whether a claim holds."""

import json
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import scipy.stats
from plan import FEW, SEEDS, Places


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{100 * self.mean:.2f}"
        return f"{100 * self.mean:.2f} ({100 * self.low:.2f} to {100 * self.high:.2f})"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's 95 % interval. One value has no interval (NaN)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """The differences a - b, seed by seed."""
    return [x - y for x, y in zip(a, b, strict=True)]


def verdict(gaps: Sequence[float]) -> tuple[str, Estimate]:
    """(verdict, mean difference) of a claim. gaps: differences seed by seed, above 0 in favour of the claim."""
    gap = estimate(gaps)
    word = "holds" if gap.low > 0 else "the reverse holds" if gap.high < 0 else "is not settled"
    return word, gap


class Runs:
    """Reads the files of runs, and records which files it read."""

    def __init__(self, places: Places):
        self.places = places
        self.seeds, self.few = ((0,), (0,)) if places.tiny else (SEEDS, FEW)
        self.read: set[str] = set()

    def results(self, name: str, file: str = "results.json") -> dict:
        """The JSON of a result file of a run."""
        return json.loads(self._text(f"{name}/{file}"))

    def took(self, name: str, verb: str = "train") -> dict:
        """The flags, seconds and machine of a command of a run."""
        return json.loads(self._text(f"{name}/took.json"))[verb]

    def log(self, name: str) -> list[dict]:
        """The entries of a run's metrics.jsonl."""
        return [json.loads(line) for line in self._text(f"{name}/metrics.jsonl").splitlines()]

    def _text(self, path: str) -> str:
        self.read.add(path)
        return (self.places.runs / path).read_text()

    def errors(self, name: str, seeds: Sequence[int], condition: str = "overall") -> list[float]:
        """The triplet error of each seed of a setting."""
        errors = [self.results(f"{name}_{seed}")["triplet_error"] for seed in seeds]
        return [error["overall"] if condition == "overall" else error["by_condition"][condition] for error in errors]


def count(seeds: Sequence[int]) -> str:
    """The number of seeds in words, such as "3 seeds"."""
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def claim(text: str, gaps: Sequence[float]) -> str:
    """A claim with its verdict. gaps: differences seed by seed, above 0 in favour of the claim."""
    word, gap = verdict(gaps)
    return f"{text}: **{word}**, {gap} points."


def bullets(lines: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)
