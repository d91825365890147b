"""e621: posts, which are images with their tags, also deleted ones; and the tags themselves.

    today           /posts.json order:change ──page=2, 3, …──> posts, down to the last change of the last run
                    /tags.json ──page=b<id>──> tags, down to the newest tag of the last run
    a past day      /posts.json date:<day> ──page=b<id>──> posts      posts ──> images, image_tags, tags
    a full refresh  today, the posts of 30 days, and every tag        tags ──> tags

The last page is empty (e621.net/help/api). Numbered pages overlap, since posts move up when one is destroyed. A day is
in US Eastern time. A destroyed post is in no listing: it is missed when its day is read again, by a full refresh or a
backfill. Changes are in order of change_seq, a number that every change gets, also one that leaves updated_at as it is
(a flag), and that says nothing of time. So without a cursor one page of changes is read to set it, then the posts of
the day, and one page of tags. Only a full refresh reads all tags, and so finds changed ones. Votes, favourites and
comments are no changes; they come with the next change.

Two requests a second are allowed, one is sent, with a User-Agent that says how to reach the caller; a token
(ATLAS_E621_TOKEN, `login:api_key`) is optional. On a bad day (429, 5xx, a cut page) the client retries; if the day
stays bad, the run fails and publishes nothing.
"""

from collections.abc import Iterator
from datetime import date
from typing import Annotated

import msgspec

from assets.catalog import _booru
from pipelines.connectors.http import Client
from pipelines.connectors.listing import Incremental
from pipelines.connectors.pagination import Position
from pipelines.source import Item, Payload, Window, source

PAGE_SIZE = 320
"""The most records that a page holds."""

LAST_PAGE = 750
"""The highest page number that is served."""


class File(msgspec.Struct):
    md5: str | None = None
    url: str | None = None
    width: int | None = None
    height: int | None = None


class Preview(msgspec.Struct):
    url: str | None = None


class Post(_booru.Record):
    volatile = ("score", "fav_count", "comment_count")
    envelope = "posts"

    rating: str | None = None
    tags: dict[str, list[str]] = {}
    file: File | None = None
    preview: Preview | None = None


class ByChange(_booru.ById):
    """A post in the listing of changes."""

    change_seq: int

    def position(self) -> Position:
        return self.change_seq


class PostsPage(msgspec.Struct):
    posts: list[msgspec.Raw] | None


class PostPage(msgspec.Struct):
    post: msgspec.Raw


class EmptyTagsPage(msgspec.Struct, forbid_unknown_fields=True):
    """A page without tags is an object; any other is a list."""

    tags: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=0)] | None


POSTS = _booru.Pages(PostsPage, records=lambda page: page.posts)
TAGS = _booru.Pages(
    list[msgspec.Raw] | EmptyTagsPage | None,
    records=lambda page: page.tags if isinstance(page, EmptyTagsPage) else page,
)


def get_record(client: Client, kind: str, external_id: str) -> Payload | None:
    """A post or tag by its own URL; None where it is gone. A deleted post is still returned."""
    if kind == "tags":
        return _booru.get_record(client, kind, external_id)
    found = client.get_record(f"/posts/{external_id}.json", PostPage, record=lambda page: page.post)
    return Payload(*found, kind=kind) if found else None


def change_token(client: Client, kind: str) -> str:
    """The last change of a post, or the newest tag."""
    pages = {"posts": dict[str, list[ByChange] | None], "tags": list[_booru.ById] | EmptyTagsPage | None}
    return _booru.change_token(client, kind, pages)


@source(
    contract={"posts": Post, "tags": _booru.Tag},
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
    """The tags or posts that are new today; the posts of a past day, or in a full refresh those of 30 days."""
    site = _booru.Site(
        posts=POSTS,
        tags=TAGS,
        page_size=PAGE_SIZE,
        tags_page_size=320,
        last_page=LAST_PAGE,
        head=ByChange,
        changes=Incremental(overlap=1000, start=_booru.MAX_ID),
    )
    yield from site.items(client, window, created="posts" not in window.cursors)
