"""Invariant I3: as of any run, with the SQL of that time, the tables are what they were; removed history is reported.

`PASTS=50 make test TESTS=tests/promises/test_i3_time_travel.py` tries more random histories; PASTS_SEED chooses others.
"""

import csv
import json
import random

import pytest
from psycopg import sql

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.lineage import rebuild, time_travel
from pipelines.maintenance import erasure
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.transform import table_digests
from pipelines.warehouse.database import Warehouse
from tests.launcher import FAILED, USAGE, Atlas, words
from tests.library import DAYS, Json, author, book, cover, rows
from tests.pasts import SEED, SEEDS, Files, World, tables
from tests.runs import stream_of, transform

pytestmark = pytest.mark.usefixtures("toy")


def recorded_is_what_tables_hold(world: World, run: Run) -> None:
    """The digests that a run recorded are those of the tables."""
    project.load_tables()
    with world.warehouse.connect() as connection:
        for name, noted in run.stats.get("table_digests", {}).items():
            assert noted == table_digests.count(connection, TableSpec(metadata.tables[name])), name


@pytest.mark.long("derives past states")
@pytest.mark.parametrize("seed", SEEDS)
def test_as_of_any_run_the_tables_are_what_they_were(warehouse: Warehouse, files: Files, seed: int) -> None:
    world = World(warehouse, files, random.Random(f"{SEED} {seed}"), after=recorded_is_what_tables_hold)
    world.simulate(6)
    with warehouse.connect() as connection:
        for number, run in enumerate(world.runs):
            if run.kind == "land" and run is not world.runs[-2]:
                continue  # it did not change the tables
            snapshot = time_travel.snapshot_of_run(connection, str(run.id))
            with time_travel.as_of(warehouse, "toy", snapshot) as then:
                schema = next(iter(then.tables.values())).schema
                assert tables(warehouse, str(schema)) == world.tables_after[run.id], (
                    f"run {number}, {run.kind} {run.stream} {run.partition}"
                )
                assert then.differing_tables(connection) == []


@pytest.fixture
def world(warehouse: Warehouse, files: Files) -> World:
    return World(warehouse, files, random.Random(SEED), after=recorded_is_what_tables_hold)


def transform_day(world: World, day: str) -> None:
    """Transforms a day of the library."""
    world.record(transform(world.warehouse, world.recorders["toy/library"].source, day))


def differing(world: World) -> list[str]:
    """The tables in which rebuild finds a difference."""
    return [each["table"] for each in rebuild.check(world.warehouse, "toy") if not each["same"]]


def is_derived(world: World) -> None:
    """Rebuild finds no difference now, nor as-of after any run."""
    assert differing(world) == []
    for run in world.runs:
        as_of(world, run, "authors")


def an_author(**more: object) -> Json:
    return author(1, "heron", stats={"loans": 1, "rating": 5}) | more


@pytest.mark.long("derives past states")
def test_a_column_that_a_select_no_longer_yields_becomes_null(world: World) -> None:
    world.recorders["toy/library"].land("1", an_author(about="long"))
    transform_day(world, DAYS[0])
    world.files.change("toy/library/authors", 1)
    transform_day(world, DAYS[0])
    assert rows(world.warehouse, "select about from toy.authors") == [(None,)]
    is_derived(world)


@pytest.mark.long("derives past states")
def test_other_sql_is_applied_to_all_of_a_record_that_lands_on_another_day(world: World) -> None:
    """To its older counters too, which had landed on the first day."""
    recorder = world.recorders["toy/library"]
    recorder.land("1", an_author())
    transform_day(world, DAYS[0])
    assert rows(world.warehouse, "select rating is not null from toy.loans") == [(True,)]
    is_derived(world)
    world.files.change("toy/library/loans", 0)
    recorder.land("1", an_author(name="otter"), day=DAYS[1])
    transform_day(world, DAYS[1])
    assert rows(world.warehouse, "select rating from toy.loans") == [(None,)]


@pytest.mark.long("derives past states")
def test_a_row_that_loses_its_parent_is_counted_and_recorded(world: World) -> None:
    recorder = world.recorders["toy/library"]
    recorder.land("1", an_author(books=[book(11)]))
    recorder.land("7", cover(7, book=11), kind="covers")
    transform_day(world, DAYS[0])
    recorder.land("1", an_author(books=[]))
    transform_day(world, DAYS[0])
    assert world.runs[-1].stats["tables"]["toy.covers"]["updated"] == 1
    assert rows(world.warehouse, "select book_id from toy.covers") == [(None,)]
    is_derived(world)


@pytest.mark.long("derives past states")
def test_a_row_that_changes_its_parent_stays_the_same_row(world: World) -> None:
    """Even if the former parent is deleted in the same run."""
    recorder = world.recorders["toy/library"]
    created = "select xmin::text, created_at from toy.books"
    versions = [book(11)]
    recorder.land("1", an_author(books=versions))
    transform_day(world, DAYS[0])
    ((_, before),) = rows(world.warehouse, created)
    recorder.land("2", an_author(id=2, books=versions))
    recorder.full_refresh("1")
    transform_day(world, DAYS[0])
    assert world.runs[-1].stats["tables"]["toy.books"]["updated"] == 1
    assert rows(world.warehouse, created)[0][1] == before
    is_derived(world)


