"""Search in Qdrant, for candidates that are then ranked exactly by their whole vectors.

Without negative weights, candidates are the nearest under each condition, by its named vector and the engine's graph:
what is near under a mixture is near under one of its conditions. Negative weights have no such rule, since far items
win, and no graph finds far ones; the engine then scans all items, by one product with (2 w*q, -w) as Index does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csn_jax.data.item_set import Condition
from csn_jax.errors import UserError
from csn_jax.store.index import Index
from csn_jax.store.qdrant import BATCH, KEY, WHOLE, cut, json_path, masks_of, point_id, read_head, vector_name
from csn_jax.store.vector_file import Embeddings
from csn_jax.text import did_you_mean

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models


class Found(NamedTuple):
    """Answers to Q queries.

    index: the items that were looked at, and the queries that are items.
    rows: [Q, k] in it, nearest first, -1 where there is none.
    squares: [Q, k] squared distances, float64.
    own: [Q] the row in it of the item that a query is, or -1.
    """

    index: Index
    rows: np.ndarray
    squares: np.ndarray
    own: list[int]


@dataclass(frozen=True)
class Collection:
    """A collection that `qdrant.upload` wrote.

    empty: an index without items, of its conditions and masks.
    """

    client: "QdrantClient"
    name: str
    told: str
    columns: tuple[str, ...]
    empty: Index

    @staticmethod
    def open(client: "QdrantClient", name: str, told: str) -> "Collection":
        """Open a collection by name, or the only one.

        Raises:
            UserError: when it is not there or not ours, or there are several and no name.
        """
        names = sorted(one.name for one in client.get_collections().collections)
        if name and name not in names:
            near = did_you_mean(name, names)
            has = f"it has {', '.join(names[:10])}" if names else "it has none"
            raise UserError(f"{told} has no collection {name!r}{near}; {has}.")
        if not name:
            ours = [one for one in names if KEY in (client.get_collection(one).config.metadata or {})]
            if len(ours) != 1:
                has = f"several collections of csn_jax ({', '.join(ours[:10])})" if ours else "no collection of csn_jax"
                remedy = "choose one by --collection" if ours else "write one with csn_jax.embed --to_qdrant"
                raise UserError(f"{told} has {has}; {remedy}.")
            name = ours[0]
        head = read_head(client, name, told)
        conditions = tuple(Condition(**condition) for condition in head["conditions"])
        masks = masks_of(head)
        columns = {column: np.zeros(0, object) for column in head["columns"]}
        items = Embeddings(
            ids=np.zeros(0, object),
            vectors=np.zeros((0, masks.shape[1]), np.float32),
            columns=columns,
            conditions=conditions,
            masks=masks,
            model_sha256=head["model_sha256"],
            pictures=head["pictures"],
        )
        names = tuple(condition.name for condition in conditions)
        return Collection(client, name, told, tuple(columns), Index(items, names, masks, f"the collection {name!r}"))

    def check_model(self, model_sha256: str, conditions: Sequence[str], masks: np.ndarray) -> None:
        """Whether a model is the one whose vectors these are, with the masks that they were written under. It may have
        learned more conditions since.

        Raises:
            UserError: when it is another, or has another mask.
        """
        now, then = self.empty.of_model(model_sha256, conditions, masks), self.empty
        for name, mask in zip(then.conditions, then.masks, strict=True):
            if name not in now.conditions or not np.array_equal(now.masks[now.conditions.index(name)], mask):
                raise UserError(
                    f"the workdir's mask of {name} is another than that of {then.name}; write it again with "
                    "csn_jax.embed --to_qdrant --rebuild."
                )

    def count(self) -> int:
        """The number of items."""
        return self.client.count(self.name, exact=True).count

    def vector(self, item: str) -> np.ndarray:
        """The unmasked vector of an item: [D].

        Raises:
            UserError: for an unknown id.
        """
        found = self._fetched([point_id(item)])
        if not len(found.ids):
            some, _ = self.client.scroll(self.name, limit=1, with_payload=["id"])
            like = f"; its ids are like {some[0].payload['id']}" if some else ""
            raise UserError(f"no item of {self.empty.name} has the id {item!r}{like}.")
        return found.vectors[0]

    def item_of(self, picture: str) -> str:
        """The id of the item whose image has this path, relative to the pictures' root, or the empty string."""
        from qdrant_client import models

        column = self.empty.items.pictures.get("image", "id")
        own = models.Filter(must=[_is(column, picture)])
        some, _ = self.client.scroll(self.name, own, limit=1, with_payload=["id"]) if picture else ((), None)
        return some[0].payload["id"] if some else ""

    def check(self, weights: Mapping[str, float], filters: Mapping[str, Sequence[str]]) -> None:
        """Whether `search` takes these.

        Raises:
            UserError: as there.
        """
        self.empty.weight(weights)
        self._conditions(filters)

    def search(
        self,
        queries: np.ndarray,
        own: Sequence[str],
        weights: Mapping[str, float],
        k: int,
        *,
        filters: Mapping[str, Sequence[str]],
        candidates: int,
    ) -> Found:
        """The k nearest items of each query, at the distances of `Index.search`.

        Under one condition as complete as the engine's answers; of a mixture, an item is missed that is not among the
        `candidates` nearest under any of its conditions; with negative weights complete.

        Args:
            queries: [Q, D], unmasked.
            own: [Q] the id of the item that a query is, which is no hit of it, or the empty string.
            weights: {condition: weight}, not all zero.
            k: at least 1.
            filters: {column: values}, of which an item has one in each column.
            candidates: of each condition; at least k are taken.

        Raises:
            UserError: for weights, columns and values as `Index.search`.
        """
        w = self.empty.weight(weights)  # [D]
        used = [name for name, weight in weights.items() if weight and np.any(self._mask(name))]
        passing, limit = self._conditions(filters), max(k, candidates)
        if min(weights.values()) < 0:
            lines = {WHOLE: np.concatenate([2 * w * queries, np.broadcast_to(-w, queries.shape)], axis=1)}
        else:
            lines = {vector_name(name): cut(queries, self._mask(name)) for name in used}
        found: set[str] = set()
        for vector, those in lines.items():
            for start in range(0, len(queries), BATCH):
                some = slice(start, start + BATCH)
                requests = _requests(vector, those[some], own[some], passing, limit)
                for answer in self.client.query_batch_points(self.name, requests):
                    found |= {str(point.id) for point in answer.points}
        hits = self._fetched(sorted(found))
        row_of = {one: row for row, one in enumerate(hits.ids.tolist())}
        if len(hits.ids):
            rows, squares = self._index(hits).nearest(queries, weights, k, exclude=[row_of.get(one, -1) for one in own])
        else:
            rows, squares = np.full((len(queries), k), -1), np.full((len(queries), k), np.inf)
        # Queries that are items and no candidates, behind all others: no hits, and shown beside them.
        missing = sorted({one for one in own if one and one not in row_of})
        more = self._fetched([point_id(one) for one in missing])
        row_of |= {one: len(hits.ids) + row for row, one in enumerate(more.ids.tolist())}
        both = hits._replace(
            ids=np.concatenate([hits.ids, more.ids]),
            vectors=np.concatenate([hits.vectors, more.vectors]),
            columns={name: np.concatenate([hits.columns[name], more.columns[name]]) for name in hits.columns},
        )
        return Found(self._index(both), rows, squares, [row_of.get(one, -1) for one in own])

    def _index(self, items: Embeddings) -> Index:
        return Index(items, self.empty.conditions, self.empty.masks, self.empty.name)

    def _mask(self, condition: str) -> np.ndarray:
        return self.empty.masks[self.empty.conditions.index(condition)]

    def _conditions(self, filters: Mapping[str, Sequence[str]]) -> list[Any]:
        """Filters as Qdrant has them.

        Raises:
            UserError: for an unknown column, or a value that no item has.
        """
        from qdrant_client import models

        for name, values in filters.items():
            if name not in self.columns:
                near = did_you_mean(name, self.columns)
                has = ", ".join(self.columns) or "none"
                raise UserError(f"{self.empty.name} has no column {name!r}{near} to filter by; its columns are {has}.")
            for value in values:
                if not self.client.count(self.name, models.Filter(must=[_is(name, value)]), exact=True).count:
                    choices = sorted(str(hit.value) for hit in self.client.facet(self.name, json_path(name)).hits)
                    raise UserError(
                        f"no item has {value!r}{did_you_mean(value, choices)} in column {name!r}; it has "
                        f"{', '.join(choices)}{', ...' if len(choices) == 10 else ''}."
                    )
        return [models.Filter(should=[_is(name, value) for value in values]) for name, values in filters.items()]

    def _fetched(self, points: Sequence[str]) -> Embeddings:
        """Items by their points' ids, those that are there, with their whole vectors."""
        records = [record for batch in _batches(points) for record in self._records(batch)]
        ids = [record.payload["id"] for record in records]
        columns = {
            name: np.array([_text(record.payload.get(name, "")) for record in records], object) for name in self.columns
        }
        width = self.empty.masks.shape[1]
        vectors = np.array([record.vector[WHOLE][:width] for record in records], np.float32).reshape(len(ids), width)
        return self.empty.items._replace(ids=np.array(ids, object), vectors=vectors, columns=columns)

    def _records(self, points: Sequence[str]) -> list["models.Record"]:
        return self.client.retrieve(self.name, points, with_payload=True, with_vectors=[WHOLE])


