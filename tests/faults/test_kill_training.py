"""Runs of kill_training.py, in a process that has no devices yet and so may fork."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def kill_training(*flags: str) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device is quicker
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_training.py")), *flags],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_kills_leave_no_trace_in_the_bytes():
    """SIGKILL inside a save, while training, while evaluating and while starting, on both feeds."""
    report = kill_training("--kills=5")
    assert report["kills"] == 5 and report["faults"] == []
    assert set(report["moments"]) == {"save", "training", "evaluation", "start"}
    assert report["unfinished_saves"] >= 1  # at least one kill has certainly cut a save
    tfdata, device = report["fingerprints"]["tfdata"], report["fingerprints"]["device"]
    assert tfdata.pop("config.json") != device.pop("config.json")
    assert tfdata == device  # the two feeds give the same log, results and parameters


@pytest.mark.slow
@pytest.mark.parametrize(("number", "kills"), [("KILL", 20), ("TERM", 8), ("USR1", 8)])
def test_many_random_moments(number, kills):
    report = kill_training(f"--kills={kills}", f"--signal={number}", "--seed=1")
    assert report["kills"] == kills and report["faults"] == []
    if number != "KILL":
        assert any("saved" in moment for moment in report["moments"])
