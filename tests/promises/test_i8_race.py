"""Invariant I8: runs of one partition at once end as one, and any others at once end as one after the other.

Twenty real processes, forked from one that has imported everything, begin together; where what matters is who waits
for whom, threads with connections of their own do. Each outcome is compared with that of runs one by one.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest

from pipelines import project
from pipelines.connectors import recording
from pipelines.ledger import Counts, Run
from pipelines.lineage import rebuild
from pipelines.schema import migrate
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.source import Payload, Source, Window
from pipelines.transform import table_digests
from pipelines.warehouse import locks
from pipelines.warehouse.database import Warehouse
from tests.databases import waits_for
from tests.library import author, book, payload
from tests.runs import land_items, land_recorded, pending_partitions, transform

pytestmark = pytest.mark.usefixtures("toy")

DAY = "2026-11-02"
PROCESSES, AUTHORS, BAD = 20, 60, 2
PATIENCE_S = 120
SEED = int(os.environ.get("RACE_SEED") or random.randrange(1 << 32))

PROGRAM = """
import json, os, sys
from contextlib import nullcontext
from pathlib import Path
from sqlalchemy import make_url
from pipelines import project
from pipelines.landing import bulk_files, land
from pipelines.transform.run import transform
from pipelines.source import Window
from pipelines.warehouse.database import Warehouse

url, file, day, processes = sys.argv[1:]
source = project.sources()["toy/library"]
selects = project.selects(source.name)
gate, opens = os.pipe()
children = []
for each in range(int(processes)):
    child = os.fork()
    if child == 0:
        os.close(opens)
        os.read(gate, 1)
        warehouse = Warehouse(make_url(url))
        stream = source.streams[0]
        intake = bulk_files.intake(source, "authors", Path(file), Window.of(day).last)
        landed = land.land_intake(warehouse, stream, day, nullcontext(intake))
        runs = [landed, transform(warehouse, stream, day)]
        os.write(1, (json.dumps([[str(run.id), vars(run.counts)] for run in runs]) + "\\n").encode())
        os._exit(0)
    children.append(child)
os.close(opens)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def an_author(number: int, edition: int = 0) -> Payload:
    topics = ["coast", f"number {number % 7}", f"edition {edition}"]
    return payload(author(number, f"edition {edition}", topics=topics, books=[book(number, f"edition {edition}")]))


def rows(warehouse: Warehouse, query: str, *values: object) -> list[dict[str, Any]]:
    with warehouse.connect() as connection:
        return connection.execute(query.encode(), values).fetchall()


def digests(warehouse: Warehouse) -> dict[str, tuple[int, str]]:
    """What the tables hold, by reading all of it, which is what their runs have kept up."""
    project.load_tables()
    with warehouse.connect() as connection:
        kept = {
            row["table_name"]: (row["rows"], row["digest"])
            for row in connection.execute("select * from ops.table_digests")
        }
        found = {}
        for name in kept:
            number = table_digests.count(connection, TableSpec(metadata.tables[name]))
            found[name] = (number["rows"], number["digest"])
    assert found == kept
    return {name: (number, digest) for name, (number, digest) in found.items() if number}


def staged(warehouse: Warehouse) -> list[dict[str, Any]]:
    """The versions, and which of them are in the tables."""
    return rows(
        warehouse,
        """
        select stream, external_id, digest, partition_key, latest,
            valid_from_run is not null as applied, valid_to_run is not null as replaced
        from staging.versions left join staging.payloads using (payload_id)
        order by stream, external_id, digest
        """,
    )


