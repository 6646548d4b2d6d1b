"""The suite itself: what tests/conftest.py says of files is true."""

from pathlib import Path

import conftest
import pytest

TESTS = Path(__file__).parent
NAMED = {name: getattr(conftest, name) for name in ("TENSORFLOW", "LONGEST_FIRST", "COMPAT")}


@pytest.mark.parametrize("name", NAMED)
def test_files_named_by_conftest_exist(name):
    """A file that was renamed would silently leave its list."""
    assert [file for file in NAMED[name] if not (TESTS / file).is_file()] == []


def test_compat_files_need_no_pytorch():
    """.ci/run leaves files that import PyTorch out on the newest Python."""
    assert [file for file in conftest.COMPAT if "import torch" in (TESTS / file).read_text()] == []


def test_something_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setattr(conftest, "SESSION", tmp_path)
    made = []

    def make(folder):
        made.append(folder)
        (folder / "half").touch()
        if len(made) == 1:
            raise OSError("the first try fails")

    with pytest.raises(OSError):
        conftest.once("thing", make)
    (tmp_path / "thing" / "left over").touch()
    assert conftest.once("thing", make) == conftest.once("thing", make) == tmp_path / "thing"
    assert len(made) == 2 and [path.name for path in (tmp_path / "thing").iterdir()] == ["half"]
