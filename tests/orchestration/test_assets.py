"""The assets of a source: a run of several days gives each its own result."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from pipelines.orchestration import resources
from pipelines.orchestration.assets import staging_asset, staging_key
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse
from tests.orchestration.conftest import Server
from tests.runs import stream_of


def test_a_day_that_fails_does_not_stop_the_days_after_it(
    site: Server, ollama: Source, with_dagster: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live source without history: only today can be fetched."""
    site.models = []  # each would be asked for by itself
    today = datetime.now(UTC).date()
    days = [(today - timedelta(days=ago)).isoformat() for ago in (2, 1, 0)]
    for name in ("DAGSTER_HOME", "ATLAS_DAGSTER_URL"):
        monkeypatch.setenv(name, "set by the instance, taken back after the test")
    with resources.instance(with_dagster, tmp_path) as dagster:
        result = dg.materialize(
            [staging_asset(stream_of(ollama))],
            instance=dagster,
            resources={"atlas": resources.Atlas(with_dagster)},
            tags={"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]},
            raise_on_error=False,
        )
        materialized = dagster.get_materialized_partitions(staging_key(stream_of(ollama)))
    with with_dagster.connect() as connection:
        rows = connection.execute("select partition_key, status from ops.fetch_runs order by 1").fetchall()
    assert [tuple(row.values()) for row in rows] == [*((day, "failed") for day in days[:2]), (days[2], "completed")]
    assert materialized == {days[2]}
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert failure.step_failure_data.user_failure_data is not None
    assert all(f"partition {day} of catalog/ollama.local: " in str(failure.step_failure_data) for day in days[:2])
