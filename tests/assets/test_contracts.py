"""Optional fields of the catalogue's contracts with values of other types: the payload lands, and no row is lost that
the SELECTs can make without the field.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from psycopg import sql

from pipelines import project
from pipelines.ledger import Run
from pipelines.source import Payload, Source
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse
from tests.contract_places import Place, changed, relied_upon
from tests.library import rows
from tests.recordings import everything, record_of
from tests.runs import land_items, stream_of
from tests.samples import drawn

DAY = "2026-11-01"
PLACES = 12
"""So many fields of a source a session tries."""
START = datetime(2026, 11, 1, tzinfo=UTC)
SOURCES = sorted(name for name in project.sources() if name.startswith("catalog/"))
VALUES: dict[str, Any] = {
    "a text": "5 words, no more",
    "a number": 12.5,
    "a whole number": 7,
    "a boolean": True,
    "a list": [[1], "x", {"id": "y"}],
    "an object": {"id": [], "x": {"y": 1}},
    "an empty text": "",
    "null": None,
}


def optional_places(source: Source, value: Any) -> list[tuple[str, Payload, Place]]:
    """A payload for each place of the contracts that may have a value of any type, and where: not where it lacks what
    identifies children.
    """
    found = relied_upon(source, everything(source))
    children = {(kind, place.path) for (kind, _), (_, place) in found.items() if place.identified}
    return [
        (kind, payload, place)
        for (kind, _), (payload, place) in found.items()
        if not place.required
        and (value is None or not place.identified)
        and not (isinstance(value, list) and (kind, f"{place.path}[*]") in children)
    ]


class Player:
    """Lands and transforms payloads one after another."""

    def __init__(self, warehouse: Warehouse, source: Source) -> None:
        self.warehouse, self.source, self.clock = warehouse, source, START

    def play(self, *payloads: Payload) -> tuple[Run, dict[str, int]]:
        """The landing, and how many rows each table has after the transform."""
        self.clock += timedelta(minutes=1)
        run = land_items(self.warehouse, self.source, DAY, payloads, received_at=self.clock)
        for stream in {stream_of(self.source, each.kind) for each in payloads}:
            transform(self.warehouse, stream, DAY, shrink=True)
        tables = sorted({select.table.fullname for select in project.selects(self.source.name)})
        count = sql.SQL("select count(*) from {}")
        counted = {name: rows(self.warehouse, count.format(sql.Identifier(*name.split(".")))) for name in tables}
        return run, {name: number for name, ((number,),) in counted.items()}


@pytest.mark.emptied
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.sample(2, "optional fields")
def test_an_optional_field_of_another_type_costs_no_row(warehouse: Warehouse, name: str, value: str) -> None:
    source = project.sources()[name]
    cases = drawn(optional_places(source, VALUES[value]), PLACES, name)
    assert cases
    player = Player(warehouse, source)
    for kind in source.contracts:
        player.play(*{id(payload): payload for of, payload, _ in cases if of == kind}.values())
    for kind, payload, place in cases:
        where = f"{kind} {place.keys}: {value}"
        without = replace(payload, body=changed(payload, place, None, leave_out=True))
        _, expected = player.play(without)
        wrong = replace(payload, body=changed(payload, place, VALUES[value]))
        run, had = player.play(wrong)
        assert (run.counts.fetched, run.counts.quarantined) == (1, 0), where
        assert {table: count for table, count in had.items() if count < expected[table]} == {}, where
        found = values_of(warehouse, source, payload)
        if is_refused(source, wrong) and value != "null":
            parts = list(within(VALUES[value]))
            assert found and all(each in parts for each in found), where
        else:
            assert found == [], where


def within(value: Any) -> Iterator[Any]:
    """A value, and all values in it."""
    yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from within(each)


def values_of(warehouse: Warehouse, source: Source, payload: Payload) -> Sequence[Any]:
    """The values in quarantine that are of a record."""
    kind, external_id = record_of(source, payload)
    found = rows(
        warehouse,
        "select bytes from staging.quarantine where granularity = 'value' and stage = 'land' and closed_at is null"
        " and record_id = ops.key(%s, %s)",
        [source.stream_names[kind], external_id],
    )
    return [json.loads(bytes(value)) for (value,) in found]


def is_refused(source: Source, payload: Payload) -> bool:
    """Whether a strict decoder refuses a payload."""
    try:
        msgspec.json.decode(payload.body, type=source.contracts[payload.kind])
        return False
    except msgspec.ValidationError:
        return True
