"""`atlas diff`: the rows and cells that differ between two runs, and the cause of each."""

import json
import random
from typing import Any

import pytest

from pipelines.ledger import Run
from pipelines.lineage import rebuild, snapshots, time_travel
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse
from tests.launcher import Atlas, words
from tests.pasts import SEED, SEEDS, Files, World, files
from tests.transform.test_change_set import DAYS, Recorder, any_image, rows

__all__ = ["files"]

Rows = dict[tuple[str, str], dict[str, Any]]
ENGINES_OWN = {"created_at", "updated_at"}


@pytest.fixture
def told(warehouse: Warehouse, files: Files) -> Recorder:
    return World(warehouse, files, random.Random(SEED)).told["catalog/civitai"]


def differences(warehouse: Warehouse, before: Run, after: Run) -> tuple[list[dict[str, Any]], Rows, Rows]:
    """What `atlas diff` reports, and the rows of both sides."""
    with warehouse.connect() as connection:
        first, second = (snapshots.snapshot_of_run(connection, str(run.id)) for run in (before, after))
        with (
            time_travel.as_of(warehouse, "catalog", first) as old,
            time_travel.as_of(warehouse, "catalog", second) as new,
        ):
            found = list(time_travel.differences(connection, old, new))
            return found, all_rows(warehouse, old), all_rows(warehouse, new)


def all_rows(warehouse: Warehouse, then: time_travel.DomainAsOf) -> Rows:
    found: Rows = {}
    for name in then.tables:
        shape = then.table_spec(f"catalog.{name}")
        key = " || ' ' || ".join(f"t.{column}::text" for column in shape.key)
        for text, row in rows(warehouse, f"select {key}, to_jsonb(t) from {shape.name} t"):
            found[f"catalog.{name}", text] = {column: row[column] for column in row.keys() - ENGINES_OWN}
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_the_differences_applied_to_one_side_give_the_other(warehouse: Warehouse, files: Files, seed: int) -> None:
    world = World(warehouse, files, random.Random(f"diff {SEED} {seed}"))
    world.simulate(9)
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


def test_each_cause_is_reported(told: Recorder, files: Files) -> None:
    first: dict[str, Any] = {"id": 1, "name": "heron", "type": "LORA", "tags": ["a"], "stats": {"downloadCount": 1}}
    told.land("1", first, kind="models")
    begun = transform(told.warehouse, told.source, DAYS[0])
    told.land("1", first | {"name": "otter", "tags": ["b"]}, kind="models")
    renamed = transform(told.warehouse, told.source, DAYS[0])
    assert causes(told.warehouse, begun, renamed) == {
        ("catalog.models", "changed"): "payload",
        ("catalog.model_tags", "added"): "payload",
        ("catalog.model_tags", "removed"): "payload",
        ("catalog.tags", "added"): "rows that refer to it",
        ("catalog.tags", "removed"): "rows that refer to it",
    }
    told.land("1", first | {"name": "otter", "tags": ["b"], "stats": {"downloadCount": 2}}, kind="models")
    counted = transform(told.warehouse, told.source, DAYS[0])
    assert causes(told.warehouse, renamed, counted) == {("catalog.model_stats", "added"): "counters"}
    files.change("catalog/civitai/models", 1)
    written = transform(told.warehouse, told.source, DAYS[0])
    assert causes(told.warehouse, counted, written) == {("catalog.models", "changed"): "sql"}
    files.change("catalog/civitai/models", None)
    rebuilt = rebuild.rebuild(told.warehouse, "catalog", workers=2)
    assert causes(told.warehouse, written, rebuilt) == {("catalog.models", "changed"): "sql"}
    assert causes(told.warehouse, counted, rebuilt) == {}


def test_a_row_that_wins_a_key_conflict_has_another_row_as_its_cause(told: Recorder) -> None:
    """The image of the listing wins over that of the model, and a parent that is added changes a reference."""
    image = any_image(random.Random(1), 7)
    told.land("7", image | {"modelVersionIds": [11]}, kind="images")
    alone = transform(told.warehouse, told.source, DAYS[0])
    told.land("1", {"id": 1, "name": "m", "type": "LORA", "modelVersions": [{"id": 11, "name": "v"}]}, kind="models")
    parent = transform(told.warehouse, told.source, DAYS[0])
    found = causes(told.warehouse, alone, parent)
    assert found["catalog.images", "changed"] == "another row"
    assert found["catalog.model_versions", "added"] == "payload"


def test_the_command_prints_rows_and_cells(told: Recorder, atlas: Atlas) -> None:
    told.land("1", {"id": 1, "name": "heron", "type": "LORA"}, kind="models")
    first = transform(told.warehouse, told.source, DAYS[0])
    told.land("1", {"id": 1, "name": "otter", "type": "LORA"}, kind="models")
    second = transform(told.warehouse, told.source, DAYS[0])
    shown = words(atlas("diff", first.id, second.id).stdout)
    assert "changed catalog.models" in shown and "(payload told of 1)" in shown and "name: heron → otter" in shown
    assert "1 differing row" in shown
    (each,) = json.loads(atlas("diff", first.id, second.id, "--json", "--table", "catalog.models").stdout)
    assert each["cells"]["name"] == ["heron", "otter"]
    assert json.loads(atlas("diff", first.id, second.id, "--json", "--table", "catalog.tags").stdout) == []
