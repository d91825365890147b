"""Retention: prune removes what is no longer needed, nothing that a run in progress needs, and growth ends.

RETENTION_STEP=1 simulates each of the 365 days, instead of one in 28.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipelines import settings
from pipelines.ledger import Run
from pipelines.lineage import rebuild, time_travel, trace
from pipelines.maintenance import retention
from pipelines.settings import Settings
from pipelines.source import Checkpoint, Item, Source
from pipelines.warehouse import locks
from pipelines.warehouse.database import Warehouse
from tests.databases import waits_for
from tests.growth import refetch, relations
from tests.library import DAYS, START, Recorder, author, cover, payload, rows, shown, state
from tests.runs import land_items, transform

pytestmark = pytest.mark.usefixtures("toy")

AT_ONCE = settings.load(keep_versions_days=0, keep_quarantine_days=0, keep_events_days=0)
PATIENCE_S = 20


def age(warehouse: Warehouse, days: float) -> None:
    """Moves all times of the ledger and quarantine into the past."""
    with warehouse.connect() as connection:
        by = {"by": timedelta(days=days)}
        connection.execute(
            "update ops.fetch_runs set started_at = started_at - %(by)s, ended_at = ended_at - %(by)s", by
        )
        connection.execute(
            """
            update staging.quarantine
            set first_at = first_at - %(by)s, last_at = last_at - %(by)s, closed_at = closed_at - %(by)s
            """,
            by,
        )


def make_old(warehouse: Warehouse, days: int) -> None:
    """Moves the runs and closed entries of today into the past."""
    with warehouse.connect() as connection:
        by = {"by": timedelta(days=days)}
        connection.execute(
            """
            update ops.fetch_runs set started_at = started_at - %(by)s, ended_at = ended_at - %(by)s
            where ended_at > now() - interval '12 hours'
            """,
            by,
        )
        connection.execute(
            "update staging.quarantine set closed_at = closed_at - %(by)s where closed_at > now() - interval '9 hours'",
            by,
        )


def removed(warehouse: Warehouse, policy: Settings) -> dict[str, int]:
    """The kinds of which something was removed, and how many of each."""
    run = retention.prune(warehouse, policy)
    assert (run.kind, run.status, run.counts.fetched) == ("prune", "completed", 0)
    found = {name: number for name, number in run.stats["removed"].items() if number}
    assert run.counts.deleted == sum(found.values())
    return found


def is_proven(warehouse: Warehouse) -> bool:
    with warehouse.connect() as connection:
        unproven = sum(row["unproven"] for row in trace.unproven(connection))
    return unproven == 0 and all(each["same"] for each in rebuild.check(warehouse, "toy"))


def counted_cover(number: int, likes: int, **more: Any) -> dict[str, Any]:
    return cover(number, stats={"likes": likes}) | more


@pytest.fixture(scope="module")
def original(new_warehouse: Callable[[], Warehouse], library: Source) -> Recorder:
    """A warehouse with versions, counters, a deleted record, a closed quarantine entry and an open one."""
    recorder = Recorder(new_warehouse(), library)
    for number, day in enumerate(DAYS):
        recorder.clock = START + timedelta(days=number)
        recorder.land("1", author(1, f"edition {number}", loans=number), day=day)
        recorder.land("2", author(2, "always the same", loans=10 * number), day=day)
        if number < 2:
            recorder.land("3", author(3, "gone", loans=number), day=day)
        recorder.land("7", counted_cover(7, number), day=day, kind="covers")
        recorder.land("8", {"id": 8} if number == 0 else counted_cover(8, 0), day=day, kind="covers")
        recorder.land("9", {"id": 9}, day=day, kind="covers")
        recorder.now.pop(("covers", "9"))
        if number == 2:
            recorder.full_refresh("3", day=day, kind="authors")
        recorder.transform()
    return recorder


@pytest.fixture
def history(original: Recorder, copied: Callable[[Warehouse], Warehouse]) -> Recorder:
    """The same for one test."""
    return replace(original, warehouse=copied(original.warehouse), now=dict(original.now))


@pytest.mark.long("a run for each day of a source")
def test_superseded_versions_are_removed_and_what_rows_are_derived_from_stays(history: Recorder) -> None:
    warehouse = history.warehouse
    before, stats = state(warehouse), rows(warehouse, "select * from toy.loans order by 1, 2")
    assert len(stats) == 2 * len(DAYS)
    age(warehouse, 100)
    expected = {"versions": 4, "observations": 5, "quarantine entries": 1, "bodies": 4}
    with_nothing = retention.count_prunable(warehouse, settings.load())
    assert {name: number for name, number in with_nothing.items() if number} == expected
    assert len(shown(warehouse, "select 1 from staging.versions where not latest")) == 4
    assert removed(warehouse, settings.load()) == expected
    assert removed(warehouse, settings.load()) == {}
    assert state(warehouse) == before
    assert rows(warehouse, "select * from toy.loans order by 1, 2") == stats
    assert is_proven(warehouse)
    assert shown(warehouse, "select external_id from staging.versions order by 1") == ["1", "2", "3", "7", "8"]
    assert shown(warehouse, "select external_id from staging.quarantine") == ["9"]


@pytest.mark.long("a run for each day of a source")
def test_as_of_reports_that_versions_were_pruned(history: Recorder) -> None:
    warehouse = history.warehouse
    with warehouse.connect() as connection:
        (first,) = connection.execute(
            "select fetch_run_id from ops.fetch_runs where kind = 'transform' order by publish_seq limit 1"
        ).fetchall()
        snapshot = time_travel.snapshot_of_run(connection, str(first["fetch_run_id"]))
        with time_travel.as_of(warehouse, "toy", snapshot) as then:
            assert then.differing_tables(connection) == []
        age(warehouse, 100)
        assert time_travel.history_removed_since(connection, "toy", snapshot) == []
        retention.prune(warehouse, settings.load())
        with time_travel.as_of(warehouse, "toy", snapshot) as then:
            assert "toy.authors" in then.differing_tables(connection)
        (words,) = time_travel.history_removed_since(connection, "toy", snapshot)
        assert "pruned superseded versions" in words
        last = time_travel.snapshot_of_run(connection, max(map(str, shown(warehouse, LAST))))
        with time_travel.as_of(warehouse, "toy", last) as then:
            assert then.differing_tables(connection) == []


@pytest.mark.long
def test_as_of_reports_an_interrupted_prune_too(history: Recorder) -> None:
    warehouse = history.warehouse
    with warehouse.connect() as connection:
        (first,) = shown(warehouse, LAST.replace(" desc", ""))
        snapshot = time_travel.snapshot_of_run(connection, first)
        age(warehouse, 100)
        versions = shown(warehouse, "select count(*) from staging.versions")

        def interrupted(run: Run) -> None:
            if run.done:
                raise RuntimeError

        with pytest.raises(RuntimeError):
            retention.prune(warehouse, settings.load(), notify=interrupted)
        assert shown(warehouse, "select count(*) from staging.versions") < versions
        (words,) = time_travel.history_removed_since(connection, "toy", snapshot)
        assert "was interrupted while it pruned superseded versions" in words


@pytest.mark.long("a run for each day of a source")
def test_as_of_reports_a_prune_of_observations_alone(warehouse: Warehouse, library: Source) -> None:
    """Of covers, whose counters fill no table."""
    recorder = Recorder(warehouse, library)
    for number, day in enumerate(DAYS[:3]):
        recorder.clock = START + timedelta(days=number)
        recorder.land("7", counted_cover(7, number), day=day, kind="covers")
        recorder.transform()
    age(warehouse, 100)
    assert removed(warehouse, settings.load()) == {"observations": 2}
    with warehouse.connect() as connection:
        (second,) = shown(warehouse, f"{LAST.replace(' desc', '')} offset 1")
        snapshot = time_travel.snapshot_of_run(connection, second)
        with time_travel.as_of(warehouse, "toy", snapshot) as then:
            assert "pruned" in str(time_travel.why_not_exact(connection, then))


def test_a_prune_goes_on_until_nothing_is_left(history: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 2)
    age(history.warehouse, 100)
    expected = {"versions": 4, "observations": 5, "quarantine entries": 1, "bodies": 4}
    assert removed(history.warehouse, settings.load()) == expected


def test_domains_are_locked_in_the_order_of_their_names(warehouse: Warehouse) -> None:
    """In the order of the sources' names `a-b/x` would come before `a/x`."""
    with warehouse.connect() as other, ExitStack() as counting:
        for name in ("a/x", "a-b/x"):
            other.execute("insert into ops.sources (source_id, name, kind) values (ops.key(%s), %s, 'x')", [name, name])
        locks.acquire(other, locks.transform("a"))
        counting.enter_context(in_thread(lambda: retention.count_prunable(warehouse, AT_ONCE)))
        wait_until(warehouse, waits_for("advisory"))
        assert locks.try_acquire(other, locks.transform("a-b"))
        for domain in ("a", "a-b"):
            locks.release(other, locks.transform(domain))


