"""Write docs/RESULTS.md from what the runs left: their results.json, and took.json beside it. Nothing is typed by hand.

    python experiments/write.py --runs=runs/experiments --out=docs/RESULTS.md

Fails with one sentence where a run is missing; `--only` writes the sections of some experiments. The files that the
page rests on are kept beside it, in results/runs: with --runs=docs/results/runs it is written again without training.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from evidence import Runs
from plan import EXPERIMENTS, Places, Run, planned
from run import arguments, places_of
from sections import DIMENSIONS, SECTIONS

KEPT = Path("results/runs")  # beside the page
INTRODUCTION = f"""\
Everything on this page was written by `python experiments/write.py` from the files of finished runs, which are kept in
[{KEPT}]({KEPT}); all of the `small` network with {DIMENSIONS} dimensions at 32 pixels. Intervals are of 95 %. A claim
holds where the interval of its differences, seed by seed, leaves out 0.

The data are not ours to give: fonts are Latin subsets of open fonts (npm's `@fontsource/*` packages), shoes the
footwear of the public set Fashion Product Images (Small), emoji those of seven vendors (npm's `@iconify-json/*` sets),
drawn at 64 pixels. Each is a folder or a table, as `python experiments/run.py --help` says."""


def missing(runs: Sequence[Run], folder: Path) -> list[str]:
    """Names of runs that are not done, as far as the page reads them."""
    return [run.name for run in runs if run.out.endswith(".json") and not (folder / run.name / run.out).is_file()]


def page(places: Places, only: Sequence[str]) -> tuple[str, dict[str, str]]:
    """(the page, the files that it rests on, by their places below the folder of all runs)."""
    parts, files = ["# Results", INTRODUCTION], {}
    for name in only:
        title, section = SECTIONS[name]
        runs = Runs(places)
        body = section(runs)
        files |= runs.files
        machines = "; ".join(sorted(runs.machines))
        took = f"{len(runs.seconds)} runs, {sum(runs.seconds.values()) / 3600:.1f} hours in all, on {machines}."
        command = f"python experiments/run.py --only {name} --fonts=FOLDER --footwear=products.csv --emoji=emoji.csv"
        parts += [f"## {title}", *body, f"```bash\n{command}\n```", took]
    if later := [SECTIONS[name][0] for name in EXPERIMENTS if name not in only]:
        parts += ["## Not run yet", f"{'; '.join(later)}. They are planned in `experiments/plan.py`."]
    return "\n\n".join(parts) + "\n", files


def main() -> int:
    parser = arguments()
    parser.description = __doc__.split("\n")[0]
    parser.add_argument("--out", type=Path, default=Path("docs/RESULTS.md"))
    args = parser.parse_args()
    places = places_of(args)
    lacking = missing(planned(places, args.only), places.runs)
    if lacking:
        print(
            f"{len(lacking)} runs are missing in {places.runs}, the first {lacking[0]}; run experiments/run.py.",
            file=sys.stderr,
        )
        return 1
    text, files = page(places, args.only)
    for name, content in files.items():
        kept = args.out.parent / KEPT / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(content)
    args.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
