"""Runs a program of experiments/reliability as a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "reliability"


def report_of(name: str, *flags: str) -> dict:
    """The report of a program, which must find no fault. It runs on one device, which is quicker."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, str(FOLDER / f"{name}.py"), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == []
    return report
