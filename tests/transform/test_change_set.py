"""The change set and its dependent records: in whatever order records arrive, change and go, the tables are the same.

Each test compares with one load of everything at once: the bytes of all tables less their audit columns, the
pending rows, and the open entries of quarantine.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from pipelines.source import Source
from pipelines.warehouse.database import Warehouse
from tests.library import (
    DAYS,
    START,
    Json,
    Recorder,
    State,
    author,
    book,
    cover,
    empty,
    payload,
    rows,
    shown,
    state,
    tuples,
)
from tests.pasts import any_of_library, some
from tests.runs import land_items, pending_partitions, transform

pytestmark = pytest.mark.usefixtures("toy")

ALL = "SAMPLES" in os.environ
"""Whether every order is tried, as with SAMPLES=all; else the one in which parents come last."""

SEED = int(os.environ.get("CHANGE_SET_SEED", "20261101"))


def written(warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    """Place and inserting transaction of every tuple, but for how often quarantine has seen a row.

    Without xmax: where rows are rejected, rows that they refer to were locked before.
    """
    return {name: [row[:2] for row in found] for name, found in tuples(warehouse, "staging.quarantine").items()}


Teller = Callable[[], Recorder]


@pytest.fixture
def teller(emptied: Callable[[], Warehouse], shelf: Source) -> Teller:
    return lambda: Recorder(emptied(), shelf)


COVERS = "select url from toy.covers order by external_id"
BOOKS = "select external_id from toy.books order by external_id"
PENDING = """
    select v.external_id, w.table_name, w.reason from staging.pending_rows w
    join staging.versions v on v.record_id = w.record_id and v.latest order by 1, 2, 3
"""
OPEN = """
    select external_id, table_name, reason, constraint_name from staging.quarantine
    where closed_at is null order by 1, 2, 3
