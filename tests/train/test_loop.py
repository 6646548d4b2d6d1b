"""The training loop under bad arithmetic, signals at awkward moments, and disks that fill."""

import json
import os
import re
import resource
import shutil
import signal
import time
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from orbax.checkpoint import CheckpointManager

import csn_jax
from csn_jax import backbones
from csn_jax.config import VITS
from csn_jax.data.dataset import load_dataset
from csn_jax.data.order import batch_rows
from csn_jax.runtime.checkpoint import Checkpoints
from csn_jax.runtime.writer import Writer
from csn_jax.train import loop


@pytest.fixture
def kind():
    """What the tiny run is on; some tests are also on a vision transformer."""
    return "vectors"


@pytest.fixture
def flags(kind, on_vectors, monkeypatch):
    if kind == "vectors":
        return on_vectors
    monkeypatch.setitem(VITS, "vit_tiny_16", None)  # the tiny one is gone after the test
    backbones.build.cache_clear()
    return tiny.vision_transformer()


@pytest.fixture
def train(flags):
    """Trains the tiny run in a workdir."""
    return lambda workdir, *more: tiny.train(workdir, *flags, *more)


@pytest.fixture
def finished(kind, finished_on_vectors, train, tmp_path_factory):
    if kind == "vectors":
        return finished_on_vectors
    train(workdir := tmp_path_factory.mktemp("finished") / kind)
    return workdir


KINDS = pytest.mark.parametrize("kind", ["vectors", pytest.param("vit", marks=pytest.mark.slow)])


def steps_of(workdir) -> list[int]:
    return sorted(int(name) for name in os.listdir(workdir / "checkpoints") if name.isdigit())


def poisoned(make, number: int):
    """make_train_step, whose steps give NaN at one of them."""

    def make_poisoned(*args, **kwargs):
        step = make(*args, **kwargs)

        def train_step(state, batch, items=None):
            new, metrics = step(state, batch, items)
            bad = jnp.where(state.step == number - 1, jnp.nan, 1.0)
            params = jax.tree.map(lambda leaf: leaf * bad, new.params)
            return new._replace(params=params), metrics | {"loss": metrics["loss"] * bad}

        return train_step

    return make_poisoned


