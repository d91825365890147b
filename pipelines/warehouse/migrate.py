"""The warehouse's schema over time: Alembic's migrations, run from here and from nowhere else."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from sqlalchemy import Connection

from pipelines.errors import AtlasError
from pipelines.warehouse.database import Warehouse


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


def pending(warehouse: Warehouse) -> list[str]:
    """The revisions that `migrate` would apply, in their order."""
    at = current(warehouse)
    try:
        steps = list(ScriptDirectory.from_config(_config()).iterate_revisions("head", at or "base"))
    except RevisionError:
        raise AtlasError(
            f"The database is at revision {at}, which this project does not know: a newer version of it made it. "
            "Update the project."
        ) from None
    return [step.revision for step in reversed(steps)]


LOCK = "select pg_advisory_xact_lock(hashtextextended('migrate', 0))"
"""Runs hold it shared (`ledger`), so that no table changes under them."""


def migrate(warehouse: Warehouse) -> list[str]:
    """Applies pending migrations, one process at a time, when no run is under way; the revisions applied."""
    if not pending(warehouse):
        return []
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql(LOCK)
        steps = pending(warehouse)
        if steps:
            command.upgrade(_config(connection), "head")
    return steps


def downgrade(warehouse: Warehouse, revision: str = "base") -> None:
    """Takes migrations back, down to a revision; data of what they made goes with it."""
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql(LOCK)
        command.downgrade(_config(connection), revision)


def require(warehouse: Warehouse) -> None:
    """Fails with a sentence unless the warehouse is at the newest revision."""
    if pending(warehouse):
        raise AtlasError(f"The tables of database {warehouse.database!r} are not up to date. Run: atlas db migrate")


def ensure(warehouse: Warehouse) -> list[str]:
    """Creates the warehouse's database and Dagster's where they are missing, and migrates; the revisions applied."""
    warehouse.create_database(warehouse.database)
    warehouse.create_database(str(warehouse.dagster_url.database))
    return migrate(warehouse)
