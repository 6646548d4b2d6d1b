"""Node for the program of the page of csn_jax teach: the system's, or the one that Playwright brings."""

import json
import shutil
import subprocess

import pytest
from browsing import browser, visit  # noqa: F401  (fixtures)

from csn_jax.teach.folder import worker_source


@pytest.fixture(scope="session")
def node():
    """node(code, **inputs): what `code` returns, after the program of the page's worker. Inputs are its variables."""
    path = shutil.which("node")
    if path is None:
        driver = pytest.importorskip("playwright._impl._driver")
        path = str(driver.compute_driver_executable()[0])

    def run(code, **inputs):
        program = f"{worker_source()}\nconst {{ {', '.join(inputs)} }} = JSON.parse(require('fs').readFileSync(0));\n"
        program += f"process.stdout.write(JSON.stringify((() => {{ {code} }})()));"
        done = subprocess.run([path, "-e", program], input=json.dumps(inputs), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
