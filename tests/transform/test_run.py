"""Transforms: payloads in, rows out; a row that does not fit is in quarantine with the reason, all others arrive."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.source import Source
from pipelines.transform.change_set import code_version
from pipelines.warehouse.database import Warehouse
from tests.library import START, Json, author, book, copy, cover, payload, rows, whole
from tests.runs import land_items, pending_partitions, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

DAY = "2026-11-01"
TABLES = ("authors", "books", "copies", "covers", "topics", "author_topics", "quotes")


def inside(number: int, **more: Any) -> Json:
    """A whole author whose one book is changed."""
    found = whole(number)
    found["books"][0] |= more
    return found


def sizes(warehouse: Warehouse) -> dict[str, int]:
    """Rows a table; tables without rows are left out."""
    found = {table: int(rows(warehouse, f"select count(*) from toy.{table}")[0][0]) for table in TABLES}
    return {table: number for table, number in found.items() if number}


def entries(warehouse: Warehouse, *, closed: bool = False) -> list[tuple[str, str, str]]:
    """Table, reason and constraint of each open, or closed, entry."""
    return rows(
        warehouse,
        """
        select table_name, reason, constraint_name from staging.quarantine
        where stage = 'transform' and (closed_at is not null) = %s order by quarantine_id
        """,
        [closed],
    )


def waits(warehouse: Warehouse) -> list[tuple[str, str, str, str]]:
    """Record, table, external id (or key) of the row that another is pending for, and the reason."""
    return rows(
        warehouse,
        """
        select distinct v.external_id, w.table_name, coalesce(i.external_id, w.key), w.reason
        from staging.pending_rows w
        join staging.versions v using (record_id)
        left join toy.covers i on i.cover_id::text = w.key
        order by 1, 2, 3, 4
        """,
    )


def land(warehouse: Warehouse, source: Source, *bodies: Json, day: str = DAY, days_later: int = 0) -> Run:
    kind = next(iter(source.contracts))
    items = [payload(body, str(body["id"]), kind) for body in bodies]
    return land_items(warehouse, source, day, items, received_at=START + timedelta(days=days_later))


def take(warehouse: Warehouse, source: Source, *bodies: Json, day: str = DAY, days_later: int = 0) -> Run:
    """Lands and transforms."""
    land(warehouse, source, *bodies, day=day, days_later=days_later)
    return transform(warehouse, source, day)


REJECTED: dict[str, tuple[Json, tuple[str, str, str]]] = {
    "a name too long": (whole(2, name="x" * 101), ("toy.authors", "check", "authors_name_check")),
    "a title too long": (inside(2, title="x" * 101), ("toy.books", "check", "books_title_check")),
    "a room too long": (inside(2, copies=[copy(200, room="x" * 101)]), ("toy.copies", "check", "copies_room_check")),
    "no width": (inside(2, covers=[cover(200, width=0)]), ("toy.covers", "check", "covers_width_check")),
    "a width beyond integer": (inside(2, covers=[cover(200, width=2**31)]), ("toy.covers", "type", "width")),
    "a topic too long": (whole(2, topics=["all", "x" * 51]), ("toy.topics", "check", "topics_name_check")),
}


@pytest.mark.parametrize("kind", REJECTED)
@pytest.mark.sample(5)
def test_a_row_that_does_not_fit_waits_for_its_payload_to_be_mended_and_all_else_arrives(
    warehouse: Warehouse, library: Source, kind: str
) -> None:
    body, expected = REJECTED[kind]
    run = take(warehouse, library, whole(1), body, whole(3))
    waiting_rows = entries(warehouse)
    assert expected in waiting_rows
    assert rows(warehouse, "select external_id from toy.authors where external_id <> '2' order by 1") == [
        ("1",),
        ("3",),
    ]
    assert sizes(warehouse)["covers"] >= 2 and sizes(warehouse)["copies"] >= 2
    assert (run.status, run.counts.quarantined) == ("partial_success", len(waiting_rows))
    assert run.counts.fetched == run.counts.created + run.counts.quarantined + run.counts.pending
    run = take(warehouse, library, whole(2), days_later=1)
    assert sizes(warehouse) == dict.fromkeys(TABLES, 3) | {"topics": 4, "author_topics": 6}
    assert entries(warehouse) == []
    assert entries(warehouse, closed=True) == waiting_rows
    assert (run.status, run.counts.quarantined) == ("completed", 0)


def test_an_entry_names_table_key_constraint_row_record_and_run(warehouse: Warehouse, library: Source) -> None:
    run = take(warehouse, library, whole(1), inside(2, covers=[cover(200, width=0)]))
    found = rows(
        warehouse,
        """
        select q.table_name, q.row_key = ops.key(q.stream, '200')::text, q.constraint_name, q.row ->> 'width',
            q.row ->> 'url', q.external_id, q.record_id = v.record_id, q.first_run, q.partition_key, q.request
        from staging.quarantine q left join staging.versions v using (record_id)
        """,
    )
    url = "https://cover.example/200.png"
    assert found == [
        ("toy.covers", True, "covers_width_check", "0", url, "2", True, run.id, DAY, "made here, 2"),
    ]


def test_a_rejected_row_seen_again_counts_and_makes_no_second_entry(warehouse: Warehouse, library: Source) -> None:
    bad = inside(2, covers=[cover(200, width=0)])
    first = take(warehouse, library, bad)
    again = transform(warehouse, library, DAY, full=True)
    assert rows(warehouse, "select seen, first_run, last_run from staging.quarantine") == [(2, first.id, again.id)]


def test_a_fault_that_comes_back_opens_its_entry_again(warehouse: Warehouse, library: Source) -> None:
    bad = inside(2, covers=[cover(200, width=0)])
    take(warehouse, library, bad)
    take(warehouse, library, whole(2), days_later=1)
    assert entries(warehouse) == []
    take(warehouse, library, bad | {"name": "again"}, days_later=2)
    assert entries(warehouse) == [("toy.covers", "check", "covers_width_check")]
    assert rows(warehouse, "select seen from staging.quarantine") == [(2,)]


def test_children_of_a_rejected_row_are_pending_for_it(warehouse: Warehouse, library: Source) -> None:
    run = take(warehouse, library, whole(1), whole(2, name="x" * 101))
    assert entries(warehouse) == [("toy.authors", "check", "authors_name_check")]
    assert (run.counts.quarantined, run.counts.pending, run.status) == (1, 4, "partial_success")
    tables = {name: counts["pending"] for name, counts in run.stats["tables"].items() if counts["pending"]}
    assert tables == {"toy.author_topics": 2, "toy.books": 1, "toy.copies": 1}
    assert rows(warehouse, "select distinct table_name, reason from staging.pending_rows order by 1") == [
        ("toy.authors", "parent"),
        ("toy.books", "parent"),
    ]


def test_a_run_with_pending_rows_is_completed(warehouse: Warehouse, shelf: Source) -> None:
    land_items(warehouse, shelf, DAY, [payload({"books": [book(1, author=99)]}, "a", "")])
    run = transform(warehouse, shelf, DAY)
    assert (run.status, run.counts.fetched, run.counts.pending) == ("completed", 1, 1)
    assert entries(warehouse) == []


def test_a_reference_that_may_be_null_to_a_row_that_waits_goes_in_null(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, whole(1), whole(2, name="x" * 101))
    query = """
        select external_id, author_id is null, book_id is null from toy.covers order by 1
    """
    assert rows(warehouse, query) == [("100", False, False), ("200", True, True)]
    links = "select author_id is null, cover_id is null from toy.quotes order by text"
    assert rows(warehouse, links) == [(False, False), (True, False)]
    take(warehouse, library, whole(2), days_later=1)
    assert rows(warehouse, query) == [("100", False, False), ("200", False, False)]


def test_a_topic_of_nothing_but_a_row_that_waits_does_not_stay(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, whole(1), whole(2, name="x" * 101))
    assert rows(warehouse, "select name from toy.topics order by 1") == [("all",), ("only 1",)]


def test_a_row_whose_parent_is_rejected_leaves_its_table(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, whole(1), whole(2))
    run = take(warehouse, library, whole(2, name="x" * 101), days_later=1)
    assert sizes(warehouse) == dict.fromkeys(TABLES, 1) | {"covers": 2, "quotes": 2, "topics": 2, "author_topics": 2}
    assert run.counts.deleted == 6


def test_many_faults_of_one_row_do_not_stop_the_partition(warehouse: Warehouse, library: Source) -> None:
    copies = [copy(200, room=f"room {each}") for each in range(3)]
    run = take(warehouse, library, whole(1), inside(2, copies=copies))
    assert set(entries(warehouse)) == {("toy.copies", "unique", "copies_pkey")}
    assert run.counts.quarantined == 2
    assert sizes(warehouse)["copies"] == 2


def test_a_name_is_never_cut_to_fit(warehouse: Warehouse, library: Source) -> None:
    """PostgreSQL cuts spaces beyond a length without a word."""
    take(warehouse, library, whole(1, name="x" * 100 + "  "))
    assert rows(warehouse, "select length(name) from toy.authors") in ([], [(102,)])
    assert transform(warehouse, library, DAY, full=True).counts.updated == 0


def test_rows_a_record_no_longer_yields_are_pruned(warehouse: Warehouse, library: Source) -> None:
    two = book(11, copies=[copy(110), copy(111)], covers=[cover(110, quote="q"), cover(111, quote="q")])
    first = whole(1)
    first["books"].append(two)
    take(warehouse, library, first, whole(2))
    assert sizes(warehouse)["copies"] == 4
    run = take(warehouse, library, whole(1, topics=["all"]), days_later=1)
    assert sizes(warehouse) == dict.fromkeys(TABLES, 2) | {"author_topics": 3}
    assert run.counts.deleted == 1 + 2 + 2 + 2 + 1 + 1
    assert rows(warehouse, "select name from toy.topics order by 1") == [("all",), ("only 2",)]


def test_a_topic_goes_with_the_last_author_that_has_it(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, whole(1, topics=["Shared Tag"]), whole(2, topics=["shared_tag"]))
    assert rows(warehouse, "select normalized_name from toy.topics") == [("shared_tag",)]
    take(warehouse, library, whole(1, topics=[]), days_later=1)
    assert rows(warehouse, "select normalized_name from toy.topics") == [("shared_tag",)]
    run = take(warehouse, library, whole(2, topics=[]), days_later=1)
    assert rows(warehouse, "select normalized_name from toy.topics") == []
    assert run.stats["tables"]["toy.topics"]["deleted"] == 1


def test_a_row_that_two_records_have_is_the_one_of_the_smallest_id_whichever_came_first(
    warehouse: Warehouse, library: Source
) -> None:
    take(warehouse, library, inside(2, covers=[cover(7, "of-2", quote="q")]))
    run = take(warehouse, library, inside(1, covers=[cover(7, "of-1", quote="q")]) | {"topics": []})
    assert rows(warehouse, "select url from toy.covers") == [("https://cover.example/7of-1.png",)]
    assert waits(warehouse) == [("2", "toy.covers", "7", "key"), ("2", "toy.quotes", "7", "key")]
    assert (run.status, run.counts.duplicates, entries(warehouse)) == ("completed", 2, [])
    assert sizes(warehouse)["authors"] == 2


def test_of_two_records_in_one_batch_the_smallest_id_has_the_row(warehouse: Warehouse, library: Source) -> None:
    both = [inside(each, covers=[cover(7, f"of-{each}", quote="q")]) for each in (2, 1)]
    run = take(warehouse, library, *both)
    assert rows(warehouse, "select url from toy.covers") == [("https://cover.example/7of-1.png",)]
    assert waits(warehouse) == [("2", "toy.covers", "7", "key"), ("2", "toy.quotes", "7", "key")]
    assert (run.status, run.counts.duplicates, entries(warehouse)) == ("completed", 2, [])


def test_of_two_records_in_one_batch_the_same_has_the_row_each_time(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, *(inside(each, covers=[cover(7, quote="q")]) for each in (2, 1)))
    owner = "select v.external_id from toy.covers join staging.versions v using (record_id)"
    assert rows(warehouse, owner) == [("1",)]
    before = waits(warehouse)
    again = transform(warehouse, library, DAY, full=True)
    assert (again.counts.created, again.counts.updated, again.counts.deleted) == (0, 0, 0)
    assert rows(warehouse, owner) == [("1",)]
    assert waits(warehouse) == before


def test_what_did_not_change_keeps_its_times_and_what_changed_has_a_new_one(
    warehouse: Warehouse, library: Source
) -> None:
    query = "select created_at, updated_at, xmin::text from toy.authors order by external_id"
    take(warehouse, library, whole(1), whole(2))
    one, two = rows(warehouse, query)
    run = take(warehouse, library, whole(1), whole(2, about="new"), days_later=1)
    one_later, two_later = rows(warehouse, query)
    assert one_later == one
    assert two_later[0] == two[0] and two_later[1] > two[1]
    assert (run.counts.updated, run.counts.created) == (1, 0)


def test_a_normal_run_takes_only_what_no_transform_has_taken(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, whole(1), whole(2))
    assert pending_partitions(warehouse, library) == []
    land(warehouse, library, whole(2, about="new"), whole(3), days_later=1)
    assert pending_partitions(warehouse, library) == [DAY]
    assert transform(warehouse, library, DAY).stats["records"] == 2
    assert transform(warehouse, library, DAY).stats["records"] == 0
    assert transform(warehouse, library, DAY, full=True).stats["records"] == 3


def test_sql_shows_the_pending_and_the_effective_versions(warehouse: Warehouse, library: Source) -> None:
    code = code_version(project.selects(library.name))
    pending = "select external_id, partition_key from staging.pending_versions({}) order by 1, 2"
    of_no_select, of_code, of_other = (pending.format(each) for each in ("", f"'{code}'", "'another'"))
    effective = "select external_id, valid_from_run, applied_sql from staging.effective_versions order by 1"
    land(warehouse, library, whole(1))
    assert [rows(warehouse, each) for each in (of_no_select, of_code, of_other)] == [[("1", DAY)]] * 3
    assert rows(warehouse, effective) == []
    run = transform(warehouse, library, DAY)
    assert [rows(warehouse, each) for each in (of_no_select, of_code, of_other)] == [[], [], [("1", DAY)]]
    assert rows(warehouse, effective) == [("1", run.id, code)]


def test_versions_show_from_which_run_to_which_they_are_effective(warehouse: Warehouse, library: Source) -> None:
    first = take(warehouse, library, whole(1))
    second = take(warehouse, library, whole(1, about="new"), day="2026-11-02", days_later=1)
    found = rows(warehouse, "select latest, valid_from_run, valid_to_run from staging.versions order by version_id")
    assert found == [(False, first.id, second.id), (True, second.id, None)]


def test_another_text_of_a_select_makes_the_next_run_take_everything(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, whole(1), whole(2))
    with warehouse.connect() as connection:
        connection.execute(
            """
            update ops.fetch_runs set code_version = 'an older text' where kind = 'transform';
            update staging.versions set applied_sql = 'an older text'
            """
        )
    assert pending_partitions(warehouse, library) == [DAY]
    assert transform(warehouse, library, DAY).stats["records"] == 2
    assert pending_partitions(warehouse, library) == []
    assert transform(warehouse, library, DAY).stats["records"] == 0


def test_each_select_that_ran_is_kept_by_its_digest(warehouse: Warehouse, library: Source) -> None:
    run = take(warehouse, library, whole(1))
    transform(warehouse, library, DAY, full=True)
    files = sorted((project.SQL / "toy" / "library").glob("*.sql"))
    assert {path.stem for path in files} == {*TABLES, "loans"}
    kept = rows(warehouse, 'select path, digest, text from ops.sql order by path collate "C"')
    assert kept == [
        (f"toy/library/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest(), path.read_text()) for path in files
    ]
    assert run.stats["sql"] == {path.removesuffix(".sql"): digest for path, digest, _ in kept}


def test_published_numbers_grow_over_landings_and_transforms(warehouse: Warehouse, library: Source) -> None:
    runs = [
        land(warehouse, library, whole(1)),
        transform(warehouse, library, DAY),
        land(warehouse, library, whole(2), day="2026-11-02"),
        transform(warehouse, library, "2026-11-02"),
        transform(warehouse, library, DAY),
    ]
    assert rows(warehouse, "select fetch_run_id from ops.fetch_runs order by publish_seq") == [
        (run.id,) for run in runs
    ]


def test_the_counts_of_the_tables_add_up_to_those_of_the_run(warehouse: Warehouse, library: Source) -> None:
    run = take(warehouse, library, whole(1), whole(2, name="x" * 101), inside(3, covers=[cover(7, width=0)]))
    for name, total in vars(run.counts).items():
        assert sum(counts[name] for counts in run.stats["tables"].values()) == total
    for table, number in sizes(warehouse).items():
        assert run.stats["tables"][f"toy.{table}"]["created"] == number
    assert run.counts.deleted == 0
    assert rows(warehouse, "select count(*) from staging.quarantine") == [(run.counts.quarantined,)]


Change = Callable[..., Source]


@pytest.fixture
def changed(shelf: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Change]:
    """The shelf, with other texts of some of its SELECT files, by table."""

    def change(**texts: str) -> Source:
        shutil.copytree(project.SQL, tmp_path / "sql")
        monkeypatch.setattr(project, "SQL", tmp_path / "sql")
        project.selects.cache_clear()
        for table, text in texts.items():
            (tmp_path / "sql" / shelf.name / f"{table}.sql").write_text(text)
        return shelf

    yield change
    project.selects.cache_clear()


ROWS: dict[str, tuple[Json, tuple[str, str, str]]] = {
    "no name": ({"authors": [{"id": 2}]}, ("toy.authors", "not_null", "name")),
    "an unknown genre": ({"authors": [author(2, genre="Maps")]}, ("toy.authors", "check", "authors_genre_check")),
    "a key twice": ({"authors": [author(2), author(2, "other")]}, ("toy.authors", "unique", "authors_pkey")),
    "a title twice": (
        {"authors": [author(2)], "books": [book(each, "one", author=2) for each in (1, 2)]},
        ("toy.books", "unique", "books_author_id_title_key"),
    ),
    "a width of 1.5": ({"covers": [cover(2, width=1.5)]}, ("toy.covers", "type", "width")),
}


@pytest.mark.parametrize("kind", ROWS)
def test_of_a_record_one_row_may_not_fit(warehouse: Warehouse, shelf: Source, kind: str) -> None:
    body, expected = ROWS[kind]
    good = {"authors": [author(1)], "covers": [cover(1)], "id": "good"}
    run = take(warehouse, shelf, good, body | {"id": "bad"})
    assert entries(warehouse) == [expected]
    there = rows(warehouse, "select external_id from toy.authors union select external_id from toy.covers")
    assert ("1",) in there
    assert run.counts.quarantined == 1
    assert sum(sizes(warehouse).values()) == run.counts.created


def test_a_row_yielded_twice_is_one_row_and_one_duplicate(warehouse: Warehouse, shelf: Source) -> None:
    run = take(warehouse, shelf, {"id": "a", "authors": [author(1), author(1), author(2)]})
    assert (run.counts.fetched, run.counts.created, run.counts.duplicates) == (3, 2, 1)
    assert (run.status, entries(warehouse)) == ("completed", [])


def test_a_unique_value_claimed_by_two_records_goes_to_the_smallest_id(warehouse: Warehouse, shelf: Source) -> None:
    books = [{"id": name, "books": [book(name, "v1", author=1)]} for name in ("b", "c", "a")]
    take(warehouse, shelf, {"id": "z", "authors": [author(1)]}, *books)
    assert rows(warehouse, "select external_id from toy.books") == [("a",)]
    waits = rows(warehouse, "select external_id, constraint_name from staging.quarantine order by 1")
    assert waits == [(name, "books_author_id_title_key") for name in ("b", "c")]


def test_a_unique_value_in_the_table_goes_to_a_smaller_id_that_comes_later(warehouse: Warehouse, shelf: Source) -> None:
    take(warehouse, shelf, {"id": "b", "authors": [author(1)], "books": [book(1, "v", author=1)]})
    run = take(warehouse, shelf, {"id": "a", "books": [book(2, "v", author=1)]})
    assert rows(warehouse, "select external_id from toy.books") == [("2",)]
    assert rows(warehouse, "select external_id, reason, constraint_name from staging.quarantine") == [
        ("b", "unique", "books_author_id_title_key")
    ]
    assert [(record, table, reason) for record, table, _, reason in waits(warehouse)] == [("b", "toy.books", "unique")]
    assert (run.status, run.counts.quarantined) == ("partial_success", 1)


def test_two_rows_of_a_record_may_swap_their_unique_values(warehouse: Warehouse, shelf: Source) -> None:
    for titles in (("one", "two"), ("two", "one")):
        books = [book(number, title, author=1) for number, title in enumerate(titles)]
        run = take(
            warehouse,
            shelf,
            {"id": "a", "authors": [author(1)], "books": books},
            days_later=titles == ("two", "one"),
        )
    assert rows(warehouse, "select title from toy.books order by external_id") == [
        ("two",),
        ("one",),
    ]
    assert (run.status, run.counts.updated) == ("completed", 2)


def test_a_whole_number_written_as_a_decimal_fits_an_integer(warehouse: Warehouse, shelf: Source) -> None:
    take(warehouse, shelf, {"id": "a", "covers": [cover(1, height=512.0)]})
    assert rows(warehouse, "select height from toy.covers") == [(512,)]


def test_rows_of_a_record_on_which_a_select_fails_go_and_come_back(warehouse: Warehouse, shelf: Source) -> None:
    def record(name: str, by: int) -> Json:
        books = [book(name, f"by {by}", author=name, part=by)]
        return {"id": name, "authors": [author(0, id=name)], "books": books}

    take(warehouse, shelf, record("a", 1), record("b", 1), record("c", 1))
    run = take(warehouse, shelf, record("a", 2), record("b", 0), record("c", 2), days_later=1)
    titles = "select title from toy.books order by external_id"
    assert rows(warehouse, titles) == [("by 2",), ("by 2",)]
    assert rows(warehouse, "select reason, table_name, row_key, detail from staging.quarantine") == [
        ("select_fails", "toy.books", "b", "division by zero")
    ]
    assert (run.status, run.counts.quarantined, run.counts.deleted) == ("partial_success", 1, 2)
    take(warehouse, shelf, record("b", 2), days_later=2)
    assert rows(warehouse, titles) == [("by 2",)] * 3
    assert entries(warehouse) == []


def test_a_condition_that_fails_on_one_record_does_not_stop_the_others(
    warehouse: Warehouse, shelf: Source, changed: Change
) -> None:
    """The planner would ask it of every version that staging holds."""
    authors = (project.SQL / shelf.name / "authors.sql").read_text()
    source = changed(authors=authors + "where 1 / (case when p.external_id = '2' then 0 else 1 end) > 0")
    for number in (1, 2, 3):
        land(warehouse, source, {"id": str(number), "authors": [author(number)]})
    run = transform(warehouse, source, DAY)
    assert rows(warehouse, "select external_id from toy.authors order by 1") == [("1",), ("3",)]
    assert rows(warehouse, "select reason, external_id, request is null from staging.quarantine") == [
        ("select_fails", "2", False)
    ]
    assert run.status == "partial_success"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("select nonsense from payloads", "cannot be run"),
        ("select record_id, 1 as shoe_size from payloads", "yields shoe_size, which is not a column"),
        ("select record_id, '2026-11-01' as created_at from payloads", "yields created_at, which is not a column"),
        ("select ops.key('a') as cover_id, record_id, 'a' as external_id from payloads", "does not yield source_id"),
        ("select 1 / 0 as height", "cannot be run"),
    ],
)
def test_a_select_that_cannot_work_changes_nothing_and_says_which(
    warehouse: Warehouse, changed: Change, text: str, words: str
) -> None:
    source = changed(covers=text)
    land(warehouse, source, {"id": "a", "authors": [author(1)]})
    with pytest.raises(AtlasError, match=words) as caught:
        transform(warehouse, source, DAY)
    assert "covers" in str(caught.value)
    assert sizes(warehouse) == {}
    found = rows(warehouse, "select status, error_text, publish_seq from ops.fetch_runs where kind = 'transform'")
    assert found == [("failed", str(caught.value), None)]
    assert rows(warehouse, "select valid_from_run from staging.versions") == [(None,)]
