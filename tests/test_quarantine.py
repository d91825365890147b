"""Quarantine of payloads: exact bytes and the reason, beside everything that arrives; and landing repaired bytes."""

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines import project
from pipelines.landing import bulk_files
from pipelines.ledger import Run
from pipelines.source import Payload, Source, Window
from pipelines.warehouse.database import Warehouse
from tests import launcher
from tests.library import rows, whole
from tests.runs import land_intake, land_items, transform

pytestmark = pytest.mark.usefixtures("toy")

DAY = "2026-11-01"
DONE, USAGE, PARTIAL = 0, 2, 3

GOOD = b'{"id": 7, "name": "seven"}'
CUT = b'{"id": 7, "name": "sev'
NAMELESS = b'{"id": 7}'
RETYPED = b'{"id": 7, "name": ["seven"]}'
NO_ID = b'{"name": "seven"}'


def atlas(warehouse: Warehouse, *words: object, code: int = DONE) -> str:
    """Runs the command; what it says, on both outputs if it ends otherwise than well."""
    environment = os.environ | {"DATABASE_URL": warehouse.conninfo}
    ended = launcher.run(*words, folder=project.ROOT, environment=environment)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr if code == USAGE else ended.stdout


def bring(warehouse: Warehouse, source: Source, path: Path) -> Run:
    intake = bulk_files.intake(source, next(iter(source.contracts)), path, Window.of(DAY).start)
    return land_intake(warehouse, source, DAY, nullcontext(intake))


def land(warehouse: Warehouse, source: Source, *bodies: bytes) -> Run:
    items = [Payload(body, f"line {number}", kind="authors") for number, body in enumerate(bodies, 1)]
    return land_items(warehouse, source, DAY, items, received_at=datetime(2026, 11, 1, tzinfo=UTC))


