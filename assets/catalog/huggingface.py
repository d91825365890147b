"""Hugging Face Hub: every public model with its files, its tags and its counters.

    GET /api/models ──records──> one payload a model ──> models, model_versions, artifacts, tags, model_tags,
        └── Link: <…>; rel="next", until there is none   model_stats

Newest first by lastModified, 1,000 a page, by an opaque cursor in the Link header (huggingface.co/docs/hub/api). An
increment ends ten minutes below the newest that the last one saw. The listing cannot be filtered by time: a day that is
past is reached by walking down from the newest, and only what was changed on it is kept; a sweep reads all. Downloads,
likes and trending scores change all the time and make no version. A model has one version, its newest revision; the
listing names its files, without their sizes and checksums.

Without a token the operator allows 500 requests in five minutes (huggingface.co/docs/hub/rate-limits); one
(ATLAS_HUGGINGFACE_TOKEN) also shows the private models of its owner. On a bad day (429, 5xx, a cut page) the client
waits and tries again; if the day stays bad, the run fails, publishes nothing and goes on where it stopped.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Head, Listing
from pipelines.source import Contract, Item, Payload, Window, source

ASKED: dict[str, str | int] = {"sort": "lastModified", "direction": -1, "full": "true"}
OVERLAP = timedelta(minutes=10)
"""Answers come from caches: a model is not told the moment it is changed."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Lfs(msgspec.Struct):
    sha256: str | None = None
    size: int | None = None


class Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: Lfs | None = None


class Model(Contract):
    """Nothing but the id is always there: listings that others keep leave out what they did not need."""

    volatile = ("downloads", "likes", "trendingScore")

    id: str
    sha: str | None = None
    lastModified: Moment | None = None
    pipeline_tag: str | None = None
    downloads: int | None = None
    likes: int | None = None
    tags: list[str] | None = None
    siblings: list[str | Sibling] | None = None

    def external_id(self) -> str:
        return self.id

    def version_at(self) -> datetime | None:
        return self.lastModified


class Newest(Head):
    """A model as the listing is sorted."""

    id: str
    lastModified: Moment | None = None

    def key(self) -> str:
        return self.id

    def position(self) -> datetime | None:
        return self.lastModified


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    """A model by its own URL. Renamed ones are redirected; who has no token is told 401 of what is not there."""
    gone = {307, 401, 404, 410} if client.anonymous else {307, 404, 410}
    found = client.get_record(f"/api/models/{external_id}", Newest, gone=frozenset(gone))
    return Payload(*found) if found else None


def change_token(client: Client) -> str:
    """The model that was changed last, and when."""
    target = "/api/models?" + "&".join(f"{name}={value}" for name, value in {**ASKED, "limit": 1}.items())
    _, page = client.ask(target, list[Newest])
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
    """One payload a model, the one changed last first."""
    listing = Listing(
        client,
        window,
        "models" if window.current else "models of a day",
        "/api/models",
        {**ASKED, "limit": 1000},
        list[msgspec.Raw],
        records=lambda page: page,
        following=lambda page, keys, link: link,
        head=Newest,
        overlap=OVERLAP,
        since=window.start,
    )
    for answer in listing:
        for record in answer.records:
            if window.current or changed_on(window.day, record):
                yield Payload(record, answer.request)
        yield answer.done
    # How far a walk to a day that is past has come tells nothing of the next run.
    if window.current:
        yield from listing.end()


def changed_on(day: date, record: bytes) -> bool:
    """Whether a record belongs to a day; one that cannot be read does, so that landing says what is wrong with it."""
    try:
        changed_at = msgspec.json.decode(record, type=Newest).lastModified
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return changed_at is None or changed_at.astimezone(UTC).date() == day
