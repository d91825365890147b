"""Invariant I9: a reader never sees half of a source's partition, whatever loads, rebuilds or crashes meanwhile.

Every row of the partition tells the edition of its record: a name, a label, an address, a tag. Readers on connections
of their own look in a loop, once with single statements over several tables, once with several statements in one
transaction, and note each edition and each number of rows that they meet.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.rows import tuple_row

from pipelines import project
from pipelines.lineage import rebuild
from pipelines.source import Payload, Source, Window
from pipelines.warehouse.database import Warehouse
from tests.databases import waits_for
from tests.library import author, book, copy, cover, payload
from tests.runs import land_items, transform

pytestmark = pytest.mark.usefixtures("toy")

DAY = "2026-11-02"
AUTHORS = 120
PATIENCE_S = 60

TELLS = {
    "authors": "select name from toy.authors",
    "books": "select title from toy.books",
    "copies": "select room from toy.copies",
    "covers": "select url from toy.covers",
    "author_topics": "select t.name from toy.author_topics join toy.topics t using (topic_id)",
}
"""What tells the edition of each row of a table."""

ONE = """
select '{table}' as table_name, substring(told from 'edition (\\d+)') as edition, count(*)
from ({told}) as t (told) group by 2
"""
EACH = {table: ONE.format(table=table, told=told) for table, told in TELLS.items()}
ALL = " union all ".join(EACH.values())

Sight = tuple[tuple[str, str, int], ...]
"""What one look saw: table, edition, number of rows."""


def an_author(number: int, edition: int) -> Payload:
    """An author with a book, a copy, a cover and a topic; each of them tells the edition."""
    told = f"edition {edition}"
    only = book(number, told, copies=[copy(number, room=told)], covers=[cover(number, told)])
    return payload(author(number, told, topics=[told], books=[only]))


def whole(edition: int) -> Sight:
    return tuple(sorted((table, str(edition), AUTHORS) for table in TELLS))


def land(warehouse: Warehouse, source: Source, edition: int) -> None:
    at = Window.of(DAY).start.replace(hour=edition)
    land_items(warehouse, source, DAY, [an_author(each, edition) for each in range(AUTHORS)], received_at=at)


def take(warehouse: Warehouse, source: Source, edition: int) -> None:
    land(warehouse, source, edition)
    transform(warehouse, source, DAY, shrink=True)


class Reader:
    """Looks in a loop until it is told to stop; what it saw, in turn, each sight once a change."""

    def __init__(self, warehouse: Warehouse, queries: list[str], isolation: IsolationLevel | None) -> None:
        self.sights: list[Sight] = []
        self.looks = 0
        self._warehouse, self._queries, self._isolation = warehouse, queries, isolation
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        with self._warehouse.connect() as connection, connection.cursor(row_factory=tuple_row) as cursor:
            connection.isolation_level = self._isolation
            while not self._stop.is_set():
                with connection.transaction():
                    rows = [row for query in self._queries for row in cursor.execute(query.encode()).fetchall()]
                sight = tuple(sorted(rows))
                if not self.sights or self.sights[-1] != sight:
                    self.sights.append(sight)
                self.looks += 1

    def __enter__(self) -> "Reader":
        self._thread.start()
        self.look_again()
        return self

    def look_again(self) -> None:
        """Waits until it has looked, from beginning to end."""
        target = self.looks + 2
        while self.looks < target:
            assert self._thread.is_alive()
            self._stop.wait(0.005)

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@contextmanager
def watched(warehouse: Warehouse) -> Iterator[list[Reader]]:
    """Both kinds of readers at work."""
    with (
        Reader(warehouse, [ALL], None) as single,
        Reader(warehouse, list(EACH.values()), IsolationLevel.REPEATABLE_READ) as several,
    ):
        yield [single, several]


@pytest.mark.long("readers beside runs")
def test_loads_show_one_edition_after_the_other(warehouse: Warehouse, library: Source) -> None:
    with watched(warehouse) as readers:
        for edition in range(1, 5):
            take(warehouse, library, edition)
            for reader in readers:
                reader.look_again()
    for reader in readers:
        assert reader.sights == [(), *(whole(edition) for edition in range(1, 5))]


REFUSE = """
create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'not today'; end $$;
create trigger refuse before update on staging.versions
    for each row when (new.valid_from_run is not null) execute function public.refuse();
