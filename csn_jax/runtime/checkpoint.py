"""Checkpoints of a run: Orbax's newest two and the best, each leaf with its SHA-256.

Orbax alone survives SIGKILL, but it hands out silently wrong weights for a flipped bit, casts a wrong dtype without a
word, deletes the best checkpoint when a metric is NaN, and tells of a full disk only at the next call. The options and
checks below are there for these, each measured.
"""

import hashlib
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from csn_jax.core.steps import State
from csn_jax.errors import MachineError, UserError

FULL_DISK = ("RESOURCE_EXHAUSTED", "No space left", "File too large", "Disk quota exceeded")


class Damaged(Exception):
    """A step that cannot be trusted, and why."""


class Checkpoints:
    """The checkpoints below one folder. Saves are asynchronous; call `close` to know that the last one is whole."""

    def __init__(self, folder: Path, *, read_only: bool = False):
        self.folder = folder
        self._pending: int | None = None
        logging.getLogger("absl").setLevel(logging.ERROR)
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            # Deletion is one rename into trash (a killed plain deletion leaves half a step that is still listed).
            shutil.rmtree(folder / "trash", ignore_errors=True)
            options = ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [
                        preservation_policy.LatestN(2),
                        preservation_policy.BestN(get_metric_fn=_goodness, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                best_fn=_goodness,
                todelete_subdir="trash",
                cleanup_tmp_directories=True,
            )
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(folder, options=options, item_handlers=handlers)

    def save(self, state: State, meta: dict, error: float | None) -> None:
        """Save asynchronously under the state's step.

        Args:
            state: kept whole.
            meta: JSON that comes back on restore.
            error: validation error, only where it is the lowest yet; the step is then kept as the best.

        Raises:
            MachineError: when this or the previous save failed.
        """
        step = int(state.step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave(meta | {"sha256": leaf_digests(state)}),
        )
        self.wait()
        try:
            self._pending = step
            self._manager.save(step, args=args, metrics=None if error is None else {"error": error}, force=True)
        except Exception as failure:  # Orbax raises ValueError, OSError and its own kinds here
            raise self._failure(failure, state) from failure

    def wait(self) -> None:
        """Wait until the running save is committed: the only call that tells of a failed one."""
        try:
            self._manager.wait_until_finished()
        except Exception as failure:
            raise self._failure(failure, None) from failure
        self._pending = None

    def close(self) -> None:
        """Wait for the running save and let the folder go."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps that are there, oldest first."""
        return sorted(self._manager.all_steps())

    def restore_newest(self, target: State, say=print) -> tuple[State, dict] | None:
        """The newest step that is whole, telling why a newer one was skipped; None when there is none.

        Args:
            target: a State of jax.ShapeDtypeStruct with shardings. Another number of devices than at saving is fine.
            say: takes one sentence for each skipped step.

        Raises:
            UserError: when the checkpoint is of another model, naming leaf, both values and remedy.
            MachineError: when steps are there and none is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._restore(step, target)
            except Damaged as damage:
                say(f"checkpoint {self.folder / str(step)} is damaged and was set aside: {damage}.")
                self._set_aside(step)
        if steps:
            raise MachineError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(map(str, steps))}); "
                "restore the folder from a copy, or start in a new --workdir."
            )
        return None

    def restore(self, step: int, target: State) -> tuple[State, dict]:
        """One step, verified.

        Raises:
            MachineError: when it is damaged, naming the step and the leaf.
        """
        try:
            return self._restore(step, target)
        except Damaged as damage:
            raise MachineError(
                f"checkpoint {self.folder / str(step)} is damaged: {damage}; restore it from a copy or train again."
            ) from None

    def best_step(self) -> int | None:
        """The step recorded as the best by the newest readable checkpoint, or None when there is no checkpoint."""
        for step in reversed(self.steps()):
            try:
                best = self._read_meta(step).get("best")
            except Damaged:
                continue
            if best and best["step"] in self.steps():
                return best["step"]
        return self.steps()[-1] if self.steps() else None

    def _restore(self, step: int, target: State) -> tuple[State, dict]:
        meta = self._read_meta(step)
        self._compare(step, target)
        try:
            state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))).state
        except Exception as error:  # a broken file shows as any of a dozen kinds
            raise Damaged(_first_line(error)) from error
        found = leaf_digests(state)
        wrong = [leaf for leaf, digest in meta["sha256"].items() if found.get(leaf) != digest]
        if wrong or len(found) != len(meta["sha256"]):
            raise Damaged(f"{len(wrong)} of {len(found)} arrays differ from their SHA-256, first {wrong[:1]}")
        return state, meta

    def _read_meta(self, step: int) -> dict:
        try:
            meta = json.loads((self.folder / str(step) / "meta" / "metadata").read_text(encoding="utf-8"))
            if isinstance(meta["sha256"], dict):
                return meta
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"its record of digests cannot be read ({_first_line(error)})") from error
        raise Damaged("its record of digests is no object")

    def _compare(self, step: int, target: State) -> None:
        """Compare tree, shapes and dtypes before restoring, since Orbax casts silently and names no leaf."""
        try:
            stored = self._manager.item_metadata(step)["state"]
            stored = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(stored)}
            stored = {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in stored.items()}
        except Exception as error:
            raise Damaged(f"its description cannot be read ({_first_line(error)})") from error
        wanted = {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(target)}
        for name, leaf in wanted.items():
            here = (tuple(leaf.shape), np.dtype(leaf.dtype))
            if stored.get(name) != here:
                raise UserError(
                    f"checkpoint {self.folder / str(step)} is of another model: {name} is "
                    f"{_describe(stored.get(name))} there and {_describe(here)} by config.json; "
                    "restore the config of that run, or give another --workdir."
                )
        extra = sorted(stored.keys() - wanted.keys())
        if extra:
            raise UserError(
                f"checkpoint {self.folder / str(step)} is of another model: it holds {extra[0]}, which config.json has "
                "no place for; restore the config of that run, or give another --workdir."
            )

    def _set_aside(self, step: int) -> None:
        (self.folder / "trash").mkdir(exist_ok=True)
        shutil.rmtree(self.folder / "trash" / f"damaged-{step}", ignore_errors=True)
        (self.folder / str(step)).rename(self.folder / "trash" / f"damaged-{step}")
        self._manager.reload()

    def _failure(self, error: Exception, state: State | None) -> MachineError:
        good = [step for step in self.steps() if step != self._pending]
        last = f"the last whole checkpoint is step {good[-1]}" if good else "no checkpoint is whole yet"
        if any(text in str(error) for text in FULL_DISK):
            free = shutil.disk_usage(self.folder).free
            need = "" if state is None else f", {sum(leaf.nbytes for leaf in jax.tree.leaves(state)):,} bytes needed"
            return MachineError(
                f"no room to save step {self._pending} in {self.folder} ({free:,} bytes free{need}); {last}; "
                "free some space and run the same command again."
            )
        return MachineError(f"step {self._pending} was not saved in {self.folder} ({_first_line(error)}); {last}.")


def leaf_digests(tree: Any) -> dict[str, str]:
    """SHA-256 of each leaf's bytes, in hex, by the leaf's path."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {_path(path): hashlib.sha256(np.ascontiguousarray(leaf)).hexdigest() for path, leaf in leaves}


def _path(path: tuple) -> str:
    """One spelling for a leaf's place, whether the tree has named tuples or, as Orbax describes it, dicts."""
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def _goodness(metrics: dict | None) -> float:
    """Higher is better. What is not finite is worst: a NaN would otherwise have the best checkpoint deleted."""
    error = (metrics or {}).get("error", math.nan)
    return -error if math.isfinite(error) else -math.inf


def _describe(leaf: tuple | None) -> str:
    return "missing" if leaf is None else f"{leaf[1].name}{list(leaf[0])}"


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:200]}"
