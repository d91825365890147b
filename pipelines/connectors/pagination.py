"""Paginators: from one page of a listing to the next.

    SinglePage           one response holds everything
    CursorPaginator      the page names the next one, by a link
    LinkHeaderPaginator  the Link header names the next one
    BeforeIdPaginator    page=b<id>: the records below an id, so that nothing moves between two pages
    PageNumberPaginator  page=n: records that come or go move all records below them, so pages overlap

Belongs here: which page is requested next. Not here: requesting it (`pages`), where an increment ends (`listing`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import httpx
import msgspec

from pipelines.connectors.pages import Page, with_parameter


class PreviousPage(msgspec.Struct):
    """The page before, of numbered pages: the positions of its records by key.

    short: it had fewer records than it has room for, and no page that overlaps it goes further.
    """

    positions: dict[str, int | datetime]
    short: bool


@dataclass(frozen=True, slots=True)
class NextPage:
    """The page to request next.

    link: None after the last page. previous: the page to compare it with. back: the page that was read begins below
    the end of the previous one, so a page further up is requested. cut: more records may follow, but the source serves
    no page with them.
    """

    link: str | None
    previous: PreviousPage | None = None
    back: bool = False
    cut: bool = False


class Paginator(ABC):
    """How the pages of a listing follow each other.

    requires_ids: the next page depends on ids of records. may_repeat: a target may be requested twice. conditional: one
    response holds everything, so a 304 to conditional headers means that nothing has changed. skip_check_parameter: the
    query parameter that sets the size of a page; only for a source that is known to skip records between two pages
    (`skipped_records`). neighbours: for a listing of a contiguous range of ids, the query parameters of a listing of
    all records: with it the ids next to the range are requested.
    """

    requires_ids: ClassVar[bool] = False
    may_repeat: ClassVar[bool] = False
    conditional: bool = False
    skip_check_parameter: str | None = None
    neighbours: Mapping[str, str | int] | None = None

    @abstractmethod
    def next_page(self, page: Page[Any], previous: PreviousPage | None) -> NextPage:
        """The page after one that was read."""

    def neighbour_targets(self, path: str, lowest: object, highest: object) -> Sequence[str]:
        """The targets of the records directly below and above a range of ids, for a paginator with `neighbours`."""
        return ()


@dataclass(frozen=True)
class SinglePage(Paginator):
    """One response holds everything. conditional: request it with the validators (ETag, Last-Modified) of the last."""

    conditional: bool = False

    def next_page(self, page: Page[Any], previous: PreviousPage | None) -> NextPage:
        return NextPage(None)


@dataclass(frozen=True)
class CursorPaginator(Paginator):
    """The page names the next one. next_link: a link, read from the decoded page; None after the last."""

    next_link: Callable[[Any], str | None]
    skip_check_parameter: str | None = None

    def next_page(self, page: Page[Any], previous: PreviousPage | None) -> NextPage:
        return NextPage(self.next_link(page.document))


@dataclass(frozen=True)
class LinkHeaderPaginator(Paginator):
    """The response names the next page, as `next` of its Link header (RFC 8288)."""

    def next_page(self, page: Page[Any], previous: PreviousPage | None) -> NextPage:
        return NextPage(page.next_link)


@dataclass(frozen=True)
class BeforeIdPaginator(Paginator):
    """Pages of the records below an id, in order of ids; an empty page is the last.

    parameter: takes `b<id>` for the records below an id, and `a<id>` for those above.
    """

    parameter: str
    neighbours: Mapping[str, str | int] | None = None
    requires_ids: ClassVar[bool] = True

    def next_page(self, page: Page[Any], previous: PreviousPage | None) -> NextPage:
        if not page.keys:
            return NextPage(None)
        return NextPage(with_parameter(page.target, self.parameter, f"b{min(map(int, page.keys))}"))

    def neighbour_targets(self, path: str, lowest: object, highest: object) -> tuple[str, str]:
        target = str(httpx.URL(path, params=dict(self.neighbours or {})))
        below = with_parameter(target, self.parameter, f"b{lowest}")
        return below, with_parameter(target, self.parameter, f"a{highest}")


@dataclass(frozen=True)
class PageNumberPaginator(Paginator):
    """Pages by number, each beginning above the end of the one before.

    A record that both pages return, at the same position, proves that no record between them was passed over. A page
    can begin only at a multiple of its size, so sizes vary a little. A page with fewer records than its size is not the
    end: deleted records still count towards its size. The listing ends with an empty page, once no overlapping page
    reaches further.

    parameter: takes the number, from 1. size_parameter: takes the number of records of a page. max_size: the largest
    page. max_page: the highest number that the source serves.
    """

    parameter: str
    size_parameter: str
    max_size: int
    max_page: int
    requires_ids: ClassVar[bool] = True
    may_repeat: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if math.lcm(*range(1, self.max_size + 1)) <= self.max_size * self.max_page:
            raise ValueError(f"Pages of up to {self.max_size} records all end at one place: use a larger max_size.")

    def next_page(self, page: Page[Any], previous: PreviousPage | None) -> NextPage:
        positions, length = page.positions, len(page.records)
        parameters = httpx.URL(page.target).params
        size, number = int(parameters[self.size_parameter]), int(parameters.get(self.parameter, 1))
        begin = (number - 1) * size
        if previous and begin and (length or not previous.short) and not _overlaps(positions, previous.positions):
            # A smaller step back takes many requests where many records are gone; with a larger one, the page there may
            # end above the previous one.
            return NextPage(self._overlapping(page.target, max(1, begin - self.max_size // 4), 0), previous, back=True)
        if not length:
            return NextPage(None, previous)
        link = self._overlapping(page.target, begin + length, begin + size)
        if link is None and length < size and number < self.max_page:
            return NextPage(self._target(page.target, size, number + 1), PreviousPage(dict(positions), short=True))
        return NextPage(link, PreviousPage(dict(positions), short=False), cut=link is None)

    def _overlapping(self, target: str, end: int, beyond: int) -> str | None:
        """The page that begins above offset `end` and goes furthest; None where no page goes past `beyond`."""
        pages = [
            (size * number, size, number)
            for size in range(1, self.max_size + 1)
            if (number := (end - 1) // size + 1) <= self.max_page
        ]
        reach, size, number = max(pages, default=(0, 0, 0))
        return self._target(target, size, number) if reach > beyond else None

    def _target(self, target: str, size: int, number: int) -> str:
        return with_parameter(with_parameter(target, self.size_parameter, size), self.parameter, number)


def _overlaps(positions: Mapping[str, Any], previous: Mapping[str, Any]) -> bool:
    """Whether a page begins no lower than the previous one ends."""
    if any(previous.get(key) == position for key, position in positions.items()):
        return True
    return bool(positions) and min(positions.values()) > min(previous.values())
