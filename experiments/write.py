"""Write docs/RESULTS.md from what the runs left: their results.json, and took.json beside it. Nothing is typed by hand.

    python experiments/write.py --runs=runs/experiments --out=docs/RESULTS.md

Fails with one sentence where a run is missing; `--only` writes the sections of some experiments.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import scipy.stats
from plan import ABLATIONS, CONDITIONS, EXPERIMENTS, FEW, NEW, SEEDS, SHOES, TRIPLETS, VARIANTS, Places, Run, planned
from run import arguments, places_of

PAPER = {"standard": 23.72, "specialists": 11.35, "fixed": 10.79, "learned": 10.73}  # table 1, shoes, in per cent
TITLES = {"fonts": "Fonts", "footwear": "Shoes", "emoji": "Emoji"}


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
    """Reads the runs, and keeps which were read, their seconds and machines."""

    def __init__(self, places: Places):
        self.places = places
        self.seeds, self.few = ((0,), (0,)) if places.tiny else (SEEDS, FEW)
        self.seconds: dict[tuple[str, str], float] = {}
        self.machines: set[str] = set()

    def results(self, name: str, file: str = "results.json", verb: str = "train") -> dict:
        """What a run left."""
        place = self.places.runs / name
        took = json.loads((place / "took.json").read_text())
        self.seconds[name, verb] = took[verb]
        self.machines.add(took["machine"])
        return json.loads((place / file).read_text())

    def errors(self, name: str, seeds: Sequence[int], condition: str = "overall") -> list[float]:
        """Triplet errors of some seeds of a setting."""
        found = [self.results(f"{name}_{seed}")["triplet_error"] for seed in seeds]
        return [one["overall"] if condition == "overall" else one["by_condition"][condition] for one in found]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


# ---- sections


def table1(source: str) -> Callable[[Runs], list[str]]:
    def section(runs: Runs) -> list[str]:
        names = (*CONDITIONS[source], "overall")
        found = {v: {name: runs.errors(f"{source}/{v}", runs.seeds, name) for name in names} for v in VARIANTS}
        rows = [[variant, *(str(estimate(found[variant][name])) for name in names)] for variant in VARIANTS]
        overall = {variant: found[variant]["overall"] for variant in VARIANTS}
        claims = [
            ("One network with masks errs less than one without", "learned", "standard"),
            ("Learned masks err less than a network for each condition", "learned", "specialists"),
            ("Learned masks err less than fixed ones", "learned", "fixed"),
            ("Masks may share dimensions at an advantage over learned disjoint ones", "learned", "learned_disjoint"),
        ]
        told = ["- " + claim(text, overall[a], overall[b]) for text, a, b in claims]
        paper = ", ".join(f"{name} {value}" for name, value in PAPER.items())
        return [
            "Triplet error on the test split in per cent, lower is better; mean and 95 % interval over "
            f"{len(runs.seeds)} seeds, which share one test.",
            markdown(["masks", *names], rows),
            "\n".join(told),
            f"(The paper, on shoes: {paper} %.)",
        ]

    return section


def claim(text: str, better: Sequence[float], worse: Sequence[float]) -> str:
    word, gap = verdict(better, worse)
    return f"{text}: **{word}**, by {gap} points."


def in_batch(runs: Runs) -> list[str]:
    rows = []
    for label, name in (("triplets, 1,200 steps", "fonts/learned"), ("in-batch, 800 steps", "fonts/in_batch")):
        errors = runs.errors(name, runs.seeds)
        seconds = statistics.median(runs.seconds[f"{name}_{seed}", "train"] for seed in runs.seeds)
        rows.append([label, str(estimate(errors)), f"{seconds:.0f} s"])
    told = claim(
        "In-batch learning errs less", *(runs.errors(f"fonts/{name}", runs.seeds) for name in ("in_batch", "learned"))
    )
    return [
        "Learned masks on fonts, from the paper's triplets and from all triplets inside batches of labelled items.",
        markdown(["learning", "overall error, %", "median time"], rows),
        told,
    ]


def new_condition(runs: Runs) -> list[str]:
    probes = {
        variant: [
            runs.results(f"footwear/without_{NEW}_{variant}_{seed}", "full.json", "evaluate")["off_task"]
            for seed in runs.few
        ]
        for variant in ("standard", "learned")
    }
    rows = [
        [f"linear probe on the embedding, {variant}", str(estimate([one["by_label"][NEW] for one in found]))]
        for variant, found in probes.items()
    ]
    rows.append(["always the most frequent value", f"{100 * probes['learned'][0]['chance']['by_label'][NEW]:.2f}"])
    adapted = [
        runs.results(f"footwear/adapted_{s}", verb="adapt")["triplet_error"]["by_condition"][NEW] for s in runs.few
    ]
    whole = runs.errors("footwear/learned", runs.few, NEW)
    errors = [["a mask of its own on the frozen model", str(estimate(adapted))]]
    errors.append(["trained with it from the start", str(estimate(whole))])
    return [
        f"Trained on {', '.join(name for name in SHOES if name != NEW)} of the shoes, {len(runs.few)} seeds; `{NEW}` "
        "was never a condition.",
        markdown([f"`{NEW}` of a test item", "top-1, %"], rows),
        markdown([f"triplets of `{NEW}`", "error, %"], errors),
    ]


def leakage(runs: Runs) -> list[str]:
    parts = [
        "What neighbours in the space of one condition tell of another: R-precision above chance, in per cent, of one"
        " seed. A diagonal that stands out is a space that knows its own notion."
    ]
    for source in ("fonts", "footwear"):
        for variant in ("standard", "learned", "learned_disjoint"):
            found = runs.results(f"{source}/{variant}_0", "full.json", "evaluate")["leakage"]["by_condition"]
            rows = [[name, *(f"{100 * value:.1f}" for value in one.values())] for name, one in found.items()]
            parts += [f"{TITLES[source]}, {variant}:", markdown(["space of", *next(iter(found.values()))], rows)]
    return parts


def fewer_triplets(runs: Runs) -> list[str]:
    rows = []
    for n in TRIPLETS[-2:] if runs.places.tiny else TRIPLETS:
        names = [f"fonts/{v}" if n == TRIPLETS[-1] else f"fonts/{v}_{n}" for v in ("specialists", "fixed", "learned")]
        rows.append([f"{2 * n:,}", *(str(estimate(runs.errors(name, runs.few))) for name in names)])
    return [
        "Fonts: overall error in per cent against the number of training triplets of both conditions, "
        f"{len(runs.few)} seeds, equal steps.",
        markdown(["triplets", "specialists", "fixed", "learned"], rows),
    ]


def ablations(runs: Runs) -> list[str]:
    plain = runs.errors("fonts/learned", runs.few)
    rows = [["the defaults", str(estimate(plain)), ""]]
    for title, settings in ABLATIONS.items():
        for field, value in settings[:1] if runs.places.tiny else settings:
            errors = runs.errors(f"fonts/{field}_{value}", runs.few)
            more = estimate([ours - theirs for ours, theirs in zip(errors, plain, strict=True)])
            rows.append([f"{title}: {value}", str(estimate(errors)), str(more)])
    return [
        f"Learned masks on fonts, {len(runs.few)} seeds, one setting changed at a time.",
        markdown(["setting", "overall error, %", "more than the defaults"], rows),
    ]


SECTIONS: dict[str, tuple[str, Callable[[Runs], list[str]]]] = {
    **{f"table1_{source}": (f"{title}: the paper's table 1", table1(source)) for source, title in TITLES.items()},
    "in_batch": ("In-batch learning", in_batch),
    "new_condition": ("A notion nobody trained for", new_condition),
    "leakage": ("What a space tells of other notions", leakage),
    "fewer_triplets": ("Fewer triplets", fewer_triplets),
    "ablations": ("Ablations", ablations),
}


def missing(runs: Sequence[Run], folder: Path) -> list[str]:
    """Names of runs that are not done."""
    return [run.name for run in runs if not (folder / run.name / run.out).is_file()]


def page(places: Places, only: Sequence[str]) -> str:
    parts = [
        "# Results",
        "Everything on this page was written by `python experiments/write.py` from the files of finished runs, all of"
        " the `small` network with 64 dimensions at 32 pixels. The data are not ours to give: fonts are Latin subsets"
        " of open fonts (npm's `@fontsource/*` packages), shoes the footwear of the public set Fashion Product Images"
        " (Small), emoji those of seven vendors (npm's `@iconify-json/*` sets), drawn at 64 pixels. Each is a folder or"
        " a table, as `python experiments/run.py --help` says.",
    ]
    for name in only:
        title, section = SECTIONS[name]
        runs = Runs(places)
        body = section(runs)
        machines = "; ".join(sorted(runs.machines))
        took = f"{len(runs.seconds)} runs, {sum(runs.seconds.values()) / 3600:.1f} hours in all, on {machines}."
        command = f"python experiments/run.py --only {name} --fonts=FOLDER --footwear=products.csv --emoji=emoji.csv"
        parts += [f"## {title}", *body, f"```bash\n{command}\n```", took]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = arguments()
    parser.description = __doc__.split("\n")[0]
    parser.add_argument("--out", type=Path, default=Path("docs/RESULTS.md"))
    args: argparse.Namespace = parser.parse_args()
    places = places_of(args)
    lacking = missing(planned(places, args.only), places.runs)
    if lacking:
        print(
            f"{len(lacking)} runs are missing in {places.runs}, the first {lacking[0]}; run experiments/run.py.",
            file=sys.stderr,
        )
        return 1
    args.out.write_text(page(places, args.only))
    return 0


assert SECTIONS.keys() == EXPERIMENTS.keys()

if __name__ == "__main__":
    sys.exit(main())
