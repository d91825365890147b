"""The Dagster code location: an asset for each source and SELECT file, with their checks, sensors and schedules."""

import dagster as dg

from pipelines import project
from pipelines.orchestration.assets import staging_asset, table_assets
from pipelines.orchestration.automation import (
    close_dead_runs,
    follow_sensor,
    full_refresh_schedule,
    news_sensor,
    prune_schedule,
)
from pipelines.orchestration.checks import drift_check, ledger_checks, proof_checks
from pipelines.orchestration.resources import Atlas

SOURCES = project.sources().values()

defs = dg.Definitions(
    assets=[
        *(staging_asset(source) for source in SOURCES),
        *(table_assets(source) for source in SOURCES if project.selects(source.name)),
    ],
    asset_checks=[check(source) for source in SOURCES for check in (ledger_checks, proof_checks, drift_check)],
    sensors=[follow_sensor, close_dead_runs, *(news_sensor(source) for source in SOURCES)],
    schedules=[
        prune_schedule,
        *(full_refresh_schedule(source, source.full_refresh_cron) for source in SOURCES if source.full_refresh_cron),
    ],
    resources={"atlas": Atlas()},
    executor=dg.in_process_executor,
)
