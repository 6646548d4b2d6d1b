"""Filters on the attributes of stored items: one of several values, all but these, or a range."""

import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from csn_jax.config import UNKNOWN
from csn_jax.data.notations import plain_number, read_numbers, sets_of
from csn_jax.errors import UserError
from csn_jax.store.texts import among, distinct
from csn_jax.text import did_you_mean, listed

RANGES = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
SIGN = re.compile(r"<=|>=|!=|==|=|<|>")
DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ].*)?)?)?")


class Rule(NamedTuple):
    """What an item must have in a column. `sign`: `=` for one of the values, `!=` for none of them, or one of RANGES
    for a number or date on that side of the only value. One fitting member of an item's set is enough."""

    column: str
    sign: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        shown = " or ".join(self.values)
        return {"=": f"{self.column} {shown}", "!=": f"{self.column} not {shown}"}.get(
            self.sign, f"{self.column} {self.sign} {shown}"
        )


# {column: value, values or {sign: value}}, or texts such as `colour=red` and `price<50`.
Filters = Mapping[str, Any] | Sequence[str | Rule]


def rules_of(filters: Filters | None, columns: Collection[str]) -> list[Rule]:
    """Filters as rules; a UserError for another type."""
    if not filters:
        return []
    if isinstance(filters, Mapping):
        return [rule for name, wanted in filters.items() for rule in _rules_of_column(name, wanted)]
    if isinstance(filters, list | tuple) and all(isinstance(part, Rule) for part in filters):
        return list(filters)
    if isinstance(filters, list | tuple) and all(isinstance(part, str) for part in filters):
        return parse_rules(filters, columns, "the filter ")
    raise UserError(f"filters are {filters!r}; give {{column: value}}, or texts as in ['price<50'].")


def _rules_of_column(name: str, wanted: Any) -> list[Rule]:
    if isinstance(wanted, Mapping):
        unknown = [sign for sign in wanted if sign not in (*RANGES, "=", "!=")]
        if unknown:
            raise UserError(f"the filter of {name!r} has {unknown[0]!r}; give one of {', '.join(RANGES)}, = and !=.")
        return [Rule(name, sign, _texts(values)) for sign, values in wanted.items()]
    return [Rule(name, "=", _texts(wanted))]


def _texts(values: Any) -> tuple[str, ...]:
    """One value or several as texts, spelt as attributes are."""
    several = values if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    return tuple(
        "" if value is None else str(value).lower() if isinstance(value, bool | np.bool_) else str(value)
        for value in several
    )


def parse_rules(words: Sequence[str], columns: Collection[str], place: str = "--filter=") -> list[Rule]:
    """Rules from COLUMN=VALUE, COLUMN!=VALUE, COLUMN<VALUE and so on; several values of one column are alternatives.
    A UserError for a word without a sign. What searches checks that columns and values exist."""
    values: dict[tuple[str, str], list[str]] = {}
    ranges = []
    for word in words:
        cuts = [match for match in SIGN.finditer(word) if match.start()]
        if not cuts:
            raise UserError(f"{place}{word} has no value; give COLUMN=VALUE, or a range as in 'price<50'.")
        known = [match for match in cuts if word[: match.start()].strip() in columns]
        cut = known[-1] if known else cuts[0]  # a name may contain a sign
        name, sign, value = word[: cut.start()].strip(), cut[0].replace("==", "="), word[cut.end() :].strip()
        if sign in RANGES:
            ranges.append(Rule(name, sign, (value,)))
        else:
            values.setdefault((name, sign), []).append(value)
    return [Rule(*key, tuple(alternatives)) for key, alternatives in values.items()] + ranges


