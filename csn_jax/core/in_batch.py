"""Losses over all triplets inside one labelled batch: `batch_all` and `batch_hard`, exact, in memory C * B^2.

A batch of B items holds up to C * B^3 triplets. None is ever formed: both losses are functions of the C matrices of
distances [B, B]. Shapes: B batch, D embedding, C conditions. Every function keeps the dtype it is given.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

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
) -> InBatchLoss:
    """L = L_T + embedding_weight * L_W + mask_weight * L_M over one batch of labelled items.

    Args:
        embeddings: [B, D], unmasked and not normalised.
        masks: [C, D], rectified.
        labels: [B, C] integer codes; equal codes are alike in a condition; -1 is unknown.
        valid: [B] bool; False marks padding, which no sum and no denominator counts.
        name: what L_T is, `batch_all` or `batch_hard`.
        margin, embedding_weight, mask_weight: h, lambda 1, lambda 2.

    L_W and L_M mean what they mean for triplets (core.losses). L_W is the Frobenius norm of the embeddings over
    sqrt(B). L_M is the mean, over all pairs of an item and a condition with a known label, of the L1 norm of the
    condition's mask.
    """
    rows = valid.astype(embeddings.dtype)  # [B]
    known = (valid[:, None] & (labels >= 0)).astype(embeddings.dtype)  # [B, C]
    triplet, active = {"batch_all": batch_all, "batch_hard": batch_hard}[name](embeddings, masks, labels, valid, margin)
    embedding = norm(embeddings * rows[:, None], axis=(0, 1)) / jnp.sqrt(jnp.sum(rows))
    mask_l1 = jnp.sum(known * jnp.sum(jnp.abs(masks), axis=1)[None]) / _at_least_one(jnp.sum(known))
    total = triplet + embedding_weight * embedding + mask_weight * mask_l1
    return InBatchLoss(total, triplet, embedding, mask_l1, active)


def batch_all(
    embeddings: jax.Array, masks: jax.Array, labels: jax.Array, valid: jax.Array, margin: float
) -> tuple[jax.Array, jax.Array]:
    """Mean hinge over the active triplets of all conditions, and the active share of all triplets; shapes as above.

    A triplet (a, p, n) of a condition is active when d(a, p) + margin > d(a, n). Let G[a, j] be the number of active
    triplets in which j is a's positive, minus those in which j is a's negative. Then the sum of their hinges is
    sum(G * d) + margin * (active triplets), and its gradient with respect to d is G. So only counts are needed.
    """

    def of_condition(x: jax.Array, code: jax.Array) -> tuple[jax.Array, ...]:
        # Columns sorted by label, so that an anchor's positives are adjacent.
        order = jnp.argsort(code)  # [B]
        d, (positive, negative) = pairwise_distance(x, x[order]), _pairs(code, code[order], order)  # [B, B] each
        active, g = _count_active(jax.lax.stop_gradient(d), positive, negative, code, code[order], margin)
        hinges = jnp.sum(g * d, axis=1) + margin * active  # [B]; per row, as the total count overflows an int32
        n_positive, n_negative = (jnp.sum(pairs.astype(d.dtype), axis=1) for pairs in (positive, negative))  # [B]
        return jnp.sum(hinges), jnp.sum(active), jnp.sum(n_positive * n_negative)

    hinges, active, possible = _over_conditions(of_condition, embeddings, masks, labels, valid)
    return hinges / _at_least_one(active), active / _at_least_one(possible)


def batch_hard(
    embeddings: jax.Array, masks: jax.Array, labels: jax.Array, valid: jax.Array, margin: float
) -> tuple[jax.Array, jax.Array]:
    """Mean hinge of each anchor's farthest positive and nearest negative, over conditions and the anchors that have
    both; and the share of these hinges above zero. Shapes as above."""

    def of_condition(x: jax.Array, code: jax.Array) -> tuple[jax.Array, ...]:
        d, (positive, negative) = pairwise_distance(x, x), _pairs(code, code, jnp.arange(len(code)))  # [B, B] each
        both = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)  # [B]
        farthest = jnp.max(jnp.where(positive, d, -jnp.inf), axis=1)
        nearest = jnp.min(jnp.where(negative, d, jnp.inf), axis=1)
        hinges = jax.nn.relu(jnp.where(both, farthest, 0) - jnp.where(both, nearest, 0) + margin) * both.astype(d.dtype)
        return jnp.sum(hinges), jnp.sum((hinges > 0).astype(d.dtype)), jnp.sum(both.astype(d.dtype))

    hinges, active, anchors = _over_conditions(of_condition, embeddings, masks, labels, valid)
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
    of_condition: Callable[..., tuple], embeddings: jax.Array, masks: jax.Array, labels: jax.Array, valid: jax.Array
) -> tuple[jax.Array, ...]:
    """Sums over the conditions of what of_condition(masked embeddings [B, D], codes [B]) returns. Taking one condition
    at a time bounds memory and compilation. Padding gets the code of an unknown label."""
    rows = valid[:, None].astype(embeddings.dtype)
    # Distances do not depend on the origin. With it in the centre, squares cancel least.
    centre = jnp.sum(embeddings * rows, axis=0) / _at_least_one(jnp.sum(rows))  # [D]
    x = (embeddings - jax.lax.stop_gradient(centre)[None]) * rows
    codes = jnp.where(valid[:, None], labels, -1)
    sums = jax.lax.map(lambda condition: of_condition(x * condition[0][None], condition[1]), (masks, codes.T))
    return tuple(jnp.sum(value) for value in sums)


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


def _at_least_one(count: jax.Array) -> jax.Array:
    return jnp.maximum(count, 1)
