"""The scores of a search on an accelerator, and the lowest of them."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.jit, static_argnames="n")
def lowest(
    vectors: jax.Array, squares: jax.Array, lines: jax.Array, allowed: jax.Array, excluded: jax.Array, n: int
) -> tuple[jax.Array, jax.Array]:
    """The n items of the lowest score for each of Q queries: (scores [Q, n], rows [Q, n]), lowest first.

    Args:
        vectors: [N, D] float32.
        squares: [N], the weighted squares of the vectors: what a score is at a query of zero.
        lines: [Q, D], -2 * weights * query.
        allowed: [N] bool; the others score infinity.
        excluded: [Q] int32, a row that is none of the query's, or -1.
    """
    # In full float32: the bound on its rounding by which the caller takes enough of them holds for no less.
    scores = squares[None] + jnp.matmul(lines, vectors.T, precision="highest")  # [Q, N]
    kept = allowed[None] & (jnp.arange(len(vectors), dtype=jnp.int32)[None] != excluded[:, None])
    scores, rows = jax.lax.top_k(-jnp.where(kept, scores, jnp.inf), n)
    return -scores, rows