def passing(columns: Mapping[str, np.ndarray], filters: Filters, place: str) -> np.ndarray:
    """The items that pass every filter: bool [N]. There is at least one filter. A UserError for an unknown column of
    `place`, for a value that no item has, and for a range over a column without numbers and dates."""
    passed = []
    for rule in rules_of(filters, columns):
        check_column(rule.column, columns, place)
        column = columns[rule.column]
        passed.append(among(column, accepted_values(rule, distinct(column))))
    return np.logical_and.reduce(passed)


def accepted_values(rule: Rule, values: Iterable[str]) -> set[str]:
    """Those of a column's values that pass a rule; errors as for `passing`."""
    members = members_of(values)
    fitting = fitting_members(rule, set().union(*members.values()))
    return {value for value, parts in members.items() if parts.isdisjoint(fitting) == (rule.sign == "!=")}


def members_of(values: Iterable[str]) -> dict[str, set[str]]:
    """{value: itself and, if the values are sets in one of the notations of tables, its members}."""
    different = set(values)
    sets = sets_of(different - {"", *UNKNOWN})[0] or {}
    return {value: {value, *sets.get(value, ())} for value in different}


def fitting_members(rule: Rule, known: Collection[str]) -> set[str]:
    """The members among the known ones that a rule names: those in its range, or equal to one of its values."""
    if rule.sign in RANGES:
        return _in_range(rule, set(known) - {""})
    fitting = set()
    for value in rule.values:
        alike, number = {value} & set(known), plain_number(value)
        if not alike and number is not None:  # 19.9 finds 19.90
            alike = {text for text, other in read_numbers(set(known) - {""})[0].items() if other == number}
        if not alike and (match := re.fullmatch(r"(<=|>=|<|>)\s*(.+)", value)):  # {"price": "<50"}
            fitting |= _in_range(rule._replace(sign=match[1], values=(match[2],)), set(known) - {""})
        elif not alike:
            parts = [members - {text} or {text} for text, members in members_of(known).items()]
            raise no_item_has(value, rule.column, set().union(*parts) - {""})
        fitting |= alike
    return fitting


def _in_range(rule: Rule, known: Collection[str]) -> set[str]:
    """The texts in the range of a rule: by number, or by date as far as the bound is precise."""
    if len(rule.values) != 1:
        raise UserError(f"the filter of {rule.column!r} has {len(rule.values)} bounds behind {rule.sign}; give one.")
    (bound,), holds = rule.values, RANGES[rule.sign]
    numbers, note = read_numbers(sorted(known))
    limit = plain_number(bound)
    if limit is None:  # written as in the column, such as 49,90
        limit = read_numbers([*sorted(known), bound])[0].get(bound)
    if numbers and limit is not None:
        return {text for text, number in numbers.items() if holds(number, limit)}
    dates = [text for text in known if re.match(r"\d{4}-\d\d-\d\d", text)]
    if dates and DATE.fullmatch(bound):
        bound = bound.replace("T", " ")
        return {text for text in dates if holds(text.replace("T", " ")[: len(bound)], bound)}
    if not numbers and not dates:
        reason = note or f"such as {min(known, default='')!r}"
        raise UserError(
            f"column {rule.column!r} holds no numbers or dates to compare ({reason}); filter by {rule.column}=VALUE."
        )
    kind = "a number" if numbers else "a date such as 2024-12-31"
    raise UserError(f"the filter {rule.column}{rule.sign}{bound} needs {kind} instead of {bound!r}.")


def check_column(name: str, columns: Collection[str], place: str) -> None:
    """Raise UserError for a column that does not exist, with those that do."""
    if name not in columns:
        near, choices = did_you_mean(str(name), columns), listed(columns) or "none"
        raise UserError(f"{place} has no column {name!r}{near} to filter by; its columns are {choices}.")


def no_item_has(value: str, column: str, choices: Collection[str]) -> UserError:
    """The error for a filter's value that no item has, with values that items have."""
    near = did_you_mean(value, choices)
    return UserError(f"no item has {value!r}{near} in column {column!r}; its values are {listed(sorted(choices))}.")
