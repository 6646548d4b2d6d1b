"""200 names that try to leave their folder: no picture outside it is read, and no folder or file is made outside it."""

import os
import random
import sys

import numpy as np
import pyarrow
import pytest
import shop
from PIL import Image

from csn_jax.config import Config, DataConfig, PreprocessConfig
from csn_jax.data.columns import Columns
from csn_jax.data.sources import table
from csn_jax.data.table_pictures import find_pictures
from csn_jax.errors import UserError
from csn_jax.runtime.record import check_name

HEADS = (
    "../",
    "../../",
    "a/../../",
    "./../",
    "link/",
    "/",
    "//",
    "/proc/self/root/",
    "~/",
    "..\\",
    "C:\\",
    "file://",
    "a/./../../",
)
HEADS += (
    "\u2024\u2024/",
    "．．/",
    "%2e%2e/",
    "..%2f",
    "....//",
    "link/../",
    "\u202e../",
    "a" * 250 + "/../../",
    "\udcff/../../",
)
TAILS = (
    "secret.png",
    "secret.png/",
    "outside/secret.png",
    "secret.png ",
    "./secret.png",
    "SECRET.PNG",
    "secret.png/.",
    "s?.png",
)


def hostile_names(folder) -> list[str]:
    """Heads and tails, alone and together; and the picture's true path in several spellings."""
    true = str(folder / "outside" / "secret.png")
    names = [
        true,
        f"/{true}",
        f"./{true}",
        true.replace("/", "//"),
        "link",
        "linked.png",
        "link/secret.png",
        "..",
        ".",
        "",
    ]
    names += [head + tail for head in HEADS for tail in TAILS]
    rng = random.Random(0)
    while len(names) < 200:
        names.append("".join(rng.choices(HEADS, k=2)) + rng.choice(TAILS))
    return names[:200]


@pytest.fixture
def folder(tmp_path):
    """A table's folder with links that lead out of it, to a good picture."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "data" / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for place in ("outside/secret.png", "secret.png", "data/good.png", "data/a/good.png"):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(tmp_path / place)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "data" / "linked.png").symlink_to(tmp_path / "outside" / "secret.png")
    return tmp_path


def test_no_name_of_a_table_leaves_its_folder(folder, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(folder / "cache"))
    opened, armed = [], True

    def hook(event, arguments):
        if armed and event == "open" and "secret" in os.fsdecode(arguments[0]):
            opened.append(arguments[0])

    sys.addaudithook(hook)
    preprocess = PreprocessConfig(size=8, mean=(0.5,) * 3, std=(0.3,) * 3)
    names, outcomes = hostile_names(folder), {"outside": 0, "unreadable": 0}
    for name in names:
        columns = {"image": ["good.png", name, "a/good.png"], "colour": ["red", "red", "blue"]}
        path = shop.write(folder / "data" / "products.csv", columns) if printable(name) else None
        if path is None:  # no file of UTF-8 can hold it
            outcomes["unreadable"] += 1
            continue
        with pytest.raises(UserError) as error:
            table.read(Config(data=DataConfig(source="table", path=str(path)), preprocess=preprocess))
        outcomes["outside" if "lies outside" in str(error.value) else "unreadable"] += 1
        assert "\n" not in str(error.value)
    armed = False
    assert opened == [] and outcomes["outside"] >= 60 and len(names) == 200, outcomes


def test_no_template_and_no_path_beside_bytes_leaves_the_folder(folder):
    """All names at once: as cells of a template, and as paths without bytes inside a Parquet table."""
    data = (folder / "data").resolve()
    names = [name for name in hostile_names(folder) if printable(name)]
    columns = Columns(data / "t.csv", {"name": names}, None, None)
    structs = pyarrow.table({"image": [{"bytes": None, "path": name} for name in names]})
    for found in (
        find_pictures(columns, "{name}"),
        find_pictures(columns, "a/../{name}"),
        find_pictures(Columns(data / "t.parquet", {}, None, structs), "image"),
    ):
        sources = [*found.sources(range(len(names)))]
        assert all(path is None or path.resolve().is_relative_to(data) for path, _ in sources)
        assert sum("lies outside" in (fault or "") for _, fault in sources) >= 60


def printable(name: str) -> bool:
    return not any(0xD800 <= ord(one) < 0xE000 for one in name)


def test_no_name_of_a_condition_leaves_the_workdir(folder):
    """Names of conditions become names of folders and pictures; a name that passes stays below."""
    for name in hostile_names(folder):
        try:
            check_name(name)
        except UserError:
            continue
        for made in (folder / "data" / name, folder / "data" / f"neighbours_{name}.png"):
            assert made.parent == folder / "data" and made.name not in (".", "..", ""), name
