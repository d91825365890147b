"""Invariant I2: derived again from staging the tables are the same, in any order.

Rows that were written by hand, or derived by other SQL, are found and corrected, and no other row is written.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg import sql

from pipelines import ledger, project
from pipelines.errors import AtlasError
from pipelines.lineage import rebuild, shadow_schema
from pipelines.lineage.shadow_schema import TEMPORARY_PREFIX
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.transform import table_digests
from pipelines.warehouse.database import Warehouse
from tests.launcher import PARTIAL, Atlas, words
from tests.library import DAYS, author, book, cover, rows, whole
from tests.pasts import GENERATORS, SEED, SEEDS, Files, World, changing_files, tables
from tests.runs import pending_partitions, transform

pytestmark = pytest.mark.usefixtures("toy")


def differing(warehouse: Warehouse) -> dict[str, dict[str, Any]]:
    """The tables that differ from the derived ones."""
    return {each["table"]: each for each in rebuild.check(warehouse, "toy") if not each["same"]}


def places(warehouse: Warehouse) -> dict[str, set[tuple[str, ...]]]:
    """ctid and xmin of each row of the domain."""
    return {
        table.name: set(
            rows(warehouse, sql.SQL("select ctid::text, xmin::text from {}").format(TableSpec(table).target))
        )
        for table in metadata.sorted_tables
        if table.schema == "toy"
    }


def recorded_digests(warehouse: Warehouse) -> dict[str, tuple[int, str]]:
    """Rows and digest of each table, by `ops.table_digests`."""
    return {name: (number, digest) for name, number, digest in rows(warehouse, "select * from ops.table_digests")}


def counted_digests(warehouse: Warehouse) -> dict[str, tuple[int, str]]:
    with warehouse.connect() as connection:
        counted = {
            table.fullname: table_digests.count(connection, TableSpec(table))
            for table in metadata.sorted_tables
            if table.schema == "toy" and TableSpec(table).kind != "application"
        }
    return {name: (each["rows"], each["digest"]) for name, each in counted.items()}


@pytest.mark.long("rebuilds")
@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_history_the_tables_are_what_staging_gives(warehouse: Warehouse, files: Files, seed: int) -> None:
    """Also with the days transformed in another order."""
    world = World(warehouse, files, random.Random(f"{SEED} {seed}"), changes=False)
    world.simulate(7)
    assert differing(warehouse) == {}
    before = tables(warehouse)
    assert sum(map(len, before.values())) > 10
    for recorder in world.recorders.values():
        days = list(DAYS)
        world.dice.shuffle(days)
        for day in days:
            assert changed(transform(warehouse, recorder.source, day, full=True).counts) == 0
    assert tables(warehouse) == before


def changed(counts: ledger.Counts) -> int:
    return counts.created + counts.updated + counts.deleted


BY_HAND = {
    "a row changed": (
        "update toy.authors set name = 'By hand' where external_id = '1'",
        "toy.authors",
        "different",
    ),
    "a value written where there is none": (
        "update toy.authors set about = 'By hand' where external_id = '1' and about is null",
        "toy.authors",
        "different",
    ),
    "a row taken away": ("delete from toy.loans", "toy.loans", "missing"),
    "a row written": (
        """
        insert into toy.authors (author_id, record_id, source_id, external_id, name, genre, raw)
        select uuidv7(), record_id, source_id, 'by hand', name, genre, raw from toy.authors limit 1
        """,
        "toy.authors",
        "extra",
    ),
}


@pytest.fixture(scope="module")
def original(toy: None, new_warehouse: Callable[[], Warehouse], tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Three authors, each landed and transformed on a day of its own; a cover of the third is rejected."""
    with changing_files(tmp_path_factory.mktemp("original") / "sql", tuple(GENERATORS)) as files:
        recorder = World(new_warehouse(), files, random.Random(SEED)).recorders["toy/library"]
        for number in (1, 2, 3):
            body = whole(number, stats={"loans": number})
            if number == 3:
                body["books"][0]["covers"] = [cover(300, width=0)]
            recorder.land(str(number), body, day=DAYS[number])
        recorder.transform()
    return recorder.warehouse


@pytest.fixture
def three_authors(original: Warehouse, files: Files, copied: Callable[[Warehouse], Warehouse]) -> Iterator[Warehouse]:
    """The same for one test."""
    copy = copied(original)
    yield copy
    copy.close()


