"""`atlas run`, `land`, `transform` and `record`: fetch payloads, land them, transform them, keep them as recordings.

Not here: how Dagster runs are executed (`dagster_runs`), how a source is recorded (`landing.extract`).
"""

from collections.abc import Iterable
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from pipelines import project, settings
from pipelines.cli import context, show
from pipelines.cli.context import NAMES, StreamName, StreamNames
from pipelines.connectors import recording
from pipelines.connectors.recording import Recorder
from pipelines.errors import AtlasError
from pipelines.landing import bulk_files, contract_changes, extract
from pipelines.landing.land import land_intake
from pipelines.schema import partitions
from pipelines.settings import Mode
from pipelines.source import Payload, Source, Stream, Window
from pipelines.transform.run import pending_partitions
from pipelines.transform.run import transform as transform_partition
from pipelines.warehouse.database import Warehouse

Day = Annotated[str | None, typer.Option("--partition", help="One day, YYYY-MM-DD.", metavar="DAY")]
Full = Annotated[bool, typer.Option("--full", help="Apply all latest versions again, not only pending ones.")]
Shrink = Annotated[
    bool, typer.Option("--shrink", help="Accept that a listing or table loses over a fifth, or a SELECT fails often.")
]


def run(
    streams: StreamNames = None,
    partition: Day = None,
    since: Annotated[str | None, typer.Option("--from", help="First day of a range.", metavar="DAY")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Last day of a range.", metavar="DAY")] = None,
    full: Full = False,
    live: Annotated[
        bool | None, typer.Option("--live/--recorded", help="Ask the sources, or replay samples/ (ATLAS_MODE).")
    ] = None,
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Live: read all of a stream, not only what is new.")
    ] = False,
    shrink: Shrink = False,
) -> None:
    """Fetch, land and transform streams, day by day, as Dagster runs of this process.

    Without days: every recorded day, or today when live.
    """
    mode: Mode = context.current_settings(mode=None if live is None else "live" if live else "recorded").mode
    if full_refresh and mode != "live":
        raise AtlasError("A recording is always read whole: --full-refresh goes with --live.", usage=True)
    chosen = _readable(project.find_streams(streams or []), mode)
    work = _work(chosen, mode, partition, since, until)
    with context.warehouse() as warehouse, show.reporting(raises=False) as reporter:
        from pipelines.cli import dagster_runs  # Dagster takes seconds to import

        home = context.current_settings().home
        config = {
            "land": {"full_refresh": full_refresh, "shrink": shrink},
            "transform": {"full": full, "shrink": shrink},
        }
        dagster_runs.run(warehouse, home, work, mode, config, reporter)
        tables = sorted({each.table.fullname for stream in chosen for each in project.selects(stream.source.name)})
        with warehouse.connect() as connection:
            query = "select table_name, rows from ops.table_digests where table_name = any(%s)"
            found = {row["table_name"]: row["rows"] for row in connection.execute(query, [tables])}
        rows = dict.fromkeys(tables, 0) | found
        _tell_what_is_let_in(warehouse, chosen)
    _warn_without_selects(chosen)
    show.result({"runs": [show.run_as_dict(each) for each in reporter.runs], "rows": rows})
    show.table("Rows of all sources", [{"table": name, "rows": number} for name, number in rows.items()])
    context.end(reporter.runs)


def land(
    stream: StreamName,
    files: Annotated[Path, typer.Option("--from", help="File or folder: NDJSON or JSON, .gz and .zst too.")],
    partition: Day = None,
    received: Annotated[
        str | None,
        typer.Option(help="When the payloads were received, if not now; a time with its zone.", metavar="TIME"),
    ] = None,
) -> None:
    """Land payloads from files, exactly as fetched ones are landed.

    Of each record, what was received last is what the tables show.
    """
    found, kind = project.find_stream(stream)
    window = _parse_day(partition) if partition else None
    if window and window.day < found.source.start_date:
        raise AtlasError(
            f"{found.source.name} begins on {found.source.start_date}; {window.key} is before that.", usage=True
        )
    intake = bulk_files.intake(found.source, kind, files, _parse_time(received) if received else None)
    day = window.key if window else datetime.now(UTC).date().isoformat()
    with context.runs() as (warehouse, reporter):
        land_intake(warehouse, found, day, nullcontext(intake), notify=reporter)
        if pending_partitions(warehouse, found):
            show.note(f"To apply it to the tables, run: atlas transform {found.name}")
        _tell_what_is_let_in(warehouse, [found])
        _warn_without_selects([found])


def transform(
    streams: Annotated[list[str], typer.Argument(help=f"{NAMES}.")],
    partition: Day = None,
    full: Full = False,
    shrink: Shrink = False,
) -> None:
    """Apply pending payloads to the tables: of every partition that has any, or of one."""
    chosen = project.find_streams(streams)
    only = _parse_day(partition).key if partition else None
    with context.runs() as (warehouse, reporter):
        for stream in chosen:
            if project.selects(stream.source.name):
                for day in [only] if only else pending_partitions(warehouse, stream, full=full):
                    transform_partition(warehouse, stream, day, full=full, shrink=shrink, notify=reporter)
        for domain in sorted({stream.source.domain for stream in chosen}):  # what a killed transform left to do
            partitions.split_defaults(warehouse, domain)
        if not reporter.runs:
            show.say("Nothing is pending.")
        _warn_without_selects(chosen)


