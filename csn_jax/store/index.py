"""Index: exact search of stored embeddings under any weighted mix of conditions. Needs neither a model nor JAX."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.core.maps import Maps
from csn_jax.core.mixtures import Mixture, as_weights, signed_roots, weight_of_dimensions
from csn_jax.errors import UserError
from csn_jax.store.candidates import has_accelerator, on_accelerator, on_host
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.filters import Filters, passing
from csn_jax.store.part_folder import open_parts
from csn_jax.store.parts import is_of_parts
from csn_jax.store.queries import as_queries, unlike
from csn_jax.store.search_cache import PIECE, SearchCache, Streamed
from csn_jax.store.texts import first_rows, similar
from csn_jax.store.vector_file import ForeignFile, read_embeddings
from csn_jax.store.views import Part, Views
from csn_jax.text import listed

PAIRS = 1 << 23  # scores of (query, item) in memory at a time


@dataclass(frozen=True, eq=False, repr=False)
class Index:
    """Stored embeddings, searched under their model's masks or newer ones. Threads may share it.

    items: ids, vectors [N, D] float32, attribute columns, and where the pictures are.
    conditions: names, in the order of the masks' rows.
    masks: [C, D] float32, as applied.
    name: how messages name the index.
    maps: of a model of the variant maps. Masks [C, V] then apply to the views [N, V] of the vectors, which may be
        float16. A condition's view is made at its first query, and views of up to 2 GiB are kept.
    """

    items: Embeddings
    conditions: tuple[str, ...]
    masks: np.ndarray
    name: str = "the index"
    maps: Maps | None = None
    _cache: SearchCache | Streamed | Views = field(init=False, repr=False)  # of these items, so never passed on

    def __post_init__(self):
        if self.maps is not None:
            cache = Views(self.vectors, self.maps, self.masks)
        elif is_of_parts(self.items):
            cache = Streamed(len(self), self.vectors.each)
        else:
            cache = SearchCache(self.vectors)
        object.__setattr__(self, "_cache", cache)

    def __reduce__(self):
        return Index, (self.items, self.conditions, self.masks, self.name, self.maps)

    @staticmethod
    def open(path: str | Path) -> "Index":
        """Open a file that `csn_jax embed` wrote, and check it against its digest; or a folder of such files, which are
        parts of one index.

        Arrow files in a folder stay on the disk: they are memory-mapped, searched in pieces, and compared with their
        digests when they are first read. Parquet and npz files are read into memory.

        Raises:
            UserError: when it is missing, damaged or another kind of file, or holds features instead of embeddings;
                see `from_table` for a file of another program.
        """
        path = Path(path).expanduser()
        items = open_parts(path) if path.is_dir() else read_embeddings(path)
        if not items.conditions:
            raise ForeignFile(
                f"{path} holds features from embed --features, which no mask applies to; train on them with "
                "--config.data.vectors=vector, or embed without --features."
            )
        if items.maps is None and not is_of_parts(items):
            items = items._replace(vectors=items.vectors.astype(np.float32, copy=False))
        return Index(items, tuple(name for name, _ in items.conditions), items.masks, str(path), items.maps)

    @staticmethod
    def from_table(table: Any, model: Any, *, id: str = "id", vector: str = "vector") -> "Index":
        """A table of another program under the masks of a Model.

        Args:
            table: of pandas, Polars, Arrow or DuckDB, or the path of a file such as Parquet.
            model: vectors as wide as its embeddings are taken as embeddings. Those as wide as its inputs are embedded,
                also if both have the same width, unless the table still has the metadata of `csn_jax embed`.
            id, vector: the columns. All others but long texts are attributes. Rows without a vector are left out.

        Raises:
            UserError: when a column is missing, ids repeat, or the vectors do not fit the model.
        """
        from csn_jax.config import DataConfig
        from csn_jax.data.columns import read_columns
        from csn_jax.store.foreign import embeddings_of, table_of

        columns = read_columns(Path(table).expanduser()) if isinstance(table, str | os.PathLike) else table_of(table)
        items, _ = embeddings_of(columns, model, DataConfig(id=id, vectors=vector))
        return Index(items, model.conditions, model.masks, str(columns.path), model.maps)

    def to_arrow(self) -> Any:
        """The items as a pyarrow.Table: `id`, the attributes (null if missing), and `vector`, a list of fixed size."""
        import pyarrow

        flat = pyarrow.array(np.ascontiguousarray(self.vectors).ravel())
        vectors = pyarrow.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        texts = {"id": self.ids} | self.columns
        columns = {name: [text or None for text in column.tolist()] for name, column in texts.items()}
        return pyarrow.table(columns | {"vector": vectors})

    def of_model(
        self, model_sha256: str, conditions: Sequence[str], masks: np.ndarray, maps: Maps | None = None
    ) -> "Index":
        """The same items under a model's masks or maps, including those that it learned after it embedded the items.

        Raises:
            UserError: when another model embedded the items.
        """
        if model_sha256 != self.items.model_sha256:
            raise UserError(
                f"{self.name} was made by another model ({self.items.model_sha256[:12]}) than the workdir's "
                f"({model_sha256[:12]}); give the workdir of the first, or embed the items again."
            )
        return dataclasses.replace(self, conditions=tuple(conditions), masks=np.asarray(masks, np.float32), maps=maps)

    @property
    def ids(self) -> np.ndarray:
        return self.items.ids

    @property
    def vectors(self) -> np.ndarray:
        return self.items.vectors

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return self.items.columns

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        names = f"conditions {listed(self.conditions)}, columns {listed(self.columns) or 'none'}"
        return f"Index({len(self):,} items [{self.vectors.shape[1]}], {names})"

    def row(self, item: str) -> int:
        """The row of an item by its id.

        Raises:
            UserError: for an unknown id, with similar ones.
        """
        if item in (rows := first_rows(self.ids, [item])):
            return rows[item]
        raise UserError(
            f"no item of {self.name} has the id {item!r}{similar(self.ids, item)}; its ids look like {self.ids[0]}."
        )

    def search(
        self,
        queries: Any,
        weights: Mixture,
        k: int = 10,
        *,
        filters: Filters | None = None,
        exclude: Sequence[int] | None = None,
        leave_out_same: str = "",
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of each query: (ids [Q, k] str, distances [Q, k] float32), nearest first.

        With w = sum over conditions of weight * mask^2, the squared distance of q and x is s = sum over dimensions of
        w * (q - x)^2, and the distance is sqrt(s). Negative weights can make s negative; the distance is then
        -sqrt(-s). The 1e-6 in the distance of the training loss is not added. The search is exact: the order is that
        of float64, and items at equal distance keep the order of the file.

        Args:
            queries: embeddings [Q, D], unmasked, or the ids [Q] of items, which are then not hits themselves; also as
                a column of pandas, Polars or Arrow. A single id or embedding [D] gives ids [k] and distances [k].
            weights: a condition, several of weight 1, or {condition: weight}, not all zero. A negative weight pushes
                results away.
            k: at least 1; at most N hits are returned. If fewer items are left, ids end in "" and distances in
                infinity.
            filters: {column: value, values or {sign: value}} with the signs <, <=, >, >=, = and !=, or texts such as
                ["price<50", "colour=red"]. An item must pass all.
            exclude: per query the row of an item that is not a hit, or -1. For queries that are items themselves.
            leave_out_same: a column; items that share its value with the item that the query is are not hits.

        Raises:
            UserError: for unknown ids, conditions, columns or values, weights that are all zero or not finite, or
                k < 1.
        """
        queries, own, single = as_queries(self, queries)
        if exclude is None:
            exclude = own
        rows, squares = self.nearest(
            queries, weights, k, filters=filters, exclude=exclude, leave_out_same=leave_out_same
        )
        ids = np.full(rows.shape, "", object)
        ids[rows >= 0] = self.ids[rows[rows >= 0]]
        ids, distances = ids.astype(str), signed_roots(squares)
        return (ids[0], distances[0]) if single else (ids, distances)

    def nearest(
        self,
        queries: np.ndarray,
        weights: Mixture,
        k: int = 10,
        *,
        filters: Filters | None = None,
        exclude: Sequence[int] | None = None,
        leave_out_same: str = "",
    ) -> tuple[np.ndarray, np.ndarray]:
        """`search` of embeddings [Q, D] by position: (rows [Q, k] int64, -1 after the last hit; squared distances
        [Q, k] float64)."""
        if not isinstance(k, int | np.integer) or k < 1:
            raise UserError(f"k is {k!r}; give a whole number of at least 1.")
        w, queries = self.weight(as_weights(weights)), np.asarray(queries, np.float64)  # [V], [Q, D]
        width = self.vectors.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width or not np.isfinite(queries).all():
            raise UserError(f"queries are {[*queries.shape]}; give finite embeddings [Q, {width}].")
        allowed = passing(self.columns, filters, self.name) if filters else None
        excluded = np.full(len(queries), -1) if exclude is None else np.asarray(exclude, int)
        k = min(int(k), len(self.ids))
        rows = np.full((len(queries), k), -1)
        squares = np.full((len(queries), k), np.inf)
        others = unlike(self, leave_out_same, excluded) if leave_out_same else None
        size = 1 if others else max(1, PAIRS // max(1, len(self.ids)))  # what is left out depends on the query
        candidates_of = on_accelerator if has_accelerator() else on_host
        for start in range(0, len(queries) if k else 0, size):
            piece = slice(start, start + size)
            kept = others(allowed, excluded[start]) if others else allowed
            with np.errstate(over="ignore", invalid="ignore"):  # `Part.slack` detects what does not fit float32
                candidates_of_each = candidates_of(
                    self._parts(queries[piece], w), len(self.ids), k, kept, excluded[piece]
                )
                for i, candidates in enumerate(candidates_of_each, start):
                    exact = self._squared(queries[i], w, candidates)
                    order = np.lexsort((candidates, exact))[:k]
                    rows[i, : len(order)], squares[i, : len(order)] = candidates[order], exact[order]
        return rows, squares

    def weight(self, weights: Mapping[str, float]) -> np.ndarray:
        """The weight of each dimension under {condition: weight}: float64 [D]. A UserError for unknown conditions, and
        weights that are all zero or not finite."""
        return weight_of_dimensions(weights, self.conditions, self.masks)

    def _parts(self, queries: np.ndarray, w: np.ndarray) -> list[Part]:
        """The squared distance as sums over the dimensions of the vectors, or of views."""
        return [Part(self._cache, w, queries)] if self.maps is None else self._cache.parts(w, queries)

    def _squared(self, query: np.ndarray, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The squared distances from a query [D] to items [M], exact to float64's rounding: [M]."""
        squared = np.empty(len(rows))
        for start in range(0, len(rows), PIECE // 8):
            piece = slice(start, start + PIECE // 8)
            if self.maps is None:
                squared[piece] = np.sum(w * np.square(query - self.vectors[rows[piece]]), axis=1)
            else:
                squared[piece] = self._cache.squared(query, w, rows[piece])
        return squared
