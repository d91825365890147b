"""Invariant I6: what arrives is either held by jsonb as the same value, or kept byte for byte with a reason.

The corners by name (`corpus`), through each door; texts that hypothesis makes; and what all of it takes of memory. The
judge is Python's json with every number exact and every member of an object told.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines import project
from pipelines.landing import bulk_files, jsonb, stage_bodies
from pipelines.landing.jsonb import MAX_BYTES, Unlandable, is_lossless, repair, repair_large
from pipelines.ledger import Run
from pipelines.source import Contract, Payload, Source, Window
from pipelines.warehouse.database import Connection, Warehouse
from tests.corpus import BEYOND, BYTES, LONE, MARK, NUL, TWICE, VECTORS, deep
from tests.corpus import LARGE as ADJACENT
from tests.runs import land_intake, land_items

pytestmark = pytest.mark.usefixtures("toy")

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

EXAMPLES = 200 if "SAMPLES" in os.environ else 40

thorough = settings(
    max_examples=EXAMPLES,
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


def same_value(one: str | bytes, other: str | bytes) -> bool:
    """Whether two JSON texts have one value, however deep."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        return value_of(one) == value_of(other)
    finally:
        sys.setrecursionlimit(usual)


def land(warehouse: Warehouse, source: Source, bodies: list[bytes]) -> Run:
    items = [Payload(body, f"line {number}", external_id=str(uuid4())) for number, body in enumerate(bodies, 1)]
    return land_items(warehouse, source, "2026-11-01", items)


def kept(connection: Connection, body: bytes) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The stored body and the quarantine entry of these bytes."""
    digest = hashlib.sha256(body).digest()
    payloads = connection.execute(
        "select body::text as body, original, repairs from staging.payloads where digest = %s", [digest]
    ).fetchall()
    entries = connection.execute(
        "select distinct bytes, reason, path, byte_offset, detail from staging.quarantine where digest = %s", [digest]
    ).fetchall()
    assert len(payloads) <= 1 and len(entries) <= 1
    return (payloads[0] if payloads else None), (entries[0] if entries else None)


@pytest.mark.long("thousands of values")
@thorough
@given(documents)
@example(rb'{"a":1,"a":2,"b":"\u003a"}')
@example(rb'{"a":1,"a":2,"b":"\"\u003A"}')
@example(b'{"a" :1,"a" :2}')
@example(rb'{"a":1,"a":2,"b":"\u0022:"}')
def test_what_is_lossless_is_the_same_value_in_jsonb(connection: Connection, body: bytes) -> None:
    """Or jsonb says no, to a number too long; it never changes a value without a word."""
    if is_lossless(body):
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
            parse_constant=lambda name: seen.add(f"{name} is not a JSON number: kept as text"),
        )
    )
    assert set(repair(body)[1]) == seen


@thorough
@given(
    documents | st.tuples(documents, st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]] + b"\xff" + cut[0][cut[1] :])
)
def test_a_text_is_repaired_in_the_same_way_without_being_decoded(body: bytes) -> None:
    """Except duplicate keys and numbers out of range, which the server finds in a large text."""
    try:
        expected, repairs = repair(body)
    except Unlandable as error:
        with pytest.raises(Unlandable) as refused:
            repair_large(body)
        assert (refused.value.reason, refused.value.byte_offset is None) == (error.reason, error.byte_offset is None)
        return
    if any("is not a JSON number" in each for each in repairs):
        with pytest.raises(Unlandable):
            repair_large(body)
        return
    mended, found = repair_large(body)
    assert set(repairs) - {TWICE, BEYOND} <= set(found) <= set(repairs) | {LONE}
    assert LONE in repairs or LONE not in found or BYTES in found
    assert repair_large(mended) == (mended, [])
    if not {TWICE, BEYOND} & set(repairs):
        assert value_of(mended) == value_of(expected)


def _power(literal: str) -> int:
    return int(literal.lower().partition("e")[2] or 0)


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(
    values, st.booleans(), st.sampled_from([None, 0, 2]), st.sampled_from([(",", ":"), (", ", " : "), (" ,", "\n:")])
)
def test_a_value_as_other_programs_write_it_comes_back(
    connection: Connection, value: Any, ascii_only: bool, indent: int | None, separators: tuple[str, str]
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators)
    body = text.encode("utf-8", errors="surrogatepass")
    mended, repairs = repair(body)
    if is_lossless(body):
        assert repairs == []
    if not repairs:
        assert value_of(held(connection, body)) == value_of(text)
    assert value_of(held(connection, mended)) == value_of(mended)


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_bytes_of_any_kind_are_read_or_refused_with_a_reason(body: bytes) -> None:
    try:
        mended, _ = repair(body)
    except Unlandable as error:
        assert error.reason and error.detail
        assert error.byte_offset is None or 0 <= error.byte_offset <= len(body)
        assert not is_lossless(body)
    else:
        assert isinstance(value_of(mended), tuple)


@settings(max_examples=EXAMPLES // 3, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
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
    staging: Warehouse, connection: Connection, shelf: Source, bodies: list[bytes]
) -> None:
    run = land(staging, shelf, bodies)
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


def requests(name: str) -> str:
    """Of a vector, as a file's name."""
    return f"{list(VECTORS).index(name):03}.json"


