"""The workdir: one writer, one config, one data set, whole files."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from csn_jax.config import Config
from csn_jax.errors import MachineError, UserError
from csn_jax.model.run import open_run
from csn_jax.runtime import record as r
from csn_jax.runtime import workdir as w
from csn_jax.runtime.record import Record
from csn_jax.store.vector_file import read_embeddings

HOLD = """
import sys, time
from pathlib import Path
from csn_jax.runtime.workdir import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
RECORD = {
    "source": "fonts",
    "conditions": [{"name": "font", "kind": "categorical"}],
    "input_shape": [32, 32, 1],
    "items": {"train": 3},
    "triplets": {"train": 9},
    "items_sha256": "aa",
}


def test_a_second_writer_is_refused_by_host_and_process(tmp_path):
    """And the lock of a writer that got SIGKILL is free at once."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    with pytest.raises(UserError, match=f"is in use by process {holder.pid} on {socket.gethostname()}; wait"):
        with w.locked(tmp_path):
            pass
    assert time.monotonic() - began < 1
    holder.kill()
    holder.communicate()
    with w.locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"process {os.getpid()} on "), w.locked(tmp_path):
            pass  # not twice in one process, either
    with w.locked(tmp_path):
        pass


def test_work_that_fails_before_it_writes_removes_its_lock_and_its_folders(tmp_path):
    workdir = tmp_path / "runs" / "deep" / "one"
    with pytest.raises(ZeroDivisionError), w.no_empty_folders(workdir), w.locked(w.open_workdir(workdir)):
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == []


def test_work_that_fails_later_keeps_what_it_wrote(tmp_path):
    workdir = tmp_path / "runs" / "one"
    with pytest.raises(ZeroDivisionError), w.no_empty_folders(workdir), w.locked(w.open_workdir(workdir)):
        (workdir / "config.json").write_text("{}")
        1 / 0  # noqa: B018
    assert sorted(os.listdir(workdir)) == [".lock", "config.json"]
    with w.locked(workdir):
        pass
    assert sorted(os.listdir(workdir)) == [".lock", "config.json"]  # the lock file is for the next process


def test_a_failed_start_leaves_a_folder_of_others_as_it_was(tmp_path, monkeypatch):
    """Also when the lock itself cannot be written. The lock of a run stays for the next process."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ZeroDivisionError), w.locked(tmp_path):
        1 / 0  # noqa: B018
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError), w.locked(tmp_path):
            pass
    assert os.listdir(tmp_path) == ["notes.txt"]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ZeroDivisionError), w.locked(tmp_path):
        1 / 0  # noqa: B018
    assert (tmp_path / ".lock").exists()


def test_what_may_not_be_read_is_not_damaged(finished_on_vectors, tmp_path, monkeypatch):
    """A checkpoint of another user is not moved away, and an index is not called damaged."""
    run = tmp_path / "run"
    shutil.copytree(finished_on_vectors, run)
    steps = sorted(os.listdir(run / "checkpoints"))
    (meta,) = (path for path in run.glob("checkpoints/24/meta/metadata"))
    meta.write_text("{")  # unreadable for whatever reason
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != meta)
    with pytest.raises(PermissionError) as caught:
        open_run(run).model()
    assert caught.value.filename == str(meta) and sorted(os.listdir(run / "checkpoints")) == steps
    index = tmp_path / "e.npz"
    index.write_bytes(b"")
    monkeypatch.setattr(Path, "open", lambda path, mode: os.open(meta / "below", os.O_RDONLY))
    with pytest.raises(NotADirectoryError):
        read_embeddings(index)


def test_missing_rights_name_the_file_and_not_a_temporary_one(tmp_path, monkeypatch):
    def refused(source, target):
        raise PermissionError(13, "Permission denied", source)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(PermissionError) as caught:
        w.write_atomically(tmp_path / "a.png", b"x")
    assert caught.value.filename == str(tmp_path / "a.png") and os.listdir(tmp_path) == []


def test_a_lock_file_that_its_owner_removes_meanwhile_is_not_a_lock(tmp_path, monkeypatch):
    """Two processes would hold it otherwise: one the file that is gone, one a new file."""
    lock = w.fcntl.flock

    def late(descriptor, operation):
        (tmp_path / ".lock").unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(w.fcntl, "flock", late)
    with pytest.raises(UserError, match="in use a moment ago"), w.locked(tmp_path):
        pass


