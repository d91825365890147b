"""`atlas run`, `land` and `transform`: fetch payloads, land them in staging, transform them into tables.

Belongs here: options, and which days of which sources. Not here: how Dagster runs are executed (`dagster_runs`).
"""

from collections.abc import Iterable
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from psycopg import sql

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import AsJson
from pipelines.connectors import recording
from pipelines.errors import AtlasError
from pipelines.landing import bulk_files
from pipelines.landing.land import land_intake
from pipelines.ledger import Run
from pipelines.settings import Mode
from pipelines.source import Source, Window
from pipelines.transform.run import pending_partitions
from pipelines.transform.run import transform as transform_partition
from pipelines.warehouse.database import Warehouse

Sources = Annotated[
    list[str] | None, typer.Argument(help="Domains or sources (domain/source); without any, all of them.")
]
Day = Annotated[str | None, typer.Option("--partition", help="One day, YYYY-MM-DD.", metavar="DAY")]
DayRange = tuple[date | None, date | None]
"""First and last day; None where that end is open."""
Work = list[tuple[Source, list[date]]]
Full = Annotated[bool, typer.Option("--full", help="Apply all latest versions again, not only pending ones.")]
Shrink = Annotated[
    bool,
    typer.Option(
        "--shrink", help="Accept that a listing or table loses more than a fifth, or that a SELECT fails often."
    ),
]


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
        bool, typer.Option("--full-refresh", help="Live: read all of the source, not only what is new.")
    ] = False,
    shrink: Shrink = False,
    json: AsJson = False,
) -> None:
    """Fetch, land and transform sources, day by day, as Dagster runs of this process.

    Without days: every recorded day, or today when live.
    """
    mode: Mode = context.current_settings(mode=None if live is None else "live" if live else "recorded").mode
    if full_refresh and mode != "live":
        raise AtlasError("A recording is always read whole: --full-refresh goes with --live.", usage=True)
    work = _work(project.find_sources(sources or []), mode, _day_range(partition, since, until))
    with context.warehouse() as warehouse, show.reporting() as reporter:
        from pipelines.cli import dagster_runs  # Dagster takes seconds to import

        dagster_runs.run(
            warehouse,
            context.current_settings(),
            work,
            mode=mode,
            full=full,
            full_refresh=full_refresh,
            shrink=shrink,
            notify=reporter,
        )
        rows = _row_counts(warehouse, [source for source, _ in work])
    _warn_without_selects([source for source, _ in work])
    if json:
        show.as_json({"runs": [show.run_as_dict(each) for each in reporter.runs], "rows": rows})
    else:
        show.ledger("Runs", list(map(show.run_as_dict, reporter.runs)))
        show.table("Rows of all sources", [{"table": name, "rows": number} for name, number in rows.items()])
    context.end(reporter.runs)


def land(
    stream: Annotated[str, typer.Argument(help="Stream of the payloads: domain/source, or domain/source.kind.")],
    files: Annotated[Path, typer.Option("--from", help="File or folder: NDJSON or JSON, .gz and .zst too.")],
    partition: Day = None,
    json: AsJson = False,
) -> None:
    """Land payloads from files, exactly as fetched ones are landed."""
    source, kind = project.find_stream(stream)
    window = _window(partition) if partition else None
    if window and window.day < source.start_date:
        raise AtlasError(f"{source.name} begins on {source.start_date}; {window.key} is before that.", usage=True)
    intake = bulk_files.intake(source, kind, files, window)
    day = window.key if window else datetime.now(UTC).date().isoformat()
    with context.warehouse() as warehouse, show.reporting() as reporter:
        land_intake(warehouse, source, day, nullcontext(intake), notify=reporter)
        pending = pending_partitions(warehouse, source)
    if pending:
        show.err.print(f"To apply it to the tables, run: atlas transform {source.name}", highlight=False)
    _warn_without_selects([source])
    _end(reporter.runs, json)


