"""Erasure: nothing of an erased record is left, nothing else is changed, and `trace` and `as-of` report the erasure."""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines import settings
from pipelines.cli.main import app
from pipelines.errors import AtlasError
from pipelines.landing import land
from pipelines.landing.intake import Intake
from pipelines.ledger import Run
from pipelines.lineage import rebuild, time_travel, trace
from pipelines.lineage.shadow_schema import TEMPORARY_PREFIX
from pipelines.maintenance import erasure, retention
from pipelines.source import Checkpoint, Item, Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.library import DAYS, START, Json, Recorder, author, book, copy, cover, found, payload, rows, shown, state
from tests.runs import land_intake, land_items, stream_of

pytestmark = pytest.mark.usefixtures("toy")

STREAM, WHO = "toy/library.authors", "anna-mustermann-47x11"
SECRETS = ("mustermann", "Geheimnis", "flüstert", "47x11")


def secret(edition: int, **more: Any) -> Json:
    copies = [copy(edition, room="Geheimnis", sha256="no Geheimnis")]
    books = [book(1, f"Geheimnis {edition}", copies=copies, stats={"loans": edition})]
    topics = ["Geheimnis" * 40, "mustermann", "shared"]
    return author(1, f"Geheimnis {edition}", loans=edition, topics=topics, books=books, **more)


OTHER = author(2, "Other", loans=5, topics=["shared", "own"])


@pytest.fixture(scope="module")
def original(new_warehouse: Callable[[], Warehouse], library: Source) -> Recorder:
    """A record with several versions, rejected rows, rejected payloads, exact bytes, and an interrupted landing."""
    warehouse = new_warehouse()
    recorder = Recorder(warehouse, library)
    recorder.land("other", OTHER)
    for edition, day in enumerate(DAYS[:3]):
        recorder.land(WHO, secret(edition), day=day)
        recorder.transform()
    recorder.clock = START
    nul = json.dumps(secret(9)).replace("Geheimnis 9", "\\u0000 flüstert").encode()
    land_body(warehouse, library, nul, DAYS[2])
    land_body(warehouse, library, b'{"id": 1, "name": 7, "about": "Geheimnis"}', DAYS[2])
    land_body(warehouse, library, b'{"id": "Geheimnis', DAYS[2])
    with pytest.raises(KeyboardInterrupt):
        live = Intake(lambda _: interrupted(), "live")  # a run that can be resumed keeps its checkpoint
        land_intake(warehouse, library, DAYS[3], nullcontext(live))
    recorder.transform()
    return recorder


@pytest.fixture
def history(original: Recorder, copied: Callable[[Warehouse], Warehouse]) -> Recorder:
    """The same for one test."""
    return replace(original, warehouse=copied(original.warehouse), now=dict(original.now))


def land_body(warehouse: Warehouse, source: Source, body: bytes, day: str) -> Run:
    return land_items(warehouse, source, day, [payload(body, WHO)])


def interrupted() -> Iterator[Item]:
    yield payload(secret(20), WHO)
    yield payload({"name": "Geheimnis"}, WHO)
    yield Checkpoint("authors", {"after": WHO})
    raise KeyboardInterrupt


@pytest.mark.long("a history, and what is left of it")
def test_nothing_is_left_of_an_erased_record(history: Recorder, library: Source) -> None:
    warehouse = history.warehouse
    before = found(warehouse, *SECRETS)
    held = "payloads.body payloads.original versions.external_id quarantine.bytes quarantine.row arrivals.external_id"
    for where in (*held.split(), "rejects.bytes", "checkpoints.progress", "authors.name", "topics.name"):
        assert any(f".{where}:" in each for each in before), where
    with warehouse.connect() as connection:  # as a crashed landing leaves it
        connection.execute(
            """
            insert into staging.payloads (fetch_run_id, digest, body)
            select fetch_run_id, 'Geheimnis', '"Geheimnis"' from ops.fetch_runs limit 1
            """
        )
    run = erasure.erase(warehouse, stream_of(library), STREAM, WHO)
    assert (run.status, run.stats["erased"]["versions"], run.stats["erased"]["shared_bodies"]) == ("completed", 4, 0)
    assert found(warehouse, *SECRETS) == []
    ((stream, length, lifted),) = rows(warehouse, "select stream, length(digest), lifted_at from staging.erasures")
    assert (stream, length, lifted) == (STREAM, 32, None)


