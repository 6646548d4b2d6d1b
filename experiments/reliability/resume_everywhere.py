"""Stop a training after each of its steps and go on: the same batches, losses and final bytes as the unbroken run.

    python experiments/reliability/resume_everywhere.py --steps=50

Each stop is a SIGTERM that the training sends itself when it takes a step's batch. Of every batch that a feed delivers
the digest of its arrays is kept, by its step. Ends with one line of JSON; exits 1 on any difference.
"""

import argparse
import hashlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import lives
import tiny


def life(workdir: Path, argv: list[str], batches: Path, stop_after: int | None):
    """A training that writes `step digest` of every batch, and stops after a step where one is given."""

    def run() -> None:
        import jax
        import numpy as np

        from csn_jax.train import loop

        class Recorded(loop.Watched):
            step = lives.newest_step(workdir)

            def __next__(self):
                batch = super().__next__()
                self.step += 1
                digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(batch)))
                with open(batches, "a") as file:
                    file.write(f"{self.step} {digest.hexdigest()}\n")
                if self.step == stop_after:
                    os.kill(os.getpid(), signal.SIGTERM)
                return batch

        loop.Watched = Recorded
        lives.command("train", [*argv, f"--workdir={workdir}"])()

    return run


def contest(steps: int, feed: str, every: int, kind: str, folder: Path) -> dict:
    """Stop after every `every`-th step: the report."""
    log, faults, checked, began = folder / "log", [], 0, time.monotonic()
    argv = [*lives.tiny_run(kind, folder), f"--config.steps={steps}", "--config.log_every=1", f"--config.feed={feed}"]
    whole, batches = folder / "whole", folder / "whole_batches"
    if lives.lived(life(whole, argv, batches, None), log) != 0:
        return {"feed": feed, "faults": ["the unbroken run failed", log.read_text(errors="replace")[-5000:]]}
    expected, delivered = tiny.fingerprint(whole, steps), batches.read_text().splitlines()
    if len(delivered) < steps:
        faults.append(f"the unbroken run recorded {len(delivered)} batches of {steps}")
    for step in range(1, steps, every):
        workdir, batches = folder / "run", folder / "batches"
        batches.unlink(missing_ok=True)
        first = lives.lived(life(workdir, argv, batches, step), log)
        reached, batches_before = lives.newest_step(workdir), batches.read_text().splitlines()
        batches.unlink()
        second = lives.lived(life(workdir, argv, batches, None), log)
        if (first, reached, second) != (143, step, 0):
            faults.append(f"stopped after {step}: ended {first} at step {reached}, and then {second}")
        elif batches_before[:step] != delivered[:step] or batches.read_text().splitlines() != delivered[step:]:
            faults.append(f"stopped after {step}: other batches")
        elif tiny.fingerprint(workdir, steps) != expected:
            faults.append(f"stopped after {step}: the end differs")
        checked += 1
        shutil.rmtree(workdir)
    if faults:
        faults.append(log.read_text(errors="replace")[-5000:])
    minutes = round((time.monotonic() - began) / 60, 1)
    return {"feed": feed, "steps": steps, "resumed": checked, "minutes": minutes, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--every", type=int, default=1, help="stop after every n-th step only")
    parser.add_argument("--feed", choices=("tfdata", "device"), default="tfdata")
    parser.add_argument("--on", choices=("pictures", "vit", "vectors", "maps"), default="pictures")
    args = parser.parse_args()
    return lives.contested(
        "resume_everywhere",
        lambda folder: contest(args.steps, args.feed, args.every, args.on, folder),
        tensorflow=args.feed == "tfdata",
    )


if __name__ == "__main__":
    sys.exit(main())
