"""Losses over all triplets inside one labelled batch: `batch_all` and `batch_hard`, exact, in memory C * B^2.

A batch of B items holds up to C * B^3 triplets. None is ever formed: both losses are functions of the C matrices of
distances [B, B]. Shapes: B batch, D embedding, C conditions. Every function keeps the dtype it is given.

A condition has the triplets (anchor, positive, negative) that data.triplets can draw. Categories: the first two have
equal values, the third another one. Sets: the first two share a member, and the third shares none with the anchor.
Numbers: the negative's gap to the anchor exceeds the positive's by a clear difference. All three have a label.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.core.label_codes import least_difference, n_words
from csn_jax.core.losses import EPSILON, norm


class InBatchLoss(NamedTuple):
    """The loss, its three terms before their weights, and the share of hinges above zero; all scalars."""

    total: jax.Array
    triplet: jax.Array
    embedding: jax.Array
    mask: jax.Array
    active: jax.Array


def in_batch_loss(
    embeddings: jax.Array,
    masks: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    *,
    name: str,
    margin: float,
    embedding_weight: float,
    mask_weight: float,
    kinds: Sequence[str] = (),
) -> InBatchLoss:
    """L = L_T + embedding_weight * L_W + mask_weight * L_M over one batch of labelled items.

    Args:
        embeddings: [B, D], unmasked and not normalised.
        masks: [C, D], rectified.
        labels: [B, W] int32, as core.label_codes has them: [B, C] if all conditions are categorical; -1 is unknown.
        valid: [B] bool; False marks padding, which no sum and no denominator counts.
        name: what L_T is, `batch_all` or `batch_hard`.
        margin, embedding_weight, mask_weight: h, lambda 1, lambda 2.
        kinds: of the C conditions, as in data.json; all are categorical by default.

    L_W and L_M mean what they mean for triplets (core.losses). L_W is the Frobenius norm of the embeddings over
    sqrt(B). L_M is the mean, over all pairs of an item and a condition with a known label, of the L1 norm of the
    condition's mask.
    """
    rows = valid.astype(embeddings.dtype)  # [B]
    known = (valid[:, None] & (labels[:, : len(masks)] >= 0)).astype(embeddings.dtype)  # [B, C]
    of_name = {"batch_all": batch_all, "batch_hard": batch_hard}[name]
    triplet, active = of_name(embeddings, masks, labels, valid, margin, kinds)
    embedding = norm(embeddings * rows[:, None], axis=(0, 1)) / jnp.sqrt(jnp.sum(rows))
    mask_l1 = jnp.sum(known * jnp.sum(jnp.abs(masks), axis=1)[None]) / _at_least_one(jnp.sum(known))
    total = triplet + embedding_weight * embedding + mask_weight * mask_l1
    return InBatchLoss(total, triplet, embedding, mask_l1, active)


def batch_all(
    embeddings: jax.Array,
    masks: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    margin: float,
    kinds: Sequence[str] = (),
) -> tuple[jax.Array, jax.Array]:
    """Mean hinge over the active triplets of all conditions, and the active share of all triplets; shapes as above.

    A triplet (a, p, n) of a condition is active when d(a, p) + margin > d(a, n). Let G[a, j] be the number of active
    triplets in which j is a's positive, minus those in which j is a's negative. Then the sum of their hinges is
    sum(G * d) + margin * (active triplets), and its gradient with respect to d is G. So only counts are needed.
    """

    def of_categories(x: jax.Array, code: jax.Array) -> tuple[jax.Array, ...]:
        # Columns sorted by label, so that an anchor's positives are adjacent.
        order = jnp.argsort(code)  # [B]
        d, (positive, negative) = pairwise_distance(x, x[order]), _pairs(code, code[order], order)  # [B, B] each
        active, g = _count_active(jax.lax.stop_gradient(d), positive, negative, code, code[order], margin)
        hinges = jnp.sum(g * d, axis=1) + margin * active  # [B]; per row, as the total count overflows an int32
        n_positive, n_negative = (jnp.sum(pairs.astype(d.dtype), axis=1) for pairs in (positive, negative))  # [B]
        return jnp.sum(hinges), jnp.sum(active), jnp.sum(n_positive * n_negative)

    def of_gaps(x: jax.Array, gap: jax.Array, step: jax.Array | int) -> tuple[jax.Array, ...]:
        d = pairwise_distance(x, x)  # [B, B]
        active, possible, g = _count_by_gap(jax.lax.stop_gradient(d), gap, _negatives_gap(gap, step), margin)
        return jnp.sum(jnp.sum(g * d, axis=1) + margin * active), jnp.sum(active), jnp.sum(possible)

    def of_sets(x: jax.Array, code: jax.Array, words: jax.Array) -> tuple[jax.Array, ...]:
        return of_gaps(x, jnp.where(_known(code), 1 - _shared(words), -1), 1)

    def of_numbers(x: jax.Array, code: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
        return of_gaps(x, _gaps(code), step)

    rules = (of_categories, of_sets, of_numbers)
    hinges, active, possible = _over_conditions(rules, embeddings, masks, labels, valid, kinds)
    return hinges / _at_least_one(active), active / _at_least_one(possible)


def batch_hard(
    embeddings: jax.Array,
    masks: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    margin: float,
    kinds: Sequence[str] = (),
) -> tuple[jax.Array, jax.Array]:
    """Mean hinge of each anchor's hardest triplet, over conditions and the anchors that have one; and the share of
    these hinges above zero. Shapes as above.

    The hardest triplet has the largest d(anchor, positive) - d(anchor, negative): with categories and sets, the
    farthest positive and the nearest negative.
    """

    def of_pairs(x: jax.Array, positive: jax.Array, negative: jax.Array) -> tuple[jax.Array, ...]:
        d = pairwise_distance(x, x)  # [B, B]
        both = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)  # [B]
        farthest = jnp.max(jnp.where(positive, d, -jnp.inf), axis=1)
        nearest = jnp.min(jnp.where(negative, d, jnp.inf), axis=1)
        return of_hinges(jnp.where(both, farthest, 0), jnp.where(both, nearest, 0), both)

    def of_hinges(positive: jax.Array, negative: jax.Array, exists: jax.Array) -> tuple[jax.Array, ...]:
        hinges = jax.nn.relu(positive - negative + margin) * exists.astype(positive.dtype)  # [B]
        return tuple(jnp.sum(part.astype(hinges.dtype)) for part in (hinges, hinges > 0, exists))

    def of_categories(x: jax.Array, code: jax.Array) -> tuple[jax.Array, ...]:
        return of_pairs(x, *_pairs(code, code, jnp.arange(len(code))))

    def of_sets(x: jax.Array, code: jax.Array, words: jax.Array) -> tuple[jax.Array, ...]:
        known, shared, itself = _known(code), _shared(words) > 0, jnp.eye(len(code), dtype=bool)
        return of_pairs(x, known & shared & ~itself, known & ~shared)

    def of_numbers(x: jax.Array, code: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
        d, gap = pairwise_distance(x, x), _gaps(code)  # [B, B] each
        positive, negative, exists = _hardest_by_gap(jax.lax.stop_gradient(d), gap, _negatives_gap(gap, step))
        rows = jnp.arange(len(d))
        return of_hinges(d[rows, positive], d[rows, negative], exists)

    rules = (of_categories, of_sets, of_numbers)
    hinges, active, anchors = _over_conditions(rules, embeddings, masks, labels, valid, kinds)
    return hinges / _at_least_one(anchors), active / _at_least_one(anchors)


def pairwise_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """|| (x_i - y_j) + 1e-6 ||_2 of masked embeddings: [M, D], [N, D] -> [M, N]; finite gradients everywhere.

    Computed from squares, so [M, N, D] is not formed. Cancellation loses digits: in float32, a distance below about
    1e-4 of the embeddings' norm is noise. If its square comes out at or below zero, it is zero without a gradient.
    """
    square_x, square_y = jnp.sum(jnp.square(x), axis=1), jnp.sum(jnp.square(y), axis=1)  # [M], [N]
    squares = square_x[:, None] + square_y[None] - 2 * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    shift = jnp.sum(x, axis=1)[:, None] - jnp.sum(y, axis=1)[None]  # 1e-6 is added to signed differences
    squares += 2 * EPSILON * shift + x.shape[1] * EPSILON**2
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def _over_conditions(
    rules: tuple[Callable[..., tuple], ...],
    embeddings: jax.Array,
    masks: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    kinds: Sequence[str],
) -> tuple[jax.Array, ...]:
    """Sums over the conditions of what the rule of their kind returns. Taking one condition at a time bounds memory and
    compilation. Padding gets the code of an unknown label.

    rules: of categories, (masked embeddings [B, D], codes [B]); of sets, with the words [B, n_words(B)] of shared
    members; of numbers, with the least difference of gaps [].
    """
    rows = valid[:, None].astype(embeddings.dtype)
    # Distances do not depend on the origin. With it in the centre, squares cancel least.
    centre = jnp.sum(embeddings * rows, axis=0) / _at_least_one(jnp.sum(rows))  # [D]
    x = (embeddings - jax.lax.stop_gradient(centre)[None]) * rows
    n, kinds = len(masks), tuple(kinds) or ("categorical",) * len(masks)
    codes = jnp.where(valid[:, None], labels[:, :n], -1).T  # [C, B]
    of_kind = {"categorical": [], "set": [], "number": []}  # type: dict[str, list[int]]
    for row, kind in enumerate(kinds):
        of_kind.get(kind, of_kind["number"]).append(row)
    words = jnp.moveaxis(labels[:, n:].reshape(len(labels), len(of_kind["set"]), n_words(len(labels))), 1, 0)
    steps = np.array([least_difference(kinds[row]) for row in of_kind["number"]], np.int32)
    sums = []
    for rule, chosen, more in zip(rules, of_kind.values(), ((), (words,), (steps,)), strict=True):
        if chosen:
            picked = (masks, codes) if len(chosen) == n else (masks[np.array(chosen)], codes[np.array(chosen)])
            each = jax.lax.map(lambda part, rule=rule: rule(x * part[0][None], *part[1:]), (*picked, *more))
            sums.append([jnp.sum(value) for value in each])
    return tuple(sum(values[1:], start=values[0]) for values in zip(*sums, strict=True))


def _pairs(code: jax.Array, other: jax.Array, item: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which pairs are positive and which are negative: [B, B] bool each. Rows are the items of `code` [B]; column j is
    item[j] with code other[j]. An item with itself and an unknown label are neither."""
    known = (code >= 0)[:, None] & (other >= 0)[None]
    alike = code[:, None] == other[None]
    itself = jnp.arange(len(code))[:, None] == item[None]
    return known & alike & ~itself, known & ~alike


