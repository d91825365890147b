"""`atlas runs`: the newest rows of the ledger, `ops.fetch_runs`.

Belongs here: its options and output. Not here: how rows of the ledger are written (`pipelines.ledger`).
"""

from typing import Annotated

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import AsJson


def runs(
    stream: Annotated[
        str | None, typer.Argument(help="Only this source (domain/source), or this domain.", metavar="[SOURCE]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    json: AsJson = False,
) -> None:
    """Show the ledger: what was landed and transformed, with status and counts."""
    wanted = None
    if stream:
        wanted = [stream, *(source.name for source in project.find_sources([stream]))]
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        rows = connection.execute(
            """
            select fetch_run_id, stream, kind, partition_key, status, started_at, ended_at, fetched, created, updated,
                unchanged, deleted, quarantined, duplicates, stats, error_text
            from ops.fetch_runs
            where %(wanted)s::text[] is null or stream = any(%(wanted)s)
            order by fetch_run_id desc limit %(limit)s
            """,
            {"wanted": wanted, "limit": limit},
        ).fetchall()
    if json:
        show.as_json(rows)
        return
    show.ledger("Ledger, newest first", rows, ids=True)
