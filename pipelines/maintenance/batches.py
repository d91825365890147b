"""Deletes rows in batches, each in a short transaction, and vacuums the tables afterwards."""

from collections.abc import Callable, Sequence

from psycopg import sql

from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection

BATCH_ROWS = 10_000


def delete_in_batches(
    connection: Connection,
    statement: str | sql.Composed,
    parameters: dict[str, object],
    lock_names: Sequence[str],
    advance: Callable[[int], None],
) -> int:
    """Runs a statement, each time in a transaction that holds the locks, until it selects less than a batch of rows;
    returns how many it deleted.

    statement: deletes up to %(batch)s rows and returns the numbers `selected` and `deleted`. advance: called with how
    many each batch deleted.
    """
    total = 0
    query = sql.SQL(statement) if isinstance(statement, str) else statement
    while True:
        with connection.transaction():
            for lock in lock_names:
                locks.acquire_for_transaction(connection, lock)
            row = connection.execute(query, parameters | {"batch": BATCH_ROWS}).fetchone()
        assert row is not None
        total += int(row["deleted"])
        advance(row["deleted"])
        if row["selected"] < BATCH_ROWS:
            return total


def vacuum(connection: Connection, tables: Sequence[str]) -> None:
    """Makes the space of deleted rows free for new ones."""
    for name in tables:
        connection.execute(sql.SQL("vacuum {}").format(sql.Identifier(*name.split("."))))
