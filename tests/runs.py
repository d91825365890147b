"""Lands and transforms a whole source, as the commands do stream by stream.

    items, recordings ──> a landing of each stream that they are of ──> a transform of each stream with pending payloads

Belongs here: what tests of many folders call with a source. Not here: payloads (`library`, `forum`).
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pipelines.landing import extract, land
from pipelines.landing.intake import GetRecord, Intake
from pipelines.ledger import Counts, Run
from pipelines.settings import Mode
from pipelines.source import Item, Source, Stream, Window
from pipelines.transform import run as transforms
from pipelines.warehouse.database import Warehouse


def stream_of(source: Source, kind: str | None = None) -> Stream:
    """The stream in whose runs payloads of a kind are fetched; the first one of the source without a kind."""
    return next(each for each in source.streams if kind is None or kind in each.names)


def by_stream(source: Source, items: Iterable[Item]) -> dict[Stream, list[Item]]:
    """Items by the stream in whose runs they are fetched; all in the first one where there is no other."""
    found: dict[Stream, list[Item]] = {}
    for item in items:
        found.setdefault(stream_of(source, getattr(item, "kind", None)), []).append(item)
    return found or {stream_of(source): []}


def land_items(
    warehouse: Warehouse,
    source: Source,
    day: str,
    items: Iterable[Item],
    *,
    received_at: datetime | None = None,
    kind: str | None = None,
    **options: Any,
) -> Run:
    """Lands items, those of each stream by themselves; returns the run, or the counts of the runs together.

    kind: of all items, which are then read while they land.
    """
    if kind is not None or len(source.streams) == 1:
        stream = stream_of(source, kind)
        return land.land_items(warehouse, stream, day, items, received_at=received_at, **options)
    return together(
        land.land_items(warehouse, stream, day, own, received_at=received_at, **options)
        for stream, own in by_stream(source, items).items()
    )


def gone(kind: str, external_id: str) -> None:
    """A `get_record` of a source that has no record."""


def land_listing(
    warehouse: Warehouse,
    source: Source,
    day: str,
    items: Iterable[Item],
    received_at: datetime,
    *,
    mode: str = "recorded",
    get_record: GetRecord | None = gone,
    shrink: bool = False,
) -> Run:
    """Lands items in which there may be full scans; returns the run, or the counts of the runs together.

    get_record: by default the source has no record that is missing.
    """
    return together(
        land.land_intake(
            warehouse,
            stream,
            day,
            nullcontext(Intake(lambda _, own=own: own, mode, received_at, get_record=get_record)),  # type: ignore[misc]
            shrink=shrink,
        )
        for stream, own in by_stream(source, items).items()
    )


def fetched(source: Source, client: Any, window: Window) -> list[Item]:
    """What a connector yields of a day, of all streams."""
    return [item for each in source.streams for item in source.fetch(client, replace(window, kind=each.kind))]


def land_intake(
    warehouse: Warehouse,
    source: Source,
    day: str,
    intake: AbstractContextManager[Intake],
    *,
    kind: str | None = None,
    **options: Any,
) -> Run:
    """Lands an intake of one stream of a source: of the first one without a kind."""
    return land.land_intake(warehouse, stream_of(source, kind), day, intake, **options)


def land_recorded(
    warehouse: Warehouse,
    source: Source,
    window: Window,
    mode: Mode = "recorded",
    *,
    full_refresh: bool = False,
    **options: Any,
) -> Run:
    """Lands a day of each stream of a source; returns the run, or the counts of the runs together."""
    runs = []
    for stream in source.streams:
        opened = extract.open_intake(warehouse, stream, window, mode, full_refresh=full_refresh)
        runs.append(land.land_intake(warehouse, stream, window.key, opened, **options))
    return together(runs)


def land_anew(warehouse: Warehouse, source: Source) -> Run:
    """Lands all of a live source today, as fast as it answers."""
    today = Window(datetime.now(UTC).date())
    return land_recorded(warehouse, replace(source, rate=None), today, "live", full_refresh=True)


def transform(warehouse: Warehouse, source: Source, day: str, **options: Any) -> Run:
    """As `transforms_of`; returns the run, or the counts of the runs together."""
    return together(transforms_of(warehouse, source, day, **options))


def transforms_of(warehouse: Warehouse, source: Source, day: str, **options: Any) -> list[Run]:
    """Transforms a day of each stream of a source that has pending payloads there, else of the first one."""
    full = options.get("full", False)
    streams = [each for each in source.streams if day in transforms.pending_partitions(warehouse, each, full=full)]
    return [transforms.transform(warehouse, stream, day, **options) for stream in streams or [stream_of(source)]]


def pending_partitions(warehouse: Warehouse, source: Source, **options: Any) -> list[str]:
    return sorted(
        {day for stream in source.streams for day in transforms.pending_partitions(warehouse, stream, **options)}
    )


def together(runs: Iterable[Run]) -> Run:
    """The only run; of several, the last one with the counts of all."""
    every = list(runs)
    if len(every) == 1:
        return every[0]
    tables: dict[str, Counts] = {}
    for run in every:
        for name, counts in run.stats.get("tables", {}).items():
            tables[name] = tables.get(name, Counts()) + Counts(**counts)
    notes = sum((Counter(run.stats.get("notes", {})) for run in every), Counter[str]())
    skipped = sum((Counter(run.stats.get("skipped", {})) for run in every), Counter[str]())
    stats = every[-1].stats | {"notes": dict(notes), "skipped": dict(skipped)}
    stats |= {name: sum(run.stats[name] for run in every) for name, each in stats.items() if isinstance(each, int)}
    if tables:
        stats["tables"] = {name: vars(each) for name, each in tables.items()}
    status = "partial_success" if any(run.status == "partial_success" for run in every) else every[-1].status
    return replace(every[-1], status=status, counts=sum((run.counts for run in every), Counts()), stats=stats)
