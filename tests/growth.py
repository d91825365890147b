"""How much a warehouse grows: the bytes of its tables, and what fetches of what is there already add to them."""

import json
import random
from collections.abc import Iterator
from datetime import timedelta

from pipelines.source import Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.library import START, author, rows, shown
from tests.runs import land_items, transform


def size(warehouse: Warehouse) -> int:
    return int(shown(warehouse, "select pg_database_size(current_database())")[0])


def relations(warehouse: Warehouse) -> dict[str, int]:
    """Bytes of each table, with its indexes and long values."""
    query = """
        select n.nspname || '.' || c.relname, pg_total_relation_size(c.oid) from pg_class c
        join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'r' and n.nspname !~ 'pg_toast|pg_temp'
    """
    return {name: int(number) for name, number in rows(warehouse, query)}


def refetch(
    warehouse: Warehouse, source: Source, payloads: int, fetches: int, days: int
) -> tuple[float, dict[str, tuple[int, int]]]:
    """Fetches payloads of 8 kB again and again, unchanged, spread over some days. Returns by what share the warehouse
    has grown, and the bytes of each table before and after.
    """
    chance = random.Random(1)
    filling = [chance.randbytes(4_000).hex() for _ in range(payloads)]

    def items() -> Iterator[Payload]:
        for number, text in enumerate(filling):
            yield Payload(json.dumps({"authors": [author(number)], "text": text}).encode(), "made here", str(number))

    def once(number: int) -> None:
        at = START + timedelta(days=number % days, minutes=number)
        key = at.date().isoformat()
        run = land_items(warehouse, source, key, items(), received_at=at)
        assert run.counts.created == (0 if number else payloads)
        transform(warehouse, source, key)
        if days > 1:
            with warehouse.connect() as connection:  # as autovacuum does within a day
                connection.execute("vacuum staging.arrivals, staging.versions")

    once(0)
    with warehouse.connect() as connection:
        connection.execute("vacuum analyze")
    before, sizes = size(warehouse), relations(warehouse)
    for number in range(1, fetches + 1):
        once(number)
    now = relations(warehouse)
    return size(warehouse) / before - 1, {name: (sizes.get(name, 0), each) for name, each in now.items()}
