"""What a search found, as text and as JSON."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csn_jax.search.explain import Reasons, cell, dimension_ends, reasons_text
from csn_jax.store.filters import Rule
from csn_jax.store.index import Index
from csn_jax.text import table


class Query(NamedTuple):
    """name: id or path; vector: [D]; path: of its image, if it is an image; row: of the item that it is, or -1;
    of_several: whether it is one of a folder or a list."""

    name: str
    vector: np.ndarray
    path: Path | None = None
    row: int = -1
    of_several: bool = False


class Hit(NamedTuple):
    row: int
    distance: float


class Answers(NamedTuple):
    """Hits per query, nearest first, with reasons if they were requested.

    index: what rows refer to. From a store, it holds only the items that were fetched.
    n_items: the number of items searched.
    """

    index: Index
    n_items: int
    weights: Mapping[str, float]
    filters: Sequence[Rule]
    queries: Sequence[Query]
    hits: Sequence[Sequence[Hit]]
    reasons: Sequence[Reasons] | None
    left_out_same: str = ""

    @property
    def single(self) -> bool:
        """Whether one item, vector or image was searched by, instead of a folder or a list."""
        return len(self.queries) == 1 and not self.queries[0].of_several

    def columns(self) -> dict[str, np.ndarray]:
        """The attributes for people: all but the paths of images."""
        hidden = self.index.items.pictures.get("image")
        return {name: column for name, column in self.index.columns.items() if name != hidden}

    def mixture(self) -> str:
        """The conditions and their weights, as text."""
        return ", ".join(name if weight == 1 else f"{name} x {weight:g}" for name, weight in self.weights.items())

    def searched(self) -> str:
        """The number of items searched and the filters, as text."""
        filters = "".join(f", {rule}" for rule in self.filters)
        filters += f", of another {self.left_out_same}" if self.left_out_same else ""
        return f"among {self.n_items:,} items{filters}"


def to_hits(rows: np.ndarray, squares: np.ndarray) -> list[list[Hit]]:
    """The hits of `Index.nearest`'s rows [Q, k] and squared distances [Q, k]."""
    return [
        [Hit(row, math.copysign(math.sqrt(abs(square)), square)) for row, square in zip(*pair, strict=True) if row >= 0]
        for pair in zip(rows.tolist(), squares.tolist(), strict=True)
    ]


def as_json(answers: Answers) -> list[dict[str, Any]]:
    """Per query {"query", "conditions", "hits": [{"id", "distance", "columns"}]}, and "columns" of a query that is an
    item. Reasons add "explain" to each hit and "dimensions" to the query: the items at both ends of the dimensions that
    matter most."""
    index, columns, objects = answers.index, answers.columns(), []
    for i, query in enumerate(answers.queries):
        hits = []
        for row, distance in answers.hits[i]:
            values = {name: str(column[row]) for name, column in columns.items()}
            hits.append({"id": str(index.ids[row]), "distance": distance, "columns": values})
        answer = {"query": query.name, "conditions": dict(answers.weights)}
        if query.row >= 0:
            answer["columns"] = {name: str(column[query.row]) for name, column in columns.items()}
        answer["hits"] = hits
        if answers.reasons:
            for hit, by_condition, by_dimension, ranks in zip(hits, *answers.reasons[i], strict=True):
                differ = ranks.min() < ranks.max()
                hit["explain"] = {
                    "by_condition": dict(zip(answers.weights, by_condition.tolist(), strict=True)),
                    "by_dimension": by_dimension.tolist(),
                    "place_by_condition": dict(zip(index.conditions, ranks.tolist(), strict=True)),
                    "closest_on": index.conditions[int(ranks.argmin())] if differ else None,
                    "furthest_on": index.conditions[int(ranks.argmax())] if differ else None,
                }
            answer["dimensions"] = {
                str(dimension): {"condition": name, "low": index.ids[low].tolist(), "high": index.ids[high].tolist()}
                for dimension, name, low, high in dimension_ends(index, answers.reasons[i])
            }
        objects.append(answer)
    return objects


def as_text(answers: Answers) -> str:
    """A table per query, followed by the reasons."""
    columns, parts = answers.columns(), []
    for i, (query, hits) in enumerate(zip(answers.queries, answers.hits, strict=True)):
        head = f"{query.name}: nearest by {answers.mixture()}, {answers.searched()}"
        rows = [("rank", "id", "distance", *map(cell, columns))]
        if query.row >= 0:
            own = [cell(column[query.row]) for column in columns.values()]
            rows.append(("query", str(answers.index.ids[query.row]), "", *own))
        for rank, hit in enumerate(hits, 1):
            cells = [cell(column[hit.row]) for column in columns.values()]
            rows.append((str(rank), str(answers.index.ids[hit.row]), f"{hit.distance:.4f}", *cells))
        parts.append(f"{head}\n{table(rows)}" if hits else f"{head}\nno item is left to find")
        if answers.reasons and hits:
            rows_of_hits = [hit.row for hit in hits]
            parts.append(reasons_text(answers.index, list(answers.weights), rows_of_hits, answers.reasons[i]))
    return "\n\n".join(parts)
