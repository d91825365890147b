"""`atlas run`: executes Dagster runs in this process, for each source one that lands and one that transforms.

They are separate runs, so that where a day fails to land, the other days are transformed all the same.
Belongs here: how the command executes Dagster assets. Not here: the assets (`orchestration.assets`). Only this module
and `ui` import Dagster for the command line.
"""

import logging
import os
from collections.abc import Callable
from datetime import date, timedelta

os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "100")

import dagster as dg

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.orchestration import resources
from pipelines.orchestration.assets import staging_asset, table_assets
from pipelines.settings import Mode, Settings
from pipelines.source import Source
from pipelines.transform.run import pending_partitions, transform
from pipelines.warehouse.database import Warehouse

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def run(
    warehouse: Warehouse,
    settings: Settings,
    work: list[tuple[Source, list[date]]],
    *,
    mode: Mode,
    full: bool,
    full_refresh: bool,
    shrink: bool,
    notify: Callable[[Run], None],
) -> None:
    """Lands and transforms each source for its days. A failure is in the ledger and does not stop the others."""
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    atlas = resources.Atlas(warehouse, mode, notify)
    with resources.instance(warehouse, settings.home) as instance:
        resources.report_dead_runs(warehouse, instance)
        with resources.alive(warehouse):
            for source, days in work:
                landing = staging_asset(source)
                tables = table_assets(source) if project.selects(source.name) else None
                for first, last in _ranges(days):
                    _materialize(
                        landing, first, last, instance, atlas, {"full_refresh": full_refresh, "shrink": shrink}
                    )
                    if tables:
                        _materialize(tables, first, last, instance, atlas, {"full": full, "shrink": shrink})
                tried = {day.isoformat() for day in days}
                for partition in pending_partitions(warehouse, source):
                    if partition not in tried:
                        transform(warehouse, source, partition, shrink=shrink, notify=notify)


def _materialize(
    assets: dg.AssetsDefinition,
    first: date,
    last: date,
    instance: dg.DagsterInstance,
    atlas: resources.Atlas,
    config: dict[str, bool],
) -> None:
    """Materializes a range of partitions. Raises AtlasError for a failure that no ledger row reports."""
    result = dg.materialize(
        [assets],
        instance=instance,
        resources={"atlas": atlas},
        tags={RANGE_START: first.isoformat(), RANGE_END: last.isoformat()},
        run_config={
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            "ops": {assets.op.name: {"config": config}},
        },
        raise_on_error=False,
    )
    if result.success:
        return
    run = instance.get_run_by_id(result.run_id)
    if run is not None and run.tags.get("dagster/failure_reason") == "UNEXPECTED_TERMINATION":
        raise KeyboardInterrupt
    with atlas.opened() as warehouse, warehouse.connect() as connection:
        recorded = connection.execute(
            "select from ops.fetch_runs where dagster_run_id = %s and status = 'failed'", [result.run_id]
        ).fetchone()
    if recorded is None:
        errors = [event.step_failure_data.error for event in result.get_step_failure_events()]
        raise AtlasError("; ".join(error.message.strip() for error in errors if error) or "the Dagster run failed")


def _ranges(days: list[date]) -> list[tuple[date, date]]:
    """The first and last day of each series of consecutive days."""
    ranges: list[tuple[date, date]] = []
    for day in sorted(days):
        if ranges and day - ranges[-1][1] == timedelta(days=1):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges
