"""What a search found, as text, as JSON and as a sheet of pictures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from csn_jax.search.explain import Reasons, exemplars, owner
from csn_jax.store.index import Index
from csn_jax.text import table

WIDEST = 28  # characters of a cell
NAMED = 3  # dimensions of each explained hit, and items at each end of a dimension
ENDS = 5  # dimensions whose ends are shown as text


class Query(NamedTuple):
    """name: id or path; vector: [D]; row: that of the item that it is, or -1; path: of its image, if it is one."""

    name: str
    vector: np.ndarray
    row: int
    path: Path | None


class Hit(NamedTuple):
    row: int
    distance: float


class Answers(NamedTuple):
    """Hits of each query, nearest first, and the reasons where they were asked for.

    index: that rows are of; of a store, only those of its items that were looked at.
    n_items: of all that was searched in.
    """

    index: Index
    n_items: int
    weights: Mapping[str, float]
    filters: Mapping[str, Sequence[str]]
    queries: Sequence[Query]
    hits: Sequence[Sequence[Hit]]
    why: Sequence[Reasons] | None

    def columns(self) -> dict[str, np.ndarray]:
        """The attributes for people: all but the images' paths."""
        hidden = self.index.items.pictures.get("image")
        return {name: column for name, column in self.index.columns.items() if name != hidden}

    def mixture(self) -> str:
        return ", ".join(name if weight == 1 else f"{name} x {weight:g}" for name, weight in self.weights.items())

    def among(self) -> str:
        of = "".join(f", {name} {' or '.join(values)}" for name, values in self.filters.items())
        return f"among {self.n_items:,} items{of}"


def as_json(answers: Answers) -> list[dict[str, Any]]:
    """For each query {"query", "conditions", "hits": [{"id", "distance", "columns"}]}; with reasons, each hit has
    "explain" and the query "dimensions", the items at both ends of those that matter most."""
    index, columns, found = answers.index, answers.columns(), []
    for i, (query, hits) in enumerate(zip(answers.queries, answers.hits, strict=True)):
        answer: dict[str, Any] = {"query": query.name, "conditions": dict(answers.weights), "hits": []}
        for h, hit in enumerate(hits):
            told = {"id": str(index.ids[hit.row]), "distance": hit.distance}
            told["columns"] = {name: str(column[hit.row]) for name, column in columns.items()}
            if answers.why:
                by_condition, by_dimension, places = (part[h] for part in answers.why[i])
                told["explain"] = {
                    "by_condition": dict(zip(answers.weights, by_condition.tolist(), strict=True)),
                    "by_dimension": by_dimension.tolist(),
                    "place_by_condition": dict(zip(index.conditions, places.tolist(), strict=True)),
                    "closest_on": index.conditions[int(places.argmin())],
                    "furthest_on": index.conditions[int(places.argmax())],
                }
            answer["hits"].append(told)
        if answers.why:
            answer["dimensions"] = {
                str(dimension): {"condition": name, "low": index.ids[low].tolist(), "high": index.ids[high].tolist()}
                for dimension, name, low, high in _ends(index, answers.why[i])
            }
        found.append(answer)
    return found


def as_text(answers: Answers) -> str:
    """A table for each query, followed by the reasons."""
    columns, parts = answers.columns(), []
    for i, (query, hits) in enumerate(zip(answers.queries, answers.hits, strict=True)):
        head = f"{query.name}: nearest by {answers.mixture()}, {answers.among()}"
        rows = [("rank", "id", "distance", *map(_cut, columns))]
        for rank, hit in enumerate(hits, 1):
            cells = [_cut(column[hit.row]) for column in columns.values()]
            rows.append((str(rank), str(answers.index.ids[hit.row]), f"{hit.distance:.4f}", *cells))
        parts.append(f"{head}\n{table(rows)}" if hits else f"{head}\nno item is left to find")
        if answers.why and hits:
            parts.append(_why(answers, hits, answers.why[i]))
    return "\n\n".join(parts)


