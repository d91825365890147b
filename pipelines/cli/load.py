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
from pipelines.cli.context import AsJson, Day, SourceNames, Stream
from pipelines.connectors import recording
from pipelines.errors import AtlasError
from pipelines.landing import bulk_files
from pipelines.landing.land import land_intake
from pipelines.settings import Mode
from pipelines.source import Source, Window
from pipelines.transform.run import pending_partitions
from pipelines.transform.run import transform as transform_partition
from pipelines.warehouse.database import Warehouse

Full = Annotated[bool, typer.Option("--full", help="Apply all latest versions again, not only pending ones.")]
Shrink = Annotated[
    bool,
    typer.Option(
        "--shrink", help="Accept that a listing or table loses more than a fifth, or that a SELECT fails often."
    ),
]


def run(
    sources: SourceNames = None,
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
    work = _work(project.find_sources(sources or []), mode, *_day_range(partition, since, until, mode))
    with context.warehouse() as warehouse, show.reporting(json=json) as reporter:
        from pipelines.cli import dagster_runs  # Dagster takes seconds to import

        home = context.current_settings().home
        config = {
            "land": {"full_refresh": full_refresh, "shrink": shrink},
            "transform": {"full": full, "shrink": shrink},
        }
        dagster_runs.run(warehouse, home, work, mode, config, reporter)
        rows = _row_counts(warehouse, [source for source, _ in work])
    _warn_without_selects([source for source, _ in work])
    if json:
        show.as_json({"runs": [show.run_as_dict(each) for each in reporter.runs], "rows": rows})
    else:
        show.table("Rows of all sources", [{"table": name, "rows": number} for name, number in rows.items()])
    context.end(reporter.runs)


def land(
    stream: Stream,
    files: Annotated[Path, typer.Option("--from", help="File or folder: NDJSON or JSON, .gz and .zst too.")],
    partition: Day = None,
    json: AsJson = False,
) -> None:
    """Land payloads from files, exactly as fetched ones are landed."""
    source, kind = project.find_stream(stream)
    window = parse_day(partition) if partition else None
    if window and window.day < source.start_date:
        raise AtlasError(f"{source.name} begins on {source.start_date}; {window.key} is before that.", usage=True)
    intake = bulk_files.intake(source, kind, files, window)
    day = window.key if window else datetime.now(UTC).date().isoformat()
    with context.runs(json) as (warehouse, reporter):
        land_intake(warehouse, source, day, nullcontext(intake), notify=reporter)
        if pending_partitions(warehouse, source):
            show.note(f"To apply it to the tables, run: atlas transform {source.name}")
        _warn_without_selects([source])


def transform(
    sources: Annotated[list[str], typer.Argument(help="Domains or sources (domain/source).")],
    partition: Day = None,
    full: Full = False,
    shrink: Shrink = False,
    json: AsJson = False,
) -> None:
    """Apply pending payloads to the tables: of every partition that has any, or of one."""
    chosen = project.find_sources(sources)
    only = parse_day(partition).key if partition else None
    with context.runs(json) as (warehouse, reporter):
        for source in chosen:
            if project.selects(source.name):
                for day in [only] if only else _transformable(warehouse, source, full):
                    transform_partition(warehouse, source, day, full=full, shrink=shrink, notify=reporter)
        _warn_without_selects(chosen)


def parse_day(text: str) -> Window:
    """The day that a text names. Raises AtlasError for a text that is not a day, or a day in the future."""
    try:
        window = Window.of(text)
    except ValueError:
        raise AtlasError(f"{text!r} is not a day. Write it as YYYY-MM-DD.", usage=True) from None
    if window.day > datetime.now(UTC).date():
        raise AtlasError(f"{text} is in the future.", usage=True)
    return window


def _day_range(partition: str | None, since: str | None, until: str | None, mode: Mode) -> tuple[date, date]:
    """The first and last day that the options name; without any, all days, or today when live."""
    if partition and (since or until):
        raise AtlasError("Give either --partition or --from and --to.", usage=True)
    today = datetime.now(UTC).date()
    if mode == "live" and not (partition or since or until):
        return today, today
    first, last = partition or since, partition or until
    wanted = (parse_day(first).day if first else date.min, parse_day(last).day if last else today)
    if wanted[1] < wanted[0]:
        raise AtlasError(f"The range {first} to {last} is empty.", usage=True)
    return wanted


def _work(sources: list[Source], mode: Mode, first: date, last: date) -> list[tuple[Source, list[date]]]:
    """The days to run for each source. Raises AtlasError where there is not a single one."""
    work = [(source, _days(source, mode, max(first, source.start_date), last)) for source in sources]
    if any(days for _, days in work):
        return work
    if mode == "live":
        begin = "; ".join(f"{source.name} on {source.start_date}" for source in sources)
        raise AtlasError(f"No source has data for these days. They begin: {begin}.", usage=True)
    recorded = "; ".join(
        f"{source.name}: {', '.join(map(str, recording.days(source))) or 'none'}" for source in sources
    )
    raise AtlasError(f"Nothing is recorded for these days. Recorded are {recorded}. Use --live for today.", usage=True)


def _days(source: Source, mode: Mode, first: date, last: date) -> list[date]:
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
    count = "select count(*) as number from {}"
    with warehouse.connect() as connection:
        found = [connection.execute(sql.SQL(count).format(sql.Identifier(*each.split(".")))) for each in tables]
        return {name: row["number"] for name, (row,) in zip(tables, found, strict=True)}


def _warn_without_selects(sources: Iterable[Source]) -> None:
    for source in sources:
        if not project.selects(source.name):
            show.note(str(project.without_selects(source.name)))
