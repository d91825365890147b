"""Sensors: a source's change token requests a run, tables follow their sources, the ledger closes runs that died.

    change token ──differs from the cursor──> run of today's partition ──automation condition──> run of the tables

Belongs here: runs that an event starts. Not here: runs at fixed times (`schedules`), how a change token is computed
(`assets/`).
"""

from datetime import UTC, datetime

import dagster as dg

from pipelines import ledger, settings
from pipelines.errors import AtlasError
from pipelines.landing import extract
from pipelines.orchestration.assets import staging_key
from pipelines.orchestration.resources import NOT_LIVE, Atlas
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse

follow_sensor = dg.AutomationConditionSensorDefinition(
    "tables_follow_sources", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
)


@dg.run_failure_sensor(
    name="close_dead_runs",
    default_status=dg.DefaultSensorStatus.RUNNING,
    monitor_all_code_locations=True,
    description="Closes the ledger rows of runs whose process has ended.",
)
def close_dead_runs(context: dg.RunFailureSensorContext) -> None:
    with Atlas().opened() as warehouse:
        for run_id in ledger.close_dead_runs(warehouse):
            context.log.info("closed %s", run_id)


def news_sensor(source: Source) -> dg.SensorDefinition:
    """Fetches the change token of a source, in two requests at most; requests a run of today where it has changed."""

    @dg.sensor(
        name=f"{source.domain}__{source.stem}__news",
        target=dg.AssetSelection.assets(staging_key(source)),
        minimum_interval_seconds=int(source.poll_interval.total_seconds()),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests a run where {source.name} has changed, or where its last run failed.",
    )
    def news(context: dg.SensorEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        if settings.load().mode != "live" or source.change_token is None:
            return dg.SkipReason(NOT_LIVE)
        try:
            with Atlas().opened() as warehouse, extract.open_source(warehouse, source) as place:
                token = source.change_token(place)
                retry = _retry(warehouse, source)
        except AtlasError as error:
            return dg.SkipReason(str(error))
        if token == context.cursor and not retry:
            return dg.SkipReason("nothing new")
        context.update_cursor(token)
        return dg.RunRequest(partition_key=datetime.now(UTC).date().isoformat())

    return news


def _retry(warehouse: Warehouse, source: Source) -> bool:
    """Whether the last landing of a source failed, longer than one poll interval ago."""
    with warehouse.connect() as connection:
        row = connection.execute(
            """
            select status = 'failed' and ended_at < now() - %s as retry from ops.fetch_runs
            where stream = %s and kind = 'land' order by fetch_run_id desc limit 1
            """,
            [source.poll_interval, source.name],
        ).fetchone()
    return bool(row and row["retry"])
