"""SELECT files that change, fail, go and come back, and connectors that go: all is applied in the end, none is lost."""

from contextlib import AbstractContextManager
from typing import Any

import pytest

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.lineage import rebuild, time_travel, trace
from pipelines.maintenance import erasure
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse
from tests.library import DAYS, Json, Recorder, author, book, cover, rows, shown
from tests.pasts import Files
from tests.runs import pending_partitions, stream_of, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

ENTRIES = "select external_id, reason, seen, closed_at is null from staging.quarantine order by quarantine_id"


@pytest.fixture
def recorder(warehouse: Warehouse, files: Files) -> Recorder:
    return Recorder(warehouse, project.sources()["toy/library"])


def change(files: Files, table: str, wrapped: str) -> str:
    """Writes a SELECT file of the library anew, {} being what it was; what it was."""
    path = files.folder / f"toy/library/{table}.sql"
    text = path.read_text()
    path.write_text(wrapped.format(text))
    project.selects.cache_clear()
    return text


def an_author(number: int, **more: Any) -> Json:
    return author(number, f"heron {number}", topics=[f"topic {number}"]) | more


FAILS = "select * from (\n{}\n) as t where 1 / (case when name = 'heron 1' then 0 else 1 end) > 0"


def test_a_record_that_another_day_brings_in_and_on_which_a_select_fails_loses_its_rows(
    recorder: Recorder, files: Files
) -> None:
    """The second has the cover of the first."""
    for number in (1, 2):
        only = book(number, covers=[cover(7)])
        recorder.land(str(number), an_author(number, books=[only]), day=DAYS[number])
        if number == 1:
            recorder.transform()
            change(files, "authors", FAILS)
    transform(recorder.warehouse, recorder.source, DAYS[2])
    assert shown(recorder.warehouse, "select name from toy.authors order by 1") == ["heron 2"]
    assert rows(recorder.warehouse, ENTRIES) == [("1", "select_fails", 1, True)]
    recorder.transform()
    assert differing(recorder) == pending_partitions(recorder.warehouse, recorder.source) == []


def test_a_select_that_fails_is_tried_again_when_it_changes(recorder: Recorder, files: Files) -> None:
    recorder.land("1", an_author(1))
    recorder.transform()
    fine = change(files, "authors", FAILS)
    recorder.transform()
    assert pending_partitions(recorder.warehouse, recorder.source) == []
    assert rows(recorder.warehouse, ENTRIES) == [("1", "select_fails", 1, True)]
    for table in ("authors", "author_topics", "topics"):
        assert shown(recorder.warehouse, f"select count(*) from toy.{table}") == [0], "all its rows go"
    transform(recorder.warehouse, recorder.source, DAYS[0], full=True)
    assert rows(recorder.warehouse, ENTRIES) == [("1", "select_fails", 2, True)]
    (files.folder / "toy/library/authors.sql").write_text(fine)
    project.selects.cache_clear()
    assert pending_partitions(recorder.warehouse, recorder.source) == [DAYS[0]]
    recorder.transform()
    assert rows(recorder.warehouse, ENTRIES) == [("1", "select_fails", 2, False)]
    assert shown(recorder.warehouse, "select t.name from toy.author_topics join toy.topics t using (topic_id)") == [
        "topic 1"
    ]
    assert differing(recorder) == []


@pytest.mark.long("a dozen runs")
def test_a_record_on_whose_newest_version_a_select_fails_has_no_rows_until_the_next_one(
    recorder: Recorder, files: Files
) -> None:
    change(files, "authors", FAILS)
    for day, name, there in zip(DAYS, ("first", "heron 1", "last"), (["first"], [], ["last"]), strict=False):
        recorder.land("1", an_author(1, name=name), day=day)
        recorder.transform()
        assert shown(recorder.warehouse, "select name from toy.authors") == there
        assert pending_partitions(recorder.warehouse, recorder.source) == differing(recorder) == []
        if not there:
            run = rebuild.rebuild(recorder.warehouse, "toy")
            assert (run.status, run.counts.fetched, run.counts.quarantined) == ("partial_success", 1, 1)
            assert rows(recorder.warehouse, ENTRIES) == [("1", "select_fails", 2, True)]
    assert rows(recorder.warehouse, ENTRIES) == [("1", "select_fails", 2, False)]


