"""SELECT files that change, fail, go and come back, and connectors that go: all is applied in the end, none is lost."""

import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.lineage import rebuild, snapshots, time_travel, trace
from pipelines.maintenance import erasure
from pipelines.source import Source
from pipelines.transform.run import pending_partitions, transform
from pipelines.warehouse.database import Warehouse
from tests.pasts import Files, files
from tests.transform.test_change_set import DAYS, Recorder, made, rows, shown

__all__ = ["files", "made"]

ENTRIES = "select external_id, reason, seen, closed_at is null from staging.quarantine order by quarantine_id"


@pytest.fixture
def told(warehouse: Warehouse, files: Files) -> Recorder:
    return Recorder(warehouse, project.sources()["catalog/civitai"])


def change(files: Files, table: str, wrapped: str) -> str:
    """Writes a SELECT file of CivitAI anew, {} being what it was; what it was."""
    path = files.folder / f"catalog/civitai/{table}.sql"
    text = path.read_text()
    path.write_text(wrapped.format(text))
    project.selects.cache_clear()
    return text


def a_model(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "name": f"heron {number}", "type": "LORA", "tags": [f"tag {number}"]} | more


FAILS = "select * from (\n{}\n) as t where 1 / (case when name = 'heron 1' then 0 else 1 end) > 0"


def test_a_record_that_another_day_brings_in_and_on_which_a_select_fails_loses_its_rows(
    told: Recorder, files: Files
) -> None:
    """The second has the image of the first."""
    image = {"id": 7, "url": "https://i/7.png"}
    for number in (1, 2):
        version = {"id": number, "name": "v", "images": [image]}
        told.land(str(number), a_model(number, modelVersions=[version]), day=DAYS[number], kind="models")
        if number == 1:
            told.transform()
            change(files, "models", FAILS)
    transform(told.warehouse, told.source, DAYS[2])
    assert shown(told.warehouse, "select name from catalog.models order by 1") == ["heron 2"]
    assert rows(told.warehouse, ENTRIES) == [("1", "select_fails", 1, True)]
    told.transform()
    assert differing(told) == pending_partitions(told.warehouse, told.source) == []


def test_a_select_that_fails_is_tried_again_when_it_changes(told: Recorder, files: Files) -> None:
    told.land("1", a_model(1), kind="models")
    told.transform()
    fine = change(files, "models", FAILS)
    told.transform()
    assert pending_partitions(told.warehouse, told.source) == []
    assert rows(told.warehouse, ENTRIES) == [("1", "select_fails", 1, True)]
    for table in ("models", "model_tags", "tags"):
        assert shown(told.warehouse, f"select count(*) from catalog.{table}") == [0], "all its rows go"
    transform(told.warehouse, told.source, DAYS[0], full=True)
    assert rows(told.warehouse, ENTRIES) == [("1", "select_fails", 2, True)]
    (files.folder / "catalog/civitai/models.sql").write_text(fine)
    project.selects.cache_clear()
    assert pending_partitions(told.warehouse, told.source) == [DAYS[0]]
    told.transform()
    assert rows(told.warehouse, ENTRIES) == [("1", "select_fails", 2, False)]
    assert shown(told.warehouse, "select t.name from catalog.model_tags join catalog.tags t using (tag_id)") == [
        "tag 1"
    ]
    assert differing(told) == []


def test_a_record_on_whose_newest_version_a_select_fails_has_no_rows_until_the_next_one(
    told: Recorder, files: Files
) -> None:
    change(files, "models", FAILS)
    for day, name, there in zip(DAYS, ("first", "heron 1", "last"), (["first"], [], ["last"]), strict=False):
        told.land("1", a_model(1, name=name), day=day, kind="models")
        told.transform()
        assert shown(told.warehouse, "select name from catalog.models") == there
        assert pending_partitions(told.warehouse, told.source) == differing(told) == []
        if not there:
            run = rebuild.rebuild(told.warehouse, "catalog", workers=1)
            assert (run.status, run.counts.fetched, run.counts.quarantined) == ("partial_success", 1, 1)
            assert rows(told.warehouse, ENTRIES) == [("1", "select_fails", 2, True)]
    assert rows(told.warehouse, ENTRIES) == [("1", "select_fails", 2, False)]


