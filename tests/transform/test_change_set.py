"""The change set and its dependent records: in whatever order records arrive, change and go, the tables are the same.

Each test compares with one load of everything at once: the bytes of all tables less their audit columns, the
pending rows, and the open entries of quarantine.
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from psycopg import sql
from psycopg.rows import tuple_row

from pipelines import project
from pipelines.landing.intake import Intake
from pipelines.landing.land import land_intake, land_items
from pipelines.ledger import Run
from pipelines.source import Contract, FullScan, Item, Payload, Source
from pipelines.transform.run import pending_partitions, transform
from pipelines.warehouse.database import Warehouse
from pipelines.warehouse.declare import audit_columns, metadata

START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")
SEED = int(os.environ.get("SCOPE_SEED", "20261101"))

Json = dict[str, Any]
State = dict[str, list[tuple[Any, ...]]]

MADE = {
    "models": """
-- One row per model in the payload.
select
    ops.key(p.source, m.external_id)    as model_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    m.external_id,
    m.name,
    'LORA'                              as type,
    'Safe'                              as nsfw_rating,
    jsonb_build_object()                as raw
from payloads as p
cross join json_table(p.body, '$.models[*]' columns (external_id text path '$.id', name text path '$.name')) as m
""",
    "model_versions": """
-- One row per version in the payload.
select
    ops.key(p.source, v.external_id)    as model_version_id,
    p.record_id,
    ops.key(p.source, v.model)          as model_id,
    v.external_id,
    v.label                             as version_label
from payloads as p
cross join json_table(p.body, '$.versions[*]' columns (
    external_id text path '$.id', model text path '$.model', label text path '$.label'
)) as v
""",
    "images": """
-- One row per image in the payload.
select
    ops.key(p.source, i.external_id)    as image_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    case when i.version is not null then ops.key(p.source, i.version) end as model_version_id,
    i.external_id,
    i.url,
    'Safe'                              as rating
from payloads as p
cross join json_table(p.body, '$.images[*]' columns (
    external_id text path '$.id', version text path '$.version', url text path '$.url'
)) as i
""",
}


class Anything(Contract):
    """A contract that asks for nothing."""


@pytest.fixture(scope="module")
def made(civitai: Source, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A source of one stream, each record of which may have the models, versions and images of any other."""
    folder = tmp_path_factory.mktemp("selects")
    for table, text in MADE.items():
        (folder / f"{table}.sql").write_text(text)
    name = f"catalog/{os.path.relpath(folder, project.SQL / 'catalog')}"
    return replace(civitai, name=name, contracts={"": Anything}, get_record=None)


def model(number: int, of: str = "") -> Json:
    return {"id": number, "name": f"model {number}{of}"}


def version(number: int, model: int, label: str) -> Json:
    return {"id": number, "model": model, "label": label}


def image(number: int, of: str, version: int | None = None) -> Json:
    return {"id": number, "url": f"https://i/{number}/{of}.png"} | ({"version": version} if version else {})


@dataclass
class Recorder:
    """A source with the payloads that a test gives it, record by record; lands and transforms them."""

    warehouse: Warehouse
    source: Source
    clock: datetime = START
    now: dict[tuple[str, str], Json] = field(default_factory=dict)

    def land(self, name: str, body: Json, *, day: str = DAYS[0], kind: str = "") -> Run:
        self.clock += timedelta(minutes=1)
        self.now[kind, name] = body
        return land_items(self.warehouse, self.source, day, [payload(name, body, kind)], fetched_at=self.clock)

    def land_all(self, bodies: dict[str, Json], *, day: str = DAYS[0]) -> Run:
        self.clock += timedelta(minutes=1)
        items = [payload(name, body) for name, body in bodies.items()]
        return land_items(self.warehouse, self.source, day, items, fetched_at=self.clock)

    def full_refresh(self, *gone: str, day: str = DAYS[0], kind: str = "") -> Run:
        """A full scan of a kind in which some records are missing."""
        self.clock += timedelta(minutes=1)
        for name in gone:
            self.now.pop((kind, name), None)
        told: list[Item] = [payload(name, body, each) for (each, name), body in self.now.items() if each == kind]
        intake = Intake(lambda _: [*told, FullScan(kind, 1)], "recorded", self.clock)
        return land_intake(self.warehouse, self.source, day, nullcontext(intake), shrink=True)

    def transform(self, *days: str) -> None:
        """Transforms days, or all that are pending."""
        for day in days or pending_partitions(self.warehouse, self.source):
            transform(self.warehouse, self.source, day, shrink=True)


