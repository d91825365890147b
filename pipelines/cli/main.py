"""The entry point: registers the commands, and turns each error into a sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done in part.
"""

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import psycopg
import sqlalchemy.exc
import typer

from pipelines.cli import context, db, load, maintenance, queries, show, too_early, ui
from pipelines.errors import AtlasError

app = typer.Typer(
    help="The Model Atlas warehouse: load it, query it, and trace where each row comes from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(db.app, name="db")
app.add_typer(maintenance.app, name="quarantine")
WRITING = (load.run, load.land, load.transform, load.record, maintenance.prune, maintenance.erase)
READING = (queries.runs, queries.ask, queries.drift, queries.trace_, queries.rebuild_, queries.as_of, queries.diff)
for command in (*WRITING, *READING):
    app.command(command.__name__.strip("_").replace("_", "-"))(show.with_json(command))
app.command()(ui.ui)


@app.callback()
def flags(
    database_url: Annotated[
        str | None, typer.Option(help="Postgres 18 to use instead of DATABASE_URL or the embedded one.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of the embedded server instead of ATLAS_HOME.")] = None,
) -> None:
    context.flags = {"database_url": database_url, "home": home}


INTERRUPTED = 130
"""Typer's exit code for Ctrl-C."""

LOST = ("08", "57P")
"""How the SQLSTATE of a lost connection begins; an error without one is raised by the client when the server is gone.
"""

NEXT_STEPS = {
    "53": "The server lacks space, memory or connections: give it more, then run the command again.",
    "54": "A value is larger than PostgreSQL holds: leave it out of the SELECT or the index, then run it again.",
}
"""By class of SQLSTATE."""


def main() -> None:
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of a rollback that Ctrl-C interrupts
    if signal.getsignal(signal.SIGINT) is too_early:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except AtlasError as error:
        show.error(str(error))
        sys.exit(2 if error.usage else 1)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        show.error("Interrupted. What was published stays; `atlas runs` shows what was not. Run the command again.")
        sys.exit(1)
    except (psycopg.OperationalError, sqlalchemy.exc.OperationalError) as error:
        show.error(_operational(error))
        sys.exit(1)
    except psycopg.errors.InsufficientPrivilege as error:
        show.error(f"The database refuses: {_first_line(error)}. Grant the privilege to the user, or use another.")
        sys.exit(1)


def _operational(error: psycopg.Error | sqlalchemy.exc.DBAPIError) -> str:
    """What an OperationalError means, and the next step: psycopg raises it for limits of the server too."""
    said, state = _first_line(error), getattr(getattr(error, "orig", error), "sqlstate", None) or LOST[0]
    if state.startswith(LOST):
        return f"The database connection was lost: {said}. Run the command again when it is back."
    return f"The database cannot do it: {said}. {NEXT_STEPS.get(state[:2], 'Run the command again.')}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


if __name__ == "__main__":
    main()
