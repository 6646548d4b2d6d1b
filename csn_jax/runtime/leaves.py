"""The arrays of a state by name, with their types, shapes and SHA-256."""

import hashlib
import json
from typing import Any

import jax
import numpy as np


def leaves_of(tree: Any) -> dict[str, Any]:
    """Leaves by their path in a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe(tree: Any) -> dict[str, list]:
    """{leaf: [dtype, shape, SHA-256]} of a tree of NumPy arrays."""
    return {
        name: [*_kind(leaf), hashlib.sha256(np.ascontiguousarray(leaf)).hexdigest()]
        for name, leaf in leaves_of(tree).items()
    }


def first_difference(described: dict[str, list], tree: Any) -> tuple[str, str, str] | None:
    """The first leaf whose dtype or shape differs between what `describe` gave and a tree: (leaf, described, in the
    tree); None if all agree."""
    expected = {name: _kind(leaf) for name, leaf in leaves_of(tree).items()}
    for name in [*expected, *sorted(described.keys() - expected.keys())]:
        kinds = described[name][:2] if name in described else None, expected.get(name)
        if kinds[0] != kinds[1]:
            return name, *("missing" if kind is None else f"{kind[0]}{kind[1]}" for kind in kinds)
    return None


def sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _kind(leaf: Any) -> list:
    return [np.dtype(leaf.dtype).name, list(leaf.shape)]
