"""train_and_evaluate: the only place where feed, step, evaluation and checkpoint meet."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from csn_jax.config import Config
from csn_jax.core.masks import use_of
from csn_jax.core.steps import make_in_batch_step, make_train_step, repeatable
from csn_jax.data.dataset import Dataset, load_dataset
from csn_jax.data.triplets import Triplets
from csn_jax.errors import MachineError, Stopped
from csn_jax.evaluate import triplet_error
from csn_jax.evaluate.measure import measure
from csn_jax.model.model import Model, make_model, make_programs, restore_target
from csn_jax.model.network import build_network, examples, pretrained
from csn_jax.model.run import load
from csn_jax.pictures import sheets as pictures
from csn_jax.runtime import hosts
from csn_jax.runtime.checkpoint import Checkpoints, has_steps
from csn_jax.runtime.compiler import jit
from csn_jax.runtime.record import read_results, to_json
from csn_jax.runtime.sharding import Shardings, make_shardings, place, summed
from csn_jax.runtime.workdir import (
    check_config,
    claim,
    full_disk_told,
    locked,
    no_empty_folders,
    open_workdir,
    write_atomically,
)
from csn_jax.runtime.writer import NoWriter, Progress, Writer, say
from csn_jax.train.data_report import report
from csn_jax.train.feed import AnyBatch, Watched, device_feed, fits, labelled_batches, steps_in, triplet_batches
from csn_jax.train.metrics import Pending
from csn_jax.train.signals import StopRequest, catch_stop


def train_and_evaluate(config: Config, workdir: str | Path) -> dict[str, Any]:
    """Train a config in a workdir, or go on where it stopped, and measure the best model on the test split.

    Killed at any moment and called again, it ends with the bits of an unbroken run. A finished run is only read.

    Args:
        config: the run; the workdir keeps it and refuses another.
        workdir: made if it is not there.

    Returns:
        What results.json holds: variant, conditions, split, step, triplet_error, ci95, n_triplets, primary_metric,
        retrieval, and for vectors baselines.

    Raises:
        UserError: a mistake in config, data or workdir.
        MachineError: disk full, every checkpoint damaged, or a loss that is not finite.
        Stopped: after SIGTERM or SIGUSR1, with the state saved.
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
    with ExitStack() as lock, full_disk_told(workdir), catch_stop() as stop:
        hosts.on_first(lambda: lock.enter_context(locked(workdir)))
        if config.feed == "tfdata":
            import csn_jax.train.tf_feed  # noqa: F401  (tells that TensorFlow is missing before anything is written)
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
    """One network on one condition's triplets, as a standard run of its own in workdir/<condition>/."""
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
    items, shardings, in_batch = dataset.items, make_shardings(), config.loss.name != "triplet"
    names = [condition.name for condition in items.conditions]
    network = build_network(config, items.inputs.shape[1:], len(names), examples(config, dataset.record))
    initial, record, folder = network.state, dataset.record, workdir / "checkpoints"
    if config.backbone.init and not has_steps(folder):
        initial, sha256, left_out = pretrained(config, network)  # a checkpoint makes the weight file needless
        record = dataclasses.replace(record, init_sha256=sha256)
        unused = ", ".join(dict.fromkeys(re.split("[./]", name)[0] for name in left_out))
        say(f"the backbone starts from {config.backbone.init}" + (f", without its {unused}" if unused else ""))
    # Not sooner: a config that cannot be trained leaves the workdir free.
    claim(workdir, config, record)
    with stop.shielded():
        checkpoints = Checkpoints(folder)
        state = checkpoints.restore_newest(restore_target(network.state, shardings), say)
    if state is None:
        state = place(initial, shardings.state)
    start = int(state.step)
    if (theirs := hosts.on_first(lambda: start)) != start:
        raise MachineError(
            f"process {hosts.index()} goes on from step {start} of {folder} and the first one from step {theirs}; see "
            "that all hosts can read the same folder, and run the same command again."
        )
    if start:
        say(f"going on from step {start}")

    parts = (network.backbone, network.preprocess, network.optimizer, config.loss)
    options = {"train_masks": network.masks.trained, "seed": config.seed}
    if in_batch:
        train_step = make_in_batch_step(*parts, **options)
    else:
        train_step = make_train_step(*parts, **options, shared_statistics=config.batch_statistics == "shared")
    train_step = jit(repeatable(train_step), donate_argnums=0)
    programs = make_programs(network)
    from_device = config.feed == "device" or (config.feed == "auto" and hosts.on_first(lambda: fits(items.inputs)))
    on_device = place(items.inputs, shardings.state) if from_device else None
    batch_at = _batches(config, dataset, shardings)
    writer = Writer(workdir, start) if hosts.is_first() else NoWriter()
    pending = Pending(batch_at, items.ids, workdir, start)
    images = config.batch_size * (1 if in_batch else 3)  # in a step
    unit = "image" if items.inputs.ndim == 4 else "vector"
    progress = Progress("training", config.steps * images, start * images, unit=unit, compiles=True)
    began = time.perf_counter()
    batches = _feed(config, from_device, items.inputs, batch_at, start, shardings)
    # The feed is closed too, and not left to whom an error reaches: see tf_feed.
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
                counts = _validate(model, dataset)
                errors = {f"validation/triplet_error/{name}": value for name, value in counts.items()}
                use = use_of(model.masks)._asdict() if network.masks.trained else {}
                writer.log(step, errors | {f"masks/{name}": value for name, value in use.items()})
                shown["validation_error"] = f"{counts['overall']:.2%}"
                error = counts["overall"]
            if saving or (evaluating and checkpoints.improves(error)):
                writer.flush()
                checkpoints.save(state, error)
            progress.advance(taken * images, **shown)
            if stopping and not last:
                raise Stopped(stop.signum, step)
    if stop.signum is not None:
        raise Stopped(stop.signum, config.steps)


