"""What commands share: settings from flags, the open warehouse, questions to the user, exit codes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

import typer

from pipelines import ledger, project, settings
from pipelines.cli import show
from pipelines.cli.show import Reporter
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.schema import migrate
from pipelines.schema.privileges import LOADER
from pipelines.settings import Settings, unknown_variables
from pipelines.warehouse import database
from pipelines.warehouse.database import Warehouse

NAMES = "Domains, sources (domain/source) or streams (domain/source.kind)"
StreamNames = Annotated[list[str] | None, typer.Argument(help=f"{NAMES}; without any, all of them.")]
StreamName = Annotated[str, typer.Argument(help="Stream of the payloads: domain/source, or domain/source.kind.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

FAILED, PARTIAL = 1, 3

flags: dict[str, Any] = {}
"""Options given before the name of the command."""


def current_settings(**more: Any) -> Settings:
    """The settings from flags, the environment and `atlas.toml`."""
    return settings.load(**flags, **more)


@contextmanager
def warehouse() -> Iterator[Warehouse]:
    """The warehouse at its newest revision for the loader, with the ledger rows of dead processes closed."""
    with migrated() as opened, closing(opened.as_role(LOADER)) as loading:
        ledger.close_dead_runs(loading)
        yield loading


@contextmanager
def migrated() -> Iterator[Warehouse]:
    """The warehouse at its newest revision, for the user that logs in.

    The embedded database is created and migrated. Any other database is only checked: raises AtlasError where
    migrations are pending.
    """
    settings = current_settings()
    warn_unknown_variables()
    with database.open_warehouse(settings) as opened:
        prepare = migrate.ensure if settings.database_url is None else migrate.require
        prepare(opened, project.objects())
        yield opened


def warn_unknown_variables() -> None:
    """Warns of environment variables that no setting has; imports connectors only where there may be one."""
    if not unknown_variables({}):
        return
    for name in unknown_variables({source.stem: source.other_urls for source in project.sources().values()}):
        show.note(f"{name} is not the name of a setting: it has no effect.")


def confirm(question: str, otherwise: str) -> None:
    """Asks the user. Raises AtlasError with the text `otherwise` where the answer is no, or there is none."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed = False
        show.note("")  # ends the line of the question
    if not agreed:
        raise AtlasError(otherwise)


@contextmanager
def runs() -> Iterator[tuple[Warehouse, Reporter]]:
    """The warehouse, and a reporter of the runs in the block; ends the command with their exit code."""
    with warehouse() as opened, show.reporting() as reporter:
        yield opened, reporter
    show.result([show.run_as_dict(run) for run in reporter.runs])
    end(reporter.runs)


def end(runs: list[Run]) -> None:
    """Ends the command with the exit code of its runs: 0 all completed, 1 one failed, 3 one succeeded in part."""
    refused = sorted(
        {run.stream.partition(".")[0] for run in runs if run.counts.quarantined or run.stats.get("values")}
    )
    if refused:
        show.note(f"To see what was quarantined, run: atlas quarantine list {' '.join(refused)}")
    statuses = {run.status for run in runs}
    if "failed" in statuses:
        raise typer.Exit(FAILED)
    if "partial_success" in statuses:
        raise typer.Exit(PARTIAL)
