"""Brings a database to the newest schema: migrations of tables, then other objects from their declarations.

create extensions, roles ──> drop views ──> apply pending migrations (Alembic) ──> create objects whose text changed
             ──> give roles their privileges; all but the roles in one transaction
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from psycopg.rows import scalar_row
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from pipelines.errors import AtlasError
from pipelines.schema import declare, extensions, objects, partitions, roles
from pipelines.schema.objects import SqlObject
from pipelines.warehouse import locks
from pipelines.warehouse.database import Warehouse

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration. connection: what `migrations/env.py` runs on."""
    found = Config(toml_file=PYPROJECT, cmd_opts=Namespace(quiet=True))
    found.attributes["connection"] = connection
    return found


def head() -> str | None:
    """The newest revision; None where there is no migration."""
    return ScriptDirectory.from_config(config()).get_current_head()


def current(warehouse: Warehouse) -> str | None:
    """The revision a warehouse is at; None before the first."""
    with warehouse.connect() as connection:
        cursor = connection.cursor(row_factory=scalar_row)
        if cursor.execute("select to_regclass('public.alembic_version')").fetchone() is None:
            return None
        return cursor.execute("select version_num from public.alembic_version").fetchone()


def everything(declared: Sequence[SqlObject]) -> list[str]:
    """What `migrate` would apply to an empty database, in order."""
    return _revisions_after("base") + [each.name for each in declared]


def pending(warehouse: Warehouse, declared: Sequence[SqlObject]) -> list[str]:
    """What `migrate` would apply: revisions, columns whose extension came later, objects whose text has changed.

    Raises AtlasError where the database is at a revision that the project does not have.
    """
    at = current(warehouse)
    with warehouse.connect() as connection:
        changed = [f"{column.table.fullname}.{column.name}" for column in extensions.columns_to_add(connection)]
        changed += objects.changed(connection, declared)
    try:
        return _revisions_after(at or "base") + changed
    except RevisionError:
        raise AtlasError(
            f"The database is at revision {at}, which this project does not know: a newer version of it made it. "
            "Update the project."
        ) from None


def _revisions_after(revision: str) -> list[str]:
    steps = ScriptDirectory.from_config(config()).iterate_revisions("head", revision)
    return [step.revision for step in steps][::-1]


def migrate(warehouse: Warehouse, declared: Sequence[SqlObject]) -> list[str]:
    """Applies what is pending, once no run and no other migration is in progress; returns what was applied.

    Raises AtlasError where an object that the project does not declare depends on one that has to be dropped, and where
    roles are missing that the user may not create.
    """
    with warehouse.connect() as connection:
        extensions.create(connection)
    if not pending(warehouse, declared):
        return []
    roles.create(warehouse)
    try:
        with warehouse.engine.begin() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            locks.acquire_for_transaction(driver, locks.MIGRATION)
            steps = pending(warehouse, declared)
            if steps:
                objects.drop(driver)
                command.upgrade(config(connection), "head")
                extensions.add(connection, extensions.columns_to_add(driver))
                partitions.create_defaults(driver, declare.metadata.sorted_tables)
                objects.create(driver, declared)
                roles.apply(driver, revoke=True)
    except (psycopg.Error, DBAPIError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        others_depend = psycopg.errors.DependentObjectsStillExist, psycopg.errors.FeatureNotSupported
        if not isinstance(cause, others_depend) or not cause.diag.message_detail:
            raise
        raise AtlasError(
            f"The migration failed: {cause.diag.message_primary}: {'; '.join(cause.diag.message_detail.splitlines())}. "
            "Drop what depends on it, then run: atlas db migrate"
        ) from None
    return steps


def require(warehouse: Warehouse, declared: Sequence[SqlObject]) -> None:
    """Raises AtlasError unless nothing is pending; leaves out the columns whose extension the database lacks."""
    with warehouse.connect() as connection:
        extensions.leave_out(connection)
    if pending(warehouse, declared):
        raise AtlasError(f"The tables of database {warehouse.database!r} are not up to date. Run: atlas db migrate")


def ensure(warehouse: Warehouse, declared: Sequence[SqlObject]) -> list[str]:
    """Creates the warehouse's database and Dagster's where they are missing, and migrates; returns what was applied."""
    warehouse.create_database(warehouse.database)
    warehouse.create_database(str(warehouse.dagster_url.database))
    return migrate(warehouse, declared)