def _batches(config: Config, dataset: Dataset, shardings: Shardings) -> Callable[[int], AnyBatch]:
    """batch_at(step), as positions of items: what the feeds send."""
    plan = (config.seed, config.batch_size, shardings.padded(config.batch_size))
    if config.loss.name == "triplet":
        return triplet_batches(dataset.triplets["train"], *plan)
    return labelled_batches(dataset.items, *plan)


def _feed(
    config: Config,
    from_device: bool,
    inputs: np.ndarray,
    batch_at: Callable[[int], AnyBatch],
    start: int,
    shardings: Shardings,
) -> Generator[AnyBatch, None, None]:

    def share_at(step: int) -> AnyBatch:
        """This process's rows of a batch, of which all draw the same positions."""
        return jax.tree.map(lambda column: column[shardings.share(len(column))], batch_at(step))

    if from_device:
        return device_feed(share_at, start, config.steps, shardings.batch, steps_at_once(config))
    from csn_jax.train.tf_feed import tf_feed  # TensorFlow takes seconds to import and is not needed otherwise

    return tf_feed(inputs, share_at, start, config.steps, shardings.batch)


def steps_at_once(config: Config) -> int:
    """How many steps an accelerator takes in one call, so that a small network's do not wait for Python: the most, up
    to ten, that divide the steps between two looks. On a CPU one: there a loop inside a program is slow."""
    if jax.default_backend() == "cpu":
        return 1
    between = math.gcd(config.log_every, config.eval_every, config.checkpoint_every)
    return max(count for count in range(1, 11) if between % count == 0)


def _validate(model: Model, dataset: Dataset) -> dict[str, float]:
    items, triplets = dataset.items, dataset.triplets["validation"]
    embeddings = model.embed_rows(items.inputs, dataset.rows("validation"))
    share = Triplets(*(column[hosts.index() :: hosts.count()] for column in triplets))
    counts = triplet_error.triplet_error(embeddings, model.masks, items, share)
    counts = dict(zip(counts, summed(np.array(list(counts.values()))).tolist(), strict=True))  # (wrong, total) each
    return {name: wrong / total for name, (wrong, total) in counts.items()}
