"""`atlas prune` removes old data that nothing needs, `atlas erase` removes a record for good.

Belongs here: their options and output. Not here: what is removed (`pipelines.maintenance`).
"""

from typing import Annotated

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import Stream, Yes
from pipelines.errors import AtlasError
from pipelines.maintenance import erasure, retention


def _days(name: str, what: str) -> object:
    """An option that overrides a `keep_…_days` setting."""
    return typer.Option(
        f"--{name}-days", min=0, help=f"Days to keep {what}, instead of ATLAS_KEEP_{name.upper()}_DAYS."
    )


def prune(
    versions: Annotated[int | None, _days("versions", "superseded versions")] = None,
    quarantine: Annotated[int | None, _days("quarantine", "closed quarantine entries")] = None,
    events: Annotated[int | None, _days("events", "Dagster's events")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
) -> None:
    """Remove what is older than the settings keep. What the rows of tables are derived from stays."""
    settings = context.current_settings(
        keep_versions_days=versions, keep_quarantine_days=quarantine, keep_events_days=events
    )
    with context.warehouse() as warehouse, show.reporting() as reporter:
        if dry_run:
            removed = dict(sorted(retention.count_prunable(warehouse, settings).items()))
        else:
            removed = retention.prune(warehouse, settings, notify=reporter).stats["removed"]
    show.result({"dry_run": dry_run, "removed": removed})
    title = "Would be removed" if dry_run else "Removed"
    show.table(title, [{"what": kind, "number": number} for kind, number in removed.items()])


def erase(
    stream: Stream,
    external_id: Annotated[str, typer.Argument(help="The source's own id of the record.")],
    lift: Annotated[bool, typer.Option("--lift", help="Allow an erased record to land again.")] = False,
    yes: Yes = False,
) -> None:
    """Remove a record from staging, quarantine and tables for good; it does not land again. Asks first."""
    source, _ = project.find_stream(stream)
    with context.warehouse() as warehouse:
        if lift:
            if not erasure.lift(warehouse, stream, external_id):
                raise AtlasError(f"No record {external_id!r} of {stream} is erased.", usage=True)
            show.result({"lifted": True})
            show.say(f"{stream} {external_id} may land again.")
            return
        with warehouse.connect() as connection:
            stored = erasure.count_stored(connection, stream, external_id)
        there = [show.number_of(number, name.replace("_", " ")) for name, number in stored.items() if number]
        if there and not yes:
            question = f"Erase {stream} {external_id} for good ({', '.join(there)})?"
            context.confirm(question, "Nothing is erased. To erase without being asked: --yes.")
        run = erasure.erase(warehouse, source, stream, external_id)
    versions, rows = run.stats["erased"]["versions"], run.counts.deleted
    words = f"{show.number_of(versions, 'versions')}, {show.number_of(rows, 'rows')}."
    if shared := run.stats["erased"]["shared_bodies"]:
        words += f" {show.number_of(shared, 'bodies')} kept: another record has the same."
    show.result({"run": show.run_as_dict(run)})
    show.say(f"Erased by run {run.id}: {words}")
