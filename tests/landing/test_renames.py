"""Files of a folder that are renamed: their rows keep the keys made of `p.identity`."""

from datetime import datetime
from uuid import UUID

import pytest
from psycopg import sql

from pipelines.ledger import Run
from pipelines.lineage import rebuild, time_travel, trace
from pipelines.maintenance import erasure
from pipelines.source import FullScan, Payload, Skipped, Source
from pipelines.warehouse.database import Warehouse
from tests import runs
from tests.library import rows, state
from tests.runs import stream_of, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

DAYS = [f"2026-11-0{day}" for day in range(1, 8)]


def scan(warehouse: Warehouse, shelf: Source, day: str, *skipped: Skipped, **files: str) -> Run:
    """Lands and transforms a full scan of the folder: the words of each file, by its name; the landing."""
    notes = [Payload(b'{"words": "%s"}' % words.encode(), name, name) for name, words in files.items()]
    at = datetime.fromisoformat(f"{day}T00:00+00:00")
    run = runs.land_listing(warehouse, shelf, day, [*notes, *skipped, FullScan("", 1)], at, shrink=True)
    done = transform(warehouse, shelf, day, shrink=True)
    assert (run.counts.quarantined, done.status, done.counts.pending) == (0, "completed", 0)
    return run


def keys(warehouse: Warehouse) -> dict[str, UUID]:
    """The key of each note, by the name of its file."""
    return dict(rows(warehouse, "select external_id, note_id from toy.notes"))


def test_a_renamed_file_keeps_the_key_of_its_row_and_leads_to_its_present_payload(
    warehouse: Warehouse, shelf: Source
) -> None:
    scan(warehouse, shelf, DAYS[0], a="same", b="other")
    before = keys(warehouse)
    run = scan(warehouse, shelf, DAYS[1], x="same", b="other")
    assert (run.counts.created, run.counts.deleted, run.stats["renamed"]) == (1, 1, 1)
    assert keys(warehouse) == {"x": before["a"], "b": before["b"]}
    with warehouse.connect() as connection:
        proof = trace.trace(connection, "toy.notes", str(before["a"]))["proof"]
    assert (proof["external_id"], proof["landed_run"]) == ("x", run.id)
    assert all(each["same"] for each in rebuild.check(warehouse, "toy"))


def test_a_chain_of_renames_leads_to_the_first_name(warehouse: Warehouse, shelf: Source) -> None:
    """Also where a file changes in between, and where the last name is the first one."""
    scan(warehouse, shelf, DAYS[0], a="same")
    first = keys(warehouse)["a"]
    for day, name, words in zip(DAYS[1:], "bbca", ("same", "news", "news", "news"), strict=False):
        scan(warehouse, shelf, day, **{name: words})
        assert keys(warehouse) == {name: first}


def test_a_name_that_is_given_to_a_new_file_makes_a_key_of_its_own(warehouse: Warehouse, shelf: Source) -> None:
    """As often as that happens; also where a file comes back after another has got its name."""
    scan(warehouse, shelf, DAYS[0], a="1")
    seen = dict(keys(warehouse))
    for day, files in (
        (DAYS[1], {"b": "1"}),
        (DAYS[2], {"b": "1", "a": "2"}),
        (DAYS[3], {"b": "1", "c": "2"}),
        (DAYS[4], {"b": "1", "c": "2", "a": "3"}),
    ):
        scan(warehouse, shelf, day, **files)
        assert len(set(keys(warehouse).values())) == len(files)
    assert keys(warehouse)["b"] == seen["a"]
    scan(warehouse, shelf, DAYS[5], x="new", c="2")
    scan(warehouse, shelf, DAYS[6], x="new", c="2", a="4", b="5")
    assert len(set(keys(warehouse).values())) == 4


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": "same"}, {"x": "other"}),
        ({"a": "same", "b": "same"}, {"x": "same"}),
        ({"a": "same"}, {"x": "same", "y": "same"}),
        ({"a": "same"}, {"a": "same", "x": "same"}),
    ],
    ids=["with a change", "two went", "two came", "the first is there"],
)
def test_it_is_no_rename(warehouse: Warehouse, shelf: Source, before: dict[str, str], after: dict[str, str]) -> None:
    scan(warehouse, shelf, DAYS[0], **before)
    run = scan(warehouse, shelf, DAYS[1], **after)
    assert run.stats["renamed"] == 0
    assert rows(warehouse, "select identity from staging.versions where identity is not null") == []


