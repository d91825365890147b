"""Reports to Dagster what was done outside of it: `atlas land`, `transform`, `rebuild`, replays, erasures.

    ops.fetch_runs without a Dagster run ──sensor──> materializations, observations, the checks of runs

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
from pipelines.orchestration.assets import Output, materialization, run_metadata, staging_output, table_outputs
from pipelines.orchestration.checks import LAST_RUN, QUARANTINE, last_run_verdict, quarantine_verdict
from pipelines.orchestration.resources import Atlas
from pipelines.source import Stream
from pipelines.warehouse.database import Connection

OVERLAP = timedelta(minutes=1)
"""A run becomes visible when it commits, shortly after the time at which it ended."""

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
        found = [event for row in rows for event in (*events(row), *evaluations(connection, row))]
    if not rows:
        return dg.SensorResult(skip_reason="nothing was done outside Dagster")
    until = max(reported.until, rows[-1]["ended_at"])
    recent = [str(row["fetch_run_id"]) for row in rows if row["ended_at"] > until - OVERLAP]
    recent += reported.runs if until - reported.until < OVERLAP else []
    result = msgspec.json.encode(Reported(until, recent)).decode()
    return dg.SensorResult(asset_events=found, cursor=result)


def assets_of(row: Row) -> list[tuple[Stream, Output]]:
    """The assets that a run lands or transforms, with its stream: none of one that no connector declares."""
    if row["kind"] not in ("land", "transform"):
        return []
    streams = [each for each in project.find_streams([]) if each.name == row["stream"]]
    return [
        (stream, output)
        for stream in streams
        for output in ([staging_output(stream)] if row["kind"] == "land" else table_outputs(stream.source))
        if stream.name in output.streams
    ]


def evaluations(connection: Connection, row: Row) -> Iterator[dg.AssetCheckEvaluation]:
    """What the checks `last_run` and `quarantine` say after a run that lands or transforms."""
    for stream, output in assets_of(row):
        verdicts = {LAST_RUN: last_run_verdict(row)}
        if row["publish_seq"]:
            verdicts[QUARANTINE] = quarantine_verdict(connection, stream.source, output, row["publish_seq"])
        for name, verdict in verdicts.items():
            yield dg.AssetCheckEvaluation(asset_key=output.spec.key, check_name=name, **verdict)


def events(row: Row) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    """A materialization of each asset that a run wrote, where it has not failed; an observation of each table that
    another command wrote.
    """
    day = None
    with suppress(ValueError):
        day = date.fromisoformat(row["partition_key"])
    for stream, output in assets_of(row):
        is_partition = day is not None and stream.source.start_date <= day <= datetime.now(UTC).date()
        if is_partition and row["status"] != "failed":
            applied = row["stats"].get("sql", {}).get("/".join(output.spec.key.path), "")
            code_version = row["code_version"] if output.table is None else applied[:16]
            metadata = run_metadata([EndedRun.of(row)], output.table)
            yield materialization(output, metadata, row["partition_key"], code_version)
    if row["kind"] in ("land", "transform"):
        return
    tables = row["stats"].get("tables", {})
    for source in project.sources_of(row["stream"].split("/")[0]):
        for output in table_outputs(source):
            if output.table in tables:
                metadata = {"fetch_run_id": str(row["fetch_run_id"]), **tables[output.table]}
                yield dg.AssetObservation(output.spec.key, description=f"atlas {row['kind']}", metadata=metadata)
