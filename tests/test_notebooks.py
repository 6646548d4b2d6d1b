"""The notebooks: clean files, and each of them runs from nothing in an empty folder."""

import importlib.util
import os
import re
from pathlib import Path

import nbformat
import pytest

import csn_jax

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("quickstart", "your_own_table", "masks_on_vectors", "paper_figures")


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_these_are_all_notebooks():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_and_holds_no_output(name):
    book = read(name)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert "/home/" not in text and "/root/" not in text and len(text) < 12_000


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_in_colab_and_installs_this_version(name):
    head, install, *_ = read(name).cells
    badge = re.search(
        r"\]\(https://colab\.research\.google\.com/github/([\w-]+/csn_jax)/blob/main/(\S+)\)", head.source
    )
    assert badge[2] == f"notebooks/{name}.ipynb"
    assert f"git+https://github.com/{badge[1]}@v{csn_jax.__version__}" in install.source
    # Where the package is, the cell does nothing: its one line of work is below this condition.
    condition, work = install.source.strip().splitlines()[-2:]
    assert condition == 'if importlib.util.find_spec("csn_jax") is None:' and work.startswith("    %pip install")
    assert importlib.util.find_spec("csn_jax")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_thin(name):
    """It imports, and defines nothing."""
    for cell in read(name).cells:
        if cell.cell_type == "code":
            assert not re.search(r"^\s*(def|class) |https?://(?!github)|^\s*!", cell.source, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's packages, not ours
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path):
    """Every cell, in an empty folder, on the processor as it is; it ends with pictures to look at."""
    from nbclient import NotebookClient

    book = read(name)
    environment = os.environ | {"XLA_FLAGS": "", "TQDM_DISABLE": "1"}
    client = NotebookClient(book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    last = book.cells[-1]
    assert last.cell_type == "code" and any("image/png" in output.get("data", {}) for output in last.outputs)
    told = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", ()))
    assert "Warning" not in told and "rror:" not in told