UNPROVEN = """
select author_id from toy.authors
where record_id not in (select record_id from staging.effective_versions_after())
"""

LAST = "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' order by publish_seq desc limit 1"


def test_what_is_younger_than_the_policy_stays(history: Recorder) -> None:
    age(history.warehouse, 80)
    assert removed(history.warehouse, settings.load()) == {}


def test_the_effective_version_stays_while_newer_ones_are_pending(warehouse: Warehouse, shelf: Source) -> None:
    recorder = Recorder(warehouse, shelf)
    recorder.land("a", {"authors": [author(1, "first")]})
    recorder.transform()
    recorder.land("a", {"authors": [author(1, "second")]})
    recorder.land("a", {"authors": [author(1, "third")]})
    assert removed(warehouse, AT_ONCE) == {"versions": 1, "bodies": 1}
    assert shown(warehouse, UNPROVEN) == []
    recorder.transform()
    assert shown(warehouse, "select name from toy.authors") == ["third"]


def test_a_sql_text_that_no_run_names_is_removed(history: Recorder) -> None:
    texts = shown(history.warehouse, "select digest from ops.sql order by 1")
    with history.warehouse.connect() as connection:
        connection.execute("insert into ops.sql (digest, path, text) values ('00', 'toy/none.sql', 'select 1')")
    assert removed(history.warehouse, settings.load()) == {"sql texts": 1}
    assert shown(history.warehouse, "select digest from ops.sql order by 1") == texts


