"""Pages of which records are broken: the others are read as they were sent, in their order, and its rest."""

import json
import random
from typing import Any

import msgspec
import pytest

from pipelines.connectors.json_keys import UNDECODABLE
from pipelines.connectors.json_records import Decoded, Record, decode, decode_head, decode_page
from tests.corruptions import CORRUPTIONS, NOTHING, REPAIRED

SHAPES = {
    "a list": (b"[", b"]"),
    "a page": (
        b'{"total": 4, "items": [',
        b'], "metadata": {"of": {"a": [1]}}, "next": "/list?page=2"}',
    ),
    "a page that ends with its records": (b'{"next": "/list?page=2", "items": [', b"]}"),
}


class Page(msgspec.Struct):
    items: list[msgspec.Raw] | None
    next: str


def record(number: int) -> bytes:
    """A record with others in it, and with all that a scanner could take for structure."""
    books = [{"id": number * 10 + each, "title": 't, {"', "covers": [{"id": 1, "url": "u"}]} for each in range(3)]
    name = f'author {number} \u00e9 [x] {{y}}, "q" \\'
    return json.dumps({"id": number, "name": name, "books": books, "stats": {"loans": number}}).encode()


def read(shape: str, records: list[bytes], separator: bytes = b", ") -> list[bytes]:
    """The records of a page; asserts what else it holds."""
    before, after = SHAPES[shape]
    page = before + separator.join(records) + after
    if shape == "a list":
        decoded: Decoded[Any] = decode(page, list[msgspec.Raw])
        return [each.body for each in decoded.records(decoded.document)]
    decoded = decode(page, Page)
    assert decoded.document.next == "/list?page=2"
    return [each.body for each in decoded.records(decoded.document.items)]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.sample(120)
def test_a_broken_record_spoils_no_other_at_any_place(name: str, shape: str, place: int) -> None:
    records = [record(number) for number in range(1, 5)]
    good = records[:place] + records[place + 1 :]
    records[place] = CORRUPTIONS[name](records[place])
    found = read(shape, records)
    assert [each for each in found if each in good] == good
    if name not in NOTHING:
        assert found == records


@pytest.mark.parametrize("seed", range(1_000))
@pytest.mark.sample(80)
def test_two_broken_records_spoil_no_other(seed: int) -> None:
    draw = random.Random(seed)
    records = [record(number) for number in range(1, draw.randint(4, 8))]
    places, names = draw.sample(range(len(records)), 2), draw.choices(sorted(CORRUPTIONS), k=2)
    good = [each for number, each in enumerate(records) if number not in places]
    for place, name in zip(places, names, strict=True):
        records[place] = CORRUPTIONS[name](records[place])
    found = read(draw.choice(list(SHAPES)), records, draw.choice([b",", b", ", b",\n  "]))
    assert [each for each in found if each in good] == good
    kept = b"".join(found)
    for place, name in zip(places, names, strict=True):
        assert records[place].strip() in kept
        assert name not in REPAIRED or records[place] in found


