"""Search in a Qdrant collection: it returns candidates, which are then ranked exactly by their whole vectors.

Without negative weights, the candidates are the nearest under each condition, by its named vector and Qdrant's graph:
an item that is near under a mix is near under one of its conditions. With negative weights far items can win, and no
graph finds those. Qdrant then scans all items with one product with (2 w*q, -w), as Index does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.core.maps import Maps
from csn_jax.errors import UserError
from csn_jax.search.hits import StoreHits
from csn_jax.store.embeddings import Embeddings, from_head
from csn_jax.store.filters import RANGES, Filters, check_column, fitting_members, no_item_has, rules_of
from csn_jax.store.index import Index
from csn_jax.store.maps_text import maps_of
from csn_jax.store.qdrant import (
    BATCH,
    KEY,
    WHOLE,
    cut,
    from_payload,
    in_a_request,
    json_path,
    point_id,
    read_head,
    vector_name,
)
from csn_jax.text import did_you_mean, listed

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

CHOICES = 1000  # values of a column to fetch for a message
MOST = 20_000  # values of a column to fetch for a range


@dataclass(frozen=True)
class Collection:
    """A collection that `qdrant.upload` wrote.

    empty: an index without items, for its conditions, masks and columns.
    maps: of a model of the variant maps. The stored vectors are then views [V], and `empty` is an index of views.
    """

    client: "QdrantClient"
    name: str
    empty: Index
    maps: Maps | None = None

    @staticmethod
    def open(client: "QdrantClient", name: str, place: str) -> "Collection":
        """Open a collection by name, or the only one if the name is empty. A UserError if it does not exist or is not
        ours, or if there is not exactly one. `place` gave the client, for messages.
        """
        names = sorted(collection.name for collection in client.get_collections().collections)
        if name and name not in names:
            near, choices = did_you_mean(name, names), listed(names) or "none"
            raise UserError(f"{place} has no collection {name!r}{near}; it has {choices}.")
        if not name:
            ours = [known for known in names if KEY in (client.get_collection(known).config.metadata or {})]
            if not ours:
                raise UserError(f"{place} has no collection of csn_jax; write one with csn_jax embed --to_qdrant.")
            if len(ours) > 1:
                raise UserError(f"{place} has several collections ({listed(ours)}); choose one with --collection.")
            name = ours[0]
        head = read_head(client, name, place)
        maps = _checked_maps(head, f"{place}: the collection {name!r}")
        head = {key: value for key, value in head.items() if key != "maps"}  # items are views
        no_vectors = np.zeros((0, len(head["masks"][0])), np.float32)
        items = from_head(head, np.zeros(0, object), no_vectors, [np.zeros(0, object)] * len(head["columns"]))
        names = tuple(condition.name for condition in items.conditions)
        return Collection(client, name, Index(items, names, items.masks, f"the collection {name!r}"), maps)

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding, D."""
        return self.empty.masks.shape[1] if self.maps is None else self.maps.matrix.shape[1]

    def __len__(self) -> int:
        return self.client.count(self.name, exact=True).count

    def view(self, embeddings: np.ndarray) -> np.ndarray:
        """What masks apply to: the views [Q, V] of embeddings [Q, D] under maps, in float64; else the embeddings."""
        return embeddings if self.maps is None else self.maps.exact_views(embeddings)

    def check_model(
        self, model_sha256: str, conditions: Sequence[str], masks: np.ndarray, maps: Maps | None = None
    ) -> None:
        """Raise UserError unless a model made these vectors and still has the masks or maps that they were written
        under. It may have learned more conditions since.
        """
        self.empty.of_model(model_sha256, conditions, masks)
        own = dict(zip(conditions, masks, strict=True))
        for name, mask in zip(self.empty.conditions, self.empty.masks, strict=True):
            if name not in own or not _same_rows(self.maps, mask, maps, own[name]):
                kind = "mask" if self.maps is None else "map"
                raise UserError(
                    f"{self.empty.name} was written under another {kind} of {name} than the workdir's; write it again "
                    "with csn_jax embed --to_qdrant --rebuild."
                )

    def vector(self, item: str) -> np.ndarray:
        """The unmasked vector [D] of an item, under maps its view [V]; a UserError for an unknown id."""
        items = self._fetched([point_id(item)])
        if not len(items.ids):
            first, _ = self.client.scroll(self.name, limit=1, with_payload=["id"])
            example = f"; its ids look like {first[0].payload['id']}" if first else ""
            raise UserError(f"no item of {self.empty.name} has the id {item!r}{example}.")
        return items.vectors[0]

    def item_of(self, picture: str) -> str:
        """The id of the item whose picture has this path, as the items' table spells it; empty if there is none."""
        from qdrant_client import models

        column = self.empty.items.pictures.get("image", "id")
        condition = models.Filter(must=[_has_value(column, picture)])
        points, _ = self.client.scroll(self.name, condition, limit=1, with_payload=["id"])
        return points[0].payload["id"] if points else ""

    def search(
        self,
        queries: np.ndarray,
        own: Sequence[str],
        weights: Mapping[str, float],
        k: int,
        *,
        filters: Filters,
        candidates: int,
    ) -> StoreHits:
        """The k nearest items of each query, at the distances of `Index.search`, and with its errors.

        Under one condition, the result is as complete as the engine's answers. Under a mix, it misses items that are
        not among the `candidates` nearest under any of its conditions. With negative weights it is complete.

        Args:
            queries: [Q, D], unmasked; under maps the views [Q, V] of embeddings, by `view`.
            own: [Q] the id of the item that a query is, which is not a hit; empty for other queries.
            weights: {condition: weight}, not all zero.
            k: at least 1.
            filters: an item must pass all.
            candidates: per condition; k if that is more.
        """
        from qdrant_client import models

        w = self.empty.weight(weights)  # [D]
        if min(weights.values()) < 0:
            vectors = {WHOLE: np.concatenate([2 * w * queries, np.broadcast_to(-w, queries.shape)], axis=1)}
        else:
            masks = zip(self.empty.conditions, self.empty.masks, strict=True)
            vectors = {
                vector_name(name): cut(queries, mask) for name, mask in masks if weights.get(name) and mask.any()
            }
        passing = self.filter_conditions(filters) or None
        limit = min(max(k, candidates), self.client.count(self.name, exact=True).count)
        themselves = [[models.HasIdCondition(has_id=[point_id(item)])] if item else None for item in own]
        allowed = [models.Filter(must=passing, must_not=itself) for itself in themselves]
        points: set[str] = set()
        for vector, lines in vectors.items():
            params = models.SearchParams(exact=True) if vector == WHOLE else None
            requests = [
                models.QueryRequest(query=line, using=vector, limit=limit, params=params, filter=condition)
                for line, condition in zip(lines.astype(np.float32).tolist(), allowed, strict=True)
            ]
            size = in_a_request(lines.shape[1])
            for start in range(0, len(requests), size):
                for answer in self.client.query_batch_points(self.name, requests[start : start + size]):
                    points |= {str(point.id) for point in answer.points}
        items = self._fetched(sorted(points))
        row_of = {item: row for row, item in enumerate(items.ids.tolist())}
        exclude = [row_of.get(item, -1) for item in own]
        rows, squares = replace(self.empty, items=items).nearest(queries, weights, k, exclude=exclude)
        # Queries that are items but not candidates follow the candidates: results show them, and they are not hits.
        missing = self._fetched([point_id(item) for item in sorted({*own} - {""} - row_of.keys())])
        row_of |= {item: len(items.ids) + row for row, item in enumerate(missing.ids.tolist())}
        items = items._replace(
            ids=np.concatenate([items.ids, missing.ids]),
            vectors=np.concatenate([items.vectors, missing.vectors]),
            columns={name: np.concatenate([items.columns[name], missing.columns[name]]) for name in items.columns},
        )
        return StoreHits(replace(self.empty, items=items), rows, squares, [row_of.get(item, -1) for item in own])

    def filter_conditions(self, filters: Filters) -> list["models.Filter"]:
        """Filters as Qdrant takes them; a UserError for an unknown column, a value that no item has, and a range over a
        column of too many different values: payloads are text, so a range is the list of the values in it."""
        from qdrant_client import models

        conditions = []
        for rule in rules_of(filters, self.empty.columns):
            check_column(rule.column, self.empty.columns, self.empty.name)
            if rule.sign in RANGES:
                known = self._values(rule.column, MOST)
                if len(known) == MOST:
                    raise UserError(
                        f"--filter={rule.column}{rule.sign}{rule.values[0]}: the column has {MOST:,} different values "
                        "or more, too many for a range in Qdrant; search --index=FILE."
                    )
                fitting = sorted(fitting_members(rule, known))
                match = models.FieldCondition(key=json_path(rule.column), match=models.MatchAny(any=fitting))
                conditions.append(models.Filter(must=[match]))
                continue
            for value in rule.values:
                has_value = models.Filter(must=[_has_value(rule.column, value)])
                if not self.client.count(self.name, has_value, exact=True).count:
                    raise no_item_has(value, rule.column, self._values(rule.column, CHOICES))
            alternatives = [_has_value(rule.column, value) for value in rule.values]
            conditions.append(models.Filter(**{"should" if rule.sign == "=" else "must_not": alternatives}))
        return conditions

    def _values(self, column: str, most: int) -> list[str]:
        """The values of a column, at most so many."""
        return [str(hit.value) for hit in self.client.facet(self.name, json_path(column), limit=most, exact=True).hits]

    def _fetched(self, points: Sequence[str]) -> Embeddings:
        """The items of point ids, with their unmasked vectors. Ids that do not exist are left out."""
        records = []
        for start in range(0, len(points), BATCH):
            ids = points[start : start + BATCH]
            records += self.client.retrieve(self.name, ids, with_payload=True, with_vectors=[WHOLE])
        width = self.empty.masks.shape[1]
        vectors = np.array([record.vector[WHOLE][:width] for record in records], np.float32).reshape(-1, width)
        payloads = [record.payload for record in records]
        columns = {
            name: np.array([from_payload(payload.get(name, "")) for payload in payloads], object)
            for name in self.empty.columns
        }
        ids = np.array([payload["id"] for payload in payloads], object)
        return self.empty.items._replace(ids=ids, vectors=vectors, columns=columns)


