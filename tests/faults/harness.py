"""A harness of this folder as a test runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path


def report_of(name: str, *flags: str) -> dict:
    """What a harness reports. One device is quicker, and a process that forks may have none."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == []
    return report
