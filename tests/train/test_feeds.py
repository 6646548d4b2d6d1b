"""Feeds: batches depend only on the step, and are the same from the host and from the device."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny

from csn_jax import train
from csn_jax.core.steps import Batch
from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.data.order import batch_rows, label_items, labelled_rows, steps_per_epoch
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.runtime.sharding import make_shardings
from csn_jax.train import feed as module
from csn_jax.train.feed import Watched, device_feed, fits, gather, labelled_batches, steps_in, triplet_batches

SEED, BATCH = 3, 30  # 30 does not divide over 4 devices, and 100 triplets end with a batch of 10
ROLES = ("anchor", "positive", "negative")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(80, 4, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def items(pixels) -> ItemSet:
    labels = {name: np.random.default_rng(i).choice(["a", "b", "c", ""], size=80) for i, name in enumerate("xy")}
    conditions = tuple(Condition(name, "categorical") for name in labels)
    return ItemSet(pixels, np.arange(80).astype(str), labels, np.full(80, "train"), conditions)


@pytest.fixture(scope="module")
def triplets(items) -> Triplets:
    return draw_triplets(items, "train", 50, seed=0)


def plan(triplets: Triplets, start: int, stop: int) -> tuple:
    shardings = make_shardings()
    return triplet_batches(triplets, SEED, BATCH, shardings.padded(BATCH)), start, stop, shardings.batch


def from_host(pixels, *args) -> list[Batch]:
    tf_feed = pytest.importorskip("csn_jax.train.tf_feed", exc_type=Exception).tf_feed
    return list(tf_feed(pixels, *args))


def assert_same(ours: Batch, theirs: Batch) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_a_batch_is_its_rows_and_then_padding(triplets):
    """Valid rows are the step's triplets in order. Padding repeats the first and is marked."""
    steps = steps_per_epoch(100, BATCH)
    assert steps == 4
    for step in range(2 * steps):
        batch = triplet_batches(triplets, SEED, BATCH, 32)(step)
        rows = batch_rows(SEED, step, 100, BATCH)
        assert batch.valid.tolist() == [True] * len(rows) + [False] * (32 - len(rows))
        assert len(rows) == (10 if step % steps == 3 else 30)
        for name in Triplets._fields:
            column, whole = getattr(batch, name), getattr(triplets, name)
            assert column.shape == (32,) and column.dtype == np.int32
            np.testing.assert_array_equal(column[: len(rows)], whole[rows])
            np.testing.assert_array_equal(column[len(rows) :], whole[rows[0]])


def test_both_feeds_give_the_same_batches(pixels, triplets):
    """Over two epochs with padding: rows gathered by the device feed's int32 positions equal the host feed's uint8
    rows."""
    host, device = from_host(pixels, *plan(triplets, 0, 8)), list(device_feed(*plan(triplets, 0, 8)))
    assert len(host) == len(device) == 8
    for sent, positions in zip(host, device, strict=True):
        assert all(getattr(sent, role).dtype == np.uint8 for role in ROLES)
        assert all(getattr(positions, role).dtype == np.int32 for role in ROLES)
        gathered = positions._replace(**{role: pixels[np.asarray(getattr(positions, role))] for role in ROLES})
        assert_same(sent, gathered)


