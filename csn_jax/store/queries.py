"""What may be searched by: embeddings, or the ids of stored items; and which items count as the same as a query."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.config import UNKNOWN
from csn_jax.data.arrays import to_array, wrong_type
from csn_jax.errors import UserError
from csn_jax.store.filters import check_column, members_of
from csn_jax.store.texts import among, distinct, first_rows

if TYPE_CHECKING:
    from csn_jax.store.index import Index


def as_queries(index: "Index", queries: Any) -> tuple[np.ndarray, np.ndarray | None, bool]:
    """(embeddings [Q, D], the rows [Q] of the items that they are, whether a single one was given). The rows are None
    for embeddings. A UserError for an unknown id or another type."""
    name, needed = "queries are", f"finite embeddings [Q, {index.vectors.shape[1]}], or ids of items"
    if isinstance(queries, str | int) and not isinstance(queries, bool):
        row = index.row(str(queries))
        return index.vectors[[row]], np.array([row]), True
    array = to_array(queries, name, needed)
    if array.dtype == object:
        if not all(isinstance(item, str) for item in array):
            raise wrong_type(queries, name, needed)
        rows = rows_of(index, array.tolist())
        return index.vectors[rows], rows, False
    if array.dtype.kind not in "fiuV" or not array.ndim:
        raise wrong_type(queries, name, needed)
    return np.atleast_2d(array), None, array.ndim == 1


def rows_of(index: "Index", ids: list[str]) -> np.ndarray:
    """The rows of items by their ids; a UserError for an unknown one."""
    row_of = first_rows(index.ids, ids)
    return np.array([row_of[item] if item in row_of else index.row(item) for item in ids], int)


def unlike(index: "Index", column: str, own: np.ndarray) -> Callable[[np.ndarray | None, int], np.ndarray | None]:
    """A function of allowed items (bool [N], or None for all) and the row of an item, or -1: those of them that share
    no value of a column with the item. An item without a value shares none.

    A UserError for an unknown column, or if no query is an item; `own`: the rows [Q] of the items that queries are.
    """
    check_column(column, index.columns, index.name)
    if not (own >= 0).any():
        raise UserError(
            f"the query is not an item of {index.name}, so it has no {column!r} to leave out; search by an id."
        )
    cells = index.columns[column]
    members = members_of(distinct(cells))

    def others(allowed: np.ndarray | None, row: int) -> np.ndarray | None:
        shared = members[cells[row]] - {"", *UNKNOWN} if row >= 0 else set()
        if not shared:
            return allowed
        kept = among(cells, {value for value, parts in members.items() if parts.isdisjoint(shared)})
        return kept if allowed is None else kept & allowed

    return others
