"""The roles of a warehouse: created before a migration, given their privileges at its end, checked by `atlas db roles`.

Roles are of the whole server, so several warehouses on it have the same; privileges are of one database. Not here:
which privileges each role has (`privileges`).
"""

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import dict_row, scalar_row

from pipelines.errors import AtlasError
from pipelines.schema import privileges
from pipelines.schema.privileges import ANALYST, APPLICATION, ENGINEER, LOADER
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

ROLES = {
    LOADER: "owns schemas, tables and views; lands, transforms, prunes, erases",
    APPLICATION: "reads tables of domains; writes its own rows where applications may",
    ANALYST: "reads marts and the columns of domains that are not private",
    ENGINEER: "reads everything and runs atlas, as a member of atlas_loader",
}
ANALYST_TIMEOUT = "5min"


def create(warehouse: Warehouse) -> None:
    """Creates the roles that are missing, and makes the user a member of the loader where it may.

    Raises AtlasError where roles are missing and the user may not create them.
    """
    with warehouse.connect("postgres") as connection:
        if not (_missing_roles(connection) or _server_steps(connection)):
            return
        with connection.transaction():  # in one database for all warehouses of the server
            locks.acquire_for_transaction(connection, locks.ROLES)
            missing = _missing_roles(connection)
            statements = [sql.SQL("create role {} nologin").format(sql.Identifier(name)) for name in missing]
            try:
                for statement in statements:
                    connection.execute(statement)
            except InsufficientPrivilege:
                user = sql.Identifier(connection.info.user)
                statements.append(sql.SQL("grant {} to {}").format(sql.Identifier(LOADER), user))
                raise AtlasError(
                    f"The server lacks the roles {', '.join(missing)}, and {connection.info.user} may not create "
                    "them. A superuser or a role with CREATEROLE can: "
                    f"{'; '.join(each.as_string() for each in statements)}. Run the command again then."
                ) from None
            _execute_permitted(connection, _server_steps(connection))


def _missing_roles(connection: Connection) -> list[str]:
    cursor = connection.cursor(row_factory=scalar_row)
    there = set(cursor.execute("select rolname from pg_roles where rolname = any(%s)", [list(ROLES)]))
    return [name for name in ROLES if name not in there]


def _server_steps(connection: Connection) -> list[sql.Composed]:
    """What is missing of the memberships and settings that the roles need, as statements."""
    steps = []
    query = """
        select 'grant' as step, member.rolname as role from pg_roles loader, pg_roles member
        where loader.rolname = %(loader)s and not member.rolsuper
          and member.rolname in (%(engineer)s, current_user)
          and not (pg_has_role(member.oid, loader.oid, 'usage') and pg_has_role(member.oid, loader.oid, 'set'))
        union all
        -- PostgreSQL reads the settings of the role that logs in, not of those that it is a member of.
        select 'timeout', login.rolname from pg_roles login, pg_roles analyst, pg_roles loader
        where analyst.rolname = %(analyst)s and loader.rolname = %(loader)s
          and (login.oid = analyst.oid or login.rolcanlogin and pg_has_role(login.oid, analyst.oid, 'usage'))
          and not pg_has_role(login.oid, loader.oid, 'usage')
          and not exists (select from unnest(login.rolconfig) as s (setting) where s.setting ~ '^statement_timeout=')
        order by step, role
    """
    statements = {
        "grant": sql.SQL("grant {loader} to {role} with inherit true, set true"),
        "timeout": sql.SQL("alter role {role} set statement_timeout = {timeout}"),
    }
    names = {"loader": LOADER, "engineer": ENGINEER, "analyst": ANALYST}
    for row in connection.cursor(row_factory=dict_row).execute(query, names):
        steps.append(
            statements[row["step"]].format(
                loader=sql.Identifier(LOADER), role=sql.Identifier(row["role"]), timeout=sql.Literal(ANALYST_TIMEOUT)
            )
        )
    return steps


def _execute_permitted(connection: Connection, statements: Collection[sql.Composed]) -> None:
    """Executes the statements that the user may execute."""
    for statement in statements:
        with suppress(InsufficientPrivilege), connection.transaction():
            connection.execute(statement)