class Anything(Contract):
    """A contract that asks for nothing; each payload is a record of its own."""

    def external_id(self) -> str:
        return str(uuid4())


class Named(Contract):
    """A contract with an id, and something that it says nothing about."""

    id: str

    def external_id(self) -> str:
        return self.id


class Counting(Named):
    """One whose counters may be anything."""

    volatile = ("x",)


@dataclass(frozen=True)
class Found:
    """What is kept of a payload: its body in staging, or its entry in quarantine."""

    digest: bytes
    body: str | None = None
    original: bytes | None = None
    repairs: list[str] | None = None
    refused: bytes | None = None
    reason: str | None = None
    path: str | None = None
    byte_offset: int | None = None

    def end(self) -> str | list[str]:
        offset = f" at {self.byte_offset}" if self.byte_offset is not None else ""
        return f"{self.reason}{offset}" if self.reason else self.repairs or "lands"

    def holds(self, received: bytes, *, counted: bool = False) -> None:
        """I6: the same value, or exactly the bytes, by their digest. counted: that is of them less their counters."""
        exact = self.refused if self.reason else self.original
        if exact is None:
            assert self.body is not None and same_value(self.body, received)
        else:
            assert exact == received
            assert self.reason or self.repairs
        if not counted:
            assert self.digest == hashlib.sha256(exact or received).digest()


Kept = dict[str, Found]


def found(warehouse: Warehouse) -> Kept:
    """Everything that is kept, by its request."""
    with warehouse.connect() as connection:
        landed = connection.execute(
            """
            select v.request, p.digest, p.body::text as body, p.original, p.repairs
            from staging.versions v join staging.payloads p using (payload_id)
            """
        ).fetchall()
        refused = connection.execute(
            """
            select request, digest, bytes as refused, reason, path, byte_offset
            from staging.quarantine where closed_at is null
            """
        ).fetchall()
    kept = {row["request"]: Found(**{key: value for key, value in row.items() if key != "request"}) for row in landed}
    return kept | {row.pop("request"): Found(**row) for row in refused}


@contextmanager
def holding(new_warehouse: Callable[[], Warehouse], source: Source, contract: type[Contract]) -> Iterator[Any]:
    """A warehouse and a source with one stream under a contract."""
    warehouse = new_warehouse()
    yield warehouse, replace(source, name="toy/corners", contracts={"": contract}, kind="http", get_record=None)
    warehouse.drop_database(warehouse.database)


def bring(warehouse: Warehouse, source: Source, path: Path) -> Run:
    intake = bulk_files.intake(source, "", path, Window.of("2026-11-01").start)
    run = land_intake(warehouse, source, "2026-11-01", nullcontext(intake))
    counts = run.counts
    assert counts.fetched == counts.created + counts.updated + counts.observed + counts.unchanged + counts.quarantined
    return run


