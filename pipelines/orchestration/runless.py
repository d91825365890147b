"""Reports to Dagster what was done outside of it: `atlas land`, `transform`, `rebuild`, replays, erasures.

    ops.fetch_runs without a Dagster run ──sensor──> materializations, observations, the check `last_run`

So the UI and the ledger say the same, and no command has to start Dagster. The cursor of the sensor says how far the
ledger is reported.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import msgspec

from pipelines import project
from pipelines.ledger import EndedRun
from pipelines.orchestration.assets import materialization, run_metadata, staging_output, table_outputs
from pipelines.orchestration.resources import Atlas
from pipelines.source import Stream

LAST_RUN = "last_run"
OVERLAP = timedelta(minutes=1)
"""A run becomes visible when it commits, shortly after the time at which it ended."""

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation
Row = dict[str, Any]


class Reported(msgspec.Struct):
    """How far the ledger is reported: to a time, and the runs that ended shortly before it."""

    until: datetime
    runs: list[str] = []


@dg.sensor(
    name="runs_outside_dagster",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Shows what commands outside Dagster have landed and transformed, and where they failed.",
)
def report_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    cursor = context.cursor
    reported = msgspec.json.decode(cursor, type=Reported) if cursor else Reported(datetime.min.replace(tzinfo=UTC))
    with Atlas().opened() as warehouse, warehouse.connect() as connection:
        rows = connection.execute(
            """
            select * from ops.fetch_runs
            where dagster_run_id is null and ended_at > greatest(%(until)s - %(overlap)s, '-infinity')
              and fetch_run_id::text <> all(%(runs)s)
            order by ended_at
            """,
            {"until": reported.until, "overlap": OVERLAP, "runs": reported.runs},
        ).fetchall()
    if not rows:
        return dg.SensorResult(skip_reason="nothing was done outside Dagster")
    until = max(reported.until, rows[-1]["ended_at"])
    recent = [str(row["fetch_run_id"]) for row in rows if row["ended_at"] > until - OVERLAP]
    recent += reported.runs if until - reported.until < OVERLAP else []
    result = msgspec.json.encode(Reported(until, recent)).decode()
    return dg.SensorResult(asset_events=[event for row in rows for event in events(row)], cursor=result)


def events(row: Row) -> Iterator[Event]:
    """What Dagster should show of a run: nothing of a stream that no connector declares."""
    if row["kind"] in ("land", "transform"):
        for stream in project.find_streams([]):
            if stream.name == row["stream"]:
                yield from _events_of_stream(row, stream)
        return
    tables = row["stats"].get("tables", {})
    for source in project.sources_of(row["stream"].split("/")[0]):
        for output in table_outputs(source):
            if output.table in tables:
                metadata = {"fetch_run_id": str(row["fetch_run_id"]), **tables[output.table]}
                yield dg.AssetObservation(output.spec.key, description=f"atlas {row['kind']}", metadata=metadata)


def _events_of_stream(row: Row, stream: Stream) -> Iterator[Event]:
    """A materialization of each asset that the run has written, where it did not fail, and the check `last_run`."""
    outputs = [staging_output(stream)] if row["kind"] == "land" else table_outputs(stream.source)
    day = None
    with suppress(ValueError):
        day = date.fromisoformat(row["partition_key"])
    is_partition = day is not None and stream.source.start_date <= day <= datetime.now(UTC).date()
    for output in outputs:
        if stream.name not in output.streams:
            continue
        if is_partition and row["status"] != "failed":
            applied = row["stats"].get("sql", {}).get("/".join(output.spec.key.path), "")
            code_version = row["code_version"] if output.table is None else applied[:16]
            metadata = run_metadata([EndedRun.of(row)], output.table)
            yield materialization(output, metadata, row["partition_key"], code_version)
        yield dg.AssetCheckEvaluation(asset_key=output.spec.key, check_name=LAST_RUN, **verdict(row))


def verdict(row: Row) -> dict[str, Any]:
    """What the check `last_run` says of a run."""
    metadata = {name: str(row[name]) for name in ("fetch_run_id", "kind", "partition_key", "status")}
    return {"passed": row["status"] != "failed", "description": row["error_text"], "metadata": metadata}
