"""Let the disk fill at every place of a training: the last good step stays, and the next run needs no hand.

    python experiments/reliability/fill_disk.py --step=32768
    sudo python experiments/reliability/fill_disk.py --tmpfs --step=65536

No file may grow beyond a limit, which rises by `step` bytes until a whole training fits (RLIMIT_FSIZE); or the workdir
lies on a file system of so many bytes (--tmpfs, which only root may mount). Ends with one line of JSON; exits 1 when a
run under the limit did anything but end well or with one sentence and status 1, or the run after it, with room, did not
go on from the newest whole step to the bytes of an undisturbed one.
"""

import argparse
import re
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import lives
import tiny

LEAST = 1 << 13  # room for what a run says, which goes to a file too


def train(flags: list[str], workdir: Path, limit: int | None):
    """A training that may write no file beyond a limit."""

    def run() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        lives.command("train", [*flags, "--config.feed=device", f"--workdir={workdir}"])()

    return run


@contextmanager
def room(workdir: Path, size: int, tmpfs: bool):
    """The folder of a run; with `tmpfs` a file system of its own, yielding how to give it more room."""
    workdir.mkdir()
    if not tmpfs:
        yield lambda: None
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", workdir], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", workdir], check=True)
    finally:
        subprocess.run(["umount", workdir], check=True)


def contest(step: int, tmpfs: bool, kind: str, folder: Path) -> dict:
    """Raise the limit until a training fits: the report."""
    flags = lives.tiny_run(kind, folder)
    whole, log, told = folder / "whole", folder / "log", folder / "told"
    if lives.lived(train(flags, whole, None), log) != 0:
        return {"faults": ["the undisturbed run failed", log.read_text(errors="replace")[-5000:]]}
    expected, faults, failed, kept, began = tiny.fingerprint(whole), [], 0, 0, time.monotonic()
    limit, status = LEAST, 1
    while status != 0:
        workdir = folder / "run"
        told.unlink(missing_ok=True)
        with room(workdir, limit, tmpfs) as make_room:
            status = lives.lived(train(flags, workdir, None if tmpfs else limit), told)
            said = told.read_text(errors="replace")
            sentence = next((line for line in said.splitlines() if line.startswith("error: ")), "")
            if status not in (0, 1) or (status == 1 and not is_told(sentence)) or "Traceback" in said:
                faults.append(f"limit {limit}: ended {status}, said {said[-1500:]!r}")
            reached = lives.newest_step(workdir)
            failed, kept = failed + (status != 0), kept + (status != 0 and reached > 0)
            make_room()
            told.unlink()
            again = lives.lived(train(flags, workdir, None), told)
            said = told.read_text(errors="replace")
            goes_on = f"resuming from step {reached}" in said if status and 0 < reached < tiny.STEPS else True
            if again != 0 or not goes_on or "damaged" in said or tiny.fingerprint(workdir) != expected:
                faults.append(f"limit {limit}, after {status} at step {reached}: ended {again}, said {said[-1500:]!r}")
        shutil.rmtree(workdir)
        limit += step
        print(f"limit {limit - step:,}: {status}, step {reached}, then {again}", file=sys.stderr)
    minutes = round((time.monotonic() - began) / 60, 1)
    report = {"filled": failed, "with_a_step_kept": kept, "fits_at": limit - step, "minutes": minutes}
    return report | {"faults": faults}


def is_told(sentence: str) -> bool:
    """Whether an error tells in one sentence what there was no room for, and how much room there was."""
    sentence = sentence.removeprefix("error: ").removesuffix(".")
    return tiny.is_one_sentence(sentence) and bool(re.search(r"no room .*bytes free", sentence))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--step", type=int, default=1 << 18, help="bytes by which the limit rises")
    parser.add_argument("--tmpfs", action="store_true", help="fill a file system instead; needs root")
    parser.add_argument("--on", choices=("pictures", "vectors"), default="pictures")
    args = parser.parse_args()
    return lives.contested("fill_disk", lambda folder: contest(args.step, args.tmpfs, args.on, folder))


if __name__ == "__main__":
    sys.exit(main())
