"""Opens a source for a landing: its recording, or the live source with the cursors of the last run; records it.

    Stream, Window, mode ──open_intake──> Client or Path ──Source.fetch──> Intake
    live source ──fetch, get_record──> Recorder, replayed once

Not here: requests of a source (`assets`), local files (`bulk_files`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from pipelines import ledger, settings
from pipelines.connectors import recording
from pipelines.connectors.http import Client
from pipelines.connectors.rate_limit import RateLimit
from pipelines.connectors.recording import RecordedTransport, Recorder, Recording
from pipelines.connectors.urls import without_secrets
from pipelines.errors import AtlasError, Refused
from pipelines.landing.intake import Intake
from pipelines.landing.validate import validators
from pipelines.settings import Mode
from pipelines.source import FullScan, Item, Payload, Source, Stream, Window
from pipelines.warehouse.database import Warehouse

NEVER = datetime.min  # received_at of payloads of which only the id is read
REPLAYED = "https://{}"  # the base URL under which a stream with a server of its own is replayed, by its kind


@contextmanager
def open_intake(
    warehouse: Warehouse, stream: Stream, window: Window, mode: Mode, *, full_refresh: bool = False
) -> Iterator[Intake]:
    """The items of a stream on a day, recorded or live. No request is sent before the first item is read.

    full_refresh: all records, not only those since the cursors of the last run.
    """
    source = stream.source
    if mode == "recorded":
        with open_recording(stream, window, recording.read(source, window.day)) as intake:
            yield intake
        return
    ledger.close_dead_runs(warehouse)  # so that a dead run of this day can be resumed
    url = base_url(stream)
    read_from = url if source.kind == "folder" else without_secrets(url)
    current, cursors = is_current(source, window), _cursors(warehouse, stream, read_from)
    window = replace(window, current=current, full_refresh=full_refresh, cursors=cursors)
    options: dict[str, str | bool] = {"full_refresh": full_refresh, "read_from": read_from}
    with open_source(warehouse, stream) as place:
        yield _intake(stream, place, window, mode, cursors=cursors, request_options=options)


@contextmanager
def open_recording(stream: Stream, window: Window, recorded: Recording) -> Iterator[Intake]:
    """The items of a stream in a recording. They count as received when its day began."""
    source = stream.source
    opened: AbstractContextManager[Client | Path] = nullcontext(recorded.path(source))
    if source.kind == "http":
        opened = Client(source.name, _replay_url(stream), transport=RecordedTransport(recorded))
    with opened as place:
        yield _intake(stream, place, recorded.window(source, window.day), "recorded", received_at=window.start)


def _replay_url(stream: Stream) -> str:
    return REPLAYED.format(stream.kind) if stream.kind in stream.source.other_urls else stream.source.base_url


def _intake(stream: Stream, place: Client | Path, window: Window, mode: Mode, **more: Any) -> Intake:
    source = stream.source

    def items(resume: dict[str, dict[str, Any]]) -> Iterator[Item]:
        for item in source.fetch(place, replace(window, kind=stream.kind, checkpoints=resume)):
            if not (window.limit and isinstance(item, FullScan)):
                yield item

    get_record = partial(stream.get_record, place) if stream.get_record else None
    notes = place.notes if isinstance(place, Client) else Counter()
    return Intake(items, mode, get_record=get_record, notes=notes, **more)


def base_url(stream: Stream) -> str:
    """The base URL, or the folder, that a live stream is read from; empty where none is set for it."""
    source = stream.source
    if stream.kind in source.other_urls:
        return settings.base_url(source.stem, stream.kind) or source.other_urls[stream.kind]
    return settings.base_url(source.stem) or source.base_url


def why_not_read(stream: Stream, day: date, mode: Mode) -> str | None:
    """Why there is nothing to read of a stream on a day: no recording, or no base URL is set for it; else None."""
    if mode == "recorded":
        recorded = recording.days(stream.source)
        days = ", ".join(map(str, recorded)) or "none"
        words = f"There is no recording of {stream.source.name} for {day} (recorded days: {days})."
        return None if day in recorded else words
    return None if base_url(stream) else f"{stream.name} is not read: {_variable(stream)}_BASE_URL is not set."


def _variable(stream: Stream) -> str:
    """How the names of the stream's settings begin."""
    words = [stream.source.stem, *([stream.kind] if stream.kind in stream.source.other_urls else [])]
    return "_".join(["ATLAS", *words]).upper()


@contextmanager
def open_source(warehouse: Warehouse, stream: Stream, recorder: Recorder | None = None) -> Iterator[Client | Path]:
    """The client of a live stream, or its folder. Raises AtlasError if a setting is missing or wrong."""
    source, url = stream.source, base_url(stream)
    if source.kind == "folder":
        folder = Path(url.removeprefix("file://")).expanduser()
        if not folder.is_dir():
            raise AtlasError(
                f"{source.name} reads a folder, and {str(folder)!r} is not one. "
                f"Name the folder in ATLAS_{source.stem.upper()}_BASE_URL."
            )
        yield folder
        return
    contact = settings.load().contact
    if source.requires_contact and not contact:
        raise AtlasError(
            f"The operator of {source.name} requires a way to contact you. "
            "Set ATLAS_CONTACT to a mail address, or to a user name there; it is sent in the User-Agent.",
            usage=True,
        )
    keep = recorder.keep(url, _replay_url(stream)) if recorder else None
    token = None if stream.kind in source.other_urls else settings.token(source.stem)
    with warehouse.connect() as connection:
        limit = RateLimit(connection, _host(source, url), source.rate)
        client = Client(
            source.name,
            url,
            token=token,
            auth=source.auth,
            contact=contact,
            rate_limit=limit,
            keep=keep,
            variable=_variable(stream),
        )
        with client:
            yield client


