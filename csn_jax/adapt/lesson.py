"""What a new condition is learned from: triplets of items, drawn from labels or given by people."""

from typing import NamedTuple

import numpy as np

from csn_jax.adapt.raters import Raters
from csn_jax.config import Config
from csn_jax.data.dataset import Dataset
from csn_jax.data.triplets import Triplets
from csn_jax.model.model import Model
from csn_jax.runtime.record import Condition
from csn_jax.text import did_you_mean

MOST = 50_000  # triplets from people, and triplets that a mask is fitted to: enough for a few dozen weights


class Items(NamedTuple):
    """N items that a table may name by their ids.

    ids: [N] str.
    split: [N] str, or None if they have none.
    origin: completes "is not an item of ...".
    inputs: [N, ...]; or embeddings [N, D] if `model` is None.
    """

    ids: np.ndarray
    split: np.ndarray | None
    origin: str
    inputs: np.ndarray
    model: Model | None = None

    def embed(self, rows: np.ndarray) -> np.ndarray:
        """The embeddings [R, D] of R rows; under maps over vectors these are the vectors."""
        return self.model.embed(self.inputs, rows, progress=True) if self.model else self.inputs[rows]

    def near(self, item: str) -> str:
        """` (did you mean ID?)` for an id that is not there, or nothing."""
        return did_you_mean(item, self.ids[:20_000].tolist())  # more would take seconds


def own_items(dataset: Dataset, model: Model) -> Items:
    """The items of a run's own data."""
    items = dataset.items
    return Items(items.ids, items.split, "the run's own data", items.inputs, model)


class Lesson(NamedTuple):
    """What to learn a condition from.

    condition: the new one.
    items: what the triplets name, by position.
    triplets: per split; the new condition is their condition 0. Without `validation`, cross-validation chooses the
        strength of the fit. Without `test`, it measures the error.
    groups: per split [T]; triplets of one group belong to one fold.
    source: completes "learned from ..." in messages and in data.json.
    note: what the user should know about the column, or the empty string.
    own: the run's own data with the new condition, and the config that reads it; None if the labels are others.
    n_values: how many different values the labels have; 0 for triplets.
    screens: whether the triplets are what people selected on screens.
    raters: what the people are worth who gave the answers; None if there are not several.
    """

    condition: Condition
    items: Items
    triplets: dict[str, Triplets]
    groups: dict[str, np.ndarray]
    source: str
    note: str = ""
    own: tuple[Dataset, Config] | None = None
    n_values: int = 0
    screens: bool = False
    raters: Raters | None = None

    def compact(self) -> tuple[np.ndarray, dict[str, Triplets]]:
        """(the positions [R] of the items that triplets name, the triplets with positions among these R)."""
        rows = np.unique(np.concatenate([role for triplets in self.triplets.values() for role in triplets[:3]]))
        compact = {}
        for split, (*roles, condition) in self.triplets.items():
            compact[split] = Triplets(*(np.searchsorted(rows, role).astype(np.int32) for role in roles), condition)
        return rows, compact