def payload(name: str, body: Json, kind: str = "") -> Payload:
    return Payload(json.dumps(body, separators=(",", ":")).encode(), f"told of {name}", name, kind=kind)


Teller = Callable[[], Recorder]


def empty(warehouse: Warehouse) -> None:
    """Leaves a warehouse as it was migrated."""
    project.load_tables()
    tables = [sql.Identifier(str(table.schema), table.name) for table in reversed(metadata.sorted_tables)]
    with warehouse.connect() as connection:
        connection.execute(sql.SQL("; ").join(sql.SQL("delete from {}").format(table) for table in tables))


@pytest.fixture(scope="module")
def emptied(new_warehouse: Callable[[], Warehouse]) -> Iterator[Callable[[], Warehouse]]:
    """One warehouse, empty each time it is asked for."""
    warehouse = new_warehouse()

    def again() -> Warehouse:
        empty(warehouse)
        return warehouse

    yield again
    warehouse.drop_database(warehouse.database)


@pytest.fixture
def teller(emptied: Callable[[], Warehouse], made: Source) -> Teller:
    return lambda: Recorder(emptied(), made)


def rows(warehouse: Warehouse, query: str | sql.Composed) -> list[tuple[Any, ...]]:
    with warehouse.connect() as connection:
        text = query.encode() if isinstance(query, str) else query
        return connection.cursor(row_factory=tuple_row).execute(text).fetchall()


def state(warehouse: Warehouse) -> State:
    """Every row of the domain less its audit columns, the pending rows, and the open entries of quarantine."""
    found: State = {}
    for table in metadata.sorted_tables:
        if table.schema == "catalog":
            columns = [column.name for column in table.columns if column.name not in audit_columns(table)]
            query = sql.SQL("select t::text from (select {} from {}) as t order by 1").format(
                sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("catalog", table.name)
            )
            found[table.name] = rows(warehouse, query)
    found["waits"] = rows(
        warehouse,
        """
        select v.stream, v.external_id, w.table_name, w.key, w.reason
        from staging.pending_rows w join staging.versions v on v.record_id = w.record_id and v.latest
        order by 1, 2, 3, 4, 5
        """,
    )
    found["quarantine"] = rows(
        warehouse,
        """
        select external_id, record_id, table_name, row_key, reason, constraint_name, row::text
        from staging.quarantine where closed_at is null order by 1, 2, 3, 4, 5, 6
        """,
    )
    return {name: each for name, each in found.items() if each}