@pytest.mark.parametrize("case", BY_HAND)
@pytest.mark.sample(2)
def test_a_change_by_hand_is_found_and_corrected_and_nothing_else_is_written(
    three_authors: Warehouse, case: str
) -> None:
    statement, table, what = BY_HAND[case]
    before, untouched = tables(three_authors), places(three_authors)
    recorded = recorded_digests(three_authors)
    with three_authors.connect() as connection:
        number = connection.execute(statement.encode()).rowcount
    assert number > 0
    found = differing(three_authors)
    assert {name: each[what] for name, each in found.items()} == {table: number}
    assert tables(three_authors) != before

    run = rebuild.rebuild(three_authors, "toy", shrink=True)
    assert tables(three_authors) == before
    assert differing(three_authors) == {}
    assert changed(run.counts) == number
    ((kind, stream, partition, total),) = rows(
        three_authors,
        f"""
        select kind, stream, partition_key, created + updated + unchanged + quarantined + duplicates = fetched
        from ops.fetch_runs where fetch_run_id = '{run.id}' and status = 'partial_success' and publish_seq is not null
        """,
    )
    assert (kind, stream, partition, total) == ("rebuild", "toy", "all", True)
    written = {name: len(each - untouched[name]) for name, each in places(three_authors).items()}
    corrected = {} if what == "extra" else {table.split(".")[1]: number}
    assert {name: each for name, each in written.items() if each} == corrected
    assert recorded_digests(three_authors) == counted_digests(three_authors)
    assert {name: recorded_digests(three_authors)[name] for name in recorded} == recorded


@pytest.mark.long("rebuilds")
def test_the_command_ends_as_its_run_does(three_authors: Warehouse, atlas: Atlas) -> None:
    """One cover is rejected."""
    ended = atlas("rebuild", "toy", code=PARTIAL, DATABASE_URL=three_authors.conninfo)
    assert "1 quarantined (partial_success)" in words(ended.stdout)
    atlas("rebuild", "toy", "--check", DATABASE_URL=three_authors.conninfo)


def number_of_rows(warehouse: Warehouse) -> int:
    return sum(map(len, tables(warehouse).values()))


def test_a_version_deleted_by_hand_is_found(three_authors: Warehouse) -> None:
    with three_authors.connect() as connection:
        connection.execute("delete from staging.versions where external_id = '2'")
    assert differing(three_authors)["toy.authors"]["extra"] == 1
    before = number_of_rows(three_authors)
    run = rebuild.rebuild(three_authors, "toy")
    assert run.counts.deleted == before - number_of_rows(three_authors) > 1, "those of its books too"
    assert rows(three_authors, "select external_id from toy.authors order by 1") == [("1",), ("3",)]
    assert recorded_digests(three_authors) == counted_digests(three_authors)


@pytest.mark.long("rebuilds")
def test_other_sql_is_found_and_applied_once(three_authors: Warehouse, files: Files) -> None:
    files.change("toy/library/authors", 1)
    assert differing(three_authors)["toy.authors"]["different"] == 3
    rebuild.rebuild(three_authors, "toy")
    assert rows(three_authors, "select distinct name = upper(name), about is null from toy.authors") == [(True, True)]
    assert differing(three_authors) == {}
    before, reapplied = (
        places(three_authors),
        rows(three_authors, "select * from staging.reapplied_versions order by 1, 2"),
    )
    assert len(reapplied) == 3
    source = project.sources()["toy/library"]
    assert pending_partitions(three_authors, source) == []
    for day in DAYS:
        assert changed(transform(three_authors, source, day).counts) == 0
    assert places(three_authors) == before
    assert rows(three_authors, "select * from staging.reapplied_versions order by 1, 2") == reapplied

    files.change("toy/library/authors", 0)
    assert pending_partitions(three_authors, source) == [DAYS[1], DAYS[2], DAYS[3]]
    assert sum(changed(transform(three_authors, source, day).counts) for day in DAYS) == 3
    assert differing(three_authors) == {}


