"""Writes migrations: what the declarations of tables say and a database at the newest revision does not.

    declarations ──compared with the database──> operations ──rendered, formatted──> migrations/versions/<id>.py

Adds schemas and the text of CHECK constraints to what Alembic compares. Not here: functions, views … (`objects`);
sequences, written by hand.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.autogenerate.api import AutogenContext
from alembic.ddl.impl import ComparisonResult
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from psycopg import sql
from sqlalchemy import CheckConstraint, ClauseElement, Column, Connection, Index, Table, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.types import TypeEngine

from pipelines.errors import AtlasError
from pipelines.schema import declare, extensions, migrate
from pipelines.schema.table_spec import TableSpec
from pipelines.warehouse.database import Warehouse

ID_LENGTH = 32  # of alembic_version.version_num


def write(warehouse: Warehouse, message: str) -> Path | None:
    """Writes the migration that brings the database to the declarations; None if they are equal.

    Raises AtlasError where the database is not at the newest revision, or a migration of the same id exists.
    """
    words = re.sub(r"[^a-z0-9]+", "_", message.lower()).strip("_")
    if not words:
        raise AtlasError(f"The text {message!r} has no letter or digit to name a migration by.", usage=True)
    revision_id = f"{datetime.now(UTC):%Y_%m_%d}_{words}"[:ID_LENGTH].rstrip("_")
    if revision_id in {each.revision for each in _revisions()}:
        raise AtlasError(f"A migration {revision_id} exists already. Choose another text.", usage=True)
    at = migrate.current(warehouse) if warehouse.database in warehouse.databases() else None
    if at != migrate.head():
        raise AtlasError(
            f"Database {warehouse.database!r} is at revision {at or 'none'}, but a migration is written against "
            f"the newest, {migrate.head()}. Run: atlas db migrate"
        )
    with warehouse.engine.connect() as connection:
        script = command.revision(
            migrate.config(connection),
            message,
            autogenerate=True,
            rev_id=revision_id,
            process_revision_directives=_add_schemas,
        )
    if not isinstance(script, Script):
        return None
    ruff = Path(sys.executable).with_name("ruff")  # only a contributor's environment has it
    options = ["--quiet", "--no-cache", "--config", str(migrate.PYPROJECT), script.path]
    for arguments in (["check", "--fix"], ["format"]) if ruff.exists() else ():
        subprocess.run([ruff, *arguments, *options], check=False, stdout=subprocess.DEVNULL)
    return Path(script.path)


def includes(connection: Connection, name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
    """Whether Alembic compares what has a name: not a schema of somebody else's, nor a partition."""
    if kind == "table":
        query = text(
            "select relispartition from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where (n.nspname, c.relname) = (:schema, :name)"
        )
        return not connection.scalar(query, {"schema": parents["schema_name"] or "public", "name": name})
    return kind != "schema" or name in managed_schemas()


def managed_schemas() -> set[str]:
    """Names of the schemas that are declared, or that a migration created: no other schema is compared or dropped."""
    texts = "\n".join(Path(each.path).read_text() for each in _revisions())
    return {*declare.metadata.info["schemas"], *re.findall(r"create schema (\w+)", texts)}


def _revisions() -> Iterator[Script]:
    return ScriptDirectory.from_config(migrate.config()).walk_revisions()


def _add_schemas(context: MigrationContext, _: object, directives: list[ops.MigrationScript]) -> None:
    """Adds to a migration the schemas to create, to comment and, last, to drop; omits a migration that is empty."""
    (upgrade,), (downgrade,) = directives[0].upgrade_ops_list, directives[0].downgrade_ops_list
    assert context.connection is not None
    query = "select nspname, coalesce(obj_description(oid, 'pg_namespace'), '') from pg_namespace"
    managed = managed_schemas()
    present = {name: comment for name, comment in context.connection.execute(text(query)) if name in managed}
    declared: dict[str, str] = declare.metadata.info["schemas"]
    for name in sorted({*present, *declared}, reverse=True):
        _change_schema(upgrade.ops, name, present.get(name), declared.get(name))
        _change_schema(downgrade.ops, name, declared.get(name), present.get(name))
    if upgrade.is_empty():
        directives.clear()


