"""I11: of each record, what was received last is what the tables show, whatever its own time and partition say.

Belongs here: the order of versions as the tables show it. Not here: which versions there are (`landing/test_land.py`).
"""

import json
import os
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipelines.source import Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.library import author, fetched, rows
from tests.runs import land_items, pending_partitions, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

SEED = os.environ["TESTS_SEED"]
START = datetime(2026, 11, 1, tzinfo=UTC)
OWN_TIMES = [None, "yesterday", 0, "0001-01-01T00:00:00+14:00", "1970-01-01", "2026-11-01T00:00:00Z", "2099-12-31", "∞"]
DAYS = [f"2026-11-0{number}" for number in range(1, 5)]


def edition_of(dice: random.Random, number: int, edition: int) -> Payload:
    """An author's edition, with a time of its own that is wrong, absent, in the future or goes back."""
    own: dict[str, Any] = {"updated_at": dice.choice(OWN_TIMES), "lastModified": dice.choice(OWN_TIMES)}
    body = author(number, f"edition {edition}") | own
    return Payload(json.dumps(body).encode(), f"edition {edition}", kind="authors")


@pytest.mark.parametrize("history", range(40))
@pytest.mark.sample(8)
def test_what_was_received_last_is_what_the_tables_show(warehouse: Warehouse, library: Source, history: int) -> None:
    """In any order of landings, days and source times; of one time, what landed last; in one run, the last answer."""
    dice = random.Random(f"{SEED} {history}")
    last: dict[int, tuple[datetime, int]] = {}
    for edition in range(1, 13):
        at = START + timedelta(minutes=dice.randrange(6))
        numbers = dice.choices(range(1, 4), k=dice.randint(1, 3))
        land_items(
            warehouse,
            library,
            dice.choice(DAYS),
            [edition_of(dice, number, edition * 10 + place) for place, number in enumerate(numbers)],
            received_at=at,
        )
        for place, number in enumerate(numbers):
            if number not in last or at >= last[number][0]:
                last[number] = at, edition * 10 + place
        if dice.random() < 0.5:
            for day in pending_partitions(warehouse, library):
                transform(warehouse, library, day)
    for day in pending_partitions(warehouse, library):
        transform(warehouse, library, day)
    assert dict(rows(warehouse, "select external_id::int, name from toy.authors")) == {
        number: f"edition {edition}" for number, (_, edition) in last.items()
    }, f"TESTS_SEED={SEED}"


def test_what_is_received_now_is_newer_than_any_recording(warehouse: Warehouse, library: Source) -> None:
    for at in (START, None, START + timedelta(days=1)):
        name = f"received {at or 'now'}"
        body = json.dumps(author(1, name)).encode()
        land_items(warehouse, library, DAYS[0], [Payload(body, "x", kind="authors")], received_at=at)
        transform(warehouse, library, DAYS[0])
    assert rows(warehouse, "select name from toy.authors") == [("received now",)]


def test_the_clock_of_the_machine_that_lands_orders_nothing(
    warehouse: Warehouse, library: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second machine, whose clock is a day behind, receives the newer edition."""

    class Behind(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Behind":
            found = datetime.now(tz) - timedelta(days=1)
            return cls.fromisoformat(found.isoformat())

    for name in ("older", "newer"):
        body = json.dumps(author(1, name)).encode()
        land_items(warehouse, library, DAYS[0], [Payload(body, "x", kind="authors")])
        monkeypatch.setattr("pipelines.landing.land.datetime", Behind)
    transform(warehouse, library, DAYS[0])
    with warehouse.connect() as connection:
        assert fetched(connection, "select name from toy.authors") == [("newer",)]
        now = "select received_at > now() - interval '1 minute' from staging.versions where latest"
        assert fetched(connection, now) == [(True,)]
