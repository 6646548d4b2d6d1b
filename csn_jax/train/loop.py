"""train_and_evaluate: where feed, step, evaluation and checkpoint meet."""

import dataclasses
import gc
import math
import re
import time
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from csn_jax.config import Config
from csn_jax.core.maps import Axes, rotated
from csn_jax.core.masks import use_of
from csn_jax.core.steps import State, make_train_step, repeatable
from csn_jax.data.dataset import Dataset, load_dataset
from csn_jax.errors import Stopped
from csn_jax.evaluate.measure import measure, validation_errors
from csn_jax.model.from_state import make_model, make_programs, restore_target
from csn_jax.model.network import Network, network_of, pretrained
from csn_jax.model.run import load
from csn_jax.model.weight_files import licence_of
from csn_jax.pictures import sheets as pictures
from csn_jax.runtime import hosts
from csn_jax.runtime.checkpoint import Checkpoints, has_steps
from csn_jax.runtime.compiler import jit
from csn_jax.runtime.record import read_record, read_results, to_json
from csn_jax.runtime.sharding import Shardings, make_shardings, place
from csn_jax.runtime.workdir import (
    check_config,
    claim,
    full_disk_reported,
    locked,
    no_empty_folders,
    open_workdir,
    write_atomically,
)
from csn_jax.runtime.writer import Progress, open_writer, say
from csn_jax.train.cached import encoded_once
from csn_jax.train.data_report import report
from csn_jax.train.feed import BatchAt, Feed, Watched, device_feed, fits, labelled_batches, steps_in, triplet_batches
from csn_jax.train.metrics import Pending
from csn_jax.train.on_vectors import MapsLook, is_unit, plan_of, raw_conditions, raw_start
from csn_jax.train.signals import StopRequest, catch_stop


def train_and_evaluate(config: Config, workdir: str | Path) -> dict[str, Any]:
    """Train a config in a workdir, or resume it, and measure the best model on the test split.

    Killed at any moment and called again, it ends with the bits of an uninterrupted run. A finished run is only read.

    Args:
        config: the run; the workdir keeps it and refuses another.
        workdir: made if it does not exist.

    Returns:
        The content of results.json: variant, conditions, split, step, triplet_error, ci95, n_triplets, primary_metric,
        retrieval, and for vectors baselines.

    Raises:
        UserError: a mistake in config, data or workdir.
        MachineError: a full disk, no sound checkpoint, or a loss that is not finite.
        Stopped: after SIGTERM, SIGUSR1 or Ctrl-C, with the state saved.
    """
    config.validate()
    workdir = Path(workdir).expanduser().absolute()
    with no_empty_folders(workdir):
        return _train_and_evaluate(config, open_workdir(workdir))


def _train_and_evaluate(config: Config, workdir: Path) -> dict[str, Any]:
    check_config(workdir, config)
    results = hosts.on_first(lambda: (finished := read_results(workdir)) and finished.as_object())
    if results:
        say(f"{workdir} holds a finished run; nothing to train.")
        return results
    with locked(workdir), full_disk_reported(workdir), catch_stop() as stop:
        if config.feed == "tfdata":
            with stop.shielded():  # its libraries do not bear an exception
                import csn_jax.train.tf_feed  # noqa: F401  (reports a missing TensorFlow before anything is written)
        dataset = load_dataset(config)
        say(report(config, dataset))
        if config.variant == "specialists":
            claim(workdir, config, dataset.record)
            encoded: dict[str, np.ndarray] = {}
            for row in range(len(dataset.items.conditions)):
                _train_specialist(config, workdir, dataset, row, stop, encoded)
        else:
            _train(config, workdir, dataset, stop, {})
        gc.collect()  # gigabytes of rotated vectors wait in circles of closures
        with stop.shielded():
            model = load(workdir)
        results, embeddings = measure(model, dataset, "test", config.variant)

        def write() -> None:
            pictures.draw_all(workdir, model, embeddings, dataset)
            write_atomically(workdir / "results.json", to_json(results.as_object()))

        hosts.on_first(write)
        return results.as_object()


def _train_specialist(
    config: Config, workdir: Path, dataset: Dataset, row: int, stop: StopRequest, encoded: dict[str, np.ndarray]
) -> None:
    """Train one network on one condition's triplets, as a standard run of its own in workdir/<condition>/."""
    name = dataset.items.conditions[row].name
    data = dataclasses.replace(config.data, conditions=(name,))
    config = dataclasses.replace(config, variant="standard", data=data)
    say(f"specialist for {name}")
    _train(config, open_workdir(workdir / name), dataset.of_condition(row), stop, encoded)