def _change_schema(steps: list[ops.MigrateOperation], name: str, before: str | None, after: str | None) -> None:
    """Adds the statements that change the comment of a schema; None: there is no schema."""
    comment = ops.ExecuteSQLOp(_without_parameters(f"comment on schema {name} is {sql.Literal(after).as_string()}"))
    if after is None:
        steps.append(ops.ExecuteSQLOp(f"drop schema {name}"))
    elif before is None:
        steps[:0] = [ops.ExecuteSQLOp(f"create schema {name}"), comment]
    elif before != after:
        steps.append(comment)


def _without_parameters(statement: str) -> str:
    """Escapes the colon of `:name`, which SQLAlchemy takes for a parameter."""
    return re.sub(r"(?<![:\w\\]):(?=\w)", r"\:", statement)


class Implementation(PostgresqlImpl):
    """Compares and renders SQL texts. Alembic uses the newest subclass of its implementation for a dialect."""

    __dialect__ = "postgresql"

    def create_table(self, table: Table, **options: Any) -> None:
        """Creates a table without the columns whose extension the database lacks."""
        extensions.remove(table, self._missing_extensions(table.columns))
        super().create_table(table, **options)

    def add_column(self, table_name: str, column: Column[Any], **options: Any) -> None:
        """Adds a column, unless the database lacks its extension."""
        if not self._missing_extensions([column]):
            super().add_column(table_name, column, **options)

    def create_index(self, index: Index, **options: Any) -> None:
        """Creates an index, unless it reads a column that is left out."""
        declared = declare.metadata.tables.get(str(index.table))
        if declared is None or not set(index.columns.keys()) & TableSpec(declared).left_out:
            super().create_index(index, **options)

    def _missing_extensions(self, columns: Iterable[Column[Any]]) -> set[str]:
        assert self.connection is not None
        driver = self.connection.connection.driver_connection
        assert driver is not None
        return extensions.missing(driver, columns)

    def render_type(self, type_obj: TypeEngine[Any], autogen_context: AutogenContext) -> str | Literal[False]:
        """A type of an extension, whose import the migration gets; False for a type that Alembic knows."""
        kind = type(type_obj)
        if not kind.__module__.startswith("pgvector."):
            return super().render_type(type_obj, autogen_context)
        autogen_context.imports.add(f"from pgvector.sqlalchemy import {kind.__name__}")
        return repr(type_obj)

    def render_ddl_sql_expr(
        self, expr: ClauseElement, is_server_default: bool = False, is_index: bool = False, **options: Any
    ) -> str:
        """The text that means in a migration what it means in a declaration."""
        rendered = super().render_ddl_sql_expr(expr, is_server_default, is_index, **options)
        return _without_parameters(rendered.replace("%%", "%"))  # doubled for the driver

    def compare_check_constraint(
        self, metadata_constraint: CheckConstraint, reflected_constraint: CheckConstraint
    ) -> ComparisonResult:
        """Whether PostgreSQL prints both alike. A text that does not fit the table's present columns is different."""
        connection = self.connection
        assert connection is not None and reflected_constraint.table is not None
        prepare = self.dialect.identifier_preparer
        table, name = prepare.format_table(reflected_constraint.table), str(reflected_constraint.name)
        condition = metadata_constraint.sqltext.compile(connection, compile_kwargs={"literal_binds": True})
        with connection.begin_nested() as savepoint:
            try:
                connection.exec_driver_sql(f"create temporary table check_texts (like {table})")
                connection.exec_driver_sql(
                    f"alter table check_texts add constraint {prepare.quote(name)} check ({condition})"
                )
                query = "select distinct pg_get_constraintdef(oid) from pg_constraint where conname = :name and "
                query += "conrelid in (cast('check_texts' as regclass), cast(:table as regclass))"
                texts = connection.scalars(text(query), {"name": name, "table": table}).all()
            except ProgrammingError:
                texts = []
            savepoint.rollback()
        return ComparisonResult.Equal() if len(texts) == 1 else ComparisonResult.Different("another text")
