"""Dataclasses of settings: whether values match their declared types, and what differs between two of them."""

import dataclasses
import types
from typing import Any, Literal, get_args, get_origin, get_type_hints

from csn_jax.errors import UserError
from csn_jax.text import did_you_mean


def check_types(node: Any, name: str) -> None:
    """Check that each field has its declared type, inside nested dataclasses too. The UserError names the field by its
    path from `name`, the value, and the type or the choices."""
    hints = get_type_hints(type(node))
    for item in dataclasses.fields(node):
        value, hint, place = getattr(node, item.name), hints[item.name], f"{name}.{item.name}"
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, hint):
                raise UserError(f"{place} is a {type(value).__name__}; give a {hint.__name__}.")
            check_types(value, place)
        elif get_origin(hint) is Literal:
            choices = get_args(hint)
            if value not in choices:
                near = did_you_mean(str(value), choices)
                raise UserError(f"{place} is {value!r}{near}; choose one of {', '.join(choices)}.")
        elif get_origin(hint) is tuple:
            kind = get_args(hint)[0]
            if not isinstance(value, tuple) or not all(_is(member, kind) for member in value):
                raise UserError(f"{place} is {value!r}; give a tuple of {kind.__name__}.")
        elif not _is(value, hint):
            raise UserError(f"{place} is {value!r}; give a {hint.__name__}.")


def _is(value: Any, kind: type | types.UnionType) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def from_object(kind: type, raw: Any, where: str, name: str) -> Any:
    """A dataclass, with those inside it, from an object read from JSON. Missing fields take their defaults. UserError,
    naming `where` it was read, if a field is unknown or should be an object and is not."""
    if not isinstance(raw, dict):
        raise UserError(f"{where}: {name} is a {type(raw).__name__}; it should be an object of named fields.")
    hints = get_type_hints(kind)
    for key in raw:
        if key not in hints:
            place, near = f"{name}.{' '.join(key.split())}", did_you_mean(key, hints)
            raise UserError(f"{where}: {place} is not a field{near}; choose one of {', '.join(hints)}.")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    for key in values:
        if dataclasses.is_dataclass(hints[key]):
            values[key] = from_object(hints[key], raw[key], where, f"{name}.{key}")
    return kind(**values)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, whose keys are the paths with dots."""
    values = {}
    for name, value in tree.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def differences(old: Any, new: Any) -> list[str]:
    """The fields in which two configs differ, each as `config.field: old, now new`."""
    before, after = flat(dataclasses.asdict(old)), flat(dataclasses.asdict(new))
    return [f"config.{name}: {before[name]!r}, now {after[name]!r}" for name in before if before[name] != after[name]]


def flags(config: Any) -> list[str]:
    """The arguments that turn the default config into this one."""
    before, after = flat(dataclasses.asdict(type(config)())), flat(dataclasses.asdict(config))
    words = []
    for name, value in after.items():
        if value != before[name]:
            flag = f"--config.{name}"
            words += [flag, *map(str, value)] if isinstance(value, tuple) else [f"{flag}={value}"]
    return words
