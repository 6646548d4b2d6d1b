"""Off-task use (paper, section 4): how well a linear probe on frozen embeddings predicts untrained labels."""

import math
from collections import Counter
from typing import Any

import numpy as np

from csn_jax.data.item_set import ItemSet
from csn_jax.evaluate.bootstrap import intervals
from csn_jax.evaluate.retrieval import sample

FITTED_ON = 20_000  # training items at most, drawn with a fixed seed
LEAST = 10  # training items that a value needs for the probe to learn it
VALUES = 100  # that a probe learns at most, the most frequent ones
DECAY = 1e-3  # weight of the squared weights, beside the mean cross entropy
ITERATIONS = 500


def off_task_labels(items: ItemSet) -> list[str]:
    """Label columns of single values that are not conditions of this run."""
    left_out = {one.name for one in items.attributes if one.kind not in ("categorical", "ordinal")}
    left_out |= {condition.name for condition in items.conditions}
    return [name for name in items.labels if name not in left_out]


def fitting_rows(items: ItemSet) -> np.ndarray:
    """Positions of the training items that probes are fitted on."""
    return sample(np.flatnonzero(items.split == "train"), FITTED_ON)


def fit_probe(x: np.ndarray, y: np.ndarray, n_values: int) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression of y [N], integers below n_values, on standardised x [N, D]: (weights [D, V],
    bias [V]) float64, which minimise the mean cross entropy + DECAY / 2 * |weights|^2. Full-batch L-BFGS from zero
    finds the one optimum; there is no seed."""
    import scipy.optimize  # here, as it takes 0.2 s of every start

    if x.shape[1] > len(x):  # the optimum is a mix of the items: solved in their span, it has N numbers per value
        basis, coordinates = np.linalg.qr(np.asarray(x, np.float64).T)
        weights, bias = fit_probe(coordinates.T, y, n_values)
        return basis @ weights, bias
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1, dtype=np.float64)  # the last row of weights is the bias
    decay, rows = np.full((x.shape[1], 1), DECAY), np.arange(len(x))
    decay[-1] = 0

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, n_values)
        logits = x @ weights
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(axis=1, keepdims=True)
        loss = np.mean(np.log(total[:, 0]) - logits[rows, y]) + np.sum(decay * weights**2) / 2
        p /= total
        p[rows, y] -= 1
        return loss, (x.T @ p / len(x) + decay * weights).ravel()

    start = np.zeros(x.shape[1] * n_values)
    options = {"maxiter": ITERATIONS, "gtol": 1e-7, "ftol": 0.0}
    flat = scipy.optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x
    return flat.reshape(-1, n_values)[:-1], flat[-n_values:]


def outcomes(embeddings: np.ndarray, items: ItemSet, split: str) -> dict[str, tuple[np.ndarray, float]]:
    """{label: (right, chance)}: per off-task label, whether the probe's first guess is right on each item of a split,
    float64 [n], and how often the split's most frequent value is right.

    A probe is fitted on the training items (`fitting_rows`) and all dimensions, unmasked. It learns values that at
    least 10 of them have, the 100 most frequent at most. Items with another or an unknown value are not counted. A
    label with fewer than two such values, or without an item to count, is left out. Embeddings [N, D] have row i for
    item i of the ItemSet; the rows of `fitting_rows` and of the split are read.
    """
    fitted, members, found = fitting_rows(items), np.flatnonzero(items.split == split), {}
    for label in off_task_labels(items):
        column = items.labels[label]
        counts = Counter(value for value in column[fitted].tolist() if value)
        frequent = sorted((-n, value) for value, n in counts.items() if n >= LEAST)[:VALUES]
        number = {value: i for i, (_, value) in enumerate(frequent)}
        train, test = (np.array([row for row in rows if column[row] in number], int) for rows in (fitted, members))
        if len(number) < 2 or not len(test):
            continue
        y_train, y_test = (np.array([number[column[row]] for row in rows], np.int32) for rows in (train, test))
        mean, scale = embeddings[train].mean(axis=0), embeddings[train].std(axis=0)
        scale = np.where(scale > 0, scale, 1)
        weights, bias = fit_probe((embeddings[train] - mean) / scale, y_train, len(number))
        guess = np.argmax((embeddings[test] - mean) / scale @ weights + bias, axis=1)
        found[label] = (guess == y_test).astype(np.float64), np.bincount(y_test).max() / len(y_test)
    return found


def results(embeddings: np.ndarray, items: ItemSet, split: str) -> dict[str, Any]:
    """`off_task` of results.json: {"by_label": {label: top-1 accuracy}, "ci95": {"by_label": {label: [low, high]}},
    "chance": {"by_label": ...}, "n_items": {"by_label": ...}}."""
    found = outcomes(embeddings, items, split)
    ranges = {label: intervals(right[None], np.ones(len(right)))[0].tolist() for label, (right, _) in found.items()}
    return {
        "by_label": {label: math.fsum(right) / len(right) for label, (right, _) in found.items()},
        "ci95": {"by_label": ranges},
        "chance": {"by_label": {label: float(chance) for label, (_, chance) in found.items()}},
        "n_items": {"by_label": {label: len(right) for label, (right, _) in found.items()}},
    }
