"""What watches: a source is asked for news, and everything it has by the clock; against a real server on loopback."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipelines import project
from pipelines.definitions import defs
from pipelines.orchestration.assets import landing_op
from pipelines.orchestration.resources import NOT_LIVE
from pipelines.orchestration.schedules import full_refresh_schedule
from pipelines.orchestration.sensors import news_sensor
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse

SUNDAY = datetime(2026, 11, 22, 4, tzinfo=UTC)


class Server:
    """An Ollama server with models by name; it may be out of order."""

    def __init__(self) -> None:
        self.models = ["heron:latest"]
        self.broken = False
        self.asked = 0

    def answer(self, request: Request) -> Response:
        self.asked += 1
        if self.broken:
            return Response("no", 403)
        listed = ", ".join(f'{{"name": "{name}"}}' for name in self.models)
        return Response(f'{{"models": [{listed}]}}', content_type="application/json")


@pytest.fixture
def ollama() -> Source:
    return project.sources()["catalog/ollama"]


@pytest.fixture
def site(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that the live source is read from, with this test's warehouse."""
    made = Server()
    with HTTPServer() as http:
        http.expect_request("/api/tags").respond_with_handler(made.answer)
        monkeypatch.setenv("ATLAS_OLLAMA_BASE_URL", http.url_for(""))
        monkeypatch.setenv("DATABASE_URL", warehouse.conninfo)
        monkeypatch.setenv("ATLAS_MODE", "live")
        yield made


def tick(source: Source, cursor: str | None) -> tuple[object, str | None]:
    """What the source's sensor says, and its cursor after that."""
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs)
        return news_sensor(source)(context), context.cursor


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
    site.broken = True
    said, kept = tick(ollama, "as before")
    assert isinstance(said, dg.SkipReason)
    assert "catalog/ollama refused" in str(said.skip_message)
    assert "status 403" in str(said.skip_message)
    assert kept == "as before"


def test_recordings_are_not_asked_for_news(site: Server, ollama: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_MODE", "recorded")
    said, _ = tick(ollama, None)
    assert isinstance(said, dg.SkipReason)
    assert (said.skip_message, site.asked) == (NOT_LIVE, 0)


def test_a_landing_that_failed_is_tried_again_after_a_while(site: Server, ollama: Source, warehouse: Warehouse) -> None:
    _, cursor = tick(ollama, None)
    with warehouse.connect() as connection:
        connection.execute(
            """
            insert into ops.sources (source_id, name, kind) values (ops.key('catalog/ollama'), 'catalog/ollama', 'http')
            """
        )
        for minutes, again in ((1, False), (60, True)):
            connection.execute(
                """
                insert into ops.fetch_runs
                    (source_id, stream, kind, asset_key, partition_key, status, ended_at, code_version)
                values (ops.key('catalog/ollama'), 'catalog/ollama', 'land', 'catalog/ollama', '2026-11-22', 'failed',
                    now() - make_interval(mins => %s), 'x')
                """,
                [minutes],
            )
            assert isinstance(tick(ollama, cursor)[0], dg.RunRequest) == again


def test_full_refreshes_are_requested_at_their_hour_for_every_source_that_declares_one(
    site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refreshed = [source for source in project.sources().values() if source.full_refresh_cron]
    assert refreshed
    for source in refreshed:
        schedule = full_refresh_schedule(source, str(source.full_refresh_cron))
        repository = defs.get_repository_def()
        context = dg.build_schedule_context(scheduled_execution_time=SUNDAY, repository_def=repository)
        (request,) = schedule.evaluate_tick(context).run_requests or []
        assert request.run_config == {"ops": {landing_op(source): {"config": {"full_refresh": True}}}}
        assert request.partition_key == "2026-11-22"

    monkeypatch.setenv("ATLAS_MODE", "recorded")
    assert schedule.evaluate_tick(context).run_requests == []


def test_every_live_source_has_a_sensor() -> None:
    names = {sensor.name for sensor in defs.sensors or []}
    assert {f"{source.domain}__{source.stem}__news" for source in project.sources().values()} <= names