def apply(connection: Connection, *, revoke: bool) -> None:
    """Gives the objects of the warehouse to the loader, and each role its privileges, where the user may.

    revoke: also takes what is too much. Statements are executed only for what differs.
    """
    found = privileges.objects(connection)
    _execute_permitted(connection, [privileges.change_owner(each) for each in privileges.misowned(found)])
    wanted, actual = set(privileges.wanted(found)), privileges.actual(connection)
    _execute_permitted(connection, privileges.statements("grant", wanted - actual))
    if revoke:
        _execute_permitted(connection, privileges.statements("revoke", privileges.too_much(wanted, actual)))
    _execute_permitted(connection, privileges.missing_defaults(connection))


def is_incomplete(connection: Connection) -> bool:
    """Whether an owner is wrong or a privilege is missing."""
    found = privileges.objects(connection)
    misowned, missing = privileges.misowned(found), set(privileges.wanted(found)) - privileges.actual(connection)
    return bool(misowned or missing or privileges.missing_defaults(connection))


def problems(connection: Connection) -> list[str]:
    """A sentence for each owner that is wrong, each privilege that is missing or too much, each role that is more."""
    found = privileges.objects(connection)
    wanted, actual = set(privileges.wanted(found)), privileges.actual(connection)
    said, misowned = [], {each.name for each in privileges.misowned(found)}
    for each in privileges.misowned(found):
        fix = privileges.change_owner(each).as_string()
        said.append(f"The {each.kind} {each.name} belongs to {each.owner}, not to {LOADER}. Run: {fix}")
    missing = {each for each in wanted - actual if each.role != LOADER or each.name not in misowned}
    for privilege in sorted(missing):
        (statement,) = privileges.statements("grant", {privilege})
        said.append(f"{privilege.role} lacks {privilege}. Run: {statement.as_string()}")
    for privilege in sorted(privileges.too_much(wanted, actual)):
        (statement,) = privileges.statements("revoke", {privilege})
        said.append(f"{privilege.role} has {privilege}, which is too much. Run: {statement.as_string()}")
    steps = privileges.missing_defaults(connection) + _server_steps(connection)
    said += [f"A setting or membership is missing. Run: {step.as_string()}" for step in steps]
    return said + _excessive_roles(connection)


def described(connection: Connection) -> list[dict[str, Any]]:
    """A row for each role: what it may do, the roles and logins that are its members. Who created a role only manages
    it.
    """
    query = """
        select r.rolname as role, array_remove(array_agg(m.rolname::text order by m.rolname), null) as members
        from pg_roles r
        left join pg_auth_members a on a.roleid = r.oid and (a.inherit_option or a.set_option)
        left join pg_roles m on m.oid = a.member
        where r.rolname = any(%s) group by r.rolname
    """
    rows = connection.cursor(row_factory=dict_row).execute(query, [list(ROLES)])
    members = {row["role"]: row["members"] for row in rows}
    return [
        {"role": name, "may": may, "members": sorted(set(members[name]))}
        for name, may in ROLES.items()
        if name in members
    ]


def options(role: str) -> str:
    """Options of a session that has the privileges of a role, and its time-out, which a role that is set has not."""
    return f"-c role={role}" + (f" -c statement_timeout={ANALYST_TIMEOUT}" if role == ANALYST else "")


def _excessive_roles(connection: Connection) -> list[str]:
    """A sentence for each role that is more than a group, or is a member of a role that it should not be."""
    query = """
        select r.rolname as role, array_remove(array[
            case when r.rolsuper then 'SUPERUSER' end, case when r.rolcreaterole then 'CREATEROLE' end,
            case when r.rolcreatedb then 'CREATEDB' end, case when r.rolbypassrls then 'BYPASSRLS' end,
            case when r.rolreplication then 'REPLICATION' end, case when r.rolcanlogin then 'LOGIN' end], null) as more,
            array(select g.rolname::text from pg_auth_members m join pg_roles g on g.oid = m.roleid
                where m.member = r.oid and (r.rolname, g.rolname) <> (%s, %s) order by 1) as groups
        from pg_roles r where r.rolname = any(%s) order by 1
    """
    said = []
    rows = connection.cursor(row_factory=dict_row).execute(query, [ENGINEER, LOADER, list(ROLES)])
    for row in rows:
        role = sql.Identifier(row["role"])
        if row["more"]:
            fix = sql.SQL("alter role {} {}").format(
                role, sql.SQL(" ".join(f"no{each.lower()}" for each in row["more"]))
            )
            said.append(f"{row['role']} has {', '.join(row['more'])}, which is too much. Run: {fix.as_string()}")
        for group in row["groups"]:
            fix = sql.SQL("revoke {} from {}").format(sql.Identifier(group), role)
            said.append(f"{row['role']} is a member of {group}, which is too much. Run: {fix.as_string()}")
    return said
