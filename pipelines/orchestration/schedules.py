"""What keeps the warehouse from growing without end while Dagster runs: a job that prunes, and its schedule.

Belongs here: when, and what Dagster is told of it. Not: what may go (`pipelines.maintenance.retention`).
"""

import dagster as dg

from pipelines import settings
from pipelines.maintenance import retention
from pipelines.maintenance.retention import Policy
from pipelines.orchestration.resources import Atlas


@dg.op(required_resource_keys={"atlas"}, description="Removes what is old and needed by nothing, as the settings say.")
def remove_what_is_old(context: dg.OpExecutionContext) -> None:
    atlas: Atlas = context.resources.atlas
    with atlas.opened(patient=True) as warehouse:
        run = retention.prune(warehouse, Policy.of(settings.load()), dagster_run_id=context.run_id, notify=atlas.notify)
    removed: dict[str, int] = run.stats["removed"]
    told = ", ".join(f"{number:,} {name}" for name, number in removed.items() if number)
    context.log.info("removed %s", told or "nothing")
    context.add_output_metadata({"fetch_run_id": str(run.id), "deleted": run.counts.deleted, **removed})


@dg.job(executor_def=dg.in_process_executor, description="What `atlas prune` does.")
def prune() -> None:
    remove_what_is_old()


prune_schedule = dg.ScheduleDefinition(
    name="prune_daily",
    job=prune,
    cron_schedule="0 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Prunes at an hour at which no source is swept.",
)