"""

CASES: dict[str, dict[str, Json]] = {
    "two records have one primary key": {
        "a": {"covers": [cover(7, "a"), cover(1, "a")]},
        "b": {"covers": [cover(7, "b"), cover(2, "b")]},
    },
    "three records have one primary key": {
        name: {"covers": [cover(7, name), cover(number, name)]} for number, name in enumerate("abc", 1)
    },
    "three records have primary keys in a ring": {
        "a": {"covers": [cover(1, "a"), cover(2, "a")]},
        "b": {"covers": [cover(2, "b"), cover(3, "b")]},
        "c": {"covers": [cover(3, "c"), cover(1, "c")]},
    },
    "two records have one unique value": {
        "a": {"books": [book(9, "v", author=1)]},
        "b": {"books": [book(8, "v", author=1)]},
        "m": {"authors": [author(1)]},
    },
    "three records have one unique value": {
        "a": {"books": [book(9, "v", author=1)]},
        "b": {"books": [book(8, "v", author=1)], "authors": [author(1)]},
        "c": {"books": [book(7, "v", author=1), book(6, "w", author=1)]},
    },
    "unique values in a chain": {
        "a": {"books": [book(1, "x", author=1)], "authors": [author(1)]},
        "b": {"books": [book(2, "x", author=1), book(3, "y", author=1)]},
        "c": {"books": [book(4, "y", author=1), book(5, "z", author=1)]},
    },
    "a key and a unique value cross": {
        "a": {"books": [book(1, "x", author=1)], "authors": [author(1)]},
        "b": {"books": [book(1, "y", author=1), book(2, "x", author=1)]},
        "c": {"books": [book(2, "z", author=1), book(3, "y", author=1)]},
    },
    "three records have two keys": {
        "a": {"covers": [cover(1, "a")]},
        "b": {"covers": [cover(1, "b"), cover(2, "b")]},
        "c": {"covers": [cover(1, "c"), cover(2, "c")]},
    },
    "a parent in a record of its own": {
        "c": {"books": [book(1, "v", author=1)], "covers": [cover(1, "c", book=1)]},
        "m": {"authors": [author(1)]},
        "x": {"covers": [cover(2, "x", book=1)]},
    },
    "a parent that two records have": {
        "a": {"authors": [author(1, " of a")]},
        "b": {"authors": [author(1, " of b")], "books": [book(1, "v", author=1)]},
        "c": {"books": [book(2, "v", author=1)], "covers": [cover(1, "c", book=1), cover(2, "c", book=2)]},
    },
}

Fresh = Callable[[str, frozenset[str]], State]


@pytest.fixture(scope="module")
def fresh(new_warehouse: Callable[[], Warehouse], shelf: Source) -> Iterator[Fresh]:
    """What one load of some records of a case makes."""
    warehouse = new_warehouse()
    known: dict[tuple[str, frozenset[str]], State] = {}

    def once(case: str, names: frozenset[str]) -> State:
        if (case, names) not in known:
            empty(warehouse)
            known[case, names] = load_at_once(warehouse, shelf, {name: CASES[case][name] for name in sorted(names)})
        return known[case, names]

    yield once
    warehouse.drop_database(warehouse.database)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sample(3)
def test_the_order_of_arrival_never_shows(teller: Teller, fresh: Fresh, case: str) -> None:
    """Each record in a day of its own, which is transformed at once; all of it again in full writes nothing."""
    records = CASES[case]
    for order in permutations(records) if ALL else [tuple(reversed(records))]:
        recorder = teller()
        for name in order:
            day = DAYS[sorted(records).index(name)]
            recorder.land(name, records[name], day=day)
            recorder.transform(day)
        assert state(recorder.warehouse) == fresh(case, frozenset(records)), order
        before = written(recorder.warehouse)
        for day in DAYS[: len(records)]:
            run = transform(recorder.warehouse, recorder.source, day, full=True)
            assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0)
        assert written(recorder.warehouse) == before


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
    items = [payload(body, name, "") for name, body in records.items()]
    land_items(warehouse, source, DAYS[0], items, received_at=START)
    transform(warehouse, source, DAYS[0])
    return state(warehouse)


def test_the_order_of_runs_within_a_day_never_shows(teller: Teller) -> None:
    """Every order of every case at once."""
    orders = [(case, order) for case, records in CASES.items() for order in permutations(sorted(records))]
    worlds = [
        list(moved({name: CASES[case][name] for name in order}, by).items()) for by, (case, order) in enumerate(orders)
    ]
    recorder = teller()
    for step in range(3):
        recorder.land_all(dict(world[step] for world in worlds if step < len(world)))
        recorder.transform()
    found = state(recorder.warehouse)
    assert found == load_at_once(
        teller().warehouse, recorder.source, {name: body for world in worlds for name, body in world}
    )


@pytest.mark.parametrize("order", list(permutations(range(3))) if ALL else [(0, 1, 2), (2, 1, 0)], ids=str)
def test_the_order_in_which_days_are_transformed_never_shows(teller: Teller, order: tuple[int, ...]) -> None:
    """Every case at once."""
    worlds = [sorted(moved(records, by).items()) for by, records in enumerate(CASES.values())]
    recorder = teller()
    for day in range(3):
        recorder.land_all(dict(world[day] for world in worlds if day < len(world)), day=DAYS[day])
    recorder.transform(*(DAYS[each] for each in order))
    found = state(recorder.warehouse)
    assert found == load_at_once(
        teller().warehouse, recorder.source, {name: body for world in worlds for name, body in world}
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sample(3)
def test_what_goes_is_replaced_and_comes_back(teller: Teller, fresh: Fresh, case: str) -> None:
    """By a tombstone, or by a payload with nothing in it, in turn."""
    records = CASES[case]
    recorder = teller()
    for day, (name, body) in zip(DAYS, records.items(), strict=False):
        recorder.land(name, body, day=day)
        recorder.transform(day)
    going = list(records) if ALL else [list(records)[list(CASES).index(case) % len(records)]]
    for number, name in enumerate(going, list(CASES).index(case)):
        if number % 2:
            assert recorder.full_refresh(name, day=DAYS[3]).counts.deleted == 1
        else:
            recorder.land(name, {}, day=DAYS[3])
        recorder.transform(DAYS[3])
        assert state(recorder.warehouse) == fresh(case, frozenset(records.keys() - {name})), f"without {name}"
        recorder.land(name, records[name], day=DAYS[2])
        recorder.transform(DAYS[2])
        assert state(recorder.warehouse) == fresh(case, frozenset(records)), f"{name} again"


def test_of_three_that_have_a_key_the_others_move_up_as_the_smallest_goes(teller: Teller) -> None:
    recorder = teller()
    for name in "cba":
        recorder.land(name, {"covers": [cover(7, name)]})
        recorder.transform()
    assert shown(recorder.warehouse, COVERS) == ["https://cover.example/7a.png"]
    assert rows(recorder.warehouse, PENDING) == [("b", "toy.covers", "key"), ("c", "toy.covers", "key")]
    assert rows(recorder.warehouse, OPEN) == []
    recorder.full_refresh("a")
    recorder.transform()
    assert shown(recorder.warehouse, COVERS) == ["https://cover.example/7b.png"]
    assert rows(recorder.warehouse, PENDING) == [("c", "toy.covers", "key")]
    recorder.land("b", {})
    recorder.transform()
    assert shown(recorder.warehouse, COVERS) == ["https://cover.example/7c.png"]
    assert rows(recorder.warehouse, PENDING) == []


def test_the_smallest_pending_row_gets_the_key_though_a_larger_one_comes_as_it_goes_free(teller: Teller) -> None:
    recorder = teller()
    for name in "ab":
        recorder.land(name, {"covers": [cover(7, name)]})
    recorder.transform()
    recorder.land("a", {}, day=DAYS[1])
    recorder.land("c", {"covers": [cover(7, "c")]}, day=DAYS[1])
    recorder.transform()
    assert shown(recorder.warehouse, COVERS) == ["https://cover.example/7b.png"]
    assert rows(recorder.warehouse, PENDING) == [("c", "toy.covers", "key")]


def test_a_conflict_with_a_row_that_loses_another_one_is_not_lost(teller: Teller) -> None:
    """Of a, b and c each contests the next one's row, so that a and c have theirs."""
    recorder = teller()
    recorder.land("c", CASES["a key and a unique value cross"]["c"])
    recorder.transform()
    recorder.land("b", CASES["a key and a unique value cross"]["b"], day=DAYS[1])
    recorder.transform()
    titles = "select external_id || title from toy.books order by 1"
    assert shown(recorder.warehouse, titles) == []  # their author is not there yet
    recorder.land("a", CASES["a key and a unique value cross"]["a"], day=DAYS[2])
    recorder.transform()
    assert shown(recorder.warehouse, titles) == ["1x", "2z", "3y"]
    assert [record for record, *_ in rows(recorder.warehouse, PENDING)] == ["b", "b"]


