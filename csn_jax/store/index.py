"""Index: exact search over stored embeddings, under any mixture of conditions. Needs neither model nor JAX."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from csn_jax.errors import UserError
from csn_jax.store.search_cache import PIECE, SearchCache
from csn_jax.store.vector_file import Embeddings, read_embeddings
from csn_jax.text import did_you_mean

BLOCK = 1024  # items of which the lowest score is looked at first
PAIRS = 1 << 23  # scores of queries and items in memory at a time
EXTRA = 64  # candidates that an accelerator gives besides


@dataclass(frozen=True, eq=False)
class Index:
    """Stored embeddings, to be searched under their model's masks or newer ones. Threads may share it.

    items: ids, vectors [N, D] float32, attribute columns, and where the pictures are.
    conditions: names, in the order of the masks' rows.
    masks: [C, D] float32, as applied.
    name: for messages.
    """

    items: Embeddings
    conditions: tuple[str, ...]
    masks: np.ndarray
    name: str = "the index"
    _cache: SearchCache = field(init=False, repr=False)  # of these items: every instance makes its own

    def __post_init__(self):
        object.__setattr__(self, "_cache", SearchCache(self.vectors))

    @staticmethod
    def open(path: str | Path) -> "Index":
        """Open a file that `csn_jax.embed` wrote, checked against its digest.

        Raises:
            UserError: when it is none, half-written or damaged, or holds features instead of embeddings.
        """
        path = Path(path).expanduser()
        items = read_embeddings(path)
        if not items.conditions:
            raise UserError(
                f"{path} holds the features that embed --features wrote, which no condition masks; train on them with "
                "--config.data.vectors=vector, or embed without --features."
            )
        items = items._replace(vectors=items.vectors.astype(np.float32, copy=False))
        return Index(items, tuple(name for name, _ in items.conditions), items.masks, str(path))

    def of_model(self, model_sha256: str, conditions: Sequence[str], masks: np.ndarray) -> "Index":
        """The same items under the masks of a model, which may have got new ones after the items were embedded.

        Raises:
            UserError: when the items were embedded by another model.
        """
        if model_sha256 != self.items.model_sha256:
            raise UserError(
                f"{self.name} was made by another model ({self.items.model_sha256[:12]}) than the workdir's "
                f"({model_sha256[:12]}); give the workdir that it was embedded with, or embed the items again."
            )
        return dataclasses.replace(self, conditions=tuple(conditions), masks=np.asarray(masks, np.float32))

    @property
    def ids(self) -> np.ndarray:
        return self.items.ids

    @property
    def vectors(self) -> np.ndarray:
        return self.items.vectors

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return self.items.columns

    def row(self, item: str) -> int:
        """The row of an item by its id.

        Raises:
            UserError: for an unknown id, with near ones.
        """
        found = np.flatnonzero(self.ids == item)
        if len(found):
            return int(found[0])
        ids = self.ids.tolist()
        holding = [one for one in ids if item and item.lower() in one.lower()][:3]
        near = f" (did you mean {' or '.join(holding)}?)" if holding else did_you_mean(item, ids[:20_000])
        raise UserError(f"no item of {self.name} has the id {item!r}{near}; its ids are like {ids[0]}.")

    def search(
        self,
        queries: np.ndarray,
        weights: Mapping[str, float],
        k: int,
        *,
        filters: Mapping[str, str | Sequence[str]] | None = None,
        exclude: Sequence[int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of each query: (ids [Q, k] str, distances [Q, k] float32), nearest first.

        With w = sum over conditions of weight * mask^2, the squared distance of q and x is sum over dimensions of
        w * (q - x)^2, and the distance its square root; where negative weights make the square s negative, it is
        -sqrt(-s). The 1e-6 of the training loss's distance is not added. Exact: the order is that of float64, and
        items at equal distance come in the order of the file.

        Args:
            queries: [Q, D] embeddings, unmasked.
            weights: {condition: weight}, not all zero; negative ones ask for the unlike.
            k: at least 1. Where fewer items are left, ids end in "" and distances in infinity.
            filters: {column: value, or several of which an item has one}; an item must pass all.
            exclude: for each query the row of an item that is no hit of it, or -1: a query that is an item itself.

        Raises:
            UserError: for unknown conditions, columns or values, weights that are all zero or no numbers, or k < 1.
        """
        rows, squares = self.nearest(queries, weights, k, filters=filters, exclude=exclude)
        ids = np.full(rows.shape, "", object)
        ids[rows >= 0] = self.ids[rows[rows >= 0]]
        return ids.astype(str), (np.sign(squares) * np.sqrt(np.abs(squares))).astype(np.float32)

    def nearest(
        self,
        queries: np.ndarray,
        weights: Mapping[str, float],
        k: int,
        *,
        filters: Mapping[str, str | Sequence[str]] | None = None,
        exclude: Sequence[int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, by position: (rows [Q, k] int64, -1 where there is none, squared distances [Q, k] float64)."""
        if k < 1:
            raise UserError(f"k is {k}; give a whole number of at least 1.")
        w, queries = self.weight(weights), np.asarray(queries, np.float64)  # [D], [Q, D]
        if queries.ndim != 2 or queries.shape[1] != len(w) or not np.isfinite(queries).all():
            raise UserError(f"queries are {[*queries.shape]}; give finite embeddings [Q, {len(w)}].")
        allowed = self.passing(filters) if filters else None
        excluded = np.full(len(queries), -1) if exclude is None else np.asarray(exclude, int)
        rows = np.full((len(queries), k), -1)
        squares = np.full((len(queries), k), np.inf)
        n, size = min(k, len(self.ids)), max(1, PAIRS // max(1, len(self.ids)))
        candidates_of = self._on_accelerator if _accelerator() else self._on_host
        for start in range(0, len(queries) if n else 0, size):
            some = slice(start, start + size)
            with np.errstate(over="ignore", invalid="ignore"):  # what does not fit float32 is found and done otherwise
                found = candidates_of(queries[some], w, n, allowed, excluded[some])
            for place, candidates in enumerate(found, start):
                exact = self._squared(queries[place], w, candidates)
                order = np.lexsort((candidates, exact))[:k]
                rows[place, : len(order)], squares[place, : len(order)] = candidates[order], exact[order]
        return rows, squares

    def weight(self, weights: Mapping[str, float]) -> np.ndarray:
        """The weight of each dimension under {condition: weight}: float64 [D].

        Raises:
            UserError: for unknown conditions, and weights that are all zero or not finite.
        """
        for name, weight in weights.items():
            if name not in self.conditions:
                near = did_you_mean(name, self.conditions)
                raise UserError(f"unknown condition {name!r}{near}; the index has {', '.join(self.conditions)}.")
            if not math.isfinite(weight):
                raise UserError(f"condition {name} has weight {weight}; give a finite number.")
        if not any(weights.values()):
            told = f"all weights are zero ({', '.join(weights)})" if weights else "no condition is given"
            raise UserError(f"{told}; give at least one of {', '.join(self.conditions)} a weight.")
        with np.errstate(over="ignore", invalid="ignore"):  # which the next line tells
            w = sum(
                weight * np.square(self.masks[self.conditions.index(name)], dtype=np.float64)
                for name, weight in weights.items()
            )
        if not np.isfinite(w).all():
            raise UserError(f"the weights of {', '.join(weights)} are too large to add up; give smaller ones.")
        if not np.any(w):
            named = self.masks[[self.conditions.index(name) for name, weight in weights.items() if weight]]
            why = "cancel each other out" if np.any(named) else "are zero in every dimension"
            raise UserError(f"the weighted masks of {', '.join(weights)} {why}; search under others.")
        return w

    def passing(self, filters: Mapping[str, str | Sequence[str]]) -> np.ndarray:
        """Which items pass all filters {column: value or values}: bool [N]. Of a set, one member must be among them.

        Raises:
            UserError: for a column that is not there, and a value that no item has.
        """
        passing = np.ones(len(self.ids), bool)
        for name, wanted in filters.items():
            if name not in self.columns:
                near = did_you_mean(name, self.columns)
                has = ", ".join(self.columns) or "none"
                raise UserError(f"{self.name} has no column {name!r}{near} to filter by; its columns are {has}.")
            column, wanted = self.columns[name].tolist(), [wanted] if isinstance(wanted, str) else list(wanted)
            members = {value: {value, *value.split(";")} for value in set(column)}
            for value in wanted:
                if not any(value in those for those in members.values()):
                    choices = sorted({member for value in members for member in value.split(";")} - {""})
                    some = ", ".join(choices[:10]) + (", ..." if len(choices) > 10 else "")
                    near = did_you_mean(value, choices)
                    raise UserError(f"no item has {value!r}{near} in column {name!r}; it has {some}.")
            good = {value for value, those in members.items() if not those.isdisjoint(wanted)}
            passing &= np.fromiter((value in good for value in column), bool, len(column))
        return passing

    def _on_host(
        self, queries: np.ndarray, w: np.ndarray, k: int, allowed: np.ndarray | None, excluded: np.ndarray
    ) -> list[np.ndarray]:
        """For each query the rows of candidates [M >= k, or all allowed], of which the k nearest are some."""
        n, n_blocks = len(self.ids), -(-len(self.ids) // BLOCK)
        squares, largest = self._cache.squares(w)
        lines = (-2 * w * queries).astype(np.float32)  # [Q, D]
        scores = np.full((len(queries), n_blocks * BLOCK), np.inf, np.float32)
        scores[:, :n] = self.vectors @ lines[0] if len(lines) == 1 else lines @ self.vectors.T
        scores[:, :n] += squares
        if allowed is not None:
            scores[:, :n][:, ~allowed] = np.inf
        found = []
        for score, row, slack in zip(scores, excluded, self._slack(queries, w, largest), strict=True):
            if row >= 0:
                score[row] = np.inf
            if not math.isfinite(slack):  # squares beyond float32: all are candidates
                kept = np.ones(n, bool) if allowed is None else allowed.copy()
                kept[row if row >= 0 else slice(0, 0)] = False
                found.append(np.flatnonzero(kept))
                continue
            # The k lowest lie in the k blocks of the lowest minima, which are cheap to find.
            blocks = score.reshape(n_blocks, BLOCK)
            lows = blocks.min(axis=1)
            first = np.argpartition(lows, min(k, n_blocks) - 1)[: min(k, n_blocks)]
            limit = np.partition(blocks[first], k - 1, axis=None)[k - 1] + np.float32(2 * slack)
            near = np.flatnonzero(lows <= limit)
            block, place = np.nonzero((blocks[near] <= limit) & (blocks[near] < np.inf))
            found.append(near[block] * BLOCK + place)
        return found

    def _on_accelerator(
        self, queries: np.ndarray, w: np.ndarray, k: int, allowed: np.ndarray | None, excluded: np.ndarray
    ) -> list[np.ndarray]:
        """As `_on_host`, which takes over for a query with more items nearly at the k-th one's distance than asked."""
        from csn_jax.store.scores import lowest

        squares, largest = self._cache.squares(w)
        n = min(len(self.ids), 2 * k + EXTRA)
        lines, rows = (-2 * w * queries).astype(np.float32), excluded.astype(np.int32)
        allowed_too = np.ones(len(self.ids), bool) if allowed is None else allowed
        scores, found = map(np.asarray, lowest(self._cache.on_device(), squares, lines, allowed_too, rows, n))
        candidates = []
        for i, slack in enumerate(self._slack(queries, w, largest)):
            enough = n == len(self.ids) or scores[i, -1] > scores[i, k - 1] + 2 * slack
            if math.isfinite(slack) and (enough or scores[i, -1] == np.inf):
                candidates.append(found[i][scores[i] < np.inf].astype(int))
            else:
                candidates += self._on_host(queries[i : i + 1], w, k, allowed, excluded[i : i + 1])
        return candidates

    def _slack(self, queries: np.ndarray, w: np.ndarray, largest: float) -> np.ndarray:
        """A bound [Q] on how far rounding moves a float32 score, by the usual analysis of sums of D products; infinity
        where float32 is too small for them."""
        of_query = np.sum(np.abs(w) * np.square(queries), axis=1)
        terms = largest + 2 * np.sqrt(of_query * largest)
        fits = np.maximum(terms, np.abs(w * queries).max(axis=1)) < 1e38
        return np.where(fits, (len(w) + 8) * 2.0**-24 * terms, np.inf)

    def _squared(self, query: np.ndarray, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Squared distances float64 [M] of a query [D] and some items, exact to float64's rounding."""
        squared = np.empty(len(rows))
        for start in range(0, len(rows), PIECE // 8):
            some = slice(start, start + PIECE // 8)
            squared[some] = np.sum(w * np.square(query - self.vectors[rows[some]]), axis=1)
        return squared


def _accelerator() -> bool:
    """Whether JAX is loaded and has one. Loading it takes longer than a query takes without."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.default_backend() != "cpu"
