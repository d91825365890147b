"""`atlas runs` and `atlas ask`: the newest rows of the ledger, and answers to questions.

Belongs here: their options and output. Not here: how rows of the ledger are written (`pipelines.ledger`), where the
questions lie (`pipelines.project`): each is a SELECT in `sql/<domain>/questions/`.
"""

from typing import Annotated

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import AsJson, SourceName
from pipelines.errors import AtlasError


def runs(
    source: SourceName = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    json: AsJson = False,
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
    if json:
        show.as_json(rows)
        return
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


def ask(
    questions: Annotated[list[str] | None, typer.Argument(help="Names of questions; without any, all.")] = None,
    json: AsJson = False,
) -> None:
    """Answer questions about the warehouse. Each is a SELECT that you can build on."""
    known = {each.name: each for each in project.questions()}
    unknown = [name for name in questions or [] if name not in known]
    if unknown:
        raise AtlasError(f"There is no question {unknown[0]!r}. There are: {', '.join(known)}.", usage=True)
    answers = {}
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        for name in questions or known:
            answers[name] = connection.execute(known[name].text).fetchall()
    if json:
        show.as_json(answers)
        return
    for name, rows in answers.items():
        show.table(f"{known[name].sentence} ({name})", rows)
