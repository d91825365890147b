"""Invariant I3: as of any run, with the SQL of then, the tables are what they were; a touched history is told.

`PASTS=50 make test TESTS=tests/test_i3_time_travel.py` tries more histories by chance; PASTS_SEED others.
"""

import csv
import json
import random
from collections.abc import Iterator

import pytest

from pipelines import content, history, house, travel
from pipelines.ledger import Run
from pipelines.transform import transform
from pipelines.warehouse.engine import Warehouse
from pipelines.warehouse.shape import Shape
from pipelines.warehouse.tables import metadata
from tests.pasts import SAYS, SEED, SEEDS, Files, World, changing_files, tables
from tests.test_cli import FAILED, USAGE, Atlas, atlas, words
from tests.test_scope import DAYS, rows

__all__ = ["atlas"]


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with changing_files(tmp_path_factory.mktemp("house") / "sql", tuple(SAYS)) as files:
        yield files


def recorded_is_what_tables_hold(world: World, run: Run) -> None:
    """A run's record of what it left behind is what reading the tables tells."""
    house.load_tables()
    with world.warehouse.connect() as connection:
        for name, noted in run.stats.get("content", {}).items():
            counted = content.counted(connection, Shape(metadata.tables[name]))
            assert noted == {"rows": counted["rows"], "digest": content.written(counted["digest"])}, name


@pytest.mark.parametrize("seed", SEEDS)
def test_as_of_any_run_the_tables_are_what_they_were(warehouse: Warehouse, files: Files, seed: int) -> None:
    world = World(warehouse, files, random.Random(f"{SEED} {seed}"), after=recorded_is_what_tables_hold)
    world.live(9)
    with warehouse.connect() as connection:
        for number, run in enumerate(world.runs):
            if run.kind == "land" and run is not world.runs[-2]:
                continue  # it has left the tables as they were
            moment = history.moment(connection, str(run.id))
            with travel.as_of(warehouse, "catalog", moment) as then:
                schema = next(iter(then.tables.values())).schema
                assert tables(warehouse, str(schema)) == world.held[run.id], (
                    f"run {number}, {run.kind} {run.source} {run.partition}"
                )
                assert then.differing(connection) == []


@pytest.fixture
def two_runs(warehouse: Warehouse, files: Files) -> tuple[Warehouse, Run, Run, Run]:
    """A model taken in, landed under another name, and that taken in."""
    told = World(warehouse, files, random.Random(SEED)).told["catalog/civitai"]
    told.land("1", {"id": 1, "name": "heron", "type": "LORA"}, kind="models")
    first = transform(warehouse, told.source, DAYS[0])
    landed = told.land("1", {"id": 1, "name": "otter", "type": "LORA"}, kind="models", day=DAYS[1])
    return warehouse, first, landed, transform(warehouse, told.source, DAYS[1])


def test_the_command_prints_a_table_as_it_was(two_runs: tuple[Warehouse, Run, Run, Run], atlas: Atlas) -> None:
    warehouse, first, landed, second = two_runs
    printed = atlas("as-of", first.id, "catalog.models")
    (row,) = csv.DictReader(printed.stdout.splitlines())
    assert row["name"] == "heron" and "created_at" not in row
    assert f"as recorded by run {first.id}" in words(printed.stderr)
    for run, name in ((landed, "heron"), (second, "otter")):
        (told,) = json.loads(atlas("as-of", run.id, "catalog.models", "--json", "--limit", 1).stdout)
        assert told["name"] == name
    atlas("as-of", first.id, "--schema", "before")
    joined = "select t.name, n.name from before.models t join catalog.models n using (model_id)"
    assert rows(warehouse, joined) == [("heron", "otter")]
    assert "There is a schema 'before' already" in words(
        atlas("as-of", first.id, "--schema", "before", code=USAGE).stderr
    )

    with warehouse.connect() as connection:
        connection.execute("update staging.versions set to_run = from_run where to_run is not null")
    touched = words(atlas("as-of", first.id, "catalog.models", code=FAILED).stderr)
    assert f"This is not quite what run {first.id} recorded: catalog.models" in touched


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["ffff", "catalog.models"], USAGE, "There is no run 'ffff' in the ledger. See them with: atlas runs"),
        (["0", "catalog.models"], USAGE, "There is more than one run '0'"),
        (["%", "catalog.models"], USAGE, "There is no run '%'"),
        (["RUN"], USAGE, "Name a TABLE to print, or a schema to make: --schema NAME."),
        (["RUN", "--schema", ""], USAGE, "Name a TABLE to print, or a schema to make: --schema NAME."),
        (["RUN", "catalog.nothing"], USAGE, "There is no table 'catalog.nothing' in catalog."),
        (["RUN", "ops.sql"], USAGE, "There is no domain 'ops'. There are: catalog."),
        (["FAILED", "catalog.models"], FAILED, "has published nothing"),
    ],
)
def test_what_the_command_cannot_show_it_says(
    two_runs: tuple[Warehouse, Run, Run, Run], atlas: Atlas, arguments: list[str], code: int, told: str
) -> None:
    warehouse, first, *_ = two_runs
    failed = "insert into ops.fetch_runs (stream, kind, asset_key, partition_key, status, code_version, ended_at)"
    failed += " values ('catalog/civitai', 'land', 'x', '2026-11-01', 'failed', 'x', now()) returning fetch_run_id"
    names = {"RUN": str(first.id), "FAILED": str(rows(warehouse, failed)[0][0])}
    assert told in words(atlas("as-of", *(names.get(each, each) for each in arguments), code=code).stderr)
    assert rows(warehouse, "select nspname from pg_namespace where nspname ~ '^atlas_passing'") == []
