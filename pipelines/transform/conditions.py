"""Conditions on two rows, as SQL: that one refers to the other, that both have the values of a unique key."""

from collections.abc import Iterable, Sequence

from psycopg import sql

from pipelines.schema.table_spec import TableSpec, UniqueKey

ANY = sql.SQL("true")


def is_referenced(
    spec: TableSpec, places: Sequence[tuple[sql.Composable, str]] = (), *, but_pruned: bool = False
) -> sql.Composable:
    """The condition that any row refers to a row `t`. places: further tables with a column that may.

    but_pruned: rows of the same table that go as well do not count.
    """
    stays = sql.SQL("(referrer.tableoid, referrer.ctid) not in (select row_part, row_place from unyielded)")
    referrers: list[tuple[sql.Composable, str, sql.Composable]] = [
        (table.target, column, stays if but_pruned and table.table is spec.table else ANY)
        for table, column in spec.referrers
    ]
    return _any_refers(sql.Identifier("t", *spec.key), [*referrers, *((*place, ANY) for place in places)])


def refers_of_applications(spec: TableSpec, alias: str) -> sql.Composable:
    """The condition that a row of an application refers to a row, which therefore stays."""
    referrers = [
        (table.target, column, table.of_application("referrer"))
        for table, column in spec.referrers
        if spec.applications and table.written_by_applications
    ]
    return _any_refers(sql.Identifier(alias, *spec.key), referrers)


def _any_refers(key: sql.Identifier, referrers: Iterable[tuple[sql.Composable, str, sql.Composable]]) -> sql.Composable:
    """The condition that a row `referrer` of any of some tables has a key in a column, and meets a condition."""
    refers = sql.SQL("exists (select from {} as referrer where referrer.{} = {} and {})")
    conditions = [refers.format(place, sql.Identifier(column), key, more) for place, column, more in referrers]
    return sql.SQL("({})").format(sql.SQL(" or ").join(conditions)) if conditions else sql.SQL("false")


def keyed(key: UniqueKey, rows: sql.Composable) -> sql.Composed:
    """The rows of a relation that a unique key compares, each with its values as `unique_1`, `unique_2` …"""
    values = [
        sql.SQL("{} as {}").format(each, name) for name, each in zip(value_names(key), key.expressions, strict=True)
    ]
    return sql.SQL("(select r.*, {} from {} as r where {})").format(sql.SQL(", ").join(values), rows, key.where)


def value_names(key: UniqueKey) -> list[sql.Identifier]:
    return [sql.Identifier(f"unique_{number}") for number in range(1, len(key.expressions) + 1)]


def same_values(key: UniqueKey, left: str, right: str) -> sql.Composed:
    """The condition that two rows of `keyed` have the values that only one row may have."""
    equal = "{0}.{1} is not distinct from {2}.{1}" if key.nulls_equal else "{0}.{1} = {2}.{1}"
    return sql.SQL(" and ").join(
        sql.SQL(equal).format(sql.Identifier(left), name, sql.Identifier(right)) for name in value_names(key)
    )