def _count_active(
    d: jax.Array, positive: jax.Array, negative: jax.Array, code: jax.Array, column_code: jax.Array, margin: float
) -> tuple[jax.Array, jax.Array]:
    """Active triplets of each anchor [B], and G [B, B]; the columns of all matrices are sorted by label.

    Step k compares the k-th positive of every anchor with all its negatives, up to the size of the most frequent
    label: B^2 comparisons per step, and no array larger than [B, B].
    """
    first = jnp.searchsorted(column_code, code)  # [B]; the first column of an anchor's own label
    longest = jnp.max(jnp.sum(positive, axis=1)) + 1  # the anchor itself lies among them
    bar = jnp.where(negative, d, jnp.inf)
    reach = jnp.where(positive, d + margin, -jnp.inf)
    rows = jnp.arange(len(d))

    def count(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        active, g = carry
        column = first + k  # may be past the label, where no pair is positive, or past the last column
        positive_reach = reach.at[rows, column].get(mode="fill", fill_value=-jnp.inf)  # [B]
        hits = (positive_reach[:, None] > bar).astype(d.dtype)  # [B, B]
        of_positive = jnp.sum(hits, axis=1)
        return active + of_positive, (g - hits).at[rows, column].add(of_positive, mode="drop")

    return jax.lax.fori_loop(0, longest, count, (jnp.zeros_like(d[0]), jnp.zeros_like(d)))


def _known(code: jax.Array) -> jax.Array:
    """Which pairs have both labels: [B, B] bool."""
    return (code >= 0)[:, None] & (code >= 0)[None]


def _shared(words: jax.Array) -> jax.Array:
    """1 where two items share a member, else 0: [B, n_words(B)] -> [B, B] int32."""
    return ((words[:, :, None] >> jnp.arange(32, dtype=jnp.int32)[None, None]) & 1).reshape(len(words), -1)[
        :, : len(words)
    ]


def _gaps(code: jax.Array) -> jax.Array:
    """Gaps of numbers [B], -1 where a label is missing: [B, B] int32."""
    return jnp.where(_known(code), jnp.abs(code[:, None] - code[None]), -1)


def _negatives_gap(gap: jax.Array, step: jax.Array | int) -> jax.Array:
    """The least gap of a negative to its anchor if j is the positive, more than any if j cannot be: [B, B] int32."""
    positive = (gap >= 0) & ~jnp.eye(len(gap), dtype=bool)
    return jnp.where(positive, gap + step, jnp.iinfo(jnp.int32).max)


def _count_by_gap(
    d: jax.Array, gap: jax.Array, least: jax.Array, margin: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Active and possible triplets of each anchor, [B] each, and G [B, B]. `least` is of _negatives_gap.

    Step j takes item j as every anchor's positive: B^2 comparisons per step, and no array larger than [B, B].
    """

    def count(j: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        active, possible, g = carry
        negative = gap >= least[:, j, None]  # [B, B]
        hits = (negative & (d[:, j, None] + margin > d)).astype(d.dtype)
        of_positive = jnp.sum(hits, axis=1)
        possible += jnp.sum(negative.astype(d.dtype), axis=1)
        return active + of_positive, possible, (g - hits).at[:, j].add(of_positive)

    return jax.lax.fori_loop(0, len(d), count, (jnp.zeros_like(d[0]), jnp.zeros_like(d[0]), jnp.zeros_like(d)))


def _hardest_by_gap(d: jax.Array, gap: jax.Array, least: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The positive and the negative of each anchor's hardest triplet, and whether it has one: [B] each."""
    # With columns by gap, the negatives of a positive are all from one column on.
    order = jnp.argsort(gap, axis=1)
    by_gap, d_by_gap = (jnp.take_along_axis(part, order, axis=1) for part in (gap, d))
    nearest = jax.lax.cummin(d_by_gap, axis=1, reverse=True)
    first = jax.vmap(jnp.searchsorted)(by_gap, least)  # [B, B]; B if there is no negative
    nearest = jnp.take_along_axis(nearest, first, axis=1, mode="fill", fill_value=jnp.inf)
    positive = jnp.argmax(d - nearest, axis=1)
    rows = jnp.arange(len(d))
    negative = jnp.argmin(jnp.where(gap >= least[rows, positive][:, None], d, jnp.inf), axis=1)
    return positive, negative, first[rows, positive] < len(d)


def _at_least_one(count: jax.Array) -> jax.Array:
    return jnp.maximum(count, 1)
