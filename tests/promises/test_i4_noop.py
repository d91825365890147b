"""Invariant I4: landing and transforming the same input again changes no tuple and writes no WAL for any data table.

WAL is read back with pg_walinspect, block by block: stronger than what statements report of themselves.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta

import pytest
from psycopg import sql
from psycopg.rows import tuple_row

from pipelines import project
from pipelines.ledger import Run
from pipelines.source import Payload, Source, Window
from pipelines.warehouse.database import Connection, Warehouse
from tests.library import cover, payload, tuples, whole
from tests.runs import land_items, transform

pytestmark = pytest.mark.usefixtures("toy")

DAY = "2026-11-01"
LEDGER = {"ops.fetch_runs", "ops.sources"}
"""What a run that does nothing still writes: its own row, and the lock on its source's row that comes with it."""


def names(connection: Connection, query: str) -> list[str]:
    return [name for (name,) in connection.cursor(row_factory=tuple_row).execute(query.encode())]


def tables(connection: Connection) -> list[str]:
    return names(
        connection,
        """
        select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('toy', 'staging', 'ops') and c.relkind = 'r'
        """,
    )


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
                where n.nspname in ('toy', 'staging', 'ops') and t.relkind = 'r'
                """,
                [start["lsn"]],
            )
        }


def load(
    warehouse: Warehouse, source: Source, items: Sequence[Payload], *, full: bool = False, hours: int = 0
) -> tuple[Run, Run]:
    fetched_at = Window(date(2026, 11, 1)).start + timedelta(hours=hours)
    landed = land_items(warehouse, source, DAY, items, received_at=fetched_at)
    return landed, transform(warehouse, source, DAY, full=full)


def changes(*runs: Run) -> int:
    return sum(run.counts.created + run.counts.updated + run.counts.deleted for run in runs)


ALL = [payload(whole(each, stats={"loans": each})) for each in range(30)] + [
    payload(cover(100, book=10), kind="covers")
]


@pytest.mark.parametrize(
    ("full", "hours"), [(False, 0), (True, 0), (False, 1)], ids=["again", "again in full", "again an hour later"]
)
def test_the_same_input_again_changes_nothing_and_writes_nothing(
    warehouse: Warehouse, library: Source, full: bool, hours: int
) -> None:
    first = load(warehouse, library, ALL)
    assert changes(*first) > 200
    with written(warehouse) as touched:
        before = tuples(warehouse)
        landed, transformed = load(warehouse, library, ALL, full=full, hours=hours)
        assert tuples(warehouse) == before
    assert touched == LEDGER
    assert changes(landed, transformed) == 0
    lost = first[1].counts.duplicates  # the cover that is in the listing too
    assert lost == 1
    assert transformed.counts.duplicates == (lost if full else 0)
    assert transformed.counts.unchanged == (transformed.counts.fetched - lost if full else 0)
    assert transformed.stats["records"] == (landed.counts.fetched if full else 0)


def test_one_changed_payload_is_seen_in_tuples_and_in_wal(warehouse: Warehouse, library: Source) -> None:
    """So that the test above could fail."""
    load(warehouse, library, ALL)
    with written(warehouse) as touched:
        before = tuples(warehouse)
        load(warehouse, library, [payload(whole(1, stats={"loans": 1}, name="another name"))], hours=1)
        after = tuples(warehouse)
    changed = {"toy.authors", "ops.schema_drift", "ops.table_digests", "staging.payloads", "staging.versions"}
    assert {table for table in before if after[table] != before[table]} == changed
    assert touched == LEDGER | changed


def test_a_rejected_row_seen_again_changes_its_entry_and_no_row(warehouse: Warehouse, library: Source) -> None:
    items = [payload(whole(1)), payload(whole(2, name="n" * 101))]
    load(warehouse, library, items)
    before = tuples(warehouse)
    runs = load(warehouse, library, items, full=True)
    after = tuples(warehouse)
    assert {table for table in before if after[table] != before[table]} == {"staging.quarantine"}
    assert changes(*runs) == 0


def test_questions_write_nothing(warehouse: Warehouse, library: Source) -> None:
    load(warehouse, library, ALL)
    with written(warehouse) as touched, warehouse.connect() as connection:
        for question in project.questions():
            assert connection.execute(question.text.encode()).fetchall()
    assert touched == set()
