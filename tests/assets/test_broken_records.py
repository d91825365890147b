"""A broken record of a page stops none of the others, for sources of the catalogue over HTTP."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import stamina

from pipelines import project
from pipelines.connectors.retries import ATTEMPTS
from pipelines.landing import extract
from pipelines.landing.land import land_intake
from pipelines.ledger import Run
from pipelines.source import Source, Window
from pipelines.warehouse.database import Warehouse
from tests import hostile
from tests.corruptions import Broken, held, two_places
from tests.hostile import Answer, Asked, Server

TODAY = datetime.now(UTC).date().isoformat()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack, stamina.set_testing(True, attempts=ATTEMPTS):

        def start(stem: str, answer: Callable[[Asked], Answer]) -> Server:
            server = stack.enter_context(Server(answer))
            names = {f"ATLAS_{stem.upper()}_BASE_URL": server.url}
            for name, value in (hostile.environment({stem: server.url}) | names).items():
                monkeypatch.setenv(name, value)
            return server

        yield start


def land(warehouse: Warehouse, source: Source, **more: Any) -> Run:
    source = replace(source, rate=None)
    opened = extract.open_intake(warehouse, source, Window.of(TODAY), "live", full_refresh=True)
    return land_intake(warehouse, source, TODAY, opened, **more)


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
    land(warehouse, source)
    before = held(warehouse)
    for kind in api.kinds:
        for key in list(api.records[kind])[:4]:
            api.count(kind, key, 7)
    broken.kinds = two_places(random.Random(seed), 5)
    run = land(warehouse, source)
    assert run.counts.deleted == 0
    assert held(warehouse).keys() >= before.keys()
    broken.kinds = {}
    land(warehouse, source)
    assert held(warehouse) == before
