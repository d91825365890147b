"""Deletes rows in batches, each in a short transaction, and vacuums the tables afterwards."""

from collections.abc import Callable, Sequence

from psycopg import sql

from pipelines import project
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection
from pipelines.warehouse.declare import metadata

BATCH_ROWS = 10_000


def delete_in_batches(
    connection: Connection,
    statement: sql.SQL | sql.Composed,
    parameters: dict[str, object],
    lock_names: Sequence[str],
    advance: Callable[[int], None],
) -> int:
    """Runs a DELETE of up to %(batch)s rows again and again, each time in a transaction that holds the locks, until
    it finds fewer; returns how many rows it deleted in all. advance: called with how many each batch deleted.
    """
    total = 0
    while True:
        with connection.transaction():
            for lock in lock_names:
                locks.acquire_for_transaction(connection, lock)
            deleted = connection.execute(statement, parameters | {"batch": BATCH_ROWS}).rowcount
        total += deleted
        advance(deleted)
        if deleted < BATCH_ROWS:
            return total


def vacuum(connection: Connection, *schemas: str) -> None:
    """Removes deleted rows from the pages of the tables of schemas, and makes their space free for new ones."""
    project.load_tables()
    for table in metadata.sorted_tables:
        if table.schema in schemas:
            connection.execute(sql.SQL("vacuum {}").format(sql.Identifier(table.schema, table.name)))
