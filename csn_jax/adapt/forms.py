"""The forms that a new condition may have over vectors, and the one that its triplets speak for.

A `map` is trained as in csn_jax train. A `diagonal` weighs the principal axes, by the convex fit of fit.py. `views`
weighs, by the same fit, the views of the conditions that the run has: from few answers it is the best form, where the
new condition has something in common with these. `none` is the raw vectors. What was learned must be clearly better on
held-out triplets than these.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from csn_jax.adapt import fit
from csn_jax.adapt.linked import linked
from csn_jax.backbones import untouched
from csn_jax.config import Config, LossConfig
from csn_jax.core.maps import MapsPlan, initial_maps
from csn_jax.core.optim import make_optimizer
from csn_jax.core.steps import Batch, initial_state, make_train_step
from csn_jax.data.order import batch_rows
from csn_jax.data.triplets import Triplets
from csn_jax.evaluate.baselines import wrong_by
from csn_jax.evaluate.bootstrap import clearly_positive
from csn_jax.runtime.compiler import jit

RATE, MARGIN = 2e-3, 0.2  # as in configs/features.py
BATCH = 64  # about the share that one condition has of a batch there; 256 overfit sooner
ENOUGH = 100  # items of validation triplets, from which these choose; fewer are cross-validated with the training items
STEPS, LOOKS = 3_000, 30  # of a map that validation triplets choose
FEW_STEPS, FEW_LOOKS = 200, 8  # of a map that cross-validation chooses: it is trained once per fold
ITEMS_PER_AXIS = 4  # labelled items, from which a diagonal is tried
MOST = 1_000  # triplets that a diagonal is fitted to, and that a fold of few items holds out

FORMS = {  # as messages name them
    "map": "a map",
    "diagonal": "weights of the principal axes",
    "views": "weights of the other conditions' views",
    "none": "the raw vectors",
}
Path = Callable[[np.ndarray, Triplets], np.ndarray]  # (points [N, k], triplets) -> [S, r, k], for S settings


class Choice(NamedTuple):
    """What a condition is: form, and its rows [r, k] over the coordinates of the points, None for raw vectors.

    reason: a clause with the errors of all forms on held-out triplets.
    wrong: which held-out triplets are wrong under what the other folds choose; of all, if groups make the folds.
    scored: the positions of these held-out triplets.
    """

    form: str
    rows: np.ndarray | None
    error: float
    reason: str
    wrong: np.ndarray
    scored: np.ndarray


def choose(
    points: np.ndarray,
    raw: np.ndarray,
    triplets: dict[str, Triplets],
    groups: dict[str, np.ndarray],
    plan: MapsPlan,
    drawn: bool,
    known: np.ndarray | None = None,
    screens: bool = False,
) -> Choice:
    """The form with the lowest error on held-out triplets; the raw vectors, if none is clearly better than these.

    Args:
        points: [N, k] in the coordinates of principal axes, in which maps start.
        raw: [N, F], the vectors whose Euclidean distance is the raw geometry.
        triplets, groups: as in Lesson, of the splits `train` and, perhaps, `validation`. Other splits are not read.
        plan: of the map; its axes are k.
        drawn: whether triplets were drawn from labels, so that one item is in triplets of many groups.
        known: [V, k], the rows of the maps that the run has; None if the coordinates are not theirs.
        screens: whether triplets are what people selected on screens, so that a map learns from them `linked`.
    """
    asked, group, folds = _folds(triplets, groups, drawn)
    crossed = len(folds) > 1
    steps = (FEW_STEPS, FEW_LOOKS) if crossed else (STEPS, LOOKS)
    size = min(BATCH, len(asked.anchor))

    def map_of(points: np.ndarray, given: Triplets) -> np.ndarray:
        return train_maps(points, linked(given) if screens else given, plan, size, *steps)

    paths: dict[str, Path] = {"map": map_of}
    items = len(np.unique(np.concatenate(asked[:3])))
    # From 200 labels it was chosen 8 of 160 times in experiments/teach.py, each time to be worse than the raw vectors.
    if not drawn or items >= ITEMS_PER_AXIS * points.shape[1]:
        paths["diagonal"] = diagonals
    if known is not None and len(known):
        paths["views"] = lambda points, triplets: weighed(points, triplets, known)
    scored = np.sort(np.concatenate([held for _, held in folds]))
    found, held_out = {}, {}
    for form, path in paths.items():
        wrong = None
        for learned, held in folds:
            found[form] = path(points, take(asked, learned))
            part = wrong_under(points, found[form], take(asked, held))
            wrong = np.empty((len(part), len(asked.anchor)), bool) if wrong is None else wrong
            wrong[:, held] = part
        held_out[form] = wrong[:, scored]
    raw_wrong, group = wrong_by(raw, take(asked, scored)), group[scored]
    form, setting = _best(held_out, raw_wrong, group, drawn)
    reason = _reason(form, held_out, raw_wrong, crossed)
    if form == "none":
        chosen, error = None, raw_wrong.mean()
    else:
        matrices = paths[form](points, asked) if crossed else found[form]
        chosen, error = matrices[setting], held_out[form][setting].mean()
        chosen = chosen[np.any(chosen, axis=1)]
    wrong = _by_the_others(held_out, raw_wrong, group, folds, scored, drawn)
    return Choice(form, chosen, float(error), reason, wrong, scored)


def _folds(
    triplets: dict[str, Triplets], groups: dict[str, np.ndarray], drawn: bool
) -> tuple[Triplets, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """(triplets [T], their groups, pairs of rows to learn from and rows held out).

    Triplets from people are cross-validated over groups. Drawn ones are held out if they are validation triplets. If
    these are of few items, all items are cross-validated: a fold is a fifth of them, and no triplet with one of a fold
    is learned from.
    """
    train, validation = triplets["train"], triplets.get("validation")
    if not drawn:
        return train, groups["train"], list(fit.splits(groups["train"]))
    splits = [split for split in ("train", "validation") if split in triplets]
    asked = Triplets(*(np.concatenate(columns) for columns in zip(*(triplets[split] for split in splits), strict=True)))
    group, n = np.concatenate([groups[split] for split in splits]), len(train.anchor)
    if validation and len(np.unique(validation.anchor)) >= ENOUGH:
        return asked, group, [(np.arange(n), np.arange(n, len(group)))]
    _, items = np.unique(np.concatenate(asked[:3]), return_inverse=True)
    fold = (np.random.default_rng(0).permutation(items.max() + 1) % fit.FOLDS)[items].reshape(3, -1)
    parts = [
        (np.flatnonzero((fold != k).all(axis=0)), np.flatnonzero((fold == k).all(axis=0))) for k in range(fit.FOLDS)
    ]
    parts = [(learned, held[:MOST]) for learned, held in parts if len(learned) and len(held)]
    return asked, group, parts if len(parts) > 1 else list(fit.splits(group))


def _best(held_out: dict[str, np.ndarray], raw_wrong: np.ndarray, group: np.ndarray, drawn: bool) -> tuple[str, int]:
    """(form, setting) with the lowest error; `none` unless that is below the error of the raw vectors by more than one
    standard error over groups. From labels a map is the better form as a rule, so that a diagonal must be clearly
    better too. From triplets, which are few, views are: others must be clearly better than they."""
    settings = {form: int(wrong.sum(axis=1).argmin()) for form, wrong in held_out.items()}
    wrong = {form: held_out[form][setting].astype(float) for form, setting in settings.items()}
    form = min(settings, key=lambda form: wrong[form].sum())
    if form == "diagonal" and drawn and not clearly_positive(wrong["map"] - wrong["diagonal"], group):
        form = "map"
    if "views" in wrong and not drawn and not clearly_positive(wrong["views"] - wrong[form], group):
        form = "views"
    return (form, settings[form]) if clearly_positive(raw_wrong - wrong[form], group) else ("none", 0)


def _reason(form: str, held_out: dict[str, np.ndarray], raw_wrong: np.ndarray, crossed: bool) -> str:
    errors = {name: wrong.mean(axis=1).min() for name, wrong in held_out.items()}
    all_errors = errors | {"none": raw_wrong.mean()}
    figures = ", ".join(f"{FORMS[name]} {error:.1%}" for name, error in all_errors.items())
    which = f"{len(raw_wrong):,} {'cross-validated' if crossed else 'validation'} triplets"
    if form == "none":
        return f"nothing that was learned is clearly better than the raw vectors on {which}: {figures}"
    lowest = errors[form] == min(errors.values())
    return f"{'lowest error' if lowest else 'no other form is clearly better'} on {which}: {figures}"


def _by_the_others(
    held_out: dict[str, np.ndarray],
    raw_wrong: np.ndarray,
    group: np.ndarray,
    folds: list[tuple[np.ndarray, np.ndarray]],
    scored: np.ndarray,
    drawn: bool,
) -> np.ndarray:
    """Which held-out triplets are wrong under the form that the other folds choose: an honest error of the choice."""
    wrong = raw_wrong.copy()
    for _, held in folds if len(folds) > 1 else ():
        own = np.isin(scored, held)
        others = {name: part[:, ~own] for name, part in held_out.items()}
        form, setting = _best(others, raw_wrong[~own], group[~own], drawn)
        wrong[own] = raw_wrong[own] if form == "none" else held_out[form][setting, own]
    return wrong


def wrong_under(points: np.ndarray, matrices: np.ndarray, triplets: Triplets) -> np.ndarray:
    """Which triplets are wrong under each of S maps [S, r, k]: bool [S, T]."""
    rows, places = np.unique(np.concatenate(triplets[:3]), return_inverse=True)
    compact = Triplets(*places.reshape(3, -1), triplets.condition)
    return np.stack([wrong_by(points[rows] @ matrix.T, compact) for matrix in matrices])


def diagonals(points: np.ndarray, triplets: Triplets) -> np.ndarray:
    """[S, k, k] float32: a diagonal matrix per strength of the regularisation."""
    return weighed(points, triplets, np.eye(points.shape[1], dtype=np.float32))


def weighed(points: np.ndarray, triplets: Triplets, rows: np.ndarray) -> np.ndarray:
    """[S, V, k] float32: rows [V, k] times weights that the convex fit finds, per strength of the regularisation."""
    if len(triplets.anchor) > MOST:
        triplets = take(triplets, np.random.default_rng(0).choice(len(triplets.anchor), MOST, replace=False))
    weights = fit.path(fit.gains(points @ rows.T, *triplets[:3]))
    return np.sqrt(weights).astype(np.float32)[:, :, None] * rows


def train_maps(points: np.ndarray, triplets: Triplets, plan: MapsPlan, size: int, steps: int, looks: int) -> np.ndarray:
    """[S, r, k] float32: the map at the start and at each of some looks during training, for each pull of the plan.
    Training is that of csn_jax train, with batches of `size`, on this condition alone."""
    optimizer = make_optimizer(Config(learning_rate=RATE, schedule="cosine", steps=steps), 1)
    state = initial_state({}, {}, initial_maps(plan, 1, points.shape[1]), optimizer)
    step, inputs, kept = _step(plan.pulls, steps), jax.device_put(points), [np.asarray(state.params["beta"])]
    for i, batch in enumerate(_batches(triplets, size, steps), start=1):
        state, _ = step(state, batch, inputs)
        if i % (steps // looks) == 0:
            kept.append(np.asarray(state.params["beta"]))
    return np.concatenate(kept)[:, 0]  # [(1 + looks) P, 1, r, k] before


_steps: dict[tuple[tuple[float, ...], int], Callable] = {}  # compiled once, for all folds


def _step(pulls: tuple[float, ...], steps: int) -> Callable:
    if (pulls, steps) not in _steps:
        optimizer = make_optimizer(Config(learning_rate=RATE, schedule="cosine", steps=steps), 1)
        parts = (untouched(), lambda x, key=None: x, optimizer, LossConfig(margin=MARGIN))
        _steps[pulls, steps] = jit(make_train_step(*parts, train_masks=True, seed=0, pulls=pulls))
    return _steps[pulls, steps]


def _batches(triplets: Triplets, size: int, steps: int) -> Iterator[Batch]:
    for step in range(steps):
        rows = batch_rows(0, step, len(triplets.anchor), size)
        valid = np.arange(size) < len(rows)
        yield Batch(*take(triplets, np.resize(rows, size)), valid)


def take(triplets: Triplets, rows: np.ndarray) -> Triplets:
    """Some rows of triplets."""
    return Triplets(*(column[rows] for column in triplets))
