"""Partitions of tables that are partitioned by month: `<table>_2026_11`, and `<table>_default` for all other rows.

rows ──INSERT──> partition of their month, or <table>_default ──split_defaults──> a partition for each of its months
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from typing import LiteralString

import psycopg
from psycopg import sql
from sqlalchemy import Table

from pipelines.schema.table_spec import TableSpec, names, tables_of
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

LOCK_TIMEOUT = "300ms"
"""How long a new partition waits for those who read the default one; those who come meanwhile wait as well."""


def create_defaults(connection: Connection, tables: Iterable[Table]) -> None:
    """Creates the default partition of each partitioned table that lacks it; of tables that do not exist, none."""
    for spec in map(TableSpec, tables):
        found = "select from pg_class where oid = to_regclass(%s)"
        if spec.partition_column and connection.execute(found, [spec.target.as_string()]).rowcount:
            create = sql.SQL("create table if not exists {} partition of {} default")
            connection.execute(create.format(_partition(spec, "default"), spec.target))


def split_defaults(warehouse: Warehouse, domain: str) -> None:
    """Moves the rows of default partitions to new partitions, one for each month from ten years ago to the next third.

    Each month is moved in a short transaction of its own. What cannot be locked at once is left to the next call.
    """
    partitioned = [spec for spec in tables_of(domain) if spec.partition_column]
    if not partitioned:
        return
    busy = psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected
    with warehouse.connect() as connection, suppress(*busy):
        locks.acquire_shared(connection, locks.MIGRATION)
        for spec in partitioned:
            while _split_month(connection, spec):
                pass


def _split_month(connection: Connection, spec: TableSpec) -> bool:
    """Moves the rows of one month. Returns False where none is left, or another process works on the domain."""
    with connection.transaction():
        if not locks.try_acquire_for_transaction(connection, locks.transform(str(spec.table.schema))):
            return False
        month = _first_month(connection, spec)
        if month:
            _split(connection, spec, month)
        return month is not None


def _first_month(connection: Connection, spec: TableSpec) -> date | None:
    """The first day of the first month of which the default partition has rows that get a partition of their own."""
    (row,) = connection.execute(
        sql.SQL(
            """
            select min(month) as month from (
                select distinct date_trunc('month', {column})::date as month from {default}
                where {column} >= date_trunc('month', now()) - interval '10 years'
                  and {column} < date_trunc('month', now()) + interval '4 months'
            ) as m
            where to_regclass({table} || to_char(month, '_YYYY_MM')) is null -- else somebody has detached it
            """
        ).format(
            column=sql.Identifier(str(spec.partition_column)),
            default=_partition(spec, "default"),
            table=sql.Literal(spec.name),
        )
    )
    month: date | None = row["month"]
    return month


def _split(connection: Connection, spec: TableSpec, month: date) -> None:
    """Creates the partition of a month, with the rows that the default one has of it.

    Triggers do not fire: a row that moves has not changed. An empty default partition gives back its space.
    """
    following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    (found,) = connection.execute(
        """
        select pg_get_userbyid(c.relowner) as owner, array_agg(a.attname::text order by a.attnum) as columns
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.oid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' group by c.oid
        """,
        [spec.target.as_string()],
    )
    default = _partition(spec, "default")
    connection.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
    for statement in SPLIT:
        connection.execute(
            sql.SQL(statement).format(
                default=default,
                new=_partition(spec, f"{month:%Y_%m}"),
                target=spec.target,
                owner=sql.Identifier(found["owner"]),
                columns=names(found["columns"]),
                column=sql.Identifier(str(spec.partition_column)),
                start=sql.Literal(f"{month} 00:00+00"),
                end=sql.Literal(f"{following} 00:00+00"),
            )
        )
    if not connection.execute(sql.SQL("select from {} limit 1").format(default)).rowcount:
        connection.execute(sql.SQL("truncate {}").format(default))


def _partition(spec: TableSpec, suffix: str) -> sql.Identifier:
    return sql.Identifier(str(spec.table.schema), f"{spec.table.name}_{suffix}")


SPLIT: tuple[LiteralString, ...] = (
    "lock table {default} in access exclusive mode",
    "create table {new} (like {target} including all excluding indexes)",
    "alter table {new} owner to {owner}",
    "alter table {default} disable trigger user",
    """
    with moved as (delete from {default} where {column} >= {start} and {column} < {end} returning {columns})
    insert into {new} ({columns}) select {columns} from moved
    """,
    "alter table {default} enable trigger user",
    "alter table {target} attach partition {new} for values from ({start}) to ({end})",  # builds the indexes
)
