"""What a new condition is learned from: triplets of items, drawn from labels or given by people."""

from typing import NamedTuple

import numpy as np

from csn_jax.config import Config
from csn_jax.data.dataset import Dataset
from csn_jax.data.triplets import Triplets
from csn_jax.model.model import Model
from csn_jax.runtime.record import Condition
from csn_jax.text import did_you_mean

MOST = 50_000  # training triplets: enough to fit a few dozen weights


class Items(NamedTuple):
    """N items that a table may name by their ids.

    ids: [N] str.
    split: [N] str, or None if they have none.
    origin: completes "is not an item of ...".
    inputs: [N, ...]; or vectors [N, D] if `model` is None.
    """

    ids: np.ndarray
    split: np.ndarray | None
    origin: str
    inputs: np.ndarray
    model: Model | None = None

    def embed(self, rows: np.ndarray) -> np.ndarray:
        """Vectors [N, D]. At least these rows are filled."""
        return self.model.embed_rows(self.inputs, rows, progress=True) if self.model else self.inputs

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
    """

    condition: Condition
    items: Items
    triplets: dict[str, Triplets]
    groups: dict[str, np.ndarray]
    source: str
    note: str = ""
    own: tuple[Dataset, Config] | None = None

    def rows(self) -> np.ndarray:
        """Positions of the items that triplets name."""
        return np.unique(np.concatenate([role for triplets in self.triplets.values() for role in triplets[:3]]))
