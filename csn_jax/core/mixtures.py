"""Mixtures of conditions: a weight per dimension, and the distances under it. Without JAX."""

import math
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

from csn_jax.errors import UserError
from csn_jax.text import did_you_mean, listed

Mixture = str | Sequence[str] | Mapping[str, float]  # a condition, several of weight 1, or {condition: weight}


def as_weights(mixture: Mixture) -> dict[str, float]:
    """{condition: weight}; a UserError for another type."""
    weights = dict.fromkeys([mixture] if isinstance(mixture, str) else mixture, 1.0) if _is_names(mixture) else mixture
    if not isinstance(weights, Mapping):
        raise UserError(f"the condition is {mixture!r}; give a name, a list of names or {{name: weight}}.")
    for name, weight in weights.items():
        if not isinstance(weight, numbers.Real):
            raise UserError(f"condition {name} has weight {weight!r}; give a number.")
    return dict(weights)


def _is_names(mixture: Mixture) -> bool:
    return isinstance(mixture, str) or (
        isinstance(mixture, list | tuple) and all(isinstance(name, str) for name in mixture)
    )


def weight_of_dimensions(
    weights: Mapping[str, float], conditions: Sequence[str], masks: np.ndarray, owner: str = "the index"
) -> np.ndarray:
    """w = sum over conditions of weight * mask^2: float64 [D]. A UserError for conditions that the `owner` of the masks
    [C, D] does not have, and for weights that are all zero or not finite."""
    for name, weight in weights.items():
        if name not in conditions:
            near = did_you_mean(str(name), conditions)
            raise UserError(f"unknown condition {name!r}{near}; {owner} has {listed(conditions)}.")
        if not math.isfinite(weight):
            raise UserError(f"condition {name} has weight {weight}; give a finite number.")
    if not any(weights.values()):
        problem = f"all weights are zero ({listed(weights)})" if weights else "no condition is given"
        raise UserError(f"{problem}; give a weight to at least one of {listed(conditions)}.")
    with np.errstate(over="ignore", invalid="ignore"):  # the next check reports it
        w = sum(
            float(weight) * np.square(masks[conditions.index(name)], dtype=np.float64)
            for name, weight in weights.items()
        )
        fits = np.isfinite(np.float32(w)).all()  # as distances are float32
    if not fits:
        raise UserError(f"the weights of {listed(weights)} are too large to add up; give smaller ones.")
    if not np.any(w):
        weighted = masks[[conditions.index(name) for name, weight in weights.items() if weight]]
        problem = "cancel each other out" if np.any(weighted) else "are zero in every dimension"
        raise UserError(f"the weighted masks of {listed(weights)} {problem}; search under other conditions.")
    return w


def signed_roots(squares: np.ndarray) -> np.ndarray:
    """The distances of squared distances: float32. The distance of a negative square is negative."""
    return (np.sign(squares) * np.sqrt(np.abs(squares))).astype(np.float32)
