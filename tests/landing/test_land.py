"""Landing: which version of a record is the latest, what is stored once, what a crash leaves, files of every kind."""

import codecs
import gzip
import json
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from pipelines.errors import AtlasError
from pipelines.landing import bulk_files, jsonb, stage_bodies
from pipelines.landing.land import BATCH_PAYLOADS
from pipelines.ledger import Run
from pipelines.source import Item, Payload, Skipped, Source, Window
from pipelines.warehouse.database import Warehouse
from tests.library import rows
from tests.runs import land_intake, land_items

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

FIRST, SECOND, THIRD = (datetime(2026, 11, day, tzinfo=UTC) for day in (1, 2, 3))
DAY = "2026-11-01"


def payload(words: str, *, of: str = "a") -> Payload:
    return Payload(json.dumps({"words": words}).encode(), f"said {words}", external_id=of)


def number(warehouse: Warehouse, query: str) -> int:
    return int(rows(warehouse, query)[0][0])


def history(warehouse: Warehouse, of: str = "a") -> list[str]:
    """What the versions of a record say, in the order of publishing; the latest in capitals."""
    return [
        words.upper() if latest else words
        for words, latest in rows(
            warehouse,
            """
            select p.body ->> 'words', v.latest from staging.versions v join staging.payloads p using (payload_id)
            where v.external_id = %s order by v.version_id
            """,
            [of],
        )
    ]


def land(warehouse: Warehouse, source: Source, *items: Item, day: str = DAY, at: datetime = FIRST) -> Run:
    return land_items(warehouse, source, day, items, received_at=at)


def bring(warehouse: Warehouse, source: Source, path: Path) -> Run:
    intake = bulk_files.intake(source, next(iter(source.contracts)), path, Window.of(DAY).start)
    return land_intake(warehouse, source, DAY, nullcontext(intake))


def author(number: int) -> bytes:
    return json.dumps({"id": number, "name": f"author {number}"}).encode()


def ids(warehouse: Warehouse) -> list[str]:
    found = rows(warehouse, "select external_id from staging.versions where latest order by external_id::int")
    return [external_id for (external_id,) in found]


def counted(run: Run) -> dict[str, int]:
    return {name: value for name, value in vars(run.counts).items() if value}


def test_of_several_in_a_batch_the_last_one_wins(warehouse: Warehouse, shelf: Source) -> None:
    run = land(warehouse, shelf, payload("first"), payload("second"), payload("last"))
    assert sorted(history(warehouse)) == ["LAST", "first", "second"]
    assert counted(run) == {"fetched": 3, "created": 1, "duplicates": 2}


@pytest.mark.long("thousands of payloads")
def test_the_last_one_wins_across_batches_of_one_run(warehouse: Warehouse, shelf: Source) -> None:
    others = (payload("other", of=f"other {each}") for each in range(BATCH_PAYLOADS))
    run = land(warehouse, shelf, payload("first"), *others, payload("last"))
    assert sorted(history(warehouse)) == ["LAST", "first"]
    assert run.counts.created == BATCH_PAYLOADS + 1


def test_what_was_received_last_wins_across_runs(warehouse: Warehouse, shelf: Source) -> None:
    land(warehouse, shelf, payload("old"))
    run = land(warehouse, shelf, payload("new"), at=SECOND)
    assert history(warehouse) == ["old", "NEW"]
    assert counted(run) == {"fetched": 1, "updated": 1}


def test_a_partition_is_no_time_of_receipt(warehouse: Warehouse, shelf: Source) -> None:
    land(warehouse, shelf, payload("new"), day="2026-11-01", at=SECOND)
    run = land(warehouse, shelf, payload("old"), day="2026-11-02", at=FIRST)
    assert history(warehouse) == ["NEW", "old"]
    assert counted(run) == {"fetched": 1, "duplicates": 1}
    land(warehouse, shelf, payload("newest"), day="2026-11-01", at=THIRD)
    assert history(warehouse) == ["new", "old", "NEWEST"]
    assert rows(warehouse, "select partition_key from staging.versions where latest") == [("2026-11-01",)]


def test_without_a_time_it_counts_as_received_now_by_the_clock_of_the_database(
    warehouse: Warehouse, shelf: Source
) -> None:
    land(warehouse, shelf, payload("old"), day="2026-11-02", at=THIRD)
    land_items(warehouse, shelf, DAY, [payload("new")])
    assert history(warehouse) == ["old", "NEW"]
    query = "select received_at between clock_timestamp() - interval '1 minute' and clock_timestamp()"
    assert rows(warehouse, f"{query} from staging.versions where latest") == [(True,)]


