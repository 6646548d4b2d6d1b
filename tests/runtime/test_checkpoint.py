"""Checkpoints: no damaged array is returned, no good one is lost, and every refusal names its leaf."""

import json
import os
import random
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from saved import assert_is, damage_and_restore, files_of, filled, flip, state_at, target

from csn_jax.core.steps import State
from csn_jax.errors import MachineError, UserError
from csn_jax.runtime.checkpoint import Best, Checkpoints


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """Steps 1 (the best), 2 and 3."""
    return filled(tmp_path_factory.mktemp("three") / "checkpoints", {1: 0.1, 2: 0.3, 3: None})


@contextmanager
def no_file_larger_than(size: int):
    """Like a full disk for every writer of this process, with EFBIG instead of ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_state_is_restored_bit_for_bit(three):
    checkpoints = Checkpoints(three, read_only=True)
    assert checkpoints.steps() == [1, 2, 3] and checkpoints.best_step() == 1
    assert_is(checkpoints.restore_newest(target()), 3)
    assert checkpoints.best == Best(1, 0.1)
    for step in (1, 2):
        assert_is(checkpoints.restore(step, target()), step)


def test_an_empty_folder_has_no_step(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.restore_newest(target()) is None
    assert checkpoints.best_step() is None and checkpoints.best is None
    checkpoints.close()


def test_the_newest_two_and_the_best_stay(tmp_path):
    filled(tmp_path, {1: 0.5, 2: 0.2, 3: None, 4: 0.3, 5: None, 6: 0.4})
    assert sorted(os.listdir(tmp_path)) == ["2", "5", "6"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_no_error_value_loses_the_best(tmp_path, seed):
    """Ten random runs with NaN, infinite, missing, tied and finite errors, sometimes reopened, against a list."""
    rng = random.Random(seed)
    for run in range(10):
        folder = tmp_path / str(run)
        checkpoints = Checkpoints(folder)
        best, seen = None, []
        for step in range(1, rng.randint(4, 8)):
            error = rng.choice(
                [None, float("nan"), float("inf"), -float("inf"), *(rng.randint(0, 6) / 10 for _ in "1234")]
            )
            finite = error is not None and abs(error) < 1
            assert (
                checkpoints.improves(error) == (finite and (best is None or error < best[0]))
                if error is not None
                else 1
            )
            checkpoints.save(state_at(step), error)
            seen.append(step)
            if finite and (best is None or error < best[0]):
                best = (error, step)
            kept = {*seen[-2:], *([best[1]] if best else [])}
            checkpoints.wait()
            assert set(checkpoints.steps()) == {int(name) for name in os.listdir(folder)} == kept
            assert checkpoints.best_step() == (best[1] if best else step)
            if rng.random() < 0.2:
                checkpoints.close()
                checkpoints = Checkpoints(folder)
                assert_is(checkpoints.restore_newest(target()), step)
                assert checkpoints.best == (Best(best[1], best[0]) if best else None)
        checkpoints.close()


def arrays_of(step: Path) -> Path:
    """The file that holds the large arrays."""
    return max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("flips", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_harmless_or_detected(three, tmp_path, flips):
    """At random places of every file of the newest step: the right bits or the step before, never wrong weights."""
    rng, outcomes = random.Random(0), {"harmless": 0, "detected": 0}
    for name in files_of(three / "3"):
        for _ in range(flips if (three / "3" / name).stat().st_size else 0):
            message = damage_and_restore(
                three, tmp_path / "copy", lambda folder, name=name: flip(folder / "3" / name, rng)
            )
            outcomes["detected" if message else "harmless"] += 1
    assert outcomes["detected"] >= 3 * flips, outcomes


def test_every_bit_of_an_array_counts(three, tmp_path):
    """Ten flips in the file of the large arrays, which Orbax does not detect."""
    rng = random.Random(1)
    data = arrays_of(three / "3")
    messages = [
        damage_and_restore(three, tmp_path / "copy", lambda folder: flip(folder / data.relative_to(three), rng))
        for _ in range(10)
    ]
    assert sum(map(bool, messages)) >= 8, messages
    assert any("/" in text and "differ from their SHA-256" in text for text in messages)


DAMAGES = {
    "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
    "other JSON": lambda path: path.write_text("[]"),
    "emptied": lambda path: os.truncate(path, 0),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    "how", ["halved", "other JSON", *(pytest.param(how, marks=pytest.mark.slow) for how in ("emptied", "deleted"))]
)
def test_a_short_missing_or_foreign_file_is_harmless_or_detected(three, tmp_path, how):
    def damage(folder: Path, name: str) -> None:
        DAMAGES[how](folder / "3" / name)

    messages = {}
    for name in files_of(three / "3"):
        messages[name] = damage_and_restore(three, tmp_path / "copy", lambda folder, name=name: damage(folder, name))
    assert messages["meta/metadata"] and any(messages[name] for name in messages if name.startswith("state/"))


def test_without_a_step_or_the_folder_the_rest_is_used(three, tmp_path):
    damage_and_restore(three, tmp_path / "copy", lambda folder: shutil.rmtree(folder / "3"))
    checkpoints = Checkpoints(tmp_path / "nothing")
    assert checkpoints.restore_newest(target()) is None
    checkpoints.close()


def test_the_next_save_removes_what_a_killed_one_left(tmp_path):
    """Even if that step is never saved again, as after a stop between two regular saves."""
    filled(tmp_path, {1: 0.5})
    shutil.copytree(tmp_path / "1", tmp_path / "7.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [1]
    checkpoints.restore_newest(target(), pytest.fail)
    checkpoints.save(state_at(8), None)
    checkpoints.close()
    assert sorted(os.listdir(tmp_path)) == ["1", "8"]


def test_training_resumes_over_a_damaged_step(three, tmp_path):
    """The step is saved again under its number, and the best stays the best."""
    damage_and_restore(three, tmp_path, lambda folder: (folder / "3" / "meta" / "metadata").write_text("{}"))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore_newest(target())
    checkpoints.save(state_at(3), 0.2)
    checkpoints.save(state_at(4), None)
    checkpoints.close()
    assert sorted(os.listdir(tmp_path)) == ["1", "3", "4", "damaged"]
    assert_is(Checkpoints(tmp_path, read_only=True).restore_newest(target()), 4)


def test_if_every_step_is_damaged_nothing_is_changed(three, tmp_path):
    folder = shutil.copytree(three, tmp_path / "copy")
    for step in (1, 2, 3):
        (folder / str(step) / "meta" / "metadata").unlink()
    for _ in range(2):  # the second time too: the run must not silently start again
        checkpoints = Checkpoints(folder)
        with pytest.raises(MachineError, match="every checkpoint in .* is damaged .*the newest, step 3: ") as caught:
            checkpoints.restore_newest(target(), pytest.fail)
        checkpoints.close()
        assert tiny.is_one_sentence(str(caught.value).removesuffix("."))
        assert sorted(os.listdir(folder)) == ["1", "2", "3"]


def test_a_damaged_missing_or_unknown_best_is_refused(three, tmp_path):
    """`load` must not silently use another step."""
    folder = shutil.copytree(three, tmp_path / "copy")
    data = arrays_of(folder / "1")
    data.write_bytes(bytes(data.stat().st_size))
    checkpoints = Checkpoints(folder, read_only=True)
    assert checkpoints.best_step() == 1
    with pytest.raises(MachineError, match=f"checkpoint {folder / '1'} is damaged: "):
        checkpoints.restore(1, target())
    shutil.rmtree(folder / "1")
    with pytest.raises(MachineError, match="lacks the best checkpoint, step 1; "):
        Checkpoints(folder, read_only=True).best_step()
    (folder / "3" / "meta" / "metadata").write_text('{"record": {"best": {"step": 2, "error": 0.3}}, "sha256": ""}')
    with pytest.raises(MachineError, match=f"checkpoint {folder / '3'} is damaged: its record"):
        Checkpoints(folder, read_only=True).best_step()


def with_leaf(state: State, **changes) -> State:
    return state._replace(params=state.params | changes)


OTHERS = {
    "shape": (lambda: target(size=301), "params/backbone/fc/kernel is float32[300, 5] in it and float32[301, 5]"),
    "dtype": (
        lambda: with_leaf(target(), beta=jax.ShapeDtypeStruct((2, 5), jnp.bfloat16)),
        "params/beta is float32[2, 5] in it and bfloat16[2, 5]",
    ),
    "missing": (
        lambda: with_leaf(target(), scale=jax.ShapeDtypeStruct((3,), jnp.float32)),
        "params/scale is missing in it and float32[3]",
    ),
    "extra": (lambda: target()._replace(statistics={}), "statistics/bn/mean is float32[7] in it and missing"),
    "renamed": (
        lambda: target()._replace(statistics={"norm": target().statistics["bn"]}),
        "statistics/norm/mean is missing in it",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_refused_with_leaf_and_both_shapes(three, name):
    """It does not count as damage: nothing is moved, and the fix is named."""
    make, part = OTHERS[name]
    checkpoints = Checkpoints(three)
    with pytest.raises(UserError) as caught:
        checkpoints.restore_newest(make(), pytest.fail)
    checkpoints.close()
    assert part in str(caught.value) and "give another --workdir" in str(caught.value)
    assert tiny.is_one_sentence(str(caught.value).removesuffix("."))
    assert sorted(os.listdir(three)) == ["1", "2", "3"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, value):
    filled(tmp_path, {1: 0.5})
    checkpoints = Checkpoints(tmp_path)
    state = checkpoints.restore_newest(target())
    poisoned = state.statistics["bn"]["mean"].at[3].set(value)
    bad = state._replace(step=jnp.int32(2), statistics={"bn": {"mean": poisoned}})
    with pytest.raises(MachineError, match="step 2 was not saved because statistics/bn/mean is not finite; .* step 1"):
        checkpoints.save(bad, 0.1)
    assert checkpoints.best == Best(1, 0.5)
    checkpoints.close()
    assert os.listdir(tmp_path) == ["1"]


def test_a_full_disk_is_reported_and_the_last_step_stays(tmp_path):
    """An asynchronous save fails silently. The next call reports folder, free and needed space, and last step."""
    filled(tmp_path, {1: 0.5, 2: None})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore_newest(target())
    with no_file_larger_than(3000):
        with pytest.raises(MachineError) as caught:
            checkpoints.save(state_at(3), 0.1)
            checkpoints.wait()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state_at(3)))
    message = str(caught.value)
    assert f"no room to save step 3 in {tmp_path} (" in message and f"bytes free, {size:,} needed" in message
    assert "the last whole checkpoint is step 2;" in message and tiny.is_one_sentence(message.removesuffix("."))
    checkpoints.close()
    assert not (tmp_path / "3").exists()

    checkpoints = Checkpoints(tmp_path)  # with room again
    assert_is(checkpoints.restore_newest(target(), pytest.fail), 2)
    checkpoints.save(state_at(3), 0.1)
    checkpoints.close()
    assert sorted(os.listdir(tmp_path)) == ["2", "3"]
    assert_is(Checkpoints(tmp_path, read_only=True).restore_newest(target()), 3)


@pytest.mark.parametrize("limit", [0, 100, 1000, 2000, 3000])
def test_a_disk_that_fills_anywhere_keeps_the_earlier_steps(tmp_path, limit):
    """A sweep over the file size at which writing fails, with an immediate close."""
    filled(tmp_path, {1: 0.5, 2: 0.4})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.restore_newest(target())
    with no_file_larger_than(limit), pytest.raises(MachineError):
        checkpoints.save(state_at(3), 0.1)
        checkpoints.close()
    assert_is(Checkpoints(tmp_path, read_only=True).restore_newest(target(), pytest.fail), 2)
    assert Checkpoints(tmp_path, read_only=True).best_step() == 2


def test_a_state_is_restored_on_another_number_of_devices(three):
    """Saved on four devices, restored on one."""
    devices = jax.devices()
    assert len(devices) == 4
    one = jax.sharding.SingleDeviceSharding(devices[2])
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one)  # noqa: E731
    state = Checkpoints(three, read_only=True).restore_newest(jax.tree.map(place, target()))
    assert_is(state, 3)
    assert state.params["beta"].devices() == {devices[2]}


def test_reading_changes_no_file(three):
    """A reader must not touch the trash or unfinished saves of a running training."""
    (three / "trash").mkdir()
    (three / "9.orbax-checkpoint-tmp").mkdir()
    before = tiny.contents(three)
    checkpoints = Checkpoints(three, read_only=True)
    checkpoints.restore(checkpoints.best_step(), target())
    checkpoints.close()
    assert tiny.contents(three) == before and (three / "trash").is_dir() and (three / "9.orbax-checkpoint-tmp").is_dir()
    (three / "trash").rmdir()
    (three / "9.orbax-checkpoint-tmp").rmdir()


def test_the_record_is_plain_json(three):
    """A checkpoint can be verified without this package."""
    saved = json.loads((three / "3" / "meta" / "metadata").read_text())
    assert saved["record"]["best"] == {"step": 1, "error": 0.1}
    assert saved["record"]["leaves"]["params/beta"][:2] == ["float32", [2, 5]]
    assert len(saved["record"]["leaves"]["params/beta"][2]) == len(saved["sha256"]) == 64
