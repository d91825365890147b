"""e621: posts, which are images with their tags, deleted ones too; and the tags themselves.

    today       /posts.json order:change ──page=2, 3, …──> posts, down to the newest change of the last run
                /tags.json ──page=b<id>──> tags, down to the newest tag of the last run
    a past day  /posts.json date:<day> ──page=b<id>──> posts      posts ──> images, image_tags, tags
    a sweep     today, the posts of a month, and every tag        tags ──> tags

Pages (e621.net/help/api) are read until one is empty; `page=b<id>` tells what is below an id, in order of ids. Numbered
pages begin before the one before has ended, since posts move up when one is destroyed. A day is one of US Eastern time.
A destroyed post is told nowhere: that it is gone is seen when its day is read again, by a sweep or by a backfill of
older days. The order of changes is that of change_seq, a number that every change of a post gets, also
those that leave updated_at as it is (a flag); but it tells no time. So where there is no mark yet, a page of changes
is read to set it, and then the day's own posts. Of tags one page is read then: only a sweep reads all of them, or sees
that one has changed. Votes, favourites and comments are no changes, and are seen when a post is told again.

Two requests a second are the limit, one is asked for, and a User-Agent that tells how to reach the caller; a token
(ATLAS_E621_TOKEN, `login:api_key`) is optional. On a bad day (429, 5xx, a cut page) the client waits and tries again;
if the day stays bad, the run fails and publishes nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Annotated, Any

import msgspec

from pipelines.connectors.http import Client, request_of
from pipelines.connectors.listing import Head, Listing
from pipelines.connectors.pagination import Below, Numbered, Position
from pipelines.source import Contract, Item, Payload, Window, source

Time = Annotated[datetime, msgspec.Meta(tz=True)]

ABOVE_ALL = 2**31 - 1
"""Higher than any id or change_seq: a listing by id begins there; as `since` it ends one that has no mark after its
first page."""

LAST_PAGE = 750
"""The highest number of a page that is answered."""

MOST = 320
"""The most records that a page of posts holds."""

SWEPT = timedelta(days=30)
"""A sweep reads the posts of so many days."""


class Record(Contract, kw_only=True):
    id: int
    updated_at: Time | None = None

    def external_id(self) -> str:
        return str(self.id)

    def version_at(self) -> datetime | None:
        return self.updated_at


class File(msgspec.Struct):
    md5: str | None = None
    url: str | None = None
    width: int | None = None
    height: int | None = None


class Preview(msgspec.Struct):
    url: str | None = None


class Post(Record):
    volatile = ("score", "fav_count", "comment_count")
    envelope = "posts"

    rating: str | None
    tags: dict[str, list[str]]
    file: File | None = None
    preview: Preview | None = None


class Tag(Record):
    volatile = ("post_count",)

    name: str
    category: int


class ById(Head):
    id: int

    def key(self) -> str:
        return str(self.id)

    def position(self) -> Position:
        return self.id


class Changed(ById):
    change_seq: int

    def position(self) -> Position:
        return self.change_seq


class Posts(msgspec.Struct):
    posts: list[msgspec.Raw]


class One(msgspec.Struct):
    post: msgspec.Raw


class NoTags(msgspec.Struct, forbid_unknown_fields=True):
    """What stands for an empty page of tags."""

    tags: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=0)]


TAGS: Any = list[msgspec.Raw] | NoTags


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    """A post or tag as it is now; a deleted post is still told, a destroyed one is gone."""
    if kind == "tags":
        found = client.get_record(f"/tags/{external_id}.json", ById)
        return Payload(*found, kind=kind) if found else None
    response, page = client.ask(f"/posts/{external_id}.json", One)
    return Payload(bytes(page.post), request_of(response), kind=kind) if page else None


def change_token(client: Client) -> str:
    """The newest change and the newest tag."""
    _, posts = client.ask("/posts.json?limit=1&tags=order:change+status:any", dict[str, list[Changed]])
    shape: Any = list[ById] | NoTags
    _, tags = client.ask(f"/tags.json?limit=1&search[hide_empty]=no&page=b{ABOVE_ALL}", shape)
    return msgspec.json.encode([posts, tags]).decode()


@source(
    contract={"posts": Post, "tags": Tag},
    kind="http",
    base_url="https://e621.net",
    start_date=date(2007, 2, 10),
    supports_backfill=True,
    rate=1.0,
    auth="basic",
    requires_contact=True,
    get_record=get_record,
    change_token=change_token,
    full_refresh_cron="0 4 * * 0",
)
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload a post or tag: of a past day its posts; today what is new, and by a sweep a month and every tag."""
    if window.current:
        changes = Listing(
            client,
            replace(window, full_refresh=False),  # of changes a sweep reads no more than what is new
            "posts",
            "/posts.json",
            {"limit": MOST, "tags": "order:change status:any"},
            Posts,
            records=lambda page: page.posts,
            paging=Numbered("page", "limit", MOST, LAST_PAGE),
            head=Changed,
            overlap=1000,
            since=ABOVE_ALL,
            kind="posts",
        )
        tags = Listing(
            client,
            window,
            "tags",
            "/tags.json",
            {"limit": 320, "search[hide_empty]": "no", "page": f"b{ABOVE_ALL}"},
            TAGS,
            records=lambda page: page.tags if isinstance(page, NoTags) else page,
            paging=Below("page"),
            head=ById,
            overlap=200,
            since=ABOVE_ALL,
            kind="tags",
        )
        yield from changes.items()
        yield from tags.items()
    if window.full_refresh or not window.current or "posts" not in window.cursors:
        days = f"{window.day - SWEPT}.." if window.full_refresh and window.current else window.key
        created = Listing(
            client,
            window,
            "posts of days",
            "/posts.json",
            {"limit": MOST, "tags": f"date:{days} status:any", "page": f"b{ABOVE_ALL}"},
            Posts,
            records=lambda page: page.posts,
            paging=Below("page"),
            head=ById,
            kind="posts",
            among={"limit": 1, "tags": "status:any"},
        )
        yield from created.items()