@pytest.mark.parametrize("time", ["2099-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "0001-01-01", None, "yesterday"])
def test_a_time_in_the_payload_orders_nothing(warehouse: Warehouse, shelf: Source, time: str | None) -> None:
    def told(words: str, modified: str | None) -> Payload:
        body = {"words": words, "updated_at": modified, "lastModified": modified}
        return Payload(json.dumps(body).encode(), "here", external_id="a")

    land(warehouse, shelf, told("first", "2026-11-01T00:00:00Z"))
    land(warehouse, shelf, told("second", time), at=SECOND)
    land(warehouse, shelf, told("third", "2026-11-01T00:00:01Z"), at=THIRD)
    assert history(warehouse) == ["first", "second", "THIRD"]


def test_of_one_time_the_run_that_came_later_wins(warehouse: Warehouse, shelf: Source) -> None:
    land(warehouse, shelf, payload("first"))
    land(warehouse, shelf, payload("second"))
    assert history(warehouse) == ["first", "SECOND"]


def test_what_was_received_before_becomes_history_once(warehouse: Warehouse, shelf: Source) -> None:
    land(warehouse, shelf, payload("old"))
    land(warehouse, shelf, payload("new"), at=THIRD)
    for _ in range(2):
        assert counted(land(warehouse, shelf, payload("old"))) == {"fetched": 1, "duplicates": 1}
        assert counted(land(warehouse, shelf, payload("between"), at=SECOND)) == {"fetched": 1, "duplicates": 1}
    assert history(warehouse) == ["old", "NEW", "between"]


def test_a_body_of_long_ago_that_was_received_again_in_between_is_history_of_its_own(
    warehouse: Warehouse, shelf: Source
) -> None:
    times = {"on": FIRST, "off": SECOND, "new": THIRD}
    for words, at in times.items():
        land(warehouse, shelf, payload(words), at=at)
    for _ in range(2):
        land(warehouse, shelf, payload("on"), at=SECOND + timedelta(hours=1))
    assert history(warehouse) == ["on", "off", "NEW", "on"]


def test_a_losing_version_is_kept_once_however_often_it_comes(warehouse: Warehouse, shelf: Source) -> None:
    items = [payload("loser"), payload("loser"), payload("winner")]
    run = land(warehouse, shelf, *items)
    assert counted(run) == {"fetched": 3, "created": 1, "duplicates": 2}
    again = land(warehouse, shelf, *items)
    assert counted(again) == {"fetched": 3, "unchanged": 1, "duplicates": 2}
    assert sorted(history(warehouse)) == ["WINNER", "loser"]


def test_what_was_said_before_can_be_said_again(warehouse: Warehouse, shelf: Source) -> None:
    for words, at in (("on", FIRST), ("off", SECOND), ("on", THIRD)):
        land(warehouse, shelf, payload(words), at=at)
    assert history(warehouse) == ["on", "off", "ON"]
    assert number(warehouse, "select count(*) from staging.payloads") == 2


def test_a_record_fetched_five_times_unchanged_is_one_body_and_one_version(warehouse: Warehouse, shelf: Source) -> None:
    runs = [land(warehouse, shelf, payload("same"), day=f"2026-11-0{each}") for each in range(1, 6)]
    assert [counted(run) for run in runs] == [{"fetched": 1, "created": 1}] + 4 * [{"fetched": 1, "unchanged": 1}]
    assert history(warehouse) == ["SAME"]
    assert number(warehouse, "select count(*) from staging.payloads") == 1


def test_a_body_that_two_records_share_is_stored_once(warehouse: Warehouse, shelf: Source) -> None:
    run = land(warehouse, shelf, payload("same", of="a"), payload("same", of="b"))
    land(warehouse, shelf, payload("same", of="c"))
    assert run.stats["bodies"] == 1
    assert rows(warehouse, "select count(*), count(distinct payload_id) from staging.versions where latest") == [(3, 1)]
    assert number(warehouse, "select count(*) from staging.payloads") == 1


def test_a_version_tells_where_it_came_from(warehouse: Warehouse, shelf: Source) -> None:
    run = land(warehouse, shelf, payload("words"), at=SECOND)
    found = rows(
        warehouse,
        """
        select stream, external_id, record_id = ops.key(stream, external_id), request, received_at,
            landed_run, digest = sha256('{"words": "words"}'), valid_from_run
        from staging.versions join staging.payloads using (payload_id)
        """,
    )
    assert found == [("toy/shelf", "a", True, "said words", SECOND, run.id, True, None)]


def test_bodies_of_a_run_that_broke_off_are_taken_up_by_the_next(warehouse: Warehouse, shelf: Source) -> None:
    items = [payload(f"words {each}", of=str(each)) for each in range(BATCH_PAYLOADS + 1)]

    def broken() -> Iterator[Item]:
        yield from items
        raise ConnectionError("the source hung up")

    with pytest.raises(ConnectionError):
        land(warehouse, shelf, *broken())
    with pytest.raises(ConnectionError):
        land_items(warehouse, shelf, DAY, broken())
    assert number(warehouse, "select count(*) from staging.payloads") == BATCH_PAYLOADS
    assert number(warehouse, "select count(*) from staging.versions") == 0
    assert rows(warehouse, "select status, error_text, fetched, publish_seq from ops.fetch_runs") == [
        ("failed", "ConnectionError: the source hung up", 0, None)
    ]
    run = land(warehouse, shelf, *items)
    assert run.counts.created == len(items)
    assert run.stats["bodies"] == 1
    assert number(warehouse, "select count(*) from staging.payloads") == len(items)


def test_an_interrupted_landing_says_so(warehouse: Warehouse, shelf: Source) -> None:
    def interrupted() -> Iterator[Item]:
        yield payload("words")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        land_items(warehouse, shelf, DAY, interrupted())
    assert rows(warehouse, "select status, error_text from ops.fetch_runs") == [("failed", "interrupted")]


def test_an_item_that_cannot_be_used_never_stops_the_others(warehouse: Warehouse, shelf: Source) -> None:
    run = land(
        warehouse,
        shelf,
        payload("too long", of="x" * 1_001),
        payload("nul", of="a\x00b"),
        payload("half a pair", of="\ud800"),
        Payload(b"{}", "nobody"),
        Payload(b"{}", "a name with \ud800 in it", external_id="b"),
        payload("good"),
    )
    assert counted(run) == {"fetched": 6, "created": 2, "quarantined": 4}
    assert rows(warehouse, "select reason, count(*) from staging.quarantine group by 1") == [("no_id", 4)]


@pytest.mark.parametrize("batch", [1, 3])
def test_each_record_with_bytes_that_cannot_be_stored_has_its_entry(
    warehouse: Warehouse, shelf: Source, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Also where several have the same bytes, in one batch or in several."""
    monkeypatch.setattr("pipelines.landing.land.BATCH_PAYLOADS", batch)
    for module in (jsonb, stage_bodies):
        monkeypatch.setattr(module, "LARGE", -1)
    beyond = [Payload(b'{"words": 1e400000}', f"said {name}", external_id=name) for name in "abab"]
    run = land(warehouse, shelf, *beyond, payload("good", of="c"))
    assert counted(run) == {"fetched": 5, "created": 1, "quarantined": 4}
    query = "select external_id, reason, closed_at is null from staging.quarantine order by external_id"
    assert rows(warehouse, query) == [("a", "jsonb_refuses", True), ("b", "jsonb_refuses", True)]


def test_each_record_with_the_same_broken_bytes_has_its_entry(warehouse: Warehouse, shelf: Source) -> None:
    land(warehouse, shelf, *(Payload(b'{"words": ', f"said {name}", external_id=name) for name in "ab"))
    land(warehouse, shelf, payload("good", of="a"))
    query = "select external_id, closed_at is null from staging.quarantine order by external_id"
    assert rows(warehouse, query) == [("a", False), ("b", True)]


@pytest.mark.parametrize("wrong", [r'"\u0000"', '"' + "9" * 2_000 + '"', '["a"]', '{"a": 1}', "null", "1.5", "true"])
def test_a_payload_whose_id_is_of_the_wrong_type_never_stops_the_others(
    warehouse: Warehouse, library: Source, wrong: str
) -> None:
    bad = f'{{"id": {wrong}, "name": "bad"}}'.encode()
    run = land(warehouse, library, Payload(bad, "bad", kind="authors"), Payload(author(1), "good", kind="authors"))
    assert counted(run) == {"fetched": 2, "created": 1, "quarantined": 1}
    found = rows(warehouse, "select reason, path, bytes from staging.quarantine")
    assert found == [("wrong_type", "$.id", bad)]


def test_skipped_items_are_counted_by_their_reason_and_are_no_part_of_what_was_fetched(
    warehouse: Warehouse, shelf: Source
) -> None:
    run = land(warehouse, shelf, Skipped("x", "no graph"), payload("a"), Skipped("y", "no graph"), Skipped("z", "big"))
    assert run.stats["skipped"] == {"no graph": 2, "big": 1}
    assert counted(run) == {"fetched": 1, "created": 1}


def test_landing_nothing_is_a_completed_run_of_zeros(warehouse: Warehouse, shelf: Source) -> None:
    run = land(warehouse, shelf)
    assert (run.status, counted(run)) == ("completed", {})
    assert number(warehouse, "select count(*) from ops.fetch_runs where publish_seq is not null") == 1


def test_published_numbers_grow_in_the_order_of_publishing(warehouse: Warehouse, shelf: Source) -> None:
    runs = [land(warehouse, shelf, payload(str(each))) for each in range(3)]
    assert rows(warehouse, "select fetch_run_id from ops.fetch_runs order by publish_seq") == [
        (run.id,) for run in runs
    ]


def test_the_ledger_says_what_the_run_says(warehouse: Warehouse, shelf: Source) -> None:
    run = land(warehouse, shelf, payload("a"), payload("b"), Payload(b"{", "cut", external_id="c"))
    columns = ", ".join(vars(run.counts))
    assert rows(warehouse, f"select status, {columns}, stats from ops.fetch_runs") == [
        ("partial_success", *vars(run.counts).values(), run.stats)
    ]
    assert run.stats["bytes"] == 2 * len(b'{"words": "a"}') + 1


NDJSON = b"\n".join(map(author, (1, 2, 3))) + b"\n"
FILES = {
    "lines.ndjson": NDJSON,
    "lines.jsonl": NDJSON,
    "no_line_end.ndjson": NDJSON.rstrip(),
    "blank.ndjson": b"\n \n" + NDJSON.replace(b"\n", b"\n\t\n\n"),
    "windows.ndjson": NDJSON.replace(b"\n", b"\r\n"),
    "list.json": b"[" + b", ".join(map(author, (1, 2, 3))) + b"]",
    "page.json": b'{"items": [' + b",".join(map(author, (1, 2, 3))) + b'], "metadata": {"nextPage": null}}',
    "lines.ndjson.gz": gzip.compress(NDJSON),
    "twice.ndjson.gz": gzip.compress(NDJSON[:20]) + gzip.compress(NDJSON[20:]),
    "lines.ndjson.zst": zstd.compress(NDJSON),
    "twice.ndjson.zst": zstd.compress(NDJSON[:20]) + zstd.compress(NDJSON[20:]),
    "page.json.gz": gzip.compress(b'{"items": [' + b",".join(map(author, (1, 2, 3))) + b"]}"),
    "lines.json": NDJSON,
    "pages.json": b'{"items": [' + author(1) + b"," + author(2) + b']}\n{"items": [' + author(3) + b"]}",
    "a_mark.json": b"\xef\xbb\xbf" + NDJSON,
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_this_kind_lands_all_its_payloads(
    warehouse: Warehouse, library: Source, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    run = bring(warehouse, library, tmp_path / name)
    assert counted(run) == {"fetched": 3, "created": 3}
    assert ids(warehouse) == ["1", "2", "3"]
    digests = rows(
        warehouse, "select digest from staging.versions join staging.payloads using (payload_id) order by external_id"
    )
    assert digests == rows(
        warehouse, "select sha256(b) from unnest(%s::bytea[]) b", [[author(each) for each in (1, 2, 3)]]
    )


def test_one_document_is_one_payload(warehouse: Warehouse, library: Source, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(author(7))
    assert counted(bring(warehouse, library, tmp_path / "one.json")) == {"fetched": 1, "created": 1}


CUT = {
    "list.json": b"[" + b", ".join(map(author, (1, 2, 3)))[:-2],
    "page.json": b'{"next": null, "items": [' + b", ".join(map(author, (1, 2, 3)))[:-2],
    "page.json.gz": gzip.compress(b'{"items": [' + b",\n".join(map(author, (1, 2, 3)))[:-2]),
    "lines.json": NDJSON[:-3],
}


@pytest.mark.parametrize("name", CUT)
def test_of_a_file_that_is_cut_all_that_is_whole_lands(
    warehouse: Warehouse, library: Source, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(CUT[name])
    run = bring(warehouse, library, tmp_path / name)
    assert counted(run) == {"fetched": 3, "created": 2, "quarantined": 1}
    assert ids(warehouse) == ["1", "2"]
    assert rows(warehouse, "select bytes from staging.quarantine") == [(author(3)[:-2],)]
    words = f"the end of {name} is broken: only the records before it are read"
    assert run.stats["skipped"] == ({} if name == "lines.json" else {words: 1})


def test_a_list_that_is_cut_between_two_records_is_done_in_part(
    warehouse: Warehouse, library: Source, tmp_path: Path
) -> None:
    (tmp_path / "list.json").write_bytes(b"[" + author(1) + b", ")
    run = bring(warehouse, library, tmp_path)
    assert (run.status, counted(run)) == ("partial_success", {"fetched": 1, "created": 1})


VERSIONS = b",\n".join(author(each) for each in range(100, 112))


@pytest.mark.parametrize(
    "body",
    [
        b'{\n"id": 4,\n"name": "m",\n"books": [\n' + VERSIONS,
        b'{\n"id": 4,\n"name": "m,\n"books": [\n' + VERSIONS + b"\n]\n}",
        b"\n".join(json.dumps(json.loads(author(each)), indent=1).encode() for each in (1, 2, 3)),
        b'{"items": [' + author(1) + b'], "items": []}',
    ],
    ids=["cut", "a quote is missing", "documents over lines", "a list that hides another"],
)
def test_nothing_in_a_broken_document_is_a_record(
    warehouse: Warehouse, library: Source, tmp_path: Path, body: bytes
) -> None:
    (tmp_path / "one.json").write_bytes(body)
    run = bring(warehouse, library, tmp_path / "one.json")
    assert counted(run) == {"fetched": 1, "quarantined": 1}
    assert rows(warehouse, "select bytes from staging.quarantine") == [(body,)]


def test_each_payload_of_a_file_is_named_by_file_and_place(
    warehouse: Warehouse, library: Source, tmp_path: Path
) -> None:
    (tmp_path / "lines.ndjson").write_bytes(b"\n" + NDJSON)
    (tmp_path / "list.json").write_bytes(b"[" + author(4) + b"," + author(5) + b"]")
    bring(warehouse, library, tmp_path)
    names = [name for (name,) in rows(warehouse, "select request from staging.versions order by external_id")]
    assert names == ["lines.ndjson:2", "lines.ndjson:3", "lines.ndjson:4", "list.json[0]", "list.json[1]"]


def test_a_folder_is_read_with_all_its_folders_and_what_is_no_json_is_skipped(
    warehouse: Warehouse, library: Source, tmp_path: Path
) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "a.ndjson").write_bytes(NDJSON)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(author(4)))
    (tmp_path / "README.md").write_text("no payload")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    run = bring(warehouse, library, tmp_path)
    assert ids(warehouse) == ["1", "2", "3", "4"]
    assert run.stats["skipped"] == {"not a JSON file by its name": 2}


def test_files_of_the_system_are_skipped(warehouse: Warehouse, library: Source, shelf: Source, tmp_path: Path) -> None:
    (tmp_path / "__MACOSX").mkdir()
    for name in ("._a.ndjson", "__MACOSX/a.json", "~$a.json", "Thumbs.db", ".a.json.swp"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    run = bring(warehouse, library, tmp_path)
    assert (run.status, run.stats["skipped"]) == ("completed", {"belongs to the operating system": 5})
    run = bring(warehouse, shelf, tmp_path)
    assert (run.status, run.stats["skipped"]) == ("completed", {"belongs to the operating system": 2})


@pytest.mark.parametrize("name", ["a.json", "a.ndjson"])
def test_a_mark_at_the_beginning_of_a_file_hides_no_record(
    warehouse: Warehouse, library: Source, tmp_path: Path, name: str
) -> None:
    records = [author(1), author(2)]
    text = b"[" + b",".join(records) + b"]" if name == "a.json" else b"\r\n" + b"\n".join(records)
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + text)
    run = bring(warehouse, library, tmp_path)
    assert (run.status, ids(warehouse)) == ("completed", ["1", "2"])
    (tmp_path / name).write_bytes(text.decode().encode("utf-16"))
    run = bring(warehouse, library, tmp_path)
    assert counted(run) == {"fetched": 1, "quarantined": 1}
    assert run.stats["skipped"] == {"text in UTF-16 or UTF-32: convert it to UTF-8": 1}
    assert rows(warehouse, "select request from staging.quarantine") == [(name,)]


def test_a_page_of_a_file_whose_records_are_null_is_empty(
    warehouse: Warehouse, library: Source, tmp_path: Path
) -> None:
    (tmp_path / "null.json").write_bytes(b'{"items": null}')
    run = bring(warehouse, library, tmp_path)
    assert (run.status, run.counts.fetched) == ("completed", 0)


def test_a_folder_of_a_folder_source_is_read_by_its_connector(
    warehouse: Warehouse, shelf: Source, tmp_path: Path
) -> None:
    (tmp_path / "note.json").write_text('{"words": "by its path"}')
    (tmp_path / "cut.json").write_text('{"words": ')
    (tmp_path / "README.md").write_text("not read at all")
    run = bring(warehouse, shelf, tmp_path)
    assert counted(run) == {"fetched": 2, "created": 1, "quarantined": 1}
    assert rows(warehouse, "select external_id from staging.versions") == [("note.json",)]


@pytest.mark.parametrize("length", [-1, -8, 12, 0])
@pytest.mark.parametrize("packer", [gzip.compress, zstd.compress], ids=["gz", "zst"])
def test_a_packed_file_that_is_cut_publishes_nothing(
    warehouse: Warehouse, library: Source, tmp_path: Path, packer: Any, length: int
) -> None:
    suffix = "gz" if packer is gzip.compress else "zst"
    path = tmp_path / f"cut.ndjson.{suffix}"
    path.write_bytes(packer(NDJSON)[:length])
    with pytest.raises(AtlasError, match=f"cut.ndjson.{suffix} cannot be decompressed: .*Nothing of it is published"):
        bring(warehouse, library, path)
    assert number(warehouse, "select count(*) from staging.versions") == 0
    ((status, words),) = rows(warehouse, "select status, error_text from ops.fetch_runs")
    assert status == "failed" and "cannot be decompressed" in words


def test_a_packed_file_with_a_flipped_byte_is_refused_in_a_sentence(library: Source, tmp_path: Path) -> None:
    sound = gzip.compress(b"".join(author(each) + b"\n" for each in range(300)))
    path = tmp_path / "bad.ndjson.gz"
    for place in range(10, len(sound) - 8):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :])
        with pytest.raises(AtlasError, match="cannot be decompressed"):
            list(bulk_files.intake(library, "authors", path, None).items({}))


def test_a_file_that_is_not_packed_as_its_name_says_publishes_nothing(
    warehouse: Warehouse, library: Source, tmp_path: Path
) -> None:
    (tmp_path / "plain.ndjson.gz").write_bytes(NDJSON)
    with pytest.raises(AtlasError, match="cannot be decompressed"):
        bring(warehouse, library, tmp_path / "plain.ndjson.gz")


def test_a_missing_file_and_one_of_an_unknown_kind_are_wrong_usage(library: Source, tmp_path: Path) -> None:
    (tmp_path / "authors.csv").write_text("id,name")
    for name, words in (("none.ndjson", "There is no file or folder"), ("authors.csv", "should end in .json, .jsonl")):
        with pytest.raises(AtlasError, match=words) as caught:
            bulk_files.intake(library, "authors", tmp_path / name, None)
        assert caught.value.usage


def test_an_empty_file_is_a_completed_run(warehouse: Warehouse, library: Source, tmp_path: Path) -> None:
    (tmp_path / "empty.ndjson").write_bytes(b"")
    run = bring(warehouse, library, tmp_path / "empty.ndjson")
    assert (run.status, run.counts.fetched) == ("completed", 0)


@pytest.mark.parametrize("order", [(1, 2, 3), (1, 3, 2), (3, 1, 2), (2, 3, 1)])
def test_a_record_that_went_back_to_what_it_was_is_that_in_any_order_of_days(
    warehouse: Warehouse, shelf: Source, order: tuple[int, ...]
) -> None:
    said = {1: "a", 2: "b", 3: "a"}
    for day in order:
        at = datetime(2026, 11, day, tzinfo=UTC)
        land_items(warehouse, shelf, f"2026-11-0{day}", [payload(said[day])], received_at=at)
    assert [words for words in history(warehouse) if words.isupper()] == ["A"]


def test_a_file_of_a_folder_source_lands_by_its_name(warehouse: Warehouse, shelf: Source, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"words": "one"}')
    bring(warehouse, shelf, tmp_path / "one.json")
    assert rows(warehouse, "select external_id from staging.versions") == [("one.json",)]
