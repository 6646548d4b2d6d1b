"""Kill a process at the n-th file operation of a save, for every n: the newest whole checkpoint restores, bit for bit.

    python experiments/reliability/die_in_save.py

Counted is what Python sees of a save: every open, rename, unlink, mkdir and rmdir, of all threads, by an audit hook.
The array files are written by TensorStore in C++, where kill_training.py's random moments meet them. Ends with one line
of JSON; exits 1 when a step was lost, a wrong bit was restored, or the next save does not clear away what is left.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import lives

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}


def save(folder: Path, dies_at: int, counted: Path):
    """A life that saves step 4, the new best, over steps 1 (the best), 2 and 3, and dies at one operation."""

    def run() -> None:
        import saved

        from csn_jax.runtime.checkpoint import Checkpoints

        checkpoints = Checkpoints(folder)
        checkpoints.restore_newest(saved.target())
        state = saved.state_at(4)
        count, armed = 0, True

        def hook(event: str, arguments: tuple) -> None:
            nonlocal count
            if armed and event in EVENTS and (event != "open" or str(folder) in str(arguments[0])):
                count += 1
                if count == dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        checkpoints.save(state, 0.05)
        checkpoints.close()
        armed = False
        counted.write_text(str(count))

    return run


def restore(folder: Path, result: Path):
    """A life that restores the newest step, checks every bit, and saves another one."""

    def run() -> None:
        import saved

        from csn_jax.runtime.checkpoint import Best, Checkpoints

        checkpoints = Checkpoints(folder)
        state = checkpoints.restore_newest(saved.target(), sys.exit)
        step = int(state.step)
        saved.assert_is(state, step)
        best = Best(4, 0.05) if step == 4 else Best(1, 0.1)
        assert step in (3, 4) and checkpoints.best == best, (step, checkpoints.best)
        saved.assert_is(checkpoints.restore(best.step, saved.target()), best.step)
        checkpoints.save(saved.state_at(5), None)
        checkpoints.close()
        left = sorted(os.listdir(folder))
        assert left == sorted({str(best.step), str(step), "5"}), left
        result.write_text(str(step))

    return run


def contest(folder: Path, every: int) -> dict:
    """Die at every `every`-th operation: the report."""
    log, three, counted, result = folder / "log", folder / "three", folder / "counted", folder / "result"

    def fill() -> None:
        import saved

        saved.filled(three, {1: 0.1, 2: 0.3, 3: None})

    faults, restored, n, began = [], {3: 0, 4: 0}, 1, time.monotonic()
    if lives.lived(fill, log) != 0:
        return {"faults": [log.read_text(errors="replace")[-5000:]]}
    whole = 0
    while whole < 2:  # threads come in another order each time: twice none died is the end
        copy = shutil.copytree(three, folder / "copy")
        result.unlink(missing_ok=True)
        status = lives.lived(save(copy, n, counted), log)
        whole = whole + 1 if status == 0 else 0
        if status not in (0, -signal.SIGKILL) or lives.lived(restore(copy, result), log) != 0:
            faults.append(f"at operation {n} the save ended {status} and {sorted(os.listdir(copy))} were left")
        else:
            restored[int(result.read_text())] += 1
        shutil.rmtree(copy)
        n += every
    if faults:
        faults.append(log.read_text(errors="replace")[-5000:])
    return {
        "operations": int(counted.read_text()),
        "deaths": n // every - whole,
        "restored": restored,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="die at every n-th operation only")
    args = parser.parse_args()
    return lives.contested("die_in_save", lambda folder: contest(folder, args.every))


if __name__ == "__main__":
    sys.exit(main())