@pytest.fixture(scope="module")
def payloads(new_warehouse: Callable[[], Warehouse], shelf: Source) -> Iterator[Kept]:
    """All vectors as payloads, landed in one batch."""
    with holding(new_warehouse, shelf, Anything) as (warehouse, source):
        land_items(
            warehouse, source, "2026-11-01", [Payload(body, requests(name)) for name, (body, _) in VECTORS.items()]
        )
        yield found(warehouse)


@pytest.fixture(scope="module")
def as_large(new_warehouse: Callable[[], Warehouse], shelf: Source) -> Iterator[Kept]:
    """All vectors as payloads, each treated as a large one, read in chunks of 61 bytes."""
    with holding(new_warehouse, shelf, Anything) as (warehouse, source):
        items = [Payload(body, requests(name)) for name, (body, _) in VECTORS.items()]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage_bodies, "LARGE", -1)
            patch.setattr(jsonb, "LARGE", -1)
            patch.setattr(jsonb, "CHUNK", 61)
            patch.setattr("pipelines.landing.land.BATCH_PAYLOADS", 5)
            land_items(warehouse, source, "2026-11-01", items)
        yield found(warehouse)


@pytest.fixture(scope="module")
def folder(
    new_warehouse: Callable[[], Warehouse], shelf: Source, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kept]:
    """All vectors as files of a folder."""
    folder = tmp_path_factory.mktemp("vectors")
    for name, (body, _) in VECTORS.items():
        (folder / requests(name)).write_bytes(body)
    with holding(new_warehouse, shelf, Anything) as (warehouse, source):
        bring(warehouse, source, folder)
        yield found(warehouse)


def line_of(name: str) -> bytes:
    """A vector as a field of a record that is a line of a file."""
    return b'{"id": "%s", "x": ' % requests(name).encode() + VECTORS[name][0] + b"}"


LINES = [name for name, (body, _) in VECTORS.items() if b"\n" not in body]


def as_lines(folder: Path) -> Path:
    file = folder / "vectors.ndjson"
    file.write_bytes(b"\n".join(map(line_of, LINES)))
    return file


@pytest.fixture(scope="module")
def lines(
    new_warehouse: Callable[[], Warehouse], shelf: Source, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kept]:
    """All vectors that are one line, as fields of records in one file."""
    with holding(new_warehouse, shelf, Named) as (warehouse, source):
        bring(warehouse, source, as_lines(tmp_path_factory.mktemp("lines")))
        yield found(warehouse)


@pytest.mark.parametrize("name", VECTORS)
def test_a_payload_of_this_kind_has_the_expected_end(payloads: Kept, name: str) -> None:
    body, expected = VECTORS[name]
    kept = payloads[requests(name)]
    kept.holds(body)
    assert kept.end() == (sorted(expected) if isinstance(expected, list) else expected)
    assert kept.path == ("$" if expected == "wrong_type" else None)


@pytest.mark.parametrize("name", VECTORS)
def test_a_large_payload_of_this_kind_has_the_same_end(as_large: Kept, payloads: Kept, name: str) -> None:
    """What is no JSON may be told from another byte, and half of a pair as both that it may be.

    Numbers that jsonb cannot hold are not repaired: the exact bytes are in quarantine.
    """
    kept, usual = as_large[requests(name)], payloads[requests(name)]
    kept.holds(body := VECTORS[name][0])
    numbers = [each for each in usual.repairs or [] if "number" in each]
    if numbers:
        assert kept.reason == ("jsonb_refuses" if numbers == [BEYOND] else "not_json")
        return
    if usual.reason == "wrong_type" and kept.reason == "not_json":
        assert body.strip() in (b"NaN", b"Infinity", b"-Infinity")
        return
    assert (kept.reason, kept.path, kept.byte_offset is None) == (usual.reason, usual.path, usual.byte_offset is None)
    assert (kept.body is None) == (usual.body is None)
    if kept.repairs != usual.repairs:
        assert kept.repairs == sorted([*(usual.repairs or []), LONE]) and BYTES in kept.repairs


