"""Records of a run: exactly once, whole lines, readable by TensorBoard; and what a terminal shows."""

import io
import json
import os
import struct
import subprocess
import sys

import pytest

from csn_jax.runtime import writer
from csn_jax.runtime.event_file import EventFile, _masked_crc


def log(workdir, start, steps):
    records = writer.Writer(workdir, start)
    for step in steps:
        records.log(step, {"loss": step / 7})
        records.log_timing(step, {"images_per_second": 3.0})
        records.flush()
    records.close()


def test_a_resumed_log_has_the_bytes_of_an_unbroken_one(tmp_path):
    """Cut back to the restored step, whatever was logged after it, torn line included."""
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    log(tmp_path / "whole", 0, range(1, 9))
    log(tmp_path / "broken", 0, range(1, 7))
    with open(tmp_path / "broken" / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 7, "lo')  # killed while writing
    log(tmp_path / "broken", 4, range(5, 9))
    for name in ("metrics.jsonl", "timing.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    log(tmp_path / "broken", 0, range(1, 9))  # no checkpoint was whole: from the beginning
    assert (tmp_path / "broken" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_lines_that_are_no_records_go(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1}\n\n{"no": 1}\n[2]\nnull\n\xff\xfe\n{"step": 2}\n{"step": "3"}\n'
    )
    log(tmp_path, 2, [])
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_floats_are_written_exactly(tmp_path):
    log(tmp_path, 0, [1])
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 1 / 7


def test_a_short_write_is_a_full_disk(tmp_path):
    """The kernel may take half a line just before a disk is full; that is no success."""
    records = writer.Writer(tmp_path, 0)

    class Short(io.RawIOBase):
        name = "metrics.jsonl"

        def write(self, data):
            return len(data) - 1

    records._metrics, kept = Short(), records._metrics
    with pytest.raises(OSError, match="No space left on device: 'metrics.jsonl'"):
        records.log(1, {"loss": 1.0})
    kept.close()
    records.close()


def events(path):
    """Read an event file by hand: [(step, {tag: value})], every checksum verified."""
    data, found = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        assert _masked_crc(data[:8]) == data[8:12] and _masked_crc(data[12 : 12 + size]) == data[12 + size : 16 + size]
        found.append(data[12 : 12 + size])
        data = data[16 + size :]
    return found


def test_checksums_are_those_of_crc32c():
    """RFC 3720's examples, through the mask of the record format."""
    for data, crc in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)):
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        assert struct.unpack("<I", _masked_crc(data))[0] == masked


@pytest.mark.slow
def test_tensorflow_reads_the_event_file(tmp_path):
    """Tags, steps beyond one byte, values, and the mark that has TensorBoard forget the steps after a restart."""
    tf = pytest.importorskip("tensorflow")
    file = EventFile(tmp_path, 299)
    file.scalars(300, {"train/loss": 0.25, "x" * 200: -3.0})
    file.scalars(2**40, {"train/loss": float("nan")})
    file.close()
    (path,) = tmp_path.iterdir()
    read = []
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        read.append((event.step, [(value.tag, value.simple_value) for value in event.summary.value], event))
    assert read[0][2].file_version == "brain.Event:2"
    assert read[1][0] == 300 and read[1][2].session_log.status == 1  # START
    assert read[2][:2] == (300, [("train/loss", 0.25)]) and read[3][:2] == (300, [("x" * 200, -3.0)])
    assert read[4][0] == 2**40 and str(read[4][1]) == "[('train/loss', nan)]"


def test_event_files_of_two_lives_lie_side_by_side(tmp_path):
    """Started twice within a second, the second does not write over the first."""
    for start in (0, 5):
        file = EventFile(tmp_path, start)
        file.scalars(start + 1, {"loss": 1.0})
        file.close()
    assert [len(events(path)) for path in tmp_path.iterdir()] == [3, 3]


@pytest.fixture
def clock(monkeypatch):
    """The time that progress sees: a list of one number to count up."""
    now = [0.0]
    monkeypatch.setattr(writer.time, "perf_counter", lambda: now[0])
    return now


