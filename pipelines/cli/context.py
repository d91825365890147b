"""What every command shares: settings from its flags, an open warehouse, and how it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pipelines import ledger, project, settings
from pipelines.cli import show
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.settings import Settings, strangers
from pipelines.warehouse import database, migrate
from pipelines.warehouse.database import Warehouse

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Database = Annotated[
    str | None, typer.Option("--database-url", help="Postgres 18 to use instead of DATABASE_URL or the embedded one.")
]

FAILED, PARTIAL = 1, 3

flags: dict[str, Any] = {}
"""Flags given before the command's name."""


def in_force(**more: Any) -> Settings:
    return settings.load(**flags, **more)


@contextmanager
def warehouse() -> Iterator[Warehouse]:
    """The warehouse at its newest revision, with the ledger rows of dead processes closed.

    The embedded one is ours alone, and made ready where it is not; a server of somebody else's is only asked.
    """
    settings = in_force()
    name_strangers()
    with database.open_warehouse(settings) as opened:
        if settings.database_url is None:
            migrate.ensure(opened, project.objects())
        else:
            migrate.require(opened, project.objects())
        ledger.reap(opened)
        yield opened


def name_strangers() -> None:
    """Says which variables look like settings and are none; asks connectors only where there may be one."""
    if not strangers({}):
        return
    for name in strangers({source.stem: source.extra_urls for source in project.sources().values()}):
        show.err.print(f"{name} is no setting, and of no source: nothing reads it.", highlight=False)


def confirm(question: str, otherwise: str) -> None:
    """Asks; fails with a sentence where the answer is no, or there is none."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise AtlasError(otherwise)


def end(runs: list[Run]) -> None:
    """Ends the command by what became of its runs: 0 all completed, 1 one failed, 3 something is in quarantine."""
    statuses = {run.status for run in runs}
    if "failed" in statuses:
        raise typer.Exit(FAILED)
    if "partial_success" in statuses:
        raise typer.Exit(PARTIAL)
