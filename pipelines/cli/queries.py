"""`atlas runs`, `drift` and `ask`: the ledger, JSON paths that changed, and answers to questions.

Belongs here: their options and output. Not here: rows of the ledger (`pipelines.ledger`), what counts as drift
(`landing.schema_drift`), the questions: each is a SELECT in `sql/<domain>/questions/`.
"""

from typing import Annotated

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import SourceNames
from pipelines.errors import AtlasError
from pipelines.landing import schema_drift


def runs(
    source: Annotated[
        str | None, typer.Argument(help="Only this domain or source (domain/source).", metavar="[SOURCE]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
) -> None:
    """Show the ledger: what was landed and transformed, with status and counts."""
    wanted = [source, *(each.name for each in project.find_sources([source]))] if source else None
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
    show.result(rows)
    lines = [
        {
            "id": str(row["fetch_run_id"])[: show.ID_LENGTH],
            "run": row["kind"],
            "source": row["stream"],
            "day": row["partition_key"],
            "status": row["status"],
            "result": row["error_text"] or show.counts(row, row["stats"]),
        }
        for row in rows
    ]
    show.table("Ledger, newest first", lines)


def drift(sources: SourceNames = None) -> None:
    """Show what changed since the first landing of a stream: JSON paths and types that SELECTs read, and new keys."""
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        found = [
            each for source in project.find_sources(sources or []) for each in schema_drift.changes(connection, source)
        ]
    show.result(found)
    rows = [
        {name: each[name] for name in ("what", "stream", "path", "type")}
        | {
            "share": "" if each["share"] is None else f"{each['share']:.1%}",
            "lacking": each["lacking"],
            "run": str(each["run"])[: show.ID_LENGTH],
            "sample": each["payload_id"],
        }
        for each in found
    ]
    show.table("Changed JSON paths", rows)
    for each in found:
        if each["effects"]:
            show.say(schema_drift.sentence(each))


def ask(
    questions: Annotated[list[str] | None, typer.Argument(help="Names of questions; without any, all.")] = None,
) -> None:
    """Answer questions about the warehouse. Each is a SELECT that you can build on."""
    known = {each.name: each for each in project.questions()}
    unknown = [name for name in questions or [] if name not in known]
    if unknown:
        raise AtlasError(f"There is no question {unknown[0]!r}. There are: {', '.join(known)}.", usage=True)
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        answers = {name: connection.execute(known[name].text).fetchall() for name in questions or known}
    show.result(answers)
    for name, rows in answers.items():
        show.table(f"{known[name].sentence} ({name})", rows)
