"""Payload bytes: whatever arrives is either held by jsonb as the same value, or kept byte for byte with a reason."""

import hashlib
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines import landing
from pipelines.fidelity import NotJson, faithful, repair
from pipelines.ledger import Run
from pipelines.source import Payload, Source
from pipelines.warehouse.engine import Connection, Warehouse

NUL = "NUL character replaced"
LONE = "lone surrogate replaced"
TWICE = "duplicate key: last one kept"
BYTES = "invalid UTF-8 replaced"
BEYOND = "number beyond numeric's range kept as text"

CHARACTERS = (
    *("a", "b", "0", " ", "/", "é", "\N{LINE SEPARATOR}", "\N{GRINNING FACE}", "\x7f", ":", "{", ",", "u0000"),
    *(r"\"", r"\\", r"\/", r"\n", r"\t", r"\u0000", r"\\u0000", r"\u0022", r"\u003a", r"\u003A", r"\u005c", r"\u0061"),
    *(r"\u00e9", r"\uD83D\uDE00", r"\ud83d", r"\ude00", r"\uffff"),
)
NUMBERS = (
    *(
        "0",
        "-0",
        "-0.0",
        "1",
        "1.0",
        "1e2",
        "0.1",
        "1E+2",
        "9007199254740993",
        "18446744073709551616",
        "1e400",
        "-1e-400",
    ),
    *("0.1e1", "1.000000000000000000000000000001", "1e-16383", "1e-16384", "1e131071", "1e131072", "1e400000"),
    *("123456789" * 60, "NaN", "Infinity", "-Infinity"),
)

spaces = st.sampled_from(["", "", "", " ", "\n", "\r\n\t "])
strings = st.lists(st.sampled_from(CHARACTERS), max_size=4).map(lambda parts: '"' + "".join(parts) + '"')
numbers = st.sampled_from(NUMBERS) | st.from_regex(
    r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?", fullmatch=True
)


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(spaces, strings, spaces, st.just(":"), spaces, inner, spaces).map("".join)
    elements = st.tuples(spaces, inner, spaces).map("".join)
    objects = st.lists(members, max_size=5).map(lambda each: "{" + ",".join(each) + "}")
    arrays = st.lists(elements, max_size=4).map(lambda each: "[" + ",".join(each) + "]")
    return objects | objects | arrays | st.integers(0, 60).map(lambda depth: "[" * depth + "{}" + "]" * depth)


texts = st.recursive(strings | numbers | st.sampled_from(["true", "false", "null"]), containers, max_leaves=12)
"""JSON texts written in all the ways there are, and in some that are wrong."""

documents = texts.map(str.encode)

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)

thorough = settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def staging(new_warehouse: Callable[[], Warehouse]) -> Iterator[Warehouse]:
    warehouse = new_warehouse()
    yield warehouse
    warehouse.drop_database(warehouse.database)


@pytest.fixture(scope="module")
def connection(staging: Warehouse) -> Iterator[Connection]:
    with staging.connect() as connection:
        yield connection


def held(connection: Connection, body: bytes) -> str:
    """What jsonb makes of a text."""
    row = connection.execute("select %s::jsonb::text as body", [body.decode()]).fetchone()
    assert row is not None
    return str(row["body"])


def value_of(text: str | bytes) -> object:
    """A JSON value in a form to compare: each number exactly, each member of an object, duplicates too."""

    def members(found: list[tuple[str, object]]) -> object:
        return {"object": sorted(found, key=lambda member: member[0])}

    def tagged(value: object) -> object:
        if isinstance(value, dict):
            return ("object", [(key, tagged(each)) for key, each in value["object"]])
        if isinstance(value, list):
            return ("array", [tagged(each) for each in value])
        return (type(value).__name__, value)

    return tagged(json.loads(text, object_pairs_hook=members, parse_float=Decimal, parse_int=Decimal))


def land(warehouse: Warehouse, source: Source, bodies: list[bytes]) -> Run:
    items = [Payload(body, f"line {number}", external_id=str(uuid4())) for number, body in enumerate(bodies, 1)]
    return landing.land(warehouse, source, "2026-11-01", items)


