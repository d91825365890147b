"""Copies of a domain's tables in a schema of their own, filled from staging by the code that transforms run.

staging.effective_versions_after(publish_seq) ──SELECT files of that time, in ops.sql──> a shadow schema
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from sqlalchemy import ForeignKeyConstraint, MetaData, Table

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.project import Select, SqlFile
from pipelines.schema import partitions
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec, names
from pipelines.transform import application_decisions
from pipelines.transform.apply import Applier
from pipelines.transform.change_set import ChangeSet, Edition, current_editions
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

Tables = dict[str, Table]
"""Tables of a shadow schema by their bare names, parents first."""

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
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        try:
            if keep_as:
                with connection.transaction(force_rollback=True):
                    _rename(connection, schema, keep_as)
            with warehouse.engine.begin() as engine:
                next(iter(tables.values())).metadata.create_all(engine, tables=list(tables.values()), checkfirst=False)
            partitions.create_defaults(connection, tables.values())
            for spec in map(TableSpec, tables.values()):
                if spec.written_by_applications:  # one of their rows may refer to one that is not derived
                    for each in spec.constraints(ForeignKeyConstraint):
                        drop = sql.SQL("alter table {} drop constraint {}")
                        connection.execute(drop.format(spec.target, sql.Identifier(str(each.name))))
            yield tables
            if keep_as:
                comment = sql.Literal(f"{KEPT_COMMENT.format(domain=domain)}{run_id}")
                with connection.transaction():
                    connection.execute(sql.SQL("comment on schema {} is {}").format(sql.Identifier(schema), comment))
                    _rename(connection, schema, keep_as)
        finally:
            if not connection.closed:
                _drop(connection, schema)


def kept_schemas(connection: Connection, domain: str) -> list[str]:
    """Names of the schemas in which a past state of a domain is kept."""
    query = "select nspname from pg_namespace where starts_with(obj_description(oid, 'pg_namespace'), %s) order by 1"
    return [row["nspname"] for row in connection.execute(query, [KEPT_COMMENT.format(domain=domain)])]


def _rename(connection: Connection, schema: str, name: str) -> None:
    """Renames a schema, so that it is not dropped. Raises AtlasError where there cannot be a schema of this name."""
    try:
        connection.execute(sql.SQL("alter schema {} rename to {}").format(sql.Identifier(schema), sql.Identifier(name)))
    except psycopg.errors.DuplicateSchema:
        raise AtlasError(f"The schema {name!r} already exists: choose another name.", usage=True) from None
    except psycopg.errors.ReservedName:
        raise AtlasError(f"A schema cannot be called {name!r}: choose another name.", usage=True) from None


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


def fill(warehouse: Warehouse, domain: str, tables: Tables, publish_seq: int | None) -> list[str]:
    """Fills a shadow schema from the versions that were effective when a run published, with the SELECT files that had
    been applied to each; None: from those that are effective now, with the SELECT files as they are now.

    Returns the tables, by their names in the domain, whose rows of applications have decided what is derived. Raises
    AtlasError where the tables have, or had, rows of a stream that no connector declares.
    """
    with warehouse.connect() as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        if publish_seq is None:
            change_set = ChangeSet(connection, current_editions(domain, tables))
            start_effective(change_set, domain)
        else:
            _require_declared(connection, domain)
            editions = _editions(connection, domain, tables, publish_seq)
            change_set = ChangeSet(connection, [edition for edition, _ in editions])
            change_set.start_complete([versions for _, versions in editions], publish_seq)
        _copy_rows_of_applications(connection, domain, tables)
        unconstrained = any(TableSpec(table).written_by_applications for table in tables.values())
        Applier(change_set, shrink=True, compares_first=unconstrained).apply()
        decisive = application_decisions.find(connection, list(map(TableSpec, tables.values())))
        return [f"{domain}.{spec.table.name}" for spec in decisive]


def _copy_rows_of_applications(connection: Connection, domain: str, tables: Tables) -> None:
    """Copies the rows of applications as they are now, which rows from sources refer to and lose keys to."""
    for name, table in tables.items():
        spec = TableSpec(table)
        if spec.written_by_applications:
            live = TableSpec(metadata.tables[f"{domain}.{name}"])
            columns = names([each.name for each in table.columns if each.computed is None])
            copy = sql.SQL("insert into {} ({}) select {} from {} t where {}")
            connection.execute(copy.format(spec.target, columns, columns, live.target, spec.of_application("t")))


def start_effective(change_set: ChangeSet, domain: str) -> int:
    """Starts a change set with all effective versions of a domain; returns the number of records.

    Raises AtlasError where some are of a stream that no connector declares, or that has no SELECT files.
    """
    _require_declared(change_set.connection, domain)
    versions: list[list[int]] = []
    for edition in change_set.editions:
        effective = "select version_id from staging.effective_versions where stream = any(%s)"
        rows = change_set.connection.execute(effective, [list(edition.source.stream_names.values())])
        versions.append([row["version_id"] for row in rows])
    records = change_set.start_complete(versions, None)
    left_out = change_set.connection.execute(
        """
        select split_part(stream, '.', 1) as source from staging.effective_versions
        where starts_with(stream, %s) and payload_id is not null and record_id not in (select record_id from change_set)
        limit 1
        """,
        [f"{domain}/"],
    ).fetchone()
    if left_out:
        raise project.without_selects(left_out["source"])
    return records


def _require_declared(connection: Connection, domain: str) -> None:
    """Raises AtlasError where the tables have, or had after some run, rows of a stream that no connector declares."""
    streams = [stream for source in project.sources_of(domain) for stream in source.stream_names.values()]
    (undeclared,) = connection.execute(
        """
        select min(stream) as stream from staging.versions
        where starts_with(stream, %s) and stream <> all(%s) and valid_from_run is not null and payload_id is not null
        """,
        [f"{domain}/", streams],
    )
    if undeclared["stream"]:
        raise AtlasError(
            f"The tables have, or had, rows of {undeclared['stream']}, but no connector in assets/{domain} "
            "declares this stream: the rows cannot be derived again. Restore the connector."
        )


def _editions(connection: Connection, domain: str, tables: Tables, publish_seq: int) -> list[tuple[Edition, list[int]]]:
    """The texts of SELECT files that had been applied to versions when a run published, each with the versions.

    Raises AtlasError where a table or a text no longer exists.
    """
    return [
        (Edition(source, _selects(connection, row["sql"], tables)), row["versions"])
        for source in project.sources_of(domain)
        for row in connection.execute(
            EDITIONS,
            {"streams": list(source.stream_names.values()), "source": source.name, "publish_seq": publish_seq},
        ).fetchall()
    ]


def _selects(connection: Connection, digests: dict[str, str], tables: Tables) -> list[Select]:
    """SELECT files by address and digest, with the texts that they had; parents before tables that refer to them."""
    rows = connection.execute("select digest, text from ops.sql where digest = any(%s)", [list(digests.values())])
    texts = {row["digest"]: row["text"] for row in rows}
    files: dict[str, Any] = {}
    for address, digest in digests.items():
        name = address.rsplit("/", 1)[1]
        if name not in tables:
            raise AtlasError(f"sql/{address}.sql filled the table {name}, which no longer exists.")
        if digest not in texts:
            raise AtlasError(f"ops.sql no longer has the text of sql/{address}.sql with the digest {digest}.")
        files[name] = SqlFile((project.SQL / address).with_suffix(".sql"), texts[digest])
    return [Select(files[name], table) for name, table in tables.items() if name in files]


def _tables_like(domain: str, schema: str) -> Tables:
    """The tables of a domain, declared in another schema."""
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
    for table in tables.values():  # to drop foreign keys to other schemas would wait for readers of tables there
        table.constraints -= {each for each in table.foreign_key_constraints if each.referred_table.schema != schema}
    return tables


EDITIONS = """
select e.sql, array_agg(e.version_id) as versions
from (
    select v.version_id, (
        select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(v.sql)
        where starts_with(key, %(source)s || '/')) as sql
    from staging.effective_versions_after(%(publish_seq)s) v
    where v.stream = any(%(streams)s)
) as e
group by e.sql order by min(e.version_id)
"""
"""The SELECT files of the source, by address and digest, and the versions to which these had been applied."""
