"""Listings over real HTTP: where they end, what they remember, and what they notice when their source goes wrong."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
import stamina

from pipelines.connectors import listing
from pipelines.connectors.http import Client
from pipelines.connectors.listing import MAX_IDLE_PAGES, Incremental, Listing
from pipelines.connectors.pagination import (
    BeforeIdPaginator,
    CursorPaginator,
    LinkHeaderPaginator,
    PageNumberPaginator,
    Position,
    RecordHead,
    SinglePage,
)
from pipelines.connectors.retries import ATTEMPTS
from pipelines.errors import AtlasError, SourceFault
from pipelines.source import Checkpoint, Cursor, FullScan, Window
from tests import hostile
from tests.hostile import Answer, Asked, Fault, Server

TODAY = Window(date(2026, 11, 1))
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
OVERLAP = timedelta(minutes=10)


class Entry(RecordHead):
    id: str
    at: datetime | None = None

    def key(self) -> str:
        return self.id

    def position(self) -> Position | None:
        return self.at


class Page(msgspec.Struct):
    items: list[msgspec.Raw] | None
    next: str | None = None


def entry(name: str, minutes: float = 0) -> dict[str, Any]:
    """A record that was changed so many minutes after noon."""
    return {"id": name, "at": hostile.iso(NOON + timedelta(minutes=minutes))}


BY_LINK = CursorPaginator(lambda page: page.next)


@dataclass
class Book:
    """Pages by their cursor, each naming the next."""

    pages: list[list[Any]]
    links: dict[int, str | None] = field(default_factory=dict)

    def answer(self, asked: Asked) -> Answer:
        number = int(asked.arguments.get("cursor", "0"))
        records = list(self.pages[number]) if number < len(self.pages) else []
        following = self.links.get(number, f"/list?limit=3&cursor={number + 1}")
        last = number not in self.links and number + 1 >= len(self.pages)
        return Answer({"items": records, "next": None if last else following})


@dataclass
class Read:
    """One reading of a listing, to its end or to where it broke off."""

    keys: list[str] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    cursors: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    full_scans: list[FullScan] = field(default_factory=list)


@dataclass
class Reader:
    """Reads one server's listing, again and again."""

    server: Server
    client: Client

    def read(self, window: Window = TODAY, *, pages: int = 1_000, limit: int = 3, **more: Any) -> Read:
        """pages: it breaks off after so many."""
        read = Read()
        self.client.notes.clear()
        usual: dict[str, Any] = {"head": Entry, "incremental": Incremental(OVERLAP), "paginator": BY_LINK}
        found = Listing(
            self.client,
            window,
            "entries",
            "/list",
            {"limit": limit},
            Page,
            records=lambda page: page.items,
            **(usual | more),
        )
        for number, page in enumerate(found, 1):
            read.keys += [json.loads(each).get("id", "unreadable") for each in page.records]
            read.kept = json.loads(msgspec.json.encode(page.checkpoint.state))
            if number == pages:
                return read
        for item in found.end():
            if isinstance(item, Cursor):
                read.cursors[item.listing] = json.loads(msgspec.json.encode(item.value))
            elif isinstance(item, FullScan):
                read.full_scans.append(item)
            assert not isinstance(item, Checkpoint)
        return read

    def asked(self) -> list[str]:
        """Cursors asked for since the last call."""
        found = [each.arguments.get("cursor", "0") for each in self.server.log]
        self.server.log.clear()
        return found


Open = Any


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as stack, stamina.set_testing(True, attempts=ATTEMPTS):

        def make(book: Any, **more: Any) -> Reader:
            server = stack.enter_context(Server(book.answer, **more))
            return Reader(server, stack.enter_context(Client("catalog/invented", server.url)))

        yield make


# Where a listing ends

BOOK = Book(
    [
        [entry("g", 60), entry("f", 50), entry("e", 40)],
        [entry("d", 30), entry("c", 30), entry("b", 30)],
        [entry("a", 30), entry("z", 19), entry("y", 19)],
        [entry("x", -60)],
    ]
)


def test_a_paginator_that_returns_no_link_is_named(opened: Open) -> None:
    reader = opened(BOOK)
    with pytest.raises(AtlasError, match=r"returned 7 for /list\?limit=3: return the link of the next page as text"):
        reader.read(paginator=CursorPaginator(lambda page: cast(str, 7)))


