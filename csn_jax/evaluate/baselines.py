"""The triplet error without masks: of the raw vectors, and of one linear probe per condition."""

from collections import Counter
from typing import Any

import numpy as np

from csn_jax.data.item_set import ItemSet
from csn_jax.data.triplets import Triplets, scale_of
from csn_jax.evaluate.retrieval import sample
from csn_jax.evaluate.triplet_error import count, shaped
from csn_jax.runtime.record import NUMBERS

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # tried on validation, in units of a standardised feature's variance
VALUES = 500  # the most common values or members of a condition; a probe predicts these
LARGEST = 8192  # equations of a probe at most; LAPACK's memory and time grow with their square and cube
CHUNK = 4096  # triplets at a time


def results(items: ItemSet, triplets: dict[str, Triplets], split: str) -> dict[str, dict[str, Any]]:
    """`baselines` of results.json: triplet errors of one split under distances that need no masks.

    euclidean and cosine: of the raw vectors. linear_probe: per condition, the distance between the outputs of a ridge
    regression. It is fitted on the training items to their labels: one output per value or member, rare ones weighted
    like common ones; or one number. The ridge is the best on the validation triplets. The items' inputs are vectors
    [N, F]. Each part is {"overall": x, "by_condition": {name: x}}; None for the probe of a condition without labels.
    """
    x = np.asarray(items.inputs, np.float32)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    asked = triplets[split]
    found = {}
    for name, vectors in (("euclidean", x), ("cosine", x / np.maximum(length, 1e-12))):
        counts = count(wrong_by(vectors, asked), items, asked)
        found[name] = shaped({which: wrong / total for which, (wrong, total) in counts.items()})
    training = items.split == "train"
    x = (x - x[training].mean(axis=0)) / np.maximum(x[training].std(axis=0), 1e-12)
    outcomes = {}
    for row, (name, kind) in enumerate(items.conditions):
        of = {which: columns.of_condition(row) for which, columns in triplets.items()}
        answers = probe(x, training, items.labels[name], kind, of["validation"]) if name in items.labels else None
        outcomes[name] = None if answers is None else wrong_by(answers, of[split])
    whole = all(wrong is not None for wrong in outcomes.values())
    found["linear_probe"] = {
        "overall": float(np.concatenate([*outcomes.values()]).mean()) if whole else None,
        "by_condition": {name: None if wrong is None else float(wrong.mean()) for name, wrong in outcomes.items()},
    }
    return found


def wrong_by(vectors: np.ndarray, triplets: Triplets) -> np.ndarray:
    """Which triplets are wrong under the Euclidean distance of vectors [N, F]: bool [T]; a tie is wrong."""
    parts = []
    for start in range(0, len(triplets.anchor), CHUNK):
        anchor, positive, negative = (vectors[role[start : start + CHUNK]] for role in triplets[:3])
        to_positive, to_negative = (np.square(anchor - other).sum(axis=1) for other in (positive, negative))
        parts.append(to_negative <= to_positive)
    return np.concatenate(parts)


def probe(
    x: np.ndarray, training: np.ndarray, column: np.ndarray, kind: str, validation: Triplets
) -> np.ndarray | None:
    """The outputs [N, K] of the best ridge regression of standardised vectors [N, F] to the labels [N] of a condition;
    None if no training item has a label. The condition's validation triplets choose the ridge.

    There is an equation per feature or, if these are more than the training items, per item: the same answers. Wide
    vectors of many items are fitted on a sample of 8,192.
    """
    from scipy.linalg import solve  # here, as it takes 0.2 s, and images have no baselines

    rows = np.flatnonzero(training & (column != ""))
    if len(rows) == 0:
        return None
    rows = sample(rows, LARGEST) if x.shape[1] > LARGEST else rows
    known, targets = x[rows], _targets(column, kind, rows)
    if x.shape[1] > len(rows):
        gram, moments, x = known @ known.T, targets, x @ known.T
    else:
        gram, moments = known.T @ known, known.T @ targets
    gram, moments = gram.astype(np.float64), moments.astype(np.float64)
    penalty = len(rows) * np.eye(len(gram))
    weights = (solve(gram + ridge * penalty, moments, assume_a="pos").astype(np.float32) for ridge in RIDGES)
    return min((x @ matrix for matrix in weights), key=lambda answers: wrong_by(answers, validation).mean())


def _targets(column: np.ndarray, kind: str, rows: np.ndarray) -> np.ndarray:
    """The regression targets of some rows, centred: float32 [R, K]."""
    if kind in NUMBERS:
        numbers = scale_of(column, kind).values[rows]
        return ((numbers - numbers.mean()) / max(numbers.std(), 1e-12)).astype(np.float32)[:, None]
    members = [text.split(";") if kind == "set" else [text] for text in column[rows].tolist()]
    frequent = Counter(member for group in members for member in group).most_common(VALUES)
    column_of = {member: k for k, (member, _) in enumerate(frequent)}
    targets = np.zeros((len(rows), len(frequent)), np.float32)
    for row, group in enumerate(members):
        for member in group:
            if member in column_of:
                targets[row, column_of[member]] = 1
    return (targets - targets.mean(axis=0)) / np.sqrt(np.maximum(targets.sum(axis=0), 1))
