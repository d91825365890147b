"""Every advisory lock of the warehouse, and the order in which they are taken.

    DAGSTER_SERVICES     shared while Dagster runs here; whoever gets it alone knows that none does
    MIGRATION            shared by each run and each long reader; alone by a migration
    SOURCES              alone, while a run writes its source
    run(id)              alone, for as long as the process of a run lives
    kept_schemas(domain) shared while a schema that is to stay is made; alone by an erasure
    shadow_schema(name)  alone, for as long as the process that made a passing schema lives
    transform(domain)    alone, by whatever writes the tables of a domain
    landing(source)      alone, by whatever publishes or removes versions of a source
    BODIES               shared while a batch of bodies is written; alone by whatever removes bodies
    host(name)           alone, while a request is under way, on a connection that takes no other lock

A lock further down is never held when one further up is waited for, so that no two processes wait for each other.
Postgres lets go of a lock with the session or the transaction that holds it: nothing is left of a killed process.
"""

from typing import LiteralString
from uuid import UUID

from pipelines.warehouse.database import Connection

DAGSTER_SERVICES = "dagster services"
MIGRATION = "migrate"
SOURCES = "ops.sources"
BODIES = "bodies"


def run(run_id: UUID | str) -> str:
    return str(run_id)


def kept_schemas(domain: str) -> str:
    return f"copies of {domain}"


def shadow_schema(name: str) -> str:
    return f"schema {name}"


def transform(domain: str) -> str:
    return f"transform {domain}"


def landing(source: str) -> str:
    return f"land {source}"


def host(name: str) -> str:
    return f"host {name}"


def acquire(connection: Connection, name: str) -> None:
    """Waits for a lock and holds it until `release`, or until the session ends."""
    connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])


def acquire_shared(connection: Connection, name: str) -> None:
    """As `acquire`, beside others that hold it shared."""
    connection.execute("select pg_advisory_lock_shared(hashtextextended(%s, 0))", [name])


def acquire_for_transaction(connection: Connection, name: str) -> None:
    """Waits for a lock and holds it until the transaction ends."""
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


def try_acquire(connection: Connection, name: str) -> bool:
    """As `acquire`, without waiting; whether it was free."""
    return _answer(connection, "select pg_try_advisory_lock(hashtextextended(%s, 0)) as acquired", name)


def try_acquire_for_transaction(connection: Connection, name: str) -> bool:
    """As `acquire_for_transaction`, without waiting; whether it was free."""
    return _answer(connection, "select pg_try_advisory_xact_lock(hashtextextended(%s, 0)) as acquired", name)


def release(connection: Connection, name: str) -> None:
    connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [name])


def release_shared(connection: Connection, name: str) -> None:
    connection.execute("select pg_advisory_unlock_shared(hashtextextended(%s, 0))", [name])


def _answer(connection: Connection, statement: LiteralString, name: str) -> bool:
    row = connection.execute(statement, [name]).fetchone()
    return bool(row and row["acquired"])
