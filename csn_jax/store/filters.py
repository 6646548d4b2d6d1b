"""Filters {column: value or values} on the attributes of stored items."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from csn_jax.errors import UserError
from csn_jax.text import did_you_mean, listed

Filters = Mapping[str, str | Sequence[str]]


def passing(columns: Mapping[str, np.ndarray], filters: Filters, place: str) -> np.ndarray:
    """The items that pass every filter: bool [N]. An item passes one with its value, or with a member of its set; `;`
    separates the members. There is at least one filter. A UserError for an unknown column of `place`, and for a value
    that no item has."""
    passed = []
    for name, wanted in filters.items():
        check_column(name, columns, place)
        column, wanted = columns[name].tolist(), [wanted] if isinstance(wanted, str) else list(wanted)
        members = {value: {value, *value.split(";")} for value in set(column)}
        known = set().union(*members.values())
        for value in wanted:
            if value not in known:
                choices = {member for value in members for member in value.split(";")} - {""}
                raise no_item_has(value, name, choices)
        accepted = {value for value, parts in members.items() if not parts.isdisjoint(wanted)}
        passed.append(np.fromiter((value in accepted for value in column), bool, len(column)))
    return np.logical_and.reduce(passed)


def check_column(name: str, columns: Collection[str], place: str) -> None:
    """Raise UserError for a column that does not exist, with those that do."""
    if name not in columns:
        near, choices = did_you_mean(name, columns), listed(columns) or "none"
        raise UserError(f"{place} has no column {name!r}{near} to filter by; its columns are {choices}.")


def no_item_has(value: str, column: str, choices: Collection[str]) -> UserError:
    """The error for a filter's value that no item has, with values that items have."""
    near = did_you_mean(value, choices)
    return UserError(f"no item has {value!r}{near} in column {column!r}; its values are {listed(sorted(choices))}.")
