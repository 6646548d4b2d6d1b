"""Masks: the weights of the embedding's dimensions per condition (paper, sections 3.1 and 4)."""

from typing import NamedTuple

import jax
import numpy as np


class Masks(NamedTuple):
    """The masks of one of the paper's variants."""

    beta: np.ndarray  # [C, D] float32, before the rectifier
    trained: bool


def initial_masks(variant: str, n_conditions: int, embedding_dim: int, seed: int) -> Masks:
    """Masks of a variant before training, of C conditions and D dimensions.

    `standard` and each network of `specialists` use all dimensions. `fixed` gives each condition its own block of
    floor(D / C) dimensions; no condition gets the rest. `learned` starts from a seeded normal draw with mean 0.9 and
    standard deviation 0.7; `learned_disjoint` starts from the blocks, with 0.1 outside.
    """
    shape = (n_conditions, embedding_dim)
    if variant in ("standard", "specialists"):
        return Masks(np.ones(shape, np.float32), trained=False)
    if variant == "fixed":
        return Masks(blocks(n_conditions, embedding_dim), trained=False)
    if variant == "learned":
        return Masks(np.random.default_rng(seed).normal(0.9, 0.7, shape).astype(np.float32), trained=True)
    if variant == "learned_disjoint":
        return Masks(np.maximum(blocks(n_conditions, embedding_dim), np.float32(0.1)), trained=True)
    raise ValueError(f"unknown variant {variant!r}")


def blocks(n_conditions: int, embedding_dim: int) -> np.ndarray:
    """[C, D] float32: ones in disjoint blocks of floor(D / C), zeros elsewhere."""
    owner = np.arange(embedding_dim) // (embedding_dim // n_conditions)  # [D]; C for left-over dimensions
    return (owner == np.arange(n_conditions)[:, None]).astype(np.float32)


class Use(NamedTuple):
    """How many dimensions are used by at least one condition, and how many of them by more than one."""

    used: int
    shared: int


def use_of(masks: np.ndarray) -> Use:
    """The Use of masks [C, D] as applied: the rectifier makes unused dimensions exactly 0."""
    conditions = (masks > 0).sum(axis=0)  # [D]; per dimension
    return Use(int((conditions > 0).sum()), int((conditions > 1).sum()))


def rectify(beta: jax.Array) -> jax.Array:
    """The mask as applied, max(0, beta), any shape. Not `jnp.maximum`: it passes half a gradient where beta is exactly
    0, and Adam turns the smallest gradient into a full step."""
    return jax.nn.relu(beta)
