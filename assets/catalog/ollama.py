"""Ollama: the models on a local server, and the public library that they are pulled from.

    GET /api/tags ──models──> one payload a model `local` ──> models, model_versions, artifacts, tags, model_tags
        └── POST /api/show {"model": …} ──> one `shown` ──> artifacts, prompts, tags, model_tags
    GET the library's listing ──models──> one a model `library` ──> models, model_versions, artifacts, tags,
                                                                    model_tags, model_stats

The list of the server and what it shows of a model are two documents, so they are two streams
(github.com/ollama/ollama/blob/main/docs/api.md): the list has digest and size; a shown model has the sha256 of the
weights, the system prompt, licence and parameters. The server has no pages and no rate limit: every run requests every
model. The library has no API. ATLAS_OLLAMA_LIBRARY_BASE_URL names a document that others make of its pages; without it
the library is left out, and an unchanged document costs one 304. Pull counts and times of extraction make no version.

A snapshot: each list comes in one response. The server's list may leave out a model that can still be shown, so it is
asked to show each model that the list lacks; one that it does not know is gone. A model of the library cannot be asked
for: it is gone when two listings in a row lack it. A model that the server cannot show is skipped, and what it showed
before stays. On a bad day (a 5xx, a cut response) the client retries; if the day stays bad,
the run fails and publishes nothing. The server and the library have runs of their own: where no server runs, the
library is read all the same.
"""

import hashlib
from collections.abc import Iterator
from datetime import date

import msgspec

from pipelines.connectors import json_records
from pipelines.connectors.http import Client
from pipelines.connectors.listing import Listing
from pipelines.connectors.pagination import SinglePage
from pipelines.errors import Refused
from pipelines.source import Contract, FullScan, Item, Payload, Skipped, Window, source


class Details(msgspec.Struct):
    family: str | None = None


class Local(Contract):
    envelope = "models"

    name: str
    size: int | None = None
    details: Details | None = None
    capabilities: list[str] | None = None

    def external_id(self) -> str:
        return self.name


class Shown(Contract):
    modelfile: str | None = None
    system: str | None = None
    capabilities: list[str] | None = None


class Tag(msgspec.Struct):
    size: str | None = None
    capabilities: list[str] = []


class Library(Contract):
    volatile = ("pullCount", "lastUpdated", "extractedAt", "tags.*.extractedAt")
    envelope = "models"

    tags: dict[str, Tag] = {}
    description: str | None = None
    categories: list[str] = []
    pullCount: str | None = None


class ServerPage(msgspec.Struct):
    models: list[msgspec.Raw] | None


class LibraryPage(msgspec.Struct):
    models: dict[str, msgspec.Raw] | None


class Named(msgspec.Struct):
    name: str


class ShownHead(msgspec.Struct):
    """What a shown model has, and an error with status 200 lacks."""

    details: msgspec.Raw


def change_token(client: Client, kind: str) -> str:
    """The digest of the list of the server, or of the listing of the library."""
    found = client.get_record(*(("", LibraryPage) if kind == "library" else ("/api/tags", ServerPage)))
    return hashlib.sha256(found[0]).hexdigest() if found else ""


def show(client: Client, name: str) -> Payload | None:
    """A model as the server shows it; None where it does not know it."""
    found = client.get_record("/api/show", ShownHead, msgspec.json.encode({"model": name}))
    return Payload(*found, external_id=name, kind="shown") if found else None


def get_record(client: Client, kind: str, external_id: str) -> Payload | Skipped | None:
    """A shown model; of a listed one only whether it is there, since how the list has it is not known."""
    shown = show(client, external_id)
    return Skipped("/api/show", "missing from the list, still shown") if shown and kind == "local" else shown


@source(
    contract={"local": Local, "shown": Shown, "library": Library},
    kind="http",
    base_url="http://127.0.0.1:11434",
    other_urls={"library": ""},
    comes_with={"shown": "local"},
    start_date=date(2026, 11, 1),
    get_record=get_record,
    only_listed=("library",),
    change_token=change_token,
)
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload a model of the library; or one a model of the server, as listed, and one as shown."""
    yield from (library_models if window.kind == "library" else server_models)(client, window)


def server_models(client: Client, window: Window) -> Iterator[Item]:
    """The models of the server, as listed and as shown."""
    local = Listing(
        client,
        window,
        "local",
        "/api/tags",
        {},
        ServerPage,
        records=lambda page: page.models,
        paginator=SinglePage(),
        kind="local",
    )
    for page in local:
        unnamed = 0
        for record in page.records:
            yield Payload(record, page.request, kind="local")
            named = json_records.decode_head(record, Named)
            if named is None:
                unnamed += 1  # landing quarantines it
                continue
            try:
                shown = show(client, named.name)
            except Refused as error:
                yield Skipped("/api/show", f"cannot be shown: {error.reason}", named.name, "shown")
                continue
            if shown:
                yield shown
        if not unnamed:
            yield FullScan("shown", responses=1)
        yield page.checkpoint
    yield from local.end()


def library_models(client: Client, window: Window) -> Iterator[Item]:
    """The models of the library."""
    library = Listing(
        client,
        window,
        "library",
        "",
        {},
        LibraryPage,
        records=lambda page: page.models,
        paginator=SinglePage(conditional=True),
        kind="library",
    )
    yield from library.items()
