"""Run the experiments that are not done yet, for at most --minutes. Rerun the same command to resume.

    python experiments/run.py --fonts=FOLDER --footwear=footwear.csv --emoji=emoji.csv \
        --vectors=vectors --minutes=90

Each run is a command of csn_jax in its own folder, and resumes if it was stopped. `took.json` in that folder has the
flags, the seconds and the machine of each command. To repeat a single run, copy the kept files (docs/results/runs),
remove the folder of the run, and pass the copy as --runs. Other runs train again only if a command needs their network.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from plan import EMOJI, EXPERIMENTS, SHOES, VECTORS, Places, Run, planned, recipe

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    args = arguments().parse_args()
    places = places_of(args)
    runs = planned(places, args.only)
    if changed := [run for run in runs if (places.runs / run.name / run.out).exists() and not same(run, places)]:
        print(f"{changed[0].name} in {places.runs} has other flags than planned; remove its folder or change --runs.")
        return 1
    missing = [run for run in runs if not (places.runs / run.name / run.out).exists()]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are done")
    began = time.monotonic()
    for number, run in enumerate(missing, 1):
        if time.monotonic() - began > 60 * args.minutes:
            print(f"{args.minutes:g} minutes are over; {len(missing) - number + 1} runs are left; rerun to resume")
            return 3
        print(f"{number} of {len(missing)}: {run.verb} {run.name}", flush=True)
        status = perform(run, places)
        if status != 0:
            print(f"{run.verb} {run.name} ended with status {status}; see {places.runs / 'log'}")
            return 143 if status in (143, -signal.SIGTERM) else 1
    return 0


def arguments() -> argparse.ArgumentParser:
    """The flags that run.py and write.py share."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="the folder of all runs")
    parser.add_argument("--fonts", type=Path, default=Path("fonts"), help="a folder of font files")
    for name, columns in (("footwear", SHOES), ("emoji", EMOJI)):
        table = f"a table of {name}: columns image, {', '.join(columns)}"
        parser.add_argument(f"--{name}", type=Path, default=Path(f"{name}.csv"), help=table)
    sets = ", ".join(f"{name}.parquet" for name in VECTORS)
    parser.add_argument("--vectors", type=Path, default=Path("vectors"), help=f"{sets}, which make_features.py writes")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="EXPERIMENT")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no new run after this time")
    parser.add_argument("--tiny", action="store_true", help="few runs of seconds, on synthetic data")
    return parser


def places_of(args: argparse.Namespace) -> Places:
    """The arguments as absolute paths. With --tiny, makes the tables."""
    runs = args.runs.expanduser().absolute()
    runs.mkdir(parents=True, exist_ok=True)
    if args.tiny:
        from tiny_tables import write_tables

        return Places(runs, Path(), *write_tables(runs / "tables"), tiny=True)
    return Places(
        runs, *(path.expanduser().absolute() for path in (args.fonts, args.footwear, args.emoji, args.vectors))
    )


def took(places: Places, name: str) -> dict[str, dict]:
    """took.json of a run: {verb: {"flags", "seconds", "machine"}}."""
    file = places.runs / name / "took.json"
    return json.loads(file.read_text()) if file.exists() else {}


def same(run: Run, places: Places) -> bool:
    """Whether the files of a run come from the planned flags."""
    return took(places, run.name).get(run.verb, {}).get("flags") == recipe(run, places)


def perform(run: Run, places: Places) -> int:
    """Run one command, append its output to the log, and return its exit status. Passes SIGTERM and SIGINT on."""
    place = places.runs / run.name
    (place if run.printed else place.parent).mkdir(parents=True, exist_ok=True)  # training makes its own
    printed = place / f".{run.out}.partial"
    before = took(places, run.name)
    began = time.monotonic()
    with open(places.runs / "log", "ab") as log, open(printed if run.printed else os.devnull, "wb") as out:
        script = run.verb.endswith(".py")
        program = [str(ROOT / "experiments" / run.verb)] if script else ["-m", f"csn_jax.{run.verb}"]
        command = [sys.executable, *program, *run.flags]
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=log)
        stopped = []
        handlers = {
            number: signal.signal(number, lambda *_: (stopped.append(1), child.send_signal(signal.SIGTERM)))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        status = child.wait()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if place.is_dir():
        from csn_jax.benchmark.compare import machine

        seconds = time.monotonic() - began
        if same(run, places):  # resumed: add the time of the earlier attempt
            seconds += before[run.verb]["seconds"]
        entry = {"flags": recipe(run, places), "seconds": round(seconds, 1), "machine": machine(["jax"])}
        (place / "took.json").write_text(json.dumps(before | {run.verb: entry}, indent=1) + "\n")
    if run.printed and status == 0:
        printed.rename(place / run.out)
    return 143 if stopped else status


if __name__ == "__main__":
    sys.exit(main())
