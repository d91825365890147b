"""CivitAI: every published model with its versions, files and showcase images; every image that was posted.

    GET /api/v1/models ──items──> one payload a model ──> models, model_versions, artifacts, tags, model_tags,
        │                                                 model_stats, images, prompts
        └── metadata.nextPage, until there is none
    GET /api/v1/images ──items──> one payload an image ──> images, prompts

Pages by an opaque cursor in the next-page link (developer.civitai.com/site/guide/pagination). Its models have been told
without the record between two pages (github.com/civitai/civitai/issues/1372), so pages are asked for one short of
their limit of 100, to have room for a look across. Neither listing can be filtered by time of change, both go newest
first: a model is as new as the last version published, an image as its post. So an increment brings new models, those
with a new version, and new images; whatever else changed in a model comes with a sweep, which reads the models to
their end. Images are a stream of a hundred million: their listing is only ever read down to where the last run began,
or to the day's beginning, and none of them is taken for gone.
Counters (stats) change all the time and make no version. The operator publishes no rate ("a signal to back off, not a
scheme to code against", developer.civitai.com/site/guide/errors): one request a second. On a bad day (429, 5xx, a cut
page) the client waits and tries again; if the day stays bad, the run fails, publishes nothing and goes on where it
stopped. A token (ATLAS_CIVITAI_TOKEN) is optional.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Annotated

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Head, Listing
from pipelines.source import Contract, Item, Payload, Window, source

ASKED: dict[str, dict[str, str | int]] = {
    "models": {"limit": 99, "nsfw": "true", "sort": "Newest"},
    "images": {"limit": 200, "nsfw": "X", "sort": "Newest", "withMeta": "true"},
}
OVERLAP = timedelta(minutes=10)
"""An image waits for its scan, an answer in a cache: neither is told the moment it is published."""


class File(msgspec.Struct):
    id: int
    name: str
    type: str
    downloadUrl: str | None = None
    sizeKB: float | None = None
    hashes: dict[str, str | None] = {}
    primary: bool | None = None


class Showcase(msgspec.Struct):
    url: str
    id: int | None = None
    width: int | None = None
    height: int | None = None
    nsfw: bool | str | None = None
    nsfwLevel: int | str | None = None
    browsingLevel: int | None = None
    meta: dict[str, msgspec.Raw] | None = None


class Version(msgspec.Struct):
    id: int
    name: str
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
    type: str
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
    url: str
    width: int | None = None
    height: int | None = None
    nsfw: bool | str | None = None
    nsfwLevel: int | str | None = None
    browsingLevel: int | None = None
    modelVersionIds: list[int] | None = None
    meta: dict[str, msgspec.Raw] | None = None

    def external_id(self) -> str:
        return str(self.id)


Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Dated(msgspec.Struct):
    publishedAt: Moment | None = None
    createdAt: Moment | None = None


class Newest(Head):
    """A model or an image, as its listing is sorted."""

    id: int
    createdAt: Moment | None = None
    modelVersions: list[Dated] = []

    def key(self) -> str:
        return str(self.id)

    def position(self) -> datetime | None:
        times = [time for each in self.modelVersions if (time := each.publishedAt or each.createdAt)]
        return max(times, default=self.createdAt)


class Metadata(msgspec.Struct):
    nextPage: str | None = None


class Page(msgspec.Struct):
    items: list[msgspec.Raw]
    metadata: Metadata


class First(msgspec.Struct):
    items: list[Newest]


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    found = client.get_record(f"/api/v1/models/{external_id}", Newest)
    return Payload(*found, kind=kind) if found else None


def change_token(client: Client) -> str:
    """The newest model with the time of its last version, and the newest image."""
    told = []
    for kind, asked in ASKED.items():
        _, page = client.ask(f"/api/v1/{kind}?limit=1&nsfw={asked['nsfw']}&sort=Newest", First)
        told += [f"{each.key()} {each.position()}" for each in page.items] if page else []
    return ", ".join(told)


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
    """One payload a model, then one an image, in the order of their listings."""
    for kind, asked in ASKED.items():
        listing = Listing(
            client,
            window if kind == "models" else replace(window, full_refresh=False),
            kind,
            f"/api/v1/{kind}",
            asked,
            Page,
            records=lambda page: page.items,
            following=lambda page, keys, link: page.metadata.nextPage,
            head=Newest,
            overlap=OVERLAP,
            since=None if kind == "models" else window.start,
            border="limit" if kind == "models" else None,
            kind=kind,
        )
        yield from listing.items()