def test_without_a_cursor_it_is_read_to_its_end(opened: Open) -> None:
    reader = opened(BOOK)
    read = reader.read()
    assert read.keys == list("gfedcbazyx")
    assert read.full_scans == [FullScan("", 4)]
    assert datetime.fromisoformat(read.cursors["entries"]["value"]) == NOON + timedelta(minutes=60)


def test_an_increment_ends_with_a_page_that_is_all_below_the_cursor_less_the_overlap(opened: Open) -> None:
    """Equal times go on over the border of a page, so the border itself is no end."""
    reader = opened(BOOK)
    read = reader.read(replace(TODAY, cursors={"entries": {"value": (NOON + timedelta(minutes=40)).isoformat()}}))
    assert (read.keys, read.full_scans) == (list("gfedcbazyx"), []), (
        "as it happens, that was the end, but it was not a full scan"
    )
    read = reader.read(replace(TODAY, cursors={"entries": {"value": (NOON + timedelta(minutes=41)).isoformat()}}))
    assert reader.asked() == ["0", "1", "2", "3", "0", "1"]
    assert (read.keys, read.full_scans) == (list("gfedcb"), [])


def test_a_full_refresh_reads_all_whatever_the_cursor(opened: Open) -> None:
    cursors = {"entries": {"value": (NOON + timedelta(minutes=60)).isoformat()}}
    read = opened(BOOK).read(replace(TODAY, cursors=cursors, full_refresh=True))
    assert (read.keys, read.full_scans) == (list("gfedcbazyx"), [FullScan("", 4)])


def test_a_first_increment_ends_at_its_start(opened: Open) -> None:
    read = opened(BOOK).read(incremental=Incremental(OVERLAP, NOON + timedelta(minutes=45)))
    assert (read.keys, read.full_scans) == (list("gfedcb"), [])
    assert datetime.fromisoformat(read.cursors["entries"]["value"]) == NOON + timedelta(minutes=60)


def test_a_listing_without_order_is_read_to_its_end_and_sets_no_cursor(opened: Open) -> None:
    read = opened(BOOK).read(incremental=None, kind="entries")
    assert (read.keys, read.cursors, read.full_scans) == (list("gfedcbazyx"), {}, [FullScan("entries", 4)])


def test_one_pinned_old_record_does_not_end_an_increment(opened: Open) -> None:
    book = Book(
        [[entry("new", 60), entry("pinned", -999)], [entry("other", 59)], [entry("old", -60)], [entry("x", -61)]]
    )
    read = opened(book).read(incremental=Incremental(OVERLAP, NOON))
    assert read.keys == ["new", "pinned", "other", "old"]


def test_an_empty_page_in_the_middle_is_no_end(opened: Open) -> None:
    reader = opened(Book([[entry("b", 60)], [], [], [entry("a", 50)]]))
    assert reader.read(incremental=Incremental(OVERLAP, NOON)).keys == ["b", "a"]
    assert reader.read(replace(TODAY, full_refresh=True)).full_scans == [FullScan("", 4)]


def test_records_that_cannot_be_read_are_handed_on(opened: Open) -> None:
    book = Book([[{"name": "no id"}, {"id": 7}, entry("b", 60)], [entry("a", 50) | {"at": "yesterday"}]])
    read = opened(book).read()
    assert read.keys == ["unreadable", 7, "b", "a"]
    assert datetime.fromisoformat(read.cursors["entries"]["value"]) == NOON + timedelta(minutes=60)


# Paginators


class Numbers(RecordHead):
    id: int

    def key(self) -> str:
        return str(self.id)

    def position(self) -> int:
        return self.id


@dataclass
class Shelf:
    """Records by number, the highest first: a page by its number, or what is next below or above an id.

    most: records that a page holds, whatever is asked for. stale: ids that are gone and still indexed: they take up
    room, and are not returned. before: what happens to the ids before a page is returned.
    """

    ids: list[int]
    most: int = 1_000
    stale: set[int] = field(default_factory=set)
    before: Callable[[list[int]], None] = lambda ids: None

    def answer(self, asked: Asked) -> Answer:
        self.before(self.ids)
        page, size = asked.arguments.get("page", "1"), min(int(asked.arguments["limit"]), self.most)
        ids = sorted(self.ids, reverse=True)
        if page[0] == "b":
            found = [each for each in ids if each < int(page[1:])][:size]
        else:
            found = ids[size * (int(page) - 1) :][:size]
        return Answer({"items": [{"id": each} for each in found if each not in self.stale]})