"""
"""Fails a transform when all its rows are written."""


def test_a_transform_that_fails_at_its_end_shows_nothing(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, 1)
    with watched(warehouse) as readers:
        land(warehouse, library, 2)
        with warehouse.connect() as connection:
            connection.execute(REFUSE.encode())
        with pytest.raises(psycopg.errors.RaiseException, match="not today"):
            transform(warehouse, library, DAY, shrink=True)
        for reader in readers:
            reader.look_again()
    for reader in readers:
        assert reader.sights == [whole(1)]


WAITING = waits_for("relation")


@pytest.mark.long("readers beside runs")
def test_a_transform_that_is_killed_shows_nothing(warehouse: Warehouse, library: Source) -> None:
    """When all rows are written, and their digests wait for a lock."""
    take(warehouse, library, 1)
    land(warehouse, library, 2)
    with watched(warehouse) as readers:
        with warehouse.connect() as connection, connection.transaction():
            connection.execute("lock table ops.table_digests in share mode")
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli.main", "transform", "toy/library", "--shrink"],
                cwd=project.ROOT,
                env=os.environ | {"DATABASE_URL": warehouse.conninfo},
            )
            deadline = time.monotonic() + PATIENCE_S
            while not connection.execute(WAITING).rowcount:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.kill()
            process.wait()
        for reader in readers:
            reader.look_again()
        transform(warehouse, library, DAY, shrink=True)
        for reader in readers:
            reader.look_again()
    for reader in readers:
        assert reader.sights == [whole(1), whole(2)]


def test_a_rebuild_that_changes_nothing_shows_nothing_else(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, 1)
    with watched(warehouse) as readers:
        assert rebuild.rebuild(warehouse, "toy").counts.updated == 0
        assert all(each["same"] for each in rebuild.check(warehouse, "toy"))
    for reader in readers:
        assert reader.sights == [whole(1)]


SPOIL = [
    "update toy.authors set name = replace(name, 'edition 1', 'edition 9')",
    "update toy.books set title = replace(title, 'edition 1', 'edition 9')",
    "update toy.copies set room = replace(room, 'edition 1', 'edition 9')",
    "update toy.covers set url = replace(url, 'edition 1', 'edition 9')",
    "update toy.topics set name = replace(name, 'edition 1', 'edition 9')",
]
"""Makes of edition 1 what no payload tells, a statement a table."""


def test_a_rebuild_puts_all_that_differs_right_at_once(warehouse: Warehouse, library: Source) -> None:
    take(warehouse, library, 1)
    with warehouse.connect() as connection:
        for statement in SPOIL:
            connection.execute(statement.encode())
    with watched(warehouse) as readers:
        run = rebuild.rebuild(warehouse, "toy")
        for reader in readers:
            reader.look_again()
    assert run.counts.updated == 4 * AUTHORS + 1
    for reader in readers:
        assert reader.sights == [whole(9), whole(1)]


def test_readers_see_what_is_committed_table_by_table(warehouse: Warehouse, library: Source) -> None:
    """So that the tests above could fail: the writes of a load, each in a transaction of its own."""
    take(warehouse, library, 1)
    with watched(warehouse) as readers, warehouse.connect() as connection:
        for statement in SPOIL:
            connection.execute(statement.encode())
            for reader in readers:
                reader.look_again()
    for reader in readers:
        assert len(reader.sights) > 2
        assert not set(reader.sights) <= {whole(1), whole(9)}
