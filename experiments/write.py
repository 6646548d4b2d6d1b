"""Write docs/RESULTS.md from the result files of the runs (results.json, took.json and others).

    python experiments/write.py --runs=runs/experiments --out=docs/RESULTS.md

Fails with one line if a run is missing or has other flags than planned. `--only` writes the sections of some
experiments. The page's result files are copied to results/runs beside it. With --runs=docs/results/runs the page is
rewritten without any training.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence import Runs
from plan import EXPERIMENTS, Places, Run, planned, recipe
from run import arguments, places_of, same, took
from sections import HOW_TO_READ, OPENING, SECTIONS, TITLES, summary

KEPT = Path("results/runs")  # beside the page
DATA = {"fonts": "FOLDER", "footwear": "footwear.csv", "emoji": "emoji.csv", "vectors": "vectors"}


def files_of(runs: Sequence[Run]) -> set[str]:
    """The files of runs that the page may read, relative to the folder of all runs."""
    return {f"{run.name}/{file}" for run in runs for file in (run.out, "took.json") if file.endswith(".json")}


def page(places: Places, only: Sequence[str]) -> tuple[str, set[str]]:
    """(the page, the files that it was made from, relative to the folder of all runs)."""
    parts, read = ["# Results", OPENING], set()
    if {f"table1_{source}" for source in TITLES} <= {*only}:
        runs = Runs(places)
        parts += summary(runs)
        read |= runs.read
    parts.append(HOW_TO_READ)
    for name in only:
        title, section = SECTIONS[name]
        runs = Runs(places)
        body = section(runs)
        read |= runs.read
        parts += [f"## {title}", *body, *made_by(places, name)]
    if later := [SECTIONS[name][0] for name in EXPERIMENTS if name not in only]:
        parts += ["## Not finished yet", f"{'; '.join(later)}. `experiments/plan.py` has the plan."]
    return "\n\n".join(parts) + "\n", read


def made_by(places: Places, name: str) -> tuple[str, str]:
    """The command that runs an experiment from scratch, and how long that took on which machine."""
    runs = planned(places, [name])
    commands = [took(places, run.name)[run.verb] for run in runs]
    minutes = math.ceil(sum(command["seconds"] for command in commands) / 60)
    machines = "; ".join(sorted({command["machine"] for command in commands}))
    recipes = " ".join(recipe(run, places) for run in runs)
    data = [f" --{place}={path}" for place, path in DATA.items() if f"={place.upper()}" in recipes]
    return (
        f"To repeat this experiment:\n\n```bash\npython experiments/run.py --only {name}{''.join(data)}\n```",
        f"{len(runs)} commands, {minutes} min in total (including runs that other sections share), on {machines}.",
    )


def main() -> int:
    parser = arguments()
    parser.description = __doc__.split("\n")[0]
    parser.add_argument("--out", type=Path, default=Path("docs/RESULTS.md"))
    args = parser.parse_args()
    places = places_of(args)
    runs = planned(places, args.only)
    needed = sorted(files_of(runs))
    if missing := [name for name in needed if not (places.runs / name).is_file()]:
        problem = f"{len(missing)} files of runs are missing in {places.runs}, the first is {missing[0]}"
        print(f"{problem}; run experiments/run.py.", file=sys.stderr)
        return 1
    if changed := [run for run in runs if not same(run, places)]:
        problem = f"{len(changed)} runs in {places.runs} have other flags than planned, the first is {changed[0].name}"
        print(f"{problem}; remove its folder and run experiments/run.py.", file=sys.stderr)
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
