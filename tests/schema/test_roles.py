"""Roles: each does what is its own, and nothing else; the command finds what somebody granted or revoked by hand."""

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import make_url

from pipelines import project, settings
from pipelines.errors import AtlasError
from pipelines.lineage import rebuild
from pipelines.maintenance import erasure, retention
from pipelines.schema import extensions, migrate, roles
from pipelines.schema.privileges import ANALYST, APPLICATION, ENGINEER, LOADER
from pipelines.warehouse import embedded
from pipelines.warehouse.database import Connection, Warehouse
from tests.launcher import FAILED, USAGE, Atlas, words
from tests.library import START, Recorder, shown
from tests.runs import stream_of

pytestmark = pytest.mark.usefixtures("toy")

Login = Callable[..., Warehouse]

FROM_SOURCE, OWN = "ann", "zoe"
"""Users of the forum and of an application."""


@pytest.fixture
def login() -> Iterator[Login]:
    """Makes a login that is a member of roles, and opens a warehouse as it."""
    made: list[tuple[Warehouse, Warehouse]] = []

    def make(warehouse: Warehouse, *groups: str, attributes: str = "") -> Warehouse:
        name = f"login_{uuid.uuid4().hex}"
        with (
            warehouse.connect() as connection,
            connection.transaction(),
        ):  # others never see an analyst without time-out
            identifier = sql.Identifier(name)
            connection.execute(sql.SQL("create role {} login password 'x' {}").format(identifier, sql.SQL(attributes)))
            connection.execute(sql.SQL("alter role {} set statement_timeout = '1min'").format(identifier))
            for group in groups:
                connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(group), identifier))
        made.append((warehouse, Warehouse(warehouse.url.set(username=name, password="x"))))
        return made[-1][1]

    yield make
    for origin, opened in made:
        opened.close()
        with origin.connect() as connection:
            for verb in ("drop owned by", "drop role"):
                connection.execute(sql.SQL("{} {}").format(sql.SQL(verb), sql.Identifier(str(opened.url.username))))