def record(
    source: Annotated[str, typer.Argument(help="The source (domain/source).")],
    day: Annotated[str | None, typer.Option(help="Day of the recording; without it, today.", metavar="DAY")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The most pages of a listing, records of a page, files of a folder.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the recording of that day.")] = False,
) -> None:
    """Keep what a live source answers as a recording, without tokens, passwords and e-mail addresses."""
    chosen = {stream.source.name: stream.source for stream in project.find_streams([source])}
    if len(chosen) > 1 or source not in chosen:
        raise AtlasError(f"Name one source: {', '.join(chosen)}.", usage=True)
    found, window = chosen[source], _parse_day(day or datetime.now(UTC).date().isoformat())
    path = recording.file_of(found, window.day)
    name = path.relative_to(project.SAMPLES.parent).as_posix()
    if path.exists() and not replace:
        raise AtlasError(f"{name} exists already. To overwrite it, add --replace.", usage=True)
    for stream in found.streams:
        if reason := extract.why_not_read(stream, window.day, "live"):
            raise AtlasError(f"{reason} Set it, so that all streams are recorded.", usage=True)
    recorder = Recorder(limit, past=not extract.is_current(found, window), token=settings.token(found.stem))
    with context.warehouse() as warehouse, show.err.status(f"recording {found.name}") as status:
        words = f"recording {found.name}: {{:,}} items so far"
        items = extract.record(warehouse, found, window, recorder, lambda number: status.update(words.format(number)))
    recording.write(path, recorder, found.kind)
    payloads = sum(isinstance(item, Payload) for item in items)
    counts = {"responses": len(recorder.exchanges), "files": len(recorder.files), "payloads": payloads}
    show.result({"recording": name, **counts, "left_out": recorder.left_out})
    kept = f"{len(recorder.files):,} files" if found.kind == "folder" else f"{len(recorder.exchanges):,} responses"
    show.say(f"{name}: {kept}, {payloads:,} payloads. Read what it holds before you commit it.")
    show.say(f"To replay it, run: atlas run {found.name} --partition {window.key}")
    for each in recorder.left_out:
        show.note(f"left out, it seems to hold a secret or an address: {each}")
    if recorder.left_out:
        raise typer.Exit(context.PARTIAL)


def _parse_day(text: str) -> Window:
    """The day that a text names. Raises AtlasError for a text that is not a day, or a day in the future."""
    try:
        window = Window.of(text)
    except ValueError:
        raise AtlasError(f"{text!r} is not a day. Write it as YYYY-MM-DD.", usage=True) from None
    if window.day > datetime.now(UTC).date():
        raise AtlasError(f"{text} is in the future.", usage=True)
    return window


def _readable(streams: list[Stream], mode: Mode) -> list[Stream]:
    """The streams that can be read; notes why others cannot. Raises AtlasError where none can."""
    today = datetime.now(UTC).date()
    reasons = {each.name: extract.why_not_read(each, today, mode) if mode == "live" else None for each in streams}
    for reason in filter(None, reasons.values()):
        if not any(each is None for each in reasons.values()):
            raise AtlasError(reason, usage=True)
        show.note(reason)
    return [each for each in streams if reasons[each.name] is None]


def _parse_time(text: str) -> datetime:
    """The time that a text names. Raises AtlasError for a text without a time and zone, or a time in the future."""
    try:
        time = datetime.fromisoformat(text)
        is_future = time > datetime.now(UTC)
    except (ValueError, TypeError, OverflowError):
        raise AtlasError(f"{text!r} is not a time. Write it as YYYY-MM-DDTHH:MM:SSZ.", usage=True) from None
    if is_future:
        raise AtlasError(f"{text} is in the future.", usage=True)
    return time


def _work(
    streams: list[Stream], mode: Mode, partition: str | None, since: str | None, until: str | None
) -> list[tuple[Stream, list[date]]]:
    """The days to run for each stream: those that the options name; without any, all days, or today when live."""
    if partition and (since or until):
        raise AtlasError("Give either --partition or --from and --to.", usage=True)
    today = datetime.now(UTC).date()
    first, last = partition or since, partition or until
    earliest = today if mode == "live" and not last else date.min
    start, end = _parse_day(first).day if first else earliest, _parse_day(last).day if last else today
    if end < start:
        raise AtlasError(f"The range {first} to {last} is empty.", usage=True)
    sources = {stream.source.name: stream.source for stream in streams}
    days = {name: recording.days(each) if mode == "recorded" else _days(each) for name, each in sources.items()}
    work = [(stream, [day for day in days[stream.source.name] if start <= day <= end]) for stream in streams]
    if any(chosen for _, chosen in work):
        return work
    if mode == "live":
        begin = "; ".join(f"{source.name} on {source.start_date}" for source in sources.values())
        raise AtlasError(f"No source has data for these days. They begin: {begin}.", usage=True)
    recorded = "; ".join(f"{name}: {', '.join(map(str, found)) or 'none'}" for name, found in days.items())
    raise AtlasError(f"Nothing is recorded for these days. Recorded are {recorded}. Use --live for today.", usage=True)


def _days(source: Source) -> list[date]:
    """The days of a live source."""
    number = (datetime.now(UTC).date() - source.start_date).days + 1
    return [source.start_date + timedelta(days=each) for each in range(number)]


def _tell_what_is_let_in(warehouse: Warehouse, streams: Iterable[Stream]) -> None:
    names = [name for stream in streams for name in stream.names.values()]
    with warehouse.connect() as connection:
        found = contract_changes.let_in(connection, names, contract_changes.NEWEST)
    if found:
        words = f"A contract has changed: of the newest payloads in quarantine it lets in {len(found):,}."
        show.note(f"{words} See: atlas quarantine check")


def _warn_without_selects(streams: Iterable[Stream]) -> None:
    for source in dict.fromkeys(stream.source.name for stream in streams):
        if not project.selects(source):
            show.note(str(project.without_selects(source)))