def test_a_landing_in_progress_loses_no_body(warehouse: Warehouse, shelf: Source) -> None:
    recorder = Recorder(warehouse, shelf)

    def items() -> Iterator[Item]:
        yield payload({"authors": [author(1)]}, "a", "")
        yield Checkpoint("", {})
        assert removed(warehouse, AT_ONCE) == {}
        yield payload({"authors": [author(2)]}, "b", "")

    run = land_items(warehouse, shelf, DAYS[0], items())
    assert run.counts.created == 2
    recorder.transform()
    assert len(shown(warehouse, "select name from toy.authors")) == 2


@contextmanager
def locked(warehouse: Warehouse, table: str) -> Iterator[None]:
    """Blocks all who write to a table."""
    with warehouse.connect() as connection, connection.transaction():
        connection.execute(f"lock table {table} in share mode".encode())
        yield


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    failures: list[BaseException] = []

    def caught() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=caught)
    thread.start()
    yield thread
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert failures == []


def wait_until(warehouse: Warehouse, query: str, thread: threading.Thread | None = None) -> None:
    """Waits until a query returns a row, or until a thread has ended that may not have to wait for it."""
    deadline = time.monotonic() + PATIENCE_S
    while not shown(warehouse, query) and (thread is None or thread.is_alive()):
        assert time.monotonic() < deadline, query
        time.sleep(0.01)


def test_a_body_that_a_landing_has_found_stays_until_it_is_named(warehouse: Warehouse, shelf: Source) -> None:
    body = {"authors": [author(1)]}
    Recorder(warehouse, shelf).land("a", body)
    with warehouse.connect() as connection:  # as a landing that crashed leaves it
        connection.execute("delete from staging.versions")
    with ExitStack() as others, locked(warehouse, "staging.arrivals"):
        # a landing that has found the body, and has not yet written the arrival that names it
        others.enter_context(in_thread(lambda: land_items(warehouse, shelf, DAYS[0], [payload(body, "a", "")])))
        wait_until(warehouse, waits_for("relation"))
        pruning = others.enter_context(in_thread(lambda: retention.prune(warehouse, AT_ONCE)))
        wait_until(warehouse, waits_for("advisory"), pruning)
    assert len(shown(warehouse, "select 1 from staging.versions join staging.payloads using (payload_id)")) == 1


def test_a_transform_in_progress_loses_no_version(warehouse: Warehouse, shelf: Source) -> None:
    recorder = Recorder(warehouse, shelf)
    recorder.land("a", {"authors": [author(1, "first")]})
    with ExitStack() as others, locked(warehouse, "toy.authors"):
        others.enter_context(in_thread(lambda: transform(warehouse, shelf, DAYS[0])))
        wait_until(warehouse, waits_for("relation"))
        recorder.land("a", {"authors": [author(1, "second")]})  # the transform applies the one before
        pruning = others.enter_context(in_thread(lambda: retention.prune(warehouse, AT_ONCE)))
        wait_until(warehouse, waits_for("advisory"), pruning)
    assert shown(warehouse, "select name from toy.authors") == ["first"]
    assert shown(warehouse, UNPROVEN) == []