@pytest.mark.parametrize("good", [[], [b'{"id": 9, "name": "small"}']], ids=["alone", "with a small one"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.sample(120)
def test_nothing_in_a_broken_record_is_a_record(name: str, shape: str, first: bool, good: list[bytes]) -> None:
    """Also where the objects in it are most of the page."""
    books = [json.dumps({"id": each, "name": f"book {each}"}).encode() for each in range(3)]
    inner = [CORRUPTIONS[name](books[0]), *books[1:]]
    broken = b'{"id": 1, "name": "m", "books": [' + b", ".join(inner) + b"]}"
    found = read(shape, [broken, *good] if first else [*good, broken])
    assert [each for each in found if each in good] == good
    assert not set(found) & set(books)


def test_a_comma_missing_between_records_hides_none() -> None:
    page = b"[" + record(1) + b" " + record(2) + b", " + record(3) + b", ]"
    decoded = decode(page, list[msgspec.Raw])
    assert [each.body for each in decoded.records(decoded.document)] == [record(1), record(2), record(3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_page_that_is_cut_is_none_wherever_it_is_cut(shape: str) -> None:
    before, after = SHAPES[shape]
    page = before + record(1) + b", " + record(2) + after
    for length in range(len(page)):
        if page[:length].rstrip().endswith(b"[x]"):
            continue  # it could be a list that ends with a string without an end
        with pytest.raises(UNDECODABLE):
            decode(page[:length], list[msgspec.Raw] if shape == "a list" else Page)


def items_of(document: Any) -> Any:
    """The records of a list or a page."""
    return document if isinstance(document, list) else msgspec.json.decode(document["items"], type=list[msgspec.Raw])


@pytest.mark.parametrize("shape", SHAPES)
def test_of_a_file_that_stays_cut_the_whole_records_are_read_and_the_rest_is_one(shape: str) -> None:
    """Nothing in the record that is cut is a record."""
    before, after = SHAPES[shape]
    records = [record(number) for number in (1, 2, 3)]
    page = before + b", ".join(records)
    for length in range(len(before), len(page + after)):
        cut = (page + after)[:length]
        _, found = decode_page(
            cut,
            list[msgspec.Raw] if shape == "a list" else dict[str, msgspec.Raw],
            items_of,
            may_be_cut=True,
        )
        bodies = [each.body for each in found]
        whole = sum(len(before + b", ".join(records[: number + 1])) <= length for number in range(3))
        assert bodies[:whole] == records[:whole]
        assert len(bodies) <= whole + 1
        kept = b"".join(bodies[whole:])
        assert kept == cut[len(before + b", ".join(records[:whole])) :].lstrip(b", ") or whole == 3


def test_a_member_with_the_key_of_one_before_is_a_broken_record() -> None:
    page = b'{"models": {"a": {"size": 1}, "b": {"size": 2}, "\\u0061" : {"size": 3}, "c": {"size": 4}}}'
    _, found = decode_page(page, dict[str, dict[str, msgspec.Raw]], lambda document: document["models"])
    assert found == [
        Record(b'{"size": 1}', "a"),
        Record(b'{"size": 2}', "b"),
        Record(b'"\\u0061" : {"size": 3}', None),
        Record(b'{"size": 4}', "c"),
    ]


@pytest.mark.parametrize("other", [b'[{"id":2}]', b"[]", b"null"])
@pytest.mark.parametrize("space", [b"", b" ", b"\n  "])
def test_a_page_in_which_one_list_hides_another_is_none(space: bytes, other: bytes) -> None:
    page = b'{"items":' + space + b'[{"id":1}],' + space + b'"items":' + other + b',"next":""}'
    with pytest.raises(UNDECODABLE, match="it has the key items twice"):
        decode_page(page, Page, lambda page: page.items)


@pytest.mark.parametrize(
    "record", [b'{"name": "he"ron", "size": 1}', b'{"size": 1, "name": nope}', b"1", b'{"name": "']
)
def test_what_is_broken_of_a_record_is_not_read_before_it_lands(record: bytes) -> None:
    class Named(msgspec.Struct):
        name: str

    assert decode_head(record, Named) is None
    assert decode_head(b'{"name": "heron", "size": NaN}', Named) == Named("heron")


@pytest.mark.parametrize("indent", [None, 2])
def test_a_key_twice_within_a_record_is_the_matter_of_its_landing(indent: int | None) -> None:
    one = b'{"id": 1, "id": 2}'
    page = json.dumps({"next": "\u00e9", "items": [{}], "more": {"a": {"b": [1]}}}, indent=indent).encode()
    _, found = decode_page(page.replace(b"{}", one), Page, lambda page: page.items)
    assert [each.body for each in found] == [one]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_page_that_is_cut_after_inner_brackets_is_none(indent: int | None) -> None:
    model = {"id": 1, "versions": [{"id": each, "files": [{"id": 7}, {"id": 8}]} for each in (1000, 1001, 1002)]}
    page = json.dumps({"items": [model, model], "next": ""}, indent=indent).encode()
    for length in range(len(page)):
        with pytest.raises(UNDECODABLE):
            decode(page[:length], Page)


@pytest.mark.parametrize(
    "page", [b"<html>[1]</html>", b"", b"no", b"\xef\xbb\xbf", b'{"error": "it is ill", x}', b"[1]]"]
)
def test_what_is_no_page_is_none(page: bytes) -> None:
    with pytest.raises(UNDECODABLE):
        decode(page, Page)


def test_a_page_with_a_mark_and_broken_metadata_is_read() -> None:
    page = b'\xef\xbb\xbf{"items": [' + record(1) + b'], "total": NaN, "when": , odd: 1, "next": "/list"}'
    decoded = decode(page, Page)
    assert (decoded.records(decoded.document.items), decoded.document.next) == ([Record(record(1))], "/list")


def test_records_of_an_object_keep_their_names_and_one_without_a_readable_one_has_none() -> None:
    page = (
        b'{"a": {"size": 1}, "b": {"size": NaN}, c: {"size": 3}, "d": {"size": 4}, "e": {"size": "5}, "f": {"size": 6}}'
    )
    decoded = decode(b'{"models": ' + page + b"}", dict[str, dict[str, msgspec.Raw]])
    assert decoded.records(decoded.document["models"]) == [
        Record(b'{"size": 1}', "a"),
        Record(b'{"size": NaN}', "b"),
        Record(b'c: {"size": 3}', None),
        Record(b'{"size": 4}', "d"),
        Record(b'{"size": "5}', "e"),
        Record(b'{"size": 6}', "f"),
    ]


def test_a_value_with_a_broken_one_in_it_is_as_it_was() -> None:
    post = b'{ "id": 7 , "x" : NaN, y: [1 ,2], "z": "\\ud83d" }'
    decoded = decode(b'{"post": ' + post + b"}", dict[str, msgspec.Raw])
    assert decoded.original(decoded.document["post"]) == post


def test_placeholders_are_not_taken_for_records() -> None:
    records = [b'"broken record 0"', b'{"a": NaN}', b'"broken record 0_"']
    assert read("a list", records) == records


def test_a_page_without_faults_has_no_placeholders() -> None:
    assert decode(b"[" + record(1) + b"]", list[msgspec.Raw]).broken == {}
    decoded = decode(b'{"items": null, "next": ""}', Page)
    assert decoded.records(decoded.document.items) == []