def missed(shelf: Shelf, *reads: Read) -> set[int]:
    """Ids that are on the shelf, and were not returned."""
    return set(shelf.ids).difference(*(map(int, read.keys) for read in reads))


def losing(*numbers: int) -> Callable[[list[int]], None]:
    """So many of the highest ids are gone before the first page is returned, the second, and so on."""
    left = iter(numbers)

    def before(ids: list[int]) -> None:
        for _ in range(next(left, 0)):
            ids.remove(max(ids))

    return before


BY_NUMBER = PageNumberPaginator("page", "limit", 7, 9)
WORDS: dict[str, Any] = {"head": Numbers, "incremental": None, "limit": 7}
LARGE: dict[str, Any] = {
    "paginator": PageNumberPaginator("page", "limit", 320, 750),
    "head": Numbers,
    "incremental": None,
    "limit": 320,
}


def pages_asked(reader: Reader) -> list[tuple[str | None, str]]:
    return [(each.arguments.get("page"), each.arguments["limit"]) for each in reader.server.log]


def test_a_page_by_number_begins_before_the_one_before_has_ended(opened: Open) -> None:
    reader = opened(Shelf(list(range(1, 16))))
    read = reader.read(paginator=BY_NUMBER, **WORDS)
    assert read.keys == [15, 14, 13, 12, 11, 10, 9, 9, 8, 7, 6, 5, 4, 5, 4, 3, 2, 1, 1]
    assert read.full_scans == [], "the source may serve no page beyond the last"
    assert pages_asked(reader) == [(None, "7"), ("2", "6"), ("3", "5"), ("3", "7"), ("4", "7")]


@pytest.mark.parametrize("stale", [1, 300, 320, 321, 638])
def test_a_page_with_room_for_more_hides_none(opened: Open, stale: int) -> None:
    """The 320th of 320 takes up room and is not returned; before the next page is, the two highest are gone."""
    shelf = Shelf(list(range(1, 1001)), stale={1001 - stale}, before=losing(0, 2))
    reader = opened(shelf)
    read = reader.read(**LARGE)
    assert missed(shelf, read) <= shelf.stale
    assert len(reader.server.log) < 12


def test_a_page_that_begins_too_low_does_not_end_an_increment(opened: Open) -> None:
    """It is all below the cursor, since a hundred have gone; so are not those that it passes over."""
    shelf = Shelf(list(range(1, 1001)), before=losing(0, 100))
    window = replace(TODAY, cursors={"entries": {"value": 620}})
    read = opened(shelf).read(window, **(LARGE | {"incremental": Incremental(1)}))
    assert set(range(619, 901)) <= set(map(int, read.keys))


def test_the_last_page_hides_none(opened: Open) -> None:
    """It returns 319 of 320, and before the page after it is returned, the five beyond it have moved up."""
    shelf = Shelf(list(range(1, 326)), stale={100}, before=losing(0, 5))
    assert missed(shelf, opened(shelf).read(**LARGE)) == {100}


@pytest.mark.parametrize("most", range(1, 12))
def test_pages_that_hold_less_than_asked_for_hide_none_or_are_a_fault(opened: Open, most: int) -> None:
    shelf = Shelf(list(range(1, 30)), most=most)
    with suppress(SourceFault):
        words = WORDS | {"paginator": PageNumberPaginator("page", "limit", 12, 99), "limit": 12}
        assert not missed(shelf, opened(shelf).read(**words))


@pytest.mark.parametrize(
    ("gone", "requests"),
    [([], 8), ([0, 300], 10), ([0, 0, 300], 10), ([2] * 100, 11)],
    ids=["none", "300 after the first page", "300 after the second", "two at every page"],
)
def test_going_back_takes_few_requests(opened: Open, gone: list[int], requests: int) -> None:
    shelf = Shelf(list(range(1, 1401)), before=losing(*gone))
    reader = opened(shelf)
    assert not missed(shelf, reader.read(**LARGE))
    assert len(reader.server.log) <= requests


