"""The Dagster code location: an asset for each source and SELECT file, with their checks, sensors and schedules."""

import dagster as dg

from pipelines import project
from pipelines.orchestration import automation
from pipelines.orchestration.assets import staging_asset, table_assets
from pipelines.orchestration.checks import drift_check, ledger_checks, proof_checks, quarantine_checks
from pipelines.orchestration.resources import Atlas

SOURCES = project.sources().values()

defs = dg.Definitions(
    assets=[
        *map(staging_asset, SOURCES),
        *(table_assets(source) for source in SOURCES if project.selects(source.name)),
    ],
    asset_checks=[
        check(source) for source in SOURCES for check in (ledger_checks, proof_checks, drift_check, quarantine_checks)
    ],
    sensors=[automation.follow_sensor, automation.close_dead_runs, *map(automation.news_sensor, SOURCES)],
    schedules=[
        automation.prune_schedule,
        *(automation.full_refresh_schedule(source) for source in SOURCES if source.full_refresh_cron),
    ],
    resources={"atlas": Atlas()},
    executor=dg.in_process_executor,
)
