"""Values that do not fit a column that its row can do without: NULL in the table, and an entry in quarantine."""

from typing import Any

import pytest
from sqlalchemy import CheckConstraint, Column, Computed, ForeignKey, Index, Integer, MetaData, Table, Text, text

from pipelines import project
from pipelines.ledger import Run
from pipelines.lineage import rebuild, time_travel
from pipelines.schema import objects
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse
from tests.library import DAYS, Json, Recorder, author, book, copy, cover, rows, shown, tuples, whole
from tests.pasts import Files
from tests.runs import transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]


def inside(number: int, **more: Any) -> Json:
    """A whole author whose one book is changed."""
    found = whole(number)
    found["books"][0] |= more
    return found


def take(recorder: Recorder, *bodies: Json) -> Run:
    """Lands and transforms authors."""
    recorder.land_all({str(body["id"]): body for body in bodies})
    return transform(recorder.warehouse, recorder.source, DAYS[0])


def entries(warehouse: Warehouse, *, closed: bool = False) -> list[tuple[Any, ...]]:
    """Granularity, table, reason, column and what is kept, of each open, or closed, entry of a transform."""
    return rows(
        warehouse,
        """
        select granularity, table_name, reason, constraint_name, row from staging.quarantine
        where stage = 'transform' and (closed_at is not null) = %s order by quarantine_id
        """,
        [closed],
    )


def assert_derived(warehouse: Warehouse) -> None:
    """Tables and digests are what staging gives, now and as of each transform; nothing is written a second time."""
    assert [each for each in rebuild.check(warehouse, "toy") if not each["same"]] == []
    for run in shown(warehouse, "select fetch_run_id from ops.fetch_runs where kind = 'transform'"):
        with warehouse.connect() as connection:
            snapshot = time_travel.snapshot_of_run(connection, str(run))
            with time_travel.as_of(warehouse, "toy", snapshot) as then:
                assert then.differing_tables(connection) == []
    before = tuples(warehouse)
    counts = transform(warehouse, project.sources()["toy/library"], DAYS[0], full=True).counts
    assert (counts.created, counts.updated, counts.deleted) == (0, 0, 0)
    after = tuples(warehouse)
    assert {table for table in before if before[table] != after[table]} <= {"staging.quarantine"}