def in_pages(warehouse: Warehouse, word: str) -> set[str]:
    """The tables with a row in their pages, dead or alive, that contains a word; with their long values."""
    with warehouse.connect() as connection:
        connection.execute("create extension if not exists pageinspect")
        found = connection.execute(
            """
            select distinct coalesce(owner.oid, c.oid)::regclass::text as name
            from pg_class c left join pg_class owner on owner.reltoastrelid = c.oid
            cross join generate_series(0, pg_relation_size(c.oid) / current_setting('block_size')::int - 1) as block
            cross join heap_page_items(get_raw_page(c.oid::regclass::text, block)) as item
            where c.relkind in ('r', 't') and coalesce(owner.oid, c.oid) >= 16384 and c.relpersistence <> 't'
              and position(convert_to(%s, 'utf8') in item.t_data) > 0
            """,
            [word],
        )
        return {row["name"] for row in found}


@pytest.mark.long("a history, and what is left of it")
def test_no_page_has_a_row_of_an_erased_record(history: Recorder, library: Source) -> None:
    """Rows that are deleted stay in the pages until the tables are vacuumed, the tables of the domain too."""
    before = in_pages(history.warehouse, "Geheimnis")
    assert before >= {"staging.payloads", "staging.quarantine", "toy.authors", "toy.books"}
    assert in_pages(history.warehouse, WHO) >= {"staging.versions", "staging.arrivals"}
    erasure.erase(history.warehouse, stream_of(library), STREAM, WHO)
    assert in_pages(history.warehouse, "Geheimnis") == in_pages(history.warehouse, WHO) == set()
    assert "staging.payloads" in in_pages(history.warehouse, "Other")


