"""Functions, views, triggers and policies: declared as text, and created again when their text changes.

    declared text ──digest differs from that in ops.objects──> create again, comment, record the digest

They are what Flyway calls repeatable migrations. Not here: when they are created (`migrate`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pipelines.errors import AtlasError

Connection = psycopg.Connection[Any]
Kind = Literal["function", "view", "trigger", "policy"]


@dataclass(frozen=True)
class SqlObject:
    """A declared object, and the statements that create it and comment on it."""

    kind: Kind
    name: str  # as DROP refers to it: `ops.one()`, `marts.models`, `touch on catalog.models`
    statements: str

    @property
    def digest(self) -> str:
        """sha256 of the statements, lower hex."""
        return hashlib.sha256(self.statements.encode()).hexdigest()


END = "\n;\n"
"""What statements are joined by."""

DECLARED: dict[str, SqlObject] = {}
"""Every object declared so far, by name, in the order of declaration."""


def function(name: str, create: str, comment: str) -> None:
    """Declares a function. name: with the types of its arguments; create: its `create or replace` statement."""
    _declare("function", name, create, comment)


def view(name: str, select: str, comment: str, columns: Mapping[str, str] | None = None) -> None:
    """Declares a view. columns: comments of its columns, by name."""
    on_columns = [_comment("column", f"{name}.{column}", words) for column, words in (columns or {}).items()]
    _declare("view", name, f"create view {name} as\n{select}", comment, *on_columns)


def on_table(kind: Literal["trigger", "policy"], name: str, table: str, create: str, comment: str) -> None:
    """Declares a trigger or a row security policy on a table. create: its CREATE statement."""
    _declare(kind, f"{name} on {table}", create, comment)


def policies(table: str) -> list[str]:
    """The CREATE statements of the policies on a table."""
    return [
        each.statements.partition(END)[0]
        for each in DECLARED.values()
        if each.kind == "policy" and each.name.endswith(f" on {table}")
    ]


def _declare(kind: Kind, name: str, create: str, comment: str, *more: str) -> None:
    DECLARED[name] = SqlObject(kind, name, END.join([create, _comment(kind, name, comment), *more]))


def _comment(kind: str, name: str, words: str) -> str:
    return f"comment on {kind} {name} is {sql.Literal(words).as_string()}"


def changed(connection: Connection, objects: Sequence[SqlObject]) -> list[str]:
    """Names of the objects that are missing or have another text, then of those that are no longer declared."""
    created = _created(connection)
    names = [each.name for each in objects if each.name not in created or created[each.name][1] != each.digest]
    return names + sorted(created.keys() - {each.name for each in objects})


def drop(connection: Connection) -> None:
    """Drops the objects that depend on tables, the last one first, so that tables can be changed: all but functions."""
    for name, (kind, _) in reversed(_created(connection).items()):
        if kind != "function":
            connection.execute(f"drop {kind} if exists {name}".encode())


def create(connection: Connection, objects: Sequence[SqlObject]) -> None:
    """Creates objects and drops functions that are no longer declared. Raises AtlasError for a text that is wrong."""
    for name, (kind, _) in sorted(_created(connection).items()):
        if kind == "function" and name not in {each.name for each in objects}:
            connection.execute(f"drop function if exists {name}".encode())
        connection.execute("delete from ops.objects where name = %s", [name])
    for each in objects:
        try:
            _create(connection, each)
        except psycopg.ProgrammingError as error:  # a text that is wrong, or newer than the tables, or a name is taken
            raise AtlasError(
                f"The {each.kind} {each.name} cannot be created: {error.diag.message_primary}. "
                "Correct its text; a table or column that is new needs a migration first: atlas db revision -m TEXT"
            ) from error


def _create(connection: Connection, each: SqlObject) -> None:
    try:
        with connection.transaction():
            connection.execute(each.statements.encode())
    except psycopg.errors.InvalidFunctionDefinition:  # "create or replace" keeps result type and names of arguments
        connection.execute(f"drop function {each.name}".encode())
        connection.execute(each.statements.encode())
    connection.execute(
        "insert into ops.objects (name, kind, digest) values (%s, %s, %s)", [each.name, each.kind, each.digest]
    )


def _created(connection: Connection) -> dict[str, tuple[Kind, str]]:
    """Kind and digest of each object in the database by its name, in the order of creation."""
    cursor = connection.cursor(row_factory=tuple_row)
    if cursor.execute("select to_regclass('ops.objects')").fetchone() == (None,):
        return {}
    rows = cursor.execute("select name, kind, digest from ops.objects order by created_order")
    return {name: (kind, digest) for name, kind, digest in rows}