@pytest.mark.parametrize("seed", range(60))
def test_pages_by_number_pass_over_nothing_while_records_come_and_go(opened: Open, seed: int) -> None:
    draw = random.Random(f"shelf {seed}")
    always = set(draw.sample(range(10, 90), k=draw.randint(5, 40)))
    going = [each for each in range(10, 90) if each not in always][: draw.randint(0, 30)]
    share = draw.random()

    def before(ids: list[int]) -> None:
        for _ in range(draw.randint(1, 4)):
            if going and draw.random() < share:
                each = going.pop(draw.randrange(len(going)))
                ids.remove(each)
            elif draw.random() < 0.2:
                ids.append(max(ids) + 1)

    stale = set(draw.sample(sorted(always), k=1)) if draw.random() < 0.5 else set()
    reader = opened(Shelf([*always, *going], stale=stale, before=before))
    limit = draw.randint(11, 15)
    read = reader.read(paginator=PageNumberPaginator("page", "limit", limit, 99), **(WORDS | {"limit": limit}))
    assert not always.difference(map(int, read.keys), stale)


def test_pages_below_an_id_are_read_to_an_empty_one(opened: Open) -> None:
    reader = opened(Shelf(list(range(1, 8))))
    read = reader.read(paginator=BeforeIdPaginator("page"), **(WORDS | {"limit": 3}))
    assert read.keys == [7, 6, 5, 4, 3, 2, 1]
    assert [page for page, _ in pages_asked(reader)] == [None, "b5", "b2", "b1"]


def test_a_link_header_names_the_next_page(opened: Open) -> None:
    class Linked:
        def answer(self, asked: Asked) -> Answer:
            number = int(asked.arguments.get("cursor", "0"))
            link = {"Link": f'<https://elsewhere.example/list?cursor={number + 1}>; rel="next"'}
            return Answer({"items": [entry(str(number))]}, headers=link if number < 2 else {})

    reader = opened(Linked())
    assert reader.read(paginator=LinkHeaderPaginator()).keys == ["0", "1", "2"]
    assert reader.asked() == ["0", "1", "2"]


def test_a_listing_of_a_range_of_ids_proves_nothing_of_others(opened: Open) -> None:
    a_range: dict[str, Any] = WORDS | {"paginator": BeforeIdPaginator("page", is_range=True)}
    assert opened(Shelf([4, 5, 7])).read(**a_range).full_scans == [FullScan("", 2, (4, 7))]
    assert opened(Shelf([])).read(**a_range).full_scans == [], "of an empty one no range is known"


@pytest.mark.parametrize("paginator", [BeforeIdPaginator("page"), BY_NUMBER], ids=["below", "numbered"])
def test_a_page_below_an_id_or_by_number_goes_on_where_it_broke_off(opened: Open, paginator: Any) -> None:
    reader = opened(Shelf(list(range(1, 20))))
    keys = reader.read(paginator=paginator, **WORDS).keys
    whole = pages_asked(reader)
    reader.server.log.clear()
    broken = reader.read(paginator=paginator, **WORDS, pages=2)
    resumed = reader.read(replace(TODAY, checkpoints={"entries": broken.kept}), paginator=paginator, **WORDS)
    assert broken.keys + resumed.keys == keys
    assert pages_asked(reader) == whole


def test_a_page_by_number_that_is_read_later_hides_none(opened: Open) -> None:
    """What has gone since it broke off is seen by the last page, which is kept."""
    shelf = Shelf(list(range(1, 31)))
    reader = opened(shelf)
    broken = reader.read(paginator=BY_NUMBER, **WORDS, pages=2)
    losing(4)(shelf.ids)
    resumed = reader.read(replace(TODAY, checkpoints={"entries": broken.kept}), paginator=BY_NUMBER, **WORDS)
    assert not missed(shelf, broken, resumed)


def test_a_listing_that_is_cut_off_is_no_end(opened: Open) -> None:
    few = replace(BY_NUMBER, max_page=2)
    reader = opened(Shelf(list(range(1, 30))))
    read = reader.read(paginator=few, **WORDS)
    assert (read.keys[0], read.keys[-1], read.full_scans) == (29, 16, [])
    window = replace(TODAY, cursors={"entries": {"value": 5}})
    read = reader.read(window, paginator=few, **(WORDS | {"incremental": Incremental(1)}))
    assert read.cursors["entries"]["value"] == 5
    assert reader.client.notes["listings that ended before the last cursor, which is kept"] == 1


