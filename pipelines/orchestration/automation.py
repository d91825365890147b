"""Runs that start by themselves, on an event or at a fixed time.

    change token ──differs from the cursor──> run of today's partition ──automation condition──> run of the tables

Not here: how a change token is computed (`assets/`).
"""

from datetime import UTC, datetime, timedelta

import dagster as dg
import msgspec

from pipelines import ledger, settings
from pipelines.errors import AtlasError
from pipelines.landing import extract
from pipelines.maintenance import retention
from pipelines.orchestration.assets import op_name, staging_key
from pipelines.orchestration.resources import Atlas
from pipelines.source import Stream
from pipelines.warehouse.database import Warehouse

GRACE = timedelta(hours=1)  # how long a source may be silent before the ticks of its sensors fail
NOT_LIVE = "Recordings do not change. Set ATLAS_MODE=live to ask the sources themselves."

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


class Asked(msgspec.Struct):
    """The cursor of a news sensor: the change token, and since when the source has not answered."""

    token: str | None = None
    silent_since: datetime | None = None


def news_sensor(stream: Stream) -> dg.SensorDefinition:
    """Fetches the change token of a stream, in one request; requests a run of today where it has changed.

    A tick fails where the source has not answered for longer than GRACE, or refuses.
    """
    source = stream.source

    @dg.sensor(
        name=f"{op_name(stream)}__news",
        target=dg.AssetSelection.assets(staging_key(stream)),
        minimum_interval_seconds=int(source.poll_interval.total_seconds()),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests a run where {stream.name} has changed, or where its last run failed.",
    )
    def news(context: dg.SensorEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        if settings.load().mode != "live" or source.change_token is None:
            return dg.SkipReason(NOT_LIVE)
        now = datetime.now(UTC)
        if reason := extract.why_not_read(stream, now.date(), "live"):
            return dg.SkipReason(reason)
        asked = msgspec.json.decode(context.cursor, type=Asked) if context.cursor else Asked()
        try:
            with Atlas().opened() as warehouse, extract.open_source(warehouse, stream) as place:
                token = source.change_token(place, stream.kind)
                retry = _retry(warehouse, stream)
        except AtlasError as error:
            asked.silent_since = asked.silent_since or now
            if now - asked.silent_since > GRACE:
                raise
            context.update_cursor(msgspec.json.encode(asked).decode())
            return dg.SkipReason(str(error))
        context.update_cursor(msgspec.json.encode(Asked(token)).decode())
        if token == asked.token and not retry:
            return dg.SkipReason("nothing new")
        return dg.RunRequest(partition_key=now.date().isoformat())

    return news


def _retry(warehouse: Warehouse, stream: Stream) -> bool:
    """Whether the last landing of a stream failed, longer than one poll interval ago."""
    with warehouse.connect() as connection:
        row = connection.execute(
            """
            select status = 'failed' and ended_at < now() - %s as retry from ops.fetch_runs
            where stream = %s and kind = 'land' order by fetch_run_id desc limit 1
            """,
            [stream.source.poll_interval, stream.name],
        ).fetchone()
    return bool(row and row["retry"])


def full_refresh_schedule(stream: Stream) -> dg.ScheduleDefinition:
    """Requests a full refresh of a stream at the times of its cron expression, in UTC."""

    @dg.schedule(
        name=f"{op_name(stream)}__full_refresh",
        cron_schedule=str(stream.source.full_refresh_cron),
        execution_timezone="UTC",
        target=dg.AssetSelection.assets(staging_key(stream)),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Reads all of {stream.name}, not only what is new.",
    )
    def full_refresh(context: dg.ScheduleEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        if settings.load().mode != "live":
            return dg.SkipReason(NOT_LIVE)
        day = context.scheduled_execution_time.date().isoformat()
        config = {"ops": {op_name(stream): {"config": {"full_refresh": True}}}}
        return dg.RunRequest(run_key=day, partition_key=day, run_config=config)

    return full_refresh


@dg.op(
    required_resource_keys={"atlas"},
    description="Removes what is older than the settings keep and is not needed by anything.",
)
def prune_warehouse(context: dg.OpExecutionContext) -> None:
    atlas: Atlas = context.resources.atlas
    with atlas.opened(wait_for_migration=True) as warehouse:
        run = retention.prune(warehouse, settings.load(), dagster_run_id=context.run_id, notify=atlas.notify)
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
