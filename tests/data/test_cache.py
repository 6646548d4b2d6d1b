"""The cache of decoded images: made once, whole or not at all, never trusted without its digest."""

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
    """Five blocks of which the second and the last are missing; counts how often it was asked."""

    def __init__(self):
        self.times = 0
        self.blocks = np.random.default_rng(0).integers(256, size=SHAPE, dtype=np.uint8)
        self.kept = self.blocks[[0, 2, 3]]

    def __call__(self):
        self.times += 1
        for i, block in enumerate(self.blocks):
            yield (None if i in (1, 4) else block), [f"note {i}", None, "ü\udcff"]


def check(source, found):
    images, notes = found
    assert isinstance(images, np.memmap) and images.dtype == np.uint8 and not images.flags.writeable
    np.testing.assert_array_equal(images, source.kept)
    assert notes == [[f"note {i}", None, "ü\udcff"] for i in range(5)]


def test_produced_once_and_read_from_then_on(folder):
    """The first call and every later one give the same memory-mapped pixels and notes; only the first produces."""
    source = Source()
    for _ in range(3):
        check(source, cached("key", SHAPE, source))
    assert source.times == 1
    assert {path.suffix for path in folder.iterdir()} == {".npy", ".json", ".lock"}


@pytest.mark.parametrize("key, shape", [("other", SHAPE), ("key", (6, *SHAPE[1:])), ({"a": 1}, SHAPE)])
def test_another_key_or_shape_is_another_entry(key, shape):
    """What the pixels depend on decides which entry is read."""
    source = Source()
    cached("key", SHAPE, source)
    cached(key, shape, source)
    assert source.times == 2


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def other_notes(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "0" * 64}))


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
        (".json", other_notes),
    ],
)
def test_damage_is_found_and_made_good(suffix, damage, folder):
    """A flipped bit, a missing or cut file of either kind: the entry is produced again, and then stands."""
    source = Source()
    cached("key", SHAPE, source)
    damage(next(folder.glob(f"*{suffix}")))
    for _ in range(2):
        check(source, cached("key", SHAPE, source))
    assert source.times == 2


def test_no_block_at_all():
    """All missing: an empty array and all notes, also when read again."""
    for _ in range(2):
        images, notes = cached("none", SHAPE, lambda: [(None, i) for i in range(5)])
        assert images.shape == (0, *SHAPE[1:]) and notes == list(range(5))


def test_an_exception_while_producing_leaves_nothing(folder):
    """What was written before the exception is removed, and the next call produces."""

    def broken():
        yield np.zeros(SHAPE[1:], np.uint8), None
        raise KeyError("broken")

    with pytest.raises(KeyError):
        cached("key", SHAPE, broken)
    assert {path.suffix for path in folder.iterdir()} == {".lock"}
    check(source := Source(), cached("key", SHAPE, source))


def test_a_kill_while_producing_leaves_no_entry(folder):
    """SIGKILL in the middle: nothing under a final name, and the next call produces and cleans up."""
    code = (
        "import numpy as np, time; from csn_jax.data.cache import cached\n"
        "def produce():\n"
        "    yield np.zeros((2, 3, 3), np.uint8), None\n"
        "    print('half way', flush=True); time.sleep(60)\n"
        f"cached('key', {SHAPE}, produce)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
    assert {path.suffix for path in folder.iterdir()} == {".lock", ".tmp"}
    check(source := Source(), cached("key", SHAPE, source))
    assert {path.suffix for path in folder.iterdir()} == {".npy", ".json", ".lock"}


def test_two_at_once_produce_once():
    """A second run that starts while the first renders waits for it and reads what it made."""
    source, found = Source(), []

    def slow():
        time.sleep(0.5)
        yield from source()

    threads = [threading.Thread(target=lambda: found.append(cached("key", SHAPE, slow))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.times == 1 and len(found) == 3
    for entry in found:
        check(source, entry)


def test_a_full_disk_is_told_in_one_sentence(folder, monkeypatch):
    """No room: MachineError that names the folder and the remedy, and no file left in the way."""

    def no_room(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "fsync", no_room)
    with pytest.raises(MachineError, match=f"cannot write the image cache {folder} .No space left.*CSN_JAX_CACHE"):
        cached("key", SHAPE, Source())
    assert {path.suffix for path in folder.iterdir()} == {".lock"}


def test_a_cache_folder_that_cannot_be_made(folder):
    """A file in the folder's place is told in the same way."""
    folder.write_text("in the way")
    with pytest.raises(MachineError, match="cannot write the image cache"):
        cached("key", SHAPE, Source())


def test_where_the_cache_is(monkeypatch, tmp_path):
    """$CSN_JAX_CACHE, or the home folder's .cache; always absolute."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CSN_JAX_CACHE", "~/there")
    assert cache_folder() == tmp_path / "there"
    monkeypatch.setenv("CSN_JAX_CACHE", "")
    assert cache_folder() == tmp_path / ".cache/csn_jax"