@pytest.mark.parametrize("kind", ["tfdata", "device"])
def test_a_feed_can_start_at_any_step(kind, pixels, triplets):
    """From there on it gives the same batches as a feed that starts at 0."""
    feed = (lambda *args: from_host(pixels, *args)) if kind == "tfdata" else (lambda *args: list(device_feed(*args)))
    whole = feed(*plan(triplets, 0, 9))
    for start in (1, 3, 4, 8, 9):
        tail = feed(*plan(triplets, start, 9))
        assert len(tail) == 9 - start
        for ours, theirs in zip(tail, whole[start:], strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("start", [0, 1, 3, 4, 8, 10])
def test_stacked_batches_equal_single_ones(triplets, start):
    """Stacks start at multiples of 3, wherever the feed starts. Batches before and after them are single. Each batch is
    split over the devices."""
    single = list(device_feed(*plan(triplets, start, 11)))
    several = list(device_feed(*plan(triplets, start, 11), 3))
    sizes = {0: [3, 3, 3, 1, 1], 1: [1, 1, 3, 3, 1, 1], 3: [3, 3, 1, 1], 4: [1, 1, 3, 1, 1], 8: [1, 1, 1], 10: [1]}
    assert [steps_in(batch) for batch in several] == sizes[start]
    unstacked = []
    for batch in several:
        if steps_in(batch) > 1:
            assert {shard.data.shape for shard in batch.anchor.addressable_shards} == {(3, 8)}
            unstacked += [jax.tree.map(lambda column, i=i: column[i], batch) for i in range(3)]
        else:
            unstacked.append(batch)
    for ours, theirs in zip(unstacked, single, strict=True):
        assert_same(ours, theirs)


def test_a_memory_map_gives_the_same_rows(pixels, triplets, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    args = plan(triplets, 2, 5)
    for ours, theirs in zip(from_host(mapped, *args), from_host(pixels, *args), strict=True):
        assert_same(ours, theirs)
    batch = gather(mapped, triplet_batches(triplets, SEED, BATCH, 32)(0))
    assert not isinstance(batch.anchor, np.memmap) and batch.anchor.shape == (32, 4, 5, 3)


def test_feature_vectors_keep_their_type(triplets):
    features = np.random.default_rng(0).normal(size=(80, 7)).astype(np.float32)
    (batch,) = from_host(features, *plan(triplets, 0, 1))
    assert batch.anchor.dtype == np.float32 and batch.anchor.shape == (32, 7)


@pytest.mark.parametrize("kind", ["tfdata", "device"])
def test_batches_are_split_over_the_devices(kind, pixels, triplets):
    """Each of the 4 devices holds an equal part of every column."""
    args = plan(triplets, 0, 1)
    (batch,) = from_host(pixels, *args) if kind == "tfdata" else device_feed(*args)
    assert len(jax.devices()) == 4
    for column in batch:
        assert isinstance(column, jax.Array) and column.sharding.device_set == set(jax.devices())
        assert {shard.data.shape[0] for shard in column.addressable_shards} == {8}


def labelled_plan(items: ItemSet, start: int, stop: int) -> tuple:
    shardings = make_shardings()
    return labelled_batches(items, SEED, BATCH, shardings.padded(BATCH)), start, stop, shardings.batch


def test_a_labelled_batch_is_its_items_with_all_labels_and_padding(items):
    """Padding repeats the first item."""
    labelled = label_items(items)
    for step in range(3):
        batch, rows = labelled_batches(items, SEED, BATCH, 32)(step), labelled_rows(SEED, step, labelled, BATCH)
        assert batch.valid.tolist() == [True] * BATCH + [False] * 2
        assert batch.item.dtype == batch.labels.dtype == np.int32 and batch.labels.shape == (32, 2)
        np.testing.assert_array_equal(batch.item, [*rows, rows[0], rows[0]])
        np.testing.assert_array_equal(batch.labels, labelled.codes[batch.item])
        assert (batch.labels == -1).any()


def test_both_feeds_give_the_same_labelled_batches(pixels, items):
    """From any step, and split over the devices in the same way."""
    host, device = from_host(pixels, *labelled_plan(items, 0, 4)), list(device_feed(*labelled_plan(items, 0, 4)))
    for sent, positions in zip(host, device, strict=True):
        assert sent.item.dtype == np.uint8 and positions.item.dtype == np.int32
        assert_same(sent, positions._replace(item=pixels[np.asarray(positions.item)]))
        for column in (*sent, *positions):
            assert {shard.data.shape[0] for shard in column.addressable_shards} == {8}
    for whole, feed in ((host, lambda *args: from_host(pixels, *args)), (device, device_feed)):
        for ours, theirs in zip(feed(*labelled_plan(items, 2, 4)), whole[2:], strict=True):
            assert_same(ours, theirs)
    assert from_host(pixels, *labelled_plan(items, 4, 4)) == []


class Result:
    """A result on a device, ready or not."""

    def __init__(self, ready: bool):
        self.ready = ready

    def is_ready(self) -> bool:
        return self.ready


def test_idle_time_is_the_time_that_the_device_waited(monkeypatch):
    """A slow batch counts if the device has nothing to do. It does not count before the first step or while the device
    is busy."""
    now = iter([0, 10, 13, 20, 30, 34, 40])  # read before a batch, and after it if it counts
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    watched, idle = Watched(["a", "b", "c", "d"]), []
    for batch, ready in zip("abcd", (True, False, True, None), strict=True):
        assert next(watched) == batch
        idle.append(watched.idle)
        watched.working_on(Result(ready))
    assert idle == [0, 3, 3, 7]
    with pytest.raises(StopIteration):
        next(watched)


def test_items_may_take_a_quarter_of_the_memory(monkeypatch):
    class Device:
        @staticmethod
        def memory_stats():
            return {"bytes_limit": 4_000}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device])
    assert fits(np.zeros(1_000, np.uint8)) and not fits(np.zeros(1_001, np.uint8))
    Device.memory_stats = staticmethod(lambda: None)  # a CPU reports none: the memory of the machine counts
    assert fits(np.zeros(1_001, np.uint8))


LONGER = ("--config.steps=160", "--config.eval_every=80", "--config.checkpoint_every=40")


@pytest.mark.slow  # a process that imports TensorFlow; test_in_batch_run.py stops and resumes a run on this feed
def test_a_stopped_command_ends_with_the_bytes_of_an_unbroken_run(on_vectors, tmp_path, capsys):
    """The real command on the default feed: SIGTERM in its middle (143). tests/faults has SIGKILL. This process, which
    has TensorFlow already, resumes the run."""
    workdir, unbroken = tmp_path / "run", tmp_path / "unbroken"
    tiny.train(unbroken, *on_vectors, *LONGER)
    flags = (*tiny.ARGUMENTS, *on_vectors, *LONGER, "--config.feed=tfdata", f"--workdir={workdir}")
    process = subprocess.Popen([sys.executable, "-m", "csn_jax.train", *flags], stderr=subprocess.PIPE, text=True)
    while not (workdir / "metrics.jsonl").exists() or (workdir / "metrics.jsonl").read_bytes().count(b"\n") < 40:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 143, stderr
    assert all(word in stderr.splitlines()[-1] for word in ("signal 15", "step", "same command", "resume"))
    assert not (workdir / "results.json").exists()
    capsys.readouterr()
    train.main(list(flags))
    stdout, stderr = capsys.readouterr()
    assert "resuming from step" in stderr
    ours, theirs = tiny.fingerprint(workdir, 160), tiny.fingerprint(unbroken, 160)
    assert ours.pop("config.json") != theirs.pop("config.json")  # the feed is the only difference
    assert ours == theirs
    assert "learned masks, test split, step" in stdout and "overall" in stdout