def test_a_run_stopped_by_a_bad_number_can_go_on(train, on_vectors, finished, tmp_path, monkeypatch):
    """NaN at step 13: exit with step and items, nothing of it saved; the cause gone, the run ends as if unbroken."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_train_step", poisoned(loop.make_train_step, 13))
        with pytest.raises(csn_jax.MachineError) as caught:
            train(tmp_path)
    message = str(caught.value)
    assert message.startswith("step 13 has loss nan and gradient norm ") and tiny.is_one_sentence(
        message.removesuffix(".")
    )
    dataset = load_dataset(tiny.config(*on_vectors))
    triplets = dataset.triplets["train"]
    rows = batch_rows(0, 12, len(triplets.anchor), 16)
    ids = {str(dataset.items.ids[column[row]]) for row in rows for column in triplets[:3]}
    told = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert told["step"] == 13 and set(told["items"]) == ids and len(told["items"]) == len(ids)
    assert f"on {len(ids)} items ({', '.join(told['items'][:5])}, " in message
    assert steps_of(tmp_path) == [8, 10] and not (tmp_path / "results.json").exists()
    train(tmp_path)
    assert tiny.fingerprint(tmp_path) == tiny.fingerprint(finished)


@pytest.mark.parametrize("rate", ["3e38", pytest.param("1e20", marks=pytest.mark.slow)])
def test_a_huge_learning_rate_ends_in_one_sentence(train, tmp_path, rate):
    """Saving at every step, so that each state has its chance; whatever was saved is finite."""
    with pytest.raises(csn_jax.MachineError) as caught:
        train(tmp_path, f"--config.learning_rate={rate}", "--config.checkpoint_every=1")
    assert re.match(r"step \d+ (has loss|was not saved, since) ", str(caught.value))
    assert "config.learning_rate" in str(caught.value) and tiny.is_one_sentence(str(caught.value).removesuffix("."))
    for step in steps_of(tmp_path):
        state = Checkpoints(tmp_path / "checkpoints", read_only=True)._manager.restore(step)["state"]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


SIGNALS = [(signal.SIGUSR1, 6), (signal.SIGTERM, 16)]


@KINDS
@pytest.mark.parametrize(
    ("number", "at"), [(signal.SIGINT, 6), *(pytest.param(*each, marks=pytest.mark.slow) for each in SIGNALS)]
)
def test_a_stop_in_the_middle_of_a_step_is_saved_at_the_next(train, finished, tmp_path, monkeypatch, number, at):
    """The signal comes while a log line of step `at` is written, after the loop has looked: the step that it reports
    must be one that it saved."""
    log = Writer.log

    def log_and_stop(self, step, values):
        if step == at:
            os.kill(os.getpid(), number)
        log(self, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "log", log_and_stop)
        with pytest.raises(csn_jax.Stopped) as caught:
            train(tmp_path)
    assert caught.value.signum == number and caught.value.step == at + 1 == steps_of(tmp_path)[-1]
    train(tmp_path)
    assert tiny.fingerprint(tmp_path) == tiny.fingerprint(finished)


def test_a_feed_is_closed_where_training_stops(train, tmp_path, monkeypatch):
    """Not when the error is forgotten, as Python's end waits for TensorFlow's threads, and these for Python."""
    closed, feed = [], loop._feed

    def noted(*args):
        try:
            yield from feed(*args)
        finally:
            closed.append(True)

    def fails(self):
        raise csn_jax.MachineError("a loss that is not finite")

    monkeypatch.setattr(loop, "_feed", noted)
    monkeypatch.setattr(loop.Pending, "take", fails)
    with pytest.raises(csn_jax.MachineError) as kept:  # and with it every frame of the training
        train(tmp_path)
    assert closed and kept.tb is not None


def test_a_stop_outside_the_steps_ends_at_once(train, finished, tmp_path, monkeypatch):
    """While the data are read, at the last step, in the middle of a restore, and while the results are measured:
    nothing is lost, no checkpoint is taken for damaged, and the run ends as if unbroken."""

    def stopping(function):
        def stopped(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            return function(*args, **kwargs)

        return stopped

    log = Writer.log

    def log_and_stop(self, step, values):
        if step == tiny.STEPS:
            os.kill(os.getpid(), signal.SIGTERM)
        log(self, step, values)

    for target, name, patched in (
        (loop, "load_dataset", stopping(loop.load_dataset)),
        (Writer, "log", log_and_stop),
        (CheckpointManager, "restore", stopping(CheckpointManager.restore)),  # where any Exception means damage
        (loop, "measure", stopping(loop.measure)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, patched)
            with pytest.raises(csn_jax.Stopped):
                train(tmp_path)
        if name == "load_dataset":
            assert os.listdir(tmp_path) == []
        else:
            assert steps_of(tmp_path) == steps_of(finished)
    assert not (tmp_path / "results.json").exists()
    train(tmp_path)
    assert tiny.fingerprint(tmp_path) == tiny.fingerprint(finished)


@contextmanager
def no_file_larger_than(size: int):
    """What a full disk feels like to every writer of this process: EFBIG instead of ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [500, *(pytest.param(limit, marks=pytest.mark.slow) for limit in (4000, 50_000))])
def test_a_disk_that_fills_is_one_sentence_and_no_loss(train, finished, tmp_path, limit):
    """In the log, in the records of a checkpoint, in its arrays; with room again, the run ends as if unbroken."""
    with no_file_larger_than(limit), pytest.raises(csn_jax.MachineError) as caught:
        train(tmp_path)
    message = str(caught.value)
    assert "no room to " in message and str(tmp_path) in message and "bytes free" in message, message
    assert "the same command again" in message and tiny.is_one_sentence(message.removesuffix("."))
    if limit == 50_000:
        # Step 0 compresses well, as the optimizer has only zeros; with some versions of Orbax it fits.
        so_far = r"(no checkpoint is whole yet|the last whole checkpoint is step 0);"
        assert re.search(r"save step \d+ in .* free, [\d,]+ needed\); " + so_far, message)
    train(tmp_path)
    assert tiny.fingerprint(tmp_path) == tiny.fingerprint(finished)


def test_a_disk_that_fills_later_names_the_last_whole_step(train, finished, tmp_path, monkeypatch):
    """From step 13 on there is no room: the error, at the next save, names step 10, and the run goes on from it."""
    log, limit = Writer.log, no_file_larger_than(50_000)

    def log_and_fill(self, step, values):
        if step == 12:
            while not (tmp_path / "checkpoints" / "10").exists():  # saved while the loop goes on
                time.sleep(0.01)
            limit.__enter__()
        log(self, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "log", log_and_fill)
        try:
            with pytest.raises(
                csn_jax.MachineError, match="no room to save step 15 .* the last whole checkpoint is step 10;"
            ):
                train(tmp_path)
        finally:
            limit.__exit__(None, None, None)
    assert steps_of(tmp_path) == [8, 10]
    train(tmp_path)
    assert tiny.fingerprint(tmp_path) == tiny.fingerprint(finished)


