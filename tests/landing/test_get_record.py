"""What a source answers for one record by its id, where that is not the record: nothing is deleted."""

import json
from contextlib import nullcontext
from functools import partial
from urllib.parse import unquote

import msgspec
import pytest

from pipelines import project
from pipelines.connectors import recording
from pipelines.connectors.http import Client
from pipelines.landing import extract
from pipelines.landing.intake import Intake
from pipelines.source import FullScan, Payload, Source, Window
from pipelines.warehouse.database import Warehouse
from tests.hostile import Answer, Asked, Server
from tests.library import shown
from tests.runs import land_intake, land_items, stream_of

pytestmark = pytest.mark.emptied


@pytest.mark.parametrize(
    "source",
    [each for each in project.sources().values() if each.get_record and each.kind == "http"],
    ids=lambda each: each.stem,
)
def test_a_record_of_which_the_source_answers_403_is_not_deleted(warehouse: Warehouse, source: Source) -> None:
    """The operator refuses to say: the record may well exist."""
    kind, contract = next(iter(source.contracts.items()))
    first, second = Window(recording.days(source)[0]), Window.of("2026-12-01")
    with extract.open_intake(warehouse, stream_of(source, kind), first, "recorded") as intake:
        known = [item for item in intake.items({}) if isinstance(item, Payload) and item.kind == kind][:2]
    external_id = msgspec.json.decode(known[0].body, type=contract).external_id()
    land_items(warehouse, source, first.key, known, received_at=first.start)
    with Server(lambda _: Answer({"error": "no"}, 403)) as server, Client(source.name, server.url) as client:
        assert source.get_record
        look = partial(source.get_record, client)
        intake = Intake(lambda _: [known[1], FullScan(kind, 1)], "recorded", second.start, get_record=look)
        run = land_intake(warehouse, source, second.key, nullcontext(intake))
    there = shown(warehouse, "select external_id from staging.versions where latest and payload_id is not null")
    assert (run.counts.deleted, external_id in there) == (0, True)
    reason = "missing from a full scan, and cannot be fetched by id: status 403"
    assert (run.status, run.stats["skipped"], run.stats["unfetched"]) == ("partial_success", {reason: 1}, 1)


@pytest.mark.parametrize("external_id", ["pier/x#1", "pier/x?y=1", "pier/100%", "pier/a b", "pier/a\1b", "pier/\u00e9"])
def test_a_record_is_asked_for_by_its_whole_id(warehouse: Warehouse, external_id: str) -> None:
    source, window = project.sources()["catalog/huggingface"], Window.of("2026-12-01")
    others = [Payload(json.dumps({"id": f"pier/{number}"}).encode(), "r") for number in range(9)]
    known = Payload(json.dumps({"id": external_id}).encode(), "r")
    land_items(warehouse, source, "2026-11-01", [known, *others], received_at=Window.of("2026-11-01").start)

    def answer(asked: Asked) -> Answer:
        return Answer({"id": external_id}, 200 if unquote(asked.path) == f"/api/models/{external_id}" else 404)

    with Server(answer) as server, Client(source.name, server.url) as client:
        assert source.get_record
        look = partial(source.get_record, client)
        intake = Intake(lambda _: [*others, FullScan("", 1)], "recorded", window.start, get_record=look)
        run = land_intake(warehouse, source, window.key, nullcontext(intake))
    assert (len(server.log), run.counts.deleted, run.status) == (1, 0, "completed")