def test_rows_rejected_by_other_sql_are_in_quarantine_until_the_sql_is_restored(
    three_authors: Warehouse, files: Files
) -> None:
    """Their children are pending, and all of them fit again by the first SQL."""
    before, path = tables(three_authors), files.folder / "toy/library/authors.sql"
    text = path.read_text()
    rejected = "select table_name, row_key, reason, seen from staging.quarantine where closed_at is null order by 1, 2"
    pending = "select record_id, table_name, key, reason from staging.pending_rows"
    known, pending_before = rows(three_authors, rejected), rows(three_authors, pending)
    path.write_text(
        f"""
        select author_id, record_id, source_id, external_id,
            case when external_id <> '3' then name end as name, genre, raw
        from (\n{text}\n) as t
        """
    )
    project.selects.cache_clear()
    run = rebuild.rebuild(three_authors, "toy")
    assert run.status == "partial_success"
    assert rows(three_authors, "select external_id from toy.authors order by 1") == [("1",), ("2",)]
    found = rows(three_authors, rejected)
    assert ("toy.authors", "not_null") in {(table, reason) for table, _, reason, _ in found}
    assert run.counts.quarantined == len(found) > len(known)
    assert {(table, reason) for _, table, _, reason in rows(three_authors, pending)} > {("toy.authors", "parent")}

    path.write_text(text)
    project.selects.cache_clear()
    rebuild.rebuild(three_authors, "toy")
    assert tables(three_authors) == before
    assert [entry[:3] for entry in rows(three_authors, rejected)] == [entry[:3] for entry in known]
    assert rows(three_authors, pending) == pending_before


def test_a_shared_row_without_a_reference_is_not_written(warehouse: Warehouse, files: Files) -> None:
    """On the second day a cover is rejected, so that rows are validated one by one; on the first day they are not."""
    path = files.folder / "toy/library/author_topics.sql"
    path.write_text(f"select * from (\n{path.read_text()}\n) as t where false")
    project.selects.cache_clear()
    recorder = World(warehouse, files, random.Random(SEED)).recorders["toy/library"]
    for number, covers in enumerate(([], [cover(2, width=0)])):
        books = [book(number, covers=covers)]
        body = author(number, topics=[f"topic {number}"], books=books)
        recorder.land(str(number), body, day=DAYS[number])
    recorder.transform()
    assert rows(warehouse, "select name from toy.topics") == []
    assert differing(warehouse) == {}
    assert rows(warehouse, "select reason, table_name, row ->> 'name' from staging.quarantine order by 1, 2, 3") == [
        ("check", "toy.covers", None),
    ]


def test_rows_of_records_on_which_a_select_fails_go_and_come_back(three_authors: Warehouse, files: Files) -> None:
    before, path = tables(three_authors), files.folder / "toy/library/authors.sql"
    text = path.read_text()
    path.write_text(f"select * from (\n{text}\n) as t where 1 / (length(external_id) - 1) > -1")
    project.selects.cache_clear()
    with pytest.raises(AtlasError, match=r"more than a fifth\. Nothing is written.*run: atlas rebuild toy --shrink"):
        rebuild.rebuild(three_authors, "toy")
    assert tables(three_authors) == before
    run = rebuild.rebuild(three_authors, "toy", shrink=True)
    assert rows(three_authors, "select * from toy.authors") == []
    assert rows(three_authors, "select count(*) from staging.quarantine where reason = 'select_fails'") == [(3,)]
    assert run.counts.quarantined == 3
    assert differing(three_authors) == {}
    path.write_text(text)
    project.selects.cache_clear()
    rebuild.rebuild(three_authors, "toy")
    assert tables(three_authors) == before
    assert (
        rows(three_authors, "select from staging.quarantine where reason = 'select_fails' and closed_at is null") == []
    )


def test_the_schema_of_a_killed_process_is_dropped_with_the_next(three_authors: Warehouse) -> None:
    """That of a living process stays."""
    with three_authors.connect() as connection:
        connection.execute(
            f"create schema {TEMPORARY_PREFIX}abandoned; create table {TEMPORARY_PREFIX}abandoned.authors ()".encode()
        )
    with (
        shadow_schema.create(three_authors, "toy") as first,
        shadow_schema.create(three_authors, "toy") as second,
    ):
        there = {
            name
            for (name,) in rows(
                three_authors, f"select nspname from pg_namespace where nspname ~ '^{TEMPORARY_PREFIX}'"
            )
        }
        assert there == {str(each["authors"].schema) for each in (first, second)}
    assert rows(three_authors, f"select nspname from pg_namespace where nspname ~ '^{TEMPORARY_PREFIX}'") == []


def test_it_waits_for_no_transaction_that_reads_or_writes_other_things(three_authors: Warehouse) -> None:
    """Such as one that locks rows of ops.sources, as the foreign keys of a transform do."""
    with three_authors.connect() as other, other.transaction():
        other.execute("select * from ops.sources for key share")
        other.execute("select count(*) from toy.authors")
        with three_authors.connect() as settings:
            settings.execute(
                sql.SQL("alter database {} set lock_timeout = '5s'").format(sql.Identifier(three_authors.database))
            )
        assert differing(three_authors) == {}
