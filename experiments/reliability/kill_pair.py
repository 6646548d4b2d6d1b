"""Kill one of two processes at random moments, start both again until they end, and compare with an unbroken run.

    python experiments/reliability/kill_pair.py --kills=40

Every second kill meets the coordinator. The moments come from the seed: at a random line of the log, or at a random
second of a life, so also while the two meet, restore, evaluate and say farewell. Who survives must end by itself within
the heartbeat and ten seconds more; where the log tells of no step since the start, so that it may still be importing or
waiting for the other to come, within the start-up time and that. Ends with one line of JSON; exits 1 when a run differs
from the unbroken one in any byte, or a survivor stays.
"""

import argparse
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import pair
from lives import lines

STEPS = 60
FLAGS = (f"--config.steps={STEPS}", "--config.log_every=5", "--config.eval_every=20", "--config.checkpoint_every=15")
LINES = 1 + STEPS // 5 + STEPS // 20  # with step 0
FILES = ("config.json", "data.json", "metrics.jsonl", "results.json", f"checkpoints/{STEPS}/meta/metadata")
KILLS_A_RUN = 4
SPARE = 10  # seconds after the heartbeat in which a survivor must have ended
START_UP = 15


def start(folder: Path, workdir: Path, log: Path) -> list[subprocess.Popen]:
    """Both processes, the coordinator first."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = pair.environment(folder, 2) | {"CSN_JAX_START_UP": str(START_UP)}
    command = [sys.executable, "-m", "csn_jax.train", *pair.flags(folder, "vectors"), *FLAGS, f"--workdir={workdir}"]
    with open(log, "ab") as file:
        return [
            subprocess.Popen(
                [*command, f"--distributed=127.0.0.1:{port},2,{i}"],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            for i in range(2)
        ]


def wait_for(pair_of: list[subprocess.Popen], workdir: Path, line: int | None, second: float | None) -> bool:
    """Wait for a line of the log or a second of a life; False when the two have ended before."""
    began = time.monotonic()
    while any(process.poll() is None for process in pair_of):
        if line is not None and lines(workdir) >= line:
            return True
        if second is not None and time.monotonic() - began >= second:
            return True
        time.sleep(0.002)
    return False


def contest(kills: int, seed: int, folder: Path) -> dict:
    """Run until enough were killed: the report."""
    rng, log, unbroken = random.Random(seed), folder / "log", folder / "unbroken"
    began = time.monotonic()
    both = start(folder, unbroken, log)
    status = [process.wait() for process in both]
    whole = time.monotonic() - began
    if status != [0, 0] or lines(unbroken) != LINES:
        return {"faults": [f"the unbroken run ended {status}", log.read_text(errors="replace")]}
    expected = {name: (unbroken / name).read_bytes() for name in FILES}
    faults, moments, statuses, outlived, done, runs = [], Counter(), Counter(), {True: [0.0], False: [0.0]}, 0, 0
    while done < kills:
        workdir, killed, status = folder / f"run{runs}", 0, None
        while status != [0, 0]:
            both = start(folder, workdir, log)
            sparing = done >= kills or killed >= KILLS_A_RUN
            first = lines(workdir)
            moment = "never" if sparing else "second" if first == LINES else rng.choice(("line", "second"))
            line = rng.randint(min(first + 1, LINES), LINES) if moment == "line" else None
            second = rng.uniform(0, whole) if moment == "second" else None
            victim = done % 2
            if wait_for(both, workdir, line, second) and both[victim].poll() is None:
                both[victim].kill()
                dead, met = time.monotonic(), lines(workdir) > first
                try:
                    both[1 - victim].wait(pair.HEARTBEAT + SPARE + (0 if met else START_UP))
                except subprocess.TimeoutExpired:
                    faults.append(f"who survived kill {done} of process {victim} ({moment}) stays")
                    both[1 - victim].kill()
                outlived[met].append(time.monotonic() - dead)
                moments[f"{moment}, {('coordinator', 'worker')[victim]}"] += 1
                done, killed = done + 1, killed + 1
                statuses[both[1 - victim].wait()] += 1
                print(f"kill {done}: {moment}, process {victim}, outlived {outlived[met][-1]:.1f} s", file=sys.stderr)
            status = [process.wait() for process in both]
            if sparing and status != [0, 0]:
                faults.append(f"run {runs}, undisturbed, ended {status}")
                break
        differing = [name for name, data in expected.items() if (workdir / name).read_bytes() != data]
        if differing:
            faults.append(f"run {runs} differs in {differing}")
        runs += 1
        shutil.rmtree(workdir)
    text = log.read_text(errors="replace")
    faults += [f"a life says {word!r}" for word in ("damaged",) if word in text]
    if faults:
        faults.append(text[-20_000:])
    return {
        "seed": seed,
        "heartbeat": pair.HEARTBEAT,
        "kills": done,
        "runs": runs,
        "moments": moments,
        "survivors_ended": {str(code): n for code, n in statuses.items()},
        "most_seconds_outlived": {"met": round(max(outlived[True]), 1), "not_met": round(max(outlived[False]), 1)},
        "minutes": round((time.monotonic() - began) / 60, 1),
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill_pair_"))
    try:
        report = contest(args.kills, args.seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
