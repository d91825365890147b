"""Paginators: from one page of a listing to the next. Not here: requesting it, where an increment ends (`listing`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

import httpx
import msgspec

from pipelines.source import Checkpoint

OVERLAPPING = 16
"""The share of a page that overlaps the one before, at least: so many records may go between two requests."""

PageT = TypeVar("PageT")
Position = datetime | int
"""Where a record stands in a listing that is newest first."""


class RecordHead(msgspec.Struct):
    """The fields of a record that paging reads: its id and, where the listing is newest first, its position."""

    def key(self) -> str:
        raise NotImplementedError

    def position(self) -> Position | None:
        return None


@dataclass
class Page(Generic[PageT]):
    """A decoded page, its records as received, and what paging reads of those that can be decoded.

    target: path and query of its request. request: its URL as it is stored. positions: by key, of the records that have
    one. next_link: `next` of its Link header (RFC 8288). checkpoint: to be yielded after the payloads of the page.
    """

    target: str
    request: str
    document: PageT
    records: list[bytes]
    keys: list[str]
    positions: dict[str, Position]
    next_link: str | None
    checkpoint: Checkpoint = field(init=False)


@dataclass(frozen=True, slots=True)
class NextPage:
    """The page to request next.

    link: None after the last page. previous: the positions of the page that it has to overlap. back: the page that was
    read does not overlap the one before, so that one further up is requested.
    """

    link: str | None
    previous: dict[str, Position] | None = None
    back: bool = False


class Paginator(ABC):
    """How the pages of a listing follow each other.

    requires_ids: the next page depends on ids of records. numbered: a page may be requested twice, and the last one may
    not be the end. conditional: one response holds everything, so a 304 to conditional headers means that nothing has
    changed. is_range: the listing holds a contiguous range of ids, so it proves nothing of a record outside of it.
    """

    requires_ids: ClassVar[bool] = False
    numbered: ClassVar[bool] = False
    conditional: bool = False
    is_range: bool = False

    @abstractmethod
    def next_page(self, page: Page[Any], previous: dict[str, Position] | None) -> NextPage:
        """The page after one that was read. previous: the positions of a page that it should overlap."""


@dataclass(frozen=True)
class SinglePage(Paginator):
    """One response holds everything. conditional: request it with the validators (ETag, Last-Modified) of the last."""

    conditional: bool = False

    def next_page(self, page: Page[Any], previous: dict[str, Position] | None) -> NextPage:
        return NextPage(None)


@dataclass(frozen=True)
class CursorPaginator(Paginator):
    """The page names the next one. next_link: a link, read from the decoded page; None after the last."""

    next_link: Callable[[Any], str | None]

    def next_page(self, page: Page[Any], previous: dict[str, Position] | None) -> NextPage:
        return NextPage(self.next_link(page.document))


@dataclass(frozen=True)
class LinkHeaderPaginator(Paginator):
    """The response names the next page, as `next` of its Link header (RFC 8288)."""

    def next_page(self, page: Page[Any], previous: dict[str, Position] | None) -> NextPage:
        return NextPage(page.next_link)


@dataclass(frozen=True)
class BeforeIdPaginator(Paginator):
    """Pages of the records below an id, in order of ids, so that nothing moves between two; an empty page is the last.

    parameter: takes `b<id>` for the records below an id.
    """

    parameter: str
    is_range: bool = False
    requires_ids: ClassVar[bool] = True

    def next_page(self, page: Page[Any], previous: dict[str, Position] | None) -> NextPage:
        if not page.keys:
            return NextPage(None)
        return NextPage(_target(page, {self.parameter: f"b{min(map(int, page.keys))}"}))


@dataclass(frozen=True)
class PageNumberPaginator(Paginator):
    """Pages by number, each beginning above the end of the one before; an empty page is the last.

    Records that come or go move all records below them. A record that both pages return, at the same position, proves
    that none between them was passed over. Where they share none, the page above is requested too. A page can begin
    only at a multiple of its size, so sizes vary a little. Deleted records may take up room on a page without being
    returned; after a page that is less than half full there is no overlap.

    parameter: takes the number, from 1. size_parameter: takes the number of records of a page. max_size: the largest
    page. max_page: the highest number that the source serves.
    """

    parameter: str
    size_parameter: str
    max_size: int
    max_page: int
    requires_ids: ClassVar[bool] = True
    numbered: ClassVar[bool] = True

    def next_page(self, page: Page[Any], previous: dict[str, Position] | None) -> NextPage:
        parameters = httpx.URL(page.target).params
        size, number = int(parameters[self.size_parameter]), int(parameters.get(self.parameter, 1))
        if previous and number > 1 and not _overlaps(page.positions, previous):
            return NextPage(self._page(page, size, number - 1), previous, back=True)
        begin, length = size * (number - 1), len(page.records)
        if not length:
            return NextPage(None)
        reach, wider, later = max(self._pages_from(begin + max(0, length - 1 - self.max_size // OVERLAPPING)))
        if reach > begin + size:
            return NextPage(self._page(page, wider, later), page.positions)
        return NextPage(self._page(page, size, number + 1) if number < self.max_page else None)

    def _pages_from(self, offset: int) -> list[tuple[int, int, int]]:
        """End, size and number of the pages that hold an offset."""
        pages = [(size, offset // size + 1) for size in range(1, self.max_size + 1)]
        return [(size * number, size, number) for size, number in pages if number <= self.max_page] or [(0, 0, 0)]

    def _page(self, page: Page[Any], size: int, number: int) -> str:
        return _target(page, {self.size_parameter: size, self.parameter: number})


def _target(page: Page[Any], parameters: Mapping[str, str | int]) -> str:
    """The target of a page with other values of some query parameters."""
    return str(httpx.URL(page.target).copy_merge_params(parameters))


def _overlaps(positions: Mapping[str, Any], previous: Mapping[str, Any]) -> bool:
    """Whether a page begins no lower than the previous one ends."""
    if positions.items() & previous.items():
        return True
    return bool(positions) and max(positions.values()) > min(previous.values())
