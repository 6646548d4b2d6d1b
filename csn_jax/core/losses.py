"""Distance and loss of Conditional Similarity Networks (paper, section 3.2; constants as in the released code).

Shapes: B batch, D embedding. Every function keeps the dtype it is given.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

EPSILON = 1e-6  # added to the signed difference inside the norm, as torch's pairwise distance does


def norm(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Euclidean norm over `axis`. Its gradient at zero is zero; that of a plain square root is NaN."""
    squares = jnp.sum(jnp.square(x), axis=axis)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def distance(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    """|| (x * mask - y * mask) + 1e-6 ||_2 over the last axis: [..., D], [..., D], [..., D] -> [...].

    Multiply before subtracting: the order decides the last bits.
    """
    return norm((x * mask - y * mask) + EPSILON, axis=-1)


def triplet_hinge(d_positive: jax.Array, d_negative: jax.Array, margin: float) -> jax.Array:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) per triplet: [B], [B] -> [B]."""
    return jax.nn.relu(d_positive - d_negative + margin)


class Loss(NamedTuple):
    """The loss, its three terms before their weights, and the share of triplets that are right; all scalars."""

    total: jax.Array
    triplet: jax.Array
    embedding: jax.Array
    mask: jax.Array
    accuracy: jax.Array


def csn_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    mask: jax.Array,
    valid: jax.Array,
    *,
    margin: float,
    embedding_weight: float,
    mask_weight: float,
) -> Loss:
    """L = L_T + embedding_weight * L_W + mask_weight * L_M over one batch of conditional triplets.

    Args:
        anchor, positive, negative: [B, D] embeddings, unmasked and not normalised.
        mask: [B, D] the rectified mask of each triplet's condition.
        valid: [B] bool; False marks padding, which no sum and no denominator counts.
        margin, embedding_weight, mask_weight: h, lambda 1, lambda 2.

    L_T is the mean hinge over all triplets, active or not. L_W = E / sqrt(B), where E is the mean over the three roles
    of the Frobenius norm of a role's [B, D] embeddings. It is a norm of the whole batch, not a mean over examples, so
    it must see the global batch at once. L_M = ||mask||_1 / B.
    """
    rows = valid.astype(anchor.dtype)  # [B]
    n = jnp.sum(rows)
    d_positive, d_negative = distance(anchor, positive, mask), distance(anchor, negative, mask)  # [B], [B]
    triplet = jnp.sum(triplet_hinge(d_positive, d_negative, margin) * rows) / n
    frobenius = sum(norm(e * rows[:, None], axis=(0, 1)) for e in (anchor, positive, negative)) / 3
    embedding = frobenius / jnp.sqrt(n)
    mask_l1 = jnp.sum(jnp.abs(mask) * rows[:, None]) / n
    total = triplet + embedding_weight * embedding + mask_weight * mask_l1
    accuracy = jnp.sum((d_negative > d_positive).astype(rows.dtype) * rows) / n  # a tie is wrong
    return Loss(total, triplet, embedding, mask_l1, accuracy)


def maps_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    maps: jax.Array,
    condition: jax.Array,
    valid: jax.Array,
    *,
    margin: float,
    embedding_weight: float,
    pulls: tuple[float, ...],
) -> Loss:
    """`csn_loss` with a map per condition in place of a mask, summed over P sets of maps that train side by side.

    L = sum over p of (L_T under maps[p] + pulls[p] * |maps[p] - L_0|^2) + embedding_weight * L_W. L_0 takes the first r
    coordinates, where maps start. The terms in Loss are means over the sets; `mask` is the pull, already weighted.

    Args:
        anchor, positive, negative: [B, D] embeddings.
        maps: [P, C, r, D].
        condition: [B] of each triplet.
        valid, margin, embedding_weight: as in `csn_loss`.
        pulls: P weights.
    """
    rows = valid.astype(anchor.dtype)  # [B]
    n, (n_sets, n_conditions, rank, width) = jnp.sum(rows), maps.shape
    matrix = maps.reshape(-1, width).T  # [D, P C r]; all maps at once: gathering one per triplet moves more memory

    def to(other: jax.Array) -> jax.Array:
        """The distance of the anchor under the triplet's map of each set: [B, P]."""
        views = ((anchor - other) @ matrix).reshape(-1, n_sets, n_conditions, rank)
        return norm(jnp.take_along_axis(views, condition[:, None, None, None], axis=2)[:, :, 0] + EPSILON, axis=-1)

    d_positive, d_negative = to(positive), to(negative)
    triplet = jnp.sum(triplet_hinge(d_positive, d_negative, margin) * rows[:, None], axis=0) / n  # [P]
    start = jnp.eye(rank, width, dtype=maps.dtype)[None, None]
    pull = jnp.asarray(pulls, maps.dtype) * jnp.sum(jnp.square(maps - start), axis=(1, 2, 3))  # [P]
    embedding = sum(norm(e * rows[:, None], axis=(0, 1)) for e in (anchor, positive, negative)) / (3 * jnp.sqrt(n))
    total = jnp.sum(triplet + pull) + embedding_weight * embedding
    accuracy = jnp.sum((d_negative > d_positive).astype(rows.dtype) * rows[:, None]) / (n * n_sets)
    return Loss(total, jnp.mean(triplet), embedding, jnp.mean(pull), accuracy)
