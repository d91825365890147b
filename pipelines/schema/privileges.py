"""Privileges on the objects of one database: those that each role should have, and those that it has.

    declared tables + catalogs ──wanted──┐
    access control lists ──actual────────┴──> grants that are missing, grants that are too much

A privilege that no rule in `wanted` names is too much. Not here: the roles themselves, and when this is done (`roles`);
the guards of rows from a source (`application_rows`).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from psycopg import sql
from psycopg.rows import class_row
from sqlalchemy import Table

from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.warehouse.database import Connection

LOADER, APPLICATION, ANALYST, ENGINEER = "atlas_loader", "atlas_application", "atlas_analyst", "atlas_engineer"
GROUPS = (LOADER, APPLICATION, ANALYST, ENGINEER)
PUBLIC = "public"
ENGINE, MARTS, REVISION = ("ops", "staging"), "marts", "public.alembic_version"
COLUMNS_OF_ENGINE = {"record_id", "from_source"}

OBJECTS = """
with objects as (
    select 'database' as kind, null as schema, format('%%I', datname) as name, oid, datdba as owner,
        coalesce(datacl, acldefault('d', datdba)) as acl
    from pg_database where datname = current_database()
    union all
    select 'schema', nspname, format('%%I', nspname), oid, nspowner, coalesce(nspacl, acldefault('n', nspowner))
    from pg_namespace where nspname = any(%(schemas)s)
    union all
    select case when c.relispartition then 'partition' when c.relkind = 'S' then 'sequence'
            when c.relkind = 'v' then 'view' else 'table' end, n.nspname,
        format('%%I.%%I', n.nspname, c.relname), c.oid, c.relowner,
        coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's'::"char" else 'r' end, c.relowner))
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where (n.nspname = any(%(schemas)s) or c.oid = to_regclass(%(revision)s)) and c.relkind in ('r', 'p', 'v', 'm', 'S')
      and not (c.relkind = 'S' and exists (  -- it follows the table of its column
          select from pg_depend d where d.objid = c.oid and d.deptype in ('a', 'i') and d.refobjsubid > 0))
    union all
    select case when p.prorettype in ('trigger'::regtype, 'event_trigger'::regtype) then 'trigger function'
        else 'function' end, n.nspname,
        format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.oid, p.proowner,
        coalesce(p.proacl, acldefault('f', p.proowner))
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = any(%(schemas)s) and p.prokind = 'f'
)
"""
KEYWORDS = {"view": "table", "partition": "table", "trigger function": "function"}
"""What GRANT calls a kind of object, where it has another word."""


@dataclass(frozen=True)
class Object:
    """A database, schema, table, view, sequence or function. name: as SQL."""

    kind: str
    schema: str | None
    name: str
    owner: str


@dataclass(frozen=True, order=True)
class Privilege:
    """What a role may do with an object, or with one column of it. name: of the object, as SQL."""

    role: str
    kind: str
    name: str
    action: str
    column: str = ""

    def __str__(self) -> str:
        column = f" of column {self.column}" if self.column else ""
        return f"{self.action.upper()}{column} on {self.kind} {self.name}"


def _domains() -> set[str]:
    return set(metadata.info["schemas"]) - {*ENGINE, MARTS}


def _names() -> dict[str, Any]:
    return {"schemas": [*metadata.info["schemas"], MARTS], "revision": REVISION, "roles": [*GROUPS]}


def objects(connection: Connection) -> list[Object]:
    query = f"{OBJECTS} select kind, schema, name, pg_get_userbyid(owner) as owner from objects order by oid"  # noqa: S608
    return connection.cursor(row_factory=class_row(Object)).execute(query.encode(), _names()).fetchall()


def actual(connection: Connection) -> set[Privilege]:
    """The privileges of the roles and of everybody; an owner has those that PostgreSQL gives it."""
    query = f"""{OBJECTS}
        select coalesce(r.rolname, 'public') as role, a.kind, a.name, lower(a.privilege_type) as action, a."column"
        from (
            select kind, name, '' as "column", (aclexplode(acl)).* from objects
            union all
            select o.kind, o.name, c.attname, (aclexplode(c.attacl)).*
            from objects o join pg_attribute c on c.attrelid = o.oid and o.kind in ('table', 'view')
        ) as a
        left join pg_roles r on r.oid = a.grantee
        where a.grantee = 0 or r.rolname = any(%(roles)s)
    """  # noqa: S608
    return set(connection.cursor(row_factory=class_row(Privilege)).execute(query.encode(), _names()))


def wanted(objects: list[Object]) -> Iterator[Privilege]:
    """The privileges of each role, and no other."""
    tables = {each.fullname: each for each in metadata.tables.values() if "kind" in each.info}
    for each in objects:
        of_domain, in_ops = each.schema in _domains(), each.schema == "ops"
        given: dict[str, set[str]] = {}
        if each.kind == "database":
            given = {LOADER: {"connect", "create", "temporary"}} | {
                role: {"connect"} for role in set(GROUPS) - {LOADER}
            }
        elif each.kind == "schema":
            given = {LOADER: {"usage", "create"}, ENGINEER: {"usage"}}
            given |= {APPLICATION: {"usage"}} if of_domain or in_ops else {}
            given |= {ANALYST: {"usage"}} if of_domain or in_ops or each.schema == MARTS else {}
        elif each.kind == "sequence":
            given = {LOADER: {"usage", "select", "update"}, ENGINEER: {"select"}}
        elif each.kind == "function":
            given = {LOADER: {"execute"}, ENGINEER: {"execute"}}
            given |= {role: {"execute"} for role in (APPLICATION, ANALYST) if of_domain or in_ops}
        elif each.kind in ("table", "view"):
            given = {LOADER: {"select", "insert", "update", "delete"}, ENGINEER: {"select"}}
            given |= {LOADER: given[LOADER] | {"truncate"}} if each.name != REVISION and each.kind == "table" else {}
            given |= {ANALYST: {"select"}} if each.schema == MARTS else {}
            if each.name in tables:
                yield from _wanted_of_domain(tables[each.name], each.name)
        for role, actions in given.items():
            yield from (Privilege(role, each.kind, each.name, action) for action in actions)


def _wanted_of_domain(table: Table, name: str) -> Iterator[Privilege]:
    """The privileges of applications and analysts for a table of a domain."""
    columns = [column.name for column in table.columns]
    readable = [column.name for column in table.columns if not column.info.get("private")]
    yield Privilege(APPLICATION, "table", name, "select")
    if readable == columns:
        yield Privilege(ANALYST, "table", name, "select")
    else:
        yield from (Privilege(ANALYST, "table", name, "select", column) for column in readable)
    if TableSpec(table).written_by_applications:
        yield Privilege(APPLICATION, "table", name, "delete")
        for column in set(columns) - (COLUMNS_OF_ENGINE if TableSpec(table).applications else set()):
            yield from (Privilege(APPLICATION, "table", name, action, column) for action in ("insert", "update"))


def too_much(wanted: set[Privilege], actual: set[Privilege]) -> set[Privilege]:
    """Not the loader's, which is the owner, nor what PostgreSQL lets everybody do with a database."""
    return {each for each in actual - wanted if each.role != LOADER and (each.role, each.kind) != (PUBLIC, "database")}


