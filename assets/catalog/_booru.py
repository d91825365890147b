"""What Danbooru and e621 have in common: three listings, the records by id, the change token.

    changed_posts   /posts.json order:change ──page=2, 3, …──> down to the cursor
    created_posts   /posts.json date:<days>  ──page=b<id>────> all posts of a day, or of the last 30 days
    newest_tags     /tags.json               ──page=b<id>────> down to the cursor; all tags in a full refresh

Both serve the same parameters (danbooru.donmai.us/wiki_pages/help:api, e621.net/help/api) in pages of different types.
Belongs here: what is the same on both sites. Not here: their contracts and page types.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.json_records import Records
from pipelines.connectors.listing import Incremental, Listing
from pipelines.connectors.pagination import BeforeIdPaginator, PageNumberPaginator, Position, RecordHead
from pipelines.source import AwareDatetime, Contract, Item, Payload, Window

MAX_ID = 2**31 - 1
"""Higher than any id or change_seq: a listing by id starts below it. With it as `start`, an increment without a cursor
ends after one page."""

NEWEST = {
    "posts": "/posts.json?limit=1&tags=order:change+status:any",
    "tags": f"/tags.json?limit=1&search[hide_empty]=no&page=b{MAX_ID}",
}

REFRESHED = timedelta(days=30)
"""How many days back a full refresh reads posts."""


class Record(Contract, kw_only=True):
    id: int
    updated_at: AwareDatetime | None = None

    def external_id(self) -> str:
        return str(self.id)


class Tag(Record):
    volatile = ("post_count",)

    name: str
    category: int | None = None


class ById(RecordHead):
    """A post or tag in a listing by id."""

    id: int

    def key(self) -> str:
        return str(self.id)

    def position(self) -> Position | None:
        return self.id


@dataclass(frozen=True)
class Pages:
    """The type of the pages of a listing, and the records of a page."""

    type: Any
    records: Callable[[Any], Records]


@dataclass(frozen=True, kw_only=True)
class Site:
    """The three listings of a site.

    page_size, tags_page_size: the most posts and tags that a page holds. last_page: the highest page number that is
    served. head, changes: what paging reads of a post in the listing of changes, and how far a run reads it.
    """

    posts: Pages
    tags: Pages
    page_size: int
    tags_page_size: int
    last_page: int
    head: type[RecordHead]
    changes: Incremental

    def items(self, client: Client, window: Window, *, created: bool = False) -> Iterator[Item]:
        """The tags or posts that are new today; the posts of a past day, or in a full refresh those of 30 days.

        created: also read the posts of today by id.
        """
        if window.kind == "tags":
            if window.current:
                yield from self.newest_tags(client, window).items()
            return
        if window.current:
            yield from self.changed_posts(client, window).items()
        if created or window.full_refresh or not window.current:
            yield from self.created_posts(client, window).items()

    def changed_posts(self, client: Client, window: Window) -> Listing[Any]:
        """Posts by their last change. A full refresh too reads only new changes here."""
        return Listing(
            client,
            replace(window, full_refresh=False),
            "posts",
            "/posts.json",
            {"limit": self.page_size, "tags": "order:change status:any"},
            self.posts.type,
            records=self.posts.records,
            paginator=PageNumberPaginator("page", "limit", self.page_size, self.last_page),
            head=self.head,
            incremental=self.changes,
            kind="posts",
        )

    def created_posts(self, client: Client, window: Window) -> Listing[Any]:
        """Posts by id: those created on a day, or in a full refresh of today those of the last 30 days."""
        days = f"{window.day - REFRESHED}.." if window.full_refresh and window.current else window.key
        return Listing(
            client,
            window,
            "posts of days",
            "/posts.json",
            {"limit": self.page_size, "tags": f"date:{days} status:any", "page": f"b{MAX_ID}"},
            self.posts.type,
            records=self.posts.records,
            paginator=BeforeIdPaginator("page", is_range=True),
            head=ById,
            kind="posts",
        )

    def newest_tags(self, client: Client, window: Window) -> Listing[Any]:
        """Tags by id, without a cursor one page of them."""
        return Listing(
            client,
            window,
            "tags",
            "/tags.json",
            {"limit": self.tags_page_size, "search[hide_empty]": "no", "page": f"b{MAX_ID}"},
            self.tags.type,
            records=self.tags.records,
            paginator=BeforeIdPaginator("page"),
            head=ById,
            incremental=Incremental(overlap=200, start=MAX_ID),
            kind="tags",
        )


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    """A post or tag by its own URL; None where it is gone. A deleted post is still returned."""
    found = client.get_record(f"/{kind}/{external_id}.json", ById)
    return Payload(*found, kind=kind) if found else None


def change_token(client: Client, kind: str, page_types: Mapping[str, Any]) -> str:
    """The last change of a post, or the newest tag."""
    _, page = client.request(NEWEST[kind], page_types[kind])
    return msgspec.json.encode(page).decode()