def tuples(warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    """Place and inserting transaction of every tuple, but for the ledger and how often quarantine has seen a row."""
    return {
        table.fullname: rows(
            warehouse,
            sql.SQL("select ctid::text, xmin::text from {} order by 1").format(
                sql.Identifier(str(table.schema), table.name)
            ),
        )
        for table in metadata.sorted_tables
        if table.fullname not in {"ops.fetch_runs", "ops.sources", "ops.rate_limits", "staging.quarantine"}
    }


def shown(warehouse: Warehouse, query: str) -> list[Any]:
    return [value for (value,) in rows(warehouse, query)]


IMAGES = "select url from catalog.images order by external_id"
LABELS = "select external_id from catalog.model_versions order by external_id"
WAITS = """
    select v.external_id, w.table_name, w.reason from staging.pending_rows w
    join staging.versions v on v.record_id = w.record_id and v.latest order by 1, 2, 3
"""
OPEN = """
    select external_id, table_name, reason, constraint_name from staging.quarantine
    where closed_at is null order by 1, 2, 3
"""

CASES: dict[str, dict[str, Json]] = {
    "two records have one primary key": {
        "a": {"images": [image(7, "a"), image(1, "a")]},
        "b": {"images": [image(7, "b"), image(2, "b")]},
    },
    "three records have one primary key": {
        name: {"images": [image(7, name), image(number, name)]} for number, name in enumerate("abc", 1)
    },
    "three records have primary keys in a ring": {
        "a": {"images": [image(1, "a"), image(2, "a")]},
        "b": {"images": [image(2, "b"), image(3, "b")]},
        "c": {"images": [image(3, "c"), image(1, "c")]},
    },
    "two records have one unique value": {
        "a": {"versions": [version(9, 1, "v")]},
        "b": {"versions": [version(8, 1, "v")]},
        "m": {"models": [model(1)]},
    },
    "three records have one unique value": {
        "a": {"versions": [version(9, 1, "v")]},
        "b": {"versions": [version(8, 1, "v")], "models": [model(1)]},
        "c": {"versions": [version(7, 1, "v"), version(6, 1, "w")]},
    },
    "unique values in a chain": {
        "a": {"versions": [version(1, 1, "x")], "models": [model(1)]},
        "b": {"versions": [version(2, 1, "x"), version(3, 1, "y")]},
        "c": {"versions": [version(4, 1, "y"), version(5, 1, "z")]},
    },
    "a key and a unique value cross": {
        "a": {"versions": [version(1, 1, "x")], "models": [model(1)]},
        "b": {"versions": [version(1, 1, "y"), version(2, 1, "x")]},
        "c": {"versions": [version(2, 1, "z"), version(3, 1, "y")]},
    },
    "three records have two keys": {
        "a": {"images": [image(1, "a")]},
        "b": {"images": [image(1, "b"), image(2, "b")]},
        "c": {"images": [image(1, "c"), image(2, "c")]},
    },
    "a parent in a record of its own": {
        "c": {"versions": [version(1, 1, "v")], "images": [image(1, "c", 1)]},
        "m": {"models": [model(1)]},
        "x": {"images": [image(2, "x", 1)]},
    },
    "a parent that two records have": {
        "a": {"models": [model(1, " of a")]},
        "b": {"models": [model(1, " of b")], "versions": [version(1, 1, "v")]},
        "c": {"versions": [version(2, 1, "v")], "images": [image(1, "c", 1), image(2, "c", 2)]},
    },
}

Fresh = Callable[[str, frozenset[str]], State]


@pytest.fixture(scope="module")
def fresh(new_warehouse: Callable[[], Warehouse], made: Source) -> Iterator[Fresh]:
    """What one load of some records of a case makes."""
    warehouse = new_warehouse()
    known: dict[tuple[str, frozenset[str]], State] = {}

    def once(case: str, names: frozenset[str]) -> State:
        if (case, names) not in known:
            empty(warehouse)
            known[case, names] = load_at_once(warehouse, made, {name: CASES[case][name] for name in sorted(names)})
        return known[case, names]

    yield once
    warehouse.drop_database(warehouse.database)


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_arrival_never_shows(teller: Teller, fresh: Fresh, case: str) -> None:
    records = CASES[case]
    expected = fresh(case, frozenset(records))
    for order in permutations(records):
        told = teller()
        for name in order:  # a day each, transformed at once
            day = DAYS[sorted(records).index(name)]
            told.land(name, records[name], day=day)
            told.transform(day)
        assert state(told.warehouse) == expected, order


def moved(records: dict[str, Json], by: int) -> dict[str, Json]:
    """The same records under other ids."""

    def body(value: Any) -> Any:
        if isinstance(value, list):
            return [body(each) for each in value]
        if isinstance(value, dict):
            return {name: body(each) for name, each in value.items()}
        return value + by * 100 if isinstance(value, int) else value

    return {f"{name}{by:03}": body(each) for name, each in records.items()}


def load_at_once(warehouse: Warehouse, source: Source, records: dict[str, Json]) -> State:
    items = [payload(name, body) for name, body in records.items()]
    land_items(warehouse, source, DAYS[0], items, fetched_at=START)
    transform(warehouse, source, DAYS[0])
    return state(warehouse)


def test_the_order_of_runs_within_a_day_never_shows(teller: Teller) -> None:
    """Every order of every case at once."""
    orders = [(case, order) for case, records in CASES.items() for order in permutations(sorted(records))]
    worlds = [
        list(moved({name: CASES[case][name] for name in order}, by).items()) for by, (case, order) in enumerate(orders)
    ]
    told = teller()
    for step in range(3):
        told.land_all(dict(world[step] for world in worlds if step < len(world)))
        told.transform()
    found = state(told.warehouse)
    assert found == load_at_once(
        teller().warehouse, told.source, {name: body for world in worlds for name, body in world}
    )


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_order_in_which_days_are_transformed_never_shows(teller: Teller, order: tuple[int, ...]) -> None:
    """Every case at once."""
    worlds = [sorted(moved(records, by).items()) for by, records in enumerate(CASES.values())]
    told = teller()
    for day in range(3):
        told.land_all(dict(world[day] for world in worlds if day < len(world)), day=DAYS[day])
    told.transform(*(DAYS[each] for each in order))
    found = state(told.warehouse)
    assert found == load_at_once(
        teller().warehouse, told.source, {name: body for world in worlds for name, body in world}
    )


@pytest.mark.parametrize("case", CASES)
def test_what_goes_is_replaced_and_comes_back(teller: Teller, fresh: Fresh, case: str) -> None:
    """By a tombstone, or by a payload with nothing in it, in turn."""
    records = CASES[case]
    told = teller()
    for day, (name, body) in zip(DAYS, records.items(), strict=False):
        told.land(name, body, day=day)
        told.transform(day)
    for number, (name, body) in enumerate(records.items(), list(CASES).index(case)):
        if number % 2:
            assert told.full_refresh(name, day=DAYS[3]).counts.deleted == 1
        else:
            told.land(name, {}, day=DAYS[3])
        told.transform(DAYS[3])
        assert state(told.warehouse) == fresh(case, frozenset(records.keys() - {name})), f"without {name}"
        told.land(name, body, day=DAYS[2])
        told.transform(DAYS[2])
        assert state(told.warehouse) == fresh(case, frozenset(records)), f"{name} again"


@pytest.mark.parametrize("case", CASES)
def test_a_full_transform_of_all_of_it_again_writes_nothing(teller: Teller, case: str) -> None:
    records = CASES[case]
    told = teller()
    for day, name in zip(DAYS, reversed(records), strict=False):
        told.land(name, records[name], day=day)
        told.transform(day)
    before = tuples(told.warehouse)
    for day in DAYS[: len(records)]:
        run = transform(told.warehouse, told.source, day, full=True)
        assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0)
    assert tuples(told.warehouse) == before


