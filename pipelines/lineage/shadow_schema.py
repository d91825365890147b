"""Copies of a domain's tables in a schema of their own, filled from staging.

    versions effective after a run ──their SELECT files──> a shadow schema

`create` makes the schema with empty tables; `fill` fills them with the code that transforms run, several sources in
parallel, all from one exported snapshot. Belongs here: creating, filling, keeping and dropping shadow schemas. Not
here: which versions are effective (`snapshots`), how rows are written (`transform.apply`), comparing (`rebuild`,
`time_travel`).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from sqlalchemy import MetaData, Table

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.lineage import snapshots
from pipelines.lineage.snapshots import EffectiveVersions
from pipelines.project import Select
from pipelines.source import Source
from pipelines.transform import rejects
from pipelines.transform.apply import Applier
from pipelines.transform.change_set import ChangeSet
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse
from pipelines.warehouse.declare import metadata
from pipelines.warehouse.table_spec import TableSpec

Tables = dict[str, Table]
"""Tables of a shadow schema by their bare names, parents first."""


@dataclass(frozen=True)
class NotApplied:
    """The rows that SELECT files of a source yielded and that are not in the tables: rejected, and pending because
    they wait for another row.
    """

    source: Source
    rejected: rejects.Exported = field(default_factory=dict)


TEMPORARY_PREFIX = "atlas_shadow_"
"""How the name of every shadow schema begins that is not to be kept, or not yet."""

KEPT_COMMENT = "{domain} as of run "
"""How the comment of a kept schema begins; the run's id follows."""


@contextmanager
def create(
    warehouse: Warehouse, domain: str, *, keep_as: str | None = None, run_id: UUID | None = None
) -> Iterator[Tables]:
    """Empty copies of a domain's tables in a new schema, which is dropped when the block ends.

    keep_as: if the block ends without an error the schema is kept under this name, with a comment that names run_id.
    Schemas that killed processes left are dropped first. Raises AtlasError where keep_as cannot be the name.
    """
    schema = f"{TEMPORARY_PREFIX}{uuid4().hex[:12]}"
    tables = _tables_like(domain, schema)
    with warehouse.connect() as connection:
        if keep_as:
            locks.acquire_shared(connection, locks.kept_schemas(domain))
        locks.acquire(connection, locks.shadow_schema(schema))
        drop_abandoned(connection)
        if keep_as and connection.execute("select from pg_namespace where nspname = %s", [keep_as]).rowcount:
            raise _name_taken(keep_as)
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        try:
            with warehouse.engine.begin() as engine:
                next(iter(tables.values())).metadata.create_all(engine, tables=list(tables.values()), checkfirst=False)
            yield tables
            if keep_as:
                _keep(connection, schema, keep_as, f"{KEPT_COMMENT.format(domain=domain)}{run_id}")
        finally:
            if not connection.closed:
                _drop(connection, schema)


def kept_schemas(connection: Connection, domain: str) -> list[str]:
    """Names of the schemas in which a past state of a domain is kept."""
    rows = connection.execute(
        """
        select nspname from pg_namespace n
        where starts_with(obj_description(n.oid, 'pg_namespace'), %s) order by 1
        """,
        [KEPT_COMMENT.format(domain=domain)],
    )
    return [row["nspname"] for row in rows]


def _keep(connection: Connection, schema: str, name: str, comment: str) -> None:
    """Renames a schema, so that it is not dropped."""
    with connection.transaction():
        connection.execute(sql.SQL("comment on schema {} is {}").format(sql.Identifier(schema), sql.Literal(comment)))
        try:
            connection.execute(
                sql.SQL("alter schema {} rename to {}").format(sql.Identifier(schema), sql.Identifier(name))
            )
        except psycopg.errors.DuplicateSchema:
            raise _name_taken(name) from None
        except psycopg.errors.ReservedName:
            raise AtlasError(f"A schema cannot be called {name!r}: choose another name.", usage=True) from None


def _name_taken(name: str) -> AtlasError:
    return AtlasError(f"The schema {name!r} already exists: choose another name.", usage=True)