def test_progress_without_a_terminal_is_a_line_every_few_seconds(capsys, clock):
    """And a last one, with rate and time left."""
    progress = writer.Progress("reading", 100, unit="image")
    for _ in range(10):
        clock[0] += 1.5
        progress.advance(10, loss="0.5")
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "reading  40%  6.7 images/s, 9 s left, loss 0.5",
        "reading  80%  6.7 images/s, 3 s left, loss 0.5",
        "reading 100%  6.7 images/s, 0 s left, loss 0.5",
    ]


def test_time_left_counts_from_the_second_step_and_compilation_stands_apart(capsys, clock):
    """40 s of work after 60 s of compilation are 40 s, and not an hour."""
    progress = writer.Progress("training", 1200, unit="image", compiles=True)
    clock[0] += 60
    progress.advance(1)
    for _ in range(179):
        clock[0] += 1 / 30
        progress.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "training: compiling",
        "training: compiled in 60 s",
        "training  13%  30 images/s, 35 s left",
    ]


def test_resumed_work_counts_its_own_steps_only(capsys, clock):
    progress = writer.Progress("training", 100, done=60, unit="image", compiles=True)
    clock[0] += 10
    progress.advance(10)
    clock[0] += 10
    progress.advance(10)
    assert capsys.readouterr().err.splitlines()[-1] == "training  80%  1.0 images/s, 20 s left"


def test_progress_of_one_step_has_no_rate(capsys):
    progress = writer.Progress("reading", 3)
    progress.advance(3)
    assert capsys.readouterr().err == "reading 100%\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = writer.Progress("training", 100, unit="image", compiles=True)
    progress.advance(50, loss="0.5")
    writer.say("hello")
    progress.advance(50, loss="0.4")
    progress.close()
    shown = sys.stderr.getvalue()
    assert "compiling:   0%" in shown and "training: compiled in 0 s\n" in shown
    assert "training: 100%" in shown and "hello\n" in shown


def test_the_rate_of_a_bar_counts_from_the_second_step(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = writer.Progress("training", 1000, done=100, unit="image", compiles=True)
    monkeypatch.setattr(progress._bar, "_time", lambda: 5000.0)
    progress.advance(100)
    monkeypatch.setattr(progress._bar, "_time", lambda: 5010.0)
    progress.advance(100)
    figures = progress._bar.format_dict
    assert (figures["n"], figures["initial"], figures["elapsed"]) == (300, 200, 10.0)
    progress.close()


@pytest.mark.parametrize("name", ["run", "a run", "it's"])
def test_the_next_step_can_be_pasted(name, tmp_path, capsys, monkeypatch):
    """In the shell, it starts the same installation."""
    monkeypatch.chdir(tmp_path)
    writer.next_step("evaluate", f"--split={name}", "--workdir=x")
    line = capsys.readouterr().err
    assert line.startswith("next: ") and line.count("\n") == 1
    done = subprocess.run(line.removeprefix("next: "), shell=True, capture_output=True, text=True)
    assert done.returncode == 2 and f"--split is {name!r}" in done.stderr


def test_the_next_step_may_be_a_program_of_python(capsys):
    writer.next_step("python", "-c", "print('it runs')")
    line = capsys.readouterr().err.removeprefix("next: ")
    assert subprocess.run(line, shell=True, capture_output=True, text=True).stdout == "it runs\n"


def test_the_next_step_names_the_script_as_the_shell_finds_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "bin").mkdir()
    for name in ("python", "csn_jax"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    writer.next_step("report", "runs/a b")
    assert capsys.readouterr().err == "next: bin/csn_jax report 'runs/a b'\n"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    writer.next_step("report", "run")
    assert capsys.readouterr().err == "next: csn_jax report run\n"
    (tmp_path / "bin" / "csn_jax").unlink()
    writer.next_step("report", "run")
    assert capsys.readouterr().err == "next: bin/python -m csn_jax report run\n"


def test_writing_goes_to_disk_at_a_flush(tmp_path):
    """What TensorBoard shows never lags behind a checkpoint."""
    records = writer.Writer(tmp_path, 0)
    records.log(1, {"loss": 1.0})
    records.flush()
    (path,) = (tmp_path / name for name in os.listdir(tmp_path) if name.startswith("events"))
    assert len(events(path)) == 3
    records.close()
