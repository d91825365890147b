"""Derives the tables of a domain again from staging, to compare them with the live tables or to correct those.

staging ──current SELECT files──> shadow schema ──> compared with the live tables (`check`)
                                               └──> merged into the live tables (`rebuild`)
"""

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import sql

from pipelines import ledger, project
from pipelines.ledger import Counts, Run
from pipelines.lineage import shadow_schema
from pipelines.lineage.shadow_schema import Tables
from pipelines.transform import merge_sql, table_digests
from pipelines.transform.run import code_version, record_rebuilt, record_sql
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse
from pipelines.warehouse.declare import metadata
from pipelines.warehouse.table_spec import TableSpec, fields, names


def rebuild(warehouse: Warehouse, domain: str, *, workers: int, notify: Callable[[Run], None] = ledger.silent) -> Run:
    """Derives a domain again by the current SELECT files and writes the rows that differ, in one transaction; returns
    the closed run. Transforms of the domain wait until it ends, readers do not.
    """
    sources = project.find_sources([domain])
    selects = {source.name: project.selects(source.name) for source in sources}
    codes = {name: code_version(files) for name, files in selects.items()}
    every = [select for files in selects.values() for select in files]
    with ledger.open_run(warehouse, domain, "rebuild", "all", code_version=code_version(every), notify=notify) as run:
        locks.acquire(run.connection, locks.transform(domain))
        with shadow_schema.create(warehouse, domain) as tables:
            not_applied = shadow_schema.fill(warehouse, domain, tables, None, workers)
            pairs = _pairs(domain, tables)
            with run.connection.transaction():
                counts = _write_differences(run.connection, pairs)
                for source, exported in not_applied:
                    for name, number in record_rebuilt(run, source, codes[source.name], exported).items():
                        counts[name] += Counts(fetched=number, quarantined=number)
                record_sql(run.connection, every)
                stats = {
                    "tables": {name: vars(table_counts) for name, table_counts in counts.items()},
                    "sql": {select.file.address: select.file.digest for select in every},
                    "code": codes,
                    "table_digests": table_digests.recount(run.connection, [live for live, _ in pairs]),
                }
                run.close(sum(counts.values(), Counts()), stats)
    return run


def check(warehouse: Warehouse, domain: str, *, workers: int) -> list[dict[str, Any]]:
    """Derives a domain again by the current SELECT files and compares each table: keys, and the bytes of rows.

    Returns for each table how many rows are `missing` there, which only the derived table has, `extra` or `different`,
    audit columns apart, and whether both are the `same`. Transforms of the domain wait until it ends, readers do not.
    """
    with ledger.open_reader(warehouse) as connection:
        locks.acquire(connection, locks.transform(domain))
        with shadow_schema.create(warehouse, domain) as tables:
            shadow_schema.fill(warehouse, domain, tables, None, workers)
            return [_compare(connection, live, derived) for live, derived in _pairs(domain, tables)]


def _pairs(domain: str, tables: Tables) -> list[tuple[TableSpec, TableSpec]]:
    """Each table of a domain with the shadow table that is a copy of it."""
    return [(TableSpec(metadata.tables[f"{domain}.{name}"]), TableSpec(table)) for name, table in tables.items()]


def _compare(connection: Connection, live: TableSpec, derived: TableSpec) -> dict[str, Any]:
    query = sql.SQL(
        """
        select count(old) as rows, count(new) as derived,
            count(*) filter (where old is null) as missing, count(*) filter (where new is null) as extra,
            count(*) filter (where not (old is null) and not (new is null)
                and record_image_ne(row({old}), row({new}))) as different
        from (select t as old, {keys} from {live} t) as l
        full join (select t as new, {keys} from {derived} t) as d using ({keys})
        """
    )
    old, new, keys = fields("old", live.content), fields("new", live.content), names(live.key)
    (row,) = connection.execute(query.format(old=old, new=new, keys=keys, live=live.target, derived=derived.target))
    return {"table": live.name, **row, "same": not (row["missing"] or row["extra"] or row["different"])}


def _write_differences(connection: Connection, pairs: Sequence[tuple[TableSpec, TableSpec]]) -> dict[str, Counts]:
    """Merges the derived tables into the live ones and deletes rows that only those have; the counts of each table."""
    counts = {}
    connection.execute("set constraints all deferred")
    for live, derived in pairs:
        (row,) = connection.execute(merge_sql.merge(live, derived.target, owners_stay=False))
        unchanged = row["yielded"] - row["created"] - row["updated"]
        counts[live.name] = Counts(row["yielded"], row["created"], row["updated"], unchanged)
    for live, derived in reversed(pairs):
        delete = sql.SQL("delete from {} t where not exists (select from {} s where {})")
        extra = delete.format(live.target, derived.target, live.same_key("s", "t"))
        counts[live.name].deleted = connection.execute(extra).rowcount
    connection.execute("set constraints all immediate")
    return counts
