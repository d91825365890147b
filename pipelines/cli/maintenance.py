"""`atlas prune` removes old data that nothing needs, `atlas erase` removes a record for good.

Belongs here: their options and output. Not here: what is removed (`pipelines.maintenance`).
"""

from typing import Annotated, Any

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import AsJson
from pipelines.errors import AtlasError
from pipelines.maintenance import erasure, retention
from pipelines.maintenance.retention import Policy


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
    json: AsJson = False,
) -> None:
    """Remove what is older than the settings keep. What the rows of tables are derived from stays."""
    policy = Policy.of(
        context.current_settings(keep_versions_days=versions, keep_quarantine_days=quarantine, keep_events_days=events)
    )
    with context.warehouse() as warehouse, show.reporting() as reporter:
        if dry_run:
            removed = dict(sorted(retention.count_prunable(warehouse, policy).items()))
        else:
            removed = retention.prune(warehouse, policy, notify=reporter).stats["removed"]
    if json:
        show.as_json({"dry_run": dry_run, "removed": removed})
        return
    show.table("Would be removed" if dry_run else "Removed", [{"what": k, "number": n} for k, n in removed.items()])


def erase(
    stream: Annotated[str, typer.Argument(help="Stream of the record: domain/source, or domain/source.kind.")],
    external_id: Annotated[str, typer.Argument(help="The source's own id of the record.")],
    lift: Annotated[bool, typer.Option("--lift", help="Allow an erased record to land again.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: AsJson = False,
) -> None:
    """Remove a record from staging, quarantine and tables for good; it does not land again. Asks first."""
    source, _ = project.find_stream(stream)
    answer: dict[str, Any]
    with context.warehouse() as warehouse, show.reporting() as reporter:
        if lift:
            if not erasure.lift(warehouse, stream, external_id):
                raise AtlasError(f"No record {external_id!r} of {stream} is erased.", usage=True)
            words, answer = f"{stream} {external_id} may land again.", {"lifted": True}
        else:
            with warehouse.connect() as connection:
                found = erasure.count_stored(connection, stream, external_id)
            if any(found.values()) and not yes:
                there = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in found.items() if number)
                question = f"Erase {stream} {external_id} for good ({there})?"
                context.confirm(question, "Nothing is erased. To erase without being asked: --yes.")
            run = erasure.erase(warehouse, source, stream, external_id, notify=reporter)
            erased = run.stats["erased"]
            answer = {"run": show.run_as_dict(run)}
            words = f"Erased by run {run.id}: {erased['versions']:,} versions, {run.counts.deleted:,} rows."
            if erased["shared_bodies"]:
                words += f" {erased['shared_bodies']:,} bodies stay: another record has the same."
    show.as_json(answer) if json else show.out.print(words, highlight=False, soft_wrap=True)
