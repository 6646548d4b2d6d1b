"""Records of a run: exactly once, whole lines, readable by TensorBoard; and what a terminal shows."""

import io
import json
import os
import struct
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


def test_progress_without_a_terminal_is_a_few_lines(capsys, monkeypatch):
    """One every few seconds and the last, with rate and time left."""
    clock = [0.0]
    monkeypatch.setattr(writer.time, "perf_counter", lambda: clock[0])
    progress = writer.Progress("training", 100, done=20, unit="image")
    for _ in range(8):
        clock[0] += 1.5
        progress.advance(10, loss="0.5")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "training 100%  7 images/s, 0 s left, loss 0.5"
    assert lines[0].startswith("training  60%  7 images/s, 6 s left") and len(lines) == 2


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = writer.Progress("training", 100, unit="image")
    progress.advance(50, loss="0.5")
    writer.say("hello")
    progress.advance(50, loss="0.4")
    progress.close()
    assert "training: 100%" in sys.stderr.getvalue() and "hello\n" in sys.stderr.getvalue()


def test_writing_goes_to_disk_at_a_flush(tmp_path):
    """What TensorBoard shows never lags behind a checkpoint."""
    records = writer.Writer(tmp_path, 0)
    records.log(1, {"loss": 1.0})
    records.flush()
    (path,) = (tmp_path / name for name in os.listdir(tmp_path) if name.startswith("events"))
    assert len(events(path)) == 3
    records.close()