def _requests(
    vector: str, queries: np.ndarray, own: Sequence[str], passing: list[Any], limit: int
) -> list["models.QueryRequest"]:
    from qdrant_client import models

    return [
        models.QueryRequest(
            query=query,
            using=vector,
            limit=limit,
            params=models.SearchParams(exact=True) if vector == WHOLE else None,
            filter=models.Filter(
                must=passing or None,
                must_not=[models.HasIdCondition(has_id=[point_id(one)])] if one else None,
            ),
        )
        for query, one in zip(queries.astype(np.float32).tolist(), own, strict=True)
    ]


def _batches(points: Sequence[str]) -> Iterator[Sequence[str]]:
    return (points[start : start + BATCH] for start in range(0, len(points), BATCH))


def _is(column: str, value: str) -> Any:
    """An item's value is this one, or among others this one; a set has all members of this one and no more."""
    from qdrant_client import models

    key = json_path(column)
    if not value:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    members = value.split(";")
    equal = [models.FieldCondition(key=key, match=models.MatchValue(value=one)) for one in members]
    if len(members) == 1:
        return equal[0]
    number = models.ValuesCount(gte=len(members), lte=len(members))
    return models.Filter(must=[*equal, models.FieldCondition(key=key, values_count=number)])


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ";".join(value)
