"""Kill a tiny training at random moments, give the same command again until it ends, and compare with an unbroken run.

    python experiments/reliability/kill_training.py --kills=100 --feed=tfdata
    python experiments/reliability/kill_training.py --kills=20 --signal=TERM

A life is a fork of this process, which has imported everything and touched no device, so that it costs a few seconds.
The moments come from the seed: while training, at a random line of the log; at the appearance of an unfinished
checkpoint, so inside a save; after the last checkpoint, so inside the evaluation; and in the first two seconds. Ends
with one line of JSON; exits 1 when a run differs from the unbroken one in any byte, any life complains, or one that may
save at the signal takes more than 15 seconds or loses a logged step.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import lives
from lives import lines
from tiny import LINES, STEPS, fingerprint

MOMENTS = ("save", "training", "evaluation", "start", "training")  # of the first kills, in turn; random ones later
KILLS_A_RUN = 3
TIMES = {
    "pictures": 1,
    "vit": 1,
    "vectors": 10,
    "maps": 10,
}  # as many steps: steps on vectors are quick, and a kill must find one
MOST_SECONDS = 15  # from the signal to the end; some clusters give no more


def litter(workdir: Path) -> list[str]:
    """What a killed life left behind that a later one should have cleared away."""
    return [
        path.relative_to(workdir).as_posix()
        for path in workdir.rglob("*")
        if "tmp" in path.name or "trash" in path.name
    ]


class Plan(NamedTuple):
    """flags: of the training; steps: how many; lines: of its metrics log."""

    flags: list[str]
    steps: int
    lines: int


def plan_of(kind: str, folder: Path) -> Plan:
    times, flags = TIMES[kind], lives.tiny_run(kind, folder)
    if times > 1:
        flags += [f"--config.steps={times * STEPS}", f"--config.eval_every={times * 8}"]
        flags += [f"--config.checkpoint_every={times * 5}", f"--config.log_every={times * 2}"]
    return Plan(flags, times * STEPS, LINES + (kind in ("vectors", "maps")))


def life(plan: Plan, feed: str, workdir: Path, log: Path) -> int:
    """Begin a training, or resume it; its process id."""
    return lives.begin(lives.command("train", [*plan.flags, f"--config.feed={feed}", f"--workdir={workdir}"]), log)


def unfinished_saves(workdir: Path) -> set[tuple[str, int]]:
    """Checkpoints that are being written, or were when their writer was killed."""
    found = set()
    for path in (workdir / "checkpoints").glob("*-tmp"):
        try:
            found.add((path.name, path.stat().st_ino))
        except FileNotFoundError:
            pass  # finished meanwhile
    return found


def wait_for(child: int, moment: str, workdir: Path, plan: Plan, rng: random.Random) -> int | None:
    """Wait until the child ends (its status) or the moment to kill it has come (None)."""
    last, results = workdir / "checkpoints" / str(plan.steps), workdir / "results.json"
    began, delay = time.monotonic(), rng.uniform(0, 0.1)
    first = lines(workdir)
    wanted_lines = rng.randint(min(first + 1, plan.lines), plan.lines)
    seen, saves = unfinished_saves(workdir), rng.randint(1, 3)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if moment == "start" and time.monotonic() - began > delay * 20:
            return None
        if moment == "training" and lines(workdir) >= wanted_lines:
            time.sleep(delay)
            return None
        if moment == "save" and (new := unfinished_saves(workdir) - seen):
            seen, saves = seen | new, saves - 1
            if saves == 0:
                return None
        if moment == "evaluation" and last.exists() and not results.exists():
            time.sleep(delay * 2)
            return None
        time.sleep(0.0005)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--feed", choices=("tfdata", "device", "both"), default="both")
    parser.add_argument("--on", choices=tuple(TIMES), default="pictures")
    parser.add_argument("--signal", choices=("KILL", "TERM", "USR1"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = lives.new_folder("kill_training")
    lives.prepare(folder, tensorflow=args.feed != "device")
    try:
        return contest(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def contest(args: argparse.Namespace, folder: Path) -> int:
    """Run until enough lives were killed; 0 when every run ended like the unbroken one."""
    rng, log = random.Random(args.seed), folder / "log"
    plan = plan_of(args.on, folder)
    feeds = ("tfdata", "device") if args.feed == "both" else (args.feed,)
    faults, moments, kills, unfinished, run, expected = [], Counter(), 0, 0, 0, {}
    slowest = 0.0
    number = getattr(signal, f"SIG{args.signal}")
    for feed in feeds:
        workdir = folder / feed
        status = wait_for(life(plan, feed, workdir, log), "never", workdir, plan, rng)
        if status != 0 or lines(workdir) != plan.lines:
            print(log.read_text(errors="replace"))
            return 1
        expected[feed] = fingerprint(workdir, plan.steps)
    while kills < args.kills:
        feed, workdir, status, killed = feeds[run % len(feeds)], folder / f"run{run}", None, 0
        while status is None:
            if kills >= args.kills or killed >= KILLS_A_RUN:
                moment = "never"
            else:
                # A life that ended before its moment was no kill: the same moment is tried on the next.
                moment = MOMENTS[kills] if kills < len(MOMENTS) else rng.choice(MOMENTS)
            before = unfinished_saves(workdir)
            child = life(plan, feed, workdir, log)
            status = wait_for(child, moment, workdir, plan, rng)
            if status is None:
                os.kill(child, number)
                sent = time.monotonic()
                status = lives.end(child)
                slowest = max(slowest, time.monotonic() - sent)
                if status in (-number, 143):
                    moments[moment + (", saved" if status > 0 else "")] += 1
                    if status > 0 and lives.newest_step(workdir) < lives.last_logged(workdir):
                        faults.append(f"run {run} lost steps: its newest is {lives.newest_step(workdir)}")
                    unfinished += bool(unfinished_saves(workdir) - before)
                    kills, killed, status = kills + 1, killed + 1, None
        differing = [
            name for name, digest in fingerprint(workdir, plan.steps).items() if digest != expected[feed][name]
        ]
        if status != 0 or differing or litter(workdir):
            faults.append(f"run {run} ended {status}, differs in {differing}, left {litter(workdir)}")
        run += 1
        shutil.rmtree(workdir)
    text = log.read_text(errors="replace")
    faults += [f"a life says {word!r}" for word in ("damaged", "Traceback", "error:") if word in text]
    if faults:
        print(text)
    report = {"on": args.on, "feed": args.feed, "signal": args.signal, "seed": args.seed, "runs": run, "kills": kills}
    if slowest > MOST_SECONDS:
        faults.append(f"a life ended {slowest:.1f} s after the signal")
    report |= {"moments": moments, "unfinished_saves": unfinished, "most_seconds_to_end": round(slowest, 1)}
    report |= {"faults": faults, "fingerprints": expected}
    print(json.dumps(report))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
