"""Contracts: required and optional fields, whole numbers, nulls; alone, and in landings of the toy library."""

import json
from typing import Annotated, Any

import msgspec
import pytest

from pipelines.connectors import json_values
from pipelines.connectors.json_values import replace_values, steps_of, with_whole_numbers
from pipelines.landing.jsonb import LARGE, Unlandable
from pipelines.landing.optional_values import MAX_VALUES, split_off_rejected
from pipelines.source import AwareDatetime, Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.library import author, rows, whole
from tests.runs import land_items, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]
DAY = "2026-11-01"


class Child(msgspec.Struct):
    id: int
    label: str | None = None
    sizes: list[int] = []


class Detail(msgspec.Struct):
    kind: str = ""
    at: AwareDatetime | None = None


class Parent(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=0)]
    name: str
    detail: Detail | None = None
    children: list[Child] = []
    by_name: dict[str, Child] = {}
    tags: list[str | dict[str, msgspec.Raw]] = []
    level: int | str | None = None
    words: dict[str, list[str]] = {}
    raw: msgspec.Raw = msgspec.Raw(b"null")


GOOD: dict[str, Any] = {"id": 1, "name": "n"}


@pytest.mark.parametrize(
    ("more", "path", "value"),
    [
        ({"detail": "text"}, "$.detail", "text"),
        ({"detail": {"kind": 5}}, "$.detail.kind", 5),
        ({"detail": {"at": "yesterday"}}, "$.detail.at", "yesterday"),
        ({"detail": [1, 2]}, "$.detail", [1, 2]),
        ({"children": {"id": 1}}, "$.children", {"id": 1}),
        ({"children": [{"id": 1}, {"id": 2, "label": False}]}, "$.children[1].label", False),
        ({"children": [{"id": 1, "sizes": [1, "2"]}]}, "$.children[0].sizes[1]", "2"),
        ({"by_name": {"a b": {"id": 1, "label": {}}}}, '$.by_name."a b".label', {}),
        ({"tags": ["a", {"name": 1}, 7]}, "$.tags[2]", 7),
        ({"level": 1.5}, "$.level", 1.5),
        ({"words": {"x": ["a", None, 3]}}, "$.words.x[2]", 3),
        ({"words": {"x": "a"}}, "$.words.x", "a"),
    ],
)
def test_an_optional_value_of_another_type_is_split_off(more: dict[str, Any], path: str, value: Any) -> None:
    accepted, found = split_off_rejected(json.dumps(GOOD | more).encode(), Parent)
    assert [(each.path, json.loads(each.value)) for each in found] == [(path, value)]
    assert msgspec.json.decode(accepted, type=Parent).id == 1


@pytest.mark.parametrize(
    "field", ["detail", "children", "by_name", "tags", "level", "words", "raw"]
)  # of any type, a list and an object among them
def test_a_null_is_no_value(field: str) -> None:
    assert split_off_rejected(json.dumps(GOOD | {field: None, "level": []}).encode(), Parent)[1][0].path == "$.level"
    for more in ({field: None}, {"children": [None, {"id": 1, "sizes": None}]}, {"by_name": {"x": None}}):
        accepted, found = split_off_rejected(json.dumps(GOOD | more).encode(), Parent)
        assert found == []
        msgspec.json.decode(accepted, type=Parent)


@pytest.mark.parametrize(
    ("body", "reason", "path"),
    [
        ({"id": 1}, "missing_field", "$.name"),
        ({"id": None, "name": "n"}, "wrong_type", "$.id"),
        ({"id": -1, "name": "n"}, "wrong_type", "$.id"),
        ({"id": "1204", "name": "n"}, "wrong_type", "$.id"),
        ({"id": 1, "name": ["n"]}, "wrong_type", "$.name"),
        ([GOOD], "wrong_type", "$"),
        (GOOD | {"children": [{"id": 1}, {"label": "x"}]}, "missing_field", "$.children[1].id"),
        (GOOD | {"children": [{"id": "x"}]}, "wrong_type", "$.children[0].id"),
        (GOOD | {"children": [7]}, "wrong_type", "$.children[0]"),
        (GOOD | {"by_name": {"a": {}}}, "missing_field", "$.by_name.a.id"),
    ],
)
def test_what_identifies_a_record_or_a_child_is_required(body: Any, reason: str, path: str) -> None:
    with pytest.raises(Unlandable) as raised:
        split_off_rejected(json.dumps(body).encode(), Parent)
    assert (raised.value.reason, raised.value.path) == (reason, path)


def test_of_a_payload_with_many_wrong_values_some_have_entries() -> None:
    assert len(split_off_rejected(json.dumps(GOOD | {"tags": [*range(1_000)]}).encode(), Parent)[1]) == MAX_VALUES


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("1204.0", "1204"),
        ("1.204e3", "1204"),
        ("1204.00", "1204"),
        ("12040E-1", "1204"),
        ("-7.0", "-7"),
        ("0.0", "0"),
        ("1e20", "1" + "0" * 20),
        ("1204.5", "1204.5"),
        ("12e-1", "12e-1"),
        ("1e5000", "1e5000"),
        ("1e-99999999999", "1e-99999999999"),
        ('"1204.0"', '"1204.0"'),
        ("[1.0]", "[1.0]"),
    ],
)
def test_a_whole_number_is_an_integer_however_it_is_written(written: str, stored: str) -> None:
    text = '{"x": 2.0,"id":%s , "children":[{"sizes":[ %s]}], "by_name":{"a":{"id":%s}}, "detail":{"kind": 2.0}}'
    received, expected = (text % ((each,) * 3) for each in (written, stored))
    assert with_whole_numbers(received.encode(), Parent) == expected.encode()


