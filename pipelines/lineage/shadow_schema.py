"""Tables like a domain's in a schema of its own, derived from what was in force at some moment.

    versions in force ──SELECTs──> a schema like the domain's

Sources are derived side by side, each whole, all from one snapshot, with the same engine as a transform. Belongs here:
making and filling such schemas. Not: which versions (`history`), not the rows (`deriving`), not what they are for.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import MetaData, Table

from pipelines import failpoints, project
from pipelines.errors import AtlasError
from pipelines.lineage import snapshots
from pipelines.lineage.snapshots import InForce
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
"""Tables of a schema by their bare names, parents first."""


@dataclass(frozen=True)
class Aside:
    """Rows of a source that its SELECT files yield and the tables do not hold."""

    source: Source
    rejected: rejects.Exported = field(default_factory=dict)


PASSING = "atlas_passing_"


@contextmanager
def beside(warehouse: Warehouse, domain: str, name: str | None = None, comment: str = "") -> Iterator[Tables]:
    """Tables like a domain's in a new schema, empty.

    The schema goes with the block, or, where a process was killed, with the next one that is made. name: what it is
    called from the end of the block on, where it is to be kept; comment: what that says of itself.
    """
    schema = f"{PASSING}{uuid4().hex[:12]}"
    tables = _tables_like(domain, schema)
    with warehouse.connect() as connection:
        if name:
            locks.acquire_shared(connection, locks.kept_schemas(domain))
        locks.acquire(connection, locks.shadow_schema(schema))
        failpoints.reached("beside.locked")
        drop_forsaken(connection)
        failpoints.reached("beside.cleared")
        if name and connection.execute("select from pg_namespace where nspname = %s", [name]).rowcount:
            raise _taken(name)
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        failpoints.reached("beside.schema")
        try:
            with warehouse.engine.begin() as engine:
                next(iter(tables.values())).metadata.create_all(engine, tables=list(tables.values()), checkfirst=False)
            failpoints.reached("beside.tables")
            yield tables
            failpoints.reached("beside.used")
            if name:
                _keep(connection, schema, name, comment)
                failpoints.reached("beside.kept")
        finally:
            if not connection.closed:
                _drop(connection, schema)
        failpoints.reached("beside.dropped")


def kept(connection: Connection, domain: str) -> list[str]:
    """The schemas that hold a domain as it was, by their names."""
    rows = connection.execute(
        """
        select nspname from pg_namespace n
        where starts_with(obj_description(n.oid, 'pg_namespace'), %s) order by 1
        """,
        [f"{domain} as "],
    )
    return [row["nspname"] for row in rows]


def _keep(connection: Connection, schema: str, name: str, comment: str) -> None:
    with connection.transaction():
        connection.execute(sql.SQL("comment on schema {} is {}").format(sql.Identifier(schema), sql.Literal(comment)))
        try:
            connection.execute(
                sql.SQL("alter schema {} rename to {}").format(sql.Identifier(schema), sql.Identifier(name))
            )
        except psycopg.errors.DuplicateSchema:
            raise _taken(name) from None
        except psycopg.errors.ReservedName:
            raise AtlasError(f"A schema cannot be called {name!r}: choose another name.", usage=True) from None


def _taken(name: str) -> AtlasError:
    return AtlasError(f"There is a schema {name!r} already: choose another name.", usage=True)


def _drop(connection: Connection, schema: str) -> None:
    connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))


def drop_forsaken(connection: Connection) -> None:
    """Drops the passing schemas of processes that are gone."""
    for row in connection.execute("select nspname from pg_namespace where starts_with(nspname, %s)", [PASSING]):
        lock = locks.shadow_schema(row["nspname"])
        if locks.try_acquire(connection, lock):
            _drop(connection, row["nspname"])
            locks.release(connection, lock)


def derive(
    warehouse: Warehouse,
    domain: str,
    tables: Tables,
    publish_seq: int,
    *,
    current_sql: bool,
    workers: int = 1,
    notify: Callable[[str], None] = lambda source: None,
) -> list[Aside]:
    """Fills tables beside a domain's with what was in force when a run was published, all from one snapshot; what of
    each source is not in them.

    current_sql: by the SELECT files as they are, instead of those that had derived each version. notify: is told each
    source that is done.
    """
    sources = project.find_sources([domain])
    with warehouse.connect() as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        _require_connectors(connection, domain, sources)
        row = connection.execute("select pg_export_snapshot() as name").fetchone()
        assert row is not None
        failpoints.reached("beside.snapshot")

        def one(source: Source) -> Aside:
            aside = _derive_source(warehouse, source, tables, row["name"], publish_seq, current_sql=current_sql)
            failpoints.reached("beside.source", source.stem)
            notify(source.name)
            return aside

        with ThreadPoolExecutor(max_workers=workers) as pool:
            asides = list(pool.map(one, sources))
    failpoints.reached("beside.filled")
    return asides


def _require_connectors(connection: Connection, domain: str, sources: list[Source]) -> None:
    """Fails where the tables have rows of a stream that no connector declares."""
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
            f"There are rows of {row['stream']}, and no connector in assets/{domain} that has this stream: they cannot "
            "be derived. Put the connector back as it was."
        )


def _derive_source(
    warehouse: Warehouse, source: Source, tables: Tables, snapshot: str, publish_seq: int, *, current_sql: bool
) -> Aside:
    with warehouse.connect() as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        found = snapshots.in_force(connection, source, tables, publish_seq)
        failpoints.reached("beside.in_force", source.stem)
        if current_sql:
            if found.versions and not project.selects(source.name):
                raise project.without_selects(source.name)
            now = [Select(select.file, tables[select.table.name]) for select in project.selects(source.name)]
            found = InForce(found.versions, [0] * len(found.versions), [now])
        change_set = ChangeSet(connection, source)
        if not change_set.start_complete(found.versions, found.numbers, publish_seq):
            return Aside(source)
        used = {select.table.name for edition in found.editions for select in edition}
        applier = Applier(
            change_set, found.editions, [TableSpec(table) for name, table in tables.items() if name in used]
        )
        applier.apply()
        if applier.select_failed:
            raise AtlasError(
                f"The SELECT files of {source.name} fail on {applier.select_failed} records of its tables. "
                f"Mend them: atlas transform {source.name} tells in quarantine which and why."
            )
        failpoints.reached("beside.derived", source.stem)
        return Aside(source, rejects.export_rows(connection, source.domain))


def _tables_like(domain: str, schema: str) -> Tables:
    """The tables of a domain as those of another schema.

    They refer to each other only: what refers to a table that others read could not be dropped while they do.
    """
    project.load_tables()
    other = MetaData(naming_convention=metadata.naming_convention)
    metadata.tables["ops.sources"].to_metadata(other)
    tables = {
        table.name: table.to_metadata(
            other, schema=schema, referred_schema_fn=lambda _, to, __, referred: to if referred == domain else referred
        )
        for table in metadata.sorted_tables
        if table.schema == domain
    }
    for table in tables.values():
        table.constraints -= {each for each in table.foreign_key_constraints if each.referred_table.schema != schema}
    return tables
