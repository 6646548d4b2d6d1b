"""In-batch learning from the command to the results: both feeds, stops, bad numbers, specialists, wrong flags."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shop
import tiny
from oracles import flat

import csn_jax
from csn_jax.config import BackboneConfig, Config, DataConfig, LossConfig
from csn_jax.core.steps import LabelledBatch, make_train_step
from csn_jax.data.dataset import load_dataset
from csn_jax.data.order import label_items, labelled_rows
from csn_jax.model.network import build_network, examples
from csn_jax.runtime.record import read_record
from csn_jax.runtime.writer import Writer
from csn_jax.train import loop

PRESET = f"--config={Path(__file__).resolve().parents[2] / 'configs' / 'glyphs.py'}:in_batch"


@pytest.fixture(scope="module")
def in_batch(tmp_path_factory):
    """The workdir of an uninterrupted run on the device feed."""
    workdir = tmp_path_factory.mktemp("in_batch") / "run"
    tiny.train(workdir, PRESET)
    return workdir


def test_the_preset_learns_from_labelled_batches(in_batch):
    """The preset's loss at the tiny sizes. The log holds the share of active triplets."""
    config = json.loads((in_batch / "config.json").read_text())
    assert config["loss"]["name"] == "batch_all" and config["batch_size"] == 16
    lines = [json.loads(line) for line in (in_batch / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in trained] == list(range(2, 25, 2))
    for line in trained:
        assert 0 < line["train/active"] <= 1 and "train/accuracy" not in line
        assert line["train/gradient_norm"] > 0
    errors = [line["validation/triplet_error/overall"] for line in lines if "validation/triplet_error/overall" in line]
    assert len(errors) == 3 and errors[-1] < 0.4
    results = json.loads((in_batch / "results.json").read_text())
    assert results["triplet_error"]["overall"] < 0.4 and results["conditions"] == ["character", "font"]
    assert csn_jax.load(in_batch).masks.shape == (2, 8)


@pytest.mark.slow
def test_a_run_stopped_on_the_other_feed_ends_with_the_same_bytes(on_vectors, tmp_path, monkeypatch):
    """SIGTERM at step 6, during logging. The state of step 7 is saved, and the run resumes from it."""
    workdir, unbroken = tmp_path / "run", tmp_path / "unbroken"
    tiny.train(unbroken, PRESET, *on_vectors)
    log = Writer.log

    def log_and_stop(self, step, values):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        log(self, step, values)

    flags = (PRESET, *on_vectors, "--config.feed=tfdata")
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "log", log_and_stop)
        with pytest.raises(csn_jax.Stopped) as caught:
            tiny.train(workdir, *flags)
    assert caught.value.step == 7
    tiny.train(workdir, *flags)
    ours, theirs = tiny.fingerprint(workdir), tiny.fingerprint(unbroken)
    assert ours.pop("config.json") != theirs.pop("config.json")  # the feed
    assert ours == theirs


def test_a_bad_number_is_reported_with_the_items_of_the_batch(on_vectors, tmp_path, monkeypatch):
    """Until then, progress counts one image per item, not three."""
    counted = []
    monkeypatch.setattr(loop.Progress, "advance", lambda self, images, **values: counted.append(images))
    make = loop.make_train_step

    def make_poisoned(*args, **kwargs):
        step = make(*args, **kwargs)

        def train_step(state, batch, items=None):
            new, metrics = step(state, batch, items)
            return new, metrics | {"loss": metrics["loss"] * jnp.where(state.step == 2, jnp.nan, 1.0)}

        return train_step

    monkeypatch.setattr(loop, "make_train_step", make_poisoned)
    with pytest.raises(csn_jax.MachineError, match="^step 3 has loss nan and gradient norm .* on 16 items "):
        tiny.train(tmp_path, PRESET, *on_vectors)
    assert counted == [16, 16, 16]
    items = load_dataset(tiny.config(PRESET, *on_vectors)).items
    written = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert written == {"step": 3, "items": items.ids[labelled_rows(0, 2, label_items(items), 16)].tolist()}


@pytest.mark.slow
def test_specialists_learn_from_labelled_batches(on_vectors, tmp_path):
    """Each from the labels of its own condition."""
    flags = (PRESET, *on_vectors, "--config.variant=specialists", "--config.steps=4", "--config.loss.name=batch_hard")
    results = tiny.train(tmp_path, *flags)
    assert results["variant"] == "specialists" and csn_jax.load(tmp_path).masks.shape == (2, 2 * 1024)
    for condition in ("category", "colour"):
        config = json.loads((tmp_path / condition / "config.json").read_text())
        assert config["data"]["conditions"] == [condition] and config["loss"]["name"] == "batch_hard"
        lines = [json.loads(line) for line in (tmp_path / condition / "metrics.jsonl").read_text().splitlines()]
        assert all(np.isfinite(line["train/loss"]) for line in lines if "train/loss" in line)