def test_a_row_that_loses_a_unique_value_is_rejected_until_the_winner_goes(teller: Teller) -> None:
    recorder = teller()
    recorder.land("m", {"authors": [author(1)]})
    recorder.land("b", {"books": [book(8, "v", author=1)]})
    recorder.transform()
    recorder.land("a", {"books": [book(9, "v", author=1)]}, day=DAYS[1])
    recorder.transform()
    assert shown(recorder.warehouse, BOOKS) == ["9"]
    assert rows(recorder.warehouse, PENDING) == [("b", "toy.books", "unique")]
    assert rows(recorder.warehouse, OPEN) == [("b", "toy.books", "unique", "books_author_id_title_key")]
    recorder.land("a", {"books": [book(9, "another", author=1)]}, day=DAYS[2])
    recorder.transform()
    assert shown(recorder.warehouse, BOOKS) == ["8", "9"]
    assert (rows(recorder.warehouse, PENDING), rows(recorder.warehouse, OPEN)) == ([], [])


def test_a_child_is_pending_for_a_required_parent_and_pending_again_when_it_goes(teller: Teller) -> None:
    recorder = teller()
    recorder.land("c", {"books": [book(1, "v", author=1)]})
    recorder.transform()
    pending = [("c", "toy.authors", "parent")]

    def found() -> tuple[list[Any], list[Any], list[Any]]:
        return shown(recorder.warehouse, BOOKS), rows(recorder.warehouse, PENDING), rows(recorder.warehouse, OPEN)

    assert found() == ([], pending, [])
    for _ in range(2):
        recorder.land("m", {"authors": [author(1)]}, day=DAYS[1])
        recorder.transform()
        assert found() == (["1"], [], [])
        recorder.full_refresh("m", day=DAYS[2])
        recorder.transform()
        assert found() == ([], pending, [])


