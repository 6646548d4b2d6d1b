"""The cache of decoded images: made once, complete or absent, and never used without checking its digest."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from csn_jax.data import cache
from csn_jax.data.cache import cached
from csn_jax.errors import MachineError
from csn_jax.runtime.workdir import cache_folder

SHAPE = (5, 2, 3, 3)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Source:
    """Five blocks, where the second and the last are missing. Counts its calls."""

    def __init__(self):
        self.times = 0
        self.blocks = np.random.default_rng(0).integers(256, size=SHAPE, dtype=np.uint8)
        self.kept = self.blocks[[0, 2, 3]]

    def __call__(self, made):
        self.times += 1
        self.before = len(made)
        for i in range(len(made), 5):
            yield (None if i in (1, 4) else self.blocks[i]), [f"note {i}", None, "ü\udcff"]


def check(source, entry):
    images, notes = entry
    assert isinstance(images, np.memmap) and images.dtype == np.uint8 and not images.flags.writeable
    np.testing.assert_array_equal(images, source.kept)
    assert notes == [[f"note {i}", None, "ü\udcff"] for i in range(5)]


def test_an_entry_is_produced_once_and_then_read(folder):
    """All calls return the same memory-mapped pixels and notes."""
    source = Source()
    for _ in range(3):
        check(source, cached("key", SHAPE, source))
    assert source.times == 1
    assert {path.suffix for path in folder.iterdir()} == {".npy", ".json", ".lock"}


@pytest.mark.parametrize("key, shape", [("other", SHAPE), ("key", (6, *SHAPE[1:])), ({"a": 1}, SHAPE)])
def test_another_key_or_shape_is_another_entry(key, shape):
    source = Source()
    cached("key", SHAPE, source)
    cached(key, shape, source)
    assert source.times == 2


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def other_pixels(path):
    path.write_text(path.read_text().replace(json.loads(path.read_text())[0][0], "0" * 64))


def other_notes(path):
    path.write_text(path.read_text().replace("note 3", "note 4"))


@pytest.mark.parametrize(
    "suffix, damage",
    [
        (".npy", flip),
        (".npy", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        (".npy", lambda path: path.write_bytes(b"")),
        (".npy", os.unlink),
        (".json", os.unlink),
        (".json", lambda path: path.write_bytes(b"")),
        (".json", lambda path: path.write_bytes(path.read_bytes()[:-9])),
        (".json", lambda path: path.write_text("[]")),
        (".json", lambda path: path.write_text("{}")),
        (".json", lambda path: path.write_bytes(b"\xff\xfe\x00")),
        (".json", other_pixels),
        (".json", other_notes),
    ],
)
def test_a_damaged_entry_is_produced_again(suffix, damage, folder):
    """A flipped bit, a missing file or a cut file."""
    source = Source()
    cached("key", SHAPE, source)
    damage(next(folder.glob(f"*{suffix}")))
    for _ in range(2):
        check(source, cached("key", SHAPE, source))
    assert source.times == 2


def test_an_entry_without_blocks():
    """An empty array and all notes, also when read again."""
    for _ in range(2):
        images, notes = cached("none", SHAPE, lambda made: [(None, i) for i in range(5)])
        assert images.shape == (0, *SHAPE[1:]) and notes == list(range(5))


def test_an_exception_leaves_no_entry(folder):
    """The blocks made before it are kept, and the next call makes the rest."""

    def broken(made):
        yield Source().blocks[0], ["note 0", None, "ü\udcff"]
        raise KeyError("broken")

    with pytest.raises(KeyError):
        cached("key", SHAPE, broken)
    assert {path.suffix for path in folder.iterdir()} == {".lock", ".tmp", ".made"}
    check(source := Source(), cached("key", SHAPE, source))
    assert source.before == 1


def killed_after_three(folder):
    """Leave the folder as a process does that is killed after three blocks."""
    code = (
        "import sys, time; sys.path.insert(0, 'tests/data')\n"
        "from test_cache import SHAPE, Source, cached\n"
        "def produce(made):\n"
        "    for i, block in enumerate(Source()(made)):\n"
        "        if i == 3: print('half way', flush=True); time.sleep(60)\n"
        "        yield block\n"
        "cached('key', SHAPE, produce)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
    assert {path.suffix for path in folder.iterdir()} == {".lock", ".tmp", ".made"}


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "suffix, damage, before",
    [
        (".made", lambda path: None, 3),
        (".made", cut, 2),  # killed in the middle of a line
        (".made", lambda path: path.write_bytes(path.read_bytes() + b'["0'), 3),
        (".made", lambda path: path.write_bytes(b"7\n" + path.read_bytes()), 0),
        (".made", other_notes, 3),
        (".made", lambda path: path.write_text(path.read_text().replace("note 1", "note 4")), 1),
        (".made", os.unlink, 0),
        (".tmp", lambda path: path.write_bytes(path.read_bytes() + b"half a block"), 3),
        (".tmp", cut, 2),
        (".tmp", lambda path: os.truncate(path, 10), 0),
        (".tmp", flip, 2),
        (".tmp", os.unlink, 0),
    ],
)
def test_a_killed_process_loses_no_whole_block(suffix, damage, before, folder):
    """After SIGKILL nothing has a final name. The next call keeps the undamaged blocks and ends with the same bytes."""
    check(Source(), cached("key", SHAPE, Source()))
    expected = {path.suffix: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    killed_after_three(folder)
    damage(next(folder.glob(f"*{suffix}")))
    check(source := Source(), cached("key", SHAPE, source))
    assert source.before == before
    assert {path.suffix: path.read_bytes() for path in folder.iterdir()} == expected


def test_a_kill_between_the_last_block_and_the_rename(folder, monkeypatch):
    """No block is made again."""
    monkeypatch.setattr(cache.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cached("key", SHAPE, Source())
    monkeypatch.undo()
    monkeypatch.setenv("CSN_JAX_CACHE", str(folder))
    check(source := Source(), cached("key", SHAPE, source))
    assert source.before == 5


def test_two_runs_at_once_produce_once():
    """The second waits for the first and reads its entry."""
    source, entries = Source(), []

    def slow(made):
        time.sleep(0.5)
        yield from source(made)

    threads = [threading.Thread(target=lambda: entries.append(cached("key", SHAPE, slow))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.times == 1 and len(entries) == 3
    for entry in entries:
        check(source, entry)


def test_a_full_disk_is_named_and_leaves_no_file(folder, monkeypatch):

    def no_room(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "fsync", no_room)
    with pytest.raises(MachineError, match=f"cannot write the image cache {folder} .No space left.*CSN_JAX_CACHE"):
        cached("key", SHAPE, Source())
    assert {path.suffix for path in folder.iterdir()} == {".lock"}


def test_a_file_in_the_place_of_the_cache_folder_is_named(folder):
    folder.write_text("in the way")
    with pytest.raises(MachineError, match="cannot write the image cache"):
        cached("key", SHAPE, Source())


def test_where_the_cache_is(monkeypatch, tmp_path):
    """$CSN_JAX_CACHE, or .cache in the home folder; always absolute."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CSN_JAX_CACHE", "~/there")
    assert cache_folder() == tmp_path / "there"
    monkeypatch.setenv("CSN_JAX_CACHE", "")
    assert cache_folder() == tmp_path / ".cache/csn_jax"
