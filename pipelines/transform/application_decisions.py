"""Whether rows of applications decided what was derived: as-of takes these rows as they are now.

    they have the key of a row from a source · rows from sources refer to them · a row that they refer to wins a key

Read after a change set of all effective versions is applied.
"""

from collections.abc import Iterator, Sequence

from psycopg import sql

from pipelines.schema.table_spec import TableSpec
from pipelines.transform.key_conflicts import order_of
from pipelines.warehouse.database import Connection


def find(connection: Connection, specs: Sequence[TableSpec]) -> list[TableSpec]:
    """The tables of a domain whose rows of applications have decided what is derived, in their order."""
    found = {
        decisive
        for spec in specs
        if spec.written_by_applications
        for decisive, query in _decisions(spec)
        if connection.execute(sql.SQL("{} limit 1").format(query)).rowcount
    }
    return [spec for spec in specs if spec in found]


def _decisions(spec: TableSpec) -> Iterator[tuple[TableSpec, sql.Composable]]:
    """What may have been decided about the rows of a table: the table that decided it, and a query for the cases."""
    parts = {"target": spec.target, "name": sql.Literal(spec.name), "of_application": spec.of_application("t")}
    yield spec, HAS_KEY.format(key=spec.key_text("t"), **parts)
    for child, column in spec.referrers:
        parts |= {"child": child.target, "column": sql.Identifier(column), "parent": sql.Identifier("t", *spec.key)}
        yield spec, REFERRED_TO.format(from_source=child.from_source("r"), **parts)
        if child.written_by_applications and spec.applications and spec.owned:
            orders = {"winner": order_of(spec, "w"), "loser": order_of(spec, "l")}
            of_child = child.of_application("r")
            yield child, HELPED_TO_WIN.format(of_child=of_child, key=spec.key_text("t"), **orders, **parts)


HAS_KEY = sql.SQL(
    """
    select from found_pending_rows p join {target} t on {key} = p.key
    where p.table_name = {name} and p.reason in ('key', 'unique') and {of_application}
    union all
    select from rejected_rows where table_name = {name} and reason = 'unique' and record_id is null
    """
)
"""Rows from sources that are not written. Of a shared table one is refused only for an application's."""

REFERRED_TO = sql.SQL(
    "select from {child} r join {target} t on r.{column} = {parent} where {from_source} and {of_application}"
)

HELPED_TO_WIN = sql.SQL(
    """
    select from found_pending_rows p
    join {target} t on {key} = p.key and t.from_source
    join {child} r on r.{column} = {parent} and {of_child}
    join change_set w on w.record_id = t.record_id
    join change_set l on l.record_id = p.record_id
    where p.table_name = {name} and p.reason in ('key', 'unique') and ({loser}) < ({winner})
    """
)
"""Rows from sources that have a key before one that comes first in the order of streams and external ids."""
