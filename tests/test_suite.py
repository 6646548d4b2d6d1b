"""The suite itself: what tests/conftest.py says of files is true."""

import ast
import re
import zlib
from pathlib import Path

import kept_programs
import pytest

TESTS = Path(__file__).parent
# Read and not imported: several folders have a conftest.
ASSIGNED = {
    line.targets[0].id: line.value
    for line in ast.parse((TESTS / "conftest.py").read_text()).body
    if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
}
NAMED = {name: ast.literal_eval(ASSIGNED[name]) for name in ("TENSORFLOW", "LONGEST_FIRST", "COMPAT")}


@pytest.mark.parametrize("name", NAMED)
def test_files_named_by_conftest_exist(name):
    """A file that was renamed would silently leave its list."""
    assert [file for file in NAMED[name] if not (TESTS / file).is_file()] == []


def test_compat_files_need_no_pytorch():
    """.ci/run leaves files that import PyTorch out on the newest Python."""
    assert [file for file in NAMED["COMPAT"] if "import torch" in (TESTS / file).read_text()] == []


def test_ci_runs_what_the_everyday_tests_leave_out():
    """Tests of a marker that only one of the two files names would never run."""
    everyday, command = ((TESTS.parent / name).read_text() for name in ("pyproject.toml", ".ci/run"))
    left_out = re.findall(r"\bnot (\w+)", re.search("addopts = \"-m '(.*?)'", everyday)[1])
    assert left_out and f"-m '{' or '.join(left_out)}'" in command


def test_something_is_made_once(monkeypatch, tmp_path, pytestconfig):
    conftest = pytestconfig.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
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


def test_whole_programs_are_kept_for_the_next_session(tmp_path):
    session, kept, later = (tmp_path / name for name in ("session", "kept", "later"))
    session.mkdir()
    program = zlib.compress(bytes(range(256)))
    (session / "jit_whole-1-cache").write_bytes(program)
    (session / "jit_cut_off-2-cache").write_bytes(program[:-3])
    kept_programs.keep(session, kept)
    (session / "jit_whole-1-cache").write_bytes(zlib.compress(b"another"))
    kept_programs.keep(session, kept)
    kept_programs.lend(kept, later)
    assert {path.name: path.read_bytes() for path in later.iterdir()} == {"jit_whole-1-cache": program}


def test_programs_are_forgotten_when_they_take_too_much_room(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_programs, "ROOM", 10)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "jit_old-1-cache").write_bytes(bytes(11))
    kept_programs.keep(tmp_path / "session", tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []
