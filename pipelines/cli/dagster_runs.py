"""`atlas run`: executes Dagster runs in this process: one that lands for each stream, one that transforms each source.

They are separate runs, so that where a day fails to land, the other days are transformed all the same, and it is not.
"""

import logging
import os
from collections.abc import Callable
from datetime import date, timedelta
from itertools import chain, groupby
from pathlib import Path

os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "100")

import dagster as dg

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.orchestration import resources
from pipelines.orchestration.assets import staging_asset, table_assets
from pipelines.orchestration.runless import evaluations
from pipelines.settings import Mode
from pipelines.source import Stream
from pipelines.transform.run import pending_partitions, transform
from pipelines.warehouse.database import Warehouse

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def run(
    warehouse: Warehouse,
    home: Path,
    work: list[tuple[Stream, list[date]]],
    mode: Mode,
    config: dict[str, dict[str, bool]],
    notify: Callable[[Run], None],
) -> None:
    """Lands each stream for its days, and transforms the days that landed and those with pending payloads.

    A failure is in the ledger and does not stop the others. config: of the runs that `land` and that `transform`.
    """
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    atlas = resources.Atlas(warehouse, mode, notify)
    with resources.running(warehouse, home) as instance:
        for source, of_source in groupby(work, lambda each: each[0].source):
            landed = {
                stream: _materialize(staging_asset(stream), days, instance, atlas, config["land"])
                for stream, days in of_source
            }
            days = sorted(set(chain.from_iterable(landed.values()))) if project.selects(source.name) else []
            if days:
                _materialize(table_assets(source, list(landed)), days, instance, atlas, config["transform"])
            for stream in landed:
                for partition in sorted(set(pending_partitions(warehouse, stream)) - set(map(str, days))):
                    transform(warehouse, stream, partition, shrink=config["transform"]["shrink"], notify=notify)


def _materialize(
    assets: dg.AssetsDefinition,
    days: list[date],
    instance: dg.DagsterInstance,
    atlas: resources.Atlas,
    config: dict[str, bool],
) -> list[date]:
    """Materializes days, a run for each series of consecutive ones, and evaluates the checks of runs; returns the days
    that did not fail.

    Raises AtlasError for a failure that no ledger row reports.
    """
    done: list[date] = []
    numbered = enumerate(sorted(days))
    for _, group in groupby(numbered, lambda each: each[1] - timedelta(days=each[0])):
        series = [day for _, day in group]
        result = dg.materialize(
            [assets],
            instance=instance,
            resources={"atlas": atlas},
            tags={RANGE_START: series[0].isoformat(), RANGE_END: series[-1].isoformat()},
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {assets.op.name: {"config": config}},
            },
            raise_on_error=False,
        )
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            newest = "select distinct on (stream) * from ops.fetch_runs where dagster_run_id = %s"
            rows = connection.execute(f"{newest} order by stream, ended_at desc", [result.run_id]).fetchall()
            for row in rows:  # the check `quarantine` is of all partitions of the run
                for evaluation in evaluations(connection, row):
                    instance.report_runless_asset_event(evaluation)
        failed = set() if result.success else _failed_days(result, instance, atlas)
        done += [day for day in series if day.isoformat() not in failed]
    return done


def _failed_days(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance, atlas: resources.Atlas) -> set[str]:
    """The partitions that the ledger reports as failed. Raises AtlasError where there is none."""
    run = instance.get_run_by_id(result.run_id)
    if run is not None and run.tags.get("dagster/failure_reason") == "UNEXPECTED_TERMINATION":
        raise KeyboardInterrupt
    with atlas.opened() as warehouse, warehouse.connect() as connection:
        query = "select partition_key from ops.fetch_runs where dagster_run_id = %s and status = 'failed'"
        failed = {row["partition_key"] for row in connection.execute(query, [result.run_id])}
    if not failed:
        errors = [event.step_failure_data.error for event in result.get_step_failure_events()]
        raise AtlasError("; ".join(error.message.strip() for error in errors if error) or "the Dagster run failed")
    return failed
