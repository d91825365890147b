"""Extensions that have types of columns: a migration creates those that it may; columns of the others are left out.

declared columns ──leave_out──> those whose types the database has ──add, when an extension came──> all of them
"""

from collections.abc import Collection, Iterable
from typing import Any

import psycopg
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from psycopg import sql
from psycopg.rows import scalar_row
from sqlalchemy import Column, Table
from sqlalchemy.engine import Connection as EngineConnection

from pipelines.schema import declare
from pipelines.schema.table_spec import TableSpec

Connection = psycopg.Connection[Any]
NOT_CREATED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFile,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.UniqueViolation,
)
"""What PostgreSQL raises where the user may not create an extension, the server does not have it, or another process
has just created it.
"""


def extension_of(column: Column[Any]) -> str | None:
    """The extension that has the type of a column; None for a type of PostgreSQL's own."""
    return "vector" if type(column.type).__module__.startswith("pgvector.") else None


def missing(connection: Connection, columns: Iterable[Column[Any]]) -> set[str]:
    """The extensions that columns need and the database lacks."""
    needed = {name for column in columns if (name := extension_of(column))}
    if not needed:
        return needed
    there = connection.cursor(row_factory=scalar_row).execute("select extname from pg_extension").fetchall()
    return needed - set(there)


def create(connection: Connection) -> None:
    """Creates the extensions that declared columns need, where the user may; leaves out the columns of the others."""
    for name in missing(connection, _declared_columns()):
        try:
            with connection.transaction():
                connection.execute(sql.SQL("create extension if not exists {}").format(sql.Identifier(name)))
        except NOT_CREATED:
            continue
    leave_out(connection)


def leave_out(connection: Connection) -> None:
    """Removes the columns whose extension the database lacks from the declarations, for the rest of the process."""
    if lacking := missing(connection, _declared_columns()):
        for table in declare.metadata.tables.values():
            remove(table, lacking)


def _declared_columns() -> list[Column[Any]]:
    return [column for table in declare.metadata.tables.values() for column in table.columns]


def remove(table: Table, extensions: Collection[str]) -> None:
    """Removes the columns that need one of some extensions from a table, with their indexes."""
    for column in [each for each in table.columns if extension_of(each) in extensions]:
        table.info.setdefault("left_out", {})[column.name] = extension_of(column)
        table.indexes -= {index for index in table.indexes if column.name in index.columns}
        table._columns.remove(column)


def left_out() -> list[str]:
    """A sentence for each extension that the database lacks: the columns that are left out, and what brings them."""
    columns: dict[str, list[str]] = {}
    for table in declare.metadata.sorted_tables:
        for column, extension in table.info.get("left_out", {}).items():
            columns.setdefault(extension, []).append(f"{table.fullname}.{column}")
    return [
        f"The database lacks the extension {name}, so it has no {', '.join(found)}. A superuser can create it where "
        f"the server has it: create extension {name}. Then run: atlas db migrate"
        for name, found in columns.items()
    ]


def columns_to_add(connection: Connection) -> list[Column[Any]]:
    """The columns that tables lack because their extension came later."""
    query = """
        select from pg_class c, pg_extension e where c.oid = to_regclass(%s) and e.extname = %s
          and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = %s)
    """
    return [
        column
        for table in declare.metadata.sorted_tables
        for column in table.columns
        if (extension := extension_of(column))
        if connection.execute(query, [TableSpec(table).target.as_string(), extension, column.name]).rowcount
    ]


def add(connection: EngineConnection, columns: Iterable[Column[Any]]) -> None:
    """Adds columns to their tables, with the indexes that read them."""
    operations = Operations(MigrationContext.configure(connection))
    for column in columns:
        operations.add_column(column.table.name, column._copy(), schema=column.table.schema)
        for index in column.table.indexes:
            if column.name in index.columns:
                index.create(connection)
