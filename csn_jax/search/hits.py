"""What a search in a store answers."""

from typing import NamedTuple

import numpy as np

from csn_jax.store.index import Index


class StoreHits(NamedTuple):
    """Hits of Q queries.

    index: what rows refer to: the candidates of all queries, and the queries that are items.
    rows: [Q, k], nearest first, -1 after the last hit.
    squares: [Q, k] squared distances, float64.
    own: [Q] the row of the item that a query is, or -1.
    """

    index: Index
    rows: np.ndarray
    squares: np.ndarray
    own: list[int]
