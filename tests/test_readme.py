"""README's commands and Python, run in the order in which they stand. A tiny run stands for the quickstart's."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shop

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALL = ("steps=2", "batch_size=16", "eval_every=2", "data.train_triplets=100", "data.test_triplets=60")


def commands() -> list[list[str]]:
    """The words of each indented line, without the program's name."""
    lines = re.findall(r"^    \.venv/bin/csn_jax (.*)$", README.replace("\\\n", ""), flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_the_commands_of_a_first_visit_are_there():
    assert [words[0] for words in commands()] == [
        "embed",
        "search",
        "train",
        "embed",
        "search",
        "train",
        "search",
        "adapt",
    ]
    assert len(re.findall(r"^    \S", README, flags=re.MULTILINE)) == len(commands())
    assert not any("=-" in word for words in commands() for word in words)  # the weights of first searches are positive


@pytest.fixture(scope="module")
def folder(tmp_path_factory, finished):
    """A folder in which README's names are there: a finished run, a table with pictures, a table of vectors."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(finished, folder / "runs" / "quickstart")
    table = shop.columns()
    shop.write(folder / "products.csv", table, pictures=True)
    table["closure"] = table.pop("colour")
    table["heel"] = [("flat", "high", "wedge")[row % 3] for row in range(len(table["closure"]))]
    shop.write(folder / "products.csv", table)
    shop.write(folder / "products.parquet", table, vector=shop.vectors(shop.columns()))
    return folder


@pytest.mark.slow
def test_commands_run(folder):
    for words in commands():
        words = [word.replace("=ID", "=images/000.png") for word in words]
        if words[0] == "train":
            words += [f"--config.{setting}" for setting in SMALL]
        done = subprocess.run(
            [sys.executable, "-m", "csn_jax", *words],
            cwd=folder,
            env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
        assert done.stdout, words


@pytest.mark.slow
def test_python_runs(folder, monkeypatch):
    """After the commands, whose files it opens."""
    monkeypatch.chdir(folder)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["ids"].shape == names["distances"].shape == (5, 10)
    assert not {*names["ids"][0].tolist()} & {str(names["index"].ids[0])}
