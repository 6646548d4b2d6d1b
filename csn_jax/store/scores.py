"""Scores of a search on an accelerator."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.jit, static_argnames="n")
def lowest(
    vectors: jax.Array, squares: jax.Array, lines: jax.Array, allowed: jax.Array, excluded: jax.Array, n: int
) -> tuple[jax.Array, jax.Array]:
    """The n items with the lowest scores per query: (scores [Q, n], rows [Q, n]), lowest first.

    Args:
        vectors: [N, D] float32.
        squares: [N], the weighted squares of the vectors, which are the scores for a query of zeros.
        lines: [Q, D], -2 * weights * query.
        allowed: [N] bool; other items score infinity.
        excluded: [Q] int32, a row that is not a hit of the query, or -1.
    """
    # Full float32: the caller's bound on the rounding error holds for no less.
    scores = squares[None] + jnp.matmul(lines, vectors.T, precision="highest")  # [Q, N]
    kept = allowed[None] & (jnp.arange(len(vectors), dtype=jnp.int32)[None] != excluded[:, None])
    scores, rows = jax.lax.top_k(-jnp.where(kept, scores, jnp.inf), n)
    return -scores, rows