@pytest.mark.long("a history, and what is left of it")
def test_other_records_are_as_if_it_had_never_landed(history: Recorder, library: Source, new_warehouse: Any) -> None:
    erasure.erase(history.warehouse, stream_of(library), STREAM, WHO)
    fresh = Recorder(new_warehouse(), library)
    fresh.land("other", OTHER)
    fresh.transform()
    assert state(history.warehouse) == state(fresh.warehouse)
    assert shown(history.warehouse, "select name from toy.topics order by 1") == ["own", "shared"]
    fresh.warehouse.drop_database(fresh.warehouse.database)
    with history.warehouse.connect() as connection:
        assert all(row["unproven"] == 0 for row in trace.unproven(connection))
        kept = {name: (table["rows"], table["digest"]) for name, table in recorded(history.warehouse).items()}
        (last,) = shown(history.warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'erase'")
        snapshot = time_travel.snapshot_of_run(connection, last)
        with time_travel.as_of(
            history.warehouse, "toy", snapshot
        ) as then:  # the tables are what the erasing run recorded
            assert then.differing_tables(connection) == []
    assert kept["toy.authors"][0] == 1
    assert all(each["same"] for each in rebuild.check(history.warehouse, "toy"))


def recorded(warehouse: Warehouse) -> dict[str, Any]:
    (stats,) = shown(warehouse, "select stats -> 'table_digests' from ops.fetch_runs where kind = 'erase'")
    return dict(stats)


def test_trace_and_as_of_report_the_erasure(history: Recorder, library: Source) -> None:
    warehouse = history.warehouse
    ((first,),) = rows(
        warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' order by publish_seq limit 1"
    )
    with warehouse.connect() as connection:
        snapshot = time_travel.snapshot_of_run(connection, first)
        assert time_travel.history_removed_since(connection, "toy", snapshot) == []
        run = erasure.erase(warehouse, stream_of(library), STREAM, WHO)
        with pytest.raises(AtlasError, match=rf"was erased at .* by run {run.id}"):
            trace.trace(connection, "toy.authors", WHO)
        with pytest.raises(AtlasError, match="has no row"):
            trace.trace(connection, "toy.authors", "never-there")
        assert time_travel.history_removed_since(connection, "toy", snapshot)[0].startswith(
            f"run {run.id} erased a record"
        )
        with time_travel.as_of(warehouse, "toy", snapshot) as then:
            assert "toy.authors" in then.differing_tables(connection)


def test_an_erased_record_does_not_land_again_until_that_is_lifted(history: Recorder, library: Source) -> None:
    warehouse = history.warehouse
    erasure.erase(warehouse, stream_of(library), STREAM, WHO)
    run = land_items(
        warehouse,
        library,
        DAYS[3],
        [payload(secret(1), WHO), payload(author(3, "New"), "new"), *rejected()],
    )
    assert (run.counts.fetched, run.counts.created, run.counts.quarantined) == (1, 1, 0)
    assert run.stats["skipped"] == {"erased before": 2}
    assert found(warehouse, *SECRETS) == []
    assert erasure.lift(warehouse, STREAM, WHO)
    assert not erasure.lift(warehouse, STREAM, WHO)
    assert land_body(warehouse, library, json.dumps(secret(1)).encode(), DAYS[3]).counts.created == 1
    erasure.erase(warehouse, stream_of(library), STREAM, WHO)
    assert found(warehouse, *SECRETS) == []


def rejected() -> list[Item]:
    return [payload({"name": "Geheimnis"}, WHO)]


def test_a_body_that_another_record_has_too_stays(warehouse: Warehouse, shelf: Source) -> None:
    recorder = Recorder(warehouse, shelf)
    for name in ("a", "b"):
        recorder.land(name, {"authors": [author(1)]})
    recorder.land("a", {"authors": [author(1), author(2)]})
    recorder.transform()
    run = erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")
    assert (run.stats["erased"]["versions"], run.stats["erased"]["shared_bodies"]) == (2, 1)
    assert shown(warehouse, "select body -> 'authors' from staging.payloads") == [[author(1)]]
    assert shown(warehouse, "select name from toy.authors") == ["author 1"]


@pytest.mark.long("a history, and what is left of it")
def test_a_body_that_came_with_an_erased_record_is_stored_with_another(warehouse: Warehouse, shelf: Source) -> None:
    """Which comes in the next batch of the same run."""
    graph = json.dumps({"nodes": [], "links": []}).encode()
    items = [
        Payload(graph, "a", "a"),
        *(Payload(b'{"nodes": [%d], "links": []}' % each, "x", f"x{each}") for each in range(land.BATCH_PAYLOADS)),
        Payload(graph, "b", "b"),
    ]
    land_items(warehouse, shelf, DAYS[0], items[:1])
    erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")
    run = land_items(warehouse, shelf, DAYS[0], items)
    assert run.counts.created == land.BATCH_PAYLOADS + 1
    assert shown(warehouse, "select count(*) from staging.versions where latest and external_id = 'b'") == [1]


def test_what_depends_on_an_erased_record_follows(warehouse: Warehouse, shelf: Source) -> None:
    """As with a deletion: the row that lost a key gets it, a child is pending again, an optional reference is NULL."""
    recorder = Recorder(warehouse, shelf)
    recorder.land_all(
        {
            "a": {"authors": [author(1)], "covers": [cover(7, "a")]},
            "b": {"books": [book(1, author=1)], "covers": [cover(7, "b"), cover(8, "b", book=1)]},
        }
    )
    recorder.transform()
    erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")
    there = state(warehouse)
    assert rows(warehouse, "select url, book_id from toy.covers order by 1") == [
        ("https://cover.example/7b.png", None),
        ("https://cover.example/8b.png", None),
    ]
    assert {name for name in there} == {"covers", "pending"}


def test_nothing_is_erased_while_a_landing_that_has_it_is_in_progress(warehouse: Warehouse, shelf: Source) -> None:
    def items() -> Iterator[Item]:
        yield payload({"authors": [author(1)]}, "a", "")
        yield Checkpoint("", {})
        with pytest.raises(AtlasError, match="in progress and has received the record"):
            erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")

    assert land_items(warehouse, shelf, DAYS[0], items()).counts.created == 1
    erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")
    assert shown(warehouse, "select 1 from staging.payloads") == []


def test_a_landing_in_progress_that_receives_it_later_skips_it(warehouse: Warehouse, shelf: Source) -> None:
    Recorder(warehouse, shelf).land("a", {"authors": [author(1)]})

    def items() -> Iterator[Item]:
        yield payload({"authors": [author(2)]}, "b", "")
        yield Checkpoint("", {})
        erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")
        yield payload({"authors": [author(3)]}, "a", "")

    run = land_items(warehouse, shelf, DAYS[0], items())
    assert (run.counts.fetched, run.counts.created, run.stats["skipped"]) == (1, 1, {"erased before": 1})
    assert shown(warehouse, "select body -> 'authors' from staging.payloads") == [[author(2)]]


def test_lifted_while_a_landing_is_in_progress_it_lands_with_the_next(warehouse: Warehouse, shelf: Source) -> None:
    recorder = Recorder(warehouse, shelf)
    recorder.land("a", {"authors": [author(1)]})
    erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")

    def items() -> Iterator[Item]:
        yield payload({"authors": [author(1)]}, "a", "")
        yield Checkpoint("", {})
        assert erasure.lift(warehouse, shelf.name, "a")
        yield payload({"authors": [author(2)]}, "b", "")

    run = land_items(warehouse, shelf, DAYS[0], items())
    assert (run.counts.fetched, run.counts.created, run.stats["skipped"]) == (1, 1, {"erased before": 1})
    assert recorder.land("a", {"authors": [author(1)]}).counts.created == 1
    recorder.transform()
    assert shown(warehouse, "select name from toy.authors order by 1") == ["author 1", "author 2"]


def test_drift_paths_that_it_alone_had_are_deleted(warehouse: Warehouse, shelf: Source) -> None:
    recorder = Recorder(warehouse, shelf)
    recorder.land("a", {"authors": [author(1)]})
    recorder.land("b", {"authors": [author(2)], "otter": 1, "geheimnis": {"4711": 1, "otter": [{"otter": 1}]}})
    recorder.land("c", {"authors": [author(3)], "otter": 2})
    recorder.transform()
    paths = "select path from ops.schema_drift where path ~ 'geheimnis|otter' order by 1"
    said = "select distinct d ->> 'path' from ops.fetch_runs, jsonb_array_elements(stats -> 'drift') d order by 1"
    assert shown(warehouse, paths) == ["geheimnis", "otter"] == shown(warehouse, said)
    erasure.erase(warehouse, stream_of(shelf), shelf.name, "b")
    assert shown(warehouse, paths) == shown(warehouse, said) == ["otter"]


MINE = "select path from ops.schema_drift where path ~ 'mustermann'"
SAID = "select stats -> 'drift' from ops.fetch_runs where stats::text ~ 'mustermann'"


@pytest.mark.parametrize("pruned", [False, True])
def test_a_drift_path_of_several_versions_is_deleted_with_them(
    warehouse: Warehouse, shelf: Source, pruned: bool
) -> None:
    recorder = Recorder(warehouse, shelf)
    recorder.land("other", {"authors": [author(1)]})
    for edition in range(2):
        recorder.land("mine", {"authors": [author(2)], "edition": edition, "mustermann": 1})
        recorder.transform()
    if pruned:
        recorder.land("mine", {"authors": [author(2)]})
        recorder.transform()
        retention.prune(warehouse, settings.load(keep_versions_days=0, keep_quarantine_days=0, keep_events_days=0))
    assert shown(warehouse, MINE) and shown(warehouse, SAID)
    erasure.erase(warehouse, stream_of(shelf), shelf.name, "mine")
    assert shown(warehouse, MINE) == shown(warehouse, SAID) == []


@pytest.mark.long("a history, and what is left of it")
def test_nothing_is_erased_while_a_schema_to_keep_is_created(history: Recorder, library: Source) -> None:
    """Temporary ones, such as the two of a diff, do not prevent it."""
    (last,) = shown(history.warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' limit 1")
    before = found(history.warehouse, *SECRETS)
    with history.warehouse.connect() as connection:
        snapshot = time_travel.snapshot_of_run(connection, last)
    copying = time_travel.as_of(history.warehouse, "toy", snapshot, schema="kept")
    with pytest.raises(AtlasError, match="is creating a schema"), copying:
        erasure.erase(history.warehouse, stream_of(library), STREAM, WHO)
    assert found(history.warehouse, *SECRETS) == before
    with (
        time_travel.as_of(history.warehouse, "toy", snapshot),
        time_travel.as_of(history.warehouse, "toy", snapshot),
    ):
        erasure.erase(history.warehouse, stream_of(library), STREAM, WHO)
    assert found(history.warehouse, *SECRETS) == []


def test_the_schema_of_a_killed_rebuild_is_dropped(history: Recorder, library: Source) -> None:
    with history.warehouse.connect() as connection:
        schema = f"{TEMPORARY_PREFIX}1"
        connection.execute(f"create schema {schema}; create table {schema}.authors as table toy.authors".encode())
    erasure.erase(history.warehouse, stream_of(library), STREAM, WHO)
    assert shown(history.warehouse, f"select nspname from pg_namespace where nspname ~ '^{TEMPORARY_PREFIX}'") == []


def test_a_lifted_erasure_is_no_longer_in_force(warehouse: Warehouse, shelf: Source) -> None:
    recorder = Recorder(warehouse, shelf)
    recorder.land("a", {"authors": [author(1)]})
    erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")
    in_force = "select stream from staging.erasures where lifted_at is null"
    assert shown(warehouse, in_force) == [shelf.name]
    assert erasure.lift(warehouse, shelf.name, "a")
    assert shown(warehouse, in_force) == []


def test_its_rejected_shared_rows_are_deleted(warehouse: Warehouse, library: Source) -> None:
    recorder = Recorder(warehouse, library)
    for topic in ("mustermann" * 40, "x"):
        recorder.land("1", author(1, topics=[topic]))
        recorder.transform()
    kept = "select closed_at is not null from staging.quarantine where row::text ~ 'mustermann'"
    assert shown(warehouse, kept)
    erasure.erase(warehouse, stream_of(library), STREAM, "1")
    assert shown(warehouse, kept) == []


@pytest.mark.long("a history, and what is left of it")
def test_nothing_is_erased_while_a_kept_schema_exists(history: Recorder, library: Source) -> None:
    warehouse = history.warehouse
    before = found(warehouse, *SECRETS)
    with warehouse.connect() as connection:
        (last,) = shown(warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' limit 1")
        with time_travel.as_of(warehouse, "toy", time_travel.snapshot_of_run(connection, last), schema="kept"):
            pass
        with pytest.raises(AtlasError, match=r'Drop them first: drop schema "kept" cascade;'):
            erasure.erase(warehouse, stream_of(library), STREAM, WHO)
        assert set(before) <= set(found(warehouse, *SECRETS))
        connection.execute("drop schema kept cascade")
    erasure.erase(warehouse, stream_of(library), STREAM, WHO)
    assert found(warehouse, *SECRETS) == []


@pytest.mark.long("a history, and what is left of it")
def test_the_command_asks_first(history: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", history.warehouse.conninfo)
    atlas = CliRunner()
    refused = atlas.invoke(app, ["erase", STREAM, WHO], input="n\n")
    assert refused.exit_code == 1
    assert "for good (4 versions" in refused.output
    assert "Nothing is erased. To erase without being asked: --yes." in str(refused.exception)
    unasked = atlas.invoke(app, ["erase", STREAM, WHO])
    assert "Nothing is erased." in str(unasked.exception)
    assert found(history.warehouse, "mustermann")
    erased = atlas.invoke(app, ["erase", STREAM, WHO, "--yes"])
    assert erased.exit_code == 0, erased.output
    assert "4 versions" in erased.output
    assert found(history.warehouse, "mustermann") == []
    checked = atlas.invoke(app, ["rebuild", "toy", "--check"])
    assert checked.exit_code == 0
    assert "anything of 1 erased record." in checked.output
    pruned = atlas.invoke(app, ["prune", "--dry-run", "--json", "--quarantine-days", "0"])
    assert json.loads(pruned.stdout)["dry_run"]
    assert atlas.invoke(app, ["erase", STREAM, WHO, "--lift"]).exit_code == 0


def test_erasing_an_unknown_record_is_an_error(warehouse: Warehouse, shelf: Source) -> None:
    with pytest.raises(AtlasError, match="Nothing is stored of record 'a'"):
        erasure.erase(warehouse, stream_of(shelf), shelf.name, "a")
    assert shown(warehouse, "select 1 from staging.erasures") == []
