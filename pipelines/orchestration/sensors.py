"""What watches: sources are asked for news, tables follow their sources, dead runs are closed in the ledger."""

from datetime import UTC, datetime

import dagster as dg

from pipelines import ledger, settings
from pipelines.errors import AtlasError
from pipelines.landing import extract
from pipelines.orchestration.assets import landing_op, staging_key
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse

NOT_LIVE = "Recordings have no news. Sources are asked with ATLAS_MODE=live."

follow_sensor = dg.AutomationConditionSensorDefinition(
    "tables_follow_sources", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
)


@dg.run_failure_sensor(
    name="close_dead_runs",
    default_status=dg.DefaultSensorStatus.RUNNING,
    monitor_all_code_locations=True,
    description="Closes the ledger rows of runs whose process is gone.",
)
def close_dead_runs(context: dg.RunFailureSensorContext) -> None:
    with Atlas().opened() as warehouse:
        for run_id in ledger.reap(warehouse):
            context.log.info("closed %s", run_id)


def news_sensor(source: Source) -> dg.SensorDefinition:
    """Asks a source for news, in two requests at most, and requests a run of today where there is any."""

    @dg.sensor(
        name=f"{source.domain}__{source.stem}__news",
        target=dg.AssetSelection.assets(staging_key(source)),
        minimum_interval_seconds=int(source.poll_interval.total_seconds()),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Asks {source.name} for news; a run that failed is tried again.",
    )
    def news(context: dg.SensorEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        if settings.load().mode != "live" or source.change_token is None:
            return dg.SkipReason(NOT_LIVE)
        try:
            with Atlas().opened() as warehouse, extract.live(warehouse, source) as place:
                seen = source.change_token(place)
                failed = _failed(warehouse, source)
        except AtlasError as error:
            return dg.SkipReason(str(error))
        if seen == context.cursor and not failed:
            return dg.SkipReason("nothing new")
        context.update_cursor(seen)
        return dg.RunRequest(partition_key=datetime.now(UTC).date().isoformat())

    return news


def sweep_schedule(source: Source, cron: str) -> dg.ScheduleDefinition:
    """Asks a source for everything it has, at the times of a cron line."""

    @dg.schedule(
        name=f"{source.domain}__{source.stem}__sweep",
        cron_schedule=cron,
        execution_timezone="UTC",
        target=dg.AssetSelection.assets(staging_key(source)),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Asks {source.name} for everything it has.",
    )
    def full_refresh(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        if settings.load().mode != "live":
            return dg.SkipReason(NOT_LIVE)
        day = context.scheduled_execution_time.date().isoformat()
        config = {"ops": {landing_op(source): {"config": {"full_refresh": True}}}}
        return dg.RunRequest(run_key=day, partition_key=day, run_config=config)

    return full_refresh


def _failed(warehouse: Warehouse, source: Source) -> bool:
    """Whether the last landing of a source failed, longer ago than the time between two looks."""
    with warehouse.connect() as connection:
        row = connection.execute(
            """
            select status = 'failed' and ended_at < now() - %s as again from ops.fetch_runs
            where stream = %s and kind = 'land' order by fetch_run_id desc limit 1
            """,
            [source.poll_interval, source.name],
        ).fetchone()
    return bool(row and row["again"])
