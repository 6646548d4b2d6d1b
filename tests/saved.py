"""Checkpoints to save, damage and restore: small states, another one at every step."""

import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from csn_jax.core.steps import State
from csn_jax.model.from_state import restore_target
from csn_jax.runtime.checkpoint import Best, Checkpoints
from csn_jax.runtime.sharding import make_shardings


def state_at(step: int, size: int = 300) -> State:
    """A small state that is another one at every step."""
    rng = np.random.default_rng(step)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    params = {"backbone": {"fc": {"kernel": draw(size, 5), "bias": draw(5)}}, "beta": draw(2, 5)}
    state = State(jnp.int32(step), params, {"bn": {"mean": draw(7)}}, {"mu": draw(size, 5), "count": jnp.int32(step)})
    return jax.device_put(state, make_shardings().state)


def target(**changes) -> State:
    return restore_target(state_at(0, **changes), make_shardings())


def assert_is(state: State, step: int) -> None:
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(state_at(step)), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def filled(folder: Path, errors: dict[int, float | None]) -> Path:
    checkpoints = Checkpoints(folder)
    for step, error in errors.items():
        checkpoints.save(state_at(step), error)
    checkpoints.close()
    return folder


def damage_and_restore(three: Path, folder: Path, damage) -> str:
    """Damage a copy; the newest step must come back right, or step 2 must, after a sentence that names step 3.

    Returns:
        What was told.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(three, folder)
    damage(folder)
    told = []
    checkpoints = Checkpoints(folder)
    state = checkpoints.restore_newest(target(), told.append)
    checkpoints.close()
    if int(state.step) == 3:
        assert not told
    elif told:
        assert f"checkpoint {folder / '3'} is damaged: " in told[0] and "resumes from step 2" in told[0]
        assert tiny.is_one_sentence(told[0].removesuffix("."))
        assert (folder / "damaged" / "3").is_dir() and not (folder / "3").exists()
    assert_is(state, int(state.step))
    assert checkpoints.best == Best(1, 0.1)
    return " ".join(told)


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
