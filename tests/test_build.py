"""Wheel and source archive: the same bytes from the same commit, complete, with presets and the glyph pack."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two folders of what two clones were built to, the second under another umask, time zone and path."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git checkout: what is committed cannot be told")
    folders = []
    for name, environment, umask in (("one", {}, 0o022), ("another place", {"TZ": "Asia/Tokyo", "LC_ALL": "C"}, 0o077)):
        folder = tmp_path_factory.mktemp(name)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clone")], check=True, umask=umask)
        subprocess.run(
            [str(folder / "clone/.ci/build"), str(folder / "dist")],
            env=os.environ | {"PYTHON": sys.executable} | environment,
            check=True,
            capture_output=True,
            umask=umask,
        )
        folders.append(folder / "dist")
    return folders


def test_two_builds_are_the_same_bytes(built):
    one, another = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in built)
    assert {name.rpartition(".")[2] for name in one} == {"whl", "gz"}
    assert one.keys() == another.keys()
    for name, data in one.items():
        assert data == another[name], f"{name} differs"


def test_everything_is_inside(built):
    wheel = next(built[0].glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    clone = built[0].parent / "clone"
    tracked = subprocess.run(["git", "ls-files"], cwd=clone, capture_output=True, text=True, check=True).stdout.split()
    package = {name for name in tracked if name.startswith("csn_jax/")}
    link = "csn_jax/cli/configs"  # which a wheel cannot hold: it has the files
    presets = {f"{link}/{name.removeprefix('configs/')}" for name in tracked if name.startswith("configs/")}
    assert link in package and f"{link}/features.py" in presets
    package = (package - {link}) | presets
    assert package <= names and any(name.endswith("/glyph_pack.npz") for name in package)
    assert not {name for name in names - package if not name.startswith("csn_jax-")}
    with tarfile.open(next(built[0].glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked if not name.startswith(".")} <= inside


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A folder into which pip has installed the wheel, without what it requires."""
    folder = tmp_path_factory.mktemp("site")
    wheel = next(built[0].glob("*.whl"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(command, check=True)
    return folder


def test_the_wheel_runs_by_itself(installed, tmp_path):
    """With the packages that are installed here: the pack is read from it."""
    code = "import csn_jax, csn_jax.data.sources.glyphs as g; print(csn_jax.__file__); print(len(g.read_pack()[0]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    place, count = done.stdout.split()
    assert place.startswith(str(installed)) and int(count) == 318


FRONT_DOOR = {
    "commands": ([], "benchmark"),
    "version": (["--version"], "csn_jax 0.1.0"),
    "help": (["train", "--help"], "features, fonts, glyphs"),
    "completion": (["--completion", "bash"], "--config=glyphs:in_batch"),
}


@pytest.mark.parametrize("name", FRONT_DOOR)
def test_the_front_door_of_a_wheel_needs_no_other_package(name, installed, tmp_path):
    """The console script, in a Python that has its standard library alone (-S), far from the checkout."""
    argv, words = FRONT_DOOR[name]
    done = subprocess.run(
        [sys.executable, "-S", str(installed / "bin" / "csn_jax"), *argv],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "" and words in done.stdout


def test_the_presets_of_a_wheel_go_by_name(installed, tmp_path):
    code = "from csn_jax import cli; print(cli.load_preset('features').backbone.name, cli.presets.FOLDER)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["projection", str(installed / "csn_jax" / "cli" / "configs")], done.stderr
