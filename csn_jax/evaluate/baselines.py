"""What needs no training: raw vectors, four examples per value, and one linear probe per condition.

Inputs [N, F] are floats of any precision, perhaps a memory map. Only rows that take part are read, in pieces.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from csn_jax.data.item_set import ItemSet
from csn_jax.data.triplets import Triplets, scale_of
from csn_jax.evaluate.retrieval import sample
from csn_jax.runtime.record import NUMBERS

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # tried on validation, in units of a standardised feature's variance
VALUES = 500  # the most common values or members of a condition; probes and examples know these
EXAMPLES = 4  # per value
LARGEST = 8192  # equations of a probe at most; LAPACK's memory and time grow with their square and cube
FITTED = 1 << 26  # numbers that a probe is fitted on: 52,000 vectors of 1,280
CHOSEN_ON = 10_000  # validation triplets that choose a ridge
PIECE = 1 << 22  # numbers read at a time
CHUNK = 4096  # triplets at a time


def most_rows(n_features: int) -> int:
    """How many vectors are held in float32 at a time."""
    return max(LARGEST, FITTED // max(n_features, 1))


def _pieces(inputs: np.ndarray, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """(positions in rows, float32 [P, F]) over all rows."""
    size = max(1, PIECE // inputs.shape[1])
    for start in range(0, len(rows), size):
        where = slice(start, start + size)
        yield where, np.asarray(inputs[rows[where]], np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors [P, F] scaled to length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def wrong_by(vectors: np.ndarray, triplets: Triplets) -> np.ndarray:
    """Which triplets are wrong under the Euclidean distance of vectors [N, F]: bool [T]; a tie is wrong."""
    wrong = np.empty(len(triplets.anchor), bool)
    for start in range(0, len(wrong), CHUNK):
        roles = (vectors[role[start : start + CHUNK]] for role in triplets[:3])
        wrong[start : start + CHUNK] = _wrong(*roles)
    return wrong


def wrong_raw(inputs: np.ndarray, triplets: Triplets) -> dict[str, np.ndarray]:
    """Which triplets are wrong under the `euclidean` distance and the `cosine` of the inputs: bool [T] each."""
    wrong = {name: np.empty(len(triplets.anchor), bool) for name in ("euclidean", "cosine")}
    size = max(1, min(CHUNK, PIECE // inputs.shape[1]))
    for start in range(0, len(triplets.anchor), size):
        where = slice(start, start + size)
        roles = [np.asarray(inputs[role[where]], np.float32) for role in triplets[:3]]
        wrong["euclidean"][where] = _wrong(*roles)
        wrong["cosine"][where] = _wrong(*map(unit, roles))
    return wrong


def _wrong(anchor: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    to_positive, to_negative = (np.square(anchor - other).sum(axis=1) for other in (positive, negative))
    return to_negative <= to_positive


class Moments(NamedTuple):
    """Of the training vectors: mean and deviation per feature, and the mean of the vectors scaled to length 1."""

    mean: np.ndarray  # [F] float32
    deviation: np.ndarray  # [F] float32
    direction: np.ndarray  # [F] float32


class Probe(NamedTuple):
    """A linear map of standardised vectors to the labels of a condition."""

    matrix: np.ndarray  # [F, K] float32
    values: tuple[str, ...]  # of the K outputs; empty for numbers
    middle: np.ndarray  # [K]; an output times its scale, plus its middle, estimates the share of the value
    scale: np.ndarray  # [K]


class Fitted(NamedTuple):
    """What training items gave, by condition. A condition without labels, or of numbers, has no examples."""

    moments: Moments
    probes: dict[str, Probe]
    examples: dict[str, np.ndarray]  # [F, K] float32 each: the direction of each value


def fit(inputs: np.ndarray, items: ItemSet, training: np.ndarray, validation: Triplets) -> Fitted:
    """Fit probes and examples on training items, bool [N]: on all of them, or on a sample of 2^26 numbers drawn with a
    fixed seed.

    linear_probe: a ridge regression of standardised vectors to the labels. It has one output per value or member, rare
    ones weighted like common ones; or one number. The ridge is the best on the condition's validation triplets.
    prototypes: a value's prototype is the mean of 4 random training items that have it, all vectors scaled to length 1
    and centred on the training items. An item is represented by its cosine to each prototype.
    """
    most, groups = most_rows(inputs.shape[1]), {}
    moments = _moments(inputs, sample(np.flatnonzero(training), most))
    probes, examples = {}, {}
    for row, (name, kind) in enumerate(items.conditions):
        if name in items.labels:
            rows = sample(np.flatnonzero(training & (items.labels[name] != "")), most)
            if len(rows):
                groups.setdefault(rows.tobytes(), []).append((row, name, kind, rows))
                if kind not in NUMBERS:
                    examples[name] = _prototypes(inputs, _members(items.labels[name], kind, rows), rows, moments)
    for group in groups.values():  # conditions that are known of the same items share their equations
        targets, codings = zip(
            *(_targets(items.labels[name], kind, rows) for _, name, kind, rows in group), strict=True
        )
        candidates = _ridges(inputs, group[0][-1], np.concatenate(targets, axis=1), moments)
        ends = np.cumsum([target.shape[1] for target in targets])
        for (row, name, *_), coding, *own in zip(
            group, codings, *(np.split(candidate, ends[:-1], axis=1) for candidate in candidates), strict=True
        ):
            probes[name] = Probe(_best(own, inputs, moments, validation.of_condition(row)), *coding)
    return Fitted(moments, probes, examples)


def views(inputs: np.ndarray, rows: np.ndarray, fitted: Fitted, name: str) -> dict[str, np.ndarray | None]:
    """`prototypes` and `linear_probe`: what represents some items under a condition, float32 [R, K] each, or None."""
    probe, examples = fitted.probes.get(name), fitted.examples.get(name)
    by_probe = None if probe is None else np.empty((len(rows), probe.matrix.shape[1]), np.float32)
    by_examples = None if examples is None else np.empty((len(rows), examples.shape[1]), np.float32)
    if probe is not None:
        for where, x in _pieces(inputs, rows):
            by_probe[where] = _standardised(x, fitted.moments) @ probe.matrix
            if by_examples is not None:
                by_examples[where] = unit(unit(x) - fitted.moments.direction) @ examples
    return {"prototypes": by_examples, "linear_probe": by_probe}


def predicted(outputs: np.ndarray, probe: Probe, column: np.ndarray, kind: str) -> tuple[float, float] | None:
    """(share of items whose label a probe predicts, share of the most frequent label), from outputs [R, K] and known
    labels [R]. The prediction is the value of the largest output; of sets, the members above one half. None for
    numbers, and without items."""
    if not probe.values or not len(column):
        return None
    shares, labels = outputs * probe.scale + probe.middle, column.tolist()
    if kind == "set":
        members = [frozenset(name for name in text.split(";") if name) for text in labels]
        guesses = [frozenset(np.array(probe.values, object)[row > 0.5].tolist()) for row in shares]
    else:
        members, guesses = labels, [probe.values[k] for k in shares.argmax(axis=1).tolist()]
    right = sum(guess == label for guess, label in zip(guesses, members, strict=True))
    return right / len(labels), Counter(members).most_common(1)[0][1] / len(labels)


def _moments(inputs: np.ndarray, rows: np.ndarray) -> Moments:
    total, squares, direction = np.zeros((3, inputs.shape[1]))
    for _, x in _pieces(inputs, rows):
        total += x.sum(axis=0, dtype=np.float64)
        direction += unit(x).sum(axis=0, dtype=np.float64)
    mean, n = total / max(len(rows), 1), max(len(rows), 1)
    for _, x in _pieces(inputs, rows):
        squares += np.square(x - mean).sum(axis=0)
    return Moments(*(part.astype(np.float32) for part in (mean, np.sqrt(squares / n), direction / n)))


def _standardised(x: np.ndarray, moments: Moments) -> np.ndarray:
    return (x - moments.mean) / np.maximum(moments.deviation, 1e-12)


class _Members(NamedTuple):
    """The most frequent values or members of R items; pairs of an item and a value that it has."""

    values: tuple[str, ...]
    item: np.ndarray  # [M] positions among the R items
    value: np.ndarray  # [M]


def _members(column: np.ndarray, kind: str, rows: np.ndarray) -> _Members:
    groups = [text.split(";") if kind == "set" else [text] for text in column[rows].tolist()]
    values = [name for name, _ in Counter(name for group in groups for name in group).most_common(VALUES)]
    number = {name: k for k, name in enumerate(values)}
    pairs = [(i, number[name]) for i, group in enumerate(groups) for name in group if name in number]
    return _Members(tuple(values), *np.array(pairs, int).T)


def _prototypes(inputs: np.ndarray, members: _Members, rows: np.ndarray, moments: Moments) -> np.ndarray:
    """The direction of each value, from its examples: float32 [F, K]."""
    order = np.random.default_rng(0).permutation(len(members.item))
    order = order[np.argsort(members.value[order], kind="stable")]
    counts = np.bincount(members.value)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)  # among those of its value
    order = order[place < EXAMPLES]
    total = np.zeros((len(counts), inputs.shape[1]), np.float32)
    for where, x in _pieces(inputs, rows[members.item[order]]):
        np.add.at(total, members.value[order[where]], unit(unit(x) - moments.direction))
    return unit(total).T


def _targets(column: np.ndarray, kind: str, rows: np.ndarray) -> tuple[np.ndarray, tuple]:
    """(what a probe is fitted to for some rows, centred: float32 [R, K]; the values, middle and scale of the Probe)."""
    if kind in NUMBERS:
        numbers = scale_of(column, kind).values[rows]
        middle, scale = np.array([numbers.mean()]), np.array([max(numbers.std(), 1e-12)])
        return ((numbers[:, None] - middle) / scale).astype(np.float32), ((), middle, scale)
    members = _members(column, kind, rows)
    targets = np.zeros((len(rows), len(members.values)), np.float32)
    targets[members.item, members.value] = 1
    middle, scale = targets.mean(axis=0), np.sqrt(np.maximum(targets.sum(axis=0), 1))
    return (targets - middle) / scale, (members.values, middle, scale)


def _ridges(inputs: np.ndarray, rows: np.ndarray, targets: np.ndarray, moments: Moments) -> list[np.ndarray]:
    """The matrix [F, K] of a ridge regression of some rows to targets [R, K], for each of RIDGES.

    There is an equation per feature or, if these are more than the rows, per item: the same answers.
    """
    from scipy.linalg import solve  # here, as it takes 0.2 s, and images have no baselines

    known = np.empty((len(rows), inputs.shape[1]), np.float32)
    for where, x in _pieces(inputs, rows):
        known[where] = _standardised(x, moments)
    wide = known.shape[1] > len(rows)
    gram, sides = (known @ known.T, targets) if wide else (known.T @ known, known.T @ targets)
    gram, sides = gram.astype(np.float64), sides.astype(np.float64)
    penalty = len(rows) * np.eye(len(gram))
    found = [solve(gram + ridge * penalty, sides, assume_a="pos").astype(np.float32) for ridge in RIDGES]
    return [known.T @ weights for weights in found] if wide else found


def _best(candidates: list[np.ndarray], inputs: np.ndarray, moments: Moments, validation: Triplets) -> np.ndarray:
    """The matrix [F, K] with the fewest wrong validation triplets of its condition."""
    chosen = sample(np.arange(len(validation.anchor)), CHOSEN_ON)
    if not len(chosen):
        return candidates[len(candidates) // 2]
    rows, places = np.unique(np.stack([role[chosen] for role in validation[:3]]), return_inverse=True)
    local = Triplets(*places.reshape(3, -1), validation.condition[chosen])
    stacked = np.concatenate(candidates, axis=1)
    outputs = np.empty((len(rows), stacked.shape[1]), np.float32)
    for where, x in _pieces(inputs, rows):
        outputs[where] = _standardised(x, moments) @ stacked
    parts = np.split(outputs, len(candidates), axis=1)
    return candidates[int(np.argmin([wrong_by(part, local).sum() for part in parts]))]
