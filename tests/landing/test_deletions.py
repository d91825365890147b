"""Complete listings and what they prove gone; and landings that broke off, which the next run takes up."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pipelines import ledger, project
from pipelines.errors import AtlasError, ListingChanged, Refused, SourceFault
from pipelines.landing import land
from pipelines.landing.intake import GetRecord, Intake
from pipelines.ledger import Run
from pipelines.source import Checkpoint, FullScan, Item, Payload, Skipped, Source
from pipelines.warehouse.database import Warehouse
from tests import runs
from tests.library import author, payload, rows, whole
from tests.runs import land_intake, land_items, pending_partitions, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

DAYS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")
ALL = FullScan("", responses=1)


def at(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def note(of: str, words: str = "") -> Payload:
    return Payload(json.dumps({"words": words or of}).encode(), f"said of {of}", of)


def notes(names: Iterable[str]) -> list[Item]:
    return [note(name) for name in names]


def land_listing(
    warehouse: Warehouse,
    source: Source,
    items: Sequence[Item],
    day: str = DAYS[0],
    *,
    mode: str = "recorded",
    get_record: GetRecord | None = runs.gone,
    shrink: bool = False,
) -> Run:
    return runs.land_listing(warehouse, source, day, items, at(day), mode=mode, get_record=get_record, shrink=shrink)


def there(warehouse: Warehouse) -> list[str]:
    """Ids of the records that are not gone."""
    query = "select external_id from staging.versions where latest and payload_id is not null"
    return sorted(name for (name,) in rows(warehouse, query))


def gone(warehouse: Warehouse) -> list[str]:
    query = "select external_id from staging.versions where latest and payload_id is null"
    return sorted(name for (name,) in rows(warehouse, query))


def numbered(number: int) -> list[str]:
    return [f"{each:03}" for each in range(number)]


# What is gone


def test_what_a_complete_listing_no_longer_tells_is_deleted_with_all_its_rows(
    warehouse: Warehouse, library: Source
) -> None:
    def one(number: int) -> Payload:
        return payload(whole(number, stats={"loans": 1}, topics=[f"only {number}"]))

    tables = ("authors", "books", "copies", "covers", "quotes", "topics", "author_topics", "loans")

    def sizes() -> set[int]:
        return {number for table in tables for (number,) in rows(warehouse, f"select count(*) from toy.{table}")}

    land_listing(warehouse, library, [one(1), one(2), FullScan("authors", 1)])
    transform(warehouse, library, DAYS[0])
    assert sizes() == {2}
    run = land_listing(warehouse, library, [one(2), FullScan("authors", 1)], DAYS[1])
    assert (run.counts.fetched, run.counts.unchanged, run.counts.deleted) == (1, 1, 1)
    assert pending_partitions(warehouse, library) == [DAYS[1]]
    run = transform(warehouse, library, DAYS[1])
    assert (run.status, run.counts.fetched, run.counts.deleted) == ("completed", 0, len(tables))
    assert sizes() == {1}
    assert rows(warehouse, "select external_id from toy.authors") == [("2",)]
    run = land_listing(warehouse, library, [one(2), one(1), FullScan("authors", 1)], DAYS[2])
    assert (run.counts.created, run.counts.unchanged, run.counts.deleted) == (1, 1, 0)
    assert transform(warehouse, library, DAYS[2]).counts.created == len(tables)
    assert sizes() == {2}


def test_a_tombstone_says_when_and_why(warehouse: Warehouse, shelf: Source) -> None:
    land_listing(warehouse, shelf, notes("ab"))
    run = land_listing(warehouse, shelf, [note("b"), ALL], DAYS[1])
    found = rows(
        warehouse,
        """
        select received_at, partition_key, landed_run, payload_id, request
        from staging.versions where latest and external_id = 'a'
        """,
    )
    words = "missing from a full scan; said of a"
    assert found == [(at(DAYS[1]), DAYS[1], run.id, None, words)]
    assert rows(warehouse, "select latest from staging.versions where external_id = 'a' order by version_id") == [
        (False,),
        (True,),
    ]


def test_what_is_gone_is_gone_once(warehouse: Warehouse, shelf: Source) -> None:
    land_listing(warehouse, shelf, notes("ab"))
    deleted = [land_listing(warehouse, shelf, [note("b"), ALL], day).counts.deleted for day in DAYS[1:]]
    assert deleted == [1, 0, 0]
    assert rows(warehouse, "select count(*) from staging.versions") == [(3,)]


@pytest.mark.parametrize("words", ["a", "something new"])
def test_a_record_that_comes_back_is_there_again(warehouse: Warehouse, shelf: Source, words: str) -> None:
    land_listing(warehouse, shelf, notes("ab"))
    land_listing(warehouse, shelf, [note("b"), ALL], DAYS[1])
    run = land_listing(warehouse, shelf, [note("b"), note("a", words), ALL], DAYS[2])
    assert (run.counts.created, run.counts.updated, run.counts.unchanged) == (1, 0, 1)
    assert (there(warehouse), gone(warehouse)) == (["a", "b"], [])


def test_a_listing_that_was_not_read_to_its_end_proves_nothing(warehouse: Warehouse, shelf: Source) -> None:
    land_listing(warehouse, shelf, notes("ab"))
    assert land_listing(warehouse, shelf, [note("b")], DAYS[1]).counts.deleted == 0
    assert land_listing(warehouse, shelf, [note("b"), ALL], DAYS[1], mode="files").counts.deleted == 0
    assert there(warehouse) == ["a", "b"]


def test_a_listing_of_one_kind_says_nothing_of_another(warehouse: Warehouse, library: Source) -> None:
    def one(kind: str, number: int) -> Payload:
        return payload(author(number, url="https://cover.example"), kind=kind)

    land_listing(warehouse, library, [one("authors", 1), one("covers", 2), one("covers", 3)])
    run = land_listing(warehouse, library, [one("covers", 3), FullScan("covers", 1)], DAYS[1])
    assert (run.counts.deleted, there(warehouse), gone(warehouse)) == (1, ["1", "3"], ["2"])


@pytest.mark.parametrize(
    ("had", "told", "believed"),
    [
        (30, 24, True),
        (30, 23, False),
        (6, 1, True),
        (7, 1, False),
        (3, 1, True),
        (3, 0, False),
        (1, 0, False),
    ],
)
def test_a_listing_that_lost_more_than_a_fifth_fails_before_anything_is_written_unless_it_is_to_be_believed(
    warehouse: Warehouse, shelf: Source, had: int, told: int, believed: bool
) -> None:
    land_listing(warehouse, shelf, notes(numbered(had)))
    left = [*notes(numbered(told)), ALL]
    if not believed:
        before = rows(warehouse, "select * from staging.versions order by version_id")
        with pytest.raises(SourceFault, match=f"lists {told} records, and lacks {had - told} of those .* --shrink"):
            land_listing(warehouse, shelf, left, DAYS[1])
        assert rows(warehouse, "select * from staging.versions order by version_id") == before
        assert rows(warehouse, "select status, fetched, publish_seq from ops.fetch_runs order by 1 desc limit 1") == [
            ("failed", 0, None)
        ]
    run = land_listing(warehouse, shelf, left, DAYS[1], shrink=not believed)
    assert (run.status, run.counts.unchanged, run.counts.deleted) == ("completed", told, had - told)


def test_a_record_that_cannot_be_read_this_time_stays_and_the_run_succeeds_in_part(
    warehouse: Warehouse, shelf: Source
) -> None:
    land_listing(warehouse, shelf, notes("abc"))
    run = land_listing(warehouse, shelf, [Skipped("a", "cannot be read", "a"), note("c"), ALL], DAYS[1])
    assert (run.counts.deleted, there(warehouse), gone(warehouse)) == (1, ["a", "c"], ["b"])
    assert (run.status, run.stats["skipped"], run.stats["unfetched"]) == ("partial_success", {"cannot be read": 1}, 1)
    assert rows(warehouse, "select status from ops.fetch_runs order by publish_seq") == [
        ("completed",),
        ("partial_success",),
    ]
    run = land_listing(warehouse, shelf, [note("a"), note("c"), ALL], DAYS[2])
    assert (run.status, run.stats["unfetched"], there(warehouse)) == ("completed", 0, ["a", "c"])


def test_a_record_of_one_kind_that_cannot_be_read_stays_and_its_namesake_goes(
    warehouse: Warehouse, library: Source
) -> None:
    def one(kind: str, number: int) -> Payload:
        return payload(author(number, url="https://cover.example"), kind=kind)

    land_listing(warehouse, library, [one(kind, number) for kind in ("authors", "covers") for number in (1, 2)])
    unread = Skipped("1", "cannot be read", "1", kind="authors")
    scans = [FullScan("authors", 1), FullScan("covers", 1)]
    run = land_listing(warehouse, library, [unread, one("authors", 2), one("covers", 2), *scans], DAYS[1])
    left = rows(warehouse, "select stream, external_id from staging.versions where latest and payload_id is null")
    assert (run.counts.deleted, left) == (1, [("toy/library.covers", "1")])


def test_a_skipped_thing_that_is_no_record_keeps_none(warehouse: Warehouse, shelf: Source) -> None:
    land_listing(warehouse, shelf, notes("ab"))
    run = land_listing(warehouse, shelf, [Skipped("a", "no note"), note("b"), ALL], DAYS[1])
    assert (run.counts.deleted, gone(warehouse)) == (1, ["a"])


def test_a_payload_without_an_id_that_can_be_read_may_be_any_record(warehouse: Warehouse, library: Source) -> None:
    land_listing(warehouse, library, [payload(author(each)) for each in (1, 2, 3)])
    cut = Payload(b'{"id": 1, "na', "cut", kind="authors")
    run = land_listing(warehouse, library, [payload(author(3)), cut, FullScan("authors", 1)], DAYS[1])
    assert (run.status, run.counts.deleted, run.counts.quarantined) == ("partial_success", 0, 1)
    assert run.stats["notes"] == {"not deleted: payloads without a readable id": 2}
    assert there(warehouse) == ["1", "2", "3"]


def test_a_payload_that_is_rejected_with_its_id_is_not_gone(warehouse: Warehouse, library: Source) -> None:
    land_listing(warehouse, library, [payload(author(each)) for each in (1, 2, 3)])
    items: list[Item] = [payload(author(3)), payload({"id": 1, "name": [7]}), FullScan("authors", 1)]
    run = land_listing(warehouse, library, items, DAYS[1])
    assert (run.counts.deleted, there(warehouse), gone(warehouse)) == (1, ["1", "3"], ["2"])


def test_several_answers_where_none_can_be_looked_at_prove_nothing(warehouse: Warehouse, shelf: Source) -> None:
    land_listing(warehouse, shelf, notes("abc"))
    run = land_listing(warehouse, shelf, [note("c"), FullScan("", responses=2)], DAYS[1], get_record=None)
    assert run.stats["notes"] == {
        "not deleted: listed in several answers, and no record can be fetched by id": 2,
    }
    assert (run.counts.deleted, there(warehouse)) == (0, ["a", "b", "c"])


def test_each_record_that_is_missing_is_looked_at_and_what_is_there_lands(warehouse: Warehouse, shelf: Source) -> None:
    asked: list[tuple[str, str]] = []

    def get_record(kind: str, external_id: str) -> Payload | None:
        asked.append((kind, external_id))
        return None if external_id == "a" else note(external_id, "looked at" if external_id == "b" else "")

    land_listing(warehouse, shelf, notes("abcd"))
    run = land_listing(warehouse, shelf, [note("d"), FullScan("", responses=2)], DAYS[1], get_record=get_record)
    assert asked == [("", "a"), ("", "b"), ("", "c")]
    assert (run.counts.fetched, run.counts.updated, run.counts.unchanged, run.counts.deleted) == (3, 1, 2, 1)
    assert run.stats["notes"] == {"missing from a full scan, fetched by id": 2}
    assert (there(warehouse), gone(warehouse)) == (["b", "c", "d"], ["a"])


def test_a_missing_record_that_is_there_and_cannot_be_landed_stays(warehouse: Warehouse, shelf: Source) -> None:
    answers = {"a": Skipped("a", "still there"), "b": Skipped("b", "cannot be read", "b"), "c": None}
    land_listing(warehouse, shelf, notes("abcd"))
    run = land_listing(warehouse, shelf, [note("d"), ALL], DAYS[1], get_record=lambda _, name: answers[name])
    assert (there(warehouse), gone(warehouse)) == (["a", "b", "d"], ["c"])
    assert run.stats["skipped"] == {"still there": 1, "cannot be read": 1}
    assert (run.status, run.stats["unfetched"], run.counts.fetched) == ("partial_success", 1, 1)


def test_what_another_run_landed_while_the_listing_was_read_is_not_taken_for_gone(
    warehouse: Warehouse, shelf: Source
) -> None:
    def items(_: Mapping[str, Any]) -> Iterator[Item]:
        yield note("a")
        land_items(warehouse, shelf, DAYS[0], notes(["new", "b"]))
        yield ALL

    land_listing(warehouse, shelf, notes("a"))
    run = land_intake(warehouse, shelf, DAYS[0], nullcontext(Intake(items, "live", get_record=runs.gone)))
    assert (run.counts.deleted, there(warehouse)) == (0, ["a", "b", "new"])


@pytest.mark.parametrize("breaks_off", [False, True])
def test_what_another_run_received_unchanged_meanwhile_is_not_taken_for_gone(
    warehouse: Warehouse, shelf: Source, breaks_off: bool
) -> None:
    """Also where it was received earlier on the same day, and where the run breaks off and is resumed."""

    def items(resume: Mapping[str, Any]) -> Iterator[Item]:
        if not resume:
            yield note("a")
            yield Checkpoint("notes", {"page": 1})
            if breaks_off:
                raise ConnectionError("gone")
            land_items(warehouse, shelf, DAYS[0], notes("ab"))
        yield ALL

    land_items(warehouse, shelf, DAYS[0], notes("ab"))
    intake = Intake(items, "live", get_record=runs.gone)
    if breaks_off:
        with pytest.raises(ConnectionError):
            land_intake(warehouse, shelf, DAYS[0], nullcontext(intake))
        land_items(warehouse, shelf, DAYS[0], notes("ab"))
    run = land_intake(warehouse, shelf, DAYS[0], nullcontext(intake))
    assert (run.counts.deleted, there(warehouse)) == (0, ["a", "b"])


def test_a_look_that_fails_fails_the_run(warehouse: Warehouse, shelf: Source) -> None:
    def get_record(kind: str, external_id: str) -> Payload | None:
        raise SourceFault("it is ill today")

    land_listing(warehouse, shelf, notes("ab"))
    with pytest.raises(SourceFault, match="ill"):
        land_listing(warehouse, shelf, [note("b", "new"), ALL], DAYS[1], get_record=get_record)
    assert there(warehouse) == ["a", "b"]
    assert rows(warehouse, "select count(*) from staging.versions") == [(2,)]


def test_a_run_that_breaks_off_deletes_nothing(warehouse: Warehouse, shelf: Source) -> None:
    def broken(_: Mapping[str, Any]) -> Iterator[Item]:
        yield note("b")
        yield ALL
        raise ConnectionError("gone")

    land_listing(warehouse, shelf, notes("ab"))
    with pytest.raises(ConnectionError):
        land_intake(warehouse, shelf, DAYS[1], nullcontext(Intake(broken, "live", get_record=runs.gone)))
    assert there(warehouse) == ["a", "b"]


def test_an_older_day_replayed_deletes_and_revives_nothing(warehouse: Warehouse, shelf: Source) -> None:
    days = {DAYS[0]: "abc", DAYS[1]: "acd", DAYS[2]: "bcde"}
    for day, names in days.items():
        land_listing(warehouse, shelf, [*notes(names), ALL], day)
    assert (there(warehouse), gone(warehouse)) == (["b", "c", "d", "e"], ["a"])
    before = rows(warehouse, "select version_id, latest, received_at from staging.versions order by 1")
    for day in (DAYS[1], DAYS[0], DAYS[2], DAYS[1]):
        run = land_listing(warehouse, shelf, [*notes(days[day]), ALL], day)
        assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0)
        assert rows(warehouse, "select version_id, latest, received_at from staging.versions order by 1") == before


def test_a_day_in_between_that_comes_late_deletes_nothing_that_was_seen_since(
    warehouse: Warehouse, shelf: Source
) -> None:
    land_listing(warehouse, shelf, [*notes("ab"), ALL], DAYS[0])
    land_listing(warehouse, shelf, [*notes("ab"), ALL], DAYS[2])
    run = land_listing(warehouse, shelf, [*notes("b"), ALL], DAYS[1])
    assert (run.counts.deleted, there(warehouse)) == (0, ["a", "b"])


def test_a_listing_of_some_ids_says_nothing_of_others(warehouse: Warehouse, shelf: Source) -> None:
    """In the order of numbers, whatever day they came in."""
    land_listing(warehouse, shelf, notes(["7", "9", "10", "11"]))
    land_listing(warehouse, shelf, notes(["100", "30"]), DAYS[1])
    exist = {name: note(name) for name in ("7", "9", "100")}
    scan: list[Item] = [note("11"), FullScan("", 1, id_range=(10, 99))]
    run = land_listing(warehouse, shelf, scan, DAYS[2], get_record=lambda _, name: exist.get(name))
    assert (run.counts.deleted, gone(warehouse)) == (2, ["10", "30"])
    assert there(warehouse) == ["100", "11", "7", "9"]


def test_a_listing_of_some_ids_that_lost_most_of_them_is_not_believed(warehouse: Warehouse, shelf: Source) -> None:
    """However many others are told beside them."""
    land_listing(warehouse, shelf, notes(map(str, range(1, 30))))
    few: list[Item] = [*notes(["1", "3", *map(str, range(20, 200))]), FullScan("", 1, id_range=(2, 19))]
    with pytest.raises(SourceFault, match="lists 1 records, and lacks 17 of those that it had"):
        land_listing(warehouse, shelf, few, DAYS[1])
    assert land_listing(warehouse, shelf, few, DAYS[1], shrink=True).counts.deleted == 17


def land_range(warehouse: Warehouse, shelf: Source, items: list[Item], exist: set[str], asked: list[str]) -> Run:
    """A full scan of the ids 4 to 6, of a source that has other records by their id. asked: filled with these ids."""

    def get_record(kind: str, external_id: str) -> Payload | None:
        asked.append(external_id)
        return note(external_id) if external_id in exist else None

    scan = [*items, FullScan("", 1, id_range=(4, 6))]
    intake = Intake(lambda _: scan, "live", at(DAYS[1]), get_record=get_record)
    return land_intake(warehouse, shelf, DAYS[1], nullcontext(intake))


def test_the_ends_of_a_range_may_be_gone_too(warehouse: Warehouse, shelf: Source) -> None:
    """Records next to it are asked for, away from it, up to the first that still exists."""
    land_listing(warehouse, shelf, notes("123456789"))
    asked: list[str] = []
    run = land_range(warehouse, shelf, notes("456"), {"1", "2"}, asked)
    assert sorted(asked) == ["2", "3", "7", "8", "9"]
    assert (run.counts.deleted, gone(warehouse)) == (4, ["3", "7", "8", "9"])
    assert there(warehouse) == ["1", "2", "4", "5", "6"]


def test_a_range_of_which_every_record_is_refused_lacks_none(warehouse: Warehouse, shelf: Source) -> None:
    land_listing(warehouse, shelf, notes("123456789"))
    unreadable: list[Item] = [Payload(b"{", "made here", each) for each in "456"]
    run = land_range(warehouse, shelf, unreadable, set("123456789"), [])
    assert (run.counts.quarantined, run.counts.deleted, there(warehouse)) == (3, 0, list("123456789"))


# Landings that broke off


@dataclass
class Pages:
    """A listing of five pages of three notes, which breaks off as often as it is told to.

    breaks: the page in which it does, and with what; asked: the pages that each run read.
    """

    breaks: list[tuple[int, BaseException]] = field(default_factory=list)
    asked: list[list[int]] = field(default_factory=list)
    resumed: list[dict[str, Any]] = field(default_factory=list)
    odd: dict[int, list[Item]] = field(default_factory=dict)

    def intake(self, mode: str = "live") -> Intake:
        return Intake(self.items, mode, get_record=runs.gone)

    def items(self, resume: dict[str, dict[str, Any]]) -> Iterator[Item]:
        self.resumed.append({name: dict(state) for name, state in resume.items()})
        self.asked.append([])
        for page in range(resume.get("notes", {}).get("page", 0), 5):
            self.asked[-1].append(page)
            yield from [note(f"{page}{each}") for each in "abc"[:2]]
            if self.breaks and self.breaks[0][0] == page:
                raise self.breaks.pop(0)[1]
            yield note(f"{page}c")
            yield from self.odd.get(page, [])
            yield Checkpoint("notes", {"page": page + 1})
        yield ALL


EVERY = [f"{page}{each}" for page in range(5) for each in "abc"]
GIVEN_UP = ConnectionError("the line is dead")


def go_on(warehouse: Warehouse, source: Source, pages: Pages, day: str = DAYS[0], mode: str = "live") -> Run:
    return land_intake(warehouse, source, day, nullcontext(pages.intake(mode)))


def break_off(warehouse: Warehouse, source: Source, pages: Pages, day: str = DAYS[0], mode: str = "live") -> None:
    with pytest.raises(BaseException, match=r"dead|ill"):
        go_on(warehouse, source, pages, day, mode)


def kept(warehouse: Warehouse) -> tuple[int, int, int]:
    """Rows of what landings keep for their own resumption."""
    ((arrivals, rejects, checkpoints),) = rows(
        warehouse,
        """
        select (select count(*) from staging.arrivals), (select count(*) from staging.rejects),
            (select count(*) from staging.checkpoints)
        """,
    )
    return arrivals, rejects, checkpoints


def assert_all_landed_once(warehouse: Warehouse, run: Run) -> None:
    assert (run.status, run.counts.fetched, run.counts.created) == ("completed", 15, 15)
    assert there(warehouse) == EVERY
    assert run.stats["bytes"] == sum(len(note(name).body) for name in EVERY)
    assert rows(warehouse, "select count(*), count(distinct digest) from staging.payloads") == [(15, 15)]


@pytest.mark.parametrize("batch", [2, 4, land.BATCH_PAYLOADS])
def test_a_landing_goes_on_where_the_last_one_broke_off(
    warehouse: Warehouse, shelf: Source, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """However many were written since its last checkpoint."""
    monkeypatch.setattr(land, "BATCH_PAYLOADS", batch)
    pages = Pages([(3, GIVEN_UP)])
    break_off(warehouse, shelf, pages)
    assert there(warehouse) == []
    run = go_on(warehouse, shelf, pages)
    assert (pages.resumed, pages.asked) == ([{}, {"notes": {"page": 3}}], [[0, 1, 2, 3], [3, 4]])
    assert run.stats["notes"] == {"payloads resumed from a failed run": 9}
    assert_all_landed_once(warehouse, run)
    assert kept(warehouse) == (0, 0, 0)


def test_what_was_rejected_since_the_checkpoint_is_rejected_once(
    warehouse: Warehouse, shelf: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may land when it is fetched again."""
    monkeypatch.setattr(land, "BATCH_PAYLOADS", 1)
    pages = Pages([(3, GIVEN_UP)])
    whole, cut = note("3a"), Payload(b'{"words": ', "cut", "3a")
    sent = {"1a": [cut, note("1a")], "3a": [cut, whole]}

    def items(resume: dict[str, dict[str, Any]]) -> Iterator[Item]:
        for item in pages.items(resume):
            again = sent.get(item.external_id or "") if isinstance(item, Payload) else None
            yield again.pop(0) if again else item

    def intake() -> Any:
        return nullcontext(Intake(items, "live", get_record=runs.gone))

    with pytest.raises(ConnectionError):
        land_intake(warehouse, shelf, DAYS[0], intake())
    run = land_intake(warehouse, shelf, DAYS[0], intake())
    assert (run.counts.fetched, run.counts.created, run.counts.quarantined) == (15, 14, 1)
    assert rows(warehouse, "select external_id, seen from staging.quarantine") == [("3a", 1)]
    assert kept(warehouse) == (0, 0, 0)


