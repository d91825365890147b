"""Opens a source for a landing: its recording, or the live source with the cursors of the last run.

    Source, Window, mode ──open_intake──> Client or Path ──Source.fetch──> Intake

Belongs here: choosing and opening. Not here: requests of a source (`assets`), landing (`land`), local files
(`bulk_files`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from pipelines import ledger, settings
from pipelines.connectors import recording
from pipelines.connectors.http import Client, without_secrets
from pipelines.connectors.rate_limit import RateLimit
from pipelines.errors import AtlasError
from pipelines.landing.intake import GetRecord, Intake
from pipelines.settings import Mode
from pipelines.source import Source, Window
from pipelines.warehouse.database import Warehouse


@contextmanager
def open_intake(
    warehouse: Warehouse, source: Source, window: Window, mode: Mode, *, full_refresh: bool = False
) -> Iterator[Intake]:
    """The items of a source on a day, recorded or live. No request is sent before the first item is read.

    full_refresh: all records, not only those since the cursors of the last run.
    """
    options: dict[str, str | bool] = {}
    with ExitStack() as stack:
        if mode == "recorded":
            place, window = _recorded(stack, source, window), replace(window, full_refresh=not source.supports_backfill)
        else:
            ledger.close_dead_runs(warehouse)  # so that a dead run of this day can be resumed
            options |= {"full_refresh": full_refresh, "read_from": _read_from(source)}
            window = _live_window(warehouse, source, window, full_refresh=full_refresh)
            place = stack.enter_context(open_source(warehouse, source))
        yield Intake(
            lambda resume: source.fetch(place, replace(window, checkpoints=resume)),
            mode,
            window.start if mode == "recorded" else None,
            get_record=_get_record(source, place),
            cursors=window.cursors,
            request_options=options,
            notes=place.notes if isinstance(place, Client) else Counter(),
        )


@contextmanager
def open_source(warehouse: Warehouse, source: Source) -> Iterator[Client | Path]:
    """The client of a live source, or its folder. Raises AtlasError if a setting is missing or wrong."""
    base_url = settings.base_url(source.stem) or source.base_url
    if source.kind == "folder":
        yield _folder(source, base_url)
        return
    contact = settings.load().contact
    if source.requires_contact and not contact:
        raise AtlasError(
            f"The operator of {source.name} requires a way to contact you. "
            "Set ATLAS_CONTACT to a mail address, or to a user name there; it is sent in the User-Agent.",
            usage=True,
        )
    with ExitStack() as stack:
        urls = {name: settings.base_url(source.stem, name) or url for name, url in source.extra_urls.items()}
        endpoints = {
            name: stack.enter_context(_client(warehouse, stack, source, url, contact))
            for name, url in urls.items()
            if url
        }
        token = settings.token(source.stem)
        yield stack.enter_context(_client(warehouse, stack, source, base_url, contact, token, endpoints))


def _client(
    warehouse: Warehouse,
    stack: ExitStack,
    source: Source,
    base_url: str,
    contact: str | None,
    token: str | None = None,
    endpoints: Mapping[str, Client] | None = None,
) -> Client:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise AtlasError(
            f"{source.name} cannot be read from {base_url!r}: that is not an http or https URL.", usage=True
        )
    limit = RateLimit(stack.enter_context(warehouse.connect()), url.netloc.decode(), source.rate)
    return Client(
        source.name, base_url, token=token, auth=source.auth, contact=contact, rate_limit=limit, endpoints=endpoints
    )


def _recorded(stack: ExitStack, source: Source, window: Window) -> Client | Path:
    recorded = recording.read(source, window.day)
    if source.kind == "folder":
        return recorded.path()
    endpoints = {
        name: stack.enter_context(Client(source.name, f"https://{name}", transport=recorded.transport()))
        for name in source.extra_urls
    }
    return stack.enter_context(
        Client(source.name, source.base_url, transport=recorded.transport(), endpoints=endpoints)
    )


def _live_window(warehouse: Warehouse, source: Source, window: Window, *, full_refresh: bool) -> Window:
    current = window.day == datetime.now(UTC).date()
    if not current and not source.supports_backfill:
        raise AtlasError(
            f"{source.name} has no history: {window.key} cannot be fetched any more. "
            "To transform again what was fetched on that day, run: "
            f"atlas transform {source.name} --partition {window.key} --full"
        )
    return replace(window, current=current, full_refresh=full_refresh, cursors=_cursors(warehouse, source))


def _read_from(source: Source) -> str:
    """The place that a live source is read from, without secrets. Cursors of one place do not hold for another."""
    place = settings.base_url(source.stem) or source.base_url
    return place if source.kind == "folder" else without_secrets(place)


def _cursors(warehouse: Warehouse, source: Source) -> dict[str, Any]:
    """The cursors of the last live run; without HTTP validators, if other code than today's wrote them."""
    with warehouse.connect() as connection:
        row = connection.execute(
            """
            select cursor_to, code_version from ops.fetch_runs
            where stream = %s and kind = 'land' and publish_seq is not null and cursor_to is not null
              and stats ->> 'mode' = 'live' and stats ->> 'read_from' = %s
            order by publish_seq desc limit 1
            """,
            [source.name, _read_from(source)],
        ).fetchone()
    if row is None:
        return {}
    cursors: dict[str, Any] = row["cursor_to"]
    if row["code_version"] != source.code_version:
        cursors = {name: cursor | {"validators": {}} for name, cursor in cursors.items()}
    return cursors


def _get_record(source: Source, place: Client | Path) -> GetRecord | None:
    return partial(source.get_record, place) if source.get_record else None


def _folder(source: Source, name: str) -> Path:
    folder = Path(name.removeprefix("file://")).expanduser()
    if not folder.is_dir():
        raise AtlasError(
            f"{source.name} reads a folder, and {str(folder)!r} is not one. "
            f"Name the folder in ATLAS_{source.stem.upper()}_BASE_URL."
        )
    return folder