def test_dagster_events_are_removed_but_those_of_assets_and_of_runs_in_progress(with_dagster: Warehouse) -> None:
    with with_dagster.connect(str(with_dagster.dagster_url.database)) as connection:
        for run_id, status in (("done", "SUCCESS"), ("going", "STARTED")):
            connection.execute(
                "insert into runs (run_id, pipeline_name, status, run_body) values (%s, 'x', %s, '')", [run_id, status]
            )
        for run_id, asset, days in (
            ("done", None, 20),
            ("done", '["a"]', 20),
            ("done", None, 1),
            ("going", None, 20),
            ("forgotten", None, 20),
        ):
            connection.execute(
                """
                insert into event_logs (run_id, event, timestamp, asset_key)
                values (%s, '{}', now() at time zone 'utc' - make_interval(days => %s), %s)
                """,
                [run_id, days, asset],
            )
        expected = {"dagster events": 2}
        assert {name: n for name, n in retention.count_prunable(with_dagster, settings.load()).items() if n} == expected
        assert removed(with_dagster, settings.load()) == expected
        left = connection.execute("select run_id, asset_key is null as bare from event_logs order by id").fetchall()
        assert [(row["run_id"], row["bare"]) for row in left] == [("done", False), ("done", True), ("going", True)]


STEP = int(os.environ.get("RETENTION_STEP", "28"))
RECORDS = 40


def row_counts(warehouse: Warehouse) -> dict[str, int]:
    tables = (
        "payloads",
        "versions",
        "reapplied_versions",
        "observations",
        "quarantine",
        "pending_rows",
        "arrivals",
        "rejects",
    )
    return {name: int(shown(warehouse, f"select count(*) from staging.{name}")[0]) for name in tables}


def data(sizes: dict[str, int]) -> int:
    """Bytes of staging and the domain: without the ledger, which stays, and the system catalogs."""
    return sum(number for name, number in sizes.items() if name.startswith(("staging.", "toy.")))


@pytest.mark.timeout(3_600)
@pytest.mark.long("a run for each day of a source")
def test_a_steady_source_comes_to_a_plateau(warehouse: Warehouse, library: Source) -> None:
    """A year of covers: each day some change, all get new counters, and one is malformed until the next day."""
    chance, recorder = random.Random(1), Recorder(warehouse, library)
    editions = dict.fromkeys(range(RECORDS), 0)
    counted: list[tuple[dict[str, int], dict[str, int]]] = []
    for day in range(0, 365, STEP):
        recorder.clock = START + timedelta(days=day)
        for number in chance.sample(range(RECORDS), 6):
            editions[number] += 1
        bodies = {
            number: counted_cover(number, day) | {"about": random.Random(f"{number} {edition}").randbytes(600).hex()}
            for number, edition in editions.items()
        }
        bodies[day // STEP % RECORDS].pop("url")
        key = recorder.clock.date().isoformat()
        items = [payload(body, str(number), "covers") for number, body in bodies.items()]
        land_items(warehouse, library, key, items, received_at=recorder.clock)
        recorder.transform(key)
        ago = 365 - day
        make_old(warehouse, ago)
        if day // 7 != (day - STEP) // 7:
            retention.prune(warehouse, settings.load(keep_versions_days=30 + ago, keep_quarantine_days=30 + ago))
            with warehouse.connect() as connection:  # as autovacuum does within a week
                connection.execute("vacuum")
        if day in (180 // STEP * STEP, 364 // STEP * STEP):
            counted.append((row_counts(warehouse), relations(warehouse)))
    (then, small), (now, large) = counted
    print(then, now, {name: (number, large[name]) for name, number in small.items() if number != large[name]})
    for name, number in now.items():
        assert number <= then[name] * 1.1 + 10, name
    assert data(large) <= data(small) * 1.05
    assert is_proven(warehouse)


@pytest.mark.long("a run for each day of a source")
@pytest.mark.parametrize("days", [1, 20], ids=["in one day", "a day each"])
def test_what_is_fetched_again_unchanged_adds_nothing_to_staging_and_tables(
    warehouse: Warehouse, shelf: Source, days: int
) -> None:
    """tests/budgets.py shows, with more payloads, that the whole warehouse grows by less than 1 %."""
    _, sizes = refetch(warehouse, shelf, 1_000, 8, days)
    before, after = (data({name: each[place] for name, each in sizes.items()}) for place in (0, 1))
    assert after < before * 1.01