def _drop(connection: Connection, schema: str) -> None:
    connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))


def drop_abandoned(connection: Connection) -> None:
    """Drops the shadow schemas of processes that have died."""
    query = "select nspname from pg_namespace where starts_with(nspname, %s)"
    for row in connection.execute(query, [TEMPORARY_PREFIX]):
        lock = locks.shadow_schema(row["nspname"])
        if locks.try_acquire(connection, lock):
            _drop(connection, row["nspname"])
            locks.release(connection, lock)


def fill(
    warehouse: Warehouse,
    domain: str,
    tables: Tables,
    publish_seq: int,
    *,
    current_sql: bool,
    workers: int = 1,
    notify: Callable[[str], None] = lambda source: None,
) -> list[NotApplied]:
    """Fills a shadow schema with the rows of the versions that were effective when a run published; returns, for each
    source, the rows that are not in it.

    current_sql: apply the SELECT files as they are now, instead of those that had been applied to each version.
    notify: called with the name of each source that is filled.
    """
    sources = project.find_sources([domain])
    with warehouse.connect() as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        _require_connectors(connection, domain, sources)
        row = connection.execute("select pg_export_snapshot() as name").fetchone()
        assert row is not None

        def fill_from(source: Source) -> NotApplied:
            not_applied = _fill_from(warehouse, source, tables, row["name"], publish_seq, current_sql=current_sql)
            notify(source.name)
            return not_applied

        with ThreadPoolExecutor(max_workers=workers) as pool:
            not_applied = list(pool.map(fill_from, sources))
    return not_applied


def _require_connectors(connection: Connection, domain: str, sources: list[Source]) -> None:
    """Raises AtlasError where the tables have, or had after some run, rows of a stream that no connector declares."""
    row = connection.execute(
        """
        select min(stream) as stream from staging.versions
        where starts_with(stream, %s) and stream <> all(%s)
          and valid_from_run is not null and payload_id is not null
        """,
        [f"{domain}/", [stream for source in sources for stream in source.streams.values()]],
    ).fetchone()
    if row and row["stream"]:
        raise AtlasError(
            f"The tables have, or had, rows of {row['stream']}, but no connector in assets/{domain} declares this "
            "stream: the rows cannot be derived again. Restore the connector."
        )


def _fill_from(
    warehouse: Warehouse, source: Source, tables: Tables, snapshot: str, publish_seq: int, *, current_sql: bool
) -> NotApplied:
    """Fills the tables from one source, in a transaction that sees an exported snapshot."""
    with warehouse.connect() as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        found = snapshots.effective_versions(connection, source, tables, publish_seq)
        if current_sql:
            if found.versions and not project.selects(source.name):
                raise project.without_selects(source.name)
            current = [Select(select.file, tables[select.table.name]) for select in project.selects(source.name)]
            found = EffectiveVersions(found.versions, [0] * len(found.versions), [current])
        change_set = ChangeSet(connection, source)
        if not change_set.start_complete(found.versions, found.numbers, publish_seq):
            return NotApplied(source)
        used = {select.table.name for edition in found.editions for select in edition}
        specs = [TableSpec(table) for name, table in tables.items() if name in used]
        Applier(change_set, found.editions, specs, shrink=True).apply()
        return NotApplied(source, rejects.export_rows(connection, source.domain))


def _tables_like(domain: str, schema: str) -> Tables:
    """The tables of a domain, declared in another schema.

    Foreign keys to tables outside of the schema are left out: to drop them would wait for readers of those tables.
    """
    project.load_tables()
    shadow = MetaData(naming_convention=metadata.naming_convention)
    metadata.tables["ops.sources"].to_metadata(shadow)
    tables = {
        table.name: table.to_metadata(
            shadow, schema=schema, referred_schema_fn=lambda _, to, __, referred: to if referred == domain else referred
        )
        for table in metadata.sorted_tables
        if table.schema == domain
    }
    for table in tables.values():
        table.constraints -= {each for each in table.foreign_key_constraints if each.referred_table.schema != schema}
    return tables
