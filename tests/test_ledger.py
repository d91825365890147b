"""The ledger: who may close a run, in which order runs count, many at once ending as one, and what Dagster is told."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Barrier, Event
from typing import Any
from uuid import UUID

import dagster as dg
import psycopg
import pytest

from pipelines import ledger, project
from pipelines.ledger import Counts, Run
from pipelines.orchestration import resources
from pipelines.orchestration.assets import run_metadata, staging_asset, staging_key, table_assets, table_keys
from pipelines.orchestration.checks import ledger_checks
from pipelines.source import Item, Payload, Source
from pipelines.warehouse import locks
from pipelines.warehouse.database import Warehouse
from tests.databases import waits_for
from tests.library import author, book, payload
from tests.runs import land_items, pending_partitions, transform

pytestmark = pytest.mark.usefixtures("toy")

DAY = "2026-11-02"
PATIENCE_S = 60
AT_ONCE = 8


def an_author(number: int) -> Payload:
    return payload(author(number, topics=["coast", f"number {number % 7}"], books=[book(number)]))


def a_note(number: int) -> Payload:
    return payload({"words": f"a lighthouse, number {number}"}, f"{number}.json", kind="")


def rows(warehouse: Warehouse, query: str, *values: object) -> list[dict[str, Any]]:
    with warehouse.connect() as connection:
        return connection.execute(query.encode(), values).fetchall()


def the_row(warehouse: Warehouse, run_id: UUID) -> dict[str, Any]:
    (row,) = rows(warehouse, "select * from ops.fetch_runs where fetch_run_id = %s", run_id)
    return row


@contextmanager
def working(warehouse: Warehouse, source: Source, kind: ledger.RunKind = "land") -> Iterator[Run]:
    with ledger.open_run(warehouse, source, kind, DAY, code_version="a test") as run:
        yield run


def test_a_run_that_still_works_is_not_closed(warehouse: Warehouse, library: Source) -> None:
    with working(warehouse, library) as run:
        assert ledger.close_dead_runs(warehouse) == []
        assert the_row(warehouse, run.id)["status"] == "in_progress"
        run.close(Counts(), {})
    assert the_row(warehouse, run.id)["status"] == "completed"


def test_a_run_holds_its_lock_when_its_row_shows(warehouse: Warehouse, library: Source) -> None:
    """Else another process could take it for dead: the check is made when the transaction commits."""
    with warehouse.connect() as connection:
        connection.execute(
            """
            create function require_lock() returns trigger language plpgsql as $$
            begin
                if not exists (
                    select from pg_locks
                    where locktype = 'advisory' and pid = pg_backend_pid()
                      and classid::bigint << 32 | objid::bigint = hashtextextended('run ' || new.fetch_run_id, 0))
                then
                    raise exception 'the row shows before its lock is held';
                end if;
                return null;
            end $$;
            create constraint trigger require_lock after insert on ops.fetch_runs deferrable initially deferred
            for each row execute function require_lock()
            """
        )
    with working(warehouse, library) as run:
        run.close(Counts(), {})
    assert the_row(warehouse, run.id)["status"] == "completed"


def test_only_the_run_whose_process_is_gone_is_closed(warehouse: Warehouse, library: Source) -> None:
    open_a_run = """
