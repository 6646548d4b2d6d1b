"""Wheel and source archive: the same bytes from the same commit, whole, and with the glyph pack."""

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
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    package = {name for name in tracked if name.startswith("csn_jax/")}
    assert package <= names and "csn_jax/data/sources/glyph_pack.npz" in package
    assert not {name for name in names - package if not name.startswith("csn_jax-")}
    with tarfile.open(next(built[0].glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked if not name.startswith(".")} <= inside


def test_the_wheel_runs_by_itself(built, tmp_path):
    """Unpacked somewhere, with the packages that are installed here: the pack is read from it."""
    zipfile.ZipFile(next(built[0].glob("*.whl"))).extractall(tmp_path / "site")
    code = "import csn_jax, csn_jax.data.sources.glyphs as g; print(csn_jax.__file__); print(len(g.read_pack()[0]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    place, count = done.stdout.split()
    assert place.startswith(str(tmp_path)) and int(count) == 318
