"""`atlas diff`: the rows and cells that differ between two runs, and the cause of each."""

import json
import random
from typing import Any

import pytest

from pipelines.ledger import Run
from pipelines.lineage import rebuild, time_travel
from pipelines.warehouse.database import Warehouse
from tests.launcher import Atlas, words
from tests.library import DAYS, Recorder, author, book, cover, rows
from tests.pasts import SEED, SEEDS, Files, World
from tests.runs import transform

pytestmark = pytest.mark.usefixtures("toy")

Rows = dict[tuple[str, str], dict[str, Any]]
ENGINES_OWN = {"created_at", "updated_at"}


@pytest.fixture
def recorder(warehouse: Warehouse, files: Files) -> Recorder:
    return World(warehouse, files, random.Random(SEED)).recorders["toy/library"]


def differences(warehouse: Warehouse, before: Run, after: Run) -> tuple[list[dict[str, Any]], Rows, Rows]:
    """What `atlas diff` reports, and the rows of both sides."""
    with warehouse.connect() as connection:
        first, second = (time_travel.snapshot_of_run(connection, str(run.id)) for run in (before, after))
        with (
            time_travel.as_of(warehouse, "toy", first) as old,
            time_travel.as_of(warehouse, "toy", second) as new,
        ):
            found = list(time_travel.differences(connection, old, new))
            return found, all_rows(warehouse, old), all_rows(warehouse, new)


def all_rows(warehouse: Warehouse, then: time_travel.DomainAsOf) -> Rows:
    found: Rows = {}
    for name in then.tables:
        shape = then.table_spec(f"toy.{name}")
        key = " || ' ' || ".join(f"t.{column}::text" for column in shape.key)
        for text, row in rows(warehouse, f"select {key}, to_jsonb(t) from {shape.name} t"):
            found[f"toy.{name}", text] = {column: row[column] for column in row.keys() - ENGINES_OWN}
    return found


@pytest.mark.long("derives the states of two runs")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_differences_applied_to_one_side_give_the_other(warehouse: Warehouse, files: Files, seed: int) -> None:
    world = World(warehouse, files, random.Random(f"diff {SEED} {seed}"))
    world.simulate(6)
    transforms = [run for run in world.runs if run.kind == "transform"]
    for before, after in ((transforms[1], transforms[-1]), (transforms[-1], transforms[len(transforms) // 2])):
        found, old, new = differences(warehouse, before, after)
        assert found
        for each in found:
            place = (each["table"], each["key"])
            cells = {column: to for column, (_, to) in each["cells"].items()}
            if each["change"] == "removed":
                del old[place]
            elif each["change"] == "added":
                assert place not in old
                old[place] = dict.fromkeys(new[place]) | cells
            else:
                assert cells and all(old[place][column] == was for column, (was, _) in each["cells"].items())
                old[place] |= cells
        assert old == new


def causes(warehouse: Warehouse, before: Run, after: Run) -> dict[tuple[str, str], str]:
    """The cause of each change, by table and change."""
    return {(each["table"], each["change"]): each["cause"] for each in differences(warehouse, before, after)[0]}


@pytest.mark.long("derives the state after each of many runs")
def test_each_cause_is_reported(recorder: Recorder, files: Files) -> None:
    first = author(1, "heron", topics=["a"], loans=1)
    recorder.land("1", first)
    begun = transform(recorder.warehouse, recorder.source, DAYS[0])
    recorder.land("1", first | {"name": "otter", "topics": ["b"]})
    renamed = transform(recorder.warehouse, recorder.source, DAYS[0])
    assert causes(recorder.warehouse, begun, renamed) == {
        ("toy.authors", "changed"): "payload",
        ("toy.author_topics", "added"): "payload",
        ("toy.author_topics", "removed"): "payload",
        ("toy.topics", "added"): "rows that refer to it",
        ("toy.topics", "removed"): "rows that refer to it",
    }
    recorder.land("1", first | {"name": "otter", "topics": ["b"], "stats": {"loans": 2}})
    counted = transform(recorder.warehouse, recorder.source, DAYS[0])
    assert causes(recorder.warehouse, renamed, counted) == {("toy.loans", "added"): "counters"}
    files.change("toy/library/authors", 1)
    written = transform(recorder.warehouse, recorder.source, DAYS[0])
    assert causes(recorder.warehouse, counted, written) == {("toy.authors", "changed"): "sql"}
    files.change("toy/library/authors", None)
    rebuilt = rebuild.rebuild(recorder.warehouse, "toy")
    assert causes(recorder.warehouse, written, rebuilt) == {("toy.authors", "changed"): "sql"}
    assert causes(recorder.warehouse, counted, rebuilt) == {}


@pytest.mark.long("derives the states of two runs")
def test_a_row_that_wins_a_key_conflict_has_another_row_as_its_cause(recorder: Recorder) -> None:
    """A parent that is added changes a reference."""
    recorder.land("7", cover(7, book=11), kind="covers")
    alone = transform(recorder.warehouse, recorder.source, DAYS[0])
    recorder.land("1", author(1, books=[book(11)]))
    parent = transform(recorder.warehouse, recorder.source, DAYS[0])
    found = causes(recorder.warehouse, alone, parent)
    assert found["toy.covers", "changed"] == "another row"
    assert found["toy.books", "added"] == "payload"


@pytest.mark.long("builds the tables of two runs, six times")
def test_the_command_prints_rows_and_cells(recorder: Recorder, atlas: Atlas) -> None:
    recorder.land("1", author(1, "heron"))
    first = transform(recorder.warehouse, recorder.source, DAYS[0])
    recorder.land("1", author(1, "otter"))
    second = transform(recorder.warehouse, recorder.source, DAYS[0])
    shown = words(atlas("diff", first.id, second.id).stdout)
    assert "changed toy.authors" in shown and "(payload made here, 1)" in shown and "name: heron → otter" in shown
    assert "1 differing row" in shown
    (each,) = json.loads(atlas("diff", first.id, second.id, "--json", "--table", "toy.authors").stdout)["differences"]
    assert each["cells"]["name"] == ["heron", "otter"]
    nothing = json.loads(atlas("diff", first.id, second.id, "--json", "--table", "toy.topics").stdout)
    assert nothing == {"differences": [], "taken_as_now": []}
