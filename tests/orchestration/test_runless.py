"""What is done outside Dagster shows in it, and a day that has nothing to read is skipped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.lineage import rebuild
from pipelines.orchestration import resources
from pipelines.orchestration.assets import staging_asset, staging_key, table_assets, table_keys
from pipelines.orchestration.checks import LAST_RUN, QUARANTINE, last_run_checks
from pipelines.orchestration.runless import report_sensor
from pipelines.source import Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.library import Json, author, payload, rows, whole
from tests.runs import land_items, stream_of, transform

pytestmark = pytest.mark.usefixtures("toy")

DAY = "2026-11-01"


@pytest.fixture
def dagster(with_dagster: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    for name in ("DAGSTER_HOME", "ATLAS_DAGSTER_URL"):
        monkeypatch.setenv(name, "set by the instance, taken back after the test")
    monkeypatch.setenv("DATABASE_URL", with_dagster.conninfo)
    with resources.instance(with_dagster, tmp_path) as instance:
        yield instance


def report(dagster: dg.DagsterInstance, cursor: str | None = None) -> tuple[list[Any], str | None]:
    """The events of a tick of the sensor, which the daemon would store; and its cursor after it."""
    result = report_sensor(dg.build_sensor_context(instance=dagster, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    for event in result.asset_events:
        dagster.report_runless_asset_event(event)
    return list(result.asset_events), result.cursor or cursor


def materialized(dagster: dg.DagsterInstance, key: dg.AssetKey) -> set[str]:
    return set(dagster.get_materialized_partitions(key))


@pytest.mark.long("processes that run Dagster")
def test_what_commands_land_and_transform_is_materialized_once(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    land_items(with_dagster, library, DAY, [payload(whole(1))])
    transform(with_dagster, library, DAY)
    events, cursor = report(dagster)
    written = {event.asset_key for event in events if isinstance(event, dg.AssetMaterialization)}
    key = staging_key(stream_of(library))
    assert key in written and dg.AssetKey(["toy", "library", "authors"]) in written
    assert staging_key(library.streams[1]) not in written
    assert materialized(dagster, key) == {DAY}
    record = dagster.get_latest_materialization_event(key)
    assert record is not None and record.asset_materialization is not None
    assert record.asset_materialization.metadata["fetched"].value == 1
    assert (record.asset_materialization.tags or {})["dagster/code_version"] == library.code_version
    assert report(dagster, cursor) == ([], cursor)
    land_items(with_dagster, library, "2026-11-02", [payload(author(2))])
    assert materialized(dagster, key) == {DAY}
    events, _ = report(dagster, cursor)
    assert {event.asset_key for event in events} == {key}
    assert materialized(dagster, key) == {DAY, "2026-11-02"}


def test_a_run_that_fails_outside_dagster_is_a_failed_check_until_one_does_not(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    def broken() -> Iterator[Payload]:
        yield payload(author(1))
        raise AtlasError("the source is ill")

    with pytest.raises(AtlasError):
        land_items(with_dagster, library, DAY, broken(), kind="authors")
    events, cursor = report(dagster)
    (check,) = events
    assert (check.check_name, check.passed, check.description) == (LAST_RUN, False, "the source is ill")
    land_items(with_dagster, library, DAY, [payload(author(1))])
    events, _ = report(dagster, cursor)
    assert [event.passed for event in events if isinstance(event, dg.AssetCheckEvaluation)] == [True, True]


def test_what_commands_quarantine_is_a_check_that_does_not_pass(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    """Until a run finds nothing new; again where an entry that was closed is opened."""

    def found(body: Json) -> tuple[bool, str | None]:
        land_items(with_dagster, library, DAY, [payload(body)])
        events, _ = report(dagster)
        *_, check = [each for each in events if getattr(each, "check_name", None) == QUARANTINE]
        return check.passed, check.description

    broken = {"id": 1, "name": ["no text"]}
    assert found(broken) == (
        False,
        "1 of 1 refused in the newest run.\n1 new: 1 payload wrong_type at $.name.\n"
        "See them with: atlas quarantine list toy/library --each",
    )
    assert found(author(1)) == (True, None)
    assert found(broken)[0] is False
    assert found(author(2)) == (True, None)
    events, _ = report(dagster)
    of_all = [each.passed for each in events if getattr(each, "check_name", None) == QUARANTINE]
    assert of_all[2:] == [False, True], "each run has its own, however many end before a tick"


def test_a_connector_that_has_changed_tells_what_its_contract_lets_in(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    land_items(with_dagster, library, DAY, [payload({"id": 1, "name": ["no text"]}), payload(author(2))])
    sound = json.dumps(author(1)).encode()
    with with_dagster.connect() as connection:
        connection.execute("update staging.quarantine set bytes = %s, digest = sha256(%s)", [sound, sound])
        connection.execute("update ops.fetch_runs set code_version = 'the one before'")
    land_items(with_dagster, library, DAY, [payload(author(3))])
    events, _ = report(dagster)
    *_, check = [each for each in events if getattr(each, "check_name", None) == QUARANTINE]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == (
        "The contract has changed: of the newest payloads in quarantine it lets in 1. "
        "See: atlas quarantine check toy/library"
    )


@pytest.mark.long("processes that run Dagster")
def test_the_check_looks_at_runs_of_dagster_too(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    def verdicts() -> dict[str, bool]:
        result = dg.materialize(
            [last_run_checks(library)],
            instance=dagster,
            resources={"atlas": resources.Atlas(with_dagster)},
            selection=dg.AssetSelection.all_asset_checks(),
        )
        return {each.asset_key.to_user_string(): each.passed for each in result.get_asset_check_evaluations()}

    land_items(with_dagster, library, DAY, [payload(whole(1))])
    assert all(verdicts().values()) and len(verdicts()) == 2 + len(table_keys(library))
    with with_dagster.connect() as connection:
        connection.execute(
            """
            update ops.fetch_runs set status = 'failed', error_text = 'x', fetched = 0, created = 0, publish_seq = null
            """
        )
    assert [name for name, passed in verdicts().items() if not passed] == ["toy/library.authors"]


def test_a_rebuild_is_an_observation_of_each_table(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    land_items(with_dagster, library, DAY, [payload(whole(1))])
    transform(with_dagster, library, DAY)
    _, cursor = report(dagster)
    rebuild.rebuild(with_dagster, "toy")
    events, _ = report(dagster, cursor)
    assert all(isinstance(event, dg.AssetObservation) for event in events)
    assert set(table_keys(library)) <= {event.asset_key for event in events}


def test_runs_of_dagster_and_of_unknown_streams_are_not_reported(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    land_items(with_dagster, library, DAY, [payload(author(1))])
    with with_dagster.connect() as connection:
        connection.execute("update ops.fetch_runs set dagster_run_id = 'x'")
    land_items(with_dagster, library, DAY, [payload(author(2))])
    with with_dagster.connect() as connection:
        connection.execute("update ops.fetch_runs set stream = 'toy/gone' where dagster_run_id is null")
    assert report(dagster)[0] == []


@pytest.mark.long("processes that run Dagster")
def test_days_without_a_recording_are_skipped_and_the_others_materialized(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, library: Source
) -> None:
    """A backfill of all days is the first click of many."""
    atlas = {"atlas": resources.Atlas(with_dagster, "recorded")}
    days = {"dagster/asset_partition_range_start": "2026-11-01", "dagster/asset_partition_range_end": "2026-11-20"}
    for assets in (*map(staging_asset, library.streams), table_assets(library)):
        assert dg.materialize([assets], instance=dagster, resources=atlas, tags=days).success
    for stream in library.streams:
        assert materialized(dagster, staging_key(stream)) == {"2026-11-01", "2026-11-02"}
    landed = rows(
        with_dagster, "select distinct partition_key, status from ops.fetch_runs where kind = 'land' order by 1"
    )
    assert landed == [("2026-11-01", "completed"), ("2026-11-02", "completed")]


def test_a_stream_without_a_base_url_is_skipped_with_a_sentence(
    with_dagster: Warehouse, dagster: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
) -> None:
    (library,) = [each for each in project.sources().values() if each.name == "toy/library"]
    other = type(library)(**{**vars(library), "other_urls": {"covers": ""}})
    result = dg.materialize(
        [staging_asset(other.streams[1])],
        instance=dagster,
        resources={"atlas": resources.Atlas(with_dagster, "live")},
        partition_key=DAY,
    )
    assert result.success
    assert "toy/library.covers is not read: ATLAS_LIBRARY_COVERS_BASE_URL is not set" in capfd.readouterr().err
    assert rows(with_dagster, "select from ops.fetch_runs") == []
