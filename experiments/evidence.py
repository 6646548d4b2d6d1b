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


def verdict(better: Sequence[float], worse: Sequence[float]) -> tuple[str, Estimate]:
    """Whether the first has lower errors, by the differences seed by seed: holds, does not hold, or is not settled."""
    gap = estimate([b - a for a, b in zip(better, worse, strict=True)])
    word = "holds" if gap.low > 0 else "does not hold" if gap.high < 0 else "is not settled"
    return word, gap


class Runs:
    """Reads the runs, and keeps which files were read, and on which machines the runs took how many seconds."""

    def __init__(self, places: Places):
        self.places = places
        self.seeds, self.few = ((0,), (0,)) if places.tiny else (SEEDS, FEW)
        self.read: set[str] = set()
        self.seconds: dict[tuple[str, str], float] = {}
        self.machines: set[str] = set()

    def results(self, name: str, file: str = "results.json", verb: str = "train") -> dict:
        """What a run left."""
        took = json.loads(self._text(f"{name}/took.json"))
        self.seconds[name, verb] = took[verb]
        self.machines.add(took["machine"])
        return json.loads(self._text(f"{name}/{file}"))

    def log(self, name: str) -> list[dict]:
        """The entries of a training's metrics.jsonl."""
        self.results(name)
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


def claim(text: str, better: Sequence[float], worse: Sequence[float]) -> str:
    word, gap = verdict(better, worse)
    return f"{text}: **{word}** (difference {gap} points, positive in its favour)."
