"""Kill a tiny training at random moments, give the same command again until it ends, and compare with an unbroken run.

    python tests/faults/kill_training.py --kills=100 --feed=tfdata
    python tests/faults/kill_training.py --kills=20 --signal=TERM

A life is a fork of this process, which has imported everything and touched no device, so that it costs a few seconds.
The moments come from the seed: while training, at a random line of the log; at the appearance of an unfinished
checkpoint, so inside a save; after the last checkpoint, so inside the evaluation; and in the first two seconds. Ends
with one line of JSON; exits 1 when a run differs from the unbroken one in any byte or any life complains.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny import ARGUMENTS, LINES, STEPS, fingerprint

MOMENTS = ("save", "training", "evaluation", "start", "training")  # of the first kills; random ones later
KILLS_A_RUN = 3


def litter(workdir: Path) -> list[str]:
    """What a killed life left behind that a later one should have cleared away."""
    return [
        path.relative_to(workdir).as_posix()
        for path in workdir.rglob("*")
        if "tmp" in path.name or "trash" in path.name
    ]


def life(argv: list[str], log: Path) -> int:
    """Fork a child that runs the command `python -m csn_jax.train`; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        from csn_jax import cli, pictures, train

        pictures.QUERIES = pictures.NEIGHBOURS = 1  # drawing is no part of the contest
        sys.argv = ["train", *argv]
        cli.run(train.main)
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def unfinished_saves(workdir: Path) -> set[tuple[str, int]]:
    """Checkpoints that are being written, or were when their writer was killed."""
    found = set()
    for path in (workdir / "checkpoints").glob("*-tmp"):
        try:
            found.add((path.name, path.stat().st_ino))
        except FileNotFoundError:
            pass  # finished meanwhile
    return found


def lines(workdir: Path) -> int:
    """Lines of the metrics log so far."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(child: int, moment: str, workdir: Path, rng: random.Random) -> int | None:
    """Wait until the child ends (its status) or the moment to kill it has come (None)."""
    last, results = workdir / "checkpoints" / str(STEPS), workdir / "results.json"
    began, delay = time.monotonic(), rng.uniform(0, 0.1)
    first = lines(workdir)
    wanted_lines = rng.randint(min(first + 1, LINES), LINES)
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
    parser.add_argument("--signal", choices=("KILL", "TERM", "USR1"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill_training_"))
    # Before jax is imported. The cache spares every life but the first its compilations.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    import csn_jax.loop
    import csn_jax.train

    if args.feed != "device":
        import csn_jax.data.tf_feed  # noqa: F401
    try:
        return contest(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def contest(args: argparse.Namespace, folder: Path) -> int:
    """Run until enough lives were killed; 0 when every run ended like the unbroken one."""
    rng, log = random.Random(args.seed), folder / "log"
    feeds = ("tfdata", "device") if args.feed == "both" else (args.feed,)
    faults, moments, kills, lives, unfinished, run, expected = [], Counter(), 0, 0, 0, 0, {}
    number = getattr(signal, f"SIG{args.signal}")
    for feed in feeds:
        workdir = folder / feed
        status = wait_for(
            life([*ARGUMENTS, f"--config.feed={feed}", f"--workdir={workdir}"], log), "never", workdir, rng
        )
        if status != 0 or lines(workdir) != LINES:
            print(log.read_text(errors="replace"))
            return 1
        expected[feed] = fingerprint(workdir)
    while kills < args.kills:
        feed, workdir, status, killed = feeds[run % len(feeds)], folder / f"run{run}", None, 0
        while status is None:
            if kills >= args.kills or killed >= KILLS_A_RUN:
                moment = "never"
            else:
                moment = MOMENTS[lives] if lives < len(MOMENTS) else rng.choice(MOMENTS)
                lives += 1
            before = unfinished_saves(workdir)
            child = life([*ARGUMENTS, f"--config.feed={feed}", f"--workdir={workdir}"], log)
            status = wait_for(child, moment, workdir, rng)
            if status is None:
                os.kill(child, number)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if status in (-number, 128 + number):
                    moments[moment + (", saved" if status > 0 else "")] += 1
                    unfinished += bool(unfinished_saves(workdir) - before)
                    kills, killed, status = kills + 1, killed + 1, None
        differing = [name for name, digest in fingerprint(workdir).items() if digest != expected[feed][name]]
        if status != 0 or differing or litter(workdir):
            faults.append(f"run {run} ended {status}, differs in {differing}, left {litter(workdir)}")
        run += 1
        shutil.rmtree(workdir)
    text = log.read_text(errors="replace")
    faults += [f"a life says {word!r}" for word in ("damaged", "Traceback", "error:") if word in text]
    if faults:
        print(text)
    report = {"feed": args.feed, "signal": args.signal, "seed": args.seed, "runs": run, "kills": kills}
    report |= {"moments": moments, "unfinished_saves": unfinished, "faults": faults, "fingerprints": expected}
    print(json.dumps(report))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