@KINDS
def test_a_damaged_newest_step_costs_only_its_own_work(train, finished, tmp_path, capsys):
    """Told by step and reason; training goes on from the step before and ends with the same bytes."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "results.json").unlink()
    arrays = max((workdir / "checkpoints" / "24").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(arrays.read_bytes())
    data[len(data) // 2] ^= 8
    arrays.write_bytes(data)
    train(workdir)
    told = capsys.readouterr().err
    assert f"checkpoint {workdir / 'checkpoints' / '24'} is damaged: " in told and "resumes from step 20" in told
    assert "resuming from step 20" in told
    assert tiny.fingerprint(workdir) == tiny.fingerprint(finished)


@pytest.mark.parametrize(("given", "shared"), [("by_role", False), ("shared", True)])
def test_batch_statistics_reach_the_step(train, tmp_path, monkeypatch, given, shared):
    class Seen(Exception):
        pass

    def step(*_, shared_statistics, **__):
        raise Seen(shared_statistics)

    monkeypatch.setattr(loop, "make_train_step", step)
    with pytest.raises(Seen, match=str(shared)):
        train(tmp_path / "run", f"--config.batch_statistics={given}")


SEVERAL = (
    "--config.steps=25",
    "--config.learning_rate=2e-5",
    "--config.log_every=3",
    "--config.eval_every=12",
    "--config.checkpoint_every=6",
)


def test_steps_between_two_looks_are_taken_at_once_on_accelerators(monkeypatch):
    """By the most, up to ten, that divide them all; on a CPU one by one."""
    assert loop.steps_at_once(tiny.config(*SEVERAL)) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert loop.steps_at_once(tiny.config(*SEVERAL)) == 3
    assert loop.steps_at_once(tiny.config()) == 1  # every 2, 8 and 5
    assert loop.steps_at_once(csn_jax.Config()) == 10
    assert loop.steps_at_once(csn_jax.Config(log_every=11, eval_every=22, checkpoint_every=33)) == 1
    assert loop.steps_at_once(csn_jax.Config(log_every=64, eval_every=128, checkpoint_every=256)) == 8


@pytest.mark.parametrize("loss", ["triplet", pytest.param("batch_hard", marks=pytest.mark.slow)])
def test_a_run_of_several_steps_in_one_call_is_that_run(train, tmp_path, monkeypatch, capsys, loss):
    """The same lines, measurements and checkpoints as step by step, the 25th alone; stopped, it saves after the call
    that it is in, and goes on to the bits of an unbroken run."""
    flags = (*SEVERAL, f"--config.loss.name={loss}")
    single, several, stopped = (tmp_path / name for name in ("single", "several", "stopped"))
    train(single, *flags)
    monkeypatch.setattr(loop, "steps_at_once", lambda config: 3)
    capsys.readouterr()
    train(several, *flags)
    assert "training 100% " in capsys.readouterr().err
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (several, single)
    ]
    assert [line["step"] for line in lines[0]] == [0, 3, 6, 9, 12, 12, 15, 18, 21, 24, 24, 25, 25]
    for ours, theirs in zip(*lines, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert steps_of(several) == steps_of(single)

    log = Writer.log

    def log_and_stop(self, step, values):
        if step == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        log(self, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "log", log_and_stop)
        with pytest.raises(csn_jax.Stopped) as caught:
            train(stopped, *flags)
    assert caught.value.step == 12 == steps_of(stopped)[-1]
    train(stopped, *flags)
    assert tiny.fingerprint(stopped, 25) == tiny.fingerprint(several, 25)


def test_a_bad_number_inside_a_call_is_named_by_its_step(train, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "steps_at_once", lambda config: 3)
    monkeypatch.setattr(loop, "make_train_step", poisoned(loop.make_train_step, 14))
    with pytest.raises(csn_jax.MachineError, match="step 14 has loss nan"):
        train(tmp_path, *SEVERAL)
    assert steps_of(tmp_path) == [0, 6, 12]
