"""README's commands and Python, run in the order in which they stand, on a tiny run in place of the quickstart's."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shop
import tiny

from csn_jax.config import DataConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TRIPLETS = [flag for flag in tiny.ARGUMENTS if "_triplets=" in flag]  # of the finished run, which others are held to
BRIEF = ("--config.steps=2", "--config.batch_size=16", "--config.eval_every=2", *TRIPLETS)


SMALL = "steps=2, batch_size=16, data=DataConfig(train_triplets=100, test_triplets=60)"


def commands() -> list[str]:
    """The lines that are set in as code, those with a backslash joined to the next."""
    return re.findall(r"^    (\.venv/bin/.*)$", README.replace("\\\n", ""), flags=re.MULTILINE)


def test_there_are_commands_of_every_verb():
    verbs = {word for command in commands() for word in re.findall(r"-m csn_jax\.(\w+)", command)}
    assert verbs == {"train", "evaluate", "embed", "search", "explore", "report", "adapt", "port", "benchmark"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, finished):
    """A folder in which README's names are there: the presets, a finished run, a table, a table of vectors."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(finished, folder / "runs" / "quickstart")
    table = shop.columns()
    table["closure"], table["heel"] = table.pop("colour"), table.pop("size")
    colours = shop.columns()["colour"]
    shop.write(folder / "products.csv", table)
    (folder / "images").mkdir()
    for name, row in zip(table["image"], range(60), strict=True):
        shop.draw(folder / name, row, table["category"][row], colours[row])
    shop.write(folder / "products.parquet", table, vector=shop.vectors(shop.columns()))
    return folder


@pytest.mark.slow
def test_commands_run(folder):
    ours = [command for command in commands() if "pip install" not in command]
    # A checkpoint that was released is not at hand: the folder that the next command exports stands for it.
    ours.sort(key=lambda command: "CHECKPOINT" in command)
    for command in ours:
        words = shlex.split(command.replace("CHECKPOINT", "exported").replace("=ID", "=images/000.png"))
        assert words[0] == ".venv/bin/python", command
        if "csn_jax.train" in command:
            words += [flag for flag in BRIEF if flag.split("=")[0] not in command]
        if "csn_jax.benchmark" in command:
            words += ["--tiny", "--turns=1"]
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=folder,
            env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout, command


@pytest.mark.slow
def test_python_runs(folder, monkeypatch):
    """After the commands, whose files it opens."""
    monkeypatch.chdir(folder)
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    names = {"DataConfig": DataConfig}
    for block in blocks:
        exec(block.replace("steps=2_000", SMALL), names)
    assert names["e"].shape == (2, 8) and names["ids"].shape == (5, 10)
    assert set(names["results"]["triplet_error"]["by_condition"]) == {"character", "font"}