def statements(verb: str, privileges: Collection[Privilege]) -> list[sql.Composed]:
    """One GRANT or REVOKE for each role and object."""
    statements = []
    for (role, kind, name), group in groupby(sorted(privileges), key=lambda each: (each.role, each.kind, each.name)):
        actions = [
            sql.SQL(f"{each.action} ({{}})").format(sql.Identifier(each.column))
            if each.column
            else sql.SQL(each.action)
            for each in group
        ]
        statements.append(
            sql.SQL("{verb} {actions} on {kind} {name} {preposition} {role}").format(
                verb=sql.SQL(verb),
                actions=sql.SQL(", ").join(actions),
                kind=sql.SQL(KEYWORDS.get(kind, kind)),
                name=sql.SQL(name),
                preposition=sql.SQL("to" if verb == "grant" else "from"),
                role=sql.SQL(role) if role == PUBLIC else sql.Identifier(role),
            )
        )
    return statements


def misowned(objects: list[Object]) -> list[Object]:
    """Objects that belong to another role than the loader, schemas first; the database and its revision may."""
    found = [each for each in objects if each.kind != "database" and each.name != REVISION and each.owner != LOADER]
    return sorted(found, key=lambda each: each.kind != "schema")


def change_owner(each: Object) -> sql.Composed:
    kind, name = sql.SQL(KEYWORDS.get(each.kind, each.kind)), sql.SQL(each.name)
    return sql.SQL("alter {} {} owner to {}").format(kind, name, sql.Identifier(LOADER))


def missing_defaults(connection: Connection) -> list[sql.Composed]:
    """Analysts and engineers read each view that the loader makes in marts, at once."""
    query = """
        select from pg_namespace n where n.nspname = %s and not exists (
            select from pg_default_acl d cross join lateral aclexplode(d.defaclacl) as a
            where d.defaclnamespace = n.oid and d.defaclobjtype = 'r' and pg_get_userbyid(d.defaclrole) = %s
              and pg_get_userbyid(a.grantee) = %s)
    """
    return [
        sql.SQL("alter default privileges for role {} in schema {} grant select on tables to {}").format(
            sql.Identifier(LOADER), sql.Identifier(MARTS), sql.Identifier(reader)
        )
        for reader in (ANALYST, ENGINEER)
        if connection.execute(query, [MARTS, LOADER, reader]).rowcount
    ]