def test_a_file_that_cannot_be_read_is_not_renamed(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, DAYS[0], a="same")
    run = scan(warehouse, shelf, DAYS[1], Skipped("a", "cannot be read", "a"), x="same")
    assert (run.stats["renamed"] > 0, set(keys(warehouse))) == (False, {"a", "x"})


def test_several_renames_at_once_are_told_apart_by_content(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, DAYS[0], a="1", b="2", c="3", d="3")
    before = keys(warehouse)
    run = scan(warehouse, shelf, DAYS[1], x="2", y="1", z="3", w="3")
    after = keys(warehouse)
    assert (run.stats["renamed"], after["x"], after["y"]) == (2, before["b"], before["a"])
    assert not {after["z"], after["w"]} & set(before.values())


def test_the_same_scans_again_write_nothing(warehouse: Warehouse, shelf: Source) -> None:
    folders = [{"a": "1", "b": "2"}, {"x": "1", "b": "2"}, {"x": "1", "a": "3"}]
    for day, files in zip(DAYS, folders, strict=False):
        scan(warehouse, shelf, day, **files)
    before = state(warehouse)
    for day, files in zip(DAYS, folders, strict=False):
        scan(warehouse, shelf, day, **files)
    assert state(warehouse) == before


def test_the_past_has_the_name_of_then_and_the_same_key(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, DAYS[0], a="same")
    ((first, then),) = rows(
        warehouse,
        "select fetch_run_id, note_id from ops.fetch_runs cross join toy.notes where kind = 'transform'",
    )
    scan(warehouse, shelf, DAYS[1], x="same")
    with warehouse.connect() as connection:
        snapshot = time_travel.snapshot_of_run(connection, str(first))
        with time_travel.as_of(warehouse, "toy", snapshot) as past:
            assert past.differing_tables(connection) == []
            query = sql.SQL("select external_id, note_id from {}").format(past.table_spec("notes").target)
            assert [tuple(each.values()) for each in connection.execute(query)] == [("a", then)]
    assert keys(warehouse) == {"x": then}


def test_an_erased_name_is_kept_nowhere_and_the_file_gets_another_key(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, DAYS[0], secretname="same", b="other")
    scan(warehouse, shelf, DAYS[1], x="same", b="other")
    before = keys(warehouse)
    stream = stream_of(shelf)
    erasure.erase(warehouse, stream, stream.name, "secretname")
    after = keys(warehouse)
    assert (set(after), after["b"], after["x"] != before["x"]) == ({"x", "b"}, before["b"], True)
    kept = "select count(*) from staging.versions v where v::text like '%secretname%'"
    assert rows(warehouse, kept) == [(0,)]
    assert all(each["same"] for each in rebuild.check(warehouse, "toy"))
    assert scan(warehouse, shelf, DAYS[2], x="same", b="other").counts.unchanged == 2
    scan(warehouse, shelf, DAYS[3], y="same", b="other")
    assert keys(warehouse)["y"] == after["x"]


def test_the_present_file_is_erased_with_its_row(warehouse: Warehouse, shelf: Source) -> None:
    scan(warehouse, shelf, DAYS[0], a="same", b="other")
    scan(warehouse, shelf, DAYS[1], x="same", b="other")
    stream = stream_of(shelf)
    erasure.erase(warehouse, stream, stream.name, "x")
    assert set(keys(warehouse)) == {"b"}
