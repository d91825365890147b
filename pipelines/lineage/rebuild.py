"""A domain derived anew from staging: to compare with what is there, or to take its place.

    tables beside the domain's ──> compared · merged into them, where they differ

Belongs here: comparing and replacing. Not: how tables beside a domain's are made (`beside`).
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import Table

from pipelines import failpoints, ledger, project
from pipelines.ledger import Counts, Run
from pipelines.lineage import snapshots
from pipelines.lineage.shadow_schema import Aside, Tables, beside, derive
from pipelines.transform import table_digests
from pipelines.transform.run import code_version, record_rebuilt, record_sql
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse
from pipelines.warehouse.declare import metadata
from pipelines.warehouse.table_spec import TableSpec, fields, names


@dataclass(frozen=True)
class Compared:
    """A table as it is and as it was derived: rows only in one of them, rows that differ, whether COPY tells a
    difference.
    """

    table: str
    rows: int
    derived: int
    missing: int
    beyond: int
    different: int
    same: bool


def rebuild(warehouse: Warehouse, domain: str, *, workers: int, notify: Callable[[Run], None] = ledger.silent) -> Run:
    """Derives a domain anew by the SELECT files as they are, and puts it in the place of what is there; the run.

    Only what differs is written, in one transaction. Transforms of the domain wait meanwhile, readers do not.
    """
    sources = project.find_sources([domain])
    selects = {source.name: project.selects(source.name) for source in sources}
    codes = {name: code_version(files) for name, files in selects.items()}
    every = [select for files in selects.values() for select in files]
    with (
        ledger.opened(warehouse, domain, "rebuild", "all", code_version=code_version(every), notify=notify) as run,
        derived(warehouse, domain, run.connection, workers=workers, notify=lambda _: run.advance(1)) as (
            tables,
            asides,
        ),
        run.connection.transaction(),
    ):
        failpoints.reached("rebuild.begun")
        counts = _replace(run.connection, domain, tables)
        failpoints.reached("rebuild.replaced")
        for aside in asides:
            rejected = record_rebuilt(run, aside.source, codes[aside.source.name], aside.rejected)
            for name, number in rejected.items():
                counts[name] += Counts(fetched=number, quarantined=number)
            failpoints.reached("rebuild.set_aside", aside.source.stem)
        record_sql(run.connection, every)
        failpoints.reached("rebuild.remembered")
        total = Counts()
        for each in counts.values():
            total += each
        stats = {
            "tables": {name: vars(each) for name, each in counts.items()},
            "sql": {select.file.address: select.file.digest for select in every},
            "code": codes,
            "table_digests": table_digests.recount(
                run.connection, [TableSpec(like(table, domain)) for table in tables.values()]
            ),
        }
        run.publish(total, stats)
        failpoints.reached("rebuild.published")
    failpoints.reached("rebuild.ended")
    return run


def check(
    warehouse: Warehouse, domain: str, *, workers: int, notify: Callable[[str], None] = lambda source: None
) -> list[Compared]:
    """Derives a domain anew and compares each table, by key, by row and by the bytes that COPY writes.

    Nothing is changed. Transforms of the domain wait meanwhile, readers do not.
    """
    with (
        ledger.reading(warehouse) as connection,
        derived(warehouse, domain, connection, workers=workers, notify=notify) as (tables, _),
    ):
        return [_compared(connection, TableSpec(like(table, domain)), TableSpec(table)) for table in tables.values()]


@contextmanager
def derived(
    warehouse: Warehouse, domain: str, connection: Connection, *, workers: int, notify: Callable[[str], None]
) -> Iterator[tuple[Tables, list[Aside]]]:
    """What a domain should be by the SELECT files as they are, in tables beside its own, which stay as they are; and
    what is not in them.
    """
    locks.acquire(connection, locks.transform(domain))
    failpoints.reached("rebuild.locked")
    try:
        with beside(warehouse, domain) as tables:
            publish_seq = snapshots.now(connection)
            asides = derive(warehouse, domain, tables, publish_seq, current_sql=True, workers=workers, notify=notify)
            yield tables, asides
    finally:
        if not connection.closed:
            locks.release(connection, locks.transform(domain))


def like(table: Table, domain: str) -> Table:
    """The domain's own table of that name."""
    return metadata.tables[f"{domain}.{table.name}"]


def _compared(connection: Connection, live: TableSpec, derived: TableSpec) -> Compared:
    row = connection.execute(
        sql.SQL(
            """
            select count(old) as rows, count(new) as derived,
                count(*) filter (where old is null) as missing, count(*) filter (where new is null) as beyond,
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
    same = _bytes(connection, live) == _bytes(connection, derived)
    return Compared(live.name, **row, same=same)


def _replace(connection: Connection, domain: str, tables: Tables) -> dict[str, Counts]:
    """Makes a domain's tables what was derived beside them, by writing what differs."""
    counts = {}
    shapes = [(TableSpec(like(table, domain)), TableSpec(table)) for table in tables.values()]
    connection.execute("set constraints all deferred")
    for live, new in shapes:
        row = connection.execute(_merge(live, new)).fetchone()
        failpoints.reached("rebuild.merged", live.table.name)
        assert row is not None
        unchanged = row["yielded"] - row["created"] - row["updated"]
        counts[live.name] = Counts(row["yielded"], row["created"], row["updated"], unchanged)
    for live, new in reversed(shapes):
        delete = sql.SQL("delete from {} t where not exists (select from {} s where {})").format(
            live.target, new.target, live.same_key("s", "t")
        )
        counts[live.name].deleted = connection.execute(delete).rowcount
        failpoints.reached("rebuild.deleted", live.table.name)
    connection.execute("set constraints all immediate")
    return counts


def _merge(live: TableSpec, new: TableSpec) -> sql.Composed:
    rest = [column for column in live.content if column not in live.key]
    changed = sql.SQL("{} = {}")
    assignments = [changed.format(sql.Identifier(column), sql.Identifier("s", column)) for column in rest]
    assignments += live.audit_assignments()
    update: sql.Composable = sql.SQL("")
    if rest:
        update = sql.SQL("when matched and record_image_ne(row({}), row({})) then update set {}").format(
            names(rest, "t"), names(rest, "s"), sql.SQL(", ").join(assignments)
        )
    return sql.SQL(
        """
        with merged as (
            merge into {live} t using {new} s on {same_key}
            {update}
            when not matched then insert ({columns}) values ({values})
            returning merge_action() as action
        )
        select count(*) filter (where action = 'INSERT') as created,
            count(*) filter (where action = 'UPDATE') as updated,
            (select count(*) from {new}) as yielded
        from merged
        """
    ).format(
        live=live.target,
        new=new.target,
        same_key=live.same_key("t", "s"),
        update=update,
        columns=names(live.content),
        values=names(live.content, "s"),
    )


def _bytes(connection: Connection, shape: TableSpec) -> bytes:
    """sha256 of what COPY writes of a table, by its key, audit columns left out."""
    digest = hashlib.sha256()
    query = sql.SQL("copy (select {} from {} order by {}) to stdout").format(
        names(shape.content), shape.target, names(shape.key)
    )
    with connection.cursor().copy(query) as copy:
        for block in copy:
            digest.update(block)
    return digest.digest()
