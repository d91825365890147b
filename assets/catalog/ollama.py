"""Ollama: the models on a server of one's own, and the public library they are pulled from.

    GET /api/tags ──models──> one payload a model `local` ──> models, model_versions, artifacts, tags, model_tags
        └── POST /api/show {"model": …} ──> one `shown` ──> artifacts, prompts, tags, model_tags
    GET the library's listing ──models──> one a model `library` ──> models, model_versions, artifacts, tags,
                                                                    model_tags, model_stats

What the server lists and what it shows of a model are two documents, so they are two streams, each as it was received
(github.com/ollama/ollama/blob/main/docs/api.md): the list has digest and size, what is shown has the sha256 of the
weights, the system prompt, licence and parameters. A server of one's own is cheap to ask: every model is shown in every
run. It sets no rate, and has no pages.

The library itself has no API. ATLAS_OLLAMA_LIBRARY_BASE_URL names a document that others make of its pages, with all
models and their tags; where it is not set the library is left out, where it is unchanged that costs one 304. Pulls and
the time of the last look at a page change all the time and make no version.

A snapshot: each of the two lists is told by one answer, so a model it does not tell is gone. On a bad day (a 5xx, a cut
answer) the client waits and tries again; if the day stays bad, the run fails and publishes nothing. Where no server
answers at all and the library is set, the library alone is read.
"""

import hashlib
from collections.abc import Iterator
from datetime import date

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Listing
from pipelines.errors import Unreachable
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

    tags: dict[str, Tag]
    description: str | None = None
    categories: list[str] = []
    pullCount: str | None = None


class Server(msgspec.Struct):
    models: list[msgspec.Raw]


class Document(msgspec.Struct):
    models: dict[str, msgspec.Raw]


class Named(msgspec.Struct):
    name: str


class Answered(msgspec.Struct):
    """What tells a model that is shown from an error that says 200."""

    details: msgspec.Raw


def change_token(client: Client) -> str:
    """Digests of what the server lists and of the library's listing."""
    library = client.place("library")
    found = [client.get_record("/api/tags", Server), library.get_record("", Document) if library else None]
    return " ".join(hashlib.sha256(each[0]).hexdigest() for each in found if each)


@source(
    contract={"local": Local, "shown": Shown, "library": Library},
    kind="http",
    base_url="http://127.0.0.1:11434",
    extra_urls={"library": ""},
    start_date=date(2026, 11, 1),
    change_token=change_token,
)
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload a model of the server, as listed and as shown, then one a model of the library."""
    library = client.place("library")
    try:
        yield from served(client, window)
    except Unreachable:
        if library is None:
            raise
        yield Skipped("local", "no server answers")
    if library is None:
        yield Skipped("library", "no listing is set (ATLAS_OLLAMA_LIBRARY_BASE_URL)")
    else:
        yield from published(library, window)


def served(client: Client, window: Window) -> Iterator[Item]:
    """The models of the server, as listed and as shown."""
    local = Listing(client, window, "local", "/api/tags", {}, Server, records=lambda page: page.models, kind="local")
    for answer in local:
        unnamed = 0
        for record in answer.records:
            yield Payload(record, answer.request, kind="local")
            try:
                name = msgspec.json.decode(record, type=Named).name
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                unnamed += 1  # landing says what is wrong with it
                continue
            if shown := client.get_record("/api/show", Answered, msgspec.json.encode({"model": name})):
                yield Payload(*shown, external_id=name, kind="shown")
        if not unnamed:
            yield FullScan("shown", answers=1)
        yield answer.done
    yield from local.end()


def published(place: Client, window: Window) -> Iterator[Item]:
    """The models of the library."""
    library = Listing(
        place,
        window,
        "library",
        "",
        {},
        Document,
        records=lambda page: list(page.models.values()),
        conditional=True,
        kind="library",
    )
    for listed in library:
        for name, model in listed.page.models.items():
            yield Payload(bytes(model), listed.request, external_id=name, kind="library")
        yield listed.done
    yield from library.end()