@pytest.mark.parametrize("name", VECTORS)
def test_a_file_of_this_kind_is_kept_as_it_is(folder: Kept, name: str) -> None:
    """A list is a payload an element, documents on lines are a payload each."""
    body, expected = VECTORS[name]
    if name == "two documents on two lines":
        assert [folder[requests(name) + each].body for each in (":1", ":2")] == ['{"a": 1}', '{"a": 2}']
        return
    if body.startswith(b"["):
        elements = [kept for request, kept in folder.items() if request.startswith(f"{requests(name)}[")]
        if elements or body == b"[]":
            assert [each.body for each in elements] == [json.dumps(each) for each in json.loads(body)]
            return
    kept = folder[requests(name)]
    kept.holds(body)
    assert kept.end() == (sorted(expected) if isinstance(expected, list) else expected)


@pytest.mark.parametrize("name", LINES)
def test_a_field_of_this_kind_is_kept_with_its_record(lines: Kept, name: str) -> None:
    kept = lines[f"vectors.ndjson:{LINES.index(name) + 1}"]
    kept.holds(line_of(name))
    expected = VECTORS[name][1]
    if expected == "lands" or (isinstance(expected, list) and expected[0] != MARK):
        assert kept.end() == (sorted(expected) if isinstance(expected, list) else expected)


@pytest.mark.long("thousands of values")
def test_counters_of_every_kind_are_kept_and_put_back(
    new_warehouse: Callable[[], Warehouse], shelf: Source, tmp_path: Path
) -> None:
    """Records land with nothing in the place of a counter, then with each vector there."""
    with holding(new_warehouse, shelf, Counting) as (warehouse, source):
        before = [Payload(b'{"id": "%s", "x": null}' % requests(name).encode(), "before") for name in LINES]
        land_items(warehouse, source, "2026-10-31", before, received_at=Window.of("2026-10-31").start)
        bring(warehouse, source, as_lines(tmp_path))
        kept = found(warehouse)
        with warehouse.connect() as connection:
            shown = {
                row["external_id"]: row["body"]
                for row in connection.execute(
                    """
                    select v.external_id, ops.restore_volatile_fields(p.body, o.counters, o.paths)::text as body
                    from staging.observations o
                    join staging.versions v on v.record_id = o.record_id and v.latest
                    join staging.payloads p using (payload_id)
                    where not o.late order by o.observation_id
                    """
                )
            }
    assert len(shown) > 100
    for place, name in enumerate(LINES, 1):
        if at := kept.get(f"vectors.ndjson:{place}"):
            at.holds(line_of(name), counted=True)
        else:
            assert same_value(shown[requests(name)], line_of(name))


def test_as_deep_as_can_be_read_is_read_or_refused(new_warehouse: Callable[[], Warehouse], shelf: Source) -> None:
    """Whatever is at the bottom: each reader on the way has a depth of its own at which it gives up."""
    inner = [b"1", b"1e400000", rb'"\u0000"', b'{"a":1,"a":2}', b'"\xff"', b"NaN", b"01"]
    bodies = [deep(b"[", b"]", times, each) for times in range(900, 1_001, 3) for each in inner]
    with holding(new_warehouse, shelf, Anything) as (warehouse, source):
        items = [Payload(body, str(number)) for number, body in enumerate(bodies)]
        land_items(warehouse, source, "2026-11-01", items)
        kept = found(warehouse)
    for number, body in enumerate(bodies):
        kept[str(number)].holds(body)


