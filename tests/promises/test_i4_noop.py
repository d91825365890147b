"""Invariant I4: landing and transforming the same input again changes no tuple and writes no WAL for any data table.

WAL is read back with pg_walinspect, block by block: stronger than what statements report of themselves.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.rows import tuple_row

from pipelines import project
from pipelines.connectors import recording
from pipelines.landing import bulk_files, extract, land
from pipelines.ledger import Run
from pipelines.source import Item, Payload, Source, Window
from pipelines.transform.run import transform
from pipelines.warehouse.database import Connection, Warehouse

DAY = "2026-11-01"
LEDGER = {"ops.fetch_runs", "ops.sources"}
"""What a run that does nothing still writes: its own row, and the lock on its source's row that comes with it."""


def names(connection: Connection, query: str) -> list[str]:
    return [name for (name,) in connection.cursor(row_factory=tuple_row).execute(query.encode())]


def tables(connection: Connection) -> list[str]:
    return names(
        connection,
        "select schemaname || '.' || tablename from pg_tables where schemaname in ('catalog', 'staging', 'ops')",
    )


def tuples(warehouse: Warehouse) -> dict[str, list[str]]:
    """Place and inserting transaction of every tuple of the data tables."""
    with warehouse.connect() as connection:
        return {
            table: names(connection, f"select ctid || ' ' || xmin::text || ' ' || xmax::text from {table} order by 1")
            for table in tables(connection)
            if table not in LEDGER
        }


@contextmanager
def written(warehouse: Warehouse) -> Iterator[set[str]]:
    """The data tables of which a block, an index's or a long value's too, is in WAL while the context lasts."""
    found: set[str] = set()
    with warehouse.connect() as connection:
        connection.execute("create extension if not exists pg_walinspect")
        for table in tables(connection):
            name = sql.Identifier(*table.split("."))
            connection.execute(sql.SQL("alter table {} set (autovacuum_enabled = false)").format(name))
            connection.execute(sql.SQL("vacuum {}").format(name))
        slot = f"noop_{warehouse.database}"
        connection.execute("select pg_create_physical_replication_slot(%s, true, true)", [slot])
        start = connection.execute("select pg_current_wal_insert_lsn() as lsn").fetchone()
        yield found
        connection.execute("select pg_logical_emit_message(true, 'noop', 'so that WAL has an end to read to')")
        assert start is not None
        found |= {
            row["name"]
            for row in connection.execute(
                """
                select distinct format('%%s.%%s', n.nspname, t.relname) as name
                from pg_get_wal_block_info(%s, pg_current_wal_flush_lsn(), false) b
                join pg_database d on d.oid = b.reldatabase and d.datname = current_database()
                join pg_class c on pg_relation_filenode(c.oid) = b.relfilenode
                left join pg_index i on i.indexrelid = c.oid
                join pg_class h on h.oid = coalesce(i.indrelid, c.oid)
                join pg_class t on t.oid = h.oid or t.reltoastrelid = h.oid
                join pg_namespace n on n.oid = t.relnamespace
                where n.nspname in ('catalog', 'staging', 'ops') and t.relkind = 'r'
                """,
                [start["lsn"]],
            )
        }


def recorded(warehouse: Warehouse, source: Source) -> list[Item]:
    """The items of a source's first recording."""
    day = recording.days(source)[0]
    with extract.open_intake(warehouse, source, Window(day), "recorded") as intake:
        return list(intake.items({}))


@pytest.fixture(params=["real", "recorded"])
def items(request: pytest.FixtureRequest, warehouse: Warehouse, civitai: Source) -> list[Item]:
    """Payloads of CivitAI."""
    if request.param == "recorded":
        return recorded(warehouse, civitai)
    shared: Path = request.getfixturevalue("shared_data")
    return list(bulk_files.intake(civitai, "models", shared / "civitai" / "models_dev.ndjson", None).items({}))


