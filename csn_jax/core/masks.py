"""Masks: what makes one embedding answer many questions (paper, sections 3.1 and 4)."""

from typing import NamedTuple

import jax
import numpy as np


class Masks(NamedTuple):
    """A variant of the paper is nothing but this pair."""

    beta: np.ndarray  # [C, D] float32, before the rectifier
    trained: bool


def initial_masks(variant: str, n_conditions: int, embedding_dim: int, seed: int) -> Masks:
    """Masks of a variant before training.

    Args:
        variant: `standard` and each network of `specialists` see every dimension; `fixed` gives each condition its own
            block of floor(D / C) dimensions and the left-over dimensions to none; `learned` starts from a normal draw
            with mean 0.9 and standard deviation 0.7; `learned_disjoint` from the blocks, with 0.1 outside.
        n_conditions: C.
        embedding_dim: D.
        seed: seeds the normal draw.
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
    """How many dimensions some condition weighs, and how many of them more than one does."""

    used: int
    shared: int


def use_of(masks: np.ndarray) -> Use:
    """Counted in masks [C, D] as applied, where 0 is exactly 0: the rectifier's."""
    conditions = (masks > 0).sum(axis=0)  # [D], that weigh a dimension
    return Use(int((conditions > 0).sum()), int((conditions > 1).sum()))


def rectify(beta: jax.Array) -> jax.Array:
    """The mask as applied, max(0, beta), any shape. `jax.nn.relu` and not `jnp.maximum`: the latter leaks half a
    gradient where beta is exactly 0, and Adam turns the smallest leak into a whole step."""
    return jax.nn.relu(beta)