MEASURE = """
import json, re, sys
from dataclasses import replace
from uuid import uuid4
from sqlalchemy import make_url
from pipelines import project
from pipelines.landing.land import land_items
from pipelines.source import Contract, Payload
from pipelines.warehouse.database import Warehouse
from tests.corpus import VECTORS, large

class Anything(Contract):
    def external_id(self):
        return str(uuid4())

def corners(mixed, largest):
    mixed, largest = int(mixed), int(largest)
    size = number = 0
    while size < mixed:
        for name, (body, _) in VECTORS.items():
            size += len(body) + number
            yield Payload(body + b" " * number, f"{name}, time {number}")
        number += 1
    yield Payload(b'{"a": "' + b"t" * largest + b'"}', "the largest")
    yield from (Payload(body, f"{name}, after it") for name, (body, _) in VECTORS.items())

def adjacent(kind, size, times):
    return (Payload(large(kind, int(size), number), str(number)) for number in range(int(times)))

source = replace(project.sources()["toy/shelf"], name="toy/corners", contracts={"": Anything})
items = {"corners": corners, "adjacent": adjacent}[sys.argv[2]](*sys.argv[3:])
run = land_items(Warehouse(make_url(sys.argv[1])), source.streams[0], "2026-11-01", items)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(json.dumps([vars(run.counts), int(peak[1]) * 1024]))
"""

MB = 1_000_000
MIXED, LARGEST = (int(os.environ.get(name, usual)) * MB for name, usual in (("CORNERS_MB", 30), ("LARGEST_MB", 20)))
"""How much a process lands of mixed vectors, and how much the largest payload is."""


