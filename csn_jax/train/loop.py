"""train_and_evaluate: where feed, step, evaluation and checkpoint meet."""

import dataclasses
import math
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from csn_jax.config import Config
from csn_jax.core.masks import use_of
from csn_jax.core.steps import State, make_train_step, repeatable
from csn_jax.data.dataset import Dataset, load_dataset
from csn_jax.errors import Stopped
from csn_jax.evaluate.measure import measure, validation_errors
from csn_jax.model.model import make_model, make_programs, restore_target
from csn_jax.model.network import Network, build_network, examples, pretrained
from csn_jax.model.run import load
from csn_jax.pictures import sheets as pictures
from csn_jax.runtime import hosts
from csn_jax.runtime.checkpoint import Checkpoints, has_steps
from csn_jax.runtime.compiler import jit
from csn_jax.runtime.record import read_results, to_json
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
from csn_jax.train.data_report import report
from csn_jax.train.feed import BatchAt, Feed, Watched, device_feed, fits, labelled_batches, steps_in, triplet_batches
from csn_jax.train.metrics import Pending
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
            for row in range(len(dataset.items.conditions)):
                _train_specialist(config, workdir, dataset, row, stop)
        else:
            _train(config, workdir, dataset, stop)
        with stop.shielded():
            model = load(workdir)
        results, embeddings = measure(model, dataset, "test", config.variant)

        def write() -> None:
            pictures.draw_all(workdir, model, embeddings, dataset)
            write_atomically(workdir / "results.json", to_json(results.as_object()))

        hosts.on_first(write)
        return results.as_object()


def _train_specialist(config: Config, workdir: Path, dataset: Dataset, row: int, stop: StopRequest) -> None:
    """Train one network on one condition's triplets, as a standard run of its own in workdir/<condition>/."""
    condition = dataset.items.conditions[row]
    items = dataclasses.replace(dataset.items, conditions=(condition,))
    triplets = {split: columns.of_condition(row) for split, columns in dataset.triplets.items()}
    record = dataclasses.replace(
        dataset.record,
        conditions=(condition,),
        items_sha256=items.digest(),
        triplets={split: len(columns.anchor) for split, columns in triplets.items()},
        triplets_sha256={split: columns.digest() for split, columns in triplets.items()},
    )
    data = dataclasses.replace(config.data, conditions=(condition.name,))
    config = dataclasses.replace(config, variant="standard", data=data)
    say(f"specialist for {condition.name}")
    _train(config, open_workdir(workdir / condition.name), Dataset(items, triplets, record), stop)


def _train(config: Config, workdir: Path, dataset: Dataset, stop: StopRequest) -> None:
    """Train one network from its newest checkpoint to the last step."""
    items, shardings = dataset.items, make_shardings()
    names = [condition.name for condition in items.conditions]
    network = build_network(config, items.inputs.shape[1:], len(names), examples(config, dataset.record))
    checkpoints, state = _first_state(config, workdir, dataset, network, shardings, stop)
    start = int(state.step)
    parts = (network.backbone, network.preprocess, network.optimizer, config.loss)
    shared = config.batch_statistics == "shared"
    step_of = make_train_step(*parts, train_masks=network.masks.trained, seed=config.seed, shared_statistics=shared)
    train_step = jit(repeatable(step_of), donate_argnums=0)
    programs = make_programs(network)
    from_device = config.feed == "device" or (config.feed == "auto" and fits(items.inputs))
    on_device = place(items.inputs, shardings.state) if from_device else None
    of_triplets = config.loss.name == "triplet"
    plan = (config.seed, config.batch_size, shardings.padded(config.batch_size))
    batch_at = triplet_batches(dataset.triplets["train"], *plan) if of_triplets else labelled_batches(items, *plan)
    writer, pending = open_writer(workdir, start), Pending(batch_at, items.ids, workdir, start)
    images = config.batch_size * (3 if of_triplets else 1)  # per step
    unit = "image" if items.inputs.ndim == 4 else "vector"
    progress = Progress("training", config.steps * images, start * images, unit=unit, compiles=True)
    began = time.perf_counter()
    batches = _feed(config, from_device, items.inputs, batch_at, start, shardings)
    # The feed is closed here too, and not left to whoever holds an error's traceback: see tf_feed.
    with stop.deferred(), closing(checkpoints), closing(writer), closing(progress), closing(batches):
        feed, step = Watched(batches), start
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
                model = make_model(config, names, items.inputs.shape[1:], state, programs, shardings)
                errors = validation_errors(model, dataset)
                use = use_of(model.masks)._asdict() if network.masks.trained else {}
                values = {f"validation/triplet_error/{name}": value for name, value in errors.items()}
                writer.log(step, values | {f"masks/{name}": value for name, value in use.items()})
                error = errors["overall"]
                shown["validation_error"] = f"{error:.2%}"
            if saving or (evaluating and checkpoints.improves(error)):
                writer.flush()
                checkpoints.save(state, error)
            progress.advance(taken * images, **shown)
            if stopping and not last:
                raise Stopped(stop.signum, step)
    if stop.signum is not None:
        raise Stopped(stop.signum, config.steps)


def _first_state(
    config: Config, workdir: Path, dataset: Dataset, network: Network, shardings: Shardings, stop: StopRequest
) -> tuple[Checkpoints, State]:
    """The checkpoints of a workdir, and the state to train from: the newest one, pretrained weights, or a fresh start.
    From here on the workdir is this run's."""
    initial, record, folder = network.state, dataset.record, workdir / "checkpoints"
    if config.backbone.init and not has_steps(folder):  # with a checkpoint, the weight file is not needed
        initial, sha256, left_out = pretrained(config, network)
        record = dataclasses.replace(record, init_sha256=sha256)
        unused = ", ".join(dict.fromkeys(re.split("[./]", name)[0] for name in left_out))
        say(f"the backbone starts from {config.backbone.init}" + (f", without its {unused}" if unused else ""))
    claim(workdir, config, record)  # not sooner: a config that cannot be trained leaves the workdir free
    with stop.shielded():
        checkpoints = Checkpoints(folder)
        state = checkpoints.restore_newest(restore_target(network.state, shardings), say)
    if state is None:
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