def _host(source: Source, base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise AtlasError(
            f"{source.name} cannot be read from {base_url!r}: that is not an http or https URL.", usage=True
        )
    return url.netloc.decode()


def is_current(source: Source, window: Window) -> bool:
    """Whether the day is today. Raises AtlasError for a day that the source cannot list any more."""
    current = window.day == datetime.now(UTC).date()
    if not current and not source.supports_backfill:
        raise AtlasError(
            f"{source.name} has no history: {window.key} cannot be fetched any more. "
            "To transform again what was fetched on that day, run: "
            f"atlas transform {source.name} --partition {window.key} --full"
        )
    return current


def _cursors(warehouse: Warehouse, stream: Stream, read_from: str) -> dict[str, Any]:
    """The cursors of the last live run from a place; without HTTP validators, if other code than today's wrote them,
    or a second full scan has to tell whether records are gone.
    """
    with warehouse.connect() as connection:
        row = connection.execute(
            """
            select cursor_to, code_version, exists (
                select from staging.versions v where v.stream = r.stream and latest and missing_at is not null
            ) as lacks_any
            from ops.fetch_runs r
            where stream = %s and kind = 'land' and publish_seq is not null and cursor_to is not null
              and stats ->> 'mode' = 'live' and stats ->> 'read_from' = %s
            order by publish_seq desc limit 1
            """,
            [stream.name, read_from],
        ).fetchone()
    if row is None:
        return {}
    cursors: dict[str, Any] = row["cursor_to"]
    if row["code_version"] != stream.source.code_version or row["lacks_any"]:
        cursors = {name: cursor | {"validators": {}} for name, cursor in cursors.items()}
    return cursors


def record(
    warehouse: Warehouse, source: Source, window: Window, recorder: Recorder, notify: Callable[[int], None]
) -> list[Item]:
    """Fetches a live source into a recorder, and replays what it kept; the items. notify: called with their number.

    Raises AtlasError where it cannot be fetched or replayed.
    """
    items: list[Item] = []
    for stream in source.streams:
        whole = replace(recorder.recording().window(source, window.day), kind=stream.kind)
        with open_source(warehouse, stream, recorder) as place:
            begin = len(items)
            for item in source.fetch(place, whole):
                items.append(item)
                notify(len(items))
            if isinstance(place, Path):
                recorder.keep_files(place, items)
                return items
            if stream.get_record and recorder.limit is None:
                for kind, external_id in _missing(stream, window, items[begin:]):
                    with suppress(Refused):  # a landing of the recording counts it
                        stream.get_record(place, kind, external_id)
    try:
        replayed = list(_replayed(source, window, recorder.recording()))
    except AtlasError as error:
        raise AtlasError(f"What {source.name} answered cannot be replayed: {error} Nothing is written.") from None
    fetched = [recorder.clean(item.body) for item in items if isinstance(item, Payload)]
    if replayed != fetched:
        raise AtlasError(
            f"What {source.name} answered cannot be replayed: {len(fetched)} payloads were fetched, and the replay has "
            f"{len(replayed)}, not the same. Nothing is written. Record it again; if it stays so, the connector reads "
            "other things from the same responses the second time."
        )
    return items


def _replayed(source: Source, window: Window, recorded: Recording) -> Iterator[bytes]:
    for stream in source.streams:
        with open_recording(stream, window, recorded) as intake:
            yield from (item.body for item in intake.items({}) if isinstance(item, Payload))


def _missing(stream: Stream, window: Window, items: list[Item]) -> list[tuple[str, str]]:
    """Kind and id of records of earlier recordings that a full scan lacks: a landing asks for each of them by id."""
    scans = {item.kind: item.id_range for item in items if isinstance(item, FullScan)}
    known: set[tuple[str, str]] = set()
    for day in recording.days(stream.source):
        if scans and day < window.day:
            with open_recording(stream, Window(day), recording.read(stream.source, day)) as intake:
                known |= _ids(stream, intake.items({}))
    return [
        (kind, external_id)
        for kind, external_id in sorted(known - _ids(stream, items))
        if kind in scans and ((limits := scans[kind]) is None or limits[0] <= int(external_id) <= limits[1])
    ]


def _ids(stream: Stream, items: Iterable[Item]) -> set[tuple[str, str]]:
    """Kind and id of each payload that has a readable one."""
    by_kind = validators(stream)
    payloads = (item for item in items if isinstance(item, Payload))
    found = {(each.kind, by_kind[each.kind].validate(each, 0, NEVER).external_id) for each in payloads}
    return {(kind, external_id) for kind, external_id in found if external_id}