def measured(warehouse: Warehouse, *items: object) -> tuple[dict[str, int], int]:
    """What a process of its own lands, and its largest size."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, warehouse.conninfo, *map(str, items)],
        cwd=project.ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    counts, peak = json.loads(ended.stdout)
    assert counts["fetched"] == counts["created"] + counts["quarantined"]
    return counts, peak


@pytest.mark.sample(1, "memory")
def test_memory_stays_flat_whatever_arrives(warehouse: Warehouse) -> None:
    """Nothing of it crashes the process, and its largest size is that of DESIGN.md, section 9."""
    counts, peak = measured(warehouse, "corners", MIXED, LARGEST)
    assert counts["fetched"] > 2 * len(VECTORS)
    assert peak < 300 * MB + 3 * LARGEST


USUALLY = {"a string with a NUL character": 48, "small objects": 12, "small objects, cut": 16}
"""So many MB that one way to read them whole is beyond the budget."""


@pytest.mark.parametrize("kind", ADJACENT if "LARGE" in os.environ else USUALLY)
@pytest.mark.long("lands payloads of 48 MB in a process of its own")
@pytest.mark.sample(1, "memory")
def test_memory_stays_flat_whatever_a_large_payload_is_made_of(warehouse: Warehouse, kind: str) -> None:
    """Two in a row: one is written while the next is read. With LARGE=1 of 64 MB each."""
    size = 64 * MB if "LARGE" in os.environ else USUALLY[kind] * MB
    counts, peak = measured(warehouse, "adjacent", kind, size, 2)
    assert counts["quarantined" if "cut" in kind else "created"] == 2
    assert peak < 300 * MB + 3 * size


@pytest.mark.skipif("LARGE" not in os.environ, reason="takes a minute and a gigabyte: LARGE=1")
def test_the_largest_lands_and_what_is_larger_is_kept_in_quarantine(
    warehouse: Warehouse, shelf: Source, tmp_path: Path
) -> None:
    ends = {
        MAX_BYTES: b'{"a": "',
        MAX_BYTES + 1: b'{"b": "',
        257 * 1024 * 1024: b'{"c": "',
    }
    items = (
        Payload(begin + b"t" * (size - len(begin) - 2) + b'"}', str(size), external_id=str(size))
        for size, begin in ends.items()
    )
    land_items(warehouse, shelf, "2026-11-01", items)
    lands = rows_of(
        warehouse,
        "select request, length(body ->> 'a') as size from staging.versions join staging.payloads using (payload_id)",
    )
    assert lands == [{"request": str(MAX_BYTES), "size": MAX_BYTES - 9}]
    refused = rows_of(
        warehouse,
        "select request, reason, length(bytes) as size, sha256(bytes) = digest as same from staging.quarantine",
    )
    assert sorted(each["size"] for each in refused) == list(ends)[1:]
    assert {(each["reason"], each["same"]) for each in refused} == {("too_large", True)}


def rows_of(warehouse: Warehouse, query: str) -> list[dict[str, Any]]:
    with warehouse.connect() as connection:
        return connection.execute(query.encode()).fetchall()


def test_the_judge_sees_what_is_lost() -> None:
    """So that the tests above could fail."""
    for received, stored in (
        (b'{"a": 1, "a": 2}', '{"a": 2}'),
        (b'{"a": 1, "a": 1}', '{"a": 1}'),
        (b'{"a": 9007199254740993}', '{"a": 9007199254740992}'),
        (b'{"a": 0.1}', '{"a": 0.1000000000000000055511151231257827}'),
        (b'{"a": 1e-400000}', '{"a": 0}'),
        (rb'{"a": "\u0000"}', '{"a": ""}'),
        (rb'{"a": "\\u0000"}', '{"a": "\\\\ufffd"}'),
        (b'{"a": ""}', '{"a": null}'),
        (b'{"a": 1}', '{"a": "1"}'),
        (b'{"a": true}', '{"a": 1}'),
        (b'{"a": []}', '{"a": {}}'),
        (b'{"a": [1, 2]}', '{"a": [2, 1]}'),
        (b'{"e\xcc\x81": 1}', '{"\u00e9": 1}'),
    ):
        with pytest.raises(AssertionError):
            Found(hashlib.sha256(received).digest(), stored).holds(received)
    for broken in (
        Found(b"", "{}", original=b"{}", repairs=[NUL]),
        Found(hashlib.sha256(b"{}").digest(), "{}", original=b"{} ", repairs=[NUL]),
        Found(hashlib.sha256(b"{}").digest(), refused=b"{", reason="not_json"),
    ):
        with pytest.raises(AssertionError):
            broken.holds(b"{}")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("first", ["counting", "plain"])
def test_a_payload_that_is_another_less_its_counters_keeps_what_it_says(
    warehouse: Warehouse, shelf: Source, at_once: bool, first: str
) -> None:
    """Their digests are the same."""
    source = replace(shelf, contracts={"counting": Counting, "plain": Named}, kind="http", get_record=None)
    bodies = {"counting": b'{"id":"a","x":5}', "plain": b'{"id":"a","x":null}'}
    items = [Payload(bodies[kind], kind, kind=kind) for kind in sorted(bodies, key=lambda each: each != first)]
    for batch in [items] if at_once else [[each] for each in items]:
        land_items(warehouse, source, "2026-11-01", batch)
    kept = found(warehouse)
    assert kept["counting"].digest == kept["plain"].digest
    for kind, body in bodies.items():
        kept[kind].holds(body, counted=True)


@pytest.mark.parametrize("body", [b'{"id":"a","x":1,"x":2}', b'{"id":"a","y":1,"y":2,"x":3}'])
def test_a_key_that_is_there_twice_beside_counters_is_kept(warehouse: Warehouse, shelf: Source, body: bytes) -> None:
    """What is taken apart has only the last one."""
    source = replace(shelf, contracts={"": Counting}, kind="http", get_record=None)
    land_items(warehouse, source, "2026-11-01", [Payload(body, "line 1")])
    found(warehouse)["line 1"].holds(body)


def test_what_was_repaired_is_counted_in_the_ledger(warehouse: Warehouse, shelf: Source) -> None:
    run = land(warehouse, shelf, [rb'{"a": "\u0000"}', rb'{"b": "\u0000", "b": 1}', b"{}"])
    assert run.stats["repaired"] == {NUL: 2, TWICE: 1}
    assert run.status == "completed"


def test_a_repaired_body_is_stored_once_and_known_the_next_time(warehouse: Warehouse, shelf: Source) -> None:
    items = [Payload(rb'{"a": "\u0000"}', "line 1", external_id="a")]
    assert land_items(warehouse, shelf, "2026-11-01", items).counts.created == 1
    assert land_items(warehouse, shelf, "2026-11-01", items).counts.unchanged == 1
    with warehouse.connect() as connection:
        assert connection.execute("select count(*) as n from staging.payloads").fetchone() == {"n": 1}