def transform(
    sources: Annotated[list[str], typer.Argument(help="Domains or sources (domain/source).")],
    partition: Day = None,
    full: Full = False,
    shrink: Shrink = False,
    json: AsJson = False,
) -> None:
    """Apply pending payloads to the tables: of every partition that has any, or of one."""
    with context.warehouse() as warehouse, show.reporting() as reporter:
        chosen = project.find_sources(sources)
        for source in chosen:
            if not project.selects(source.name):
                continue
            days = [_window(partition).key] if partition else _transformable(warehouse, source, full)
            for day in days:
                transform_partition(warehouse, source, day, full=full, shrink=shrink, notify=reporter)
    _warn_without_selects(chosen)
    _end(reporter.runs, json)


def _window(text: str) -> Window:
    """The day that a text names. Raises AtlasError for a text that is not a day, or a day in the future."""
    try:
        window = Window.of(text)
    except ValueError:
        raise AtlasError(f"{text!r} is not a day. Write it as YYYY-MM-DD.", usage=True) from None
    if window.day > datetime.now(UTC).date():
        raise AtlasError(f"{text} is in the future.", usage=True)
    return window


def _day_range(partition: str | None, since: str | None, until: str | None) -> DayRange | None:
    """The days that the options name; None if they name none."""
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


def _work(sources: list[Source], mode: Mode, wanted: DayRange | None) -> Work:
    """The days to run for each source. Raises AtlasError where there is not a single one."""
    work = [(source, _days(source, mode, wanted)) for source in sources]
    if any(days for _, days in work):
        return work
    if mode == "live":
        begin = "; ".join(f"{source.name} on {source.start_date}" for source in sources)
        raise AtlasError(f"No source has data for these days. They begin: {begin}.", usage=True)
    recorded = "; ".join(
        f"{source.name}: {', '.join(map(str, recording.days(source))) or 'none'}" for source in sources
    )
    raise AtlasError(f"Nothing is recorded for these days. Recorded are {recorded}. Use --live for today.", usage=True)


def _days(source: Source, mode: Mode, wanted: DayRange | None) -> list[date]:
    """The days to run for a source: those of its recordings, or, live, those up to today."""
    today = datetime.now(UTC).date()
    first, last = wanted or ((None, None) if mode == "recorded" else (today, today))
    first, last = max(first or source.start_date, source.start_date), min(last or today, today)
    if mode == "recorded":
        return [day for day in recording.days(source) if first <= day <= last]
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _transformable(warehouse: Warehouse, source: Source, full: bool) -> list[str]:
    """The partitions with pending payloads; with `full`, all that have a latest version."""
    if not full:
        return pending_partitions(warehouse, source)
    with warehouse.connect() as connection:
        rows = connection.execute(
            "select distinct partition_key from staging.versions where stream = any(%s) and latest order by 1",
            [list(source.streams.values())],
        )
        return [row["partition_key"] for row in rows]


def _row_counts(warehouse: Warehouse, sources: Iterable[Source]) -> dict[str, int]:
    """How many rows each table of the sources has."""
    tables = sorted({select.table.fullname for source in sources for select in project.selects(source.name)})
    counts = {}
    with warehouse.connect() as connection:
        for name in tables:
            query = sql.SQL("select count(*) as number from {}").format(sql.Identifier(*name.split(".")))
            row = connection.execute(query).fetchone()
            counts[name] = int(row["number"]) if row else 0
    return counts


def _warn_without_selects(sources: Iterable[Source]) -> None:
    for source in sources:
        if not project.selects(source.name):
            show.err.print(str(project.without_selects(source.name)), highlight=False, markup=False)


def _end(runs: list[Run], json: bool) -> None:
    if json:
        show.as_json([show.run_as_dict(each) for each in runs])
    else:
        show.ledger("Runs", list(map(show.run_as_dict, runs)))
    context.end(runs)