def _checked_maps(head: Mapping[str, Any], place: str) -> Maps | None:
    """The maps in a collection's metadata; a UserError if they are damaged."""
    try:
        maps = maps_of(head)
        if maps and len(maps.matrix) != len(head["masks"][0]):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{place} has damaged maps in its metadata; write it again with csn_jax embed --to_qdrant --rebuild."
        ) from None
    return maps


def _same_rows(maps: Maps | None, mask: np.ndarray, others: Maps | None, other: np.ndarray) -> bool:
    """Whether a mask over maps gives the same distances as another mask over other maps; or over none."""
    if maps is None or others is None:
        return maps is others and np.array_equal(mask, other)
    (at, there) = (np.flatnonzero(mask), np.flatnonzero(other))
    rows = np.array_equal(maps.matrix[at], others.matrix[there])
    return maps.unit == others.unit and rows and np.array_equal(mask[at], other[there])


def _has_value(column: str, value: str) -> Any:
    """The condition that an item has this value, alone or as a member of its set. A set must match exactly."""
    from qdrant_client import models

    key = json_path(column)
    if not value:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    members = value.split(";")
    equal = [models.FieldCondition(key=key, match=models.MatchValue(value=member)) for member in members]
    if len(members) == 1:
        return equal[0]
    number = models.ValuesCount(gte=len(members), lte=len(members))
    return models.Filter(must=[*equal, models.FieldCondition(key=key, values_count=number)])
