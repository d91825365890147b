"""What watches: a source is asked for news, and everything it has by the clock; against a real server on loopback."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from pipelines import project
from pipelines.definitions import defs
from pipelines.errors import AtlasError
from pipelines.orchestration import automation
from pipelines.orchestration.assets import op_name
from pipelines.orchestration.automation import NOT_LIVE, full_refresh_schedule, news_sensor
from pipelines.source import Source
from pipelines.warehouse.database import Connection, Warehouse
from tests.orchestration.conftest import Server
from tests.runs import stream_of

SUNDAY = datetime(2026, 11, 22, 4, tzinfo=UTC)


def tick(source: Source, cursor: str | None) -> tuple[object, str | None]:
    """What the source's sensor says, and its cursor after that."""
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs)
        return news_sensor(stream_of(source))(context), context.cursor


def test_news_request_a_run_of_today_and_no_news_none(site: Server, ollama: Source) -> None:
    wanted, cursor = tick(ollama, None)
    assert isinstance(wanted, dg.RunRequest)
    assert wanted.partition_key == datetime.now(UTC).date().isoformat()
    assert site.asked == 1

    nothing, same = tick(ollama, cursor)
    assert isinstance(nothing, dg.SkipReason)
    assert (nothing.skip_message, same) == ("nothing new", cursor)

    site.models.append("gannet:latest")
    assert isinstance(tick(ollama, cursor)[0], dg.RunRequest)


def test_a_source_that_refuses_is_told_and_keeps_the_cursor(site: Server, ollama: Source) -> None:
    _, before = tick(ollama, None)
    site.broken = True
    said, kept = tick(ollama, before)
    assert isinstance(said, dg.SkipReason)
    assert "catalog/ollama refused" in str(said.skip_message)
    assert "status 403" in str(said.skip_message)

    site.broken = False
    nothing, same = tick(ollama, kept)
    assert isinstance(nothing, dg.SkipReason)
    assert (nothing.skip_message, same) == ("nothing new", before)


def test_a_source_that_stays_silent_fails_its_ticks(
    site: Server, ollama: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.broken = True
    _, cursor = tick(ollama, None)
    monkeypatch.setattr(automation, "GRACE", timedelta())
    with pytest.raises(AtlasError, match="status 403"):
        tick(ollama, cursor)


def test_recordings_are_not_asked_for_news(site: Server, ollama: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_MODE", "recorded")
    said, _ = tick(ollama, None)
    assert isinstance(said, dg.SkipReason)
    assert (said.skip_message, site.asked) == (NOT_LIVE, 0)


def insert_run(connection: Connection, source: Source, kind: str, status: str, minutes: int) -> None:
    """A run that ended some minutes ago."""
    connection.execute(
        """
        insert into ops.fetch_runs (source_id, stream, kind, asset_key, partition_key, status, ended_at, code_version)
        values (ops.key(%(source)s), %(name)s, %(kind)s, %(name)s, '2026-11-22', %(status)s,
            now() - make_interval(mins => %(minutes)s), 'x')
        """,
        {
            "source": source.name,
            "name": stream_of(source).name,
            "kind": kind,
            "status": status,
            "minutes": minutes,
        },
    )


@pytest.mark.parametrize(
    ("runs", "again"),
    [
        ([("land", "failed", 1)], False),
        ([("land", "failed", 60)], True),
        ([("land", "failed", 60), ("land", "completed", 50)], False),
        ([("land", "failed", 60), ("transform", "completed", 50)], True),
        ([("land", "completed", 60), ("transform", "failed", 50)], False),
    ],
)
def test_a_landing_that_failed_is_tried_again_after_a_while(
    site: Server, ollama: Source, warehouse: Warehouse, runs: list[tuple[str, str, int]], again: bool
) -> None:
    """The last landing: runs of other kinds, which tables follow in, say nothing of it."""
    _, cursor = tick(ollama, None)
    with warehouse.connect() as connection:
        connection.execute(
            "insert into ops.sources (source_id, name, kind) values (ops.key(%(name)s), %(name)s, 'http')",
            {"name": ollama.name},
        )
        for kind, status, minutes in runs:
            insert_run(connection, ollama, kind, status, minutes)
    assert isinstance(tick(ollama, cursor)[0], dg.RunRequest) == again


def test_full_refreshes_are_requested_at_their_hour_for_every_source_that_declares_one(
    site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed = [stream for stream in project.find_streams([]) if stream.source.full_refresh_cron]
    assert refreshed
    for source in refreshed:
        schedule = full_refresh_schedule(source)
        repository = defs.get_repository_def()
        context = dg.build_schedule_context(scheduled_execution_time=SUNDAY, repository_def=repository)
        (request,) = schedule.evaluate_tick(context).run_requests or []
        assert request.run_config == {"ops": {op_name(source): {"config": {"full_refresh": True}}}}
        assert request.partition_key == "2026-11-22"

    monkeypatch.setenv("ATLAS_MODE", "recorded")
    assert schedule.evaluate_tick(context).run_requests == []


def test_every_live_source_has_a_sensor() -> None:
    names = {sensor.name for sensor in defs.sensors or []}
    assert {f"{op_name(stream)}__news" for stream in project.find_streams([])} <= names