def test_it_may_break_off_more_than_once(warehouse: Warehouse, shelf: Source) -> None:
    pages = Pages([(1, GIVEN_UP), (1, GIVEN_UP), (4, KeyboardInterrupt("dead"))])
    for _ in range(3):
        break_off(warehouse, shelf, pages)
    run = go_on(warehouse, shelf, pages)
    assert pages.asked == [[0, 1], [1], [1, 2, 3, 4], [4]]
    assert_all_landed_once(warehouse, run)


def test_what_was_rejected_skipped_repaired_or_kept_before_counts_once(warehouse: Warehouse, shelf: Source) -> None:
    odd: list[Item] = [
        Payload(b'{"words": [', "cut", "cut"),
        Payload(rb'{"words": "\u0000"}', "odd", "odd"),
        Skipped("other", "no note"),
        Skipped("busy", "cannot be read", "busy"),
    ]
    land_listing(warehouse, shelf, notes(["busy", "old", *EVERY]))
    pages = Pages([(2, GIVEN_UP)], odd={0: odd, 4: odd[2:3]})
    break_off(warehouse, shelf, pages, DAYS[1])
    run = go_on(warehouse, shelf, pages, DAYS[1])
    counts = {name: value for name, value in vars(run.counts).items() if value}
    assert counts == {"fetched": 17, "created": 1, "unchanged": 15, "quarantined": 1, "deleted": 1}
    assert run.stats["skipped"] == {"no note": 2, "cannot be read": 1}
    assert sum(run.stats["repaired"].values()) == 1
    assert rows(warehouse, "select seen, last_run from staging.quarantine") == [(1, run.id)]
    assert (gone(warehouse), [name for name in there(warehouse) if name not in EVERY]) == (["old"], ["busy", "odd"])