def _why(answers: Answers, hits: Sequence[Hit], why: Reasons) -> str:
    """Two lines a hit, then what the dimensions that matter most tell apart."""
    index = answers.index
    lines = [f"why (in brackets the place among all {len(index.ids):,} items by that condition alone)"]
    for rank, (hit, by_condition, by_dimension, places) in enumerate(zip(hits, *why, strict=True), 1):
        order = np.argsort(places, kind="stable")
        told = [f"{index.conditions[c]} ({places[c]:,})" for c in order]
        if len(told) > 1:
            told[-1] = f"furthest on {told[-1]}"
        lines.append(f"{rank:4}  {index.ids[hit.row]}: closest on {', '.join(told)}")
        shares = [f"{name} {share:.0%}" for name, share in zip(answers.weights, by_condition, strict=True)]
        whole = ", ".join(shares) + "; " if len(shares) > 1 else ""
        named = [f"{dimension} ({by_dimension[dimension]:.0%})" for dimension in _most(by_dimension)]
        lines.append(f"      its distance: {whole}dimensions {', '.join(named)}" if named else "      at no distance")
    for dimension, name, *ends in _ends(index, why)[:ENDS]:
        values = index.columns.get(name)
        low, high = (
            ", ".join(str(index.ids[row]) + (f" ({_cut(values[row])})" if values is not None else "") for row in end)
            for end in ends
        )
        lines.append(f"dimension {dimension}, which counts most for {name}\n      from {low}\n      to   {high}")
    return "\n".join(lines)


def _most(by_dimension: np.ndarray) -> list[int]:
    """The dimensions of the largest shares, largest first."""
    order = np.argsort(-np.abs(by_dimension), kind="stable")[:NAMED]
    return [int(dimension) for dimension in order if by_dimension[dimension]]


def _ends(index: Index, why: Reasons) -> list[tuple[int, str, np.ndarray, np.ndarray]]:
    """(dimension, condition that weighs it most, rows at its low end, rows at its high end) of the dimensions named for
    the hits, those first that matter most to all of them."""
    named = {dimension for shares in why.by_dimension for dimension in _most(shares)}
    together = np.abs(why.by_dimension).sum(axis=0)
    order = sorted(named, key=lambda dimension: (-together[dimension], dimension))
    return [(one, owner(index, one), *exemplars(index, one, NAMED)) for one in order]


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def save_sheet(path: Path, answers: Answers) -> None:
    """Write the pictures of queries and hits. What a hit shares with a query that is an item too is green, what it does
    not is red."""
    from csn_jax.runtime.workdir import write_atomically
    from csn_jax.search.sheet import SIDE, Tile, draw_hits  # imports JAX
    from csn_jax.search.thumbnails import read_pictures, shrink_files

    index = answers.index
    kinds = dict(index.items.conditions)
    named = [name for name in answers.weights if name in index.columns]

    def lines(row: int, query: int, distance: str) -> list[tuple[str, bool | None]]:
        told: list[tuple[str, bool | None]] = [(str(index.ids[row]), None), (distance, None)]
        for name in named:
            value, wanted = (str(index.columns[name][one]) if one >= 0 else "" for one in (row, query))
            compared = row != query and value and wanted and kinds.get(name) != "numeric"
            alike = not set(value.split(";")).isdisjoint(wanted.split(";")) if compared else None
            told.append((value or "-", alike))
        return told

    pictures = iter(read_pictures(index.items, [hit.row for hits in answers.hits for hit in hits], SIDE))
    files = iter(shrink_files([query.path for query in answers.queries if query.path], SIDE))
    own = iter(read_pictures(index.items, [query.row for query in answers.queries if not query.path], SIDE))
    drawn = []
    for query, hits in zip(answers.queries, answers.hits, strict=True):
        told = lines(query.row, query.row, "") if query.row >= 0 else [(Path(query.name).name, None)]
        tiles = [Tile(next(pictures), lines(hit.row, query.row, f"{hit.distance:.4f}")) for hit in hits]
        drawn.append((Tile(next(files) if query.path else next(own), told), tiles))
    told = f"{answers.among()}; below each hit its id and distance"
    if named and any(query.row >= 0 for query in answers.queries):
        told += f", then its {' and '.join(named)}: green where the query has it too"
    buffer = io.BytesIO()
    draw_hits(f"Nearest by {answers.mixture()}", told, drawn).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
