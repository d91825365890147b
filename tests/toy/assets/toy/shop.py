"""A shop: authors on one page, in the tables that the library fills too.

GET /authors ──a list──> one payload an author ──> authors, author_topics, topics
"""

from collections.abc import Iterator
from datetime import date

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Listing
from pipelines.connectors.pagination import SinglePage
from pipelines.source import Contract, Item, Window, source


class Author(Contract):
    name: str
    topics: list[str] = []

    def external_id(self) -> str:
        return self.name


class Page(msgspec.Struct):
    authors: list[msgspec.Raw] | None


@source(
    contract=Author,
    kind="http",
    base_url="https://shop.example",
    start_date=date(2026, 11, 1),
    rate=100.0,
)
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload an author."""
    listing = Listing(
        client, window, "authors", "/authors", {}, Page, records=lambda page: page.authors, paginator=SinglePage()
    )
    yield from listing.items()
