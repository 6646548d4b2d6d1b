"""Reading what runs left, and saying what it shows: means with intervals, and whether a claim holds."""

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
    """Mean and Student's 95 % interval; of one value nobody knows how far it would move."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """The differences a - b, seed by seed."""
    return [x - y for x, y in zip(a, b, strict=True)]


def verdict(gaps: Sequence[float]) -> tuple[str, Estimate]:
    """What differences, seed by seed and above 0 in favour of a claim, say of it."""
    gap = estimate(gaps)
    word = "holds" if gap.low > 0 else "the reverse holds" if gap.high < 0 else "is not settled"
    return word, gap


class Runs:
    """Reads what runs left, and keeps which files were read."""

    def __init__(self, places: Places):
        self.places = places
        self.seeds, self.few = ((0,), (0,)) if places.tiny else (SEEDS, FEW)
        self.read: set[str] = set()

    def results(self, name: str, file: str = "results.json") -> dict:
        """What a run left."""
        return json.loads(self._text(f"{name}/{file}"))

    def took(self, name: str, verb: str = "train") -> dict:
        """The flags, seconds and machine of a command of a run."""
        return json.loads(self._text(f"{name}/took.json"))[verb]

    def log(self, name: str) -> list[dict]:
        """The entries of a training's metrics.jsonl."""
        return [json.loads(line) for line in self._text(f"{name}/metrics.jsonl").splitlines()]

    def _text(self, path: str) -> str:
        self.read.add(path)
        return (self.places.runs / path).read_text()

    def errors(self, name: str, seeds: Sequence[int], condition: str = "overall") -> list[float]:
        """Triplet errors of some seeds of a setting."""
        found = [self.results(f"{name}_{seed}")["triplet_error"] for seed in seeds]
        return [one["overall"] if condition == "overall" else one["by_condition"][condition] for one in found]


def count(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def claim(text: str, gaps: Sequence[float]) -> str:
    """A claim with its verdict; gaps: differences, seed by seed, above 0 in its favour."""
    word, gap = verdict(gaps)
    return f"{text}: **{word}**, {gap} points."


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