import sys
from pipelines import ledger, project
from pipelines.warehouse.database import Warehouse
from sqlalchemy import make_url
source = project.sources()["toy/library"]
with ledger.open_run(Warehouse(make_url(sys.argv[1])), source, "land", "2026-11-02", code_version="a test") as run:
    print(run.id, flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", open_a_run, warehouse.conninfo],
        cwd=project.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, working(warehouse, library) as ours:
        assert process.stdout is not None
        theirs = UUID(process.stdout.readline().strip())
        assert ledger.close_dead_runs(warehouse) == []
        process.kill()
        process.wait()
        until(lambda: not lock_of(warehouse, theirs))  # the server notices in a moment
        assert ledger.close_dead_runs(warehouse) == [theirs]
        row = the_row(warehouse, theirs)
        assert (row["status"], row["publish_seq"]) == ("failed", None)
        assert row["ended_at"] >= row["started_at"]
        assert "the process ended before it closed the run" in row["error_text"]
        assert the_row(warehouse, ours.id)["status"] == "in_progress"
        ours.close(Counts(), {})
    assert ledger.close_dead_runs(warehouse) == []
    assert not lock_of(warehouse, theirs)
    assert not lock_of(warehouse, ours.id)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def lock_of(warehouse: Warehouse, run_id: UUID) -> bool:
    """Whether somebody holds the lock that says that a run still works."""
    with warehouse.connect() as connection:
        return not locks.try_acquire(connection, locks.run(run_id))


def test_a_run_that_fails_says_why(warehouse: Warehouse, library: Source) -> None:
    def items() -> Iterator[Item]:
        yield an_author(1)
        raise ConnectionResetError("the line\x00 is dead")

    with pytest.raises(ConnectionResetError):
        land_items(warehouse, library, DAY, items(), kind="authors")
    (row,) = rows(warehouse, "select * from ops.fetch_runs")
    assert (row["status"], row["publish_seq"], row["fetched"]) == ("failed", None, 0)
    assert row["error_text"] == "ConnectionResetError: the line is dead"
    assert rows(warehouse, "select from staging.versions") == []


@pytest.mark.parametrize("status", ["failed", "in_progress"])
@pytest.mark.parametrize("days", [0, 10])
def test_a_checkpoint_that_no_run_resumed_for_a_day_is_deleted_with_its_records(
    warehouse: Warehouse, library: Source, status: str, days: int
) -> None:
    with warehouse.connect() as connection:
        connection.execute(
            """
            with run as (
                insert into ops.fetch_runs
                    (stream, kind, asset_key, partition_key, status, code_version, started_at, ended_at)
                select %(name)s, 'land', %(name)s, %(day)s, %(status)s, 'a test',
                    now() - make_interval(days => %(days)s),
                    case %(status)s when 'failed' then now() end
                returning fetch_run_id
            ), reject as (
                insert into staging.rejects
                    (fetch_run_id, sequence, stream, bytes, digest, received_at, request, reason, detail)
                select fetch_run_id, 1, 'toy/library.authors', '', '', now(), 'here', 'id', 'no id' from run
            )
            insert into staging.checkpoints (fetch_run_id, progress) select fetch_run_id, '{}' from run
            """,
            {"name": library.name, "day": DAY, "status": status, "days": days},
        )
    ledger.close_dead_runs(warehouse)
    for name in ("checkpoints", "rejects"):
        assert len(rows(warehouse, f"select * from staging.{name}")) == (0 if days else 1), name


def test_numbers_that_do_not_add_up_publish_nothing(warehouse: Warehouse, library: Source) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="conservation"), working(warehouse, library) as run:
        run.close(Counts(fetched=3, created=1, quarantined=1), {})
    assert the_row(warehouse, run.id)["status"] == "failed"


def test_a_run_has_an_end_exactly_when_it_is_over(warehouse: Warehouse, library: Source) -> None:
    with working(warehouse, library) as run, warehouse.connect() as connection:
        for change in ("ended_at = now()", "status = 'completed'", "status = 'no such status'"):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(f"update ops.fetch_runs set {change}".encode())
        run.close(Counts(), {})


def test_runs_count_in_the_order_of_publishing(warehouse: Warehouse, library: Source, shelf: Source) -> None:
    with working(warehouse, library) as first, working(warehouse, shelf) as second:
        second.close(Counts(), {})
        first.close(Counts(), {})
    third = land_items(warehouse, library, DAY, [an_author(1)])
    assert first.id < second.id < third.id
    order = {row["fetch_run_id"]: row["publish_seq"] for row in rows(warehouse, "select * from ops.fetch_runs")}
    assert order[second.id] < order[first.id] < order[third.id]


def test_a_closed_run_stays_as_it_was(warehouse: Warehouse, library: Source) -> None:
    with pytest.raises(RuntimeError), working(warehouse, library) as run:
        run.close(Counts(fetched=1, created=1), {})
        before = the_row(warehouse, run.id)
        raise RuntimeError("too late")
    assert the_row(warehouse, run.id) == before


def at_once(work: Callable[[int], Run], number: int = AT_ONCE) -> list[Run]:
    """Does the work in as many threads, begun together."""
    start = Barrier(number)

    def begin(which: int) -> Run:
        start.wait(PATIENCE_S)
        return work(which)

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(begin, range(number)))


def versions(warehouse: Warehouse) -> list[dict[str, Any]]:
    query = "select external_id, digest, latest from staging.versions left join staging.payloads using (payload_id)"
    return rows(warehouse, f'{query} order by external_id collate "C"')


