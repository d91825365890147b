"""Paginators: from one page of a listing to the next.

    SinglePage           one response holds everything
    CursorPaginator      the page names the next one, by a link
    LinkHeaderPaginator  the Link header names the next one
    BeforeIdPaginator    page=b<id>: the records below an id, so that nothing moves between two pages
    PageNumberPaginator  page=n: records that come or go move all records below them, so pages overlap

Belongs here: which page is requested next. Not here: requesting it (`pages`), where an increment ends (`listing`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx

from pipelines.connectors.pages import Page, Position, with_parameter

OVERLAPPING = 16
"""The share of a page that overlaps the one before, at least: so many records may go between two requests."""

Previous = Mapping[str, Position] | None
"""The positions by key of the page that the next one has to overlap; None where there is none."""


@dataclass(frozen=True, slots=True)
class NextPage:
    """The page to request next.

    link: None after the last page. previous: what it has to overlap. back: the page that was read does not overlap the
    one before, so that one further up is requested.
    """

    link: str | None
    previous: Previous = None
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
    def next_page(self, page: Page[Any], previous: Previous) -> NextPage:
        """The page after one that was read."""


@dataclass(frozen=True)
class SinglePage(Paginator):
    """One response holds everything. conditional: request it with the validators (ETag, Last-Modified) of the last."""

    conditional: bool = False

    def next_page(self, page: Page[Any], previous: Previous) -> NextPage:
        return NextPage(None)


@dataclass(frozen=True)
class CursorPaginator(Paginator):
    """The page names the next one. next_link: a link, read from the decoded page; None after the last."""

    next_link: Callable[[Any], str | None]

    def next_page(self, page: Page[Any], previous: Previous) -> NextPage:
        return NextPage(self.next_link(page.document))


@dataclass(frozen=True)
class LinkHeaderPaginator(Paginator):
    """The response names the next page, as `next` of its Link header (RFC 8288)."""

    def next_page(self, page: Page[Any], previous: Previous) -> NextPage:
        return NextPage(page.next_link)


@dataclass(frozen=True)
class BeforeIdPaginator(Paginator):
    """Pages of the records below an id, in order of ids; an empty page is the last.

    parameter: takes `b<id>` for the records below an id.
    """

    parameter: str
    is_range: bool = False
    requires_ids: ClassVar[bool] = True

    def next_page(self, page: Page[Any], previous: Previous) -> NextPage:
        below = f"b{min(map(int, page.keys))}" if page.keys else None
        return NextPage(with_parameter(page.target, self.parameter, below) if below else None)


@dataclass(frozen=True)
class PageNumberPaginator(Paginator):
    """Pages by number, each beginning above the end of the one before; an empty page is the last.

    A record that both pages return, at the same position, proves that none between them was passed over. Where they
    share none, the page above is requested too. A page can begin only at a multiple of its size, so sizes vary a
    little. Deleted records may take up room on a page without being returned; after a page that is less than half full
    there is no overlap.

    parameter: takes the number, from 1. size_parameter: takes the number of records of a page. max_size: the largest
    page. max_page: the highest number that the source serves.
    """

    parameter: str
    size_parameter: str
    max_size: int
    max_page: int
    requires_ids: ClassVar[bool] = True
    numbered: ClassVar[bool] = True

    def next_page(self, page: Page[Any], previous: Previous) -> NextPage:
        parameters = httpx.URL(page.target).params
        size, number = int(parameters[self.size_parameter]), int(parameters.get(self.parameter, 1))
        if previous and number > 1 and not _overlaps(page.positions, previous):
            return NextPage(self._target(page, size, number - 1), previous, back=True)
        begin, length = size * (number - 1), len(page.records)
        if not length:
            return NextPage(None)
        reach, wider, later = max(self._pages_from(begin + max(0, length - 1 - self.max_size // OVERLAPPING)))
        if reach > begin + size:
            return NextPage(self._target(page, wider, later), page.positions)
        return NextPage(self._target(page, size, number + 1) if number < self.max_page else None)

    def _pages_from(self, offset: int) -> list[tuple[int, int, int]]:
        """End, size and number of the pages that hold an offset."""
        pages = [(size, offset // size + 1) for size in range(1, self.max_size + 1)]
        return [(size * number, size, number) for size, number in pages if number <= self.max_page] or [(0, 0, 0)]

    def _target(self, page: Page[Any], size: int, number: int) -> str:
        return with_parameter(with_parameter(page.target, self.size_parameter, size), self.parameter, number)


def _overlaps(positions: Mapping[str, Any], previous: Mapping[str, Any]) -> bool:
    """Whether a page begins no lower than the previous one ends."""
    if positions.items() & previous.items():
        return True
    return bool(positions) and max(positions.values()) > min(previous.values())
