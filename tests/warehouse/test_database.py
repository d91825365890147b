"""Sessions of a warehouse: kept for the next block without what the last one left, and ended with the warehouse."""

import gc
import time
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import text

from pipelines.schema.privileges import LOADER
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

PATIENCE_S = 10


def pid(connection: Connection) -> int:
    return connection.info.backend_pid


def test_a_session_serves_the_next_block_without_what_the_last_one_left(warehouse: Warehouse) -> None:
    with warehouse.connect() as connection:
        first = pid(connection)
        locks.acquire(connection, locks.MIGRATION)
        connection.execute("create temp table left_over ()")
        connection.execute("set timezone to 'Asia/Tokyo'")
    with warehouse.connect() as connection, warehouse.connect() as other:
        assert pid(connection) == first != pid(other)
        assert locks.try_acquire(other, locks.MIGRATION)
        (row,) = connection.execute("select to_regclass('left_over') as found, current_setting('timezone') as zone")
        assert row == {"found": None, "zone": "UTC"}


def test_a_session_is_not_kept_after_an_error(warehouse: Warehouse) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), warehouse.connect() as connection:
        first = pid(connection)
        connection.execute("select 1 / 0")
    with warehouse.connect() as connection:
        assert pid(connection) != first


def test_a_session_that_the_server_has_ended_is_replaced(warehouse: Warehouse) -> None:
    with warehouse.connect() as connection:
        first = pid(connection)
    with Warehouse(warehouse.url).connect() as other:
        other.execute("select pg_terminate_backend(%s, 5000)", [first])
    with warehouse.connect() as connection:
        assert pid(connection) != first


def test_sessions_end_with_a_warehouse_that_is_part_of_a_cycle(warehouse: Warehouse) -> None:
    """Where a session were deleted before it is closed, its warning would fail the test."""
    for _ in range(20):
        cycle: list[object] = [Warehouse(warehouse.url)]
        cycle.append(cycle)
        with cycle[0].connect() as connection:  # type: ignore[attr-defined]
            cycle.append(connection)
    del cycle, connection
    gc.collect()
    query = "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    deadline = time.monotonic() + PATIENCE_S
    with warehouse.connect() as connection:
        while connection.execute(query).rowcount:  # the server needs a moment to end them
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_sessions_take_on_the_role_of_the_loader_where_the_user_may(warehouse: Warehouse) -> None:
    who = "select current_user::text as name, current_setting('is_superuser') as superuser"
    with closing(warehouse.as_role(LOADER)) as loading:
        for _ in range(2):  # the second block has the session of the first
            with loading.connect() as connection:
                assert connection.execute(who).fetchall() == [{"name": LOADER, "superuser": "off"}]
        with loading.engine.connect() as connected:
            assert connected.execute(text(who)).all() == [(LOADER, "off")]