def test_rows_of_a_select_that_is_gone_go_with_it(told: Recorder, files: Files) -> None:
    warehouse = told.warehouse
    told.land("1", a_model(1), kind="models")
    told.transform()
    assert shown(warehouse, "select count(*) from catalog.model_tags") == [1]
    (files.folder / "catalog/civitai/model_tags.sql").unlink()
    project.selects.cache_clear()
    assert pending_partitions(warehouse, told.source) == [DAYS[0]]
    run = transform(warehouse, told.source, DAYS[0])
    assert {name: each["deleted"] for name, each in run.stats["tables"].items() if each["deleted"]} == {
        "catalog.model_tags": 1,
        "catalog.tags": 1,
    }
    assert pending_partitions(warehouse, told.source) == []
    assert [each for each in rebuild.check(warehouse, "catalog", workers=1) if not each.same] == []
    with warehouse.connect() as connection:
        assert not any(each["unproven"] for each in trace.unproven(connection))
        with time_travel.as_of(warehouse, "catalog", snapshots.snapshot_of_run(connection, str(run.id))) as then:
            assert then.differing_tables(connection) == []


def test_rows_of_a_connector_that_is_gone_are_not_taken_away(
    told: Recorder, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = told.warehouse
    told.land("1", a_model(1), kind="models")
    told.transform()
    (last,) = shown(warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform'")
    others = {name: source for name, source in project.sources().items() if source is not told.source}
    monkeypatch.setattr(project, "sources", lambda: others)

    def look_back() -> AbstractContextManager[Any]:
        with warehouse.connect() as connection:
            return time_travel.as_of(warehouse, "catalog", snapshots.snapshot_of_run(connection, last))

    gone = "rows of catalog/civitai.models, but no connector in assets/catalog declares this stream"
    for derive in (rebuild.rebuild, rebuild.check):
        with pytest.raises(AtlasError, match=gone):
            derive(warehouse, "catalog", workers=1)
    with pytest.raises(AtlasError, match=gone), look_back():
        pass
    assert shown(warehouse, "select name from catalog.models") == ["heron 1"]


def test_shared_rows_to_which_no_table_of_the_source_can_refer_are_not_written(
    warehouse: Warehouse, made: Source, tmp_path: Path
) -> None:
    (tmp_path / "tags.sql").write_text(
        """
        select ops.key(p.external_id) as tag_id, p.external_id as name, p.external_id as normalized_name
        from payloads as p
        """
    )
    told = Recorder(warehouse, replace(made, name=f"catalog/{os.path.relpath(tmp_path, project.SQL / 'catalog')}"))
    told.land("heron", {"models": []})
    told.transform()
    assert shown(warehouse, "select name from catalog.tags") == []


def differing(told: Recorder) -> list[str]:
    return [each.table for each in rebuild.check(told.warehouse, "catalog", workers=1) if not each.same]


def with_image(number: int, image: int, **more: Any) -> dict[str, Any]:
    version = {"id": number, "name": "v", "images": [{"id": image, "url": f"https://i/{image}.png"}]}
    return a_model(number, modelVersions=[version], **more)


def test_rows_of_a_select_that_is_gone_go_too_where_another_day_brings_their_record_in(
    told: Recorder, files: Files
) -> None:
    told.land("1", with_image(1, 7), kind="models")
    told.transform()
    (files.folder / "catalog/civitai/model_tags.sql").unlink()
    project.selects.cache_clear()
    told.land("2", with_image(2, 7, tags=[]), day=DAYS[1], kind="models")
    transform(told.warehouse, told.source, DAYS[1])
    told.transform()
    assert shown(told.warehouse, "select count(*) from catalog.model_tags") == [0]
    assert differing(told) == []


def test_rows_of_a_select_that_is_gone_go_where_another_fails(told: Recorder, files: Files) -> None:
    told.land("1", with_image(1, 7), kind="models")
    told.transform()
    (files.folder / "catalog/civitai/images.sql").unlink()
    change(files, "models", FAILS)
    told.transform()
    assert shown(told.warehouse, "select url from catalog.images") == []
    erasure.erase(told.warehouse, told.source, "catalog/civitai.models", "1")
    assert rows(told.warehouse, ENTRIES) == []


STATS = """
select model_id, observed_at, record_id, downloads::bigint * 100 as downloads from (
{}
) as t
"""


def test_a_series_is_derived_whole_once_its_record_is_mended(told: Recorder, files: Files) -> None:
    told.land("1", a_model(1, stats={"downloadCount": 1}), kind="models")
    told.transform()
    change(files, "models", FAILS)
    change(files, "model_stats", STATS)
    told.transform()
    told.land("1", a_model(1, name="mended", stats={"downloadCount": 2}), day=DAYS[1], kind="models")
    told.transform()
    assert shown(told.warehouse, "select downloads from catalog.model_stats order by observed_at") == [100, 200]
    assert pending_partitions(told.warehouse, told.source) == differing(told) == []


def test_counters_of_a_record_on_which_a_select_fails_do_not_wait_for_ever(told: Recorder, files: Files) -> None:
    told.land("1", a_model(1, stats={"downloadCount": 1}), kind="models")
    told.transform()
    fine = change(files, "models", FAILS)
    told.transform()
    told.land("1", a_model(1, stats={"downloadCount": 2}), day=DAYS[1], kind="models")
    told.transform()
    assert pending_partitions(told.warehouse, told.source) == []
    (files.folder / "catalog/civitai/models.sql").write_text(fine)
    project.selects.cache_clear()
    told.transform()
    assert shown(told.warehouse, "select downloads from catalog.model_stats order by observed_at") == [1, 2]
    assert differing(told) == []


def test_counters_on_which_a_select_fails_are_followed_by_others_on_which_it_does_not(
    told: Recorder, files: Files
) -> None:
    wrapped = "select o.* from (\n{}\n) as o join models as p using (record_id)"
    wrapped += " where 1 / (case when p.body #>> '{{stats,downloadCount}}' = '0' then 0 else 1 end) > 0"
    change(files, "models", wrapped)
    for day, (count, there) in zip(DAYS, ((1, [1]), (0, []), (0, []), (5, [1, 0, 5])), strict=True):
        told.land("1", a_model(1, stats={"downloadCount": count}), day=day, kind="models")
        assert (day in pending_partitions(told.warehouse, told.source)) == (day != DAYS[2])
        told.transform()
        assert pending_partitions(told.warehouse, told.source) == []
        assert shown(told.warehouse, "select downloads from catalog.model_stats order by observed_at") == there
    assert differing(told) == []


def test_a_source_without_any_select_keeps_its_rows_and_lands(told: Recorder, files: Files) -> None:
    told.land("1", a_model(1), kind="models")
    told.transform()
    for path in (files.folder / "catalog/civitai").glob("*.sql"):
        path.unlink()
    project.selects.cache_clear()
    told.land("2", a_model(2), day=DAYS[1], kind="models")
    assert pending_partitions(told.warehouse, told.source) == []
    for derive in (
        lambda: transform(told.warehouse, told.source, DAYS[1]),
        lambda: rebuild.check(told.warehouse, "catalog", workers=1),
        lambda: rebuild.rebuild(told.warehouse, "catalog", workers=1),
    ):
        with pytest.raises(AtlasError, match="catalog/civitai has no SELECT files"):
            derive()
    assert shown(told.warehouse, "select name from catalog.models") == ["heron 1"]
