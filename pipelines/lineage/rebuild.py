"""Derives the tables of a domain again from staging, into the tables or into copies that are compared with them.

effective versions, current SELECT files ──> the tables (`rebuild`), or a shadow schema to compare with (`check`)
"""

from collections.abc import Callable
from typing import Any

from psycopg import sql

from pipelines import ledger
from pipelines.ledger import Run
from pipelines.lineage import shadow_schema
from pipelines.schema import partitions
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec, fields, names, tables_of
from pipelines.transform import table_digests
from pipelines.transform.apply import Applier
from pipelines.transform.change_set import ChangeSet, code_version, current_editions
from pipelines.transform.run import record_applied, record_sql, run_stats
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse


def rebuild(
    warehouse: Warehouse, domain: str, *, shrink: bool = False, notify: Callable[[Run], None] = ledger.silent
) -> Run:
    """Derives a domain again by the current SELECT files and writes the rows that differ, in one transaction; returns
    the closed run. Transforms of the domain wait until it ends, readers do not.

    shrink: accepts that many rows are deleted. Raises AtlasError where that is needed.
    """
    editions = current_editions(domain)
    selects = [select for edition in editions for select in edition.selects]
    code = code_version(selects)
    with ledger.open_run(warehouse, domain, "rebuild", "all", code_version=code, notify=notify) as run:
        locks.acquire(run.connection, locks.transform(domain))
        with run.connection.transaction():
            change_set = ChangeSet(run.connection, editions, f"atlas rebuild {domain}")
            records = shadow_schema.start_effective(change_set, domain)
            tables = [spec.table for spec in tables_of(domain) if spec.kind != "application"]
            applier = Applier(change_set, pruned=tables, shrink=shrink)
            counts = applier.apply()
            record_applied(run, change_set)
            record_sql(run.connection, selects)
            digests = table_digests.recount(run.connection, [each.spec for each in applier.tables])
            run.close(*run_stats(records, counts, selects, digests, applier))
    partitions.split_defaults(warehouse, domain)
    return run


def check(warehouse: Warehouse, domain: str) -> list[dict[str, Any]]:
    """Derives a domain again by the current SELECT files and compares each table: keys, and the bytes of rows.

    Returns for each table how many rows are `missing` there, which only the derived table has, `extra` or `different`,
    audit columns apart, and whether both are the `same`. Transforms of the domain wait until it ends, readers do not.
    """
    with ledger.open_reader(warehouse) as connection:
        locks.acquire(connection, locks.transform(domain))
        with shadow_schema.create(warehouse, domain) as tables:
            shadow_schema.fill(warehouse, domain, tables, None)
            live = {name: TableSpec(metadata.tables[f"{domain}.{name}"]) for name in tables}
            return [_compare(connection, live[name], TableSpec(table)) for name, table in tables.items()]


def _compare(connection: Connection, live: TableSpec, derived: TableSpec) -> dict[str, Any]:
    query = sql.SQL(
        """
        select count(old) as rows, count(new) as derived,
            count(*) filter (where old is null) as missing, count(*) filter (where new is null) as extra,
            count(*) filter (where not (old is null) and not (new is null)
                and record_image_ne(row({old}), row({new}))) as different
        from (select t as old, {keys} from {live} t where {from_source}) as l
        full join (select t as new, {keys} from {derived} t where {from_source}) as d using ({keys})
        """
    )
    old, new, keys = fields("old", live.content), fields("new", live.content), names(live.key)
    tables = {"live": live.target, "derived": derived.target, "from_source": live.from_source("t")}
    (row,) = connection.execute(query.format(old=old, new=new, keys=keys, **tables))
    return {"table": live.name, **row, "same": not (row["missing"] or row["extra"] or row["different"])}
