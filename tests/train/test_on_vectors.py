"""Runs on vectors: the raw geometry is never lost, maps resume and end as masks do, and what is damaged is noticed."""

import json
import os
import pickle
import shutil
import signal

import numpy as np
import pytest
import tiny

import csn_jax
from csn_jax import embed, search
from csn_jax.core.maps import Axes, rotated
from csn_jax.model.from_state import restore_target
from csn_jax.model.run import open_run
from csn_jax.runtime.checkpoint import Checkpoints
from csn_jax.runtime.sharding import make_shardings
from csn_jax.runtime.writer import Writer
from csn_jax.train import loop
from csn_jax.train.on_vectors import MapsLook, plan_of

F = 12  # of tiny.on_vectors


def written(workdir):
    """What must not depend on how often a run was killed, however many steps it took."""
    checkpoint = f"checkpoints/{csn_jax.load(workdir).step}/meta/metadata"
    names = ("config.json", "data.json", "metrics.jsonl", "results.json", checkpoint)
    return {name: (workdir / name).read_bytes() for name in names}


def errors_of(workdir):
    """The overall error on validation by step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    key = "validation/triplet_error/overall"
    return {line["step"]: line[key] for line in lines if key in line}


def test_step_0_is_measured_and_may_be_the_best(maps_on_vectors, finished_on_vectors):
    """Of maps and of masks. The error of maps is that of each condition's best so far, so it never rises."""
    for workdir in (maps_on_vectors, finished_on_vectors):
        errors = errors_of(workdir)
        assert sorted(errors) == [0, 8, 16, 24]
        assert csn_jax.load(workdir).step == min(errors, key=errors.get)
    of_maps = list(errors_of(maps_on_vectors).values())
    assert of_maps == sorted(of_maps, reverse=True) and of_maps[-1] < of_maps[0]


