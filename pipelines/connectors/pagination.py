"""The words by which the pages of a listing follow each other, where they are not links.

    b<id>   what is below an id: nothing moves between two pages
    page=n  what is so far from the beginning: each record that goes or comes above moves all the others

Words of the boorus (danbooru.donmai.us/wiki_pages/help:api), and of many others. Belongs here: which page is asked for
next, and whether a page goes on where the one before has ended. Not: asking (`listing`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import msgspec

Position = datetime | int
"""Where a record stands in a listing that is newest first."""


class Last(msgspec.Struct):
    """The page before: where its records stood. short: it had room for more, and none that overlaps it goes further."""

    places: dict[str, int | datetime]
    short: bool


@dataclass(frozen=True, slots=True)
class Step:
    """From a page to the next.

    link: the page to ask for, None after the last. last: what is then the page before. back: this page begins too low,
    and one further up is asked for. cut: more may follow, but no page with it may be asked for.
    """

    link: str | None
    last: Last | None = None
    back: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Below:
    """Pages of what is below an id, in order of ids. parameter: takes `b<id>`; an empty page is the last."""

    parameter: str

    def following(self, target: str, keys: list[str]) -> Step:
        return Step(replaced(target, self.parameter, f"b{min(map(int, keys))}") if keys else None)


@dataclass(frozen=True, slots=True)
class Numbered:
    """Pages by their number, each begun before the one before has ended.

    A record that both tell, at the place where it was, proves that none between them was passed over. Pages can only
    begin at multiples of their size, so their sizes vary a little. parameter: takes the number, from 1; size: the
    number of records that a page has room for; largest: the most that may be; most: the highest number that may be
    asked for.

    A page with room for more is no end: what is gone and still indexed takes up room and is not told. The end is an
    empty page after one that no page overlaps and goes beyond.
    """

    parameter: str
    size: str
    largest: int
    most: int

    def __post_init__(self) -> None:
        if math.lcm(*range(1, self.largest + 1)) <= self.largest * self.most:
            raise ValueError(f"At some border all pages of up to {self.largest} records end: let them be larger.")

    def following(self, target: str, told: Mapping[str, Position], length: int, last: Last | None) -> Step:
        """The step from a page. told: where its records stand; length: how many it has."""
        parameters = httpx.URL(target).params
        size, number = int(parameters[self.size]), int(parameters.get(self.parameter, 1))
        begin = (number - 1) * size
        if last and begin and (length or not last.short) and not _goes_on(told, last.places):
            # By less, many that have gone take many requests; by more, the page there may go no further than before.
            return Step(self._page(target, max(1, begin - self.largest // 4), 0), last, back=True)
        if not length:
            return Step(None, last)
        link = self._page(target, begin + length, begin + size)
        if link is None and length < size and number < self.most:
            return Step(self._numbered(target, size, number + 1), Last(dict(told), short=True))
        return Step(link, Last(dict(told), short=False), cut=link is None)

    def _page(self, target: str, end: int, beyond: int) -> str | None:
        """The page that begins before `end` and goes furthest, if one that goes beyond `beyond` may be asked for."""
        pages = [
            (size * number, size, number)
            for size in range(1, self.largest + 1)
            if (number := (end - 1) // size + 1) <= self.most
        ]
        reaches, size, number = max(pages, default=(0, 0, 0))
        return self._numbered(target, size, number) if reaches > beyond else None

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