def entries(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """Reason, path, byte offset, times seen and whether it is open, of each entry."""
    return rows(
        warehouse,
        "select reason, path, byte_offset, seen, closed_at is null from staging.quarantine order by quarantine_id",
    )


@pytest.fixture
def broken(tmp_path: Path) -> tuple[Path, dict[int, bytes], dict[int, bytes]]:
    """A file with one line cut, one without an id and one re-typed; the sound and the broken ones by place."""
    lines = [json.dumps(whole(number)).encode() for number in range(20)]
    sound = {place: lines[place] for place in (2, 5, 9)}
    lines[2] = lines[2][: len(lines[2]) // 2]
    lines[5] = lines[5].replace(b'"id": 5, ', b"")
    lines[9] = lines[9].replace(b'"book 90"', b"1.5")
    path = tmp_path / "broken.ndjson"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path, sound, {place: lines[place] for place in sound}


def test_three_bad_lines_wait_and_the_other_17_arrive(
    warehouse: Warehouse, broken: tuple[Path, dict[int, bytes], dict[int, bytes]]
) -> None:
    path, _, bad = broken
    said = atlas(warehouse, "land", "toy/library.authors", "--from", path, "--partition", DAY, "--json", code=PARTIAL)
    (run,) = json.loads(said)
    assert [run[name] for name in ("status", "fetched", "created", "quarantined")] == ["partial_success", 20, 17, 3]
    cut, no_id, retyped = bad.values()
    assert rows(warehouse, "select bytes, reason, path, request from staging.quarantine order by quarantine_id") == [
        (cut, "not_json", None, "broken.ndjson:3"),
        (no_id, "missing_field", "$.id", "broken.ndjson:6"),
        (retyped, "wrong_type", "$.books[0].title", "broken.ndjson:10"),
    ]
    ((offset, digests),) = rows(
        warehouse,
        "select min(byte_offset), bool_and(digest = sha256(bytes)) from staging.quarantine",
    )
    assert 0 < offset <= len(cut) and digests


def test_landing_the_bad_file_again_adds_no_entry_and_repaired_lines_land(
    warehouse: Warehouse, library: Source, broken: tuple[Path, dict[int, bytes], dict[int, bytes]], tmp_path: Path
) -> None:
    path, sound, _ = broken
    for _ in range(2):
        bring(warehouse, library, path)
    assert [(seen, waits) for *_, seen, waits in entries(warehouse)] == [(2, True)] * 3
    numbers = rows(warehouse, "select quarantine_id from staging.quarantine order by 1")
    for (number,), body in zip(numbers, sound.values(), strict=True):
        (tmp_path / "repaired.json").write_bytes(body)
        said = atlas(warehouse, "quarantine", "replay", number, "--with", tmp_path / "repaired.json")
        assert "1 fetched, 1 created" in said and "(completed)" in said
    assert [waits for *_, waits in entries(warehouse)] == [False] * 3
    transform(warehouse, library, DAY)
    assert rows(warehouse, "select count(*) from toy.copies") == [(20,)]


BAD: dict[str, tuple[bytes, tuple[str, str | None, int | None]]] = {
    "cut": (CUT, ("not_json", None, 18)),
    "without a name": (NAMELESS, ("missing_field", "$.name", None)),
    "without an id": (NO_ID, ("missing_field", "$.id", None)),
    "with a list for a name": (RETYPED, ("wrong_type", "$.name", None)),
    "with a word for an id": (b'{"id": "7", "name": "seven"}', ("wrong_type", "$.id", None)),
    "with a wrong field deep inside": (
        b'{"id": 7, "name": "s", "books": [{"id": 1, "title": "t", "covers": [{"id": 1, "url": 1.5}]}]}',
        ("wrong_type", "$.books[0].covers[0].url", None),
    ),
    "with a copy without a room": (
        b'{"id": 7, "name": "s", "books": [{"id": 1, "title": "t", "copies": [{"id": 1}]}]}',
        ("missing_field", "$.books[0].copies[0].room", None),
    ),
    "of another kind": (b"[1, 2]", ("wrong_type", "$", None)),
}


@pytest.fixture(scope="module")
def kinds(new_warehouse: Callable[[], Warehouse], library: Source) -> Iterator[Warehouse]:
    """A warehouse in which one payload of each kind has been landed, a good one last."""
    warehouse = new_warehouse()
    land(warehouse, library, *(body for body, _ in BAD.values()), GOOD.replace(b"7", b"8"))
    yield warehouse
    warehouse.drop_database(warehouse.database)


@pytest.mark.parametrize("kind", BAD)
def test_a_payload_of_this_kind_waits_with_its_bytes_the_reason_and_the_place(kinds: Warehouse, kind: str) -> None:
    body, expected = BAD[kind]
    found = rows(
        kinds,
        "select bytes, stage, seen, reason, path, byte_offset from staging.quarantine where digest = sha256(%s)",
        [body],
    )
    assert found == [(body, "land", 1, *expected)]


def test_an_id_is_kept_where_it_can_be_read(kinds: Warehouse) -> None:
    found = rows(
        kinds,
        """
        select external_id, record_id = ops.key(stream, external_id) from staging.quarantine
        where digest in (sha256(%s), sha256(%s), sha256(%s)) order by quarantine_id
        """,
        [CUT, RETYPED, NO_ID],
    )
    assert found == [(None, None), (None, None), ("7", True)]


def test_the_good_one_behind_the_bad_ones_has_landed(kinds: Warehouse) -> None:
    assert rows(kinds, "select external_id from staging.versions") == [("8",)]
    assert rows(kinds, "select fetched, created, quarantined, status from ops.fetch_runs") == [
        (len(BAD) + 1, 1, len(BAD), "partial_success")
    ]


def test_the_list_shows_what_waits_and_where(kinds: Warehouse) -> None:
    said = atlas(kinds, "quarantine", "list", "--each")
    for _, (reason, path, offset) in BAD.values():
        assert reason in said
        assert path is None or path[:20] in said
        assert offset is None or f"byte {offset}" in said
    listed = json.loads(atlas(kinds, "quarantine", "list", "--each", "--json"))
    found = [(entry["reason"], entry["path"], entry["byte_offset"]) for entry in listed]
    assert found == [expected for _, expected in BAD.values()]


def test_the_list_counts_entries_by_reason_and_place(warehouse: Warehouse, library: Source) -> None:
    books = b'{"id": %d, "name": "s", "books": [{"id": 1, "title": "t"}, {"id": 2}]}'
    land(warehouse, library, books % 1, books % 2, RETYPED, CUT)
    land(warehouse, library, RETYPED)
    groups = json.loads(atlas(warehouse, "quarantine", "list", "toy/library", "toy/shelf", "--json"))
    found = [[group[name] for name in ("reason", "where", "entries", "seen", "example")] for group in groups]
    assert found == [
        ["missing_field", "$.books[*].title", 2, 2, 2],
        ["not_json", None, 1, 1, 4],
        ["wrong_type", "$.name", 1, 2, 3],
    ]
    assert {(group["stream"], group["granularity"], group["table_name"]) for group in groups} == {
        ("toy/library.authors", "payload", None)
    }
    assert json.loads(atlas(warehouse, "quarantine", "list", "toy/shelf", "--json")) == []
    assert "nothing" in atlas(warehouse, "quarantine", "list", "toy/shelf")
    long = (
        b'{"id": 3, "name": "s", "books": [{"id": 1, "title": "t", "covers": [{"id": 1, "url": "u", "width": "w"}]}]}'
    )
    land(warehouse, library, long)
    said = atlas(warehouse, "quarantine", "list")
    assert "$.books[*].covers[*].width" in "".join(said.split()), "a long path is folded, not cut"


def test_the_list_fits_80_columns_and_counts_rows_that_refer_to_rejected_ones(
    warehouse: Warehouse, library: Source
) -> None:
    books = [{"id": 10, "title": "t" * 101, "copies": [{"id": each, "room": "r"} for each in range(31)]}]
    land(warehouse, library, json.dumps({"id": 9, "name": "n", "books": books, "languages": "en"}).encode(), CUT)
    transform(warehouse, library, DAY)
    said = atlas(warehouse, "quarantine", "list")
    assert "toy.books from toy/library, and 31 rows that refer to these\n" in said
    assert max(map(len, said.splitlines())) <= 80
    shown = [line.split() for line in said.splitlines() if line[:1].isdigit()]
    assert [[*line[1:3], *line[5:]] for line in shown] == [
        ["1", "1", "payload", "not_json"],
        ["1", "1", "value", "type", "languages"],
        ["1", "1", "row", "check", "books_title_check"],
    ]


def test_an_entry_is_shown_whole_with_its_exact_bytes(kinds: Warehouse) -> None:
    ((number,),) = rows(kinds, "select quarantine_id from staging.quarantine where digest = sha256(%s)", [RETYPED])
    said = atlas(kinds, "quarantine", "show", number)
    assert RETYPED.decode() in said and "wrong_type" in said and "$.name" in said
    shown = json.loads(atlas(kinds, "quarantine", "show", number, "--json"))
    assert base64.b64decode(shown["bytes"]) == RETYPED
    assert (shown["quarantine_id"], shown["reason"]) == (number, "wrong_type")


def test_a_replay_without_repaired_bytes_fails_as_long_as_the_fault_is_there(
    warehouse: Warehouse, library: Source
) -> None:
    land(warehouse, library, RETYPED, CUT)
    runs = json.loads(atlas(warehouse, "quarantine", "replay", "--json", code=PARTIAL))
    assert [(run["fetched"], run["quarantined"], run["status"]) for run in runs] == [(1, 1, "partial_success")] * 2
    assert [(seen, waits) for *_, seen, waits in entries(warehouse)] == [(2, True)] * 2


def test_a_replay_lands_what_a_repaired_contract_accepts(warehouse: Warehouse, library: Source) -> None:
    """As after a contract that was too strict: the entry is of a payload that is sound today."""
    land(warehouse, library, RETYPED)
    with warehouse.connect() as connection:
        connection.execute("update staging.quarantine set bytes = %s, digest = sha256(%s)", [GOOD, GOOD])
    assert "1 created" in atlas(warehouse, "quarantine", "replay")
    assert entries(warehouse) == [("wrong_type", "$.name", None, 1, False)]
    assert rows(warehouse, "select external_id, latest from staging.versions") == [("7", True)]


def test_repaired_bytes_that_are_still_wrong_leave_the_entry_open(
    warehouse: Warehouse, library: Source, tmp_path: Path
) -> None:
    land(warehouse, library, RETYPED)
    (tmp_path / "repaired.json").write_bytes(NAMELESS)
    atlas(warehouse, "quarantine", "replay", 1, "--with", tmp_path / "repaired.json", code=PARTIAL)
    assert [(reason, waits) for reason, *_, waits in entries(warehouse)] == [
        ("wrong_type", True),
        ("missing_field", True),
    ]
    assert rows(warehouse, "select count(*) from staging.versions") == [(0,)]


def test_repaired_bytes_land_under_the_id_they_hold(warehouse: Warehouse, library: Source, tmp_path: Path) -> None:
    land(warehouse, library, b'{"id": ["7"], "name": "seven"}')
    (tmp_path / "repaired.json").write_bytes(GOOD)
    atlas(warehouse, "quarantine", "replay", 1, "--with", tmp_path / "repaired.json")
    assert rows(warehouse, "select external_id from staging.versions") == [("7",)]
    assert entries(warehouse) == [("wrong_type", "$.id", None, 1, False)]


def test_an_entry_closes_by_itself_once_its_record_lands(warehouse: Warehouse, library: Source) -> None:
    land(warehouse, library, RETYPED, NAMELESS)
    run = land(warehouse, library, GOOD)
    assert entries(warehouse) == [("wrong_type", "$.name", None, 1, False), ("missing_field", "$.name", None, 1, False)]
    assert rows(warehouse, "select distinct closed_run from staging.quarantine") == [(run.id,)]


def test_an_entry_stays_open_while_another_record_lands(warehouse: Warehouse, library: Source) -> None:
    land(warehouse, library, RETYPED)
    land(warehouse, library, GOOD.replace(b"7", b"8"))
    assert entries(warehouse) == [("wrong_type", "$.name", None, 1, True)]


def test_an_entry_opens_again_when_the_same_bytes_come_back(warehouse: Warehouse, library: Source) -> None:
    for body in (RETYPED, GOOD, RETYPED):
        land(warehouse, library, body)
    assert entries(warehouse) == [("wrong_type", "$.name", None, 2, True)]


def test_a_record_that_lands_in_the_run_that_rejects_it_stays_in_quarantine(
    warehouse: Warehouse, library: Source
) -> None:
    run = land(warehouse, library, GOOD, RETYPED)
    assert entries(warehouse) == [("wrong_type", "$.name", None, 1, True)]
    assert (run.counts.created, run.counts.quarantined) == (1, 1)


def test_the_same_bad_bytes_twice_in_a_run_are_one_entry(warehouse: Warehouse, library: Source) -> None:
    run = land(warehouse, library, CUT, GOOD, CUT)
    assert (run.counts.fetched, run.counts.quarantined) == (3, 2)
    assert len(entries(warehouse)) == 1


@pytest.fixture(scope="module")
def various(new_warehouse: Callable[[], Warehouse], library: Source) -> Iterator[Warehouse]:
    """Entry 1 is closed, 2 is a payload that waits, 3 a row that waits."""
    warehouse = new_warehouse()
    land(warehouse, library, RETYPED)
    land(warehouse, library, GOOD)
    land(warehouse, library, CUT)
    land(warehouse, library, json.dumps({"id": 9, "name": "n" * 101}).encode())
    transform(warehouse, library, DAY)
    assert rows(warehouse, "select closed_at is null, stage from staging.quarantine order by quarantine_id") == [
        (False, "land"),
        (True, "land"),
        (True, "transform"),
    ]
    yield warehouse
    warehouse.drop_database(warehouse.database)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["99"], "There is no quarantine entry 99"),
        (["1", "--with", "good.json"], "Entry 1 is closed"),
        (["1"], "Entry 1 is closed"),
        (["2", "--with", "cut.json"], "cut.json should hold one JSON document"),
        (["2", "--with", "none.json"], "There is no file"),
        (["3"], "Entry 3 is a row of toy.authors"),
        (["--with", "good.json"], "A repaired payload is for one entry"),
    ],
)
def test_what_cannot_be_replayed_has_a_message_of_one_sentence(
    various: Warehouse, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "good.json").write_bytes(GOOD)
    (tmp_path / "cut.json").write_bytes(CUT)
    before = entries(various)
    words = [str(tmp_path / word) if word.endswith(".json") else word for word in words]
    said = " ".join(atlas(various, "quarantine", "replay", *words, code=USAGE).split())
    assert sentence in said
    assert entries(various) == before