@pytest.mark.long("derives past states")
def test_counters_of_a_newer_payload_are_pending_until_it_is_applied(world: World) -> None:
    """A key conflict brings the older version into the change set before the newer one is applied."""
    recorder = world.recorders["toy/library"]
    body = an_author(books=[book(11, covers=[cover(7)])])
    recorder.land("1", body)
    transform_day(world, DAYS[0])
    recorder.land("1", body | {"name": "otter", "stats": {"loans": 2}}, day=DAYS[1])
    recorder.land("7", cover(7), kind="covers", day=DAYS[2])
    transform_day(world, DAYS[2])
    assert rows(world.warehouse, "select loans from toy.loans") == [(1,)]
    transform_day(world, DAYS[1])
    assert rows(world.warehouse, "select loans from toy.loans order by 1") == [(1,), (2,)]
    is_derived(world)


@pytest.mark.long("derives past states")
def test_rows_of_two_streams_that_go_at_once_are_left_out_of_the_digest_once(world: World) -> None:
    recorder = world.recorders["toy/library"]
    recorder.land("1", an_author(books=[book(11, covers=[cover(7)])]))
    for name in ("8", "9"):
        recorder.land(name, cover(int(name)), kind="covers")
    transform_day(world, DAYS[0])
    recorder.land("1", an_author(books=[]))
    recorder.full_refresh("8", kind="covers")
    transform_day(world, DAYS[0])
    deleted = [run.stats["tables"]["toy.covers"]["deleted"] for run in world.runs[-2:]]
    assert sum(deleted) == 2, deleted
    assert rows(world.warehouse, "select external_id from toy.covers") == [("9",)]
    is_derived(world)


def fail_on(world: World, table: str, record: str) -> None:
    """Makes a SELECT of the library fail on one record."""
    path = world.files.folder / f"toy/library/{table}.sql"
    condition = f"1 / (case when external_id = '{record}' then 0 else 1 end) > 0"
    path.write_text(f"select * from (\n{path.read_text()}\n) as o where {condition}")
    project.selects.cache_clear()


@pytest.mark.long("derives past states")
def test_a_record_on_which_a_select_fails_has_no_rows_in_the_past_either(world: World) -> None:
    """Its rows go, stay away while its counters change, and come back with the first text."""
    recorder = world.recorders["toy/library"]
    recorder.land("1", an_author())
    transform_day(world, DAYS[0])
    path = world.files.folder / "toy/library/authors.sql"
    text = path.read_text()
    fail_on(world, "authors", "1")
    transform_day(world, DAYS[0])
    recorder.land("1", an_author(stats={"loans": 2}), day=DAYS[1])
    transform_day(world, DAYS[1])
    path.write_text(text)
    project.selects.cache_clear()
    transform_day(world, DAYS[0])
    for run, loans in zip(world.runs, ([1], [], [], [1, 2]), strict=True):
        found = [row["loans"] for row in as_of(world, run, "loans")]
        assert sorted(found) == loans
    assert differing(world) == []


def as_of(world: World, run: Run, table: str) -> list[Json]:
    """The rows of a table as of a run, of which as-of finds that they are what was recorded."""
    with world.warehouse.connect() as connection:
        snapshot = time_travel.snapshot_of_run(connection, str(run.id))
        with time_travel.as_of(world.warehouse, "toy", snapshot) as then:
            assert then.differing_tables(connection) == []
            return connection.execute(sql.SQL("select * from {}").format(then.table_spec(table).target)).fetchall()


@pytest.mark.long("derives past states")
def test_rows_that_refer_to_those_of_a_record_on_which_a_select_fails_are_exact_in_the_past(world: World) -> None:
    """A SELECT fails on the author whose book a cover refers to."""
    recorder = world.recorders["toy/library"]
    recorder.land("1", an_author(books=[book(11)]))
    recorder.land("7", cover(7, book=11), kind="covers")
    transform_day(world, DAYS[0])
    fail_on(world, "authors", "1")
    transform_day(world, DAYS[0])
    assert rows(world.warehouse, "select book_id from toy.covers") == [(None,)]
    recorder.land("1", an_author(name="otter", books=[book(11)]), day=DAYS[1])
    fail_on(world, "covers", "8")
    transform_day(world, DAYS[1])
    transform_day(world, DAYS[0])
    referred = [[row["book_id"] is not None for row in as_of(world, run, "covers")] for run in world.runs]
    assert referred == [[True], [False], [False], [False]]
    assert differing(world) == []


@pytest.fixture
def two_runs(warehouse: Warehouse, files: Files) -> tuple[Warehouse, Run, Run, Run]:
    """An author is transformed, lands with another name, and is transformed again."""
    recorder = World(warehouse, files, random.Random(SEED)).recorders["toy/library"]
    recorder.land("1", author(1, "heron"))
    first = transform(warehouse, recorder.source, DAYS[0])
    landed = recorder.land("1", author(1, "otter"), day=DAYS[1])
    return warehouse, first, landed, transform(warehouse, recorder.source, DAYS[1])


