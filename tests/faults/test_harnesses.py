"""Short runs of the harnesses here; docs/RELIABILITY.md has the figures of long ones."""

import os
import shutil

import pytest
from harness import report_of


def test_no_flipped_bit_is_silent():
    outcomes = report_of("flip_bits", "--flips=80")["outcomes"]
    assert sum(outcomes.values()) == 80
    assert min(outcomes["checkpoint, told"], outcomes["cache, made again"], outcomes["index, told"]) >= 10


def test_a_save_may_die_anywhere():
    report = report_of("die_in_save", "--every=12")
    assert report["operations"] > 50 and report["deaths"] >= 5
    assert report["restored"]["3"] and report["restored"]["4"]


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["tfdata", "device"])
def test_going_on_after_any_step(feed):
    assert report_of("resume_everywhere", "--steps=10", "--every=4", f"--feed={feed}")["resumed"] == 3


@pytest.mark.slow
def test_second_writers():
    assert report_of("second_writer", "--tries=3")["refused"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("work", ["embed", "fonts", "table"])
def test_other_work_killed(work):
    report = report_of("kill_work", f"--work={work}", "--kills=4")
    assert report["kills"] == 4 and report["went_on"] >= 1


@pytest.mark.slow
def test_a_full_disk():
    assert report_of("fill_disk", f"--step={1 << 18}")["filled"] >= 3


@pytest.mark.browser
def test_labels_that_would_be_markup():
    if not shutil.which("chromium") and os.environ.get("CSN_JAX_BROWSER") != "required":
        pytest.skip("no chromium; apt-get install chromium")
    report = report_of("hostile_labels", "--labels=250")
    assert report["in_the_page"] == 250 and report["in_reports"] > 150


def test_damaged_images_are_told_and_bombs_stay_small():
    report = report_of("damaged_images")
    assert sum(report["reasons"].values()) == 40 and len(report["reasons"]) >= 5
