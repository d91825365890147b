"""Writes migrations: what the declarations of tables say and a database at the newest revision does not.

    declarations ──compared with the database──> operations ──rendered, formatted──> migrations/versions/<id>.py

Alembic's autogenerate compares tables, columns, indexes and comments, and CHECK constraints by name. This module, a
plugin of it, adds schemas, sequences, and the text of CHECK constraints. Not here: functions, views … (`objects`).
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.operations import ops
from alembic.runtime.plugins import Plugin
from alembic.script import Script, ScriptDirectory
from alembic.util import DispatchPriority, PriorityDispatchResult
from psycopg import sql
from sqlalchemy import CheckConstraint, ClauseElement, Connection, MetaData, Table, text
from sqlalchemy.exc import ProgrammingError

from pipelines.errors import AtlasError
from pipelines.warehouse import migrate
from pipelines.warehouse.database import Warehouse

ID_LENGTH = 32
"""Length of alembic_version.version_num."""

SCHEMAS = "select nspname, obj_description(oid, 'pg_namespace') from pg_namespace order by nspname"
SEQUENCES = """
select format('%s.%s', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'S' and n.nspname = any(:schemas)
  and not exists (select from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i'))
"""
CHECKS = """
select conname, pg_get_constraintdef(oid) from pg_constraint
where conrelid = cast(:table as regclass) and contype = 'c'
"""


def write(warehouse: Warehouse, message: str) -> Path | None:
    """Writes the migration that brings the database to the declarations; None if they are equal.

    Raises AtlasError where the database is not at the newest revision, or a migration of the same id exists.
    """
    revision_id = _revision_id(message)
    at = migrate.current(warehouse) if warehouse.database in warehouse.databases() else None
    if at != migrate.head():
        raise AtlasError(
            f"Database {warehouse.database!r} is at revision {at or 'none'}, but a migration is written against "
            f"the newest, {migrate.head()}. Run: atlas db migrate"
        )
    with warehouse.engine.connect() as connection:
        script = command.revision(
            migrate.config(connection),
            message.replace("\\", "\\\\").replace('"', '\\"'),
            autogenerate=True,
            rev_id=revision_id,
            process_revision_directives=_omit_empty,
        )
    if not isinstance(script, Script):
        return None
    _format(Path(script.path))
    return Path(script.path)


def _revision_id(message: str) -> str:
    """The date and the words of the message, cut to what `alembic_version` holds."""
    words = re.sub(r"[^a-z0-9]+", "_", message.lower()).strip("_")
    if not words:
        raise AtlasError(f"The text {message!r} has no letter or digit to name a migration by.", usage=True)
    revision_id = f"{datetime.now(UTC):%Y_%m_%d}_{words}"[:ID_LENGTH].rstrip("_")
    if revision_id in {each.revision for each in ScriptDirectory.from_config(migrate.config()).walk_revisions()}:
        raise AtlasError(f"A migration {revision_id} exists already. Choose another text.", usage=True)
    return revision_id


def _omit_empty(_: object, __: object, directives: list[ops.MigrationScript]) -> None:
    directives[:] = [each for each in directives if each.upgrade_ops and not each.upgrade_ops.is_empty()]


def _format(path: Path) -> None:
    """Formats a file with ruff, which only a contributor's environment has."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    for arguments in (["check", "--fix"], ["format"]) if ruff else ():
        options = ["--quiet", "--no-cache", "--config", str(migrate.PYPROJECT)]
        subprocess.run([str(ruff), *arguments, *options, path], check=False, stdout=subprocess.DEVNULL)


def managed_schemas(metadata: MetaData, scripts: ScriptDirectory) -> set[str]:
    """Names of the schemas that are declared, or that a migration created: no other schema is compared or dropped."""
    texts = "\n".join(Path(each.path).read_text() for each in scripts.walk_revisions())
    return {*metadata.info["schemas"], *re.findall(r"create schema (\w+)", texts)}


# The plugin


class Statements(ops.MigrateOperation):
    """SQL statements of a migration, and those that reverse them."""

    def __init__(self, upgrade: list[str], downgrade: list[str]) -> None:
        self.upgrade, self.downgrade = upgrade, downgrade

    def reverse(self) -> "Statements":
        return Statements(self.downgrade, self.upgrade)

    def to_diff_tuple(self) -> tuple[str, list[str]]:
        return ("execute", self.upgrade)


@renderers.dispatch_for(Statements)
def _render(_: AutogenContext, operation: Statements) -> list[str]:
    return [f"op.execute({_without_parameters(each)!r})" for each in operation.upgrade]


class Renderer(PostgresqlImpl):
    """Writes SQL texts so that they mean in a migration what they mean in a declaration.

    Alembic uses the newest subclass of its implementation for a dialect.
    """

    __dialect__ = "postgresql"

    def render_ddl_sql_expr(
        self, expr: ClauseElement, is_server_default: bool = False, is_index: bool = False, **options: Any
    ) -> str:
        rendered = super().render_ddl_sql_expr(expr, is_server_default, is_index, **options)
        return _without_parameters(rendered.replace("%%", "%"))  # doubled for the driver


def _without_parameters(statement: str) -> str:
    """Escapes the colon of `:name`, which SQLAlchemy takes for a parameter."""
    return re.sub(r"(?<![:\w\\]):(?=\w)", r"\:", statement)


def setup(plugin: Plugin) -> None:
    """Registers the comparators; schemas and sequences are created before tables, and dropped after them."""
    add = plugin.add_autogenerate_comparator
    add(_compare_declared_schemas, "schema", "schemas", priority=DispatchPriority.FIRST)
    add(_compare_removed_schemas, "schema", "removed_schemas", priority=DispatchPriority.LAST)
    add(_compare_check_texts, "table", "check_texts")


def _compare_declared_schemas(
    context: AutogenContext, upgrade_ops: ops.UpgradeOps, schemas: set[str]
) -> PriorityDispatchResult:
    """Adds schemas and sequences that are missing, and comments of schemas that differ."""
    connection, metadata = _compared(context)
    present = {name: comment for name, comment in connection.execute(text(SCHEMAS))}
    for name, comment in metadata.info["schemas"].items():
        if name not in present:
            upgrade_ops.ops.append(
                Statements([f"create schema {name}", _comment(name, comment)], [f"drop schema {name}"])
            )
        elif present[name] != comment:
            upgrade_ops.ops.append(Statements([_comment(name, comment)], [_comment(name, present[name])]))
    for name in sorted(_declared_sequences(metadata) - _sequences(connection, schemas)):
        upgrade_ops.ops.append(Statements([f"create sequence {name}"], [f"drop sequence {name}"]))
    return PriorityDispatchResult.CONTINUE


def _compare_removed_schemas(
    context: AutogenContext, upgrade_ops: ops.UpgradeOps, schemas: set[str]
) -> PriorityDispatchResult:
    """Drops sequences and schemas that are no longer declared."""
    connection, metadata = _compared(context)
    for name in sorted(_sequences(connection, schemas) - _declared_sequences(metadata)):
        upgrade_ops.ops.append(Statements([f"drop sequence {name}"], [f"create sequence {name}"]))
    for name, comment in connection.execute(text(SCHEMAS)):
        if name in schemas and name not in metadata.info["schemas"]:
            upgrade_ops.ops.append(
                Statements([f"drop schema {name}"], [f"create schema {name}", _comment(name, comment)])
            )
    return PriorityDispatchResult.CONTINUE


def _comment(schema: str, comment: str | None) -> str:
    return f"comment on schema {schema} is {sql.Literal(comment).as_string()}"


def _sequences(connection: Connection, schemas: Iterable[str]) -> set[str]:
    """Sequences of the database that belong to no column."""
    return set(connection.scalars(text(SEQUENCES), {"schemas": [each for each in schemas if each]}))


def _declared_sequences(metadata: MetaData) -> set[str]:
    return set(metadata._sequences)  # SQLAlchemy has no public list of them


def _compared(context: AutogenContext) -> tuple[Connection, MetaData]:
    assert context.connection is not None and isinstance(context.metadata, MetaData)
    return context.connection, context.metadata


def _compare_check_texts(
    context: AutogenContext,
    modify_table_ops: ops.ModifyTableOps,
    schema: str | None,
    name: str,
    present_table: Table | None,
    declared_table: Table | None,
) -> PriorityDispatchResult:
    """Replaces CHECK constraints whose declared text means something else than that of the same name in the table."""
    if present_table is None or declared_table is None:
        return PriorityDispatchResult.CONTINUE
    connection, _ = _compared(context)
    declared = {str(each.name): each for each in declared_table.constraints if isinstance(each, CheckConstraint)}
    table = connection.dialect.identifier_preparer.format_table(present_table)
    present = {name: definition for name, definition in connection.execute(text(CHECKS), {"table": table})}
    reflected = {each["name"]: each["sqltext"] for each in context.inspector.get_check_constraints(name, schema)}
    both = {name: declared[name] for name in sorted(declared.keys() & present.keys())}
    normalized = _normalized(connection, table, both)
    for each, constraint in both.items():
        if normalized.get(each) != present[each]:
            before = CheckConstraint(reflected[each], name=constraint.name, table=present_table)
            modify_table_ops.ops.append(ops.DropConstraintOp.from_constraint(before))
            modify_table_ops.ops.append(ops.AddConstraintOp.from_constraint(constraint))
    return PriorityDispatchResult.CONTINUE


def _normalized(connection: Connection, table: str, constraints: dict[str, CheckConstraint]) -> dict[str, str]:
    """Definitions as PostgreSQL prints them, by name; without those that do not fit the table's present columns."""
    quote = connection.dialect.identifier_preparer.quote
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(f"create temporary table check_texts (like {table})")
        for name, constraint in constraints.items():
            condition = constraint.sqltext.compile(connection, compile_kwargs={"literal_binds": True})
            with suppress(ProgrammingError), connection.begin_nested():
                connection.exec_driver_sql(f"alter table check_texts add constraint {quote(name)} check ({condition})")
        return {name: definition for name, definition in connection.execute(text(CHECKS), {"table": "check_texts"})}
    finally:
        savepoint.rollback()


setup(Plugin("atlas"))
