"""The recordings of sources, read without a database: what a source says about each day, in the order it says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import msgspec
from sqlalchemy import make_url

from pipelines import project
from pipelines.connectors import recording
from pipelines.landing import extract
from pipelines.source import FullScan, Item, Payload, Skipped, Source, Window
from pipelines.warehouse.database import Warehouse

NOWHERE = Warehouse(make_url("postgresql://nowhere"))
"""A recording is read without a database."""

Record = tuple[str, str]
"""Kind and external id."""


@dataclass(frozen=True)
class Day:
    """What the recording of a source says about a day."""

    window: Window
    items: Sequence[Item]

    @property
    def payloads(self) -> list[Payload]:
        return [item for item in self.items if isinstance(item, Payload)]

    @property
    def skipped(self) -> list[Skipped]:
        return [item for item in self.items if isinstance(item, Skipped)]

    @property
    def full_scans(self) -> list[FullScan]:
        return [item for item in self.items if isinstance(item, FullScan)]


def fetch(source: Source, window: Window) -> Day:
    items: list[Item] = []
    for stream in source.streams:
        with extract.open_intake(NOWHERE, stream, window, "recorded") as intake:
            items += intake.items({})
    return Day(window, items)


@cache
def recorded(name: str) -> list[Day]:
    source = project.sources()[name]
    return [fetch(source, Window(day)) for day in recording.days(source)]


def everything(source: Source) -> list[Payload]:
    return [payload for day in recorded(source.name) for payload in day.payloads]


def record_of(source: Source, payload: Payload) -> Record:
    found = payload.external_id or msgspec.json.decode(payload.body, type=source.contracts[payload.kind]).external_id()
    assert found
    return payload.kind, found