def assert_at_rest(warehouse: Warehouse) -> None:
    """No run is open, no lock is held, nothing is left of what runs keep for themselves."""
    assert rows(warehouse, "select from ops.fetch_runs where status in ('pending', 'in_progress', 'failed')") == []
    assert rows(warehouse, "select from ops.fetch_runs where publish_seq is null or error_text is not null") == []
    for name in ("arrivals", "rejects", "checkpoints"):
        assert rows(warehouse, f"select from staging.{name}") == []
    assert rows(warehouse, "select from pg_namespace where starts_with(nspname, 'atlas_shadow_')") == []
    until(
        lambda: (
            not rows(
                warehouse,
                "select from pg_locks where locktype = 'advisory' "
                "and database = (select oid from pg_database where datname = current_database())",
            )
        )
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Does all of it in threads that begin together."""
    start = Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        start.wait(PATIENCE_S)
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(begin, works))


@pytest.fixture
def other(new_warehouse: Callable[[], Warehouse]) -> Iterator[Warehouse]:
    """Where the same is done one by one."""
    warehouse = new_warehouse()
    yield warehouse
    warehouse.drop_database(warehouse.database)


@pytest.mark.long("runs at once")
def test_twenty_processes_on_one_partition_end_as_one(
    warehouse: Warehouse, other: Warehouse, library: Source, tmp_path: Path
) -> None:
    good = [an_author(number) for number in range(AUTHORS)]
    bad = [payload(b'{"id": 9%d}' % each) for each in range(BAD)]
    file = tmp_path / "authors.ndjson"
    file.write_bytes(b"\n".join(each.body for each in [*good, *bad]))
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, warehouse.conninfo, str(file), DAY, str(PROCESSES)],
        cwd=project.ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stderr
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(told) == PROCESSES

    land_items(other, library, DAY, [*good, *bad], received_at=Window.of(DAY).last)
    alone = transform(other, library, DAY)
    assert digests(warehouse) == digests(other)
    assert staged(warehouse) == staged(other)

    landed = sorted(each[0][1]["created"] for each in told)
    assert landed == [0] * (PROCESSES - 1) + [AUTHORS]
    for (_, land), (_, _) in told:
        assert land["created"] + land["unchanged"] == AUTHORS and land["quarantined"] == BAD
    taken = sorted((counts for _, (_, counts) in told), key=lambda counts: int(counts["fetched"]))
    assert taken[:-1] == [vars(Counts())] * (PROCESSES - 1)
    assert taken[-1] == vars(alone.counts)
    assert [row["seen"] for row in rows(warehouse, "select seen from staging.quarantine")] == [PROCESSES] * BAD

    written = {str(row.pop("fetch_run_id")): row for row in rows(warehouse, LEDGER)}
    assert written == {run: counts for each in told for run, counts in each}
    assert_at_rest(warehouse)


LEDGER = """
select fetch_run_id, fetched, created, updated, observed, unchanged, deleted, quarantined, pending, duplicates
from ops.fetch_runs
"""


def recorded(warehouse: Warehouse, source: Source) -> None:
    """Lands what was recorded of a source, day by day."""
    for day in recording.days(source):
        land_recorded(warehouse, source, Window(day))


@pytest.mark.long("runs at once")
def test_sources_and_days_transformed_at_once_are_as_one_by_one(warehouse: Warehouse, other: Warehouse) -> None:
    """They share tables, in an order by chance (RACE_SEED repeats it)."""
    sources = list(project.sources().values())
    for source in sources:
        recorded(other, source)
        for day in pending_partitions(other, source):
            transform(other, source, day)
    at_once([lambda source=source: recorded(warehouse, source) for source in sources])  # type: ignore[misc]
    days = [(source, day) for source in sources for day in pending_partitions(warehouse, source)]
    random.Random(SEED).shuffle(days)
    assert len(days) > len(sources)
    runs = at_once([lambda each=each: transform(warehouse, *each) for each in [*days, *days]])  # type: ignore[misc]
    assert sum(run.counts.fetched > 0 for run in runs) <= len(days)
    assert digests(warehouse) == digests(other), SEED
    assert_at_rest(warehouse)


@pytest.mark.long("runs at once")
def test_landings_transforms_rebuilds_and_checks_at_once(
    warehouse: Warehouse, other: Warehouse, library: Source
) -> None:
    editions = range(2)
    done = Event()

    def load(into: Warehouse, day: int) -> None:
        for edition in editions:
            at = Window.of(f"2026-11-0{day}").start.replace(hour=edition)
            authors = [an_author(number, edition) for number in range(day, AUTHORS, 2)]
            land_items(into, library, f"2026-11-0{day}", authors, received_at=at)
            transform(into, library, f"2026-11-0{day}", shrink=True)

    def both() -> None:
        at_once([lambda: load(warehouse, 1), lambda: load(warehouse, 2)])
        done.set()

    def rebuilding() -> list[Run]:
        runs = [rebuild.rebuild(warehouse, "toy")]
        while not done.is_set():
            runs.append(rebuild.rebuild(warehouse, "toy"))
        return runs

    def checking() -> list[dict[str, Any]]:
        found = rebuild.check(warehouse, "toy")
        while not done.is_set():
            found += rebuild.check(warehouse, "toy")
        return found

    _, rebuilt, checked = at_once([both, rebuilding, checking])
    for run in rebuilt:
        assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0)
    assert [each for each in checked if not each["same"]] == []
    assert [each for each in rebuild.check(warehouse, "toy") if not each["same"]] == []
    for day in (1, 2):
        load(other, day)
    assert digests(warehouse) == digests(other)
    assert_at_rest(warehouse)


def test_a_migration_waits_for_runs_and_runs_for_a_migration(
    warehouse: Warehouse, library: Source, downgrade: Callable[..., None]
) -> None:
    """Two of them at once apply it once."""
    newest = migrate.head()
    downgrade(warehouse, "-1")
    with ThreadPoolExecutor(3) as threads:
        with warehouse.connect() as running:  # what a run holds; the tables of the revision before are none of ours
            locks.acquire_shared(running, locks.MIGRATION)
            migrations = [threads.submit(migrate.migrate, warehouse, project.objects()) for _ in range(2)]
            until(lambda: len(rows(warehouse, WAITING)) == 2)
            run = threads.submit(land_items, warehouse, library, DAY, [an_author(1)])
            until(lambda: len(rows(warehouse, WAITING)) == 3)
            assert migrate.current(warehouse) != newest
        applied = [each.result(PATIENCE_S) for each in migrations]
        assert sorted(applied, key=len) == [[], [newest, *(each.name for each in project.objects())]]
        assert run.result(PATIENCE_S).counts.created == 1
    assert migrate.migrate(warehouse, project.objects()) == []
    assert_at_rest(warehouse)


WAITING = waits_for("advisory")


def test_a_transform_applies_nothing_while_a_landing_publishes(warehouse: Warehouse, library: Source) -> None:
    """Or it would apply what that replaces."""
    land_items(warehouse, library, DAY, [an_author(1)])
    writing = """
        select from pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database()
        where relation = 'staging.versions'::regclass and mode = 'RowExclusiveLock'
    """
    with ThreadPoolExecutor(1) as threads:
        with warehouse.connect() as publishing:
            locks.acquire(publishing, locks.landing(library.name))
            run = threads.submit(transform, warehouse, library, DAY)
            until(lambda: rows(warehouse, WAITING))
            assert rows(warehouse, writing) == []
        assert run.result(PATIENCE_S).counts.created > 0
    assert_at_rest(warehouse)


def test_a_run_holds_what_a_migration_waits_for(warehouse: Warehouse, library: Source) -> None:
    begun, go_on = Event(), Event()

    def items() -> Iterator[Payload]:
        yield an_author(1)
        begun.set()
        assert go_on.wait(PATIENCE_S)

    with ThreadPoolExecutor(2) as threads:
        run = threads.submit(land_items, warehouse, library, DAY, items(), kind="authors")
        assert begun.wait(PATIENCE_S)
        try:
            assert migrate.migrate(warehouse, project.objects()) == [], "with nothing to apply nobody waits"
            drops = threads.submit(migrate.migrate, warehouse, project.objects()[:-1])
            until(lambda: rows(warehouse, WAITING))
        finally:
            go_on.set()
        assert run.result(PATIENCE_S).counts.created == 1
        assert drops.result(PATIENCE_S) == [project.objects()[-1].name]
    assert migrate.migrate(warehouse, project.objects()) == [project.objects()[-1].name]
