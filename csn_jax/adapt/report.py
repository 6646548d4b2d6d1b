"""The mask of a new condition, its report (how it was found, and how good it is on held-out triplets), and the workdir
that holds both."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.adapt import fit
from csn_jax.adapt.lesson import Lesson
from csn_jax.core.steps import initial_state
from csn_jax.evaluate.bootstrap import interval_of_difference
from csn_jax.evaluate.measure import measure
from csn_jax.evaluate.triplet_error import interval, wrong_triplets
from csn_jax.model.model import Model
from csn_jax.model.network import build_network, examples
from csn_jax.model.run import Run
from csn_jax.pictures import sheets
from csn_jax.runtime.whole import write_run
from csn_jax.text import table


def learn_mask(lesson: Lesson, vectors: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """(the new mask [D], its report for data.json), from vectors [N, D] and the masks [C, D] of the other conditions.
    Only the vectors that triplets name are read."""
    train, group, validation = lesson.triplets["train"], lesson.groups["train"], lesson.triplets.get("validation")
    gain = fit.gains(vectors, *train[:3])
    weights, strength = fit.learn(gain, group, fit.gains(vectors, *validation[:3]) if validation else None)
    mask = fit.to_mask(weights, masks, vectors[lesson.rows()].astype(np.float64).var(axis=0))
    test = lesson.triplets.get("test")
    if test:
        group = lesson.groups["test"]
        wrong, unmasked = (wrong_triplets(vectors, m[None], test) for m in (mask, np.ones_like(mask)))
    else:
        wrong, unmasked = fit.held_out(gain, group), fit.wrong(np.ones(len(mask)), gain)
    _, number = np.unique(group, return_inverse=True)
    better = np.bincount(number, unmasked.astype(float) - wrong)  # per group
    report = {
        "condition": lesson.condition.name,
        "kind": lesson.condition.kind,
        "own_data": lesson.own is not None,
        "learned_from": lesson.source,
        "strength": strength,
        "triplet_error": float(wrong.mean()),
        "ci95": list(interval(wrong, group)),
        "unmasked": {"triplet_error": float(unmasked.mean()), "ci95": list(interval(unmasked, group))},
        "better_than_unmasked": {
            "by": float(unmasked.mean() - wrong.mean()),
            "ci95": interval_of_difference(better, np.bincount(number)).tolist(),
        },
        "n_triplets": len(wrong),
        "cross_validated": test is None,
    }
    return mask, report


def summary(report: dict[str, Any]) -> str:
    """A report as a table, with a sentence about it."""
    name = report["condition"]
    rows = [("distance", "triplet error", "95 % interval")]
    for distance, part in ((f"under {name}", report), ("unmasked", report["unmasked"])):
        low, high = part["ci95"]
        rows.append((distance, f"{part['triplet_error']:.2%}", f"{low:.2%} to {high:.2%}"))
    rows.append(("by chance", "50.00%", ""))
    held_out = f"{report['n_triplets']:,} held-out triplets"
    held_out += ", each measured by a fit without its fold" if report["cross_validated"] else ""
    return f"{name}, learned from {report['learned_from']}; {held_out}\n{table(rows)}\n{_verdict(report)}"


def _verdict(report: dict[str, Any]) -> str:
    name, better = report["condition"], report["better_than_unmasked"]
    low, high = (f"{100 * bound:.2f}" for bound in better["ci95"])
    by = f"{100 * better['by']:.2f} points"
    fix = f"{'give more triplets, or train' if report['kind'] == 'triplets' else 'train'} with {name} as a condition"
    if report["ci95"][1] >= 0.5:
        return f"the dimensions of this embedding do not carry {name}: its error is not clearly below chance; {fix}."
    if better["ci95"][0] <= 0:
        return f"no mask is clearly better for {name} than none (by {by}, 95 % interval {low} to {high}); {fix}."
    return f"its error is {by} below that of the unmasked distance (95 % interval {low} to {high})."


def write_adapted(out: Path, run: Run, model: Model, lesson: Lesson, mask: np.ndarray, report: dict[str, Any]) -> None:
    """Write the workdir with one more mask [D]. It is measured on the run's own data with the new condition. Without
    such data it keeps the run's results, which still hold."""
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
    write_run(out, config, record, state, results)
    if dataset:
        sheets.draw_all(out, wider, embeddings, dataset)
    else:
        sheets.draw_masks(out / "masks.png", wider.masks, wider.conditions)