def test_landings_of_a_partition_at_once_end_as_one(
    warehouse: Warehouse, new_warehouse: Callable[[], Warehouse], library: Source
) -> None:
    payloads = [an_author(number) for number in range(200)]
    bad = [payload(b'{"id": %d' % each) for each in (1, 2)]
    orders = [[*payloads, *bad], [*reversed(bad), *reversed(payloads)]]
    runs = at_once(lambda which: land_items(warehouse, library, DAY, orders[which % 2]))

    alone = new_warehouse()
    land_items(alone, library, DAY, orders[0])
    assert versions(warehouse) == versions(alone)
    alone.drop_database(alone.database)

    assert sorted(run.counts.created for run in runs) == [0] * (AT_ONCE - 1) + [len(payloads)]
    assert sorted(run.counts.unchanged for run in runs) == [0] + [len(payloads)] * (AT_ONCE - 1)
    assert {run.status for run in runs} == {"partial_success"}
    entries = rows(warehouse, "select seen from staging.quarantine")
    assert [entry["seen"] for entry in entries] == [AT_ONCE] * len(bad)
    published = rows(warehouse, "select publish_seq from ops.fetch_runs where publish_seq is not null")
    assert len(published) == AT_ONCE


def test_landings_of_two_sources_at_once_do_not_meet(warehouse: Warehouse, library: Source, shelf: Source) -> None:
    def land(which: int) -> Run:
        source, make = ((library, an_author), (shelf, a_note))[which % 2]
        return land_items(warehouse, source, DAY, [make(number) for number in range(50)])

    runs = at_once(land, 4)
    assert {run.status for run in runs} == {"completed"}
    latest = rows(warehouse, "select stream, count(*) as number from staging.versions where latest group by stream")
    assert {row["stream"]: row["number"] for row in latest} == {"toy/library.authors": 50, "toy/shelf": 50}


def test_a_landing_waits_only_for_landings_of_its_own_source(
    warehouse: Warehouse, library: Source, shelf: Source
) -> None:
    with warehouse.connect() as connection, connection.transaction():
        locks.acquire_for_transaction(connection, locks.landing("toy/library"))
        assert land_items(warehouse, shelf, DAY, [a_note(1)]).counts.created == 1
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(land_items, warehouse, library, DAY, [an_author(1)])
            until(lambda: rows(warehouse, waits_for("advisory")))
            assert versions(warehouse) == [row for row in versions(warehouse) if row["external_id"] == "1.json"]
            connection.execute("rollback")
            assert other.result(PATIENCE_S).counts.created == 1


def test_transforms_of_a_partition_at_once_end_as_one(warehouse: Warehouse, library: Source) -> None:
    land_items(warehouse, library, DAY, [an_author(number) for number in range(100)])
    runs = at_once(lambda _: transform(warehouse, library, DAY), 4)
    idle, busy = [run for run in runs if not run.counts.fetched], [run for run in runs if run.counts.fetched]
    assert (len(idle), len(busy)) == (3, 1)
    assert {run.status for run in runs} == {"completed"}
    assert busy[0].counts.created == busy[0].counts.fetched == 100 * 4 + 8  # author, book, two topics of it; the topics
    assert rows(warehouse, "select from staging.versions where valid_from_run <> %s", busy[0].id) == []
    assert len(rows(warehouse, "select from toy.authors")) == 100


def test_what_comes_while_a_transform_works_lands_after_it_and_is_pending(
    warehouse: Warehouse, library: Source
) -> None:
    land_items(warehouse, library, DAY, [an_author(1)])
    at_its_end, may_end = Event(), Event()

    def notify(run: Run) -> None:
        if run.done and not at_its_end.is_set():
            at_its_end.set()
            may_end.wait(PATIENCE_S)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(transform, warehouse, library, DAY, notify=notify)
        assert at_its_end.wait(PATIENCE_S)
        landing = threads.submit(land_items, warehouse, library, DAY, [an_author(1), an_author(2)])
        until(lambda: rows(warehouse, waits_for("advisory")))
        assert not first.done() and not landing.done()
        may_end.set()
        assert first.result(PATIENCE_S).done == 1
        assert landing.result(PATIENCE_S).counts.created == 1
    assert len(rows(warehouse, "select from toy.authors")) == 1
    assert pending_partitions(warehouse, library) == [DAY]
    transform(warehouse, library, DAY)
    assert len(rows(warehouse, "select from toy.authors")) == 2
    assert pending_partitions(warehouse, library) == []