def test_closed_entries_are_listed_only_when_asked_for(various: Warehouse) -> None:
    assert [
        entry["quarantine_id"] for entry in json.loads(atlas(various, "quarantine", "list", "--each", "--json"))
    ] == [2, 3]
    every = json.loads(atlas(various, "quarantine", "list", "--each", "--closed", "--json"))
    assert [entry["quarantine_id"] for entry in every] == [1, 2, 3]


def test_an_older_payload_that_lands_again_does_not_close_a_newer_ones_entry(
    warehouse: Warehouse, library: Source
) -> None:
    good = Payload(b'{"id": 7, "name": "good"}', "day 3", kind="authors")
    bad = Payload(b'{"id": 7, "name": 9}', "day 4", kind="authors")
    for day, item in (("2026-11-03", good), ("2026-11-04", bad), ("2026-11-03", good)):
        land_items(warehouse, library, day, [item], received_at=Window.of(day).start)
    assert [waits for *_, waits in entries(warehouse)] == [True]


def test_repaired_bytes_are_no_newer_than_the_day_they_are_of(
    warehouse: Warehouse, library: Source, tmp_path: Path
) -> None:
    bad = Payload(b'{"id": 7, "name": 9}', "day 3", kind="authors")
    newer = Payload(b'{"id": 7, "name": "newer"}', "day 4", kind="authors")
    (tmp_path / "repaired.json").write_text('{"id": 7, "name": "repaired"}')
    land_items(warehouse, library, "2026-11-03", [bad], received_at=Window.of("2026-11-03").start)
    atlas(warehouse, "quarantine", "replay", "1", "--with", str(tmp_path / "repaired.json"))
    land_items(warehouse, library, "2026-11-04", [newer], received_at=Window.of("2026-11-04").start)
    with warehouse.connect() as connection:
        latest = connection.execute(
            """
            select p.body ->> 'name' as name
            from staging.versions v join staging.payloads p using (payload_id) where v.latest
            """
        ).fetchall()
    assert latest == [{"name": "newer"}]


