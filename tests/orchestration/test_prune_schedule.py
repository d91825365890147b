"""The schedule that prunes: its job removes by the settings, waits for whoever works, and says what it did."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from pipelines import project
from pipelines.definitions import defs
from pipelines.orchestration.automation import prune_schedule
from pipelines.source import Source
from pipelines.warehouse import locks
from pipelines.warehouse.database import Warehouse
from tests.databases import waits_for
from tests.library import author, payload, shown
from tests.runs import land_items, transform

pytestmark = pytest.mark.usefixtures("toy")

CRONS = [source.full_refresh_cron for source in project.sources().values() if source.full_refresh_cron]
"""Of the project itself."""

DAY = "2026-11-02"
START = datetime(2026, 11, 2, tzinfo=UTC)
PATIENCE_S = 30


@pytest.fixture
def aged(warehouse: Warehouse, library: Source, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """The warehouse of the settings, with one version that was superseded long ago."""
    monkeypatch.setenv("DATABASE_URL", warehouse.conninfo)
    for number, name in enumerate(("first", "second")):
        at = START + timedelta(minutes=number)
        land_items(warehouse, library, DAY, [payload(author(1, name))], received_at=at)
        transform(warehouse, library, DAY)
    with warehouse.connect() as connection:
        connection.execute("update ops.fetch_runs set ended_at = ended_at - interval '100 days'")
    return warehouse


def execute() -> dg.ExecuteInProcessResult:
    """Runs the schedule's job, as it is defined in the code location."""
    schedule = defs.resolve_schedule_def("prune_daily")
    return defs.resolve_job_def(schedule.job_name).execute_in_process()


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of what the job's step left behind."""
    (event,) = (event for event in result.all_events if event.is_successful_output)
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def versions(warehouse: Warehouse) -> int:
    with warehouse.connect() as connection:
        return len(connection.execute("select from staging.versions").fetchall())


def pruned(warehouse: Warehouse) -> list[dict[str, Any]]:
    with warehouse.connect() as connection:
        return connection.execute("select * from ops.fetch_runs where kind = 'prune'").fetchall()


def test_the_job_removes_what_the_settings_no_longer_keep_and_the_ledger_has_its_run(
    aged: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_KEEP_VERSIONS_DAYS", "101")
    assert told(execute())["deleted"] == 0
    assert versions(aged) == 2

    monkeypatch.setenv("ATLAS_KEEP_VERSIONS_DAYS", "99")
    result = execute()
    metadata = told(result)
    assert versions(aged) == 1
    (row,) = (row for row in pruned(aged) if row["dagster_run_id"] == result.run_id)
    assert metadata.pop("fetch_run_id") == str(row["fetch_run_id"])
    assert metadata.pop("deleted") == row["deleted"] == 2
    assert metadata == row["stats"]["removed"]
    assert (metadata["versions"], metadata["bodies"]) == (1, 1)
    assert row["status"] == "completed"


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s"
        time.sleep(0.05)


@contextmanager
def executing(warehouse: Warehouse) -> Iterator[None]:
    """The job in a thread of its own: it waits when the block begins, and has succeeded when it is left."""
    results: list[dg.ExecuteInProcessResult] = []
    thread = threading.Thread(target=lambda: results.append(execute()))
    thread.start()
    wait(lambda: bool(shown(warehouse, waits_for("advisory"))) or not thread.is_alive())
    assert thread.is_alive()
    yield
    thread.join(PATIENCE_S)
    assert [result.success for result in results] == [True]


def test_the_job_waits_for_a_landing(aged: Warehouse) -> None:
    with aged.connect() as landing_now:
        locks.acquire(landing_now, locks.landing("toy/library"))
        with executing(aged):
            assert versions(aged) == 2
            locks.release(landing_now, locks.landing("toy/library"))
    assert versions(aged) == 1


@pytest.mark.long("a process that runs Dagster")
def test_the_job_waits_for_a_migration_and_works_with_what_it_has_made(
    aged: Warehouse, downgrade: Callable[..., None]
) -> None:
    downgrade(aged, "-1")
    with aged.connect() as holder:
        holder.execute("begin")
        holder.execute("lock table alembic_version in share mode")  # which a migration writes last
        command = [sys.executable, "-m", "pipelines.cli.main", "db", "migrate"]
        with subprocess.Popen(command, cwd=project.ROOT) as migration:
            try:
                wait(lambda: bool(shown(aged, waits_for("relation"))))
                with executing(aged):
                    holder.execute("rollback")
            finally:
                holder.close()
    assert migration.returncode == 0
    assert versions(aged) == 1


def test_the_schedule_runs_by_itself_at_an_hour_without_full_refreshes() -> None:
    assert prune_schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    minute, hour, *every_day = str(prune_schedule.cron_schedule).split()
    assert every_day == ["*", "*", "*"]
    assert minute.isdigit()
    assert CRONS
    assert hour not in {cron.split()[1] for cron in CRONS} | {"*"}
