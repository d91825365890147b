"""Functions and views: declared as text, created again when a text changes, as Flyway's repeatable migrations are.

    declared text ──digest differs from ops.objects?──> drop the views, migrate the tables, create functions and views

Belongs here: what is declared, and bringing the database up to it. Not: tables, which `migrate` changes step by step.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql

Cursor = psycopg.Cursor[dict[str, Any]]


@dataclass(frozen=True)
class SqlObject:
    """A function or a view. name: as SQL refers to it, a function with the types of its arguments.

    create: its `create or replace` statement. comments: COMMENT ON statements.
    """

    kind: Literal["function", "view"]
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
    DECLARED[name] = SqlObject("view", name, f"create or replace view {name} as\n{select}", tuple(comments))


def _comment(kind: str, name: str, words: str) -> str:
    return f"comment on {kind} {name} is {sql.Literal(words).as_string()}"


def changed(cursor: Cursor, objects: Sequence[SqlObject]) -> list[str]:
    """Names of the objects whose text is not what the database was given, and of those no longer declared."""
    recorded = _recorded(cursor)
    declared = {each.name: each.digest for each in objects}
    names = [name for name, digest in declared.items() if recorded.get(name, ("", ""))[1] != digest]
    return names + sorted(recorded.keys() - declared.keys())


def drop_views(cursor: Cursor) -> None:
    """Drops the recorded views, the last created first, so that a migration may change what they read."""
    views = [name for name, (kind, _) in _recorded(cursor).items() if kind == "view"]
    for name in reversed(views):
        cursor.execute(f"drop view if exists {name}".encode())
    if views:
        cursor.execute("delete from ops.objects where kind = 'view'")


def create(cursor: Cursor, objects: Sequence[SqlObject]) -> None:
    """Creates the objects, drops functions that are no longer declared, and records the digests."""
    recorded = _recorded(cursor)
    for name in sorted(recorded.keys() - {each.name for each in objects}):
        cursor.execute(f"drop {recorded[name][0]} if exists {name}".encode())
        cursor.execute("delete from ops.objects where name = %s", [name])
    for each in objects:
        if recorded.get(each.name, ("", ""))[1] == each.digest:
            continue
        _create(cursor, each)
        cursor.execute(
            """
            insert into ops.objects (name, kind, digest) values (%s, %s, %s)
            on conflict (name) do update set digest = excluded.digest
            """,
            [each.name, each.kind, each.digest],
        )


def drop_all(cursor: Cursor) -> None:
    """Drops every recorded object: what a downgrade leaves of the tables may not have what they read."""
    drop_views(cursor)
    for name in reversed(_recorded(cursor)):
        cursor.execute(f"drop function if exists {name}".encode())
        cursor.execute("delete from ops.objects where name = %s", [name])


def _create(cursor: Cursor, each: SqlObject) -> None:
    try:
        with cursor.connection.transaction():
            cursor.execute(each.create.encode())
    except psycopg.errors.InvalidFunctionDefinition:  # another return type or other names of arguments
        cursor.execute(f"drop {each.kind} {each.name}".encode())
        cursor.execute(each.create.encode())
    for comment in each.comments:
        cursor.execute(comment.encode())


def _recorded(cursor: Cursor) -> dict[str, tuple[str, str]]:
    """Kind and digest of each object in the database by its name, in the order of creation."""
    there = cursor.execute("select to_regclass('ops.objects') as name").fetchone()
    if there is None or there["name"] is None:
        return {}
    rows = cursor.execute("select name, kind, digest from ops.objects order by created_order")
    return {row["name"]: (row["kind"], row["digest"]) for row in rows}
