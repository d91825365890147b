"""Hugging Face Hub: every public model with its files, its tags and its counters.

    GET /api/models ──records──> one payload a model ──> models, model_versions, artifacts, tags, model_tags,
        └── Link: <…>; rel="next", until there is none   model_stats

Newest first by lastModified, 1,000 a page, by an opaque cursor in the Link header (huggingface.co/docs/hub/api). An
increment reads down to ten minutes below the newest model of the last run. The listing has no filter by time: a past
day is reached by reading down from the newest model, and only the models changed on that day are kept. A full refresh
reads everything. Downloads, likes and trending scores change all the time and make no version. A model has one version,
its newest revision; the listing names its files, without sizes and checksums.

Without a token the operator allows 500 requests in five minutes (huggingface.co/docs/hub/rate-limits); a token
(ATLAS_HUGGINGFACE_TOKEN) also returns the private models of its owner. On a bad day (429, 5xx, a cut page) the client
retries; if the day stays bad, the run fails, publishes nothing, and the next one continues after the last page.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from pipelines.connectors.http import Client, quoted
from pipelines.connectors.listing import Incremental, Listing
from pipelines.connectors.pagination import LinkHeaderPaginator, RecordHead
from pipelines.source import AwareDatetime, Contract, Item, Payload, Window, source

PARAMETERS: dict[str, str | int] = {"sort": "lastModified", "direction": -1, "full": "true"}
Page: Any = list[msgspec.Raw] | None

OVERLAP = timedelta(minutes=10)
"""Responses come from caches: a change appears some minutes late."""


class Lfs(msgspec.Struct):
    sha256: str | None = None
    size: int | None = None


class Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: Lfs | None = None


class Model(Contract):
    """Only the id is required: copies of the listing that others publish leave fields out."""

    volatile = ("downloads", "likes", "trendingScore")

    id: str
    sha: str | None = None
    lastModified: AwareDatetime | None = None
    pipeline_tag: str | None = None
    downloads: int | None = None
    likes: int | None = None
    tags: list[str] | None = None
    siblings: list[str | Sibling] | None = None

    def external_id(self) -> str:
        return self.id


class ByChange(RecordHead):
    """A model in the listing, which is in order of lastModified."""

    id: str
    lastModified: AwareDatetime | None = None

    def key(self) -> str:
        return self.id

    def position(self) -> datetime | None:
        return self.lastModified


Newest: Any = list[ByChange] | None


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    """A model by its own URL. A renamed one is a redirect; without a token a missing one is a 401."""
    gone = {307, 401, 404, 410} if client.anonymous else {307, 404, 410}
    found = client.get_record(f"/api/models/{quoted(external_id)}", ByChange, gone=frozenset(gone))
    return Payload(*found) if found else None


def change_token(client: Client, kind: str) -> str:
    """The model with the last change, and its time."""
    target = "/api/models?" + "&".join(f"{name}={value}" for name, value in {**PARAMETERS, "limit": 1}.items())
    _, page = client.request(target, Newest)
    return ", ".join(f"{each.id} {each.lastModified}" for each in page or [])


@source(
    contract=Model,
    kind="http",
    base_url="https://huggingface.co",
    start_date=date(2026, 11, 1),
    supports_backfill=True,
    rate=1.6,
    get_record=get_record,
    change_token=change_token,
    full_refresh_cron="0 5 * * 6",
)
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload a model, the last change first."""
    listing = Listing(
        client,
        window,
        "models" if window.current else "models of a day",
        "/api/models",
        {**PARAMETERS, "limit": 1000},
        Page,
        records=lambda page: page,
        paginator=LinkHeaderPaginator(),
        head=ByChange,
        incremental=Incremental(OVERLAP, start=window.start),
    )
    for page in listing:
        for record in page.records:
            if window.current or changed_on(window.day, record):
                yield Payload(record, page.request)
        yield page.checkpoint
    # A past day leaves no cursor: the next run does not start from there.
    if window.current:
        yield from listing.end()


def changed_on(day: date, record: bytes) -> bool:
    """Whether a record was changed on a day; True where that cannot be read: landing judges the record."""
    try:
        changed_at = msgspec.json.decode(record, type=ByChange).lastModified
        return changed_at is None or changed_at.astimezone(UTC).date() == day
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):  # a time that UTC cannot hold
        return True