def test_a_nullable_reference_is_null_as_long_as_its_parent_is_not_there(teller: Teller) -> None:
    recorder = teller()
    links = "select book_id is not null from toy.covers"
    recorder.land("x", {"covers": [cover(2, "x", book=1)]})
    recorder.transform()
    assert shown(recorder.warehouse, links) == [False]
    assert rows(recorder.warehouse, PENDING) == [("x", "toy.books", "parent")]
    for _ in range(2):
        recorder.land("m", {"authors": [author(1)], "books": [book(1, "v", author=1)]}, day=DAYS[1])
        recorder.transform()
        assert (shown(recorder.warehouse, links), rows(recorder.warehouse, PENDING)) == ([True], [])
        recorder.full_refresh("m", day=DAYS[2])
        recorder.transform()
        assert shown(recorder.warehouse, links) == [False]
        assert rows(recorder.warehouse, PENDING) == [("x", "toy.books", "parent")]
        assert rows(recorder.warehouse, OPEN) == []


# Histories by chance


def any_of_shelf(dice: random.Random) -> tuple[str, str, Json]:
    """A payload of the shelf, out of few ids, so that records meet."""
    return (
        "",
        dice.choice("abcd"),
        {
            "authors": [author(each, dice.choice(["one", "another"])) for each in some(dice, 3)],
            "books": [book(each, dice.choice("xyz"), author=dice.randint(1, 3)) for each in some(dice, 4)],
            "covers": [cover(each, dice.choice("ab"), book=dice.choice([None, 1, 2, 3])) for each in some(dice, 4)],
        },
    )


def history(recorder: Recorder, dice: random.Random, step: Callable[[random.Random], tuple[str, str, Json]]) -> None:
    """Records arrive, change and go, and days are transformed, in any order."""
    for _ in range(9):
        kind, name, body = step(dice)
        if dice.random() < 0.25 and (kind, name) in recorder.now:
            recorder.full_refresh(name, day=dice.choice(DAYS), kind=kind)
        else:
            recorder.land(name, body, day=dice.choice(DAYS), kind=kind)
        if dice.random() < 0.6 and (days := pending_partitions(recorder.warehouse, recorder.source)):
            recorder.transform(dice.choice(days))
    days = pending_partitions(recorder.warehouse, recorder.source)
    dice.shuffle(days)
    recorder.transform(*days)
    assert pending_partitions(recorder.warehouse, recorder.source) == []


@pytest.mark.long("histories by chance")
@pytest.mark.parametrize("seed", range(8 if ALL else 1))
@pytest.mark.parametrize("which", ["shelf", "library"])
def test_a_history_by_chance_ends_in_what_one_load_of_its_last_payloads_makes(
    emptied: Callable[[], Warehouse], shelf: Source, library: Source, which: str, seed: int
) -> None:
    dice = random.Random(f"{SEED} {which} {seed}")
    source, step = (shelf, any_of_shelf) if which == "shelf" else (replace(library, get_record=None), any_of_library)
    recorder = Recorder(emptied(), source)
    history(recorder, dice, step)
    found = state(recorder.warehouse)

    before = written(recorder.warehouse)
    for day in DAYS:
        transform(recorder.warehouse, source, day, full=True)
    assert written(recorder.warehouse) == before, "in full again"

    again = emptied()
    items = [payload(body, name, kind) for (kind, name), body in recorder.now.items()]
    land_items(again, source, DAYS[0], items, received_at=START)
    transform(again, source, DAYS[0])
    expected = state(again)
    series = [each.pop("loans", []) for each in (found, expected)]
    assert found == expected
    assert len(series[0]) >= len(series[1])
