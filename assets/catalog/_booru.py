"""What Danbooru and e621 have in common: three listings, the records by id, the change token.

    changed_posts   /posts.json order:change ──page=2, 3, …──> down to the cursor
    created_posts   /posts.json date:<days>  ──page=b<id>────> all posts of a day, or of the last 30 days
    tags            /tags.json               ──page=b<id>────> down to the cursor; all tags in a full refresh

Both serve the same parameters (danbooru.donmai.us/wiki_pages/help:api, e621.net/help/api) in pages of different types.
Belongs here: what is the same on both sites. Not here: their contracts and page types.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Incremental, Listing
from pipelines.connectors.pages import Position, RecordHead
from pipelines.connectors.pagination import BeforeIdPaginator, PageNumberPaginator
from pipelines.source import Contract, Payload, Window

Time = Annotated[datetime, msgspec.Meta(tz=True)]

MAX_ID = 2**31 - 1
"""Higher than any id or change_seq: a listing by id starts below it. As `start` of an increment it ends a listing that
has no cursor after its first page."""

REFRESHED = timedelta(days=30)
"""How many days back a full refresh reads posts."""


class Record(Contract, kw_only=True):
    id: int
    updated_at: Time | None = None

    def external_id(self) -> str:
        return str(self.id)

    def version_at(self) -> datetime | None:
        return self.updated_at


class Tag(Record):
    volatile = ("post_count",)

    name: str
    category: int


class ById(RecordHead):
    """A post or tag in a listing by id."""

    id: int

    def key(self) -> str:
        return str(self.id)

    def position(self) -> Position:
        return self.id


@dataclass(frozen=True)
class Pages:
    """The type of the pages of a listing, and the records of a page."""

    type: Any
    records: Callable[[Any], list[msgspec.Raw]]


def changed_posts(
    client: Client,
    window: Window,
    pages: Pages,
    page_size: int,
    last_page: int,
    head: type[RecordHead],
    incremental: Incremental,
) -> Listing[Any]:
    """Posts by their last change. A full refresh too reads only new changes here."""
    return Listing(
        client,
        replace(window, full_refresh=False),
        "posts",
        "/posts.json",
        {"limit": page_size, "tags": "order:change status:any"},
        pages.type,
        records=pages.records,
        paginator=PageNumberPaginator("page", "limit", page_size, last_page),
        head=head,
        incremental=incremental,
        kind="posts",
    )


def created_posts(client: Client, window: Window, pages: Pages, page_size: int) -> Listing[Any]:
    """Posts by id: those created on a day, or in a full refresh of today those of the last 30 days."""
    days = f"{window.day - REFRESHED}.." if window.full_refresh and window.current else window.key
    return Listing(
        client,
        window,
        "posts of days",
        "/posts.json",
        {"limit": page_size, "tags": f"date:{days} status:any", "page": f"b{MAX_ID}"},
        pages.type,
        records=pages.records,
        paginator=BeforeIdPaginator("page", neighbours={"limit": 1, "tags": "status:any"}),
        head=ById,
        kind="posts",
    )


def tags(client: Client, window: Window, pages: Pages, page_size: int) -> Listing[Any]:
    """Tags by id, without a cursor one page of them."""
    return Listing(
        client,
        window,
        "tags",
        "/tags.json",
        {"limit": page_size, "search[hide_empty]": "no", "page": f"b{MAX_ID}"},
        pages.type,
        records=pages.records,
        paginator=BeforeIdPaginator("page"),
        head=ById,
        incremental=Incremental(overlap=200, start=MAX_ID),
        kind="tags",
    )


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    """A post or tag by its own URL; None where it is gone. A deleted post is still returned."""
    found = client.get_record(f"/{kind}/{external_id}.json", ById)
    return Payload(*found, kind=kind) if found else None


def change_token(client: Client, posts_type: Any, tags_type: Any) -> str:
    """The last change of a post and the newest tag."""
    _, posts = client.request("/posts.json?limit=1&tags=order:change+status:any", posts_type)
    _, tags = client.request(f"/tags.json?limit=1&search[hide_empty]=no&page=b{MAX_ID}", tags_type)
    return msgspec.json.encode([posts, tags]).decode()