def load(
    warehouse: Warehouse, source: Source, items: list[Item], *, full: bool = False, hours: int = 0
) -> tuple[Run, Run]:
    fetched_at = Window(date(2026, 11, 1)).start + timedelta(hours=hours)
    landed = land.land_items(warehouse, source, DAY, items, fetched_at=fetched_at)
    return landed, transform(warehouse, source, DAY, full=full)


def changes(*runs: Run) -> int:
    return sum(run.counts.created + run.counts.updated + run.counts.deleted for run in runs)


@pytest.mark.parametrize(
    ("full", "hours"), [(False, 0), (True, 0), (False, 1)], ids=["again", "again in full", "again an hour later"]
)
def test_the_same_input_again_changes_nothing_and_writes_nothing(
    warehouse: Warehouse, civitai: Source, items: list[Item], full: bool, hours: int
) -> None:
    first = load(warehouse, civitai, items)
    assert changes(*first) > 100
    with written(warehouse) as touched:
        before = tuples(warehouse)
        landed, transformed = load(warehouse, civitai, items, full=full, hours=hours)
        after = tuples(warehouse)
    assert after == before
    assert sum(map(len, after.values())) > 100
    assert touched == LEDGER
    assert changes(landed, transformed) == 0
    lost = first[1].counts.duplicates  # keys of rows that other records have
    assert transformed.counts.duplicates == (lost if full else 0)
    assert transformed.counts.unchanged == (transformed.counts.fetched - lost if full else 0)
    assert transformed.stats["records"] == (landed.counts.fetched if full else 0)


def test_folders_of_graphs_again_change_nothing_and_write_nothing(warehouse: Warehouse, comfyui: Source) -> None:
    graphs = recorded(warehouse, comfyui)[:60]
    assert changes(*load(warehouse, comfyui, graphs)) > 60
    with written(warehouse) as touched:
        before = tuples(warehouse)
        runs = load(warehouse, comfyui, graphs, full=True)
        assert tuples(warehouse) == before
    assert touched == LEDGER
    assert changes(*runs) == 0


def test_one_changed_payload_is_seen_in_tuples_and_in_wal(warehouse: Warehouse, civitai: Source) -> None:
    """So that the tests above could fail."""
    items = recorded(warehouse, civitai)
    load(warehouse, civitai, items)
    first = next(item for item in items if isinstance(item, Payload))
    body: dict[str, Any] = json.loads(first.body) | {"name": "another name"}
    changed = json.dumps(body, separators=(",", ":")).encode()
    with written(warehouse) as touched:
        before = tuples(warehouse)
        load(warehouse, civitai, [Payload(changed, "changed here", kind="models")])
        after = tuples(warehouse)
    assert {table for table in before if after[table] != before[table]} == {
        "catalog.models",
        "ops.schema_drift",
        "ops.table_digests",
        "staging.payloads",
        "staging.versions",
    }
    changed_tables = {"catalog.models", "ops.schema_drift", "ops.table_digests", "staging.payloads", "staging.versions"}
    assert touched == LEDGER | changed_tables


def test_a_rejected_row_seen_again_changes_its_entry_and_no_row(warehouse: Warehouse, civitai: Source) -> None:
    model = {"id": 1, "name": "one", "type": "LORA", "tags": ["a"], "modelVersions": [{"id": 1, "name": "v"}]}
    wrong = model | {"id": 2, "name": "n" * 501}
    items: list[Item] = [Payload(json.dumps(each).encode(), "made here", kind="models") for each in (model, wrong)]
    load(warehouse, civitai, items)
    before = tuples(warehouse)
    runs = load(warehouse, civitai, items, full=True)
    after = tuples(warehouse)
    assert {table for table in before if after[table] != before[table]} == {"staging.quarantine"}
    assert changes(*runs) == 0


def test_questions_and_other_reading_write_nothing(warehouse: Warehouse, civitai: Source) -> None:
    load(warehouse, civitai, recorded(warehouse, civitai))
    with written(warehouse) as touched, warehouse.connect() as connection:
        for question in project.questions():
            connection.execute(question.text.encode())
    assert touched == set()
