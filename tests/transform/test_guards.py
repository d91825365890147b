"""What stops a transform: a SELECT that fails on most records, and a table that loses many rows; `--shrink` overrides.

Both sides of each threshold, with what the run leaves when it is stopped: nothing.
"""

from collections.abc import Callable
from typing import Any

import pytest

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.lineage import rebuild
from pipelines.maintenance import erasure
from pipelines.warehouse.database import Warehouse
from tests.launcher import FAILED, Atlas, words
from tests.library import DAYS, START, Json, Recorder, author, book, cover, payload, rows, shown
from tests.pasts import Files
from tests.runs import land_items, pending_partitions, stream_of, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]


@pytest.fixture
def recorder(warehouse: Warehouse, files: Files) -> Recorder:
    return Recorder(warehouse, project.sources()["toy/library"])


def land(recorder: Recorder, numbers: range, **more: Any) -> None:
    """Lands authors, all at one time."""
    bodies = {str(each): author(each, **more) for each in numbers}
    recorder.now |= {("authors", name): body for name, body in bodies.items()}
    items = [payload(body, name) for name, body in bodies.items()]
    land_items(recorder.warehouse, recorder.source, DAYS[0], items, received_at=START)


def fail_up_to(files: Files, number: int) -> None:
    """Makes the SELECT of authors fail on the records up to a number."""
    path = files.folder / "toy/library/authors.sql"
    condition = f"1 / (case when external_id::int <= {number} then 0 else 1 end) > 0"
    path.write_text(f"select * from (\n{path.read_text()}\n) as t where {condition}")
    project.selects.cache_clear()


def written(warehouse: Warehouse) -> list[Any]:
    """What a transform writes besides its row in the ledger."""
    return [
        rows(warehouse, f"select * from {table} order by 1")
        for table in ("toy.authors", "toy.covers", "toy.author_topics", "ops.sql", "ops.table_digests")
    ] + [
        rows(
            warehouse, "select version_id, valid_from_run, valid_to_run, applied_sql from staging.versions order by 1"
        ),
        rows(warehouse, "select * from staging.quarantine"),
        rows(warehouse, "select * from staging.pending_rows"),
    ]


def stopped(recorder: Recorder, match: str, act: Callable[[], Run] | None = None) -> None:
    """A transform is stopped with a message, which the ledger has too, and has written nothing."""
    before = written(recorder.warehouse)
    with pytest.raises(AtlasError, match=match) as caught:
        (act or (lambda: transform(recorder.warehouse, recorder.source, DAYS[0])))()
    assert written(recorder.warehouse) == before
    last = "select status, error_text from ops.fetch_runs where kind = 'transform' order by started_at desc limit 1"
    assert rows(recorder.warehouse, last) == [("failed", str(caught.value))]


@pytest.mark.parametrize(("number", "failing"), [(20, 10), (19, 19), (40, 20)])
def test_records_on_which_a_select_fails_are_quarantined_where_they_are_few(
    recorder: Recorder, files: Files, number: int, failing: int
) -> None:
    fail_up_to(files, failing)
    land(recorder, range(1, number + 1))
    run = transform(recorder.warehouse, recorder.source, DAYS[0])
    assert (run.status, run.counts.quarantined) == ("partial_success", failing)
    assert shown(recorder.warehouse, "select count(*) from toy.authors") == [number - failing]
    assert pending_partitions(recorder.warehouse, recorder.source) == []


@pytest.mark.parametrize(("number", "failing"), [(20, 11), (40, 21)])
def test_a_select_that_fails_on_more_than_half_of_twenty_records_is_broken(
    recorder: Recorder, files: Files, number: int, failing: int
) -> None:
    fail_up_to(files, failing)
    land(recorder, range(1, number + 1))
    stopped(
        recorder,
        rf"sql/toy/library/authors.sql fails on more than half of the {number} records that it reads of "
        rf"{DAYS[0]}: division by zero. Nothing is written. .* atlas transform toy/library.authors "
        rf"--partition {DAYS[0]}. Add --shrink",
    )
    run = transform(recorder.warehouse, recorder.source, DAYS[0], shrink=True)
    assert (run.status, run.counts.quarantined) == ("partial_success", failing)
    assert shown(recorder.warehouse, "select count(*) from toy.authors") == [number - failing]


