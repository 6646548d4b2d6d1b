"""The experiments behind docs/RESULTS.md: what is planned, what the page claims of figures, and all at a tiny size."""

import math
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(FOLDER))
import coverage  # noqa: E402
import evidence  # noqa: E402
import plan  # noqa: E402
import sections  # noqa: E402

sys.path.remove(str(FOLDER))

PLACES = plan.Places(Path("/runs"), Path("/fonts"), Path("/shoes.csv"), Path("/emoji.csv"), Path("/vectors"))


def test_every_seed_of_everything_before_the_next():
    runs = plan.planned(PLACES, list(plan.EXPERIMENTS))
    assert [plan.seed_of(run) for run in runs] == sorted(plan.seed_of(run) for run in runs)
    assert len({(run.name, run.verb) for run in runs}) == len(runs)  # shared runs are the same in every experiment
    names = [run.name for run in runs]
    assert {f"{source}/{v}_{s}" for source in sections.TITLES for v in plan.VARIANTS for s in plan.SEEDS} <= set(names)
    for run in runs:  # what a run needs is planned before it
        if run.verb != "train":
            flag = next((flag for flag in run.flags if flag.startswith(("--workdir=", "--index="))), None)
            if flag is None:  # it needs a table alone
                continue
            workdir = flag.partition("=/runs/")[2].removesuffix("/test.npz")
            assert names.index(workdir) < names.index(run.name) or workdir == run.name


def test_intervals_are_students():
    found = evidence.estimate([0.10, 0.12, 0.11, 0.15, 0.12])
    assert found.mean == pytest.approx(0.12)
    half = 2.776445 * statistics.stdev([0.10, 0.12, 0.11, 0.15, 0.12]) / math.sqrt(5)  # of a table of Student's t
    assert (found.low, found.high) == (pytest.approx(0.12 - half, abs=1e-6), pytest.approx(0.12 + half, abs=1e-6))
    assert str(found) == f"12.00 ({100 * (0.12 - half):.2f} to {100 * (0.12 + half):.2f})"
    assert str(evidence.estimate([0.25])) == "25.00"


def test_claims_are_settled_seed_by_seed():
    """Seeds may differ by more than two settings do."""
    better, worse = [0.10, 0.20, 0.30], [0.12, 0.219, 0.321]
    assert evidence.verdict(evidence.minus(worse, better))[0] == "holds"
    assert evidence.verdict(evidence.minus(better, worse))[0] == "the reverse holds"
    assert evidence.verdict(evidence.minus(better, better[::-1]))[0] == "is not settled"
    assert evidence.verdict([0.1])[0] == "is not settled"  # one seed settles nothing
    assert evidence.claim("It rains", [0.02, 0.019, 0.021]) == "It rains: **holds**, 2.00 (1.75 to 2.25) points."


def command(name: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(FOLDER / name), *flags], capture_output=True, text=True)


def test_a_missing_run_is_one_sentence_and_no_page(tmp_path):
    done = command("write.py", "--tiny", f"--runs={tmp_path}", f"--out={tmp_path / 'page.md'}", "--only", "in_batch")
    assert done.returncode == 1 and not (tmp_path / "page.md").exists()
    assert "4 files of runs are missing" in done.stderr and done.stderr.count("\n") == 1


def test_the_page_is_what_the_kept_files_say(tmp_path):
    """Not a figure of it is typed by hand."""
    docs = FOLDER.with_name("docs")
    page = (docs / "RESULTS.md").read_text()
    flags = (f"--runs={docs / 'results/runs'}", f"--out={tmp_path / 'RESULTS.md'}")
    done = command("write.py", *flags, "--only", *re.findall(r"run\.py --only (\w+)", page))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "RESULTS.md").read_text() == page
    kept = [{path.relative_to(where) for path in where.rglob("*.json*")} for where in (docs, tmp_path)]
    assert kept[1] <= kept[0]  # runs of sections that are not whole yet may lie there too


def test_a_result_of_other_flags_is_refused(tmp_path):
    """A kept figure does not stand for a run that the plan has changed since."""
    kept = tmp_path / "runs"
    shutil.copytree(FOLDER.with_name("docs") / "results" / "runs" / "fonts", kept / "fonts")
    file = kept / "fonts" / "in_batch_3" / "took.json"
    file.write_text(file.read_text().replace("--config.steps=800", "--config.steps=801"))
    for name in ("write.py", "run.py"):
        flags = (f"--runs={kept}", "--only", "in_batch") + (f"--out={tmp_path / 'page.md'}",) * (name == "write.py")
        done = command(name, *flags)
        assert (
            done.returncode == 1 and "fonts/in_batch_3" in done.stdout + done.stderr and not done.stderr.count("\n") > 1
        )
    assert not (tmp_path / "page.md").exists()


def test_pictures_of_the_page_are_there():
    docs = FOLDER.with_name("docs")
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (docs / "RESULTS.md").read_text())
    assert pictures and all((docs / picture).is_file() for picture in pictures)


IN_ONE_PROCESS = f"""
import contextlib, io, runpy, sys
from importlib import import_module
from types import SimpleNamespace

sys.path.insert(0, {str(FOLDER)!r})
import run


class Command:
    def __init__(self, command, cwd, stdout, stderr):
        name, *flags = command[2:] if command[1] == "-m" else command[1:]
        sys.argv, out = [name, *flags], io.StringIO()
        with contextlib.redirect_stdout(out):
            if name.startswith("csn_jax."):
                import_module(name).main(flags)
            else:
                with contextlib.suppress(SystemExit):
                    runpy.run_path(name, run_name="__main__")
        stdout.write(out.getvalue().encode())

    def wait(self):
        return 0


run.subprocess = SimpleNamespace(Popen=Command)
sys.exit(run.main())
"""


@pytest.mark.slow
def test_everything_at_a_tiny_size(tmp_path):
    """The commands of all experiments, in one process: starting Python 70 times would take ten minutes."""
    flags = ("--tiny", f"--runs={tmp_path / 'runs'}")
    done = subprocess.run([sys.executable, "-c", IN_ONE_PROCESS, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "0 of 70 runs are done" in done.stdout
    assert command("run.py", *flags).stdout == "70 of 70 runs are done\n"
    done = command("write.py", *flags, f"--out={tmp_path / 'page.md'}")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text()
    assert page.count("\n## ") == len(plan.EXPERIMENTS) and "nan" not in page
    again = ("--tiny", f"--runs={tmp_path / 'results/runs'}", f"--out={tmp_path / 'again/page.md'}")
    assert command("write.py", *again).returncode == 0 and (tmp_path / "again/page.md").read_text() == page
    (tmp_path / "runs" / "emoji" / "fixed_0" / "results.json").unlink()
    assert "emoji/fixed_0" in command("write.py", *flags, f"--out={tmp_path / 'other.md'}").stderr


def test_intervals_hold_the_true_value():
    """A smoke test of `python experiments/coverage.py`: few groups and many, few failures and many."""
    for name, draw in coverage.MEASURES.items():
        for n, error in ((31, 0.03), (100, 0.2)):
            assert coverage.coverage(draw, n, error, times=60) >= 0.85, (name, n, error)
    shown = command("coverage.py", "--times=2", "--groups=20").stdout.splitlines()
    assert len(shown) == 2 + len(coverage.MEASURES) and {line.count("|") for line in shown} == {8}
