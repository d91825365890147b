"""Schedules: `prune_daily` runs what `atlas prune` does, `<domain>__<source>__full_refresh` reads all of a source.

Belongs here: when something runs. Not here: what is pruned (`maintenance.retention`), what a source is asked
(`assets/`), runs that news start (`sensors`).
"""

import dagster as dg

from pipelines import settings
from pipelines.maintenance import retention
from pipelines.maintenance.retention import Policy
from pipelines.orchestration.assets import landing_op, staging_key
from pipelines.orchestration.resources import NOT_LIVE, Atlas
from pipelines.source import Source


@dg.op(
    required_resource_keys={"atlas"},
    description="Removes what is older than the settings keep and is not needed by anything.",
)
def prune_warehouse(context: dg.OpExecutionContext) -> None:
    atlas: Atlas = context.resources.atlas
    with atlas.opened(wait_for_migration=True) as warehouse:
        run = retention.prune(warehouse, Policy.of(settings.load()), dagster_run_id=context.run_id, notify=atlas.notify)
    context.add_output_metadata({"fetch_run_id": str(run.id), "deleted": run.counts.deleted, **run.stats["removed"]})


@dg.job(executor_def=dg.in_process_executor, description="What `atlas prune` does.")
def prune() -> None:
    prune_warehouse()


prune_schedule = dg.ScheduleDefinition(
    name="prune_daily",
    job=prune,
    cron_schedule="0 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Prunes at an hour at which no source has its full refresh.",
)


def full_refresh_schedule(source: Source, cron: str) -> dg.ScheduleDefinition:
    """Requests a full refresh of a source at the times of a cron expression, in UTC."""

    @dg.schedule(
        name=f"{source.domain}__{source.stem}__full_refresh",
        cron_schedule=cron,
        execution_timezone="UTC",
        target=dg.AssetSelection.assets(staging_key(source)),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Reads all of {source.name}, not only what is new.",
    )
    def full_refresh(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        if settings.load().mode != "live":
            return dg.SkipReason(NOT_LIVE)
        day = context.scheduled_execution_time.date().isoformat()
        config = {"ops": {landing_op(source): {"config": {"full_refresh": True}}}}
        return dg.RunRequest(run_key=day, partition_key=day, run_config=config)

    return full_refresh