def kept(connection: Connection, body: bytes) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The stored body and the quarantine entry of these bytes."""
    digest = hashlib.sha256(body).digest()
    payloads = connection.execute(
        "select body::text as body, original, repairs from staging.payloads where digest = %s", [digest]
    ).fetchall()
    entries = connection.execute(
        "select bytes, reason, path, byte_offset, detail from staging.quarantine where digest = %s", [digest]
    ).fetchall()
    assert len(payloads) <= 1 and len(entries) <= 1
    return (payloads[0] if payloads else None), (entries[0] if entries else None)


@thorough
@given(documents)
@example(rb'{"a":1,"a":2,"b":"\u003a"}')
@example(rb'{"a":1,"a":2,"b":"\"\u003A"}')
@example(b'{"a" :1,"a" :2}')
@example(rb'{"a":1,"a":2,"b":"\u0022:"}')
def test_what_is_called_faithful_is_the_same_value_in_jsonb(connection: Connection, body: bytes) -> None:
    """Or jsonb says no, to a number too long; it never changes a value without a word."""
    if faithful(body):
        try:
            stored = held(connection, body)
        except psycopg.errors.NumericValueOutOfRange:
            assert BEYOND in repair(body)[1]
        else:
            assert value_of(stored) == value_of(body)


@thorough
@given(documents)
def test_a_repaired_text_is_taken_by_jsonb_and_needs_no_repair_itself(connection: Connection, body: bytes) -> None:
    mended, repairs = repair(body)
    assert value_of(held(connection, mended)) == value_of(mended)
    assert repair(mended)[1] == []
    assert repairs or value_of(held(connection, body)) == value_of(body)


@thorough
@given(documents)
def test_each_kind_of_repair_is_named(body: bytes) -> None:
    """Told by an independent reading of the text."""
    seen: set[str] = set()

    def members(found: list[tuple[str, Any]]) -> None:
        for key, _ in found:
            string(key)
        if len({tame(key) for key, _ in found}) < len(found):
            seen.add(TWICE)
        for _, value in found:
            walk(value)

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for each in value:
                walk(each)
        elif isinstance(value, str):
            string(value)

    def string(text: str) -> None:
        seen.update([NUL] if "\x00" in text else [])
        seen.update([LONE] if tame(text.replace("\x00", "")) != text.replace("\x00", "") else [])

    def tame(text: str) -> str:
        return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def number(literal: str) -> None:
        exponent = Decimal(literal).as_tuple().exponent
        assert isinstance(exponent, int)
        if (
            len(literal.split(".")[0].lower().split("e")[0].lstrip("-")) + _power(literal) > 131_072
            or exponent < -16_383
        ):
            seen.add(BEYOND)

    walk(
        json.loads(
            body,
            object_pairs_hook=members,
            parse_float=number,
            parse_int=number,
            parse_constant=lambda name: seen.add(f"{name} is no JSON number: kept as text"),
        )
    )
    assert set(repair(body)[1]) == seen


def _power(literal: str) -> int:
    return int(literal.lower().partition("e")[2] or 0)


@settings(max_examples=150, deadline=None, database=None)
@given(
    values, st.booleans(), st.sampled_from([None, 0, 2]), st.sampled_from([(",", ":"), (", ", " : "), (" ,", "\n:")])
)
def test_a_value_as_other_programs_write_it_comes_back(
    connection: Connection, value: Any, ascii_only: bool, indent: int | None, separators: tuple[str, str]
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators)
    body = text.encode("utf-8", errors="surrogatepass")
    mended, repairs = repair(body)
    if faithful(body):
        assert repairs == []
    if not repairs:
        assert value_of(held(connection, body)) == value_of(text)
    assert value_of(held(connection, mended)) == value_of(mended)


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_bytes_of_any_kind_are_read_or_refused_with_a_reason(body: bytes) -> None:
    try:
        mended, _ = repair(body)
    except NotJson as error:
        assert error.reason and error.detail
        assert error.byte_offset is None or 0 <= error.byte_offset <= len(body)
        assert not faithful(body)
    else:
        assert isinstance(value_of(mended), tuple)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        texts.map(lambda text: f'{{"x": {text}}}'.encode())
        | documents
        | st.binary(max_size=30)
        | st.tuples(documents, st.integers(0, 40), st.binary(max_size=2)).map(lambda cut: cut[0][: cut[1]] + cut[2]),
        min_size=1,
        max_size=30,
    )
)
def test_nothing_that_arrives_is_lost(
    staging: Warehouse, connection: Connection, comfyui: Source, bodies: list[bytes]
) -> None:
    run = land(staging, comfyui, bodies)
    outcomes = []
    for body in bodies:
        payload, entry = kept(connection, body)
        assert (payload is None) != (entry is None)
        if entry is not None:
            assert entry["bytes"] == body and entry["reason"] and entry["detail"]
        elif payload is not None and payload["original"] is not None:
            assert payload["original"] == body and payload["repairs"]
        elif payload is not None:
            assert value_of(payload["body"]) == value_of(body)
        outcomes.append(entry is None)
    assert (run.counts.fetched, run.counts.created) == (len(bodies), sum(outcomes))
    assert run.counts.quarantined == len(bodies) - sum(outcomes)


VECTORS: dict[str, tuple[bytes, str | list[str]]] = {
    "an empty object": (b"{}", "lands"),
    "an empty key and an empty string": (b'{"": ""}', "lands"),
    "space around everything": (b' \r\n{ "a"\t: [ 1 , 2 ] }\n ', "lands"),
    "keys that are not ASCII": ('{"ключ": "ñ", "\N{GRINNING FACE}": 1}'.encode(), "lands"),
    "one character by two escapes": (rb'{"a": "\ud83d\ude00"}', "lands"),
    "the text backslash u0000": (rb'{"a": "\\u0000"}', "lands"),
    "a quote written as an escape": (rb'{"a\u0022:": "\u0022:"}', "lands"),
    "a number beyond a double": (b'{"a": 1e400}', "lands"),
    "a number smaller than a double": (b'{"a": 1e-4000}', "lands"),
    "the largest number numeric holds": (b'{"a": 9e131071}', "lands"),
    "an integer of 10,000 digits": (b'{"a": ' + b"7" * 10_000 + b"}", "lands"),
    "a fraction of 10,000 digits": (b'{"a": 0.' + b"7" * 10_000 + b"}", "lands"),
    "minus zero": (b'{"a": -0}', "lands"),
    "a key of 64 kB": (b'{"' + b"k" * 65_536 + b'": 1}', "lands"),
    "200 lists in each other": (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "lands"),
    "a key twice": (b'{"a": 1, "a": 2}', [TWICE]),
    "a key twice with the same value": (b'{"a": 1, "a": 1}', [TWICE]),
    "a key twice, deep inside": (b'{"x": [[{"a": 1, "b": 0, "a": 2}]]}', [TWICE]),
    "a key twice, once as an escape": (rb'{"a": 1, "\u0061": 2}', [TWICE]),
    "a key twice beside a space before a colon": (b'{"a" : 1, "a": 2}', [TWICE]),
    "a key twice beside an escaped quote": (rb'{"a":1,"a":2,"b":"\u0022:"}', [TWICE]),
    "a key twice beside an escaped colon": (rb'{"a":1,"a":2,"b":"\u003a"}', [TWICE]),
    "a NUL character": (rb'{"a": "x\u0000y"}', [NUL]),
    "a NUL character in a key": (rb'{"\u0000": 1}', [NUL]),
    "half of a surrogate pair": (rb'{"a": "\ud83d"}', [LONE]),
    "a surrogate pair the wrong way round": (rb'{"a": "\ude00\ud83d"}', [LONE]),
    "invalid UTF-8": (b'{"a": "caf\xe9"}', [BYTES]),
    "a surrogate in UTF-8": (b'{"a": "\xed\xa0\x80"}', [BYTES]),
    "NaN": (b'{"a": NaN}', ["NaN is no JSON number: kept as text"]),
    "minus infinity": (b'{"a": [-Infinity]}', ["-Infinity is no JSON number: kept as text"]),
    "1e400000": (b'{"a": 1e400000}', [BEYOND]),
    "1e131072": (b'{"a": 1e131072}', [BEYOND]),
    "1e-20000": (b'{"a": 1e-20000}', [BEYOND]),
    "a fraction of 17,000 digits": (b'{"a": 0.' + b"7" * 17_000 + b"}", [BEYOND]),
    "an integer of 200,000 digits": (b'{"a": ' + b"7" * 200_000 + b"}", [BEYOND]),
    "four faults at once": (
        b'{"a": NaN, "a": "\\u0000", "b": "\xff"}',
        [NUL, "NaN is no JSON number: kept as text", TWICE, BYTES],
    ),
    "nothing": (b"", "not_json at 0"),
    "only space": (b" \n\t", "not_json at 3"),
    "a byte order mark": (b"\xef\xbb\xbf{}", ["byte-order mark removed"]),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not_json at 0"),
    "a zero byte": (b"\x00", "not_json at 0"),
    "two documents": (b'{"a":1}{"a":2}', "not_json at 7"),
    "a comma too many": ('{"é": [1,]}'.encode(), "not_json at 10"),
    "cut in the middle": (b'{"a": [1, 2', "not_json at 11"),
    "cut inside a string": (b'{"a": "text', "not_json at 6"),
    "a line break inside a string": (b'{"a": "x\ny"}', "not_json at 8"),
    "a leading zero": (b'{"a": 01}', "not_json at 7"),
    "an unknown escape": (rb'{"a": "\x41"}', "not_json at 7"),
    "a key without quotes": (b"{a: 1}", "not_json at 1"),
    "an HTML page": (b"<html>502 Bad Gateway</html>", "not_json at 0"),
    "10,000 lists in each other": (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "too_deep"),
    "a number": (b"5", "wrong_type"),
    "a string": (b'"text"', "wrong_type"),
    "null": (b"null", "wrong_type"),
    "a list": (b"[{}]", "wrong_type"),
}


@pytest.fixture(scope="module")
def vectors(new_warehouse: Callable[[], Warehouse], comfyui: Source) -> Iterator[Connection]:
    """All vectors, landed in one batch."""
    warehouse = new_warehouse()
    land(warehouse, comfyui, [body for body, _ in VECTORS.values()])
    with warehouse.connect() as connection:
        yield connection
    warehouse.drop_database(warehouse.database)


@pytest.mark.parametrize("name", VECTORS)
def test_a_payload_of_this_kind_has_the_expected_end(vectors: Connection, name: str) -> None:
    body, expected = VECTORS[name]
    payload, entry = kept(vectors, body)
    if entry is not None:
        assert payload is None and entry["bytes"] == body
        offset = f" at {entry['byte_offset']}" if entry["byte_offset"] is not None else ""
        assert f"{entry['reason']}{offset}" == expected
        assert entry["path"] == ("$" if expected == "wrong_type" else None)
        return
    assert payload is not None
    assert (payload["repairs"] or "lands") == (sorted(expected) if isinstance(expected, list) else expected)
    assert payload["original"] == (None if expected == "lands" else body)
    if expected == "lands":
        assert value_of(payload["body"]) == value_of(body)


def test_what_was_repaired_is_counted_in_the_ledger(warehouse: Warehouse, comfyui: Source) -> None:
    run = land(warehouse, comfyui, [rb'{"a": "\u0000"}', rb'{"b": "\u0000", "b": 1}', b"{}"])
    assert run.stats["repaired"] == {NUL: 2, TWICE: 1}
    assert run.status == "completed"


def test_a_repaired_body_is_stored_once_and_known_the_next_time(warehouse: Warehouse, comfyui: Source) -> None:
    items = [Payload(rb'{"a": "\u0000"}', "line 1", external_id="a")]
    assert landing.land(warehouse, comfyui, "2026-11-01", items).counts.created == 1
    assert landing.land(warehouse, comfyui, "2026-11-01", items).counts.unchanged == 1
    with warehouse.connect() as connection:
        assert connection.execute("select count(*) as n from staging.payloads").fetchone() == {"n": 1}
