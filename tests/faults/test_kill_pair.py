"""A short run of kill_pair.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killing_one_of_two_leaves_no_trace_in_the_bytes():
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_pair.py")), "--kills=4"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 4 and report["faults"] == []
    assert sum(n for moment, n in report["moments"].items() if "coordinator" in moment) == 2
