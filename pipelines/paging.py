"""The words by which the pages of a listing follow each other, where they are not links.

    b<id>   what is below an id: nothing moves between two pages
    page=n  what is so far from the beginning: each record that goes or comes above moves all the others

Words of the boorus (danbooru.donmai.us/wiki_pages/help:api), and of many others. Belongs here: which page is asked for
next, and whether a page goes on where the one before has ended. Not: asking (`listing`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import msgspec

Position = datetime | int
"""Where a record stands in a listing that is newest first."""


class Last(msgspec.Struct):
    """The page before: where its records stood; short: it had room for more."""

    places: dict[str, int | datetime]
    short: bool


@dataclass(frozen=True, slots=True)
class Below:
    """Pages of what is below an id, in order of ids. parameter: takes `b<id>`; an empty page is the last."""

    parameter: str

    def following(self, target: str, keys: list[str]) -> str:
        return replaced(target, self.parameter, f"b{min(map(int, keys))}")


@dataclass(frozen=True, slots=True)
class Numbered:
    """Pages by their number, each begun before the one before has ended.

    A record that both tell, at the place where it was, proves that none between them was passed over. Pages can only
    begin at multiples of their size, so their sizes vary a little. parameter: takes the number, from 1; size: the
    number of records that a page has room for; most: the highest number that may be asked for.

    A source that tells less than there is room for, though more comes after, is read page after page.
    """

    parameter: str
    size: str
    most: int

    def following(
        self, target: str, largest: int, told: Mapping[str, Position], length: int, last: Last | None
    ) -> tuple[str | None, Last | None]:
        """The page to ask for after this one, None where there is none, and what is then the page before.

        largest: the size of a first page. told: where this page's records stand; length: how many it has.
        """
        parameters = httpx.URL(target).params
        size, number = int(parameters[self.size]), int(parameters.get(self.parameter, 1))
        begin = (number - 1) * size
        if last and begin and not last.short and not _goes_on(told, last.places):
            return self._page(target, largest, begin), last
        if not length:
            return None, last
        if length < size:
            return self._numbered(target, size, number + 1) if number < self.most else None, Last(dict(told), True)
        return self._page(target, largest, begin + length), Last(dict(told), False)

    def _page(self, target: str, largest: int, end: int) -> str | None:
        """The page that begins before `end` and goes furthest beyond it, if any may be asked for."""
        pages = [
            (size * number, size, number)
            for size in range(1, largest + 1)
            if (number := (end - 1) // size + 1) <= self.most
        ]
        reaches, size, number = max(pages, default=(0, 0, 0))
        return self._numbered(target, size, number) if reaches > end else None

    def _numbered(self, target: str, size: int, number: int) -> str:
        return replaced(replaced(target, self.size, size), self.parameter, number)


def _goes_on(told: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a page begins no lower than the one before it has ended."""
    if any(before.get(key) == place for key, place in told.items()):
        return True
    return bool(told) and min(told.values()) > min(before.values())


def replaced(target: str, parameter: str, value: str | int) -> str:
    """A link with another value of one parameter."""
    return str(httpx.URL(target).copy_set_param(parameter, value))