def test_what_landed_while_it_was_broken_off_is_not_taken_for_gone(warehouse: Warehouse, shelf: Source) -> None:
    pages = Pages([(2, GIVEN_UP)])
    break_off(warehouse, shelf, pages)
    land_items(warehouse, shelf, DAYS[0], [note("meanwhile")])
    run = go_on(warehouse, shelf, pages)
    assert (run.counts.deleted, "meanwhile" in there(warehouse)) == (0, True)


@pytest.mark.parametrize("fault", [Refused("it is ill: status 403"), SourceFault("it is ill: too large")], ids=str)
def test_a_page_that_cannot_be_used_is_requested_again_by_the_next_run(
    warehouse: Warehouse, shelf: Source, fault: AtlasError
) -> None:
    pages = Pages([(3, fault)])
    break_off(warehouse, shelf, pages)
    run = go_on(warehouse, shelf, pages)
    assert pages.asked[1] == [3, 4]
    assert_all_landed_once(warehouse, run)


@pytest.mark.parametrize(
    "why", ["another day", "a recording", "other code", "a day ago", "a server that crashed", "a listing that changed"]
)
def test_it_begins_anew_after(warehouse: Warehouse, shelf: Source, why: str) -> None:
    source, day, mode = shelf, DAYS[0], "live"
    pages = Pages([(3, ListingChanged("it is ill") if why == "a listing that changed" else GIVEN_UP)])
    break_off(warehouse, source, pages)
    with warehouse.connect() as connection:
        if why == "another day":
            day = DAYS[1]
        elif why == "a recording":
            mode = "recorded"
        elif why == "other code":
            source = replace(shelf, code_version="other")
        elif why == "a day ago":
            connection.execute(
                """
                update staging.checkpoints set progress = progress || jsonb_build_object(
                    'started_at', (progress ->> 'started_at')::timestamptz - interval '25 hours')
                """
            )
        elif why == "a server that crashed":  # it forgets what is in unlogged tables
            connection.execute("truncate staging.arrivals, staging.rejects, staging.checkpoints")
        else:
            assert kept(warehouse) == (0, 0, 0)
    run = go_on(warehouse, source, pages, day, mode)
    assert (pages.resumed[1], pages.asked[1]) == ({}, [0, 1, 2, 3, 4])
    assert_all_landed_once(warehouse, run)


