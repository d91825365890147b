"""Records of a source that cannot be asked for one: gone when two full scans in a row lack them."""

from datetime import datetime
from typing import Any

import pytest

from pipelines.errors import ListingChanged
from pipelines.ledger import Run
from pipelines.source import FullScan, Item, Payload, Skipped, Source
from pipelines.warehouse.database import Warehouse
from tests import runs
from tests.library import payload, rows, shown, state, whole
from tests.runs import transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

DAYS = [f"2026-11-0{day}" for day in range(1, 8)]
ALL = FullScan("", responses=1)
ONCE = "missing from this full scan, and deleted if the next one lacks them too"


def note(name: str, words: str = "") -> Payload:
    return Payload(b'{"words": "%s"}' % (words or name).encode(), f"said of {name}", name)


def scan(warehouse: Warehouse, shelf: Source, names: str, at: str, *more: Item, shrink: bool = False) -> Run:
    """A full scan with some records, received at a time."""
    return part(warehouse, shelf, at, *map(note, names), *more, ALL, shrink=shrink)


def part(warehouse: Warehouse, shelf: Source, at: str, *items: Item, shrink: bool = False) -> Run:
    received_at = datetime.fromisoformat(f"{at}+00:00" if "T" in at else f"{at}T00:00+00:00")
    return runs.land_listing(warehouse, shelf, at[:10], items, received_at, get_record=None, shrink=shrink)


def there(warehouse: Warehouse) -> list[Any]:
    return shown(
        warehouse, "select external_id from staging.versions where latest and payload_id is not null order by 1"
    )


def test_the_first_scan_notes_a_missing_record_and_the_second_deletes_it(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, "ab", DAYS[0])
    transform(warehouse, shelf, DAYS[0])
    first = scan(warehouse, shelf, "b", DAYS[1])
    assert (first.status, first.counts.deleted, first.stats["notes"]) == ("completed", 0, {ONCE: 1})
    assert (there(warehouse), transform(warehouse, shelf, DAYS[1]).counts.deleted) == (["a", "b"], 0)
    second = scan(warehouse, shelf, "b", DAYS[2])
    assert (second.status, second.counts.deleted, second.stats["notes"]) == ("completed", 1, {})
    tombstone = "select external_id, partition_key from staging.versions where latest and payload_id is null"
    assert (rows(warehouse, tombstone), there(warehouse)) == ([("a", DAYS[2])], ["b"])
    assert transform(warehouse, shelf, DAYS[2]).counts.deleted == 1


def test_the_same_scan_again_is_no_second_scan_and_writes_nothing(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, "ab", DAYS[0])
    scan(warehouse, shelf, "b", DAYS[1])
    before = state(warehouse)
    for day, names in ((DAYS[1], "b"), (DAYS[0], "ab"), (DAYS[1], "b")):
        assert scan(warehouse, shelf, names, day).counts.deleted == 0
    assert state(warehouse) == before
    assert scan(warehouse, shelf, "b", DAYS[2]).counts.deleted == 1


SIGNS: dict[str, list[Item]] = {
    "unchanged": [note("a")],
    "changed": [note("a", "news")],
    "refused": [Payload(b'{"words"', "cut", "a")],
    "not fetched": [Skipped("a", "cannot be read", "a")],
}


@pytest.mark.parametrize("sign", SIGNS)
def test_a_record_of_which_there_is_a_sign_in_between_is_missing_for_the_first_time_again(
    warehouse: Warehouse, shelf: Source, sign: str
) -> None:
    scan(warehouse, shelf, "ab", DAYS[0])
    scan(warehouse, shelf, "b", DAYS[1])
    scan(warehouse, shelf, "b", DAYS[2], *SIGNS[sign])
    deleted = [scan(warehouse, shelf, "b", day).counts.deleted for day in DAYS[3:6]]
    assert deleted == [0, 1, 0]


def test_an_increment_that_has_it_is_a_sign_too(warehouse: Warehouse, shelf: Source) -> None:
    """Also on the day on which it was received before."""
    scan(warehouse, shelf, "ab", f"{DAYS[0]}T08:00")
    scan(warehouse, shelf, "b", f"{DAYS[0]}T09:00")
    part(warehouse, shelf, f"{DAYS[0]}T10:00", note("a"))
    assert scan(warehouse, shelf, "b", f"{DAYS[0]}T11:00").counts.deleted == 0
    assert scan(warehouse, shelf, "b", f"{DAYS[0]}T12:00").counts.deleted == 1


def test_what_was_received_before_the_scan_and_lands_later_is_no_sign(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, "ab", DAYS[0])
    scan(warehouse, shelf, "b", DAYS[2])
    scan(warehouse, shelf, "ab", DAYS[1])
    assert scan(warehouse, shelf, "b", DAYS[3]).counts.deleted == 1


def test_a_scan_that_may_have_it_under_an_id_that_cannot_be_read_is_no_second_one(
    warehouse: Warehouse, library: Source
) -> None:
    def of(day: str, *items: Item) -> int:
        return part(warehouse, library, day, *items, FullScan("authors", 1)).counts.deleted

    one, two = payload(whole(1)), payload(whole(2))
    cut = Payload(b'{"id": ', "cut", kind="authors")
    deleted = [of(DAYS[0], one, two), of(DAYS[1], two), of(DAYS[2], two, cut), of(DAYS[3], two), of(DAYS[4], two)]
    assert deleted == [0, 0, 0, 0, 1]


def test_a_record_that_changes_after_it_was_missing_is_missing_no_more(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, "ab", DAYS[0])
    scan(warehouse, shelf, "b", DAYS[1])
    part(warehouse, shelf, DAYS[2], note("a", "news"))
    assert scan(warehouse, shelf, "b", DAYS[3]).counts.deleted == 0


def test_a_fifth_counts_from_one_scan_to_the_next(warehouse: Warehouse, shelf: Source) -> None:
    """Two scans that lack five each are believed; one that lacks ten is not, unless `--shrink` accepts it once."""
    names = "abcdefghijklmnopqrst"
    scan(warehouse, shelf, names, DAYS[0])
    with pytest.raises(ListingChanged, match="lists 10 records, and lacks 10 of those that it had"):
        scan(warehouse, shelf, names[10:], DAYS[1])
    deleted = [scan(warehouse, shelf, names[n:], day).counts.deleted for n, day in ((5, DAYS[1]), (10, DAYS[2]))]
    assert deleted == [0, 5]
    with pytest.raises(ListingChanged):
        scan(warehouse, shelf, "", DAYS[3])
    assert scan(warehouse, shelf, "", DAYS[3], shrink=True).counts.deleted == 5
    assert scan(warehouse, shelf, "", DAYS[4]).counts.deleted == 10
