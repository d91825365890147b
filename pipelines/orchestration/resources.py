"""What an asset is given to work with, and Dagster's instance over the same server as the warehouse."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.instance import InstanceRef

from pipelines import project, settings
from pipelines.ledger import Run, silent
from pipelines.settings import Mode
from pipelines.warehouse import database, locks, migrate
from pipelines.warehouse.database import Warehouse


@dataclass(frozen=True)
class Atlas:
    """The warehouse for the length of an asset's work: an open one, else the one of the settings."""

    warehouse: Warehouse | None = None
    mode: Mode | None = None
    notify: Callable[[Run], None] = silent

    @contextmanager
    def opened(self, *, patient: bool = False) -> Iterator[Warehouse]:
        """patient: where a migration is under way, its end is waited for; a tick of a sensor has no time for that."""
        if self.warehouse is not None:
            yield self.warehouse
            return
        with database.open_warehouse(settings.load()) as warehouse:
            if patient:
                with warehouse.connect() as connection:
                    locks.acquire_shared(connection, locks.MIGRATION)
            migrate.require(warehouse, project.objects())
            yield warehouse

    @property
    def source_mode(self) -> Mode:
        return self.mode or settings.load().mode


def prepare_home(warehouse: Warehouse, home: Path) -> Path:
    """Dagster's home under the Atlas home, for this process and its children; the folder."""
    folder = home.resolve() / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "dagster.yaml"
    text = Path(__file__).with_name("dagster.yaml").read_text()
    if not config.exists() or config.read_text() != text:
        config.write_text(text)
    os.environ["DAGSTER_HOME"] = str(folder)
    os.environ["ATLAS_DAGSTER_URL"] = warehouse.dagster_url.render_as_string(hide_password=False)
    return folder


@contextmanager
def instance(warehouse: Warehouse, home: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance in this process; its database is created where it is missing."""
    warehouse.create_database(str(warehouse.dagster_url.database))
    reference = InstanceRef.from_dir(str(prepare_home(warehouse, home)), overrides={"compute_logs": NO_COMPUTE_LOGS})
    with dg.DagsterInstance.from_ref(reference) as opened:
        yield opened


def report_dead_runs(warehouse: Warehouse, dagster: dg.DagsterInstance) -> list[str]:
    """Reports as failed each run that Dagster believes in progress, if no process of ours is alive; their ids.

    Whoever runs Dagster holds `locks.DAGSTER_SERVICES` shared; only who gets it alone knows that nobody does. It frees
    the pools that dead runs hold for ever otherwise.
    """
    with warehouse.connect() as connection:
        if not locks.try_acquire(connection, locks.DAGSTER_SERVICES):
            return []
        dead = dagster.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        for run in dead:
            dagster.report_run_failed(run, "The process that executed this run is gone.")
        for run_id in dagster.event_log_storage.get_concurrency_run_ids():
            dagster.event_log_storage.free_concurrency_slots_for_run(run_id)
        return [run.run_id for run in dead]


@contextmanager
def alive(warehouse: Warehouse) -> Iterator[None]:
    """Holds the lock that tells others that Dagster runs here."""
    with warehouse.connect() as connection:
        locks.acquire_shared(connection, locks.DAGSTER_SERVICES)
        yield


# Capturing a step's output takes two processes a stream, which Ctrl-C in a terminal would reach too.
NO_COMPUTE_LOGS = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
UNFINISHED = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
