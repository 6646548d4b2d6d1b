"""Search in a table of PostgreSQL: it returns candidates, which are then ranked exactly by their whole vectors.

Without negative weights, candidates are the nearest under each condition, by its column and graph. With negative
weights far items can win, and no graph finds those: PostgreSQL then computes the weighted sum of squared distances of
every row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from csn_jax.core.maps import Maps
from csn_jax.errors import UserError
from csn_jax.search.hits import StoreHits
from csn_jax.search.postgres_filters import Condition, condition_of
from csn_jax.store.embeddings import Embeddings, from_head
from csn_jax.store.filters import Filters, check_column, rules_of
from csn_jax.store.index import Index
from csn_jax.store.postgres import WHOLE, as_text, exists, identifier, names, read_head, vector_column
from csn_jax.text import did_you_mean, listed

if TYPE_CHECKING:
    from psycopg import Connection, sql

LARGEST = 1000  # items that a graph of pgvector looks at in one go
BATCH = 1000  # items fetched at a time


@dataclass(frozen=True)
class Table:
    """A table that `csn_jax embed --to_postgres` wrote.

    empty: an index without items, for its conditions, masks, maps and columns.
    types: {column: type} of the attributes.
    """

    connection: "Connection[Any]"
    name: str
    empty: Index
    types: dict[str, str]

    @staticmethod
    def open(connection: "Connection[Any]", name: str, place: str) -> "Table":
        """Open a table by name, or the only one if the name is empty. A UserError if it does not exist or is not ours,
        or if there is not exactly one. `place` gave the connection, for messages."""
        ours = names(connection)
        if not name:
            if not ours:
                raise UserError(f"{place} has no table of csn_jax; write one with csn_jax embed --to_postgres.")
            if len(ours) > 1:
                raise UserError(f"{place} has several tables ({listed(ours)}); choose one with --collection.")
            name = ours[0]
        head = read_head(connection, name) if name in ours else None
        if head is None:
            if exists(connection, name):
                raise UserError(f"{place}: the table {name!r} was not written by csn_jax; give another --collection.")
            near, choices = did_you_mean(name, ours), listed(ours) or "none"
            raise UserError(f"{place} has no table {name!r}{near}; it has {choices}.")
        try:
            width = len(head["masks"][0])
            if "maps" in head:
                width = head["maps"]["shape"][1]
            no_vectors, no_texts = np.zeros((0, width), np.float32), np.zeros(0, object)
            items = from_head(head, no_texts, no_vectors, [no_texts] * len(head["columns"]))
        except (KeyError, IndexError, TypeError, ValueError):
            fix = "write it again with csn_jax embed --to_postgres --rebuild"
            raise UserError(f"{place}: the head of the table {name!r} is damaged; {fix}.") from None
        conditions = tuple(condition.name for condition in items.conditions)
        index = Index(items, conditions, items.masks, f"the table {name!r}", items.maps)
        return Table(connection, name, index, head["types"])

    @property
    def width(self) -> int:
        """The number of dimensions of an embedding, D."""
        return self.empty.vectors.shape[1]

    def view(self, embeddings: np.ndarray) -> np.ndarray:
        """What `search` takes: embeddings as they are."""
        return embeddings

    def __len__(self) -> int:
        return self.rows("SELECT count(*) FROM {}")[0][0]

    def check_model(
        self, model_sha256: str, conditions: Sequence[str], masks: np.ndarray, maps: Maps | None = None
    ) -> None:
        """Raise UserError unless a model made these vectors and still has their masks or maps."""
        self.empty.of_model(model_sha256, conditions, masks, maps)
        own = dict(zip(conditions, masks, strict=True))
        for name, mask in zip(self.empty.conditions, self.empty.masks, strict=True):
            if name not in own or not np.array_equal(*map(_squares, ((self.empty.maps, mask), (maps, own[name])))):
                kind = "mask" if maps is None else "map"
                raise UserError(
                    f"{self.empty.name} was written under another {kind} of {name} than the workdir's; write it again "
                    "with csn_jax embed --to_postgres --rebuild."
                )

    def vector(self, item: str) -> np.ndarray:
        """The unmasked vector [D] of an item; a UserError for an unknown id."""
        items = self._fetched([item])
        if not len(items.ids):
            first = self.rows("SELECT id FROM {} LIMIT 1")
            example = f"; its ids look like {first[0][0]}" if first else ""
            raise UserError(f"no item of {self.empty.name} has the id {item!r}{example}.")
        return items.vectors[0]

    def item_of(self, picture: str) -> str:
        """The id of the item whose picture has this path, as the items' table spells it; empty if there is none."""
        column = self.empty.items.pictures.get("image", "id")
        if "\0" in picture or column not in ("id", *self.types):
            return ""
        found = self.rows("SELECT id FROM {} WHERE {} = %s LIMIT 1", self.text(column), parameters=[picture])
        return found[0][0] if found else ""

    def search(
        self,
        queries: np.ndarray,
        own: Sequence[str],
        weights: Mapping[str, float],
        k: int,
        *,
        filters: Filters,
        candidates: int,
        exact: bool = False,
    ) -> StoreHits:
        """The k nearest items of each query, at the distances of `Index.search`, and with its errors.

        Under one condition, the result is as complete as pgvector's graph. Under a mix, it misses items that are not
        among the `candidates` nearest under any of its conditions. With negative weights, and with `exact`, every row
        is compared.

        Args:
            queries: [Q, D], unmasked.
            own: [Q] the id of the item that a query is, which is not a hit; empty for other queries.
            weights: {condition: weight}, not all zero.
            k: at least 1.
            filters: an item must pass all.
            candidates: per condition; k if that is more.
        """
        self.empty.weight(weights)
        passes = self.filter_conditions(filters)
        limit = min(max(k, candidates), len(self))
        exact = exact or min(weights.values()) < 0
        found: set[str] = set()
        for query, itself in zip(queries, own, strict=True):
            if exact:
                found |= set(self._nearest(query, weights, passes, itself, limit, scan=True))
                continue
            for name in weights:
                near = self._nearest(query, {name: 1.0}, passes, itself, limit) if weights[name] else []
                found |= set(near)
        items = self._fetched(sorted(found))
        row_of = {item: row for row, item in enumerate(items.ids.tolist())}
        exclude = [row_of.get(item, -1) for item in own]
        rows, squares = replace(self.empty, items=items).nearest(queries, weights, k, exclude=exclude)
        # Queries that are items but not candidates follow the candidates: results show them, and they are not hits.
        missing = self._fetched(sorted({*own} - {""} - row_of.keys()))
        row_of |= {item: len(items.ids) + row for row, item in enumerate(missing.ids.tolist())}
        items = items._replace(
            ids=np.concatenate([items.ids, missing.ids]),
            vectors=np.concatenate([items.vectors, missing.vectors]),
            columns={name: np.concatenate([items.columns[name], missing.columns[name]]) for name in items.columns},
        )
        return StoreHits(replace(self.empty, items=items), rows, squares, [row_of.get(item, -1) for item in own])

    def _nearest(
        self,
        query: np.ndarray,
        weights: Mapping[str, float],
        passes: list[Condition],
        itself: str,
        limit: int,
        *,
        scan: bool = False,
    ) -> list[str]:
        """The ids of the nearest items of a query under weights, by the distances that PostgreSQL computes."""
        from psycopg import sql

        conditions, parameters = [sql.SQL("id <> %s")], [itself]
        for condition, values in passes:
            conditions.append(condition)
            parameters += values
        terms: list[sql.Composable] = []
        view = np.asarray(query)[None] if self.empty.maps is None else self.empty.maps.exact_views(query[None])
        for name, weight in weights.items():
            mask = self.empty.masks[self.empty.conditions.index(name)]
            active = np.flatnonzero(mask)
            if not weight or not len(active):
                continue
            cut = (view[0, active] * mask[active]).astype(np.float32)
            column = identifier(vector_column(name))
            if scan:
                terms.append(sql.SQL("%s::float8 * power({} <-> %s, 2)").format(column))
                parameters += [float(weight), cut]
            else:
                terms.append(sql.SQL("{} <-> %s").format(column))
                parameters.append(cut)
        if not terms:
            return []
        query_text = sql.SQL("SELECT id FROM {} WHERE {} ORDER BY {} LIMIT %s").format(
            identifier(self.name), sql.SQL(" AND ").join(conditions), sql.SQL(" + ").join(terms)
        )
        parameters.append(limit)
        with self.connection.transaction():
            if scan:
                self.connection.execute("SET LOCAL enable_indexscan = off")
            else:
                settings = "SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', %s, true)"
                self.connection.execute(settings, [str(min(max(limit, 40), LARGEST)), "strict_order"])
            found = [item for (item,) in self.connection.execute(query_text, parameters)]
        # A graph gives up after some thousand rows that do not pass a filter.
        if len(found) < limit and not scan and passes:
            return self._nearest(query, weights, passes, itself, limit, scan=True)
        return found

    def filter_conditions(self, filters: Filters) -> list[Condition]:
        """Filters as conditions with parameters; a UserError for an unknown column, a value that no item has, and a
        range over a text column of too many different values."""
        conditions = []
        for rule in rules_of(filters, self.empty.columns):
            check_column(rule.column, self.empty.columns, self.empty.name)
            conditions.append(condition_of(self, rule))
        return conditions

    def text(self, column: str) -> "sql.Composable":
        """A column as text."""

        return identifier("id") if column == "id" else as_text(identifier(column), self.types[column])

    def _fetched(self, ids: Sequence[str]) -> Embeddings:
        """The items of ids, with their unmasked vectors. Ids that do not exist are left out."""
        from psycopg import sql

        texts = [self.text(name) for name in self.empty.columns]
        fields = sql.SQL(", ").join([identifier("id"), identifier(WHOLE), *texts])
        rows = []
        for start in range(0, len(ids), BATCH):
            batch = [item for item in ids[start : start + BATCH] if "\0" not in item]
            rows += self.rows("SELECT {1} FROM {0} WHERE id = ANY(%s) ORDER BY id", fields, parameters=[batch])
        cells = list(zip(*rows, strict=True)) or [()] * (2 + len(texts))
        columns = {
            name: np.array([value or "" for value in values], object)
            for name, values in zip(self.empty.columns, cells[2:], strict=True)
        }
        vectors = np.array(cells[1], np.float32).reshape(-1, self.width)
        return self.empty.items._replace(ids=np.array(cells[0], object), vectors=vectors, columns=columns)

    def rows(self, text: str, *parts: "sql.Composable", parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement about the table, its first brace."""
        from psycopg import sql

        statement = sql.SQL(text).format(identifier(self.name), *parts)
        with self.connection.cursor(binary=True) as cursor:
            return cursor.execute(statement, parameters).fetchall()


def _squares(of: tuple[Maps | None, np.ndarray]) -> np.ndarray:
    """What decides distances under a mask over maps, or over none."""
    maps, mask = of
    active = np.flatnonzero(mask)
    return mask if maps is None else np.append(maps.matrix[active] * mask[active, None], [float(maps.unit)])