def _train(config: Config, workdir: Path, dataset: Dataset, stop: StopRequest, encoded: dict[str, np.ndarray]) -> None:
    """Train one network from its newest checkpoint to the last step. encoded: see encoded_once."""
    shardings, on_vectors = make_shardings(), dataset.items.inputs.ndim == 2
    found = {"maps": plan_of(config, dataset.items), "raw": {"unit": is_unit(dataset)} if on_vectors else None}
    dataset = dataset._replace(record=dataclasses.replace(dataset.record, **found))
    items, record = dataset.items, dataset.record
    network = network_of(config, record)
    checkpoints, state = _first_state(config, workdir, dataset, network, shardings, stop)
    start = int(state.step)
    network, seen = encoded_once(config, network, dataset, state, shardings, encoded)
    inputs, look = _looking(config, seen, network, state, shardings)
    parts = (network.backbone, network.preprocess, network.optimizer, config.loss)
    settings = {"train_masks": network.masks.trained, "seed": config.seed}
    settings["shared_statistics"] = config.batch_statistics != "by_role"
    settings["pulls"] = tuple(record.maps["pulls"]) if record.maps else ()
    settings["kinds"] = tuple(kind for _, kind in items.conditions)
    train_step = _program(make_train_step, *parts, **settings)
    from_device = config.feed == "device" or (config.feed == "auto" and fits(inputs))
    on_device = place(inputs, shardings.state) if from_device else None
    of_triplets = config.loss.name == "triplet"
    plan = (config.seed, config.batch_size, shardings.padded(config.batch_size))
    batch_at = triplet_batches(dataset.triplets["train"], *plan) if of_triplets else labelled_batches(items, *plan)
    unmeasured = on_vectors and not start and checkpoints.best is None  # a stop may leave step 0 saved, or only logged
    writer, pending = open_writer(workdir, -1 if unmeasured else start), Pending(batch_at, items.ids, workdir, start)
    images = config.batch_size * (3 if of_triplets else 1)  # per step
    unit = "vector" if on_vectors else "image"
    progress = Progress("training", config.steps * images, start * images, unit=unit, compiles=True)
    began = time.perf_counter()
    ended = bool(start) and _patience_is_over(config, checkpoints, start)
    batches = _feed(config, from_device, inputs, batch_at, config.steps if ended else start, shardings)
    # The feed is closed here too, and not left to whoever holds an error's traceback: see tf_feed.
    with stop.deferred(), closing(checkpoints), closing(writer), closing(progress), closing(batches):
        feed, step = Watched(batches), start
        if unmeasured:  # the raw geometry may be the best there is
            errors, state = look(state)
            writer.log(0, errors)
            writer.flush()
            checkpoints.save(state, errors["validation/triplet_error/overall"])
        for batch in feed:
            step += (taken := steps_in(batch))
            state, metrics = train_step(state, batch, on_device)
            feed.working_on(metrics["loss"])
            pending.add(metrics)
            last, stopping = step == config.steps, stop.asked()
            evaluating = last or step % config.eval_every == 0
            saving = last or step % config.checkpoint_every == 0 or stopping
            # The order matters: losses are checked before anything is measured or kept, the log is on disk before
            # the checkpoint that counts on it, and the device is waited for in these places only.
            shown = {"step": step}
            if step % config.log_every == 0 or evaluating or saving:
                values = pending.take()
                if step % config.log_every == 0 or last:
                    writer.log(step, {f"train/{name}": value for name, value in values.items()})
                    spent = time.perf_counter() - began
                    rate, waiting = (step - start) * images / spent, feed.idle / spent
                    writer.log_timing(step, {"images_per_second": rate, "waiting_for_feed": waiting})
                    shown |= {"loss": f"{values['loss']:.3f}", "waiting": f"{waiting:.1%}"}
            error = None
            if evaluating:
                errors, state = look(state)
                writer.log(step, errors)
                error = errors["validation/triplet_error/overall"]
                shown["validation_error"] = f"{error:.2%}"
            if saving or (evaluating and checkpoints.improves(error)):
                writer.flush()
                checkpoints.save(state, error)
            progress.advance(taken * images, **shown)
            if evaluating and _patience_is_over(config, checkpoints, step):
                say(f"no lower validation error since step {checkpoints.best.step:,}: training ends at step {step:,}")
                break
            if stopping and not last:
                raise Stopped(stop.signum, step)
    if on_vectors:
        _keep_raw(config, workdir, dataset, network, shardings)
    if stop.signum is not None:
        raise Stopped(stop.signum, config.steps)


@lru_cache(maxsize=8)  # for specialists, and for another training in the same process
def _program(make: Callable[..., Callable], *parts: Any, **settings: Any) -> Callable:
    return jit(repeatable(make(*parts, **settings)), donate_argnums=0)


