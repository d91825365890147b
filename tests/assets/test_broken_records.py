"""A broken record of a page stops none of the others, for sources of the catalogue over HTTP."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipelines import project
from pipelines.source import Item, Payload, Skipped, Window
from pipelines.warehouse.database import Warehouse
from tests import hostile
from tests.corruptions import Broken, held, two_places
from tests.hostile import Answer, Asked, Server
from tests.library import rows
from tests.runs import land_anew, land_items, land_recorded

pytestmark = pytest.mark.emptied

TODAY = datetime.now(UTC).date().isoformat()


@pytest.mark.parametrize("stem", ["civitai", "danbooru", "huggingface", "ollama"])
@pytest.mark.parametrize("seed", range(25))
@pytest.mark.sample(8, "catalogue")
def test_two_broken_records_of_a_page_of_the_catalogue(
    warehouse: Warehouse, serve: Callable[..., Server], stem: str, seed: int
) -> None:
    api = hostile.APIS[stem]()
    broken = Broken(api.answer)
    serve(stem, broken.answer)
    for _ in range(5):
        number = api.number
        for kind in api.kinds:
            api.number = number
            api.make(kind, datetime.now(UTC))
    source = project.sources()[f"catalog/{stem}"]
    land_anew(warehouse, source)
    before = held(warehouse)
    for kind in api.kinds:
        for key in list(api.records[kind])[:4]:
            api.count(kind, key, 7)
    broken.kinds = two_places(random.Random(seed), 5)
    run = land_anew(warehouse, source)
    assert run.counts.deleted == 0
    assert held(warehouse).keys() >= before.keys()
    broken.kinds = {}
    land_anew(warehouse, source)
    assert held(warehouse) == before


@pytest.mark.parametrize("stem", sorted(hostile.APIS))
def test_a_source_whose_lists_are_null_is_empty(warehouse: Warehouse, serve: Callable[..., Server], stem: str) -> None:
    def answer(asked: Asked) -> Answer:
        is_list = stem in ("danbooru", "huggingface") or asked.path == "/tags.json"
        page = None if is_list else dict.fromkeys(("items", "metadata", "models", "posts"))
        return Answer(page)

    server = serve(stem, answer)
    source = project.sources()[f"catalog/{stem}"]
    run = land_anew(warehouse, source)
    assert (run.status, run.counts.fetched) == ("completed", 0)
    assert len({asked.target for asked in server.log}) == len(server.log)


@pytest.mark.parametrize("status", [500, 401, 400])
def test_a_model_that_cannot_be_shown_stays_as_it_was(
    warehouse: Warehouse, serve: Callable[..., Server], status: int
) -> None:
    api = hostile.Ollama()
    server = serve("ollama", api.answer)
    for _ in range(3):
        number = api.number
        for kind in api.kinds:
            api.number = number
            api.make(kind, datetime.now(UTC))
    source = project.sources()["catalog/ollama"]
    land_anew(warehouse, source)
    before = held(warehouse)
    broken = sorted(api.records["shown"])[1]

    def answer(asked: Asked) -> Answer:
        return Answer({"error": "x"}, status) if broken.encode() in asked.body else api.answer(asked)

    server.answer = answer
    run = land_anew(warehouse, source)
    assert run.stats["skipped"] == {f"cannot be shown: status {status}": 1}
    assert held(warehouse) == before


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_utc_cannot_hold_stops_no_listing(
    warehouse: Warehouse, serve: Callable[..., Server], time: str
) -> None:
    now = hostile.iso(datetime.now(UTC))
    models = [{"id": "a/first", "lastModified": now}, {"id": "a/odd", "lastModified": time}, {"id": "a/last"}]
    serve("huggingface", lambda _: Answer(models))
    source = replace(project.sources()["catalog/huggingface"], rate=None)
    for day, full_refresh in ((TODAY, True), (TODAY, False), ("2026-11-20", False)):
        land_recorded(warehouse, source, Window.of(day), "live", full_refresh=full_refresh)
    assert {key for _, key in held(warehouse)} == {"a/first", "a/odd", "a/last"}


@pytest.mark.parametrize("unusable", ["a\0b", "x" * 1_001], ids=["NUL", "too long"])
def test_an_id_that_cannot_be_stored_stops_nothing(warehouse: Warehouse, unusable: str) -> None:
    """Neither in a record that is refused for another reason, nor as the name of one, nor of one that is skipped."""
    items: list[Item] = [
        Payload(json.dumps({"id": unusable}).encode(), "r"),
        Payload(json.dumps({"id": unusable, "siblings": [7]}).encode(), "r"),
        Payload(b"{}", f"file[{unusable}]", unusable),
        Skipped("/api/show", "cannot be shown", unusable),
        Payload(b'{"id": "pier/fine"}', "r"),
    ]
    run = land_items(warehouse, project.sources()["catalog/huggingface"], TODAY, items)
    assert (run.counts.created, run.counts.quarantined) == (1, 3)
    assert run.stats["skipped"] == {"cannot be shown": 1}
    assert rows(warehouse, "select count(*) from staging.quarantine where external_id is null") == [(3,)]