@pytest.mark.parametrize("paginator", [BeforeIdPaginator("page"), BY_NUMBER], ids=["below", "numbered"])
@pytest.mark.parametrize("value", [None, 3])
def test_a_page_of_records_without_ids_is_no_end(opened: Open, paginator: Any, value: int | None) -> None:
    """The next page is unknown: the listing proves nothing, and its cursor stays."""
    shelf = Shelf(list(range(1, 12)))

    def answer(asked: Asked) -> Answer:
        found = shelf.answer(asked)
        return found if len(reader.server.log) == 1 else Answer({"items": [{"name": "what"}]})

    reader = opened(shelf)
    reader.server.answer = answer
    window = replace(TODAY, cursors={"entries": {"value": value}} if value else {})
    read = reader.read(window, paginator=paginator, **(WORDS | {"incremental": Incremental(1)}))
    assert read.keys == [*range(11, 4, -1), "unreadable"]
    assert (read.cursors["entries"].get("value"), read.full_scans) == (value, [])
    assert reader.client.notes["listings read to a page without readable ids"] == 1


# Clocks


class Stopped(type):
    """Of a clock that stands still, every time is an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class Clock(datetime, metaclass=Stopped):
    """A clock that a test sets."""

    moment = NOON

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return cls.moment


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    Clock.moment = NOON
    monkeypatch.setattr(listing, "datetime", Clock)
    return Clock


def test_a_time_that_is_still_to_come_moves_no_cursor_beyond_now(opened: Open, clock: type[Clock]) -> None:
    book = Book([[entry("tomorrow", 1440), entry("now", -1)]])
    reader = opened(book)
    read = reader.read(incremental=Incremental(OVERLAP, NOON - timedelta(hours=1)))
    assert datetime.fromisoformat(read.cursors["entries"]["value"]) == NOON
    book.pages = [[entry("tomorrow", 1440), entry("next", 5), entry("now", -1)]]
    clock.moment = NOON + timedelta(minutes=6)
    assert "next" in reader.read(replace(TODAY, cursors=read.cursors)).keys


def test_a_cursor_is_not_moved_beyond_the_first_page_of_a_listing_that_broke_off(
    opened: Open, clock: type[Clock]
) -> None:
    """What changed while it was broken off is above its first page, and below the time when it goes on."""
    book = Book([[entry("tomorrow", 1440), entry("b", -1)], [entry("a", -2)], [entry("x", -600)]])
    reader = opened(book)
    since = Incremental(OVERLAP, NOON - timedelta(minutes=5))
    broken = reader.read(incremental=since, pages=1)
    clock.moment = NOON + timedelta(minutes=60)
    resumed = reader.read(replace(TODAY, checkpoints={"entries": broken.kept}), incremental=since)
    assert datetime.fromisoformat(resumed.cursors["entries"]["value"]) == NOON


# Going on


@pytest.mark.parametrize("pages", [1, 2, 3, 4])
def test_a_listing_that_broke_off_goes_on_after_its_last_page(opened: Open, pages: int) -> None:
    reader = opened(BOOK)
    whole = reader.read()
    asked = reader.asked()
    broken = reader.read(pages=pages)
    resumed = reader.read(replace(TODAY, checkpoints={"entries": broken.kept}))
    assert broken.keys + resumed.keys == whole.keys
    assert (resumed.cursors, resumed.full_scans) == (whole.cursors, whole.full_scans)
    assert reader.asked() == asked


# What a source does wrong


def test_a_repeated_link_stops_it(opened: Open) -> None:
    book = Book([[entry("a")], [entry("b")], [entry("c")]], links={2: "/list?limit=3&cursor=1"})
    reader = opened(book)
    with pytest.raises(SourceFault, match=r"repeats itself: its next page was read before \(/list\?limit=3&cursor=1\)"):
        reader.read()
    assert reader.asked() == ["0", "1", "2"]


def test_a_page_that_names_itself_stops_it(opened: Open) -> None:
    reader = opened(Book([[entry("a")]], links={0: "/list?limit=3"}))
    with pytest.raises(SourceFault, match="repeats itself"):
        reader.read()
    assert reader.asked() == ["0"]


def test_an_empty_page_that_names_itself_is_requested_again(opened: Open) -> None:
    book = Book([[entry("a")], [], [entry("b")]], links={1: "/list?limit=3&cursor=1"})
    reader = opened(book)
    with pytest.raises(AtlasError, match="the page is empty and names itself as the next one, after 6 attempts"):
        reader.read()
    assert reader.asked() == ["0", *["1"] * ATTEMPTS]

    def recovers(asked: Asked) -> None:
        if asked.number == 2:
            book.links.clear()

    reader.server.before = recovers
    assert reader.read().keys == ["a", "b"]


def test_a_list_that_is_null_is_empty(opened: Open) -> None:
    class Null:
        def answer(self, asked: Asked) -> Answer:
            return Answer({"items": None, "next": None})

    read = opened(Null()).read()
    assert (read.keys, read.full_scans) == ([], [FullScan("", 1)])


@pytest.mark.parametrize("page", [[], [entry("a"), entry("b")]], ids=["empty", "the same again"])
def test_ever_new_links_stop_it(opened: Open, page: list[Any]) -> None:
    reader = opened(Book([[entry("a"), entry("b")]] + [page] * 1_000))
    with pytest.raises(SourceFault, match=f"does not come to an end: {MAX_IDLE_PAGES} pages have no new"):
        reader.read(replace(TODAY, full_refresh=True))
    assert len(reader.asked()) == 1 + MAX_IDLE_PAGES


def test_records_returned_twice_are_counted(opened: Open) -> None:
    reader = opened(Book([[entry("a"), entry("b")], [entry("b"), entry("c")]]))
    assert reader.read().keys == ["a", "b", "b", "c"]
    assert reader.client.notes["records returned twice"] == 1


def test_a_listing_that_is_gone_is_a_fault(opened: Open) -> None:
    class Gone:
        def answer(self, asked: Asked) -> Answer:
            return Answer({"error": "not here"}, 404)

    with pytest.raises(SourceFault, match="has no /list"):
        opened(Gone()).read()


@pytest.mark.parametrize("name", hostile.NO_LIMITS)
@pytest.mark.parametrize("number", range(4))
@pytest.mark.sample(10)
def test_a_fault_at_any_page_is_no_end(opened: Open, name: str, number: int) -> None:
    """Where it passes, nothing is missing; where it stays, there is an error and never a shorter listing."""
    reader = opened(BOOK, script=hostile.at({number: Fault(name)}))
    assert reader.read().keys == list("gfedcbazyx")
    reader = opened(BOOK, script=lambda asked: Fault(name) if asked.number >= number else None)
    with pytest.raises(AtlasError):
        reader.read()


# Limits


def test_a_limit_keeps_so_many_pages_and_records_of_a_page_and_proves_nothing(opened: Open) -> None:
    reader = opened(BOOK)
    read = reader.read(replace(TODAY, limit=2, full_refresh=True))
    assert (read.keys, read.full_scans) == (list("gfdc"), [])
    assert reader.asked() == ["0", "1"]


# Conditions


class Tagged:
    """One document with an ETag."""

    def __init__(self) -> None:
        self.page = [entry("a", 10)]

    def answer(self, asked: Asked) -> Answer:
        return Answer({"items": self.page}, headers={"ETag": f'"{hash(str(self.page))}"'})


def test_an_unchanged_listing_costs_one_304(opened: Open) -> None:
    source = Tagged()
    reader = opened(source)
    first = reader.read(paginator=SinglePage(conditional=True))
    assert first.keys == ["a"]
    again = reader.read(replace(TODAY, cursors=first.cursors), paginator=SinglePage(conditional=True))
    assert (again.keys, again.full_scans, again.cursors) == ([], [], first.cursors)
    assert [each.status for each in reader.server.log] == [200, 304]
    assert reader.client.notes["listings unchanged"] == 1
    source.page = [entry("b", 20)]
    assert reader.read(replace(TODAY, cursors=again.cursors), paginator=SinglePage(conditional=True)).keys == ["b"]


def test_a_page_of_times_to_come_is_asked_for_without_conditions(opened: Open) -> None:
    """It is the first page, and stays as it is, while what is new now comes below it."""
    source = Tagged()
    source.page = [{"id": "tomorrow", "at": hostile.iso(datetime.now(UTC) + timedelta(days=1))}]
    reader = opened(source)
    first = reader.read(incremental=Incremental(OVERLAP, NOON))
    assert reader.read(replace(TODAY, cursors=first.cursors)).keys == ["tomorrow"]


def test_a_full_refresh_asks_without_conditions(opened: Open) -> None:
    reader = opened(Tagged())
    first = reader.read()
    again = reader.read(replace(TODAY, cursors=first.cursors, full_refresh=True))
    assert (again.keys, again.full_scans) == (["a"], [FullScan("", 1)])
    assert reader.read(replace(TODAY, cursors=again.cursors)).keys == []