def test_of_three_that_have_a_key_the_others_move_up_as_the_smallest_goes(teller: Teller) -> None:
    told = teller()
    for name in "cba":
        told.land(name, {"images": [image(7, name)]})
        told.transform()
    assert shown(told.warehouse, IMAGES) == ["https://i/7/a.png"]
    assert rows(told.warehouse, WAITS) == [("b", "catalog.images", "key"), ("c", "catalog.images", "key")]
    assert rows(told.warehouse, OPEN) == []
    told.full_refresh("a")
    told.transform()
    assert shown(told.warehouse, IMAGES) == ["https://i/7/b.png"]
    assert rows(told.warehouse, WAITS) == [("c", "catalog.images", "key")]
    told.land("b", {})
    told.transform()
    assert shown(told.warehouse, IMAGES) == ["https://i/7/c.png"]
    assert rows(told.warehouse, WAITS) == []


def test_the_smallest_pending_row_gets_the_key_though_a_larger_one_comes_as_it_goes_free(teller: Teller) -> None:
    told = teller()
    for name in "ab":
        told.land(name, {"images": [image(7, name)]})
    told.transform()
    told.land("a", {}, day=DAYS[1])
    told.land("c", {"images": [image(7, "c")]}, day=DAYS[1])
    told.transform()
    assert shown(told.warehouse, IMAGES) == ["https://i/7/b.png"]
    assert rows(told.warehouse, WAITS) == [("c", "catalog.images", "key")]


