"""Invariant I5: fetched = created + updated + unchanged + quarantined + duplicates, in every run, whatever it meets.

The numbers are told three times, by the run, the ledger and Dagster, and are held against what is there: payloads that
were told, versions, entries of quarantine, rows.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest
from psycopg import sql

from pipelines import ledger, project
from pipelines.connectors import recording
from pipelines.landing import extract
from pipelines.landing.intake import Intake
from pipelines.landing.land import land_intake as land_stream
from pipelines.ledger import Counts, Run
from pipelines.lineage import rebuild
from pipelines.maintenance import erasure
from pipelines.orchestration import resources
from pipelines.orchestration.assets import run_metadata, staging_asset, staging_key, table_assets, table_keys
from pipelines.source import Checkpoint, FullScan, Item, Payload, Source, Window
from pipelines.transform.run import pending_partitions as pending_of_stream
from pipelines.transform.run import transform as transform_stream
from pipelines.warehouse.database import Warehouse
from tests.library import author, book, copy, cover, payload
from tests.runs import gone, land_intake, stream_of, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

DAY = "2026-11-02"
START = datetime(2026, 11, 2, tzinfo=UTC)
NUMBERS = tuple(asdict(Counts()))


def rows(warehouse: Warehouse, query: str | sql.Composed) -> list[dict[str, Any]]:
    with warehouse.connect() as connection:
        return connection.execute(query.encode() if isinstance(query, str) else query).fetchall()


def land(warehouse: Warehouse, source: Source, *items: Item, hours: int = 0) -> Counts:
    intake = Intake(lambda _: items, "recorded", START + timedelta(hours=hours), get_record=gone)
    return land_intake(warehouse, source, DAY, nullcontext(intake), shrink=True).counts


def added(counts: Any) -> int:
    return int(sum(counts[name] for name in NUMBERS if name not in ("fetched", "deleted")))


def assert_conserved(warehouse: Warehouse, *runs: Run) -> None:
    """In every run and every table of it, in the ledger and in what Dagster is told; and over all runs in the rows."""
    there: Counter[str] = Counter()
    for row in rows(warehouse, "select * from ops.fetch_runs order by publish_seq"):
        assert row["fetched"] == added(row), row
        assert all(row[name] >= 0 for name in NUMBERS)
        tables = row["stats"].get("tables", {})
        for name, counts in tables.items():
            assert counts["fetched"] == added(counts), (name, counts)
            assert all(counts[each] >= 0 for each in NUMBERS)
            there[name] += counts["created"] - counts["deleted"]
        if row["kind"] != "land":
            assert {name: row[name] for name in NUMBERS} == {
                name: sum(counts[name] for counts in tables.values()) for name in NUMBERS
            }
    for name, number in there.items():
        query = sql.SQL("select from {}").format(sql.Identifier(*name.split(".")))
        assert len(rows(warehouse, query)) == number, name
    written = {row["fetch_run_id"]: row for row in rows(warehouse, "select * from ops.fetch_runs")}
    for run in runs:
        assert asdict(run.counts) == {name: written[run.id][name] for name in NUMBERS}
        told = run_metadata([run], None)
        assert {name: told[name] for name in NUMBERS} == asdict(run.counts)


@pytest.mark.parametrize("name", ["toy/library", "toy/shelf", "toy/shop"])
def test_the_sum_holds_for_every_recording(warehouse: Warehouse, name: str) -> None:
    """Landed twice, transformed, transformed again in full, and rebuilt."""
    source = project.sources()[name]
    runs = []
    for day in [*recording.days(source), recording.days(source)[-1]]:
        for stream in source.streams:
            with extract.open_intake(warehouse, stream, Window(day), "recorded") as intake:
                told = sum(isinstance(item, Payload) for item in intake.items({}))
            opened = extract.open_intake(warehouse, stream, Window(day), "recorded")
            run = land_stream(warehouse, stream, day.isoformat(), opened)
            assert run.counts.fetched == told > 0
            runs.append(run)
    taken = [(stream, day) for stream in source.streams for day in pending_of_stream(warehouse, stream)]
    runs += [transform_stream(warehouse, *each) for each in taken]
    runs += [transform_stream(warehouse, *each, full=True) for each in taken]
    runs.append(rebuild.rebuild(warehouse, source.domain))
    assert runs[-1].counts.fetched == runs[-1].counts.unchanged > 0
    assert_conserved(warehouse, *runs)


def test_each_end_that_a_payload_can_have_is_counted_once(warehouse: Warehouse, library: Source) -> None:
    one, two, three = (payload(author(number)) for number in (1, 2, 3))
    other, cut, nameless = payload(author(1, "another", loans=1)), payload(b'{"id": 4'), payload({"id": 5})
    first = land(warehouse, library, one, one, other, two, two, three, cut, cut, nameless)
    assert first == Counts(fetched=9, created=3, quarantined=3, duplicates=3)
    counted, changed = payload(author(1, "another", loans=2)), payload(author(2, "changed"))
    second = land(warehouse, library, counted, changed, three, nameless, hours=1)
    assert second == Counts(fetched=4, updated=1, observed=1, unchanged=1, quarantined=1)
    assert land(warehouse, library, payload(author(3, "older")), hours=-1) == Counts(fetched=1, duplicates=1)
    third = land(warehouse, library, counted, changed, three, FullScan("authors", 1), hours=2)
    assert third == Counts(fetched=3, unchanged=3)
    fourth = land(warehouse, library, counted, FullScan("authors", 1), hours=3)
    assert fourth == Counts(fetched=1, unchanged=1, deleted=2)
    assert land(warehouse, library, hours=4) == Counts()
    fates = {row["external_id"]: row["n"] for row in rows(warehouse, VERSIONS)}
    assert fates == {"1": 2, "2": 3, "3": 3}, "superseded and late ones are kept, deleted ones have a tombstone"
    erasure.erase(warehouse, stream_of(library), "toy/library.authors", "1")
    assert land(warehouse, library, counted, two, hours=5) == Counts(fetched=1, created=1), "an erased one is skipped"
    assert_conserved(warehouse)


VERSIONS = "select external_id, count(*) as n from staging.versions group by 1"


def test_each_end_that_a_row_can_have_is_counted_once(warehouse: Warehouse, library: Source) -> None:
    covers = [cover(7, width=10), cover(8, width=0)]
    only = book(1, covers=covers, copies=[copy(1), copy(1)])
    bodies = [author(1, topics=["a"], books=[only]), author(2, "n" * 501), author(3, topics=["b"])]
    land(warehouse, library, *(payload(each) for each in bodies))
    runs = [transform(warehouse, library, DAY)]
    assert runs[0].counts.quarantined >= 2 and runs[0].counts.created > 5
    assert runs[0].stats["tables"]["toy.copies"] == asdict(Counts(fetched=2, created=1, duplicates=1))
    assert_conserved(warehouse, *runs)
    twice = author(4, books=[book(4, covers=covers[:1])])
    changed = [bodies[0] | {"name": "changed"}, bodies[1] | {"name": "fits now"}, twice]
    land(warehouse, library, *(payload(each) for each in changed), FullScan("authors", 1), hours=1)
    runs.append(transform(warehouse, library, DAY))
    assert runs[1].counts.duplicates and runs[1].counts.updated and runs[1].counts.deleted
    runs.append(transform(warehouse, library, DAY, full=True))
    runs.append(transform(warehouse, library, DAY))
    assert runs[3].counts == Counts()
    runs.append(rebuild.rebuild(warehouse, "toy"))
    assert_conserved(warehouse, *runs)


def test_a_landing_that_goes_on_counts_what_the_one_before_had_fetched(warehouse: Warehouse, library: Source) -> None:
    pages = [[payload(b"{"), payload(author(1)), payload(author(2))], [payload(author(2)), payload(author(3))]]

    def items(resume: dict[str, dict[str, Any]], breaks: bool) -> Iterator[Item]:
        for number, page in enumerate(pages):
            if number >= resume.get("authors", {}).get("page", 0):
                yield from page
                if breaks and number:
                    raise ConnectionResetError
                yield Checkpoint("authors", {"page": number + 1})

    with pytest.raises(ConnectionResetError):
        land_intake(warehouse, library, DAY, nullcontext(Intake(lambda resume: items(resume, True), "live")))
    intake = Intake(lambda resume: items(resume, False), "live")
    run = land_intake(warehouse, library, DAY, nullcontext(intake))
    assert run.counts == Counts(fetched=5, created=3, quarantined=1, duplicates=1)
    assert run.stats["notes"] == {"payloads resumed from a failed run": 3}
    (failed, _) = rows(warehouse, "select * from ops.fetch_runs order by fetch_run_id")
    assert [failed[name] for name in NUMBERS] == [0] * len(NUMBERS)
    assert_conserved(warehouse, run)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "deleted"])
def test_the_database_refuses_a_run_that_lost_or_made_one(warehouse: Warehouse, library: Source, name: str) -> None:
    land(warehouse, library, payload(author(1)))
    with warehouse.connect() as connection, pytest.raises(psycopg.errors.CheckViolation, match="conservation"):
        connection.execute(f"update ops.fetch_runs set {name} = {name} + 1".encode())


@pytest.mark.parametrize("name", NUMBERS)
def test_the_database_refuses_a_number_below_zero(warehouse: Warehouse, library: Source, name: str) -> None:
    """Even where the sum would hold."""
    false = Counts(**{name: -1})
    if name != "deleted":
        setattr(false, "duplicates" if name == "fetched" else "fetched", -1)
        assert false.fetched == added(asdict(false))
    with (
        pytest.raises(psycopg.errors.CheckViolation, match="not_negative"),
        ledger.open_run(warehouse, library, "land", DAY, code_version="a test") as run,
    ):
        run.close(false, {})


def test_dagster_tells_the_numbers_of_the_ledger(warehouse: Warehouse, library: Source) -> None:
    atlas = {"atlas": resources.Atlas(warehouse, "recorded")}
    day = recording.days(library)[0].isoformat()
    ranged = {"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": day}
    told: dict[dg.AssetKey, dict[str, Any]] = {}
    with dg.DagsterInstance.ephemeral() as instance:
        for assets in (*map(staging_asset, library.streams), table_assets(library)):
            result = dg.materialize([assets], instance=instance, resources=atlas, tags=ranged)
            for event in result.get_asset_materialization_events():
                assert event.asset_key is not None
                metadata = event.materialization.metadata
                told[event.asset_key] = {name: metadata[name].value for name in NUMBERS}
    ledger = rows(warehouse, "select * from ops.fetch_runs order by fetch_run_id")
    landed = {row["stream"]: row for row in ledger if row["kind"] == "land"}
    expected = {staging_key(stream): landed[stream.name] for stream in library.streams}
    for (key, table), select in zip(table_keys(library).items(), project.selects(library.name), strict=True):
        read = {stream.name for stream in project.streams_read(library, select)}
        counts = [
            row["stats"]["tables"].get(table, {})
            for row in ledger
            if row["kind"] == "transform" and row["stream"] in read
        ]
        expected[key] = {name: sum(each.get(name, 0) for each in counts) for name in NUMBERS}
    assert told == {key: {name: row[name] for name in NUMBERS} for key, row in expected.items()}
    assert all(landed[name]["fetched"] for name in landed)