def test_repaired_bytes_of_another_record_do_not_close_the_entry(
    warehouse: Warehouse, library: Source, tmp_path: Path
) -> None:
    land_items(warehouse, library, DAY, [Payload(b'{"id": 7, "name": 9}', "here", kind="authors")])
    (tmp_path / "other.json").write_text('{"id": 999, "name": "other"}')
    atlas(warehouse, "quarantine", "replay", "1", "--with", str(tmp_path / "other.json"), code=1)
    assert [waits for *_, waits in entries(warehouse)] == [True]


def test_a_value_is_shown_as_it_came(warehouse: Warehouse, library: Source) -> None:
    land(warehouse, library, b'{"id": 1, "name": "n", "languages": "en"}')
    transform(warehouse, library, DAY)
    shown = json.loads(atlas(warehouse, "quarantine", "show", 1, "--json"))
    assert (shown["granularity"], shown["row"]) == ("value", {"languages": '"en"'})
    assert "Entry 1 is a value of toy.authors" in atlas(warehouse, "quarantine", "replay", 1, code=USAGE)


def test_payloads_that_a_changed_contract_lets_in_are_named(warehouse: Warehouse, library: Source) -> None:
    """As after a contract that was too strict: two entries are of payloads that are sound today."""
    land(warehouse, library, RETYPED, CUT, NO_ID, NAMELESS.replace(b"7", b"8"))
    with warehouse.connect() as connection:
        sound = "update staging.quarantine set bytes = %s, digest = sha256(%s) where quarantine_id = %s"
        for number in (1, 3):
            body = GOOD.replace(b"7", b"%d" % number)
            connection.execute(sound, [body, body, number])
        connection.execute("update ops.fetch_runs set code_version = 'the one before'")
    assert [row["quarantine_id"] for row in json.loads(atlas(warehouse, "quarantine", "check", "--json"))] == [1, 3]
    assert json.loads(atlas(warehouse, "quarantine", "check", "toy/shelf", "--json")) == []
    assert "To land them: atlas quarantine replay 1 3\n" in atlas(warehouse, "quarantine", "check")
    runs = json.loads(atlas(warehouse, "quarantine", "replay", 1, 3, "--json"))
    assert [(run["created"], run["quarantined"]) for run in runs] == [(1, 0), (1, 0)]
    assert [waits for *_, waits in entries(warehouse)] == [False, True, False, True]
    assert atlas(warehouse, "quarantine", "check").strip().endswith("nothing")