def test_effective_records_of_the_partition_count_too(recorder: Recorder, files: Files) -> None:
    """The SELECT fails on all 15 new records; on 30 others of the partition it does not."""
    fail_up_to(files, 15)
    land(recorder, range(16, 46))
    recorder.transform()
    land(recorder, range(1, 16))
    assert transform(recorder.warehouse, recorder.source, DAYS[0]).counts.quarantined == 15
    assert [each for each in rebuild.check(recorder.warehouse, "toy") if not each["same"]] == []


@pytest.mark.parametrize(("number", "lost"), [(30, 6), (5, 5), (20, 4)])
def test_few_rows_are_deleted_without_a_question(recorder: Recorder, number: int, lost: int) -> None:
    land(recorder, range(number))
    recorder.transform()
    recorder.full_refresh(*map(str, range(lost)))
    assert transform(recorder.warehouse, recorder.source, DAYS[0]).counts.deleted == lost


@pytest.mark.parametrize(("number", "lost"), [(29, 6), (6, 6)])
def test_more_than_a_fifth_of_a_tables_rows_and_than_five_are_not_deleted(
    recorder: Recorder, number: int, lost: int
) -> None:
    land(recorder, range(number))
    recorder.transform()
    recorder.full_refresh(*map(str, range(lost)))
    stopped(
        recorder,
        rf"would delete {lost} of the {number} rows of toy/library.authors in toy.authors, more than a fifth. "
        rf"Nothing is written. .* atlas transform toy/library.authors --partition {DAYS[0]} --shrink",
    )
    assert transform(recorder.warehouse, recorder.source, DAYS[0], shrink=True).counts.deleted == lost


def with_covers(*numbers: int) -> list[Json]:
    return [book(1, covers=[cover(number) for number in numbers])]


@pytest.mark.long("a dozen runs")
def test_rows_of_other_streams_in_the_table_do_not_count(recorder: Recorder) -> None:
    for number in range(10, 40):
        recorder.land(str(number), cover(number), kind="covers")
    land(recorder, range(1, 2), books=with_covers(*range(6)))
    recorder.transform()
    recorder.land("1", author(1))
    stopped(recorder, "would delete 6 of the 6 rows of toy/library.authors in toy.covers")


def test_rows_that_wait_for_others_to_let_go_of_them_count(recorder: Recorder) -> None:
    """Covers of another stream refer to the books that are deleted."""
    recorder.land("1", author(1, books=[book(each) for each in range(6)]))
    for number in range(6):
        recorder.land(str(number), cover(number, book=number), kind="covers")
    recorder.transform()
    recorder.land("1", author(1, books=[]))
    stopped(recorder, "would delete 6 of the 6 rows of toy/library.authors in toy.books")


def test_rows_of_a_select_file_that_is_gone_are_not_deleted_silently(recorder: Recorder, files: Files) -> None:
    land(recorder, range(1, 7), topics=["bird"])
    recorder.transform()
    (files.folder / "toy/library/author_topics.sql").unlink()
    project.selects.cache_clear()
    stopped(recorder, "would delete 6 of the 6 rows of toy/library.authors in toy.author_topics")


def test_an_erasure_needs_no_permission(recorder: Recorder) -> None:
    land(recorder, range(1, 2), books=with_covers(*range(6)))
    recorder.transform()
    erasure.erase(recorder.warehouse, stream_of(recorder.source), "toy/library.authors", "1")
    assert shown(recorder.warehouse, "select count(*) from toy.covers") == [0]


def test_the_command_has_the_option(recorder: Recorder, atlas: Atlas) -> None:
    land(recorder, range(6))
    recorder.transform()
    recorder.full_refresh(*map(str, range(6)))
    done = atlas("transform", "toy/library", code=FAILED)
    assert "more than a fifth" in words(done.stderr) and "more than a fifth" not in words(done.stdout)
    assert shown(recorder.warehouse, "select count(*) from toy.authors") == [6]
    atlas("transform", "toy/library", "--shrink")
    assert shown(recorder.warehouse, "select count(*) from toy.authors") == [0]
    assert atlas("transform", "toy/library").stdout == "Nothing is pending.\n"
