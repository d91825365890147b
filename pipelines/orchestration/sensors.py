"""What watches: tables follow their sources, and a run that died is closed in the ledger too."""

import dagster as dg

from pipelines import ledger
from pipelines.orchestration.resources import Atlas

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