@pytest.fixture
def any_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the declared columns as they are for other tests, where a user may not create their extension."""
    monkeypatch.setattr(extensions, "leave_out", lambda _: None)


@contextmanager
def session(warehouse: Warehouse, user: str = FROM_SOURCE) -> Iterator[Connection]:
    """A session as an application has it for one of its users: without the settings of the engine."""
    with psycopg.connect(warehouse.conninfo, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        connection.execute("select set_config('app.user_id', ops.key(%s)::text, false)", [user])
        yield connection


def fill(warehouse: Warehouse) -> None:
    """Writes a user with a post from the forum, a user of an application, and a mart."""
    recorder = Recorder(warehouse, project.sources()["toy/forum"])
    posts = [{"id": 1, "user": FROM_SOURCE, "number": 1, "title": "one"}]
    recorder.land("a", {"users": [{"id": 1, "username": FROM_SOURCE}], "posts": posts})
    recorder.transform()
    with warehouse.connect() as connection:
        connection.execute("insert into toy.users (username) values (%s)", [OWN])
        connection.execute("set role atlas_loader")
        connection.execute("create view marts.names as select username from toy.users")


@pytest.fixture(scope="module")
def filled(toy: None, new_warehouse: Callable[[], Warehouse]) -> Iterator[Warehouse]:
    """For tests that change nothing."""
    warehouse = new_warehouse()
    fill(warehouse)
    yield warehouse
    warehouse.close()
    warehouse.drop_database(warehouse.database)


REFUSED = [
    (APPLICATION, "update toy.users set username = 'eve' where username = 'ann'"),
    (APPLICATION, "update toy.posts set title = 'mine' where title = 'one'"),
    (APPLICATION, "delete from toy.users where username = 'ann'"),
    (APPLICATION, "set atlas.engine = 'on'; update toy.users set username = 'eve' where username = 'ann'"),
    (APPLICATION, "set atlas.engine = 'on'; delete from toy.users where username = 'ann'"),
    (APPLICATION, "insert into toy.users (username, from_source) values ('eve', true)"),
    (APPLICATION, "update toy.users set from_source = true where username = 'zoe'"),
    (APPLICATION, "update toy.users set from_source = false where username = 'ann'"),
    (APPLICATION, "update toy.users set record_id = null where username = 'ann'"),
    (APPLICATION, "insert into toy.authors (author_id) values (uuidv7())"),
    (APPLICATION, "delete from toy.authors"),
    (APPLICATION, "truncate toy.tokens"),
    (APPLICATION, "delete from ops.sources"),
    (APPLICATION, "select from ops.sources"),
    (APPLICATION, "select from ops.role_users"),
    (APPLICATION, "select from ops.trace"),
    (APPLICATION, "select from staging.payloads"),
    (APPLICATION, "delete from staging.versions"),
    (APPLICATION, "insert into staging.changed_rows (table_name, key) values ('toy.users', 'x')"),
    (APPLICATION, "select from staging.effective_versions_after()"),
    (APPLICATION, "select nextval('ops.publish_seq')"),
    (APPLICATION, "create table toy.mine ()"),
    (APPLICATION, "create table public.mine ()"),
    (APPLICATION, "create schema mine"),
    (APPLICATION, "alter table toy.users disable trigger user"),
    (APPLICATION, "alter table toy.users drop column email"),
    (APPLICATION, "drop trigger update_is_refused on toy.users"),
    (APPLICATION, "set session_replication_role = replica"),
    (APPLICATION, "set role atlas_loader"),
    (APPLICATION, "select from marts.names"),
    (APPLICATION, "update public.alembic_version set version_num = ''"),
    (ANALYST, "select from staging.payloads"),
    (ANALYST, "select from staging.quarantine"),
    (ANALYST, "select from staging.effective_versions"),
    (ANALYST, "select from ops.fetch_runs"),
    (ANALYST, "select from ops.role_users"),
    (ANALYST, "insert into ops.role_users values (session_user, uuidv7())"),
    (ANALYST, "insert into toy.users (username) values ('eve')"),
    (ANALYST, "update toy.users set is_active = false"),
    (ANALYST, "delete from toy.tokens"),
    (ANALYST, "select email from toy.users"),
    (ANALYST, "select * from toy.users"),
    (ANALYST, "create view marts.mine as select 1"),
    (ANALYST, "create table toy.mine ()"),
    (ANALYST, "set role atlas_engineer"),
    (LOADER, "create role mine"),
    (LOADER, "copy toy.users to program 'true'"),
    (ENGINEER, "create role mine"),
    (ENGINEER, "drop role atlas_analyst"),
]


@pytest.mark.parametrize(("role", "statement"), REFUSED)
def test_a_role_may_not(filled: Warehouse, login: Login, role: str, statement: str) -> None:
    with session(login(filled, role)) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement.encode())


def test_the_refusal_names_the_source(filled: Warehouse, login: Login) -> None:
    with (
        session(login(filled, APPLICATION)) as connection,
        pytest.raises(InsufficientPrivilege, match="the source toy/forum"),
    ):
        connection.execute("update toy.users set username = 'eve' where username = 'ann'")


def test_a_stranger_may_not_use_the_function_that_runs_the_sql_of_a_trigger(filled: Warehouse, login: Login) -> None:
    """Not even one that may use the schema of it."""
    stranger = login(filled, APPLICATION)
    with filled.connect() as connection:
        name = sql.Identifier(str(stranger.url.username))
        connection.execute(sql.SQL("grant usage on schema ops to {}").format(name))
    with session(stranger) as connection:
        connection.execute("create temp table mine (a int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"function ops\.note_change"):
            connection.execute("create trigger t after insert on mine for each row execute function ops.note_change()")


def test_an_application_writes_its_own_rows(warehouse: Warehouse, login: Login) -> None:
    fill(warehouse)
    upsert = "insert into toy.users (username, email) values ('eve', %s) on conflict (lower(username))"
    upsert += " do update set email = excluded.email returning user_id"
    with session(login(warehouse, APPLICATION)) as connection:
        for email in ("a@a.example", "b@a.example"):
            (eve,) = connection.execute(upsert.encode(), [email]).fetchall()
        connection.execute("insert into toy.tokens (user_id) values (%s)", [eve["user_id"]])
        connection.execute("insert into toy.tokens (user_id) select user_id from toy.users where username = 'ann'")
        insert = "insert into toy.posts (user_id, number) values (%s, 1)"
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            connection.execute(insert, [eve["user_id"]])
        connection.execute("select set_config('app.user_id', %s, false)", [str(eve["user_id"])])
        connection.execute(insert, [eve["user_id"]])
        assert connection.execute("select user_id from toy.posts").fetchall() == [eve]
        connection.execute("select from toy.users where username = 'eve' for update")
        connection.execute("update toy.users set is_active = false where username in ('ann', 'zoe')")
        connection.execute("delete from toy.users where username in ('eve', 'zoe')")
        connection.execute("select from toy.authors")
        assert connection.execute("select ops.key('x') as key").fetchall()
    assert shown(warehouse, "select username from toy.users where not is_active") == [FROM_SOURCE]
    assert shown(warehouse, "select username from toy.users join toy.tokens using (user_id)") == [FROM_SOURCE]


def test_an_analyst_reads_marts_and_columns_that_are_not_private(filled: Warehouse, login: Login) -> None:
    with session(login(filled, ANALYST)) as connection:
        names = connection.execute("select username from marts.names order by 1").fetchall()
        assert names == connection.execute("select username from toy.users order by 1").fetchall()
        assert [row["username"] for row in names] == [FROM_SOURCE, OWN]
        connection.execute("select from toy.authors, toy.loans")


def test_each_login_of_an_analyst_gets_a_time_out(warehouse: Warehouse) -> None:
    """PostgreSQL does not read the setting of a role that the login is a member of."""
    with warehouse.connect() as connection, connection.transaction(force_rollback=True):  # other tests never see it
        connection.execute("create role login_without_timeout login in role atlas_analyst")
        connection.execute("create role login_of_loader login in role atlas_analyst, atlas_loader")
        connection.execute("create role login_that_manages login")
        connection.execute("grant atlas_analyst to login_that_manages with admin true, inherit false, set false")
        (step,) = roles._server_steps(connection)
        connection.execute(step)
        (row,) = connection.execute("select rolconfig from pg_roles where rolname = 'login_without_timeout'")
        assert row == {"rolconfig": ["statement_timeout=5min"]}
        assert roles._server_steps(connection) == []


def test_an_engineer_reads_everything(filled: Warehouse, login: Login) -> None:
    with session(login(filled, ENGINEER)) as connection:
        for table in ("staging.payloads", "ops.fetch_runs", "ops.trace", "toy.users", "marts.names", "ops.role_users"):
            connection.execute(sql.SQL("select from {}").format(sql.Identifier(*table.split("."))))


@pytest.fixture
def complete(warehouse: Warehouse) -> Warehouse:
    """With the privileges of the database itself, which a copy has not from its origin."""
    with warehouse.connect() as connection:
        roles.apply(connection, revoke=False)
        assert roles.problems(connection) == []
    return warehouse


@pytest.mark.long("all commands")
@pytest.mark.parametrize("role", [LOADER, ENGINEER])
def test_a_member_of_the_loader_does_all_that_atlas_does(complete: Warehouse, login: Login, role: str) -> None:
    fill(complete)
    loader = login(complete, role)
    migrate.require(loader, project.objects())
    recorder = Recorder(loader, project.sources()["toy/forum"], clock=START + timedelta(hours=1))
    users = [{"id": 1, "username": "ann", "email": "ann@a.example"}, {"id": 2, "username": "bob"}]
    recorder.land("a", {"users": users})
    recorder.land("b", {"users": [{"id": 3, "username": "cid"}]})
    recorder.transform()
    assert shown(loader, "select username from toy.users order by 1") == ["ann", "bob", "cid", OWN]
    assert shown(loader, "select email from toy.users where username = 'ann'") == ["ann@a.example"]
    assert [each for each in rebuild.check(loader, "toy") if not each["same"]] == []
    erasure.erase(loader, stream_of(recorder.source), "toy/forum", "b")
    recorder.full_refresh("a", "b")
    recorder.transform()
    assert shown(loader, "select username from toy.users") == [OWN]
    retention.prune(loader, settings.load(keep_versions_days=0, keep_quarantine_days=0, keep_events_days=0))
    with session(loader) as connection, connection.transaction(force_rollback=True):
        connection.execute("alter table toy.users enable row level security")
        connection.execute("set local row_security = off")
        connection.execute("select from toy.users")


def test_a_migration_makes_privileges_exact(complete: Warehouse) -> None:
    with complete.connect() as connection:
        connection.execute("grant select on staging.payloads to atlas_analyst")
        connection.execute("grant usage on schema staging to public")
        connection.execute("revoke select on toy.authors from atlas_application")
        connection.execute("alter table toy.books owner to current_user")
        assert len(roles.problems(connection)) == 4
    migrate.migrate(complete, project.objects()[:-1])
    with complete.connect() as connection:
        assert roles.problems(connection) == []
    migrate.migrate(complete, project.objects())
    with complete.connect() as connection:
        assert roles.problems(connection) == []


TAMPERED = [
    ("grant select on staging.payloads to atlas_analyst", "atlas_analyst has SELECT on table staging.payloads"),
    ("grant usage on schema staging to public", "public has USAGE on schema staging"),
    ("grant update (from_source) on toy.users to atlas_application", "UPDATE of column from_source on table toy.users"),
    ("grant execute on function staging.pending_versions(text) to public", "public has EXECUTE on function staging."),
    ("grant select (email) on toy.users to atlas_analyst", "atlas_analyst has SELECT of column email"),
    ("grant create on schema marts to atlas_analyst", "atlas_analyst has CREATE on schema marts"),
    ("grant temporary on database {} to atlas_analyst", "atlas_analyst has TEMPORARY on database"),
]


@pytest.mark.parametrize(("statement", "sentence"), TAMPERED)
def test_what_is_too_much_is_found_with_the_statement_that_takes_it(
    complete: Warehouse, statement: str, sentence: str
) -> None:
    with complete.connect() as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(complete.database)))
        roles.apply(connection, revoke=False)
        (problem,) = roles.problems(connection)
        assert sentence in problem
        assert "which is too much" in problem
        connection.execute(problem.partition("Run: ")[2].encode())
        assert roles.problems(connection) == []


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("alter role atlas_analyst bypassrls", "atlas_analyst has BYPASSRLS, which is too much"),
        ("alter role atlas_application login createdb", "atlas_application has CREATEDB, LOGIN, which is too much"),
        ("grant atlas_loader to atlas_application", "atlas_application is a member of atlas_loader"),
        ("grant pg_read_all_data to atlas_analyst", "atlas_analyst is a member of pg_read_all_data"),
        ("revoke atlas_loader from atlas_engineer", "Run: grant"),
    ],
)
def test_a_role_that_is_more_than_its_group_is_found(complete: Warehouse, statement: str, sentence: str) -> None:
    with complete.connect() as connection, connection.transaction(force_rollback=True):  # other tests never see it
        connection.execute(statement.encode())
        (problem,) = roles.problems(connection)
        assert sentence in problem
        connection.execute(problem.partition("Run: ")[2].encode())
        assert roles.problems(connection) == []


def test_the_command_creates_what_is_missing_and_shows_the_roles(
    warehouse: Warehouse, login: Login, atlas: Atlas
) -> None:
    name = login(warehouse, ANALYST).url.username
    with warehouse.connect() as connection:
        connection.execute("revoke select on toy.authors from atlas_application")
        assert roles.is_incomplete(connection)
    shown_roles = json.loads(atlas("db", "roles", "--json").stdout)
    assert shown_roles["problems"] == []
    members = {row["role"]: row["members"] for row in shown_roles["roles"]}
    assert list(members) == list(roles.ROLES)
    assert ENGINEER in members[LOADER]
    assert name in members[ANALYST]
    with warehouse.connect() as connection:
        assert not roles.is_incomplete(connection)
        connection.execute("grant select on staging.payloads to atlas_analyst")
    printed = words(atlas("db", "roles", code=FAILED).stdout)
    assert "atlas_analyst has SELECT on table staging.payloads, which is too much. Run: revoke select" in printed


def test_the_shell_has_the_privileges_of_a_role(atlas: Atlas) -> None:
    ask = ("--", "-Atc", "select current_user || ' ' || current_setting('statement_timeout')")
    assert atlas("db", "shell", "--role", ANALYST, *ask).stdout.strip() == "atlas_analyst 5min"
    assert atlas("db", "shell", "--role", LOADER, *ask).stdout.strip() == "atlas_loader 0"
    refused = atlas("db", "shell", "--role", ANALYST, "--", "-c", "select from staging.payloads", code=FAILED)
    assert "permission denied" in refused.stderr
    assert "is not a role of the warehouse" in words(atlas("db", "shell", "--role", "eve", code=USAGE).stderr)


@pytest.mark.usefixtures("any_extension")
def test_a_user_who_may_not_create_roles_works_where_they_are(login: Login, warehouse: Warehouse) -> None:
    """Two migrations by users with CREATEDB alone: one is a member of the loader, the other is not."""
    for groups in ((LOADER,), ()):
        user = login(warehouse, *groups, attributes="createdb")
        fresh = Warehouse(user.url.set(database=f"{warehouse.database}_fresh"))
        try:
            assert migrate.ensure(fresh, project.objects()[:0])
            with fresh.connect() as connection:
                owner = LOADER if groups else user.url.username
                (row,) = connection.execute("select tableowner from pg_tables where tablename = 'fetch_runs'")
                assert row["tableowner"] == owner
                problems = roles.problems(connection)
            assert bool(problems) is not bool(groups)
            assert all(LOADER in problem for problem in problems)
        finally:
            fresh.close()
            for name in (fresh.database, str(fresh.dagster_url.database)):
                warehouse.drop_database(name)


@pytest.mark.long("all commands")
@pytest.mark.usefixtures("any_extension")
def test_a_server_without_roles_gets_them_from_a_user_who_may(tmp_path: Path) -> None:
    with embedded.running(tmp_path) as url, ExitStack() as stack:

        def opened(user: str, database: str) -> Warehouse:
            return stack.enter_context(closing(Warehouse(make_url(url).set(database=database, username=user))))

        with opened("postgres", "postgres").connect() as connection:
            connection.execute("create role plain login createdb")
            connection.execute("create role creator login createdb createrole")
        with pytest.raises(AtlasError) as caught:
            migrate.ensure(opened("plain", "refused"), project.objects()[:0])
        assert "lacks the roles atlas_loader, atlas_application, atlas_analyst, atlas_engineer" in str(caught.value)
        assert "A superuser or a role with CREATEROLE can: create role" in str(caught.value)
        assert 'grant "atlas_loader" to "plain". Run the command again' in str(caught.value)

        warehouse = opened("creator", "made")
        migrate.ensure(warehouse, project.objects()[:0])
        with warehouse.connect() as connection:
            assert roles.problems(connection) == []
            members = {row["role"]: row["members"] for row in roles.described(connection)}
        assert members == {LOADER: [ENGINEER, "creator"], APPLICATION: [], ANALYST: [], ENGINEER: []}


def test_twenty_processes_create_roles_at_once(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"atlas_{uuid.uuid4().hex}"
    monkeypatch.setattr(roles, "ROLES", roles.ROLES | {name: "of this test"})
    try:
        with ThreadPoolExecutor(20) as threads:
            assert list(threads.map(roles.create, [warehouse] * 20)) == [None] * 20
        with warehouse.connect() as connection:
            assert roles._missing_roles(connection) == []
    finally:
        with warehouse.connect() as connection:
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
