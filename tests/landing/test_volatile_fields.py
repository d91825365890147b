"""Counters: what changes all the time is told as a series and makes no version, whatever the order it arrives in."""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, permutations, product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.landing.intake import Intake
from pipelines.landing.validate import VolatileFields, path_tree, split_off
from pipelines.ledger import Run
from pipelines.source import Contract, FullScan, Item, Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.library import author, book, payload, rows, tuples
from tests.runs import land_intake, land_items, pending_partitions, transform

pytestmark = pytest.mark.usefixtures("toy")

DAYS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")

Json = dict[str, Any]


def at(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC)


# Taking them out


def taken(body: str | bytes, *paths: str) -> tuple[Any, Any]:
    """What is left of a document, and its counters."""
    stable, counted = split_off(body.encode() if isinstance(body, str) else body, path_tree(paths))
    return json.loads(stable), json.loads(counted.values) if counted else None


@pytest.mark.parametrize(
    ("paths", "body", "left", "counters"),
    [
        (["stats"], {"id": 1, "stats": {"n": 1}}, {"id": 1, "stats": None}, {"stats": {"n": 1}}),
        (["stats.n"], {"stats": {"n": 1, "m": 2}}, {"stats": {"n": None, "m": 2}}, {"stats": {"n": 1}}),
        (["stats.n"], {"stats": 7}, {"stats": 7}, None),
        (["stats"], {"id": 1}, {"id": 1}, None),
        (["stats"], {"stats": None}, {"stats": None}, {"stats": None}),
        (["a[*]"], {"a": [1, [2]]}, {"a": [None, None]}, {"a": [1, [2]]}),
        (["a[*].n"], {"a": [{"n": 1}, {}, 5]}, {"a": [{"n": None}, {}, 5]}, {"a": [{"n": 1}, {}, None]}),
        (["a[*].n"], {"a": {"n": 1}}, {"a": {"n": 1}}, None),
        (["a[*].n"], {"a": []}, {"a": []}, None),
        (["a[*][*].n"], {"a": [[{"n": 1}]]}, {"a": [[{"n": None}]]}, {"a": [[{"n": 1}]]}),
        (
            ["tags.*.at"],
            {"tags": {"x": {"at": 1, "b": 2}, "y": {}, "z": 3}},
            {"tags": {"x": {"at": None, "b": 2}, "y": {}, "z": 3}},
            {"tags": {"x": {"at": 1}, "y": {}, "z": None}},
        ),
        (["tags.*"], {"tags": {"x": 1, "y": [2]}}, {"tags": {"x": None, "y": None}}, {"tags": {"x": 1, "y": [2]}}),
        (["tags.*"], {"tags": [1]}, {"tags": [1]}, None),
        (
            ["n", "of[*].n"],
            {"n": 1, "of": [{"n": 2}], "id": 3},
            {"n": None, "of": [{"n": None}], "id": 3},
            {"n": 1, "of": [{"n": 2}]},
        ),
    ],
    ids=str,
)
def test_what_the_paths_name_is_taken_out_and_nothing_else(
    paths: list[str], body: Json, left: Json, counters: Json | None
) -> None:
    assert taken(json.dumps(body), *paths) == (left, counters)


@pytest.mark.parametrize("body", ["[]", "7", '"stats"', "null", "[{}]"])
def test_a_document_that_is_no_object_has_no_counters(body: str) -> None:
    assert split_off(body.encode(), path_tree(("stats", "a[*].n"))) == (body.encode(), None)


@pytest.mark.parametrize(
    "body",
    [
        '{"stats": 1, "stats": 2}',
        '{"a": [{"n": 1, "n": 2}]}',
        '{"a": [{"n": 1, "b": {"c": 1}, "b": {"c": 1}}]}',
        r'{"stats": 1, "st\u0061ts": 2}',
        '{"stats" : 1, "stats" : 2}',
        '{"stats"\n: 1, "stats"\n: 2}',
        '{"stats": 1',
        b'{"stats": "\xff"}',
        rb'{"stats": "\u0000"}',
        rb'{"stats": "\ud800"}',
        b'{"stats": {"a": 1, "a": 2}}',
        b'{"stats": 1e400000}',
        b'{"stats": 0.' + b"7" * 17_000 + b"}",
        b'{"stats": NaN}',
        b'{"stats": 1}' * 2,
        '{"stats": ' + "[" * 5_000 + "]" * 5_000 + "}",
    ],
)
def test_a_document_that_would_lose_something_is_left_whole(body: str | bytes) -> None:
    raw = body.encode() if isinstance(body, str) else body
    assert split_off(raw, path_tree(("stats", "a[*].n"))) == (raw, None)