def test_a_recording_that_breaks_off_is_not_taken_up(warehouse: Warehouse, shelf: Source) -> None:
    pages = Pages([(3, GIVEN_UP)])
    break_off(warehouse, shelf, pages, mode="recorded")
    run = go_on(warehouse, shelf, pages, mode="recorded")
    assert (pages.resumed, run.counts.created) == ([{}, {}], 15)


def test_what_is_taken_up_is_taken_up_by_one(warehouse: Warehouse, shelf: Source) -> None:
    pages = Pages([(3, GIVEN_UP)])
    break_off(warehouse, shelf, pages)
    go_on(warehouse, shelf, pages)
    run = go_on(warehouse, shelf, pages)
    assert (pages.resumed[2], run.counts.unchanged, run.stats["notes"]) == ({}, 15, {})


KILLED = """
import json, sys, time
from contextlib import nullcontext
from pipelines import project
from pipelines.landing import land
from pipelines.landing.intake import Intake
from pipelines.source import Checkpoint, Payload
from pipelines.warehouse.database import Warehouse
from sqlalchemy import make_url

def items(resume):
    for page in range(5):
        for each in "abc":
            if (page, each) == (3, "c"):
                print("here", flush=True)
                time.sleep(60)
            name = f"{page}{each}"
            yield Payload(json.dumps({"words": name}).encode(), f"said of {name}", name)
        yield Checkpoint("notes", {"page": page + 1})

land.BATCH_PAYLOADS = 2
source = project.sources()["toy/shelf"]
intake = Intake(items, "live")
land.land_intake(Warehouse(make_url(sys.argv[1])), source.streams[0], sys.argv[2], nullcontext(intake))
"""


@pytest.mark.long("a process that is killed")
def test_a_process_that_was_killed_is_taken_up(warehouse: Warehouse, shelf: Source) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, warehouse.conninfo, DAYS[0]], cwd=project.ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.kill()
    while not ledger.close_dead_runs(warehouse):
        pass  # the server notices in a moment that it is gone
    pages = Pages()
    run = go_on(warehouse, shelf, pages)
    assert pages.asked == [[3, 4]]
    assert_all_landed_once(warehouse, run)
    assert kept(warehouse) == (0, 0, 0)
