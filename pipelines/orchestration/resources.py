"""The resource `atlas`, which gives assets the warehouse, and Dagster's instance on the same server."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.instance import InstanceRef

from pipelines import project, settings
from pipelines.ledger import Run, silent
from pipelines.schema import migrate
from pipelines.schema.privileges import LOADER
from pipelines.settings import Mode
from pipelines.warehouse import database, locks
from pipelines.warehouse.database import Warehouse


@dataclass(frozen=True)
class Atlas:
    """The warehouse that assets, checks and sensors use: the one given, else the one that the settings name."""

    warehouse: Warehouse | None = None
    mode: Mode | None = None
    notify: Callable[[Run], None] = silent

    @contextmanager
    def opened(self, *, wait_for_migration: bool = False) -> Iterator[Warehouse]:
        """The open warehouse. Raises AtlasError where migrations are pending.

        wait_for_migration: lets a migration that runs end first, for which the tick of a sensor has no time.
        """
        if self.warehouse is not None:
            yield self.warehouse
            return
        with database.open_warehouse(settings.load()) as warehouse:
            if wait_for_migration:
                with warehouse.connect() as connection:
                    locks.acquire_shared(connection, locks.MIGRATION)
            migrate.require(warehouse, project.objects())
            with closing(warehouse.as_role(LOADER)) as loading:
                yield loading


@contextmanager
def instance(warehouse: Warehouse, home: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance and its database; children of this process find it by DAGSTER_HOME, below the Atlas home."""
    warehouse.create_database(str(warehouse.dagster_url.database))
    folder = home.resolve() / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    config, text = folder / "dagster.yaml", Path(__file__).with_name("dagster.yaml").read_text()
    if not config.exists() or config.read_text() != text:
        config.write_text(text)
    os.environ["DAGSTER_HOME"] = str(folder)
    os.environ["ATLAS_DAGSTER_URL"] = warehouse.dagster_url.render_as_string(hide_password=False)
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides=NO_COMPUTE_LOGS)) as opened:
        yield opened


@contextmanager
def running(warehouse: Warehouse, home: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance, its dead runs reported, with the lock that shows other processes that Dagster runs here.

    It keeps its connections, as in the webserver; Dagster would else open one for each query and event.
    """
    with instance(warehouse, home) as opened, warehouse.connect() as connection:
        opened.optimize_for_webserver(statement_timeout=0, pool_recycle=-1, max_overflow=20)
        report_dead_runs(warehouse, opened)
        locks.acquire_shared(connection, locks.DAGSTER_SERVICES)
        yield opened


def report_dead_runs(warehouse: Warehouse, dagster: dg.DagsterInstance) -> list[str]:
    """Reports runs as failed whose process is gone, and frees their pool slots; returns their ids.

    Each process that runs Dagster holds the lock `DAGSTER_SERVICES` shared. Who gets it exclusively knows that none
    does, and that no run in progress is alive.
    """
    with warehouse.connect() as connection:
        if not locks.try_acquire(connection, locks.DAGSTER_SERVICES):
            return []
        going = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
        dead = dagster.get_runs(dg.RunsFilter(statuses=going))
        for run in dead:
            dagster.report_run_failed(run, "The process that executed this run is gone.")
        for run_id in dagster.event_log_storage.get_concurrency_run_ids():
            dagster.event_log_storage.free_concurrency_slots_for_run(run_id)
        return [run.run_id for run in dead]


# Capturing a step's output starts two processes a stream, and Ctrl-C in a terminal would reach them too.
NO_COMPUTE_LOGS = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}