def test_numbers_and_texts_stay_as_they_are_written() -> None:
    body = '{"stats":{"n":1.50,"big":12345678901234567890123,"é":"\\u00e9"},"kept":[1.50, 1e2],"id":"\\u00e9"}'
    stable, counted = split_off(body.encode(), path_tree(("stats",)))
    assert stable == rb'{"stats":null,"kept":[1.50, 1e2],"id":"\u00e9"}'
    assert counted is not None
    assert counted.values == '{"stats":{"n":1.50,"big":12345678901234567890123,"é":"\\u00e9"}}'


def test_counters_that_change_leave_the_digest_and_those_that_come_or_go_do_not() -> None:
    def left(body: Json) -> bytes:
        return split_off(json.dumps(body).encode(), path_tree(("stats", "of[*].n")))[0]

    one = {"id": 1, "stats": {"a": 1}, "of": [{"n": 1}]}
    assert left(one) == left(one | {"stats": {"a": 2, "b": [3]}, "of": [{"n": None}]})
    assert left(one) == left(one | {"stats": None})
    for other in ({"id": 1, "of": [{"n": 1}]}, one | {"of": [{}]}, one | {"of": [{"n": 1}] * 2}, one | {"id": 2}):
        assert left(one) != left(other)


names = st.sampled_from(["stats", "n", "of", "tags", "é", 'a"b', "x"])
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)
"""What jsonb can hold."""
documents = st.dictionaries(
    names,
    st.recursive(
        st.none() | st.integers() | texts | st.sampled_from([1.5, 1e3, True]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)
PATHS = path_tree(("stats", "n.n", "of[*].n", "of[*][*].stats", "tags.*.n", "tags.*[*]"))


def with_other_counters(value: Any, node: Any, other: Any) -> Any:
    """The same document, each of its counters replaced."""
    if not node:
        return other
    if isinstance(value, list) and "[*]" in node:
        return [with_other_counters(each, node["[*]"], other) for each in value]
    if not isinstance(value, dict):
        return value
    steps = {name: node.get(name, node.get("*")) for name in value}
    return {
        name: each if steps[name] is None else with_other_counters(each, steps[name], other)
        for name, each in value.items()
    }


@settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(documents, st.sampled_from([0, None, [1, {"n": 2}], {"stats": 1}, "words"]))
def test_a_document_with_other_counters_put_back_is_the_other_document(
    shared: Warehouse, document: Json, value: Any
) -> None:
    other = with_other_counters(document, PATHS, value)
    (left, one), (left_of_other, another) = (split_off(json.dumps(each).encode(), PATHS) for each in (document, other))
    assert (one is None) == (another is None)
    if one is None or another is None:
        assert document == other
        return
    assert left == left_of_other
    assert (one.digest == another.digest) == (one.values == another.values)
    assert put_back(shared, document, another) == other


def put_back(warehouse: Warehouse, document: Json, counted: VolatileFields) -> Any:
    values = [json.dumps(document), counted.values, counted.paths]
    with warehouse.connect() as connection:
        row = connection.execute("select ops.restore_volatile_fields(%s, %s, %s) as body", values).fetchone()
    assert row is not None
    return row["body"]


# Landing and transforming them


@pytest.fixture(scope="module")
def shared(new_warehouse: Callable[[], Warehouse]) -> Iterator[Warehouse]:
    warehouse = new_warehouse()
    yield warehouse
    warehouse.drop_database(warehouse.database)


NUMBERS = count(1)


@pytest.fixture
def number() -> int:
    """Number of an author that no other test has."""
    return next(NUMBERS)


def counted(number: int, loans: int | None, *, name: str = "Lighthouse", of_book: int | None = None) -> Json:
    """An author and a book with counters."""
    stats = {} if loans is None else {"stats": {"loans": loans, "rating": 3}}
    of_book = loans if of_book is None else of_book
    of = {} if of_book is None else {"stats": {"loans": of_book}}
    return author(number, name, books=[book(number * 10) | of]) | stats


def land(warehouse: Warehouse, source: Source, body: Json, day: str = DAYS[0]) -> Run:
    return land_items(warehouse, source, day, [payload(body)], received_at=at(day))


def take(warehouse: Warehouse, source: Source, body: Json, day: str = DAYS[0]) -> tuple[Run, Run]:
    return land(warehouse, source, body, day), transform(warehouse, source, day)


def transform_all(warehouse: Warehouse, source: Source) -> None:
    for day in pending_partitions(warehouse, source):
        transform(warehouse, source, day)


def series(warehouse: Warehouse, number: int) -> list[tuple[str, int | None]]:
    """Day and loans of each row of an author's series."""
    return rows(
        warehouse,
        """
        select (observed_at at time zone 'UTC')::date::text, loans
        from toy.loans where author_id = ops.key('toy/library', %s) order by observed_at
        """,
        [str(number)],
    )


def of_book(warehouse: Warehouse, number: int) -> Any:
    """The counters in the metadata of an author's version."""
    ((found,),) = rows(
        warehouse,
        "select metadata #> '{stats,loans}' from toy.books where external_id = %s",
        [str(number * 10)],
    )
    return found


def history(warehouse: Warehouse, number: int) -> tuple[int, int]:
    """How many versions and how many observations an author has."""
    ((versions, observations),) = rows(
        warehouse,
        """
        select count(*), (select count(*) from staging.observations o where o.record_id = v.record_id)
        from staging.versions v where stream = 'toy/library.authors' and external_id = %s group by record_id
        """,
        [str(number)],
    )
    return versions, observations


def test_counters_that_change_make_an_observation_and_no_version(
    shared: Warehouse, library: Source, number: int
) -> None:
    first, _ = take(shared, library, counted(number, 1))
    second, applied = take(shared, library, counted(number, 2), DAYS[1])
    assert (first.counts.created, second.counts.observed, second.counts.updated) == (1, 1, 0)
    assert second.stats["bodies"] == 0
    assert history(shared, number) == (1, 2)
    assert applied.counts.created == 1  # the series' row
    assert applied.stats["tables"]["toy.authors"]["updated"] == 0  # they are no part of its raw
    assert applied.stats["tables"]["toy.books"]["updated"] == 1


def test_the_body_has_the_newest_counters_and_an_author_has_them_in_its_series_alone(
    shared: Warehouse, library: Source, number: int
) -> None:
    for day, loans in zip(DAYS, (5, 7, 6), strict=False):
        take(shared, library, counted(number, loans), day)
        assert of_book(shared, number) == loans
    assert series(shared, number) == [(DAYS[0], 5), (DAYS[1], 7), (DAYS[2], 6)]
    assert rows(shared, "select raw ? 'stats' from toy.authors where external_id = %s", [str(number)]) == [(False,)]
    transform(shared, library, DAYS[0], full=True)
    assert of_book(shared, number) == 6


def test_a_row_of_the_series_says_what_was_counted_and_when(shared: Warehouse, library: Source, number: int) -> None:
    run, _ = take(shared, library, counted(number, 5))
    found = rows(
        shared,
        """
        select s.observed_at, s.loans, s.rating, o.landed_run, o.request, o.valid_from_run is not null
        from toy.loans s join staging.observations o using (record_id, observed_at)
        where s.author_id = ops.key('toy/library', %s)
        """,
        [str(number)],
    )
    assert found == [(at(DAYS[0]), 5, 3, run.id, f"made here, {number}", True)]


def test_counters_and_the_rest_may_change_at_once(shared: Warehouse, library: Source, number: int) -> None:
    take(shared, library, counted(number, 1))
    take(shared, library, counted(number, 2, name="Another"), DAYS[1])
    assert (history(shared, number), of_book(shared, number)) == ((2, 2), 2)
    assert series(shared, number) == [(DAYS[0], 1), (DAYS[1], 2)]


@pytest.mark.parametrize("counter", [r'"\u0000"', '{"n": 1, "n": 2}', r'"\ud800"', "1e400000", '"\\\\"', "{}"])
def test_counters_that_cannot_be_held_never_stop_the_others_and_nothing_of_them_is_lost(
    shared: Warehouse, library: Source, counter: str
) -> None:
    numbers = [next(NUMBERS) for _ in range(2)]
    body = f'{{"id": {numbers[0]}, "name": "x", "stats": {{"odd": {counter}}}}}'.encode()
    items = [Payload(body, "odd", kind="authors"), payload(counted(numbers[1], 1))]
    for created, unchanged in ((2, 0), (0, 2)):
        run = land_items(shared, library, DAYS[0], items, received_at=at(DAYS[0]))
        assert (run.status, run.counts.created, run.counts.unchanged) == ("completed", created, unchanged)
    ((kept, counters),) = rows(
        shared,
        """
        select p.original, o.counters::text from staging.versions v join staging.payloads p using (payload_id)
        left join staging.observations o using (record_id) where v.request = 'odd' and v.external_id = %s
        """,
        [str(numbers[0])],
    )
    assert kept == body or json.loads(counters)["stats"] == json.loads(body)["stats"]
    transform(shared, library, DAYS[0])


def test_a_version_with_the_same_counters_makes_no_observation(shared: Warehouse, library: Source, number: int) -> None:
    take(shared, library, counted(number, 1))
    take(shared, library, counted(number, 1, name="Another"), DAYS[1])
    assert (history(shared, number), series(shared, number)) == ((2, 1), [(DAYS[0], 1)])


def test_counters_of_a_body_that_cannot_be_split_are_not_replaced_by_older_ones(
    shared: Warehouse, library: Source, number: int
) -> None:
    take(shared, library, counted(number, 5))
    twice = json.dumps(counted(number, 10)).replace('"name"', '"name": "Lighthouse", "name"')
    land_items(shared, library, DAYS[1], [payload(twice.encode())], received_at=at(DAYS[1]))
    transform(shared, library, DAYS[1])
    assert history(shared, number) == (2, 1)
    assert of_book(shared, number) == 10


def test_counters_that_go_and_come_back_are_versions(shared: Warehouse, library: Source, number: int) -> None:
    for day, loans in zip(DAYS, (1, None, 1), strict=False):
        take(shared, library, counted(number, loans), day)
    assert history(shared, number)[0] == 3
    assert of_book(shared, number) == 1
    assert series(shared, number) == [(DAYS[0], 1)]


class Loose(Contract):
    """A contract of payloads that do not hold their id, so that two may be the same but for their counters."""

    volatile = ("loans",)


def test_records_that_share_a_body_have_each_their_own_counters(shared: Warehouse, library: Source) -> None:
    source = replace(library, contracts={**library.contracts, "authors": Loose})
    numbers = [str(next(NUMBERS)) for _ in range(3)]
    for day, more in zip(DAYS, (0, 10), strict=False):
        items = [
            Payload(f'{{"name": "same", "loans": {each + more}}}'.encode(), "here", name, kind="authors")
            for each, name in enumerate(numbers)
        ]
        run = land_items(shared, source, day, items, received_at=at(day))
        transform(shared, source, day)
        assert run.stats["bodies"] == (1 if day == DAYS[0] else 0)
        found = rows(
            shared,
            """
            select (raw ->> 'loans')::int from toy.authors
            where external_id = any(%s) order by external_id::int
            """,
            [numbers],
        )
        assert found == [(more,), (more + 1,), (more + 2,)]


SAID = [(1, 2, 3), (1, 2, 1), (1, 1, 2), (1, 2, 2), (1, 1, 1)]
"""What is counted on each of three days."""


@pytest.mark.parametrize("eagerly", [True, False], ids=["applied each time", "applied at the end"])
def test_the_newest_counters_are_those_received_last_in_any_order_of_arrival(
    shared: Warehouse, library: Source, eagerly: bool
) -> None:
    """The series has all that was counted, with its day; in order of arrival, each change once."""
    authors = {next(NUMBERS): case for case in product(SAID, permutations(range(3)))}
    for step, day in product(range(3), range(3)):
        items = [payload(counted(number, said[day])) for number, (said, order) in authors.items() if order[step] == day]
        land_items(shared, library, DAYS[day], items, received_at=at(DAYS[day]))
        if eagerly:
            transform(shared, library, DAYS[day])
    transform_all(shared, library)
    for number, (said, order) in authors.items():
        found = series(shared, number)
        assert of_book(shared, number) == said[2], (said, order)
        assert set(found) <= set(zip(DAYS, said, strict=False)), (said, order)
        assert {value for _, value in found} == set(said), (said, order)
        if order == (0, 1, 2):
            assert found == [(DAYS[day], value) for day, value in enumerate(said) if not day or said[day - 1] != value]


@pytest.mark.parametrize("full", [False, True])
def test_unchanged_counters_again_write_nothing(shared: Warehouse, library: Source, number: int, full: bool) -> None:
    body = counted(number, 1)
    take(shared, library, body)
    take(shared, library, counted(number, 2), DAYS[1])
    before = tuples(shared)
    for day, each in ((DAYS[1], counted(number, 2)), (DAYS[0], body)):
        run = land(shared, library, each, day)
        transform(shared, library, day, full=full)
        assert (run.counts.fetched, run.counts.unchanged) == (1, 1)
    assert tuples(shared) == before


def test_versions_received_again_are_noted_once_a_day_and_with_each_change_of_counters(
    shared: Warehouse, library: Source, number: int
) -> None:
    take(shared, library, counted(number, 1))
    for hours, loans, confirmed in ((0, 1, 0), (2, 1, 0), (3, 2, 3)):
        later = at(DAYS[1]) + timedelta(hours=hours)
        land_items(shared, library, DAYS[1], [payload(counted(number, loans))], received_at=later)
        assert rows(shared, "select confirmed_at from staging.versions where external_id = %s", [str(number)]) == [
            (at(DAYS[1]) + timedelta(hours=confirmed),)
        ]


@pytest.mark.parametrize("loans", [1, 2], ids=["unchanged", "other counters"])
def test_a_body_received_before_the_latest_was_received_again_is_late(
    shared: Warehouse, library: Source, number: int, loans: int
) -> None:
    """A on the first day, A again on the third, then B of the second day lands."""

    def told(day: str, body: Json) -> Run:
        return land_items(shared, library, day, [payload(body)], received_at=at(day))

    told(DAYS[0], counted(number, 1))
    told(DAYS[2], counted(number, loans))
    late = told(DAYS[1], counted(number, 7, name="Another"))
    assert (late.counts.fetched, late.counts.duplicates) == (1, 1)
    transform_all(shared, library)
    assert rows(shared, "select name from toy.authors where external_id = %s", [str(number)]) == [("Lighthouse",)]
    assert of_book(shared, number) == loans
    assert rows(
        shared,
        "select payload_id is not null, latest from staging.versions where external_id = %s order by version_id",
        [str(number)],
    ) == [(True, True), (True, False)]


def observations(warehouse: Warehouse, number: int) -> list[tuple[Any, ...]]:
    """All that is stored of the observations of an author, but which transform applied them."""
    return rows(
        warehouse,
        """
        select o.observation_id, o.digest, o.counters, o.observed_at, o.late, o.landed_run, o.ctid::text
        from staging.observations o where o.record_id = ops.key('toy/library.authors', %s) order by 1
        """,
        [str(number)],
    )


def test_observations_are_appended_in_order_of_arrival_and_never_change(
    shared: Warehouse, library: Source, number: int
) -> None:
    before: list[tuple[Any, ...]] = []
    for day, loans, late in ((1, 1, False), (3, 2, False), (0, 3, True), (2, 4, True), (2, 4, None), (3, 5, False)):
        land(shared, library, counted(number, loans), DAYS[day])
        found = observations(shared, number)
        assert found[: len(before)] == before
        assert [each[4] for each in found[len(before) :]] == ([] if late is None else [late])
        before = found
    transform_all(shared, library)
    assert of_book(shared, number) == 5


def test_two_counts_of_one_time_are_both_kept_and_the_later_one_is_in_force(
    shared: Warehouse, library: Source, number: int
) -> None:
    for loans in (1, 2):
        take(shared, library, counted(number, loans))
        assert of_book(shared, number) == loans
    assert series(shared, number) == [(DAYS[0], 1), (DAYS[0], 2)]
    before = observations(shared, number)
    for loans in (1, 2, 1):
        run, applied = take(shared, library, counted(number, loans))
        assert (run.counts.fetched, run.counts.unchanged, applied.counts.fetched) == (1, 1, 0)
    assert observations(shared, number) == before
    assert of_book(shared, number) == 2
    run, _ = take(shared, library, counted(number, 3))
    assert (run.counts.observed, of_book(shared, number)) == (1, 3)
    assert series(shared, number) == [(DAYS[0], 1), (DAYS[0], 2), (DAYS[0], 3)]


def test_late_counts_of_one_time_are_all_kept(shared: Warehouse, library: Source, number: int) -> None:
    take(shared, library, counted(number, 1))
    take(shared, library, counted(number, 9), DAYS[2])
    for observed in (1, 0):
        for loans in (2, 3):
            run, _ = take(shared, library, counted(number, loans), DAYS[1])
            assert (run.counts.observed, run.counts.unchanged) == (observed, 1 - observed)
    assert series(shared, number) == [(DAYS[0], 1), (DAYS[1], 2), (DAYS[1], 3), (DAYS[2], 9)]
    assert of_book(shared, number) == 9


def test_counters_that_come_late_are_of_the_series_and_not_the_newest(
    shared: Warehouse, library: Source, number: int
) -> None:
    take(shared, library, counted(number, 1))
    take(shared, library, counted(number, 3), DAYS[2])
    run, applied = take(shared, library, counted(number, 2), DAYS[1])
    assert (run.counts.observed, applied.counts.created, applied.counts.updated) == (1, 1, 0)
    assert series(shared, number) == [(DAYS[0], 1), (DAYS[1], 2), (DAYS[2], 3)]
    assert of_book(shared, number) == 3


def test_counters_seen_again_since_are_not_taken_back_by_what_was_fetched_in_between(
    shared: Warehouse, library: Source, number: int
) -> None:
    """On the third day it still told what it told on the first: what it told on the second is not the newest."""
    take(shared, library, counted(number, 1))
    take(shared, library, counted(number, 1), DAYS[2])
    take(shared, library, counted(number, 2), DAYS[1])
    assert of_book(shared, number) == 1


def full_refresh(warehouse: Warehouse, source: Source, day: str, *told: Json) -> Run:
    """A complete listing of authors."""
    items: list[Item] = [*map(payload, told), FullScan("authors", 1)]
    intake = Intake(lambda _: items, "recorded", at(day), get_record=lambda *_: None)
    return land_intake(warehouse, source, day, nullcontext(intake), shrink=True)


def test_a_series_goes_with_its_record_and_comes_back_with_it(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, counted(1, 1))
    take(warehouse, library, counted(2, 1))
    take(warehouse, library, counted(1, 2), DAYS[1])
    assert full_refresh(warehouse, library, DAYS[2], counted(2, 1)).counts.deleted == 1
    run = transform(warehouse, library, DAYS[2])
    assert run.stats["tables"]["toy.loans"]["deleted"] == 2
    assert (series(warehouse, 1), series(warehouse, 2)) == ([], [(DAYS[0], 1)])
    take(warehouse, library, counted(1, 2), DAYS[3])
    assert series(warehouse, 1) == [(DAYS[0], 1), (DAYS[1], 2)]
    assert of_book(warehouse, 1) == 2


def test_a_series_comes_back_with_what_was_counted_when_it_did(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, counted(1, 1))
    take(warehouse, library, counted(2, 1))
    full_refresh(warehouse, library, DAYS[1], counted(2, 1))
    transform(warehouse, library, DAYS[1])
    take(warehouse, library, counted(1, 5, name="Another"), DAYS[2])
    assert series(warehouse, 1) == [(DAYS[0], 1), (DAYS[2], 5)]


def test_counters_of_a_record_that_is_gone_wait_until_it_is_back(warehouse: Warehouse, library: Source) -> None:
    """What was fetched before the tombstone and lands after it."""
    take(warehouse, library, counted(1, 1))
    take(warehouse, library, counted(2, 1))
    full_refresh(warehouse, library, DAYS[2], counted(2, 1))
    transform(warehouse, library, DAYS[2])
    take(warehouse, library, counted(1, 2), DAYS[1])
    assert series(warehouse, 1) == []
    assert pending_partitions(warehouse, library) == []
    take(warehouse, library, counted(1, 2), DAYS[3])
    assert series(warehouse, 1) == [(DAYS[0], 1), (DAYS[1], 2)]