def test_a_training_refuses_a_second_one(tmp_path):
    """Before it writes anything into the folder."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    with pytest.raises(UserError, match="in use by process"):
        tiny.train(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert os.listdir(tmp_path) == [".lock"]


def test_workers_that_outlive_a_killed_writer_do_not_keep_its_lock(tmp_path):
    """The lock is not inherited by processes that a training starts."""
    code = HOLD.replace('print("held"', 'import subprocess; subprocess.Popen(["sleep", "30"]); print("held"')
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    )
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    try:
        with w.locked(tmp_path):
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


def test_half_written_files_of_a_killed_writer_go(tmp_path):
    (tmp_path / ".results.json.77.tmp").write_text("half")
    (tmp_path / "mine.tmp").write_text("not ours")
    with w.locked(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".lock", "mine.tmp"]


def test_a_write_is_all_or_nothing(tmp_path, monkeypatch):
    """A failure at any call before the rename leaves the old file; the temporary one never stays."""
    path = tmp_path / "file"
    w.write_atomically(path, b"old")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:

            def fail(*_):
                raise OSError(28, "No space left on device")

            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space left"):
                w.write_atomically(path, b"new")
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    w.write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        w.open_workdir(tmp_path / "file" / "run")
    assert f"--workdir={tmp_path / 'file' / 'run'} cannot be made (Not a directory)" in str(caught.value)
    assert tiny.is_one_sentence(str(caught.value).removesuffix("."))
    with pytest.raises(UserError, match="cannot be written"), w.locked(tmp_path / "absent"):
        pass


def test_relative_folders_become_absolute(tmp_path, monkeypatch):
    """Orbax fails late on a relative one."""
    monkeypatch.chdir(tmp_path)
    assert w.open_workdir(w.Path("runs/a")) == tmp_path / "runs" / "a"
    assert (tmp_path / "runs" / "a").is_dir()


def test_a_claimed_workdir_keeps_its_config_and_data(tmp_path):
    """Another config is refused by every field that differs, other data by the digests, before anything is written."""
    w.check_config(tmp_path, Config())  # a new folder takes any
    w.claim(tmp_path, Config(), Record.from_object(RECORD))
    before = tiny.contents(tmp_path)
    w.claim(tmp_path, Config(), Record.from_object(RECORD))
    with pytest.raises(UserError) as caught:
        w.check_config(tmp_path, Config(seed=3, variant="fixed"))
    assert "config.variant: 'learned', now 'fixed'" in str(caught.value)
    assert "config.seed: 0, now 3" in str(caught.value) and "batch_size" not in str(caught.value)
    assert tiny.is_one_sentence(str(caught.value).removesuffix("."))
    with pytest.raises(UserError, match="items_sha256 is aa in its data.json and bb now; bring back"):
        w.claim(tmp_path, Config(), Record.from_object(RECORD | {"items": {"train": 1}, "items_sha256": "bb"}))
    assert tiny.contents(tmp_path) == before
    assert w.read_config(tmp_path) == Config() and json.loads((tmp_path / "data.json").read_text()) == RECORD


DAMAGES = {
    "not JSON": "{",
    "bytes": "\udcff\udcfe",
    "a list": "[]",
    "a number": "3",
    "no conditions": json.dumps(RECORD | {"conditions": None}),
    "names": json.dumps(RECORD | {"conditions": [{"nmae": "font"}]}),
    "shape": json.dumps(RECORD | {"input_shape": ["32"]}),
    "triplets": json.dumps(RECORD | {"triplets": 3}),
    "empty": "{}",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_data_json_is_one_sentence(tmp_path, name):
    (tmp_path / "data.json").write_bytes(DAMAGES[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        r.read_record(tmp_path)
    assert f"{tmp_path / 'data.json'} is damaged (" in str(caught.value)
    assert tiny.is_one_sentence(str(caught.value).removesuffix("."))


def test_what_is_not_there_yet_is_told(tmp_path):
    with pytest.raises(UserError, match="has no config.json; give the --workdir of a run of csn_jax.train"):
        w.read_config(tmp_path)
    with pytest.raises(UserError, match="has no data.json: its training never began"):
        r.read_record(tmp_path)
    assert r.read_results(tmp_path) is None
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="results.json is damaged"):
        r.read_results(tmp_path)


def test_a_full_disk_is_one_sentence_and_other_errors_stay_bugs(tmp_path):
    with pytest.raises(MachineError) as caught, w.full_disk_reported(tmp_path):
        raise OSError(28, "No space left on device", str(tmp_path / "metrics.jsonl"))
    assert f"no room to write {tmp_path / 'metrics.jsonl'} in {tmp_path} (No space left on device; " in str(
        caught.value
    )
    assert "bytes free" in str(caught.value) and tiny.is_one_sentence(str(caught.value).removesuffix("."))
    with pytest.raises(FileNotFoundError), w.full_disk_reported(tmp_path):
        open(tmp_path / "absent")
