"""Migrations: what they make is what the tables declare, and taking them back leaves nothing."""

import difflib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import sql
from sqlalchemy import text
from typer.testing import CliRunner

from pipelines import project
from pipelines.cli import context, db
from pipelines.errors import AtlasError
from pipelines.schema import migrate, objects, roles
from pipelines.schema.declare import metadata
from pipelines.warehouse import embedded
from pipelines.warehouse.database import Warehouse

Dump = Callable[[Warehouse], list[str]]


def test_migrations_make_what_the_tables_declare(empty_database: Callable[[], Warehouse], dump: Dump) -> None:
    migrated, declared = empty_database(), empty_database()
    project.load_tables()
    migrate.migrate(migrated, project.objects())
    with declared.engine.begin() as connection:
        for name, comment in metadata.info["schemas"].items():
            connection.execute(text(f"create schema {name}"))
            connection.execute(text(f"comment on schema {name} is '{comment}'"))
        metadata.create_all(connection)
    with declared.connect() as plain:
        objects.create(plain, project.objects())
        roles.apply(plain, revoke=True)
    difference = "\n".join(difflib.unified_diff(dump(declared), dump(migrated), "declared", "migrated", lineterm=""))
    assert difference == ""
    assert sum("COMMENT ON COLUMN" in line for line in dump(migrated)) > 100


@pytest.mark.long("all migrations")
def test_up_down_up_leaves_nothing_behind(
    empty_database: Callable[[], Warehouse], dump: Dump, downgrade: Callable[..., None]
) -> None:
    warehouse = empty_database()
    before = dump(warehouse)
    everything = migrate.pending(empty_database(), project.objects())
    assert migrate.migrate(warehouse, project.objects()) == everything
    up = dump(warehouse)
    downgrade(warehouse)
    assert dump(warehouse) == before
    migrate.migrate(warehouse, project.objects())
    assert dump(warehouse) == up
    assert migrate.pending(warehouse, project.objects()) == []


def test_migrating_twice_applies_nothing(warehouse: Warehouse) -> None:
    assert migrate.migrate(warehouse, project.objects()) == []
    assert migrate.current(warehouse) == migrate.head()


def test_analysts_read_every_mart_and_every_table_of_the_domain(warehouse: Warehouse) -> None:
    with warehouse.connect() as connection:
        query = "select relname, relnamespace::regnamespace::text as schema from pg_class where relkind in ('r', 'v')"
        query += " and relnamespace::regnamespace::text in ('catalog', 'marts')"
        found = connection.execute(query.encode()).fetchall()
        assert {row["schema"] for row in found} == {"catalog", "marts"}
        connection.execute("set role atlas_analyst")
        for row in found:
            connection.execute(sql.SQL("select * from {}").format(sql.Identifier(row["schema"], row["relname"])))


def test_every_table_and_column_has_a_comment(warehouse: Warehouse) -> None:
    with warehouse.engine.connect() as connection:
        bare = connection.execute(
            text(
                """
                select c.table_schema, c.table_name, c.column_name
                from information_schema.columns c
                where c.table_schema in ('ops', 'staging', 'catalog')
                  and (obj_description(format('%I.%I', c.table_schema, c.table_name)::regclass) is null
                       or col_description(
                           format('%I.%I', c.table_schema, c.table_name)::regclass, c.ordinal_position) is null)
                """
            )
        ).all()
        tables = connection.execute(text("select count(*) from pg_tables where schemaname = 'catalog'")).scalar()
    assert bare == []
    assert tables == 11


def test_an_unknown_revision_is_an_error_that_names_it(warehouse: Warehouse) -> None:
    with warehouse.connect() as connection:
        connection.execute("update alembic_version set version_num = 'from_the_future'")
    with pytest.raises(AtlasError, match="from_the_future, which this project does not know"):
        migrate.pending(warehouse, project.objects())


def test_the_command_creates_the_embedded_database_alone(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "flags", {"home": tmp_path / "home"})
    with embedded.running(tmp_path / "home"):  # one start of the server for all
        migrated = CliRunner().invoke(db.app, ["migrate", "--json"])
        assert json.loads(migrated.stdout)["applied"] == migrate.everything(project.objects())
        assert "Nothing to apply." in CliRunner().invoke(db.app, ["apply"]).stdout
        assert json.loads(CliRunner().invoke(db.app, ["check", "--json"]).stdout)["pending"] == []

    warehouse.drop_database(warehouse.database)
    monkeypatch.setattr(context, "flags", {"home": tmp_path / "home", "database_url": warehouse.conninfo})
    refused = CliRunner().invoke(db.app, ["migrate"])
    assert "Create it with: atlas db ensure" in str(refused.exception)
    assert warehouse.database not in warehouse.databases()
