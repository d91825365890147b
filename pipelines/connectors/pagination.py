"""Paginators: from one page of a listing to the next. Not here: requesting it, where an increment ends (`listing`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

import httpx
import msgspec

from pipelines.errors import AtlasError
from pipelines.source import Checkpoint

OVERLAPPING = 16
"""The share of a page that overlaps the one before, at least: so many records may go between two requests."""

PageT = TypeVar("PageT")
Position = datetime | int  # where a record stands in a listing that is newest first
Places = dict[str, Position | None]  # by the key of each record; None where it has no position


class RecordHead(msgspec.Struct):
    """The fields of a record that paging reads: its id and, where the listing is newest first, its position."""

    def key(self) -> str:
        raise NotImplementedError

    def position(self) -> Position | None:
        return None


@dataclass
class Page(Generic[PageT]):
    """A decoded page, its records as received, and what paging reads of those that can be decoded."""

    target: str  # path and query of its request
    request: str  # its URL as it is stored
    document: PageT
    records: list[bytes]
    names: list[str | None]  # the id of each, where the page has them by their ids
    keys: list[str]
    positions: Places
    next_link: str | None  # `next` of its Link header (RFC 8288)
    checkpoint: Checkpoint = field(init=False)  # to be yielded after the payloads of the page


@dataclass(frozen=True, slots=True)
class NextPage:
    """The page to request next."""

    link: str | None  # None after the last page
    previous: Places | None = None  # of the page that it has to overlap
    back: bool = False  # it lies further up, because the page that was read does not overlap the one before


class Paginator(ABC):
    """How the pages of a listing follow each other."""

    requires_ids: ClassVar[bool] = False  # the next page depends on ids of records
    numbered: ClassVar[bool] = False  # a page may be requested twice, and the last one may not be the end
    conditional: bool = False  # one response holds everything: a 304 to conditional headers means that nothing changed
    is_range: bool = False  # the listing holds a contiguous range of ids: it proves nothing of a record outside of it

    @abstractmethod
    def next_page(self, page: Page[Any], previous: Places | None) -> NextPage:
        """The page after one that was read. previous: the positions of a page that it should overlap."""


@dataclass(frozen=True)
class SinglePage(Paginator):
    """One response holds everything. conditional: request it with the validators (ETag, Last-Modified) of the last."""

    conditional: bool = False

    def next_page(self, page: Page[Any], previous: Places | None) -> NextPage:
        return NextPage(None)


@dataclass(frozen=True)
class CursorPaginator(Paginator):
    """The page names the next one. next_link: a link, read from the decoded page; None after the last."""

    next_link: Callable[[Any], str | None]

    def next_page(self, page: Page[Any], previous: Places | None) -> NextPage:
        link = self.next_link(page.document)
        if not isinstance(link, str | None):
            raise AtlasError(
                f"next_link of a CursorPaginator returned {link!r} for {page.target}: return the link of the next page "
                "as text, or None after the last one."
            )
        return NextPage(link)


@dataclass(frozen=True)
class LinkHeaderPaginator(Paginator):
    """The response names the next page, as `next` of its Link header (RFC 8288)."""

    def next_page(self, page: Page[Any], previous: Places | None) -> NextPage:
        return NextPage(page.next_link)


@dataclass(frozen=True)
class BeforeIdPaginator(Paginator):
    """Pages of the records below an id, in order of ids: nothing moves between two. An empty page is the last."""

    parameter: str  # takes `b<id>` for the records below an id
    is_range: bool = False
    requires_ids: ClassVar[bool] = True

    def next_page(self, page: Page[Any], previous: Places | None) -> NextPage:
        if not page.keys:
            return NextPage(None)
        return NextPage(_target(page, {self.parameter: f"b{min(map(int, page.keys))}"}))


@dataclass(frozen=True)
class PageNumberPaginator(Paginator):
    """Pages by number, each beginning above the end of the one before; an empty page is the last.

    Records that come or go move all records below them. A record that both pages return, at the same position or both
    times without one, proves that none between them was passed over. Where they share none, the page above is requested
    too. A page can begin only at a multiple of its size, so sizes vary a little. Deleted records may take up room on a
    page without being returned; after a page that is less than half full there is no overlap.
    """

    parameter: str  # takes the number, from 1
    size_parameter: str  # takes the number of records of a page
    max_size: int
    max_page: int  # the highest number that the source serves
    requires_ids: ClassVar[bool] = True
    numbered: ClassVar[bool] = True

    def next_page(self, page: Page[Any], previous: Places | None) -> NextPage:
        parameters = httpx.URL(page.target).params
        size, number = int(parameters[self.size_parameter]), int(parameters.get(self.parameter, 1))
        if previous and number > 1 and not page.positions.items() & previous.items():
            here, before = known_positions(page.positions), known_positions(previous)
            if not here or not before or max(here) <= min(before):  # it begins below the end of the previous one
                return NextPage(self._page(page, size, number - 1), previous, back=True)
        begin, length = size * (number - 1), len(page.records)
        if not length:
            return NextPage(None)
        # Of all pages that hold a record near the end of this one, the page that reaches furthest
        offset = begin + max(0, length - 1 - self.max_size // OVERLAPPING)
        pages = [(wider, offset // wider + 1) for wider in range(1, self.max_size + 1)]
        ends = [(wider * later, wider, later) for wider, later in pages if later <= self.max_page]
        reach, wider, later = max(ends, default=(0, 0, 0))
        if reach > begin + size:
            return NextPage(self._page(page, wider, later), page.positions)
        return NextPage(self._page(page, size, number + 1) if number < self.max_page else None)

    def _page(self, page: Page[Any], size: int, number: int) -> str:
        return _target(page, {self.size_parameter: size, self.parameter: number})


def known_positions(places: Places) -> list[Any]:
    """The positions of the records that have one."""
    return [position for position in places.values() if position is not None]


def _target(page: Page[Any], parameters: Mapping[str, str | int]) -> str:
    """The target of a page with other values of some query parameters."""
    return str(httpx.URL(page.target).copy_merge_params(parameters))
