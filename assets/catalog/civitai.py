"""CivitAI: every published model with its versions, files and showcase images.

    GET /api/v1/models?limit=100 ──items──> one payload a model ──> models, model_versions, artifacts, images,
        └── metadata.nextPage, until there is none                  tags, model_tags, prompts

Pages by an opaque cursor in the next-page link (github.com/civitai/civitai/wiki/REST-API-Reference). A snapshot: the
listing cannot be filtered by time of change. On a bad day (429, 5xx, a cut page) the client waits and tries again; if
the day stays bad, the run fails and publishes nothing. A token (ATLAS_CIVITAI_TOKEN) is optional.
"""

from collections.abc import Iterator
from datetime import date

import msgspec

from pipelines.http import Client
from pipelines.source import Contract, Item, Payload, Window, source


class File(msgspec.Struct):
    id: int
    name: str
    type: str
    downloadUrl: str | None = None
    sizeKB: float | None = None
    hashes: dict[str, str | None] = {}
    primary: bool | None = None


class Image(msgspec.Struct):
    url: str
    id: int | None = None
    width: int | None = None
    height: int | None = None
    nsfw: bool | str | None = None
    nsfwLevel: int | str | None = None
    meta: dict[str, msgspec.Raw] | None = None


class Version(msgspec.Struct):
    id: int
    name: str
    baseModel: str | None = None
    createdAt: str | None = None
    publishedAt: str | None = None
    files: list[File] = []
    images: list[Image] = []


class Model(Contract):
    id: int
    name: str
    type: str
    description: str | None = None
    nsfw: bool | None = None
    tags: list[str | dict[str, msgspec.Raw]] = []
    modelVersions: list[Version] = []

    def external_id(self) -> str:
        return str(self.id)


class Metadata(msgspec.Struct):
    nextPage: str | None = None


class Page(msgspec.Struct):
    items: list[msgspec.Raw]
    metadata: Metadata


@source(contract=Model, kind="http", base_url="https://civitai.com", since=date(2026, 11, 1), envelope="items")
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload a model, in the order of the listing."""
    for answer in client.pages(
        "/api/v1/models", {"limit": 100, "nsfw": "true"}, Page, lambda page: page.metadata.nextPage
    ):
        for item in answer.page.items:
            yield Payload(bytes(item), answer.request)
