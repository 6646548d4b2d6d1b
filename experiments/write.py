"""Write docs/RESULTS.md from what the runs left: their results.json, and took.json beside it. Nothing is typed by hand.

    python experiments/write.py --runs=runs/experiments --out=docs/RESULTS.md

Fails with one sentence where a run is missing; `--only` writes the sections of some experiments. The files that the
page rests on are kept beside it, in results/runs: with --runs=docs/results/runs it is written again without training,
and a copy of that folder as --runs of run.py trains only what is missing.
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


def told_of(runs: Sequence[Run]) -> list[str]:
    """The files of runs that the page may read, below the folder of all runs."""
    return [f"{run.name}/{run.out}" for run in runs if run.out.endswith(".json")]


def page(places: Places, only: Sequence[str]) -> tuple[str, set[str]]:
    """(the page, the files that were read for it, below the folder of all runs)."""
    parts, read = ["# Results", INTRODUCTION], set()
    for name in only:
        title, section = SECTIONS[name]
        runs = Runs(places)
        body = section(runs)
        read |= runs.read
        machines = "; ".join(sorted(runs.machines))
        took = f"{len(runs.seconds)} runs, {max(1, round(sum(runs.seconds.values()) / 60))} min in all, on {machines}."
        command = f"python experiments/run.py --only {name} --fonts=FOLDER --footwear=footwear.csv --emoji=emoji.csv"
        parts += [f"## {title}", *body, f"```bash\n{command}\n```", took]
    if later := [SECTIONS[name][0] for name in EXPERIMENTS if name not in only]:
        parts += ["## Not run yet", f"{'; '.join(later)}. They are planned in `experiments/plan.py`."]
    return "\n\n".join(parts) + "\n", read


def main() -> int:
    parser = arguments()
    parser.description = __doc__.split("\n")[0]
    parser.add_argument("--out", type=Path, default=Path("docs/RESULTS.md"))
    args = parser.parse_args()
    places = places_of(args)
    needed = told_of(planned(places, args.only))
    missing = [name for name in needed if not (places.runs / name).is_file()]
    if missing:
        which = f"{len(missing)} files of runs are missing in {places.runs}, the first {missing[0]}"
        print(f"{which}; run experiments/run.py.", file=sys.stderr)
        return 1
    text, read = page(places, args.only)
    for name in {*needed, *read}:
        kept = args.out.parent / KEPT / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes((places.runs / name).read_bytes())
    args.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
