"""Danbooru: posts, which are images with their tags, deleted and banned ones too; and the tags themselves.

    today       /posts.json order:change ──page=2, 3, …──> posts, down to the newest change of the last run
                /tags.json ──page=b<id>──> tags, down to the newest tag of the last run
    a past day  /posts.json date:<day> ──page=b<id>──> posts      posts ──> images, image_tags, tags
    a sweep     today, the posts of a month, and every tag        tags ──> tags

Pages (danbooru.donmai.us/wiki_pages/help:api) are read until one is empty. `page=b<id>` tells what is below an id, in
order of ids; first pages are asked for so too, since `date:` alone is told by created_at. Numbered pages begin before
the one before has ended, since posts move up when one is expunged. A day is one of US Eastern time. An expunged post is
told nowhere: that it is gone is seen when its day is read again, by a sweep or by a backfill of older days. Where there
is no mark yet, changes are read back to the start of the day, and one page of tags: only a sweep reads all of them, or
sees that one has changed. Votes, favourites, comments and notes leave updated_at as it is, and are seen when a post is
told again.

Ten reads a second are allowed; a token (ATLAS_DANBOORU_TOKEN, `login:api_key`) is optional. On a bad day (429, 5xx, a
cut page) the client waits and tries again; if the day stays bad, the run fails and publishes nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Annotated

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Head, Listing
from pipelines.connectors.pagination import Below, Numbered, Position
from pipelines.source import Contract, Item, Payload, Window, source

Time = Annotated[datetime, msgspec.Meta(tz=True)]

ABOVE_ALL = 2**31 - 1
"""Higher than any id: a listing by id begins there; as `since` it ends one that has no mark after its first page."""

LAST_PAGE = 1000
"""The highest number of a page that is answered."""

MOST = 200
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


class Post(Record):
    volatile = (
        "score",
        "up_score",
        "down_score",
        "fav_count",
        "last_comment_bumped_at",
        "last_commented_at",
        "last_noted_at",
    )

    rating: str | None
    tag_string: str
    tag_string_general: str | None = None
    tag_string_artist: str | None = None
    tag_string_copyright: str | None = None
    tag_string_character: str | None = None
    tag_string_meta: str | None = None
    md5: str | None = None
    file_url: str | None = None
    preview_file_url: str | None = None
    image_width: int | None = None
    image_height: int | None = None


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
    updated_at: Time

    def position(self) -> Position:
        return self.updated_at


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    """A post or tag as it is now; a deleted or banned post is still told, an expunged one is gone."""
    found = client.get_record(f"/{kind}/{external_id}.json", ById)
    return Payload(*found, kind=kind) if found else None


def change_token(client: Client) -> str:
    """The newest change and the newest tag."""
    _, posts = client.ask("/posts.json?limit=1&tags=order:change+status:any", list[Changed])
    _, tags = client.ask(f"/tags.json?limit=1&search[hide_empty]=no&page=b{ABOVE_ALL}", list[ById])
    return msgspec.json.encode([posts, tags]).decode()


@source(
    contract={"posts": Post, "tags": Tag},
    kind="http",
    base_url="https://danbooru.donmai.us",
    start_date=date(2005, 5, 24),
    supports_backfill=True,
    rate=10.0,
    auth="basic",
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
            list[msgspec.Raw],
            records=list,
            paging=Numbered("page", "limit", MOST, LAST_PAGE),
            head=Changed,
            overlap=timedelta(minutes=10),
            since=window.start,
            kind="posts",
        )
        tags = Listing(
            client,
            window,
            "tags",
            "/tags.json",
            {"limit": 1000, "search[hide_empty]": "no", "page": f"b{ABOVE_ALL}"},
            list[msgspec.Raw],
            records=list,
            paging=Below("page"),
            head=ById,
            overlap=200,
            since=ABOVE_ALL,
            kind="tags",
        )
        yield from changes.items()
        yield from tags.items()
    if window.full_refresh or not window.current:
        days = f"{window.day - SWEPT}.." if window.full_refresh and window.current else window.key
        created = Listing(
            client,
            window,
            "posts of days",
            "/posts.json",
            {"limit": MOST, "tags": f"date:{days} status:any", "page": f"b{ABOVE_ALL}"},
            list[msgspec.Raw],
            records=list,
            paging=Below("page"),
            head=ById,
            kind="posts",
            among={"limit": 1, "tags": "status:any"},
        )
        yield from created.items()
