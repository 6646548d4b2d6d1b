"""Which items can be among the k nearest: by float32 scores, with a bound on their rounding error."""

import math
import sys

import numpy as np

from csn_jax.store.search_cache import SearchCache
from csn_jax.store.views import Part

BLOCK = 1024  # items per block; a query first looks at the lowest score of each
EXTRA = 64  # candidates from an accelerator beyond twice those that are needed


def on_host(parts: list[Part], n: int, k: int, allowed: np.ndarray | None, excluded: np.ndarray) -> list[np.ndarray]:
    """Per query the rows of candidates [M >= k, or all allowed] among n items; the k nearest are among them."""
    n_blocks = -(-n // BLOCK)
    scores, slacks = np.full((len(excluded), n_blocks * BLOCK), np.inf, np.float32), 0.0
    for place, part in enumerate(parts):
        squares, largest = part.cache.squares(part.w)
        products = part.cache.products((-2 * part.w * part.queries).astype(np.float32))
        scores[:, :n] = products if place == 0 else scores[:, :n] + products
        scores[:, :n] += squares
        slacks = slacks + part.slack(largest)
    if len(parts) > 1:  # adding parts rounds once more
        slacks = slacks * 2
    if allowed is not None:
        scores[:, :n][:, ~allowed] = np.inf
    candidates = []
    for score, row, slack in zip(scores, excluded, slacks, strict=True):
        if not math.isfinite(slack):  # squares overflow float32: every item is a candidate
            rows = np.arange(n) if allowed is None else np.flatnonzero(allowed)
            candidates.append(rows[rows != row])
            continue
        if row >= 0:
            score[row] = np.inf
        # The k lowest scores lie in the k blocks with the lowest minima, and minima are cheap to find.
        blocks = score.reshape(n_blocks, BLOCK)
        lows = blocks.min(axis=1)
        first = np.argpartition(lows, min(k, n_blocks) - 1)[: min(k, n_blocks)]
        limit = np.partition(blocks[first], k - 1, axis=None)[k - 1] + np.float32(2 * slack)
        near = np.flatnonzero(lows <= limit)
        block, place = np.nonzero((blocks[near] <= limit) & (blocks[near] < np.inf))
        candidates.append(near[block] * BLOCK + place)
    return candidates


def on_accelerator(
    parts: list[Part], n: int, k: int, allowed: np.ndarray | None, excluded: np.ndarray
) -> list[np.ndarray]:
    """`on_host` on an accelerator, for one part that is kept whole. The host takes over where too many items are
    about as near as the k-th."""
    from csn_jax.store.scores import lowest

    if len(parts) > 1 or not isinstance(parts[0].cache, SearchCache):
        return on_host(parts, n, k, allowed, excluded)
    part = parts[0]
    squares, largest = part.cache.squares(part.w)
    most = min(n, 2 * k + EXTRA)
    lines, rows = (-2 * part.w * part.queries).astype(np.float32), excluded.astype(np.int32)
    mask = np.ones(n, bool) if allowed is None else allowed
    scores, nearest = map(np.asarray, lowest(part.cache.on_device(), squares, lines, mask, rows, most))
    candidates = []
    for i, slack in enumerate(part.slack(largest)):
        enough = most == n or scores[i, -1] > scores[i, k - 1] + 2 * slack
        if math.isfinite(slack) and (enough or scores[i, -1] == np.inf):
            candidates.append(nearest[i][scores[i] < np.inf].astype(int))
        else:
            one = [part._replace(queries=part.queries[i : i + 1])]
            candidates += on_host(one, n, k, allowed, excluded[i : i + 1])
    return candidates


def has_accelerator() -> bool:
    """Whether JAX is loaded and has an accelerator. Loading JAX takes longer than a query without it."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.default_backend() != "cpu"