@pytest.mark.long("derives past states")
def test_the_command_prints_a_table_as_it_was(two_runs: tuple[Warehouse, Run, Run, Run], atlas: Atlas) -> None:
    warehouse, first, landed, second = two_runs
    printed = atlas("as-of", first.id, "toy.authors")
    (row,) = csv.DictReader(printed.stdout.splitlines())
    assert row["name"] == "heron" and "created_at" not in row
    assert f"as recorded by run {first.id}" in words(printed.stderr)
    for run, name in ((landed, "heron"), (second, "otter")):
        (row,) = json.loads(atlas("as-of", run.id, "toy.authors", "--json", "--limit", 1).stdout)["rows"]
        assert row["name"] == name
    atlas("as-of", first.id, "--schema", "before")
    joined = "select t.name, n.name from before.authors t join toy.authors n using (author_id)"
    assert rows(warehouse, joined) == [("heron", "otter")]
    assert "The schema 'before' already exists" in words(
        atlas("as-of", first.id, "--schema", "before", code=USAGE).stderr
    )

    with warehouse.connect() as connection:
        connection.execute("update staging.versions set valid_to_run = valid_from_run where valid_to_run is not null")
    touched = words(atlas("as-of", first.id, "toy.authors", code=FAILED).stderr)
    assert f"These tables differ from what run {first.id} recorded: toy.authors" in touched
    differing = atlas("diff", first.id, second.id, code=FAILED)
    assert f"These tables differ from what run {first.id} recorded" in words(differing.stderr)
    assert "differing row" in differing.stdout


def test_the_command_names_the_run_that_erased_what_it_cannot_show(
    two_runs: tuple[Warehouse, Run, Run, Run], atlas: Atlas
) -> None:
    warehouse, first, *_ = two_runs
    run = erasure.erase(warehouse, stream_of(project.sources()["toy/library"]), "toy/library.authors", "1")
    said = words(atlas("as-of", first.id, "toy.authors", code=FAILED).stderr)
    assert f"These tables differ from what run {first.id} recorded: toy.authors" in said
    assert f"History was removed since then: run {run.id} erased a record" in said


def test_a_kept_schema_appears_when_it_is_complete(two_runs: tuple[Warehouse, Run, Run, Run]) -> None:
    warehouse, first, *_ = two_runs
    there = "select nspname from pg_namespace where nspname = 'kept' or nspname ~ '^atlas_shadow'"
    with warehouse.connect() as connection:
        snapshot = time_travel.snapshot_of_run(connection, str(first.id))
    with pytest.raises(RuntimeError), time_travel.as_of(warehouse, "toy", snapshot, schema="kept"):
        raise RuntimeError
    assert rows(warehouse, there) == []
    with time_travel.as_of(warehouse, "toy", snapshot, schema="kept"):
        ((temporary,),) = rows(warehouse, there)
        assert temporary != "kept"
    assert rows(warehouse, there) == [("kept",)]
    for name, why in (("kept", "The schema 'kept' already exists"), ("pg_kept", "cannot be called 'pg_kept'")):
        with pytest.raises(AtlasError, match=why), time_travel.as_of(warehouse, "toy", snapshot, schema=name):
            pass
    assert rows(warehouse, there) == [("kept",)]


@pytest.mark.long("derives past states")
def test_the_command_explains_what_it_cannot_show(
    two_runs: tuple[Warehouse, Run, Run, Run], atlas: Atlas, subtests: pytest.Subtests
) -> None:
    warehouse, first, *_ = two_runs
    insert = "insert into ops.fetch_runs (stream, kind, asset_key, partition_key, status, code_version, ended_at)"
    insert += " values ('toy/library', 'land', 'x', '2026-11-01', 'failed', 'x', now()) returning fetch_run_id"
    run, failed = str(first.id), str(rows(warehouse, insert)[0][0])
    for arguments, code, said in (
        (["ffff", "toy.authors"], USAGE, "There is no run 'ffff' in the ledger. List the runs with: atlas runs"),
        (["0", "toy.authors"], USAGE, "There is more than one run '0'"),
        (["%", "toy.authors"], USAGE, "There is no run '%'"),
        ([run], USAGE, "Name either a TABLE to print, or a schema to create: --schema NAME."),
        ([run, "--schema", ""], USAGE, "Name either a TABLE to print, or a schema to create: --schema NAME."),
        ([run, "toy.nothing"], USAGE, "There is no table 'toy.nothing' in toy."),
        ([run, "ops.sql"], USAGE, "There is no domain 'ops'. There are: toy."),
        ([failed, "toy.authors"], FAILED, "has published nothing"),
    ):
        with subtests.test(said):
            assert said in words(atlas("as-of", *arguments, code=code).stderr)
            assert rows(warehouse, "select nspname from pg_namespace where nspname ~ '^atlas_shadow'") == []
