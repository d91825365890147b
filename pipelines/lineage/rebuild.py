"""Derives the tables of a domain again from staging, to compare them with the live tables or to correct those.

    staging ──current SELECT files──> shadow schema ──> compared with the live tables (`check`)
                                                   └──> merged into the live tables (`rebuild`)

Belongs here: comparing and merging. Not here: creating and filling the shadow schema (`shadow_schema`).
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import Table

from pipelines import ledger, project
from pipelines.ledger import Counts, Run
from pipelines.lineage import shadow_schema, snapshots
from pipelines.lineage.shadow_schema import NotApplied, Tables
from pipelines.transform import merge_sql, table_digests
from pipelines.transform.run import code_version, record_rebuilt, record_sql
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse
from pipelines.warehouse.declare import metadata
from pipelines.warehouse.table_spec import TableSpec, fields, names


@dataclass(frozen=True)
class TableComparison:
    """A live table compared with the one derived from staging.

    missing, extra: rows that only the derived or only the live table has. same: whether COPY writes the same bytes.
    """

    table: str
    rows: int
    derived: int
    missing: int
    extra: int
    different: int
    same: bool


def rebuild(warehouse: Warehouse, domain: str, *, workers: int, notify: Callable[[Run], None] = ledger.silent) -> Run:
    """Derives a domain again by the current SELECT files and writes to the live tables the rows that differ; returns
    the closed run.

    All rows are written in one transaction. Transforms of the domain wait until it ends, readers do not.
    """
    sources = project.find_sources([domain])
    selects = {source.name: project.selects(source.name) for source in sources}
    codes = {name: code_version(files) for name, files in selects.items()}
    every = [select for files in selects.values() for select in files]
    with (
        ledger.open_run(warehouse, domain, "rebuild", "all", code_version=code_version(every), notify=notify) as run,
        _derived(warehouse, domain, run.connection, workers=workers, notify=lambda _: run.advance(1)) as (
            tables,
            not_applied,
        ),
        run.connection.transaction(),
    ):
        counts = _write_differences(run.connection, domain, tables)
        for each in not_applied:
            rejected = record_rebuilt(run, each.source, codes[each.source.name], each.rejected)
            for name, number in rejected.items():
                counts[name] += Counts(fetched=number, quarantined=number)
        record_sql(run.connection, every)
        total = Counts()
        for table_counts in counts.values():
            total += table_counts
        stats = {
            "tables": {name: vars(table_counts) for name, table_counts in counts.items()},
            "sql": {select.file.address: select.file.digest for select in every},
            "code": codes,
            "table_digests": table_digests.recount(
                run.connection, [TableSpec(_live(table, domain)) for table in tables.values()]
            ),
        }
        run.close(total, stats)
    return run


def check(
    warehouse: Warehouse, domain: str, *, workers: int, notify: Callable[[str], None] = lambda source: None
) -> list[TableComparison]:
    """Derives a domain again by the current SELECT files and compares each table: keys, rows and the bytes of COPY.

    Writes to no live table. Transforms of the domain wait until it ends, readers do not. notify: called with the name
    of each source that is derived.
    """
    with (
        ledger.open_reader(warehouse) as connection,
        _derived(warehouse, domain, connection, workers=workers, notify=notify) as (tables, _),
    ):
        return [_compare(connection, TableSpec(_live(table, domain)), TableSpec(table)) for table in tables.values()]


@contextmanager
def _derived(
    warehouse: Warehouse, domain: str, connection: Connection, *, workers: int, notify: Callable[[str], None]
) -> Iterator[tuple[Tables, list[NotApplied]]]:
    """A shadow schema filled by the current SELECT files, and the rows that are not in it, while no transform of the
    domain can run.
    """
    locks.acquire(connection, locks.transform(domain))
    try:
        with shadow_schema.create(warehouse, domain) as tables:
            publish_seq = snapshots.latest_publish_seq(connection)
            not_applied = shadow_schema.fill(
                warehouse, domain, tables, publish_seq, current_sql=True, workers=workers, notify=notify
            )
            yield tables, not_applied
    finally:
        if not connection.closed:
            locks.release(connection, locks.transform(domain))


def _live(shadow: Table, domain: str) -> Table:
    """The table of a domain that a shadow table is a copy of."""
    return metadata.tables[f"{domain}.{shadow.name}"]


def _compare(connection: Connection, live: TableSpec, derived: TableSpec) -> TableComparison:
    row = connection.execute(
        sql.SQL(
            """
            select count(old) as rows, count(new) as derived,
                count(*) filter (where old is null) as missing, count(*) filter (where new is null) as extra,
                count(*) filter (where not (old is null) and not (new is null)
                    and record_image_ne(row({old}), row({new}))) as different
            from (select t as old, {keys} from {live} t) as l
            full join (select t as new, {keys} from {derived} t) as d using ({keys})
            """
        ).format(
            old=fields("old", live.content),
            new=fields("new", live.content),
            keys=names(live.key),
            live=live.target,
            derived=derived.target,
        )
    ).fetchone()
    assert row is not None
    same = _copy_digest(connection, live) == _copy_digest(connection, derived)
    return TableComparison(live.name, **row, same=same)


def _write_differences(connection: Connection, domain: str, tables: Tables) -> dict[str, Counts]:
    """Merges the derived tables into the live ones and deletes rows that only those have; the counts of each table."""
    counts = {}
    pairs = [(TableSpec(_live(table, domain)), TableSpec(table)) for table in tables.values()]
    connection.execute("set constraints all deferred")
    for live, derived in pairs:
        row = connection.execute(merge_sql.merge(live, derived.target, owners_stay=False)).fetchone()
        assert row is not None
        unchanged = row["yielded"] - row["created"] - row["updated"]
        counts[live.name] = Counts(row["yielded"], row["created"], row["updated"], unchanged)
    for live, derived in reversed(pairs):
        delete = sql.SQL("delete from {} t where not exists (select from {} s where {})").format(
            live.target, derived.target, live.same_key("s", "t")
        )
        counts[live.name].deleted = connection.execute(delete).rowcount
    connection.execute("set constraints all immediate")
    return counts


def _copy_digest(connection: Connection, spec: TableSpec) -> bytes:
    """sha256 of what COPY writes of a table in the order of its key, without audit columns."""
    digest = hashlib.sha256()
    query = sql.SQL("copy (select {} from {} order by {}) to stdout").format(
        names(spec.content), spec.target, names(spec.key)
    )
    with connection.cursor().copy(query) as copy:
        for block in copy:
            digest.update(block)
    return digest.digest()
