"""Triplet error: the share of triplets whose negative is not strictly farther than their positive."""

from functools import partial
from typing import Any

import jax
import numpy as np

from csn_jax.core.losses import distance
from csn_jax.data.item_set import ItemSet
from csn_jax.data.triplets import Triplets
from csn_jax.evaluate.bootstrap import interval_of_difference, intervals

LARGE = 1 << 28  # bytes of embeddings
CHUNK, SMALL = 16_384, 512  # triplets at a time; the last chunk is padded, so two programs serve all


@jax.jit
def _wrong(embeddings: jax.Array, masks: jax.Array, triplets: Triplets) -> jax.Array:
    mask = masks[triplets.condition]  # [T, D]
    to = partial(distance, embeddings[triplets.anchor], mask=mask)
    return ~(to(embeddings[triplets.negative]) > to(embeddings[triplets.positive]))  # a tie is wrong


def wrong_triplets(embeddings: np.ndarray, masks: np.ndarray, triplets: Triplets) -> np.ndarray:
    """Which triplets are wrong: bool [T]. Embeddings [N, D] have row i for item i of the ItemSet; rows that no triplet
    names are not read. Masks [C, D] are as applied."""
    wrong = np.empty(len(triplets.anchor), bool)
    if embeddings.nbytes > LARGE:  # its untouched pages would be copied as well
        rows, triplets = triplets.compact()
        embeddings = embeddings[rows]
    embeddings, masks = jax.device_put((embeddings, masks))
    room = SMALL if len(wrong) <= SMALL else CHUNK
    for start in range(0, len(wrong), room):
        chunk = Triplets(*(column[start : start + room] for column in triplets))
        size = len(chunk.anchor)
        padded = Triplets(*(np.pad(column, (0, room - size)) for column in chunk))
        wrong[start : start + size] = np.asarray(_wrong(embeddings, masks, padded))[:size]
    return wrong


def triplet_error(
    embeddings: np.ndarray, masks: np.ndarray, items: ItemSet, triplets: Triplets
) -> dict[str, tuple[int, int]]:
    """{"overall" and each condition: (wrong, total)}: exact counts, which the caller divides once."""
    return count(wrong_triplets(embeddings, masks, triplets), items, triplets)


def count(wrong: np.ndarray, items: ItemSet, triplets: Triplets) -> dict[str, tuple[int, int]]:
    """(wrong, total) overall and per condition, from bool [T]."""
    return {name: (int(wrong[of].sum()), len(wrong[of])) for name, of in _parts(items, triplets)}


def _parts(items: ItemSet, triplets: Triplets) -> list[tuple[str, slice | np.ndarray]]:
    """`overall` and each condition, with an index of its triplets."""
    own = [(condition.name, triplets.condition == row) for row, condition in enumerate(items.conditions)]
    return [("overall", slice(None)), *own]


def interval(wrong: np.ndarray, together: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the error of triplets [T]. Those of one group of `together` [T], such as an anchor, depend on
    each other."""
    _, group = np.unique(together, return_inverse=True)
    low, high = intervals(np.bincount(group, weights=wrong)[None], np.bincount(group), seed)[0]
    return float(low), float(high)


def difference(
    wrong: np.ndarray, other: np.ndarray, items: ItemSet, triplets: Triplets, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """`difference`, another model's error minus this one's, and its 95 % interval `ci95`, from which triplets each has
    wrong, bool [T]; each {"overall": x, "by_condition": {name: x}}. Groups are anchor items, as in `interval`.

    Two models often fail on the same triplets. So their difference is known far better than either error, and
    overlapping intervals do not show that two models are equally good.
    """
    more = other.astype(float) - wrong
    values, ranges = {}, {}
    for name, of in _parts(items, triplets):
        _, group = np.unique(triplets.anchor[of], return_inverse=True)
        values[name] = float(more[of].mean())
        net = np.bincount(group, weights=more[of])
        ranges[name] = interval_of_difference(net, np.bincount(group), seed).tolist()
    return {"difference": shaped(values), "ci95": shaped(ranges)}


def shaped(values: dict[str, Any]) -> dict[str, Any]:
    """Values by name in the shape of results.json."""
    return {"overall": values["overall"], "by_condition": {k: v for k, v in values.items() if k != "overall"}}


def results(embeddings: np.ndarray, masks: np.ndarray, items: ItemSet, triplets: Triplets) -> dict[str, dict[str, Any]]:
    """The parts of results.json that come from triplets: `triplet_error`, `ci95` and `n_triplets`, each
    {"overall": x, "by_condition": {name: x}}."""
    wrong = wrong_triplets(embeddings, masks, triplets)
    counts = count(wrong, items, triplets)
    return {
        "triplet_error": shaped({name: wrong / total for name, (wrong, total) in counts.items()}),
        "ci95": shaped({name: list(interval(wrong[of], triplets.anchor[of])) for name, of in _parts(items, triplets)}),
        "n_triplets": shaped({name: total for name, (_, total) in counts.items()}),
    }
