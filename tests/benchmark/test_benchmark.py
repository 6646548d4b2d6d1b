"""The benchmark: its figures from known measurements, its workers, and the real command at a tiny size."""

import json
import subprocess
import sys

import pytest

from csn_jax import benchmark
from csn_jax.benchmark.suites import accuracy
from csn_jax.errors import MachineError, UserError

FIELDS = {"name", "ours", "theirs", "ratio", "low", "high", "unit"}


def test_ratios_are_of_turns_and_above_one_where_ours_is_better():
    values = [(10.0, 5.0), (30.0, 10.0), (20.0, 20.0)]
    more = benchmark.summary("x", values, "images/s", True)
    assert (more["ours"], more["theirs"]) == (20, 10)
    assert (more["ratio"], more["low"], more["high"]) == (2, 1, 3)
    less = benchmark.summary("x", values, "s", False)
    assert (less["ratio"], less["low"], less["high"]) == (0.5, pytest.approx(1 / 3), 1)
    assert more.keys() == FIELDS


def test_ours_alone():
    alone = benchmark.summary("x", [(3.0, None), (0.0, None)], "%", False)
    assert alone["ours"] == 1.5 and alone["theirs"] is alone["ratio"] is alone["low"] is alone["high"] is None
    told = benchmark.told([alone, alone | {"name": "x, peak memory"}])
    assert "1.5" in told and "peak memory" in told


def test_nothing_measured_is_no_ratio():
    """A side that measures 0, as a wait can be, is no divisor."""
    found = benchmark.summary("x", [(0.0, 2.0), (0.0, 3.0)], "%", False)
    assert found["ratio"] is None and found["theirs"] == 2.5


def test_a_worker_measures_when_asked_and_its_death_is_told():
    worker = benchmark.Worker([sys.executable, "-m", "csn_jax.benchmark.suites", "loss", "1", "--tiny"])
    try:
        assert worker.prepared()
        assert worker.measure() > 0 and worker.peak_bytes > 10e6
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(MachineError, match="ended in the middle with status -9"):
            worker.measure()
    finally:
        worker.close()


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="--turns=0; give"):
        benchmark.main([f"--out={tmp_path / 'x.json'}", "--turns=0"])
    with pytest.raises(UserError, match="there is no folder"):
        benchmark.main([f"--out={tmp_path / 'none' / 'x.json'}"])
    with pytest.raises(UserError, match="this is a folder; give a file"):  # and not after all that was measured
        benchmark.main([f"--out={tmp_path}"])
    with pytest.raises(UserError, match="stop"):
        benchmark.main(["--suite=stop", f"--out={tmp_path / 'x.json'}"])


def test_the_least_validation_error_of_whole_lines(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert accuracy.best(log) > 1
    key = "validation/triplet_error/overall"
    log.write_text(
        f'{{"step": 1, "train/loss": 0.1}}\n{{"step": 2, "{key}": 0.2}}\n{{"step": 4, "{key}": 0.3}}\n{{"{key}"'
    )
    assert accuracy.best(log) == 0.2


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["step", "feed", "loss", "evaluate", "search", "startup", "accuracy"])
def test_the_command(suite, tmp_path):
    """Every suite, tiny, against what is installed here."""
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "csn_jax.benchmark", f"--suite={suite}", f"--out={out}", "--tiny", "--turns=2"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["suite"] == suite and "cores" in report["machine"] and report["results"]
    for one in report["results"]:
        assert one.keys() == FIELDS and one["ours"] >= 0
        assert one["theirs"] is None or one["ratio"] is None or one["low"] <= one["ratio"] <= one["high"]
        assert one["name"].removesuffix(benchmark.MEMORY) in done.stdout
    if suite != "loss":
        assert any(one["theirs"] for one in report["results"])