def test_a_conflict_with_a_row_that_loses_another_one_is_not_lost(teller: Teller) -> None:
    """Of a, b and c each contests the next one's row, so that a and c have theirs."""
    told = teller()
    told.land("c", CASES["a key and a unique value cross"]["c"])
    told.transform()
    told.land("b", CASES["a key and a unique value cross"]["b"], day=DAYS[1])
    told.transform()
    labels = "select external_id || version_label from catalog.model_versions order by 1"
    assert shown(told.warehouse, labels) == []  # their model is not there yet
    told.land("a", CASES["a key and a unique value cross"]["a"], day=DAYS[2])
    told.transform()
    assert shown(told.warehouse, labels) == ["1x", "2z", "3y"]
    assert [record for record, *_ in rows(told.warehouse, WAITS)] == ["b", "b"]


def test_a_row_that_loses_a_unique_value_is_rejected_until_the_winner_goes(teller: Teller) -> None:
    told = teller()
    told.land("m", {"models": [model(1)]})
    told.land("b", {"versions": [version(8, 1, "v")]})
    told.transform()
    told.land("a", {"versions": [version(9, 1, "v")]}, day=DAYS[1])
    told.transform()
    assert shown(told.warehouse, LABELS) == ["9"]
    assert rows(told.warehouse, WAITS) == [("b", "catalog.model_versions", "unique")]
    assert rows(told.warehouse, OPEN) == [
        ("b", "catalog.model_versions", "unique", "model_versions_model_id_version_label_key")
    ]
    told.land("a", {"versions": [version(9, 1, "another")]}, day=DAYS[2])
    told.transform()
    assert shown(told.warehouse, LABELS) == ["8", "9"]
    assert (rows(told.warehouse, WAITS), rows(told.warehouse, OPEN)) == ([], [])


def test_a_child_waits_for_a_required_parent_and_goes_to_wait_again_with_it(teller: Teller) -> None:
    told = teller()
    told.land("c", {"versions": [version(1, 1, "v")]})
    told.transform()
    waits = [("c", "catalog.models", "parent")]
    rejected = [("c", "catalog.model_versions", "parent", "model_versions_model_id_fkey")]
    assert (shown(told.warehouse, LABELS), rows(told.warehouse, WAITS), rows(told.warehouse, OPEN)) == (
        [],
        waits,
        rejected,
    )
    for _ in range(2):
        told.land("m", {"models": [model(1)]}, day=DAYS[1])
        told.transform()
        assert (shown(told.warehouse, LABELS), rows(told.warehouse, WAITS), rows(told.warehouse, OPEN)) == (
            ["1"],
            [],
            [],
        )
        told.full_refresh("m", day=DAYS[2])
        told.transform()
        assert (shown(told.warehouse, LABELS), rows(told.warehouse, WAITS), rows(told.warehouse, OPEN)) == (
            [],
            waits,
            rejected,
        )


def test_a_nullable_reference_is_null_as_long_as_its_parent_is_not_there(teller: Teller) -> None:
    told = teller()
    links = "select model_version_id is not null from catalog.images"
    told.land("x", {"images": [image(2, "x", 1)]})
    told.transform()
    assert shown(told.warehouse, links) == [False]
    assert rows(told.warehouse, WAITS) == [("x", "catalog.model_versions", "parent")]
    for _ in range(2):
        told.land("m", {"models": [model(1)], "versions": [version(1, 1, "v")]}, day=DAYS[1])
        told.transform()
        assert (shown(told.warehouse, links), rows(told.warehouse, WAITS)) == ([True], [])
        told.full_refresh("m", day=DAYS[2])
        told.transform()
        assert shown(told.warehouse, links) == [False]
        assert rows(told.warehouse, WAITS) == [("x", "catalog.model_versions", "parent")]
        assert rows(told.warehouse, OPEN) == []


# Histories by chance


