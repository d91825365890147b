"""A library: its authors with their books, and the covers that people sent in.

GET /authors ──authors──> one payload an author ──> authors, books, copies, covers, quotes, topics, loans
    └── next, until there is none
GET /covers ──covers──> one payload a cover ──> covers, quotes
"""

from collections.abc import Iterator
from datetime import date

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Listing
from pipelines.connectors.pagination import CursorPaginator, RecordHead
from pipelines.source import Contract, Item, Payload, Window, source


class Copy(msgspec.Struct):
    id: int
    room: str


class BookCover(msgspec.Struct):
    id: int
    url: str
    width: int | None = None


class Book(msgspec.Struct):
    id: int
    title: str
    copies: list[Copy] = []
    covers: list[BookCover] = []


class Author(Contract):
    volatile = ("stats", "books[*].stats")
    envelope = "items"

    id: int
    name: str
    books: list[Book] = []
    topics: list[str] = []

    def external_id(self) -> str:
        return str(self.id)


class Cover(Contract):
    volatile = ("stats",)
    envelope = "items"

    id: int
    url: str

    def external_id(self) -> str:
        return str(self.id)


class Head(RecordHead):
    id: int

    def key(self) -> str:
        return str(self.id)


class Page(msgspec.Struct):
    items: list[msgspec.Raw] | None
    next: str | None = None


class FirstPage(msgspec.Struct):
    items: list[Head] | None


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    found = client.get_record(f"/{kind}/{external_id}", Head)
    return Payload(*found, kind=kind) if found else None


def change_token(client: Client, kind: str) -> str:
    _, page = client.request(f"/{kind}?limit=1", FirstPage)
    return page.items[0].key() if page and page.items else ""


@source(
    contract={"authors": Author, "covers": Cover},
    kind="http",
    base_url="https://library.example",
    start_date=date(2026, 11, 1),
    rate=100.0,
    get_record=get_record,
    change_token=change_token,
    full_refresh_cron="0 2 * * *",
)
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload an author, or one a cover."""
    listing = Listing(
        client,
        window,
        window.kind,
        f"/{window.kind}",
        {},
        Page,
        records=lambda page: page.items,
        paginator=CursorPaginator(lambda page: page.next),
        head=Head,
        kind=window.kind,
    )
    yield from listing.items()
