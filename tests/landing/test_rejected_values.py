"""Values that do not fit the contract, of payloads that land: their entries in quarantine."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from pipelines.landing.intake import Intake
from pipelines.ledger import Run
from pipelines.source import FullScan, Item, Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.library import long_text, rows
from tests.runs import land_intake

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

DAY = "2026-11-01"
BAD = b'"many"'

INSERT_VALUE = """
insert into staging.rejects
    (fetch_run_id, granularity, sequence, stream, external_id, path, bytes, digest, received_at, request, reason,
     detail)
select fetch_run_id, 'value', %s, 'toy/library.authors', %s, %s, %s, sha256(%s), now(), 'page 1', 'wrong_type',
    'Expected `int`, got `str`'
from ops.fetch_runs where kind = 'land' and status = 'in_progress'
"""


def land(warehouse: Warehouse, source: Source, *records: tuple[int, dict[str, bytes]], complete: bool = False) -> Run:
    """Lands authors in this order, each with its id, and its rejected values by path. complete: there are no more."""

    def items() -> Iterator[Item]:
        for sequence, (number, values) in enumerate(records, 1):
            body = {"id": number, "name": f"author {number}", "note": [sequence, *sorted(values)]}
            yield Payload(json.dumps(body).encode(), "page 1", kind="authors")
            with warehouse.connect() as connection:
                for path, value in values.items():
                    connection.execute(INSERT_VALUE, [sequence, str(number), path, value, value])

        if complete:
            yield FullScan("authors", 1)

    intake = Intake(lambda _: items(), "recorded", None, get_record=lambda *_: None)
    return land_intake(warehouse, source, DAY, nullcontext(intake), shrink=True)


def entries(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return rows(
        warehouse,
        """
        select external_id, path, bytes, seen, closed_at is null from staging.quarantine
        where stage = 'land' and granularity = 'value' and record_id = ops.key(stream, external_id)
        order by external_id, path
        """,
    )


def test_a_rejected_value_is_counted_beside_and_its_payload_lands(warehouse: Warehouse, library: Source) -> None:
    run = land(warehouse, library, (1, {"$.loans": BAD, "$.likes": b"[1, 2]"}), (2, {}))
    assert (run.counts.created, run.counts.quarantined, run.status) == (2, 0, "completed")
    assert run.stats["values"] == 2
    assert entries(warehouse) == [("1", "$.likes", b"[1, 2]", 1, True), ("1", "$.loans", BAD, 1, True)]


def test_an_entry_shows_the_last_value_and_counts_how_often_it_was_seen(warehouse: Warehouse, library: Source) -> None:
    for value in (BAD, b'"more"'):
        land(warehouse, library, (1, {"$.loans": value}))
    assert entries(warehouse) == [("1", "$.loans", b'"more"', 2, True)]


def test_an_entry_closes_when_its_record_lands_without_it_and_opens_again(
    warehouse: Warehouse, library: Source
) -> None:
    land(warehouse, library, (1, {"$.likes": BAD, "$.loans": BAD}), (2, {"$.likes": BAD}))
    land(warehouse, library, (1, {"$.loans": BAD}))
    assert [(*entry[:2], entry[4]) for entry in entries(warehouse)] == [
        ("1", "$.likes", False),
        ("1", "$.loans", True),
        ("2", "$.likes", True),
    ]
    land(warehouse, library, (1, {"$.likes": BAD}))
    assert [(*entry[:2], entry[4]) for entry in entries(warehouse)] == [
        ("1", "$.likes", True),
        ("1", "$.loans", False),
        ("2", "$.likes", True),
    ]


def test_of_one_record_twice_in_a_run_only_the_last_payload_has_entries(warehouse: Warehouse, library: Source) -> None:
    run = land(warehouse, library, (1, {"$.likes": BAD}), (1, {"$.loans": BAD}))
    assert run.stats["values"] == 1
    assert [entry[1] for entry in entries(warehouse)] == ["$.loans"]


def test_the_entries_of_a_deleted_record_close(warehouse: Warehouse, library: Source) -> None:
    land(warehouse, library, (1, {"$.likes": BAD}), (2, {"$.likes": BAD}))
    run = land(warehouse, library, (2, {"$.likes": BAD}), complete=True)
    assert run.counts.deleted == 1
    assert [(entry[0], entry[4]) for entry in entries(warehouse)] == [("1", False), ("2", True)]


def test_a_path_may_be_too_long_for_an_index(warehouse: Warehouse, library: Source) -> None:
    path = "$." + long_text(4_000)
    for _ in range(2):
        land(warehouse, library, (1, {path: BAD}))
    assert entries(warehouse) == [("1", path, BAD, 2, True)]