def any_record(dice: random.Random) -> Json:
    """A payload of the made source, out of few ids, so that records meet."""
    return {
        "models": [model(each, dice.choice(["", " again"])) for each in some(dice, 3)],
        "versions": [version(each, dice.randint(1, 3), dice.choice("xyz")) for each in some(dice, 4)],
        "images": [image(each, dice.choice("ab"), dice.choice([None, 1, 2, 3])) for each in some(dice, 4)],
    }


def some(dice: random.Random, most: int) -> Sequence[int]:
    return dice.sample(range(1, most + 1), dice.choice([0, 0, 1, 1, 2]))


def any_model(dice: random.Random, number: int) -> Json:
    """A model of CivitAI; versions and images are few over all models, so that models have the same ones."""
    return {
        "id": number,
        "name": f"model {number}",
        "type": "LORA",
        "stats": {"downloadCount": dice.randint(1, 3)},
        "tags": [f"tag {each}" for each in some(dice, 3)],
        "modelVersions": [
            {
                "id": each,
                "name": dice.choice("xy"),
                "stats": {"downloadCount": dice.randint(1, 2)},
                "files": [{"id": file, "name": f"file {file}", "type": "Model"} for file in some(dice, 2)],
                "images": [any_image(dice, picture) for picture in some(dice, 4)],
            }
            for each in some(dice, 4)
        ],
    }


def any_image(dice: random.Random, number: int) -> Json:
    return {
        "id": number,
        "url": f"https://i/{number}/{dice.choice('ab')}.png",
        "width": dice.choice([8, 8, 8, 0]),
        "meta": dice.choice([None, {"prompt": f"a cat {number}"}]),
    }


def any_listed(dice: random.Random, number: int) -> Json:
    return any_image(dice, number) | {"modelVersionIds": dice.choice([[], [1], [2, 3]]), "stats": {"likeCount": 1}}


def history(told: Recorder, dice: random.Random, step: Callable[[random.Random], tuple[str, str, Json]]) -> None:
    """Records arrive, change and go, and days are transformed, in any order."""
    for _ in range(9):
        kind, name, body = step(dice)
        if dice.random() < 0.25 and (kind, name) in told.now:
            told.full_refresh(name, day=dice.choice(DAYS), kind=kind)
        else:
            told.land(name, body, day=dice.choice(DAYS), kind=kind)
        if dice.random() < 0.6 and (days := pending_partitions(told.warehouse, told.source)):
            told.transform(dice.choice(days))
    days = pending_partitions(told.warehouse, told.source)
    dice.shuffle(days)
    told.transform(*days)
    assert pending_partitions(told.warehouse, told.source) == []


def step_of_made(dice: random.Random) -> tuple[str, str, Json]:
    return "", dice.choice("abcd"), any_record(dice)


def step_of_civitai(dice: random.Random) -> tuple[str, str, Json]:
    number = dice.randint(1, 4)
    if dice.random() < 0.4:
        return "images", str(number), any_listed(dice, number)
    return "models", str(number), any_model(dice, number)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("which", ["made", "civitai"])
def test_a_history_by_chance_ends_in_what_one_load_of_its_last_payloads_makes(
    emptied: Callable[[], Warehouse], made: Source, civitai: Source, which: str, seed: int
) -> None:
    dice = random.Random(f"{SEED} {which} {seed}")
    source, step = (made, step_of_made) if which == "made" else (replace(civitai, get_record=None), step_of_civitai)
    told = Recorder(emptied(), source)
    history(told, dice, step)
    found = state(told.warehouse)

    before = tuples(told.warehouse)
    for day in DAYS:
        transform(told.warehouse, source, day, full=True)
    assert tuples(told.warehouse) == before, "in full again"

    again = emptied()
    items = [payload(name, body, kind) for (kind, name), body in told.now.items()]
    land_items(again, source, DAYS[0], items, fetched_at=START)
    transform(again, source, DAYS[0])
    expected = state(again)
    series = [each.pop("model_stats", []) for each in (found, expected)]
    assert found == expected
    assert len(series[0]) >= len(series[1])
