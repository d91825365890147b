"""Functions, views, triggers and policies: declared as text, and created again when their text changes.

They are what Flyway calls repeatable migrations.

    declared text ──digest differs from that in ops.objects──> create again, comment, record the digest

Belongs here: declaring objects, and creating and dropping them. Not here: when (`migrate`), tables (`migrations/`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

from pipelines.errors import AtlasError

Cursor = psycopg.Cursor[dict[str, Any]]
Kind = Literal["function", "view", "trigger", "policy"]
REFUSED = (
    psycopg.errors.SyntaxError,
    psycopg.errors.DuplicateTable,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
)
"""How PostgreSQL refuses a text that is wrong, or newer than the tables, or a view whose name is taken."""


@dataclass(frozen=True)
class SqlObject:
    """A declared object. name: as DROP refers to it: `ops.one()`, `marts.models`, `touch on catalog.models`.

    create: its CREATE statement. comments: its COMMENT ON statements.
    """

    kind: Kind
    name: str
    create: str
    comments: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of all its statements, lower hex."""
        return hashlib.sha256("\0".join([self.create, *self.comments]).encode()).hexdigest()


DECLARED: dict[str, SqlObject] = {}
"""Every object declared so far, by name, in the order of declaration."""


def function(name: str, create: str, comment: str) -> None:
    """Declares a function. name: with the types of its arguments; create: its `create or replace` statement."""
    DECLARED[name] = SqlObject("function", name, create, (_comment("function", name, comment),))


def view(name: str, select: str, comment: str, columns: Mapping[str, str] | None = None) -> None:
    """Declares a view. columns: comments of its columns, by name."""
    comments = [_comment("view", name, comment)]
    comments += [_comment("column", f"{name}.{column}", words) for column, words in (columns or {}).items()]
    DECLARED[name] = SqlObject("view", name, f"create view {name} as\n{select}", tuple(comments))


def on_table(kind: Literal["trigger", "policy"], name: str, table: str, create: str, comment: str) -> None:
    """Declares a trigger or a row security policy on a table. create: its CREATE statement."""
    address = f"{name} on {table}"
    DECLARED[address] = SqlObject(kind, address, create, (_comment(kind, address, comment),))


def _comment(kind: str, name: str, words: str) -> str:
    return f"comment on {kind} {name} is {sql.Literal(words).as_string()}"


def changed(cursor: Cursor, objects: Sequence[SqlObject]) -> list[str]:
    """Names of the objects that are missing or have another text, then of those that are no longer declared."""
    created = _created(cursor)
    names = [each.name for each in objects if each.name not in created or created[each.name][1] != each.digest]
    return names + sorted(created.keys() - {each.name for each in objects})


def drop(cursor: Cursor) -> None:
    """Drops the objects that depend on tables, the last one first, so that tables can be changed: all but functions."""
    for name, (kind, _) in reversed(_created(cursor).items()):
        if kind != "function":
            _drop(cursor, kind, name)


def create(cursor: Cursor, objects: Sequence[SqlObject]) -> None:
    """Creates objects, of which `drop` has left functions alone, and drops functions that are no longer declared.

    Raises AtlasError where PostgreSQL does not accept a text.
    """
    functions = _created(cursor).keys()
    for name in sorted(functions - {each.name for each in objects}):
        _drop(cursor, "function", name)
    for each in objects:
        try:
            _create(cursor, each)
        except REFUSED as error:
            raise AtlasError(
                f"The {each.kind} {each.name} cannot be created: {error.diag.message_primary}. "
                "Correct its text; a table or column that is new needs a migration first: atlas db revision -m TEXT"
            ) from error
        cursor.execute(
            """
            insert into ops.objects (name, kind, digest) values (%s, %s, %s)
            on conflict (name) do update set digest = excluded.digest
            """,
            [each.name, each.kind, each.digest],
        )


def _create(cursor: Cursor, each: SqlObject) -> None:
    try:
        with cursor.connection.transaction():
            _execute(cursor, each.create)
    except psycopg.errors.InvalidFunctionDefinition:  # "create or replace" keeps result type and names of arguments
        _execute(cursor, f"drop function {each.name}")
        _execute(cursor, each.create)
    for comment in each.comments:
        _execute(cursor, comment)


def _drop(cursor: Cursor, kind: str, name: str) -> None:
    _execute(cursor, f"drop {kind} if exists {name}")
    cursor.execute("delete from ops.objects where name = %s", [name])


def _execute(cursor: Cursor, statement: str) -> None:
    cursor.execute(statement.encode())  # psycopg's types want a literal or bytes


def _created(cursor: Cursor) -> dict[str, tuple[Kind, str]]:
    """Kind and digest of each object in the database by its name, in the order of creation."""
    table = cursor.execute("select to_regclass('ops.objects') as name").fetchone()
    if table is None or table["name"] is None:
        return {}
    rows = cursor.execute("select name, kind, digest from ops.objects order by created_order")
    return {row["name"]: (row["kind"], row["digest"]) for row in rows}
