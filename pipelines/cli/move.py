"""Commands that move data and show what was moved: run, land, transform, runs."""

from collections.abc import Iterable
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import AsJson
from pipelines.connectors import recording
from pipelines.errors import AtlasError
from pipelines.landing import bulk_files as brought
from pipelines.landing import land as landing
from pipelines.ledger import Run
from pipelines.settings import Mode
from pipelines.source import Source, Window
from pipelines.transform.run import pending_partitions
from pipelines.transform.run import transform as transform_partition
from pipelines.warehouse.database import Warehouse

Sources = Annotated[list[str] | None, typer.Argument(help="Domains or sources (domain/source); all of them if none.")]
Day = Annotated[str | None, typer.Option("--partition", help="One day, YYYY-MM-DD.", metavar="DAY")]
Wanted = tuple[date | None, date | None]
Full = Annotated[bool, typer.Option("--full", help="Take in all latest versions again, not only those that wait.")]


def run(
    sources: Sources = None,
    partition: Day = None,
    since: Annotated[str | None, typer.Option("--from", help="First day of a range.", metavar="DAY")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Last day of a range.", metavar="DAY")] = None,
    full: Full = False,
    live: Annotated[
        bool | None, typer.Option("--live/--recorded", help="Ask the sources, or replay samples/ (ATLAS_MODE).")
    ] = None,
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Live: ask for everything, not only for what is new.")
    ] = False,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Believe a listing that has lost more than a fifth of its records.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Fetch, land and transform sources, day by day, as Dagster runs of this process.

    Without days: every recorded day, or today when live.
    """
    mode: Mode = context.in_force(mode=None if live is None else "live" if live else "recorded").mode
    if full_refresh and mode != "live":
        raise AtlasError("Only a live source can be asked for everything: --full-refresh goes with --live.", usage=True)
    wanted = _wanted(partition, since, until)
    work = [(source, _days(source, mode, wanted)) for source in project.find_sources(sources or [])]
    if mode == "live" and not any(days for _, days in work):
        begin = "; ".join(f"{source.name} on {source.start_date}" for source, _ in work)
        raise AtlasError(f"No source can be asked for these days. They begin: {begin}.", usage=True)
    if not any(days for _, days in work):
        there = "; ".join(
            f"{source.name}: {', '.join(map(str, recording.days(source))) or 'none'}" for source, _ in work
        )
        raise AtlasError(f"Nothing is recorded for these days. Recorded are {there}. Use --live for today.", usage=True)
    with context.warehouse() as warehouse, show.reporting() as reporter:
        from pipelines.cli import execute  # Dagster takes seconds to import

        execute.run(
            warehouse,
            context.in_force(),
            work,
            mode=mode,
            full=full,
            full_refresh=full_refresh,
            shrink=shrink,
            notify=reporter,
        )
        rows = _row_counts(warehouse, [source for source, _ in work])
    _tell_what_stays([source for source, _ in work])
    if json:
        show.as_json({"runs": [show.run_as_dict(each) for each in reporter.runs], "rows": rows})
    else:
        show.ledger("Runs", list(map(show.run_as_dict, reporter.runs)))
        show.table("Rows of all sources", [{"table": name, "rows": number} for name, number in rows.items()])
    context.end(reporter.runs)


def land(
    stream: Annotated[str, typer.Argument(help="What the payloads are: domain/source, or domain/source.kind.")],
    files: Annotated[Path, typer.Option("--from", help="File or folder: NDJSON or JSON, .gz and .zst too.")],
    partition: Day = None,
    json: AsJson = False,
) -> None:
    """Land payloads from files, through the same door as fetched ones."""
    source, kind = project.find_stream(stream)
    window = _window(partition) if partition else None
    if window and window.day < source.start_date:
        raise AtlasError(f"{source.name} begins on {source.start_date}: {window.key} is no day of it.", usage=True)
    intake = brought.intake(source, kind, files, window)
    day = window.key if window else datetime.now(UTC).date().isoformat()
    with context.warehouse() as warehouse, show.reporting() as reporter:
        landing.land_intake(warehouse, source, day, nullcontext(intake), notify=reporter)
        waiting = pending_partitions(warehouse, source)
    if waiting:
        show.err.print(f"To take it into the tables: atlas transform {source.name}", highlight=False)
    _tell_what_stays([source])
    _end(reporter.runs, json)


def transform(
    sources: Annotated[list[str], typer.Argument(help="Domains or sources (domain/source).")],
    partition: Day = None,
    full: Full = False,
    json: AsJson = False,
) -> None:
    """Take what waits in staging into the tables: every partition that has news, or one."""
    with context.warehouse() as warehouse, show.reporting() as reporter:
        chosen = project.find_sources(sources)
        for source in chosen:
            if not project.selects(source.name):
                continue
            days = [_window(partition).key] if partition else _transformable(warehouse, source, full)
            for day in days:
                transform_partition(warehouse, source, day, full=full, notify=reporter)
    _tell_what_stays(chosen)
    _end(reporter.runs, json)


def runs(
    stream: Annotated[
        str | None, typer.Argument(help="Only this source, domain/source, or all of a domain.", metavar="[SOURCE]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    json: AsJson = False,
) -> None:
    """Show the ledger: what was landed and transformed, and how it ended."""
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


def _window(text: str) -> Window:
    try:
        window = Window.of(text)
    except ValueError:
        raise AtlasError(f"{text!r} is no day. Write it as YYYY-MM-DD.", usage=True) from None
    if window.day > datetime.now(UTC).date():
        raise AtlasError(f"{text} has not come yet.", usage=True)
    return window


def _wanted(partition: str | None, since: str | None, until: str | None) -> Wanted | None:
    """The first and last day that were asked for, either of them open; None if none was named."""
    if partition and (since or until):
        raise AtlasError("Give either --partition or --from and --to.", usage=True)
    if partition:
        return _window(partition).day, _window(partition).day
    if not (since or until):
        return None
    first, last = (_window(text).day if text else None for text in (since, until))
    if first and last and last < first:
        raise AtlasError(f"The range {first} to {last} is empty.", usage=True)
    return first, last


def _days(source: Source, mode: Mode, wanted: Wanted | None) -> list[date]:
    """The days a source is to be run for: of its recordings, or up to today when live."""
    today = datetime.now(UTC).date()
    first, last = wanted or ((None, None) if mode == "recorded" else (today, today))
    first, last = max(first or source.start_date, source.start_date), min(last or today, today)
    if mode == "recorded":
        return [day for day in recording.days(source) if first <= day <= last]
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _transformable(warehouse: Warehouse, source: Source, full: bool) -> list[str]:
    if not full:
        return pending_partitions(warehouse, source)
    with warehouse.connect() as connection:
        rows = connection.execute(
            "select distinct partition_key from staging.versions where stream = any(%s) and latest order by 1",
            [list(source.streams.values())],
        )
        return [row["partition_key"] for row in rows]


def _row_counts(warehouse: Warehouse, sources: Iterable[Source]) -> dict[str, int]:
    from psycopg import sql

    tables = sorted({select.table.fullname for source in sources for select in project.selects(source.name)})
    counts = {}
    with warehouse.connect() as connection:
        for name in tables:
            query = sql.SQL("select count(*) as number from {}").format(sql.Identifier(*name.split(".")))
            row = connection.execute(query).fetchone()
            counts[name] = int(row["number"]) if row else 0
    return counts


def _tell_what_stays(sources: Iterable[Source]) -> None:
    for source in sources:
        if not project.selects(source.name):
            show.err.print(str(project.without_selects(source.name)), highlight=False, markup=False)


def _end(runs: list[Run], json: bool) -> None:
    if json:
        show.as_json([show.run_as_dict(each) for each in runs])
    else:
        show.ledger("Runs", list(map(show.run_as_dict, runs)))
    context.end(runs)
