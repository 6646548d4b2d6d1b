"""Filters as conditions of SQL: values are parameters, and what they mean is decided as in a file of vectors."""

from typing import TYPE_CHECKING, Any

from csn_jax.errors import UserError
from csn_jax.store.filters import RANGES, Rule, accepted_values, no_item_has
from csn_jax.store.postgres import DECIMAL, identifier

if TYPE_CHECKING:
    from psycopg import sql

    from csn_jax.search.postgres_search import Table

Condition = tuple["sql.Composable", list[Any]]  # and its parameters

MOST = 20_000  # different values of a column that are compared here, as in a file
CHOICES = 1000  # values of a column to fetch for a message
COMPARED = ("bigint", "numeric")  # types that PostgreSQL compares by itself


def condition_of(table: "Table", rule: Rule) -> Condition:
    """The condition of a rule about a column of the table; a UserError for a value that no item has, a bound that is
    none, and a range over a text column of too many different values."""
    from psycopg import sql

    here, kind, text = identifier(rule.column), table.types[rule.column], table.text(rule.column)
    if rule.sign in RANGES and kind in COMPARED and len(rule.values) == 1 and DECIMAL.fullmatch(rule.values[0]):
        condition = sql.SQL("coalesce({} {} %s::numeric, false)").format(here, sql.SQL(rule.sign))
        return condition, [rule.values[0]]
    found = table.rows("SELECT DISTINCT coalesce({1}, '') FROM {0} LIMIT %s", text, parameters=[MOST])
    known = [value for (value,) in found]
    members = sql.SQL("coalesce({}, '') = ANY(%s)").format(text)
    if len(known) < MOST:
        return members, [sorted(accepted_values(rule, known))]
    if rule.sign in RANGES:
        raise UserError(
            f"--filter={rule.column}{rule.sign}{rule.values[0]}: the column has {MOST:,} different texts or more, too "
            "many for a range in PostgreSQL; search --index=FILE."
        )
    for value in rule.values:
        query = "SELECT 1 FROM {0} WHERE coalesce({1}, '') = %s LIMIT 1"
        if kind != "text[]" and not table.rows(query, text, parameters=[value]):
            raise no_item_has(value, rule.column, known[:CHOICES])
    parameters: list[Any] = [list(rule.values)]
    if kind == "text[]":
        members = sql.SQL("({} OR coalesce({} && %s, false))").format(members, here)
        parameters.append(list(rule.values))
    return (members if rule.sign == "=" else sql.SQL("NOT {}").format(members)), parameters