VALUES: dict[str, tuple[Json, str, str, str, Any]] = {
    "a time that is none": (inside(2, published="soon"), "books", "type", "published_at", "soon"),
    "a time on no calendar": (inside(2, published="2026-02-30"), "books", "type", "published_at", "2026-02-30"),
    "a time that is another one tomorrow": (inside(2, published="now"), "books", "type", "published_at", "now"),
    "an abbreviated hash": (inside(2, copies=[copy(200, sha256="AB")]), "copies", "check", "sha256", "AB"),
    "a negative number": (inside(2, copies=[copy(200, pages=-1)]), "copies", "check", "pages", -1),
    "a number beyond bigint": (inside(2, copies=[copy(200, pages=10**20)]), "copies", "type", "pages", 10**20),
    "a height of 1.5": (inside(2, covers=[cover(200, height=1.5)]), "covers", "type", "height", 1.5),
    "an array that is none": (whole(2, languages="en"), "authors", "type", "languages", '"en"'),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.sample(2)
def test_a_value_that_does_not_fit_is_null_until_it_does(warehouse: Warehouse, library: Source, kind: str) -> None:
    body, table, reason, column, value = VALUES[kind]
    recorder = Recorder(warehouse, library)
    run = take(recorder, whole(1), body, whole(3))
    assert (run.status, run.counts.quarantined, run.counts.pending, run.stats["values"]) == ("completed", 0, 0, 1)
    assert entries(warehouse) == [("value", f"toy.{table}", reason, column, {column: value})]
    query = f"select {column} from toy.{table} join staging.versions using (record_id) where versions.external_id = '2'"
    assert shown(warehouse, query) == [None]
    assert_derived(warehouse)
    assert shown(warehouse, "select seen from staging.quarantine") == [2]
    run = take(recorder, whole(2, about="mended"))
    assert (entries(warehouse), run.stats["values"]) == ([], 0)
    assert entries(warehouse, closed=True) == [("value", f"toy.{table}", reason, column, {column: value})]
    take(recorder, body)
    assert entries(warehouse) == [("value", f"toy.{table}", reason, column, {column: value})]


def test_a_strict_column_takes_its_row_with_it(warehouse: Warehouse, library: Source) -> None:
    run = take(Recorder(warehouse, library), inside(2, covers=[cover(200, width=0, height=1.5)]))
    assert run.counts.quarantined == 1
    ((granularity, table, reason, constraint, row),) = entries(warehouse)
    assert (granularity, table, reason, constraint) == ("row", "toy.covers", "check", "covers_width_check")
    assert (row["width"], row["height"]) == ("0", 1.5), "the row as it was yielded, without entries of its values"
    assert_derived(warehouse)


def test_values_of_rows_that_are_not_written_have_no_entries(warehouse: Warehouse, library: Source) -> None:
    """Of two copies with one key one is written; that of a rejected author's book is pending."""
    pending = inside(2, copies=[copy(200, pages=-1)]) | {"name": "x" * 101}
    run = take(Recorder(warehouse, library), inside(1, copies=[copy(100, pages=-1), copy(100, pages=-2)]), pending)
    assert run.counts.duplicates == 1
    found = [entry for entry in entries(warehouse) if entry[1] == "toy.copies"]
    assert [(granularity, row["pages"] in (-1, -2)) for granularity, *_, row in found] == [("value", True)]
    assert_derived(warehouse)


def test_two_values_of_a_row_are_two_entries(warehouse: Warehouse, library: Source) -> None:
    run = take(Recorder(warehouse, library), inside(1, copies=[copy(100, pages=-1, sha256="AB")]))
    assert run.stats["values"] == 2
    assert sorted(entries(warehouse)) == [
        ("value", "toy.copies", "check", "pages", {"pages": -1}),
        ("value", "toy.copies", "check", "sha256", {"sha256": "AB"}),
    ]


def test_a_column_that_the_select_does_not_yield_has_no_values(warehouse: Warehouse, files: Files) -> None:
    files.change("toy/library/copies", 0)  # it yields no sha256, which has a CHECK
    run = take(Recorder(warehouse, project.sources()["toy/library"]), inside(1, copies=[copy(100, pages=-1)]))
    assert run.stats["values"] == 1


@pytest.mark.long("a dozen runs")
def test_a_value_of_an_earlier_observation_stays_in_quarantine(warehouse: Warehouse, library: Source) -> None:
    recorder = Recorder(warehouse, library)
    for loans in ("many", 2, 3):
        take(recorder, author(1) | {"stats": {"loans": loans}})
    assert shown(warehouse, "select loans from toy.loans order by observed_at") == [None, 2, 3]
    assert entries(warehouse) == [("value", "toy.loans", "type", "loans", {"loans": "many"})]
    assert_derived(warehouse)


def test_a_check_that_null_does_not_pass_either_takes_the_row(warehouse: Warehouse, shelf: Source) -> None:
    table, check = metadata.tables["toy.notes"], CheckConstraint("coalesce(rank, 0) > 0", name="rank")
    with warehouse.connect() as connection:
        connection.execute("alter table toy.notes add constraint notes_rank_check check (coalesce(rank, 0) > 0)")
    table.append_constraint(check)
    try:
        recorder = Recorder(warehouse, shelf)
        recorder.land_all({name: {"id": name, "words": name, "rank": rank} for name, rank in (("a", 1), ("b", 0))})
        recorder.transform()
    finally:
        table.constraints.discard(check)
    assert shown(warehouse, "select words from toy.notes") == ["a"]
    assert [entry[:4] for entry in entries(warehouse)] == [("row", "toy.notes", "check", "notes_rank_check")]


def test_a_column_that_decides_something_is_not_lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(
        "t",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("parent_id", Integer, ForeignKey("ops.sources.source_id")),
        *(Column(name, Integer) for name in ("plain", "checked", "low", "high", "seen_by", "partial", "condition")),
        *(Column(name, Text) for name in ("unique_part", "generated_from", "indexed")),
        Column("strict", Integer, info={"strict": True}),
        Column("required", Integer, nullable=False),
        Column("generated", Text, Computed("lower(generated_from)"), nullable=False),
        CheckConstraint("checked > 0", name="one"),
        CheckConstraint("low < high", name="two"),
        Index("u", text("lower(unique_part)"), unique=True),
        Index("p", "partial", postgresql_where=text("condition > 0")),
        Index("i", "indexed"),
        schema="a",
        info={"kind": "owned"},
    )
    policy = objects.SqlObject("policy", "own on a.t", "create policy own on a.t using (seen_by = 1)")
    monkeypatch.setitem(objects.DECLARED, policy.name, policy)
    assert TableSpec(table).lenient == {"plain", "checked", "indexed"}
    assert TableSpec(table).optional == {"plain", "checked", "indexed", "strict"}


def test_rows_that_refer_to_a_rejected_row_are_counted(warehouse: Warehouse, library: Source) -> None:
    """Two topics, one book, and the cover that is written without its author."""
    recorder = Recorder(warehouse, library)
    waiting = "select sum(rows)::int from staging.pending_rows where (table_name, reason) = ('toy.authors', 'parent')"
    take(recorder, whole(2, name="x" * 101))
    before = shown(warehouse, waiting)
    take(recorder, whole(2, name="x" * 101, books=[book(1), book(2), book(3)]))
    assert (before, shown(warehouse, waiting)) == ([5], [5])
