"""Where a landing's items come from: a recording, or the live source.

Belongs here: choosing and opening, and what the run before left. Not: what a source answers (`assets`), not what
becomes of it (`landing`), not files that somebody brings (`files`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from pipelines import failpoints, ledger, settings
from pipelines.connectors import recording
from pipelines.connectors.http import Client, without_secrets
from pipelines.connectors.rate_limit import RateLimit
from pipelines.errors import AtlasError
from pipelines.landing.land import Intake
from pipelines.settings import Mode
from pipelines.source import Payload, Source, Window
from pipelines.warehouse.database import Warehouse


@contextmanager
def opened(
    warehouse: Warehouse, source: Source, window: Window, mode: Mode, *, full_refresh: bool = False
) -> Iterator[Intake]:
    """What a source says about a day: as recorded, or live.

    sweep: everything it has, not only what is new. Nothing is asked before the first item is.
    """
    asked: dict[str, str | bool] = {}
    with ExitStack() as stack:
        if mode == "recorded":
            place, window = _recorded(stack, source, window), replace(window, full_refresh=not source.supports_backfill)
        else:
            ledger.reap(warehouse)  # so that what a dead run of this day has landed is taken up
            failpoints.reached("fetch.reaped")
            asked |= {"full_refresh": full_refresh, "read_from": _read_from(source)}
            window = _live_window(warehouse, source, window, full_refresh=full_refresh)
            failpoints.reached("fetch.window")
            place = stack.enter_context(live(warehouse, source))
        failpoints.reached("fetch.opened")
        yield Intake(
            lambda resume: source.fetch(place, replace(window, checkpoints=resume)),
            mode,
            window.start if mode == "recorded" else None,
            get_record=_looking(source, place),
            cursors=window.cursors,
            asked=asked,
            notes=place.notes if isinstance(place, Client) else Counter(),
        )


@contextmanager
def live(warehouse: Warehouse, source: Source) -> Iterator[Client | Path]:
    """The place that a source is read from: its client, or its folder."""
    base_url = settings.base_url(source.stem) or source.base_url
    if source.kind == "folder":
        yield _folder(source, base_url)
        return
    contact = settings.load().contact
    if source.requires_contact and not contact:
        raise AtlasError(
            f"The operator of {source.name} wants to know how to reach whoever asks. "
            "Set ATLAS_CONTACT, to a mail address or a user name there; it is sent in the User-Agent.",
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
        raise AtlasError(f"{source.name} cannot be read from {base_url!r}: that is no http or https URL.", usage=True)
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
            f"{source.name} tells only how it is now: {window.key} cannot be fetched any more. "
            "What was fetched that day is re-derived with: "
            f"atlas transform {source.name} --partition {window.key} --full"
        )
    return replace(window, current=current, full_refresh=full_refresh, cursors=_marks(warehouse, source))


def _read_from(source: Source) -> str:
    """Where a live source is read, without secrets: what one place told says nothing of another."""
    place = settings.base_url(source.stem) or source.base_url
    return place if source.kind == "folder" else without_secrets(place)


def _marks(warehouse: Warehouse, source: Source) -> dict[str, Any]:
    """Where the last live run ended. What other code decided to skip as unchanged is asked for again."""
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
    marks: dict[str, Any] = row["cursor_to"]
    if row["code_version"] != source.code_version:
        marks = {name: mark | {"validators": {}} for name, mark in marks.items()}
    return marks


def _looking(source: Source, place: Client | Path) -> Any:
    if source.get_record is None:
        return None
    get_record = source.get_record

    def one(kind: str, external_id: str) -> Payload | None:
        return get_record(place, kind, external_id)

    return one


def _folder(source: Source, name: str) -> Path:
    folder = Path(name.removeprefix("file://")).expanduser()
    if not folder.is_dir():
        raise AtlasError(
            f"{source.name} reads a folder, and {str(folder)!r} is none. "
            f"Name the folder in ATLAS_{source.stem.upper()}_BASE_URL."
        )
    return folder
