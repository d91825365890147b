"""CivitAI: every published model with its versions, files and showcase images; every image that was posted.

    GET /api/v1/models ──items──> one payload a model ──> models, model_versions, artifacts, tags, model_tags,
        │                                                 model_stats, images, prompts
        └── metadata.nextPage, until there is none
    GET /api/v1/images ──items──> one payload an image ──> images, prompts

Pages by an opaque cursor in the link to the next page (developer.civitai.com/site/guide/pagination). The models have
been listed without the record between two pages (github.com/civitai/civitai/issues/1372), so the size of a page
differs with the day and with the last cursor: what one run is not given, the next one is. Both listings are newest
first and have no filter by time of change: a model is as new as its last published version, an image as its post. So an
increment reads new models, models with a new version, and new images; other changes of a model come with a full
refresh, which reads all models. Images, a hundred million, are only read down to the last run, or to the start of the
day, and never deleted.

Counters (stats) change all the time and make no version. The operator publishes no rate
(developer.civitai.com/site/guide/errors): one request a second. A token (ATLAS_CIVITAI_TOKEN) is optional. On a bad day
(429, 5xx, a cut page) the client retries; if the day stays bad, the run fails, publishes nothing, and the next one
continues after the last page.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Incremental, Listing
from pipelines.connectors.pagination import CursorPaginator, RecordHead
from pipelines.source import AwareDatetime, Contract, Item, Payload, Window, source

PARAMETERS: dict[str, dict[str, str | int]] = {
    "models": {"nsfw": "true", "sort": "Newest"},
    "images": {"limit": 200, "nsfw": "X", "sort": "Newest", "withMeta": "true"},
}
OVERLAP = timedelta(minutes=10)
"""Images are scanned and responses cached: a record appears some minutes after it is published."""


class File(msgspec.Struct):
    id: int
    name: str | None = None
    type: str | None = None
    downloadUrl: str | None = None
    sizeKB: float | None = None
    hashes: dict[str, str | None] = {}
    primary: bool | None = None


class Showcase(msgspec.Struct):
    """Identified by its id, else by its url: neither is required."""

    id: int | None = None
    url: str | None = None
    width: int | None = None
    height: int | None = None
    nsfw: bool | str | None = None
    nsfwLevel: int | str | None = None
    browsingLevel: int | None = None
    meta: dict[str, msgspec.Raw] | None = None


class Version(msgspec.Struct):
    id: int
    name: str | None = None
    baseModel: str | None = None
    createdAt: str | None = None
    publishedAt: str | None = None
    files: list[File] = []
    images: list[Showcase] = []


class Stats(msgspec.Struct):
    downloadCount: int | None = None
    thumbsUpCount: int | None = None
    favoriteCount: int | None = None
    rating: float | None = None


class Model(Contract):
    volatile = ("stats", "modelVersions[*].stats")
    envelope = "items"

    id: int
    name: str
    type: str | None = None
    description: str | None = None
    nsfw: bool | None = None
    stats: Stats | None = None
    tags: list[str | dict[str, msgspec.Raw]] = []
    modelVersions: list[Version] = []

    def external_id(self) -> str:
        return str(self.id)


class Image(Contract):
    volatile = ("stats",)
    envelope = "items"

    id: int
    url: str | None = None
    width: int | None = None
    height: int | None = None
    nsfw: bool | str | None = None
    nsfwLevel: int | str | None = None
    browsingLevel: int | None = None
    modelVersionIds: list[int] | None = None
    meta: dict[str, msgspec.Raw] | None = None

    def external_id(self) -> str:
        return str(self.id)


class VersionTimes(msgspec.Struct):
    publishedAt: AwareDatetime | None = None
    createdAt: AwareDatetime | None = None


class ByPublication(RecordHead):
    """A model or an image in its listing."""

    id: int
    createdAt: AwareDatetime | None = None
    modelVersions: list[VersionTimes] = []

    def key(self) -> str:
        return str(self.id)

    def position(self) -> datetime | None:
        times = [time for each in self.modelVersions if (time := each.publishedAt or each.createdAt)]
        return max(times, default=self.createdAt)


class Metadata(msgspec.Struct):
    nextPage: str | None = None


class Page(msgspec.Struct):
    items: list[msgspec.Raw] | None
    metadata: Metadata | None


class FirstPage(msgspec.Struct):
    items: list[ByPublication] | None


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    """A model by its own URL; None where it is gone."""
    found = client.get_record(f"/api/v1/models/{external_id}", ByPublication)
    return Payload(*found, kind=kind) if found else None


def change_token(client: Client, kind: str) -> str:
    """The newest model or image, with the time by which it is listed."""
    target = f"/api/v1/{kind}?limit=1&nsfw={PARAMETERS[kind]['nsfw']}&sort=Newest"
    _, page = client.request(target, FirstPage)
    return ", ".join(f"{each.key()} {each.position()}" for each in page.items or ()) if page else ""


@source(
    contract={"models": Model, "images": Image},
    kind="http",
    base_url="https://civitai.com",
    start_date=date(2026, 11, 1),
    rate=1.0,
    get_record=get_record,
    change_token=change_token,
    full_refresh_cron="0 3 * * *",
)
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload a model, or one an image, in the order of their listing."""
    kind, parameters = window.kind, PARAMETERS[window.kind]
    models = kind == "models"  # images are never read to their end
    varied = window.day.toordinal() % 7 + 7 * (sum(str(window.cursors.get(kind, "")).encode()) % 3)
    size = {"limit": 99 - varied} if models else {}
    listing = Listing(
        client,
        window if models else replace(window, full_refresh=False),
        kind,
        f"/api/v1/{kind}",
        {**size, **parameters},
        Page,
        records=lambda page: page.items,
        paginator=CursorPaginator(lambda page: page.metadata.nextPage if page.metadata else None),
        head=ByPublication,
        incremental=Incremental(OVERLAP, start=None if models else window.start),
        kind=kind,
    )
    yield from listing.items()
