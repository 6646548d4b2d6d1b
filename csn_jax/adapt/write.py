"""The workdir of an adapted model."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.adapt.lesson import Lesson
from csn_jax.core.steps import initial_state
from csn_jax.evaluate.measure import measure
from csn_jax.model.model import Model
from csn_jax.model.network import build_network, examples
from csn_jax.model.run import Run
from csn_jax.pictures import sheets
from csn_jax.runtime.whole import write_run


def write_adapted(out: Path, run: Run, model: Model, lesson: Lesson, mask: np.ndarray, report: dict[str, Any]) -> None:
    """Write the workdir with one more mask [D].

    It is evaluated anew on the run's own data with the new condition. Without such data it keeps the run's results,
    which still hold.
    """
    _, state = run.restore()
    dataset, config = lesson.own or (None, run.config)
    record = dataclasses.replace(
        dataset.record if dataset else run.record,
        conditions=(*run.record.conditions, lesson.condition),
        init_sha256=run.record.init_sha256,
        adapted=(*run.record.adapted, report),
    )
    network = build_network(config, record.input_shape, len(record.conditions), examples(config, record))
    beta = np.concatenate([np.asarray(state.params["beta"]), mask[None]])
    state = initial_state(state.params["backbone"], state.statistics, beta, network.optimizer)._replace(step=state.step)
    wider = model.with_masks(record.names, np.concatenate([model.masks, mask[None]]))
    results = run.results
    if dataset:
        results, embeddings = measure(wider, dataset, "test", config.variant)
    if results:
        results = dataclasses.replace(results, adapted=record.adapted)
    write_run(out, config, record, state, results, "--out")
    if dataset:
        sheets.draw_all(out, wider, embeddings, dataset)
    else:
        sheets.draw_masks(out / "masks.png", wider.masks, wider.conditions)