def test_rows_of_a_select_that_is_gone_go_with_it(recorder: Recorder, files: Files) -> None:
    warehouse = recorder.warehouse
    recorder.land("1", an_author(1))
    recorder.transform()
    assert shown(warehouse, "select count(*) from toy.author_topics") == [1]
    (files.folder / "toy/library/author_topics.sql").unlink()
    project.selects.cache_clear()
    assert pending_partitions(warehouse, recorder.source) == [DAYS[0]]
    run = transform(warehouse, recorder.source, DAYS[0])
    assert {name: each["deleted"] for name, each in run.stats["tables"].items() if each["deleted"]} == {
        "toy.author_topics": 1,
        "toy.topics": 1,
    }
    assert pending_partitions(warehouse, recorder.source) == []
    assert [each for each in rebuild.check(warehouse, "toy") if not each["same"]] == []
    with warehouse.connect() as connection:
        assert not any(each["unproven"] for each in trace.unproven(connection))
        with time_travel.as_of(warehouse, "toy", time_travel.snapshot_of_run(connection, str(run.id))) as then:
            assert then.differing_tables(connection) == []


def test_rows_of_a_connector_that_is_gone_are_not_taken_away(
    recorder: Recorder, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = recorder.warehouse
    recorder.land("1", an_author(1))
    recorder.transform()
    (last,) = shown(warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform'")
    others = {name: source for name, source in project.sources().items() if source is not recorder.source}
    monkeypatch.setattr(project, "sources", lambda: others)

    def look_back() -> AbstractContextManager[Any]:
        with warehouse.connect() as connection:
            return time_travel.as_of(warehouse, "toy", time_travel.snapshot_of_run(connection, last))

    gone = "rows of toy/library.authors, but no connector in assets/toy declares this stream"
    for derive in (rebuild.rebuild, rebuild.check):
        with pytest.raises(AtlasError, match=gone):
            derive(warehouse, "toy")
    with pytest.raises(AtlasError, match=gone), look_back():
        pass
    assert shown(warehouse, "select name from toy.authors") == ["heron 1"]


def test_shared_rows_to_which_no_table_of_the_source_can_refer_are_not_written(
    warehouse: Warehouse, files: Files, shelf: Source
) -> None:
    text = "select ops.key(p.external_id) as topic_id, p.external_id as name, p.external_id as normalized_name"
    (files.folder / "toy/shelf/topics.sql").write_text(f"{text} from payloads as p")
    project.selects.cache_clear()
    recorder = Recorder(warehouse, shelf)
    recorder.land("heron", {"authors": []})
    recorder.transform()
    assert shown(warehouse, "select name from toy.topics") == []


def differing(recorder: Recorder) -> list[str]:
    return [each["table"] for each in rebuild.check(recorder.warehouse, "toy") if not each["same"]]


def with_cover(number: int, shown: int, **more: Any) -> Json:
    return an_author(number, books=[book(number, covers=[cover(shown)])], **more)


def test_rows_of_a_select_that_is_gone_go_too_where_another_day_brings_their_record_in(
    recorder: Recorder, files: Files
) -> None:
    recorder.land("1", with_cover(1, 7))
    recorder.transform()
    (files.folder / "toy/library/author_topics.sql").unlink()
    project.selects.cache_clear()
    recorder.land("2", with_cover(2, 7, topics=[]), day=DAYS[1])
    transform(recorder.warehouse, recorder.source, DAYS[1])
    recorder.transform()
    assert shown(recorder.warehouse, "select count(*) from toy.author_topics") == [0]
    assert differing(recorder) == []


def test_rows_of_a_select_that_is_gone_go_where_another_fails(recorder: Recorder, files: Files) -> None:
    recorder.land("1", with_cover(1, 7))
    recorder.transform()
    (files.folder / "toy/library/covers.sql").unlink()
    change(files, "authors", FAILS)
    recorder.transform()
    assert shown(recorder.warehouse, "select url from toy.covers") == []
    erasure.erase(recorder.warehouse, stream_of(recorder.source), "toy/library.authors", "1")
    assert rows(recorder.warehouse, ENTRIES) == []


STATS = """
select author_id, observed_at, record_id, loans::bigint * 100 as loans from (
{}
) as t
"""


def test_a_series_is_derived_whole_once_its_record_is_mended(recorder: Recorder, files: Files) -> None:
    recorder.land("1", an_author(1, stats={"loans": 1}))
    recorder.transform()
    change(files, "authors", FAILS)
    change(files, "loans", STATS)
    recorder.transform()
    recorder.land("1", an_author(1, name="mended", stats={"loans": 2}), day=DAYS[1])
    recorder.transform()
    assert shown(recorder.warehouse, "select loans from toy.loans order by observed_at") == [100, 200]
    assert pending_partitions(recorder.warehouse, recorder.source) == differing(recorder) == []


def test_counters_of_a_record_on_which_a_select_fails_do_not_wait_for_ever(recorder: Recorder, files: Files) -> None:
    recorder.land("1", an_author(1, stats={"loans": 1}))
    recorder.transform()
    fine = change(files, "authors", FAILS)
    recorder.transform()
    recorder.land("1", an_author(1, stats={"loans": 2}), day=DAYS[1])
    recorder.transform()
    assert pending_partitions(recorder.warehouse, recorder.source) == []
    (files.folder / "toy/library/authors.sql").write_text(fine)
    project.selects.cache_clear()
    recorder.transform()
    assert shown(recorder.warehouse, "select loans from toy.loans order by observed_at") == [1, 2]
    assert differing(recorder) == []


def test_counters_on_which_a_select_fails_are_followed_by_others_on_which_it_does_not(
    recorder: Recorder, files: Files
) -> None:
    wrapped = "select o.* from (\n{}\n) as o join authors as p using (record_id)"
    wrapped += " where 1 / (case when p.body #>> '{{stats,loans}}' = '0' then 0 else 1 end) > 0"
    change(files, "authors", wrapped)
    for day, (count, there) in zip(DAYS, ((1, [1]), (0, []), (0, []), (5, [1, 0, 5])), strict=True):
        recorder.land("1", an_author(1, stats={"loans": count}), day=day)
        assert (day in pending_partitions(recorder.warehouse, recorder.source)) == (day != DAYS[2])
        recorder.transform()
        assert pending_partitions(recorder.warehouse, recorder.source) == []
        assert shown(recorder.warehouse, "select loans from toy.loans order by observed_at") == there
    assert differing(recorder) == []


def test_a_source_without_any_select_keeps_its_rows_and_lands(recorder: Recorder, files: Files) -> None:
    recorder.land("1", an_author(1))
    recorder.transform()
    for path in (files.folder / "toy/library").glob("*.sql"):
        path.unlink()
    project.selects.cache_clear()
    recorder.land("2", an_author(2), day=DAYS[1])
    assert pending_partitions(recorder.warehouse, recorder.source) == []
    for derive in (
        lambda: transform(recorder.warehouse, recorder.source, DAYS[1]),
        lambda: rebuild.check(recorder.warehouse, "toy"),
        lambda: rebuild.rebuild(recorder.warehouse, "toy"),
    ):
        with pytest.raises(AtlasError, match="toy/library has no SELECT files"):
            derive()
    assert shown(recorder.warehouse, "select name from toy.authors") == ["heron 1"]