def test_maps_stopped_and_resumed_end_as_unbroken(on_vectors, maps_on_vectors, tmp_path, monkeypatch):
    """Stopped at step 11, before the second measurement: the kept maps and their errors are in the checkpoint."""
    log = Writer.log

    def log_and_stop(self, step, values):
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        log(self, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "log", log_and_stop)
        with pytest.raises(csn_jax.Stopped):
            tiny.train(tmp_path, *on_vectors, *tiny.MAPS)
    assert "scale" not in json.loads((tmp_path / "data.json").read_text())["raw"]
    tiny.train(tmp_path, *on_vectors, *tiny.MAPS)
    assert tiny.fingerprint(tmp_path) == tiny.fingerprint(maps_on_vectors)
    assert "scale" in json.loads((tmp_path / "data.json").read_text())["raw"]


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_killed_around_the_save_of_step_0(saved, on_vectors, maps_on_vectors, tmp_path, monkeypatch):
    """Behind the save, or between the log's line and the save: the line is there once, and the end is as unbroken."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Watched if saved else Checkpoints, "__next__" if saved else "save", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny.train(tmp_path, *on_vectors, *tiny.MAPS)
    assert (tmp_path / "checkpoints" / "0").exists() == saved
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 1
    tiny.train(tmp_path, *on_vectors, *tiny.MAPS)
    assert tiny.fingerprint(tmp_path) == tiny.fingerprint(maps_on_vectors)


@pytest.mark.parametrize("kind", ["maps", "masks"])
def test_a_run_killed_before_its_raw_conditions_were_written(
    kind, on_vectors, maps_on_vectors, finished_on_vectors, tmp_path
):
    """The last checkpoint is there, and data.json is as before training."""
    finished = maps_on_vectors if kind == "maps" else finished_on_vectors
    workdir = shutil.copytree(finished, tmp_path / "run")
    record = json.loads((workdir / "data.json").read_text())
    (workdir / "data.json").write_text(json.dumps(record | {"raw": {"unit": record["raw"]["unit"]}}, indent=2) + "\n")
    (workdir / "results.json").unlink()
    tiny.train(workdir, *on_vectors, *(tiny.MAPS if kind == "maps" else ()))
    assert tiny.fingerprint(workdir) == tiny.fingerprint(finished)


@pytest.mark.parametrize("leaf", ["kept", "kept_error", "axes", "mean", "unit"])
def test_what_maps_keep_is_verified(leaf, maps_on_vectors, tmp_path):
    """A checkpoint in which one array is another one than was saved, and whose files are whole."""
    workdir = shutil.copytree(maps_on_vectors, tmp_path / "run")
    run = open_run(workdir)
    network, state = run.restore()
    value = np.array(state.statistics[leaf])
    value.flat[-1] = not value if leaf == "unit" else value.flat[-1] + 1e-3
    other = Checkpoints(tmp_path / "other")
    other.save(state._replace(statistics=state.statistics | {leaf: value}))
    other.close()
    step = str(int(state.step))
    shutil.rmtree(workdir / "checkpoints" / step / "state")
    shutil.copytree(tmp_path / "other" / step / "state", workdir / "checkpoints" / step / "state")
    with pytest.raises(csn_jax.MachineError, match=f"{step} is damaged: statistics/{leaf} and 0 other arrays"):
        csn_jax.load(workdir)


def test_a_damaged_newest_step_of_maps_costs_only_its_own_work(on_vectors, maps_on_vectors, tmp_path, capsys):
    workdir = shutil.copytree(maps_on_vectors, tmp_path / "run")
    (workdir / "results.json").unlink()
    shutil.rmtree(workdir / "checkpoints/24/state")
    shutil.copytree(workdir / "checkpoints/20/state", workdir / "checkpoints/24/state")
    tiny.train(workdir, *on_vectors, *tiny.MAPS)
    assert "24 is damaged: " in (said := capsys.readouterr().err) and "resumes from step 20" in said
    assert tiny.fingerprint(workdir) == tiny.fingerprint(maps_on_vectors)


PATIENT = (*tiny.MAPS, "--config.patience=2", "--config.eval_every=2", "--config.checkpoint_every=3")


def test_patience_ends_a_run_and_the_same_command_is_a_no_op(on_vectors, tmp_path, capsys, monkeypatch):
    """After the second look without a new best. Killed behind the last step, the run ends with the same bytes."""
    flags = (*on_vectors, *PATIENT, "--config.learning_rate=1e-9")  # nothing gets better
    workdir = tmp_path / "run"
    tiny.train(workdir, *flags)
    assert "no lower validation error since step 0: training ends at step 4" in capsys.readouterr().err
    assert list(errors_of(workdir)) == [0, 2, 4] and csn_jax.load(workdir).step == 0
    before = tiny.contents(workdir)
    tiny.train(workdir, *flags)
    assert tiny.contents(workdir) == before
    whole = written(workdir)
    for newest in (3, 4):
        (workdir / "results.json").unlink()
        if newest == 4:  # a checkpoint of the very step at which patience ended the run: nothing is left to do
            again = shutil.copytree(workdir, tmp_path / "again")
            monkeypatch.setattr(Writer, "log", lambda *_: pytest.fail("a step was taken"))
            run = open_run(again)
            shardings = make_shardings()
            checkpoints = Checkpoints(again / "checkpoints")
            state = checkpoints.restore_newest(restore_target(run.restore()[0].state, shardings))
            checkpoints.save(state._replace(step=np.int32(4)), 1.0)
            checkpoints.close()
            workdir = again
        tiny.train(workdir, *flags)
        assert written(workdir) == whole


@pytest.mark.parametrize("flags", [tiny.MAPS, pytest.param(("--config.learning_rate=1e-2",), marks=pytest.mark.slow)])
def test_a_condition_of_noise_keeps_the_raw_vectors(flags, on_vectors, tmp_path, capsys):
    """Sizes are drawn without a look at the vectors. The run says so, and the other condition keeps what it learned."""
    *flags_before, _, _ = on_vectors
    tiny.train(tmp_path, *flags_before, "category", "size", *flags)
    model, raw = csn_jax.load(tmp_path), json.loads((tmp_path / "data.json").read_text())["raw"]
    assert raw["conditions"] == ["size"]
    said = capsys.readouterr().err
    assert (
        "size: nothing that was learned is clearly better than the raw vectors" in said and "category: no" not in said
    )
    x, y = np.random.default_rng(0).normal(size=(2, F)).astype(np.float32)
    assert_raw(model, raw, x, y, "size")


def assert_raw(model, raw, x, y, name):
    u, v = (x / np.linalg.norm(x), y / np.linalg.norm(y)) if raw["unit"] else (x, y)
    expected = raw["scale"] * np.linalg.norm(u - v)
    e = model.embed(np.stack([x, y]))
    assert float(model.distance(e[0], e[1], name)) == pytest.approx(expected, rel=1e-5)
    assert -float(model.similarity(e[:1], e[1:], name)[0, 0]) == pytest.approx(expected, rel=1e-5)


def with_raw_condition(finished, folder, name):
    """A copy of a run in which a condition keeps the raw geometry, whatever training found."""
    workdir = shutil.copytree(finished, folder)
    record = json.loads((workdir / "data.json").read_text())
    record["raw"] |= {"conditions": [name], "scale": 1.25}
    (workdir / "data.json").write_text(json.dumps(record, indent=2) + "\n")
    return workdir


def test_masks_beside_raw_vectors_embed_pickle_and_search(finished_on_vectors, tmp_path, capsys):
    """The embedding is [D + F]; the raw condition's mask is of the last F alone, and the other's of the first D."""
    workdir = with_raw_condition(finished_on_vectors, tmp_path / "run", "colour")
    model, raw = csn_jax.load(workdir), {"unit": None, "scale": 1.25}
    raw["unit"] = json.loads((workdir / "data.json").read_text())["raw"]["unit"]
    x = np.random.default_rng(0).normal(size=(5, F)).astype(np.float32)
    e = model.embed(x)
    assert e.shape == (5, 1024 + F) and model.masks.shape == (2, 1024 + F)
    assert not model.masks[1, :1024].any() and (model.masks[1, 1024:] == 1).all() and not model.masks[0, 1024:].any()
    assert_raw(model, raw, x[0], x[1], "colour")
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.embed(x), e) and again.sha256 == model.sha256 and repr(again) == repr(model)
    assert again.distance(e[0], e[1], "category") == model.distance(e[0], e[1], "category")
    embed.main([f"--workdir={workdir}", "--split=test", f"--out={tmp_path / 'v.parquet'}"])
    index = csn_jax.Index.open(tmp_path / "v.parquet")
    ids = index.items.ids
    capsys.readouterr()
    flags = (f"--index={tmp_path / 'v.parquet'}", f"--id={ids[0]}", "--condition=colour", "--k=3", "--json")
    search.main(flags)
    hits = json.loads(capsys.readouterr().out)["hits"]
    vectors = open_run(workdir).dataset().items
    own = {str(name): vector for name, vector in zip(vectors.ids, vectors.inputs, strict=True)}
    u = {name: own[str(name)] / (np.linalg.norm(own[str(name)]) if raw["unit"] else 1) for name in ids}
    expected = sorted(1.25 * np.linalg.norm(u[name] - u[ids[0]]) for name in ids if name != ids[0])[:3]
    np.testing.assert_allclose([hit["distance"] for hit in hits], expected, rtol=1e-4)


def test_maps_pickle_with_their_raw_conditions(maps_on_vectors, tmp_path):
    workdir = with_raw_condition(maps_on_vectors, tmp_path / "run", "category")
    model, x = csn_jax.load(workdir), np.random.default_rng(0).normal(size=(5, F)).astype(np.float32)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(model.embed(x), x) and np.array_equal(again.view(x), model.view(x))
    for name in model.conditions:
        assert np.array_equal(again.distance(x[0], x[1], name), model.distance(x[0], x[1], name))
    record = json.loads((workdir / "data.json").read_text())["raw"]
    assert_raw(model, record, x[0], x[1], "category")


def test_several_pulls_need_vectors():
    """On images, sets of maps that train side by side would share one network, and only one would be used."""
    config = tiny.config(*tiny.MAPS, "--config.maps.pulls", "0.1", "0")
    with pytest.raises(csn_jax.UserError, match="one set of maps trains with a network"):
        plan_of(config, None)
    assert plan_of(tiny.config(*tiny.MAPS, "--config.maps.pulls", "0.1"), None)["pulls"] == [0.1]


def test_a_worse_map_does_not_replace_the_best_so_far(maps_on_vectors):
    """By condition: the first is a better map at the first look, the others at the second."""
    run = open_run(maps_on_vectors)
    _, state = run.restore()
    dataset, axes = run.dataset(), Axes(*(np.asarray(state.statistics[name]) for name in ("mean", "axes")))
    look = MapsLook(dataset, rotated(axes, dataset.items.inputs, bool(state.statistics["unit"])))
    good = np.asarray(state.statistics["kept"])
    bad = np.random.default_rng(0).normal(0, 1, good.shape).astype(np.float32)

    def seen(maps, statistics):
        return look(state._replace(params=state.params | {"beta": maps[None]}, statistics=statistics))

    none = state.statistics | {"kept_error": np.ones(len(good), np.float32)}
    errors = [np.array(list(seen(maps, none)[0].values()))[1:] for maps in (good, bad)]
    assert (errors[0] < errors[1]).all()
    first, second = bad.copy(), good.copy()
    first[0], second[0] = good[0], bad[0]
    _, statistics = seen(first, none)
    best, statistics = seen(second, statistics)
    np.testing.assert_array_equal(statistics["kept"], good)
    np.testing.assert_array_equal(list(best.values())[1:], errors[0])
