"""The Dagster code location: an asset for each stream and SELECT file, with their checks, sensors and schedules."""

import dagster as dg

from pipelines import project
from pipelines.orchestration import automation, runless
from pipelines.orchestration.assets import staging_asset, table_assets
from pipelines.orchestration.checks import (
    drift_checks,
    last_run_checks,
    ledger_checks,
    proof_checks,
    quarantine_checks,
)
from pipelines.orchestration.resources import Atlas

SOURCES = project.sources().values()
STREAMS = project.find_streams([])

defs = dg.Definitions(
    assets=[
        *map(staging_asset, STREAMS),
        *(table_assets(source) for source in SOURCES if project.selects(source.name)),
    ],
    asset_checks=[
        check(source)
        for source in SOURCES
        for check in (ledger_checks, last_run_checks, proof_checks, drift_checks, quarantine_checks)
    ],
    sensors=[
        automation.follow_sensor,
        automation.close_dead_runs,
        runless.report_sensor,
        *map(automation.news_sensor, STREAMS),
    ],
    schedules=[
        automation.prune_schedule,
        *(automation.full_refresh_schedule(stream) for stream in STREAMS if stream.source.full_refresh_cron),
    ],
    resources={"atlas": Atlas()},
    executor=dg.in_process_executor,
)
