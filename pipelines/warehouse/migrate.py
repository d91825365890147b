"""The warehouse's schema over time: Alembic's migrations of tables, then functions and views from their declarations.

Both run from here and from nowhere else, in one transaction. Belongs here: when. Not: what an object is (`objects`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from psycopg.rows import dict_row
from sqlalchemy import Connection

from pipelines.errors import AtlasError
from pipelines.warehouse import locks, objects
from pipelines.warehouse.database import Warehouse
from pipelines.warehouse.objects import SqlObject


def _config(connection: Connection | None = None) -> Config:
    config = Config(toml_file=Path(__file__).resolve().parents[2] / "pyproject.toml")
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision there is."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def current(warehouse: Warehouse) -> str | None:
    """The revision a warehouse is at; None before the first."""
    with warehouse.connect() as connection:
        there = connection.execute("select to_regclass('public.alembic_version') as name").fetchone()
        if there is None or there["name"] is None:
            return None
        row = connection.execute("select version_num from public.alembic_version").fetchone()
        return str(row["version_num"]) if row else None


def pending(warehouse: Warehouse, declared: Sequence[SqlObject]) -> list[str]:
    """What `migrate` would apply, in order: revisions, then functions and views whose text has changed."""
    at = current(warehouse)
    try:
        steps = list(ScriptDirectory.from_config(_config()).iterate_revisions("head", at or "base"))
    except RevisionError:
        raise AtlasError(
            f"The database is at revision {at}, which this project does not know: a newer version of it made it. "
            "Update the project."
        ) from None
    with warehouse.connect() as connection, connection.cursor() as cursor:
        return [step.revision for step in reversed(steps)] + objects.changed(cursor, declared)


def migrate(warehouse: Warehouse, declared: Sequence[SqlObject]) -> list[str]:
    """Applies what is pending, one process at a time, when no run is under way; what was applied."""
    if not pending(warehouse, declared):
        return []
    with _locked(warehouse) as (connection, cursor):
        steps = pending(warehouse, declared)
        if steps:
            objects.drop_views(cursor)
            command.upgrade(_config(connection), "head")
            objects.create(cursor, declared)
    return steps


def downgrade(warehouse: Warehouse, revision: str = "base") -> None:
    """Takes migrations back, down to a revision, with their data; functions and views go until the next `migrate`."""
    with _locked(warehouse) as (connection, cursor):
        objects.drop_all(cursor)
        command.downgrade(_config(connection), revision)


def require(warehouse: Warehouse, declared: Sequence[SqlObject]) -> None:
    """Fails with a sentence unless nothing is pending."""
    if pending(warehouse, declared):
        raise AtlasError(f"The tables of database {warehouse.database!r} are not up to date. Run: atlas db migrate")


def ensure(warehouse: Warehouse, declared: Sequence[SqlObject]) -> list[str]:
    """Creates the warehouse's database and Dagster's where they are missing, and migrates; what was applied."""
    warehouse.create_database(warehouse.database)
    warehouse.create_database(str(warehouse.dagster_url.database))
    return migrate(warehouse, declared)


@contextmanager
def _locked(warehouse: Warehouse) -> Iterator[tuple[Connection, objects.Cursor]]:
    """A transaction that no run and no other migration is beside, for Alembic and for statements of our own."""
    with warehouse.engine.begin() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        locks.acquire_for_transaction(driver, locks.MIGRATION)
        with driver.cursor(row_factory=dict_row) as cursor:
            yield connection, cursor