@pytest.fixture
def dagster(warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance beside the warehouse, as `atlas run` opens it."""
    for name in ("DAGSTER_HOME", "ATLAS_DAGSTER_URL"):
        monkeypatch.setenv(name, "set by the instance, taken back after the test")
    name = str(warehouse.dagster_url.database)
    warehouse.create_database(name)
    with resources.instance(warehouse, tmp_path) as instance:
        yield instance
    warehouse.drop_database(name)


@pytest.mark.long("processes that run Dagster")
@pytest.mark.sample(1, "strikes and outages")
def test_a_killed_run_of_dagster_is_freed_by_the_next(
    warehouse: Warehouse, dagster: dg.DagsterInstance, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "pipelines.cli.main", "run", "toy/library", "--partition", DAY, "--json"]
    environment = os.environ | {"DATABASE_URL": warehouse.conninfo, "ATLAS_HOME": str(tmp_path)}
    waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

    with warehouse.connect() as connection, connection.transaction():
        connection.execute("lock table toy.quotes in share mode")
        process = subprocess.Popen(command, cwd=project.ROOT, env=environment, start_new_session=True)
        try:
            until(lambda: rows(warehouse, waiting) or process.poll() is not None)
            (dead,) = dagster.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            assert resources.report_dead_runs(warehouse, dagster) == []  # it lives
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert rows(warehouse, "select from toy.authors") == []

    again = subprocess.run(
        command, cwd=project.ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["rows"]["toy.authors"] > 0
    freed = dagster.get_run_by_id(dead.run_id)
    assert freed is not None
    assert freed.status == dg.DagsterRunStatus.FAILURE
    assert dagster.event_log_storage.get_concurrency_info("toy").claimed_slots == []
    ended = rows(warehouse, "select kind, status, error_text from ops.fetch_runs order by fetch_run_id")
    landed = [("land", "completed")] * 2
    assert [(row["kind"], row["status"]) for row in ended] == [
        *landed,
        ("transform", "failed"),
        *landed,
        *[("transform", "completed")] * 2,
    ]
    assert "the process ended before it closed the run" in ended[2]["error_text"]


@pytest.mark.long("processes that run Dagster")
def test_dagster_is_told_what_the_ledger_says(
    warehouse: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    atlas = {"atlas": resources.Atlas(warehouse, "recorded")}
    days = {
        "dagster/asset_partition_range_start": "2026-11-01",
        "dagster/asset_partition_range_end": DAY,
    }
    for assets in (*map(staging_asset, library.streams), table_assets(library)):
        assert dg.materialize([assets], instance=dagster, resources=atlas, tags=days).success

    told = {
        (event.asset_key, event.partition_key): event.asset_materialization
        for key in dagster.get_asset_keys()
        for event in dagster.fetch_materializations(key, limit=10).records
    }
    tables = table_keys(library)
    staging = {staging_key(stream): stream.name for stream in library.streams}
    assert set(told) == {(key, day) for key in (*staging, *tables) for day in ("2026-11-01", DAY)}
    ledger = {str(row["fetch_run_id"]): row for row in rows(warehouse, "select * from ops.fetch_runs")}
    for (key, day), materialization in told.items():
        assert materialization is not None and key is not None
        metadata = {name: value.value for name, value in materialization.metadata.items()}
        found = [ledger[run] for run in str(metadata["fetch_run_id"]).split(", ")]
        assert {row["partition_key"] for row in found} == {day}
        assert {row["kind"] for row in found} == {"land" if key in staging else "transform"}
        numbers = [row if key in staging else row["stats"]["tables"].get(tables[key], {}) for row in found]
        for name in asdict(Counts()):
            assert metadata[name] == sum(each.get(name, 0) for each in numbers)
    of_covers = told[dg.AssetKey(["toy", "library", "covers"]), DAY]
    assert of_covers is not None
    assert len(str(of_covers.metadata["fetch_run_id"].value).split(", ")) == 2, "both streams have covers"

    def checks() -> dict[dg.AssetKey, bool]:
        every = dg.AssetSelection.all_asset_checks()
        result = dg.materialize([ledger_checks(library)], instance=dagster, resources=atlas, selection=every)
        return {check.asset_key: check.passed for check in result.get_asset_check_evaluations()}

    assert checks() == dict.fromkeys([*staging, *tables], True)
    with warehouse.connect() as connection:
        connection.execute("update ops.fetch_runs set fetched = fetched + 1, created = created + 1 where kind = 'land'")
        connection.execute(
            """
            update ops.fetch_runs set stats = jsonb_set(stats, '{tables,toy.covers,created}', '77')
            where kind = 'transform'
            """
        )
    altered = {*staging, dg.AssetKey(["toy", "library", "covers"])}
    assert {key for key, passed in checks().items() if not passed} == altered


def test_metadata_of_a_landing_holds_its_statistics(warehouse: Warehouse, library: Source) -> None:
    run = land_items(warehouse, library, DAY, [an_author(1)])
    told = run_metadata([run], None)
    assert told["fetch_run_id"] == str(run.id)
    assert told["bytes"] == len(an_author(1).body)
