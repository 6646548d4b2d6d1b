"""Checkpoints of a run: Orbax's newest two and the best, each leaf with its SHA-256.

Orbax alone survives SIGKILL. But after a flipped bit it returns wrong weights, it casts a wrong dtype silently, it
deletes the best checkpoint when a metric is NaN, and it reports a full disk only at the next call. The options and
checks below prevent these; each was measured.
"""

import contextlib
import hashlib
import json
import logging
import math
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from csn_jax.core.steps import State
from csn_jax.errors import MachineError, UserError
from csn_jax.runtime import hosts
from csn_jax.runtime.workdir import check_readable

FULL_DISK = ("RESOURCE_EXHAUSTED", "No space left", "File too large", "Disk quota exceeded")


class Damaged(Exception):
    """A step is damaged; the text says how."""


class Best(NamedTuple):
    """The step with the lowest validation error so far."""

    step: int
    error: float


class Checkpoints:
    """The checkpoints in one folder. Saves are asynchronous; after `close` the last one is whole. `best` is of the
    state that was restored or saved last."""

    def __init__(self, folder: Path, *, read_only: bool = False):
        self.folder = folder
        self.best: Best | None = None
        self._read_only = read_only
        self._saving: tuple[int, int] | None = None  # step and bytes of the save that may still be running
        _silence_orphans()
        # Lightweight: otherwise one damaged file stops the manager from opening.
        options = {"lightweight_initialize": True, "read_only": read_only}
        self._empty_trash()
        if not read_only:
            # Deletion is one rename into trash: a killed plain deletion leaves half a step that is still listed.
            options |= {"preservation_policy": self, "todelete_subdir": "trash", "cleanup_tmp_directories": True}
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            folder, options=ocp.CheckpointManagerOptions(**options), item_handlers=handlers
        )

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which steps to keep, asked by Orbax at every save: the newest two and the best."""
        best = self.best.step if self.best else None
        return [i >= len(checkpoints) - 2 or info.step == best for i, info in enumerate(checkpoints)]

    def improves(self, error: float) -> bool:
        """Whether a validation error is the lowest so far. An error that is not finite never is."""
        return math.isfinite(error) and (self.best is None or error < self.best.error)

    def save(self, state: State, error: float | None = None) -> None:
        """Save asynchronously under the state's step. The lowest validation error so far makes the step the best. A
        MachineError if a value is not finite, or this or the previous save failed."""
        self.wait()
        step = int(state.step)
        arrays = jax.device_get(state)
        leaves = _leaves_of(arrays)
        for name, leaf in leaves.items():
            if not np.isfinite(leaf).all():
                raise MachineError(
                    f"step {step} was not saved because {name} is not finite; {self._last_whole()}: lower "
                    "config.learning_rate in a new --workdir, or look at the data."
                )
        if error is not None and self.improves(error):
            self.best = Best(step, float(error))
        record = {"best": self.best and self.best._asdict(), "leaves": _described(leaves)}
        args = ocp.args.Composite(
            # Of replicated device arrays Orbax cuts a part per device, with a program per shape of leaf.
            state=ocp.args.StandardSave(arrays),
            meta=ocp.args.JsonSave({"record": record, "sha256": _sha256_of_json(record)}),
        )
        self._saving = (step, sum(leaf.nbytes for leaf in leaves.values()))
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as failure:  # Orbax raises ValueError, OSError and its own kinds here
            raise self._failure(failure) from failure

    def wait(self) -> None:
        """Wait until the running save is committed. Only this call reports a failed save."""
        try:
            self._manager.wait_until_finished()
        except Exception as failure:
            raise self._failure(failure) from failure
        self._saving = None
        self._empty_trash()

    def close(self) -> None:
        """Wait for the running save and release the folder."""
        try:
            self.wait()
        except MachineError:
            with contextlib.suppress(Exception):  # the same failure again
                self._manager.close()
            raise
        self._manager.close()

    def steps(self) -> list[int]:
        """The saved steps, oldest first."""
        return sorted(self._manager.all_steps())

    def restore_newest(self, target: State, say: Callable[[str], None] = print) -> State | None:
        """The newest whole step, or None when there is no step. `say` takes one sentence per skipped step. `target` is
        a State of jax.ShapeDtypeStruct with shardings; another number of devices than at saving is fine.

        A UserError if the checkpoint is of another model: it names leaf, both values and remedy. A MachineError if
        there are steps and none is whole, or processes find different ones.
        """
        state: State | None = None
        damages: dict[int, Damaged] = {}
        for step in reversed(self.steps()):
            try:
                state = self._restore(step, target)
                break
            except Damaged as damage:
                damages[step] = damage
        if damages and not state:
            step, damage = max(damages.items())
            raise MachineError(
                f"every checkpoint in {self.folder} is damaged (the newest, step {step}: {damage}); restore the folder "
                "from a copy, or start in a new --workdir."
            )
        step = int(state.step) if state else 0
        for other, damage in damages.items():
            self._set_aside(other)
            say(
                f"checkpoint {self.folder / str(other)} is damaged: {damage}; it was moved to "
                f"{self.folder / 'damaged'}, and training resumes from step {step}."
            )
        if (first := hosts.on_first(lambda: step)) != step:
            raise MachineError(
                f"process {hosts.index()} resumes from step {step} of {self.folder} and the first one from step "
                f"{first}; check that all hosts can read the same folder, and run the same command again."
            )
        return state

    def restore(self, step: int, target: State) -> State:
        """One step, verified. Errors as in `restore_newest`: UserError for another model, MachineError for damage."""
        try:
            return self._restore(step, target)
        except Damaged as damage:
            raise self._unusable(step, damage) from None

    def best_step(self) -> int | None:
        """The step recorded as the best, the newest if none was measured, or None when there is no checkpoint.

        The newest step's record decides: an older one may name an older best. A MachineError if that record is damaged,
        or the best step is missing.
        """
        steps = self.steps()
        if not steps:
            return None
        try:
            best = self._read_record(steps[-1])["best"]
        except Damaged as damage:
            raise self._unusable(steps[-1], damage) from None
        if best and best["step"] not in steps:
            raise MachineError(
                f"{self.folder} lacks the best checkpoint, step {best['step']}; restore it from a copy, or train again "
                "in a new --workdir."
            )
        return best["step"] if best else steps[-1]

    def _restore(self, step: int, target: State) -> State:
        record = self._read_record(step)
        # Compared before restoring: Orbax casts silently and does not name the leaf.
        saved = {name: f"{dtype}{shape}" for name, (dtype, shape, _) in record["leaves"].items()}
        expected = {name: f"{np.dtype(leaf.dtype)}{[*leaf.shape]}" for name, leaf in _leaves_of(target).items()}
        for name in [*expected, *sorted(saved.keys() - expected.keys())]:
            if (of_step := saved.get(name, "missing")) != (by_config := expected.get(name, "missing")):
                raise UserError(
                    f"checkpoint {self.folder / str(step)} is of another model: {name} is {of_step} in it and "
                    f"{by_config} by config.json; restore the config of that run, or give another --workdir."
                )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        try:
            state = self._manager.restore(step, args=args).state
        except Exception as error:  # a broken file raises one of a dozen kinds
            check_readable(self.folder / str(step))
            raise Damaged(f"it cannot be read ({_first_line(error)})") from error
        restored = _described(_leaves_of(jax.device_get(state)))
        wrong = [name for name, entry in restored.items() if entry != record["leaves"][name]]
        if wrong:
            raise Damaged(f"{wrong[0]} and {len(wrong) - 1} other arrays differ from their SHA-256")
        self.best = Best(**record["best"]) if record["best"] else None
        return state

    def _read_record(self, step: int) -> dict:
        try:
            saved = json.loads((self.folder / str(step) / "meta" / "metadata").read_bytes())
            record, digest = saved["record"], saved["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            check_readable(self.folder / str(step))
            raise Damaged(f"its record of digests cannot be read ({_first_line(error)})") from error
        if digest != _sha256_of_json(record):
            raise Damaged("its record of digests differs from its own SHA-256")
        return record

    def _empty_trash(self) -> None:
        if not self._read_only and hosts.is_first():
            shutil.rmtree(self.folder / "trash", ignore_errors=True)

    def _set_aside(self, step: int) -> None:
        def move() -> None:
            aside = self.folder / "damaged"
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / str(step), ignore_errors=True)
            (self.folder / str(step)).rename(aside / str(step))

        hosts.on_first(move)
        self._manager.reload()

    def _unusable(self, step: int, damage: Damaged) -> MachineError:
        return MachineError(
            f"checkpoint {self.folder / str(step)} is damaged: {damage}; restore it from a copy, or train again in a "
            "new --workdir."
        )

    def _last_whole(self) -> str:
        whole = [step for step in self.steps() if not self._saving or step != self._saving[0]]
        return f"the last whole checkpoint is step {whole[-1]}" if whole else "no checkpoint is whole yet"

    def _failure(self, error: Exception) -> MachineError:
        step, size = self._saving or (None, 0)
        if any(text in str(error) for text in FULL_DISK):
            return MachineError(
                f"no room to save step {step} in {self.folder} ({shutil.disk_usage(self.folder).free:,} bytes free, "
                f"{size:,} needed); {self._last_whole()}; free some space and run the same command again."
            )
        return MachineError(f"step {step} was not saved in {self.folder} ({_first_line(error)}); {self._last_whole()}.")


def has_steps(folder: Path) -> bool:
    """Whether a folder exists and holds a checkpoint."""
    return folder.is_dir() and bool(Checkpoints(folder, read_only=True).steps())


def _leaves_of(tree: Any) -> dict[str, Any]:
    """Leaves by their path in a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _described(leaves: dict[str, np.ndarray]) -> dict[str, list]:
    """{leaf: [dtype, shape, SHA-256]}."""
    return {
        name: [leaf.dtype.name, [*leaf.shape], hashlib.sha256(np.ascontiguousarray(leaf)).hexdigest()]
        for name, leaf in leaves.items()
    }


def _sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    text = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    place = re.search(r"'path': '([^'/]+)/'", str(error))  # the leaf, with dots, in TensorStore's description
    return f"{type(error).__name__}: {text[:200]}" + (f" of {place[1]}" if place else "")


def _silence_orphans() -> None:
    """Have Orbax report a failure once, by raising it. On a broken file or a full disk it also logs one traceback per
    thread, and TensorStore's pending work ends later as exceptions that nobody awaits."""
    if getattr(sys.unraisablehook, "of_orbax", False):
        return  # installed, and not replaced since
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(lambda record: "tensorstore" not in record.getMessage())
    warnings.filterwarnings("ignore", "coroutine 'Store.* was never awaited", RuntimeWarning)
    report = sys.unraisablehook

    def report_others(orphan: Any) -> None:
        place = getattr(getattr(orphan.object, "cr_code", None), "co_filename", "")
        if str(orphan.exc_value) != "Event loop is closed" and "orbax" not in place:
            report(orphan)

    report_others.of_orbax = True
    sys.unraisablehook = report_others