def test_every_other_byte_stays() -> None:
    text = b'\xef\xbb\xbf {"id":7.0,"id" : 8.0, "x\xff":[NaN, "\\"}", {"id":9.0}], "\\u0069d":1.0}\n'
    assert with_whole_numbers(text, Parent) == text.replace(b"7.0", b"7").replace(b"8.0", b"8").replace(b"1.0", b"1")


def test_replacing_takes_a_value_of_another_type_on_the_way_as_a_whole() -> None:
    paths = [steps_of("a[*].b"), steps_of("c.*.d")]
    text = b'{"a":[{"b":1,"x":2},"s",[3],null],"c":{"k":{"d":[4]},"l":5},"A":6}'
    expected = b'{"a":[{"b":#,"x":2},#,#,#],"c":{"k":{"d":#},"l":#},"A":6}'
    assert replace_values(text, paths, lambda _: b"#") == expected
    assert replace_values(b'{"a":{"b":1},"c":[{"d":1}]}', paths, lambda _: b"#") == b'{"a":#,"c":#}'
    assert replace_values(b' "text"', paths, lambda _: b"#") == b" #"


def test_the_head_of_a_record_takes_whole_numbers_too() -> None:
    assert json_values.decode(b'{"id": 7.0, "name": "n"}', Parent).id == 7
    with pytest.raises(msgspec.ValidationError):
        json_values.decode(b'{"id": 7.5, "name": "n"}', Parent)


def land(warehouse: Warehouse, library: Source, *bodies: bytes) -> Any:
    items = [Payload(body, f"line {number}", kind="authors") for number, body in enumerate(bodies, 1)]
    return land_items(warehouse, library, DAY, items)


def entries(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return rows(
        warehouse,
        "select granularity, reason, external_id, path, bytes, closed_at is null from staging.quarantine order by path",
    )


def test_a_payload_with_a_wrong_optional_value_lands_and_its_entry_closes(
    warehouse: Warehouse, library: Source
) -> None:
    body = json.dumps(whole(7)).replace('"width": 8', '"width": "wide"').encode()
    run = land(warehouse, library, body, json.dumps(whole(8)).encode())
    assert (run.status, run.counts.created, run.counts.quarantined, run.stats["values"]) == ("completed", 2, 0, 1)
    path = "$.books[0].covers[0].width"
    assert entries(warehouse) == [("value", "wrong_type", "7", path, b'"wide"', True)]
    assert rows(warehouse, "select count(*) from staging.payloads where body::text like '%%wide%%'") == [(1,)]
    transform(warehouse, library, DAY)
    assert rows(warehouse, "select count(*) from toy.copies") == [(2,)]
    land(warehouse, library, json.dumps(whole(7)).encode())
    assert [entry[-1] for entry in entries(warehouse) if entry[3] == path] == [False]


def test_ids_written_with_a_point_are_the_same_records(warehouse: Warehouse, library: Source) -> None:
    text = json.dumps(whole(7)).encode()
    land(warehouse, library, text)
    run = land(warehouse, library, text.replace(b'"id": 7,', b'"id": 7.0,').replace(b'"id": 70,', b'"id": 7e1,'))
    assert (run.counts.unchanged, run.counts.created) == (1, 0)
    transform(warehouse, library, DAY)
    land(warehouse, library, json.dumps(whole(8)).replace('"id": 8,', '"id": 8.0,').replace(" 80,", " 80.00,").encode())
    transform(warehouse, library, DAY)
    assert rows(warehouse, "select external_id from toy.authors order by 1") == [("7",), ("8",)]
    assert rows(warehouse, "select external_id from toy.books order by 1") == [("70",), ("80",)]
    ((same,),) = rows(warehouse, "select count(*) from toy.books where book_id = ops.key('toy/library', external_id)")
    assert same == 2


def test_a_large_payload_has_its_whole_numbers_and_entries_too(warehouse: Warehouse, library: Source) -> None:
    body = author(7, topics=["a", 5], note="x" * LARGE)
    run = land(warehouse, library, json.dumps(body).replace('"id": 7,', '"id": 7.0,').encode())
    assert (run.counts.created, run.stats["values"]) == (1, 1)
    assert rows(warehouse, "select external_id from staging.versions") == [("7",)]
    assert [entry[3:5] for entry in entries(warehouse)] == [("$.topics[1]", b"5")]


def test_a_payload_that_is_repaired_has_its_entries_too(warehouse: Warehouse, library: Source) -> None:
    run = land(warehouse, library, b'{"id": 7.0, "name": "n", "topics": ["a", 5], "x": NaN, "y": "\\u0000"}')
    assert (run.counts.created, run.stats["values"]) == (1, 1)
    assert [entry[3:5] for entry in entries(warehouse)] == [("$.topics[1]", b"5")]


@pytest.mark.parametrize("field", ["books", "topics", "stats"])
def test_a_list_that_is_null_makes_no_entry(warehouse: Warehouse, library: Source, field: str) -> None:
    run = land(warehouse, library, json.dumps(whole(7) | {field: None}).encode())
    assert (run.status, run.counts.created, run.stats["values"]) == ("completed", 1, 0)
    done = transform(warehouse, library, DAY)
    assert (done.status, entries(warehouse)) == ("completed", [])
    assert rows(warehouse, "select external_id from toy.authors") == [("7",)]
