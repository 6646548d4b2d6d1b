"""A new condition, its report (how it was found, and how good it is on held-out triplets), and the workdir that holds
both."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csn_jax.adapt import fit
from csn_jax.adapt.extend import Wider, axes_of, known_rows, with_choice, with_mask
from csn_jax.adapt.forms import FORMS, choose, take
from csn_jax.adapt.lesson import MOST, Lesson
from csn_jax.core.maps import pieces, plan_maps, rotated
from csn_jax.core.steps import State
from csn_jax.data.triplets import Triplets
from csn_jax.evaluate.baselines import wrong_by
from csn_jax.evaluate.bootstrap import interval_of_difference
from csn_jax.evaluate.measure import measure
from csn_jax.evaluate.triplet_error import interval, wrong_triplets
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.pictures import sheets
from csn_jax.runtime.whole import write_run
from csn_jax.text import table


class Learned(NamedTuple):
    """A run with one more condition, and the condition's report for data.json."""

    wider: Wider
    report: dict[str, Any]


def learn(lesson: Lesson, run: Run, model: Model) -> Learned:
    """Learn a condition in the form that the run's other conditions have: a mask or, under maps, the best form."""
    _, state = run.restore()
    rows, triplets = lesson.compact()
    vectors = lesson.items.embed(rows)
    if model.maps:
        return _learn_form(lesson, run, state, model, vectors, triplets)
    return _learn_mask(lesson, run, state, model, vectors, triplets)


def _learn_form(
    lesson: Lesson, run: Run, state: State, model: Model, vectors: np.ndarray, triplets: dict[str, Triplets]
) -> Learned:
    axes, unit = axes_of(run, state, vectors), model.maps.unit
    points, train = rotated(axes, vectors, unit), triplets["train"]
    n_items = len(np.unique(np.concatenate(train[:3])))  # which decides whether a pull is tried
    plan = plan_maps(len(axes.rows), n_items, lesson.n_values)
    raw = _raw(vectors, unit)
    known, drawn = known_rows(run, state, axes), lesson.n_values > 0
    choice = choose(points, raw, triplets, lesson.groups, plan, drawn, known, lesson.screens)
    wider, test = with_choice(run, state, model, lesson, choice, axes, vectors), triplets.get("test")
    if test:
        wrong = wrong_triplets(wider.model.view(vectors), wider.model.masks[-1:], test)
        raw_wrong = wrong_by(raw, test)
    else:
        wrong, raw_wrong = choice.wrong, wrong_by(raw, take(train, choice.scored))
        lesson = lesson._replace(groups=lesson.groups | {"train": lesson.groups["train"][choice.scored]})
    found = {"form": choice.form, "reason": choice.reason}
    return Learned(wider, _report(lesson, found, wrong, raw_wrong))


def _learn_mask(
    lesson: Lesson, run: Run, state: State, model: Model, vectors: np.ndarray, triplets: dict[str, Triplets]
) -> Learned:
    """The embedding [R, D], without the raw vector that may lie beside it, has the mask."""
    whole, train, validation = vectors, triplets["train"], triplets.get("validation")
    vectors = vectors[:, : np.asarray(state.params["beta"]).shape[1]]
    gain = fit.gains(vectors, *(role[:MOST] for role in train[:3]))
    weights, strength = fit.learn(
        gain, lesson.groups["train"][:MOST], fit.gains(vectors, *validation[:3]) if validation else None
    )
    variance = whole.astype(np.float64).var(axis=0)
    beside = np.zeros(len(variance) - len(weights))
    mask = fit.to_mask(np.concatenate([weights, beside]), model.masks, variance)[: len(weights)]
    test = triplets.get("test")
    if test:
        wrong, unmasked = (wrong_triplets(vectors, m[None], test) for m in (mask, np.ones_like(mask)))
    else:
        group = lesson.groups["train"][: len(gain)]
        wrong, unmasked = fit.held_out(gain, group), fit.wrong(np.ones(len(mask)), gain)
    reason = "the other conditions of this run are masks"
    found = {"form": "mask", "reason": reason, "strength": strength}
    report = _report(lesson, found, wrong, unmasked)
    if lesson.items.model and lesson.items.inputs.ndim == 2 and run.record.raw:
        raw = _raw(lesson.items.inputs[lesson.compact()[0]], run.record.raw["unit"])
        raw_wrong = wrong_by(raw, test or take(train, np.arange(len(gain))))
        report["raw"] = _figures(raw_wrong, _groups(lesson, len(raw_wrong)))
    return Learned(with_mask(run, state, model, lesson, mask), report)


