"""The notebooks: clean files that run from start to end in an empty folder and show what their text says."""

import importlib.util
import json
import os
import re
import shutil
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
    # With the package installed, the cell does nothing: the only other line is under this condition.
    condition, work = install.source.strip().splitlines()[-2:]
    assert condition == 'if importlib.util.find_spec("csn_jax") is None:' and work.startswith("    %pip install")
    assert importlib.util.find_spec("csn_jax")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_thin(name):
    """Notebooks import code and define none."""
    for cell in read(name).cells:
        if cell.cell_type == "code":
            assert not re.search(r"^\s*(def|class) |https?://(?!github)|^\s*!", cell.source, re.MULTILINE)


def check_quickstart(folder: Path, printed: str):
    """The query is an easy one: 10 and 6 of 10, and 10 and 7 with seed 1. The means over all queries are 8 and 1."""
    right = dict(re.findall(r"^by (\w+): (\d+) of 10 have the same \1$", printed, re.MULTILINE))
    assert int(right["character"]) >= 8 and int(right["font"]) >= 3


def check_paper_figures(folder: Path, printed: str):
    """All rows learn from the same number of triplets. One space is the worst; masks are near the specialists."""
    runs = {path.name: json.loads((path / "config.json").read_text()) for path in (folder / "runs").iterdir()}
    assert set(runs) == {"standard", "specialists", "fixed", "learned"}
    networks = {name: 2 if name == "specialists" else 1 for name in runs}
    assert len({networks[name] * config["steps"] * config["batch_size"] for name, config in runs.items()}) == 1
    errors = {name: json.loads((folder / "runs" / name / "results.json").read_text()) for name in runs}
    overall = {name: results["triplet_error"]["overall"] for name, results in errors.items()}
    assert 1.5 * max(overall["specialists"], overall["fixed"], overall["learned"]) < overall["standard"]
    assert overall["fixed"] < overall["specialists"] + 0.01 and overall["learned"] < overall["specialists"] + 0.02


def begin_quickstart(folder: Path):
    """Put a finished run of the defaults, whose training takes four minutes, where the notebook trains. The feed is
    another one, which changes no other byte."""
    if finished := os.environ.get("CSN_JAX_QUICKSTART"):
        workdir = shutil.copytree(finished, folder / "runs" / "quickstart")
        config = json.loads((workdir / "config.json").read_text()) | {"feed": "device"}
        (workdir / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


# What these learn is not checked, so fewer steps run the same cells.
SHORTER = {"your_own_table": ("steps=500,", "steps=40,"), "masks_on_vectors": ("steps=1000,", "steps=100,")}
CHECKS = {"quickstart": check_quickstart, "paper_figures": check_paper_figures}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's packages, not ours
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path, optimized):
    """Every cell runs in an empty folder, the last one shows pictures, and the results are what the text says."""
    from nbclient import NotebookClient

    if name == "quickstart":
        begin_quickstart(tmp_path)
    book = read(name)
    if name in SHORTER:
        (cell,) = (cell for cell in book.cells if SHORTER[name][0] in cell.source)
        cell.source = cell.source.replace(*SHORTER[name])
    environment = os.environ | {"XLA_FLAGS": "", "TQDM_DISABLE": "1"}
    client = NotebookClient(book, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    last = book.cells[-1]
    assert last.cell_type == "code" and any("image/png" in output.get("data", {}) for output in last.outputs)
    printed = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", ()))
    assert "Warning" not in printed and "rror:" not in printed
    if name in CHECKS:
        CHECKS[name](tmp_path, printed)
