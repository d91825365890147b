"""Danbooru: posts, which are images with their tags, also deleted and banned ones; and the tags themselves.

    today           /posts.json order:change ──page=2, 3, …──> posts, down to the last change of the last run
                    /tags.json ──page=b<id>──> tags, down to the newest tag of the last run
    a past day      /posts.json date:<day> ──page=b<id>──> posts      posts ──> images, image_tags, tags
    a full refresh  today, the posts of 30 days, and every tag        tags ──> tags

The last page is empty (danbooru.donmai.us/wiki_pages/help:api). `date:` alone sorts by created_at, so the first page
too is requested by id. Numbered pages overlap, since posts move up when one is expunged. A day is in US Eastern time.
An expunged post is in no listing: it is missed when its day is read again, by a full refresh or a backfill. Without a
cursor, changes are read back to the start of the day, and one page of tags. Only a full refresh reads all tags, and so
finds changed ones. Votes, favourites, comments and notes do not change updated_at; they come with the next change.

Ten reads a second are allowed; a token (ATLAS_DANBOORU_TOKEN, `login:api_key`) is optional. On a bad day (429, 5xx, a
cut page) the client retries; if the day stays bad, the run fails and publishes nothing.
"""

from collections.abc import Iterator
from datetime import date, timedelta

import msgspec

from assets.catalog import _booru
from pipelines.connectors.http import Client
from pipelines.connectors.listing import Incremental
from pipelines.connectors.pagination import Position
from pipelines.source import AwareDatetime, Item, Window, source

PAGE_SIZE = 200
"""The most posts that a page holds."""

LAST_PAGE = 1000
"""The highest page number that is served."""


class Post(_booru.Record):
    volatile = (
        "score",
        "up_score",
        "down_score",
        "fav_count",
        "last_comment_bumped_at",
        "last_commented_at",
        "last_noted_at",
    )

    rating: str | None = None
    tag_string: str | None = None
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


class ByChange(_booru.ById):
    """A post in the listing of changes."""

    updated_at: AwareDatetime | None = None

    def position(self) -> Position | None:
        return self.updated_at


PAGES = _booru.Pages(list[msgspec.Raw] | None, records=lambda page: page)


def change_token(client: Client, kind: str) -> str:
    """The last change of a post, or the newest tag."""
    return _booru.change_token(client, kind, {"posts": list[ByChange] | None, "tags": list[_booru.ById] | None})


@source(
    contract={"posts": Post, "tags": _booru.Tag},
    kind="http",
    base_url="https://danbooru.donmai.us",
    start_date=date(2005, 5, 24),
    supports_backfill=True,
    rate=10.0,
    auth="basic",
    get_record=_booru.get_record,
    change_token=change_token,
    full_refresh_cron="0 4 * * 0",
)
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """The tags or posts that are new today; the posts of a past day, or in a full refresh those of 30 days."""
    site = _booru.Site(
        posts=PAGES,
        tags=PAGES,
        page_size=PAGE_SIZE,
        tags_page_size=1000,
        last_page=LAST_PAGE,
        head=ByChange,
        changes=Incremental(overlap=timedelta(minutes=10), start=window.start),
    )
    yield from site.items(client, window)