def _looking(
    config: Config, dataset: Dataset, network: Network, state: State, shardings: Shardings
) -> tuple[np.ndarray, Callable[[State], tuple[dict[str, float], State]]]:
    """(the inputs of training, a function of a state: metrics on validation, and the state with what it found). Maps
    over vectors train on these in the coordinates of their principal axes."""
    items, record, programs = dataset.items, dataset.record, make_programs(network)

    def named(errors: dict[str, float]) -> dict[str, float]:
        return {f"validation/triplet_error/{name}": value for name, value in errors.items()}

    if config.maps_vectors:
        mean, axes, unit = (np.asarray(state.statistics[name]) for name in ("mean", "axes", "unit"))
        vectors = rotated(Axes(mean, axes), items.inputs, bool(unit))
        measured = MapsLook(dataset, vectors)

        def look_at_maps(state: State) -> tuple[dict[str, float], State]:
            errors, statistics = measured(state)
            return named(errors), state._replace(statistics=place(statistics, shardings.state))

        return vectors, look_at_maps

    def look(state: State) -> tuple[dict[str, float], State]:
        model = make_model(config, record.names, record.input_shape, state, programs, shardings)
        use = use_of(model.masks)._asdict() if network.masks.trained and model.maps is None else {}
        return named(validation_errors(model, dataset)) | {f"masks/{name}": value for name, value in use.items()}, state

    return items.inputs, look


def _patience_is_over(config: Config, checkpoints: Checkpoints, step: int) -> bool:
    best = checkpoints.best
    return bool(config.patience and best) and step - best.step >= config.patience * config.eval_every


def _keep_raw(config: Config, workdir: Path, dataset: Dataset, network: Network, shardings: Shardings) -> None:
    """Write into data.json which conditions the raw vectors serve best, beside the best checkpoint."""
    record, parts = dataset.record, make_programs(network)
    folder = Checkpoints(workdir / "checkpoints", read_only=True)
    state = folder.restore(folder.best_step(), restore_target(network.state, shardings))
    model = make_model(config, record.names, record.input_shape, state, parts, shardings)
    raw = raw_conditions(model, dataset, record.raw["unit"])
    for name in raw["conditions"]:
        say(f"{name}: nothing that was learned is clearly better than the raw vectors on validation; it keeps those")

    def write() -> None:
        written = dataclasses.replace(read_record(workdir), raw=raw)
        write_atomically(workdir / "data.json", to_json(written.as_object()))

    hosts.first_of_all(write)


def _first_state(
    config: Config, workdir: Path, dataset: Dataset, network: Network, shardings: Shardings, stop: StopRequest
) -> tuple[Checkpoints, State]:
    """The checkpoints of a workdir, and the state to train from: the newest one, pretrained weights, or a fresh start.
    From here on the workdir is this run's."""
    initial, record, folder = network.state, dataset.record, workdir / "checkpoints"
    if config.backbone.init and not has_steps(folder):  # with a checkpoint, the weight file is not needed
        initial, sha256, left_out, advice = pretrained(config, network)
        licence = licence_of(config.backbone.init)
        record = dataclasses.replace(record, init_sha256=sha256, init_licence=licence)
        unused = ", ".join(dict.fromkeys(re.split("[./]", name)[0] for name in left_out))
        say(f"the backbone starts from {config.backbone.init}" + (f", without its {unused}" if unused else "") + advice)
    claim(workdir, config, record)  # not sooner: a config that cannot be trained leaves the workdir free
    with stop.shielded():
        checkpoints = Checkpoints(folder)
        state = checkpoints.restore_newest(restore_target(network.state, shardings), say)
    if state is None:
        if record.raw:
            initial = raw_start(config, network, dataset.items, record.raw["unit"])
        return checkpoints, place(initial, shardings.state)
    say(f"resuming from step {int(state.step)}")
    return checkpoints, state


def _feed(
    config: Config, from_device: bool, inputs: np.ndarray, batch_at: BatchAt, start: int, shardings: Shardings
) -> Feed:
    def share_at(step: int) -> Any:
        """This process's rows of a batch; all processes draw the same positions."""
        return jax.tree.map(lambda column: column[shardings.share(len(column))], batch_at(step))

    if from_device:
        return device_feed(share_at, start, config.steps, shardings.batch, steps_at_once(config))
    from csn_jax.train.tf_feed import tf_feed  # TensorFlow takes seconds to import, and only this feed needs it

    return tf_feed(inputs, share_at, start, config.steps, shardings.batch)


def steps_at_once(config: Config) -> int:
    """How many steps an accelerator takes per call, so that a small network does not wait for Python: the most, up to
    ten, that divide the steps between two looks. On a CPU it is one: a loop inside a program is slow there."""
    if jax.default_backend() == "cpu":
        return 1
    between = math.gcd(config.log_every, config.eval_every, config.checkpoint_every)
    return max(count for count in range(1, 11) if between % count == 0)