def _raw(vectors: np.ndarray, unit: bool) -> np.ndarray:
    """Vectors [R, F], whose Euclidean distance is the raw geometry."""
    return np.concatenate([x for _, x in pieces(vectors, unit, np.float32)])


def _report(lesson: Lesson, found: dict[str, Any], wrong: np.ndarray, unmasked: np.ndarray) -> dict[str, Any]:
    """What data.json says of a condition, from which held-out triplets [T] are wrong under it, and which without it."""
    group = _groups(lesson, len(wrong))
    _, number = np.unique(group, return_inverse=True)
    better = np.bincount(number, unmasked.astype(float) - wrong)  # per group
    return {
        "condition": lesson.condition.name,
        "kind": lesson.condition.kind,
        "own_data": lesson.own is not None,
        "learned_from": lesson.source,
        **({"raters": lesson.raters._asdict()} if lesson.raters else {}),
        **found,
        **_figures(wrong, group),
        "unmasked": _figures(unmasked, group),
        "better_than_unmasked": {
            "by": float(unmasked.mean() - wrong.mean()),
            "ci95": interval_of_difference(better, np.bincount(number)).tolist(),
        },
        "n_triplets": len(wrong),
        "cross_validated": "test" not in lesson.triplets,
    }


def _groups(lesson: Lesson, n: int) -> np.ndarray:
    """The groups of the triplets that measure the error: n are cross-validated, or all are test triplets."""
    return lesson.groups["test"] if "test" in lesson.triplets else lesson.groups["train"][:n]


def _figures(wrong: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    return {"triplet_error": float(wrong.mean()), "ci95": list(interval(wrong, group))}


def summary(report: dict[str, Any]) -> str:
    """A report as a table, with a sentence about it."""
    name = report["condition"]
    rows = [("distance", "triplet error", "95 % interval")]
    plain = "unmasked" if report["form"] == "mask" else "raw vectors"
    parts = [(f"under {name}", report), (plain, report["unmasked"])]
    parts += [("raw vectors", report["raw"])] if "raw" in report else []
    for distance, part in parts:
        low, high = part["ci95"]
        rows.append((distance, f"{part['triplet_error']:.2%}", f"{low:.2%} to {high:.2%}"))
    rows.append(("by chance", "50.00%", ""))
    held_out = f"{report['n_triplets']:,} held-out triplets"
    held_out += ", each measured by a fit without its fold" if report["cross_validated"] else ""
    form = "" if report["form"] == "mask" else f"\n{FORMS[report['form']]}: {report['reason']}"
    return f"{name}, learned from {report['learned_from']}; {held_out}\n{table(rows)}{form}\n{_verdict(report)}"


def _verdict(report: dict[str, Any]) -> str:
    name, better, masked = report["condition"], report["better_than_unmasked"], report["form"] == "mask"
    low, high = (f"{100 * bound:.2f}" for bound in better["ci95"])
    by = f"{100 * better['by']:.2f} points"
    more = "give more triplets" if report["kind"] == "triplets" else "label more items"
    train = f"train with {name} as a condition"
    fix = more if not masked else f"{more}, or {train}" if report["kind"] == "triplets" else train
    if report["ci95"][1] >= 0.5:
        what = "the dimensions of this embedding" if masked else "these vectors"
        return f"{what} do not carry {name}: its error is not clearly below chance; {fix}."
    if report["form"] == "none":
        return f"{name} keeps the raw vectors, so that it is never worse than these; for a lower error {fix}."
    if better["ci95"][0] <= 0:
        what = "no mask is clearly better for {} than none" if masked else "it is not clearly better for {} than they"
        return f"{what.format(name)} (by {by}, 95 % interval {low} to {high}); {fix}."
    plain = "the unmasked distance" if masked else "the raw vectors"
    return f"its error is {by} below that of {plain} (95 % interval {low} to {high})."


def write_adapted(out: Path, run: Run, lesson: Lesson, learned: Learned) -> None:
    """Write the workdir with one more condition. It is measured on the run's own data with the new condition. Without
    such data it keeps the run's results, which still hold."""
    (record, state, model), report = learned
    dataset, config = lesson.own or (None, run.config)
    record = dataclasses.replace(record, adapted=(*record.adapted, report))
    results = run.results
    if dataset:
        rungs = None if model.maps is None else False  # linear probes would take longer than all the rest
        results, embeddings = measure(model, dataset, "test", config.variant, rungs=rungs)
    if results:
        results = dataclasses.replace(results, adapted=record.adapted)
    write_run(out, config, record, state, results)
    if dataset:
        sheets.draw_all(out, model, embeddings, dataset)
    else:
        sheets.draw_masks(out / "masks.png", model.masks, model.conditions)
