"""Start a training where another one is at work, then kill that one: refused by name each time, and never a stale lock.

    python experiments/reliability/second_writer.py --tries=50

Ends with one line of JSON; exits 1 when a second writer was not refused by host and process id, a lock outlived its
process, or the trainings that were killed and disturbed do not end as an undisturbed one.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import lives
import tiny


def contest(tries: int, folder: Path) -> dict:
    """Let as many second writers try: the report."""
    log, told, workdir, whole = folder / "log", folder / "told", folder / "run", folder / "whole"
    train = lambda place: lives.command("train", [*tiny.ARGUMENTS, "--config.feed=device", f"--workdir={place}"])  # noqa: E731
    faults, refused, began = [], 0, time.monotonic()
    if lives.lived(train(whole), log) != 0:
        return {"faults": ["the undisturbed run failed", log.read_text(errors="replace")[-5000:]]}
    expected = tiny.fingerprint(whole)
    while refused < tries:
        first = lives.begin(train(workdir), log)
        owner = {"host": socket.gethostname(), "pid": first}
        while not holds(workdir, owner) and alive(first):
            time.sleep(0.002)
        if not alive(first):  # it came to its end before it could be disturbed
            if tiny.fingerprint(workdir) != expected:
                faults.append(f"after {refused} tries a run ended with other bytes")
            shutil.rmtree(workdir)
            continue
        told.unlink(missing_ok=True)
        status = lives.lived(train(workdir), told)
        if not alive(first):
            continue
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        sentence = told.read_text(errors="replace")
        if status != 2 or f"is in use by process {first} on {socket.gethostname()}; " not in sentence:
            faults.append(f"try {refused}: ended {status} and said {sentence[-500:]!r}")
        refused += 1
    if lives.lived(train(workdir), log) != 0 or tiny.fingerprint(workdir) != expected:
        faults.append("the run that was disturbed and killed does not end as the undisturbed one")
    faults += [f"a life says {word!r}" for word in ("damaged", "Traceback", "in use") if word in log.read_text()]
    return {"refused": refused, "minutes": round((time.monotonic() - began) / 60, 1), "faults": faults}


def holds(workdir: Path, owner: dict) -> bool:
    """Whether the lock file names a process."""
    path = workdir / ".lock"
    return path.exists() and path.read_text() == json.dumps(owner)


def alive(child: int) -> bool:
    """Whether a life goes on. One that does not is waited for here."""
    try:
        return os.waitpid(child, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tries", type=int, default=5)
    args = parser.parse_args()
    return lives.contested("second_writer", lambda folder: contest(args.tries, folder))


if __name__ == "__main__":
    sys.exit(main())