def test_fixed_masks_do_not_change():
    """Each condition keeps its own half of the dimensions while the backbone trains."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (16, 2)).astype(np.int32)
    batch = LabelledBatch(rng.normal(size=(16, 6)).astype(np.float32), labels, np.ones(16, bool))
    backbone = BackboneConfig("projection", embedding_dim=8)
    config = Config(variant="fixed", backbone=backbone, loss=LossConfig(name="batch_all"))
    network = build_network(config, (6,), 2, 16)
    options = {"train_masks": network.masks.trained, "seed": 0}
    step = make_train_step(network.backbone, network.preprocess, network.optimizer, config.loss, **options)
    before, after = (flat(state.params) for state in (network.state, jax.jit(step)(network.state, batch)[0]))
    assert {name for name in before if np.any(before[name] != after[name])} == before.keys() - {"beta"}
    np.testing.assert_array_equal(after["beta"], np.repeat(np.eye(2), 4, axis=1))


def test_a_specialist_needs_a_batch_of_its_own_labels(tmp_path):
    """One condition has labels for all batches, the other too few for its specialist. Refused before any trains."""
    table = shop.columns()
    table["rare"] = [("x", "y")[i % 2] if i < 30 else "" for i in range(60)]
    shop.write(tmp_path / "t.parquet", table, vector=shop.vectors(table))
    data = DataConfig(
        source="table", path=str(tmp_path / "t.parquet"), vectors="vector", conditions=("category", "rare")
    )
    together = Config(
        batch_size=24, backbone=BackboneConfig("projection"), data=data, loss=LossConfig(name="batch_all")
    )
    load_dataset(together)
    with pytest.raises(csn_jax.UserError, match="at most the [12].? labelled items of the train split"):
        load_dataset(dataclasses.replace(together, variant="specialists"))


@pytest.mark.slow
def test_sets_and_numbers_train_in_batch(tmp_path):
    """A run with every kind of condition but rank."""
    table = shop.columns(120)
    shop.write(tmp_path / "t.parquet", table, vector=shop.vectors(table))
    data = DataConfig(
        source="table",
        path=str(tmp_path / "t.parquet"),
        vectors="vector",
        kinds=("size=ordinal",),
        conditions=("tags", "price", "size", "colour"),
        train_triplets=50,
        validation_triplets=50,
        test_triplets=50,
    )
    backbone = BackboneConfig("projection", embedding_dim=8)
    config = Config(
        batch_size=40, steps=2, feed="device", backbone=backbone, data=data, loss=LossConfig(name="batch_all")
    )
    results = csn_jax.train_and_evaluate(config, tmp_path / "run")
    assert results["conditions"] == ["tags", "price", "size", "colour"]
    (line,) = [
        line
        for line in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
        if "train/loss" in line
    ]
    assert 0 < line["train/active"] <= 1 and line["train/gradient_norm"] > 0


def test_an_epoch_of_the_schedule_covers_the_training_items(in_batch):
    """Not the drawn triplets: the factor is 0.985 after all items have been used once."""
    record = read_record(in_batch)
    items = record.items["train"]
    assert examples(tiny.config(PRESET), record) == items != record.triplets["train"]
    assert examples(tiny.config(), record) == record.triplets["train"]
    config = tiny.config(PRESET, "--config.schedule=exponential", "--config.batch_size=1000")
    epoch = -(-items // 1000)
    network = build_network(config, (32, 32, 1), 2, examples(config, record))
    gradient = jax.tree.map(jnp.ones_like, network.state.params)
    state, moves = network.state.opt_state, []
    for _ in range(2 * epoch):
        updates, state = network.optimizer.update(gradient, state, network.state.params)
        moves.append(float(updates["beta"][0, 0]))  # a constant gradient moves Adam by the learning rate
    np.testing.assert_allclose(moves, [-2e-3 * 0.985 ** (step // epoch + 1) for step in range(2 * epoch)], rtol=1e-4)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.batch_size=7", ("config.batch_size is 7", "at least 4 items for each", "from 8 to 13801")),
        ("--config.batch_size=20000", ("config.batch_size is 20000", "from 8 to 13801")),
        ("--config.data.triplets=mine.csv", ("config.loss.name is batch_all", "leave config.data.triplets empty")),
        ("--config.loss.name=batchall", ("batchall", "did you mean batch_all")),
    ],
)
def test_wrong_flags_are_refused_and_leave_no_workdir(tmp_path, flag, words):
    with pytest.raises(csn_jax.UserError) as caught:
        tiny.train(tmp_path / "run", PRESET, flag)
    assert all(word in str(caught.value) for word in words), caught.value
    assert tiny.is_one_sentence(str(caught.value).removesuffix("."))
    assert not list(tmp_path.rglob("*.json"))
