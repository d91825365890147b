"""Every advisory lock of the warehouse, and the order in which they are taken.

    DAGSTER_SERVICES     shared while Dagster runs; report_dead_runs tries it exclusively: it succeeds if none runs
    ROLES                exclusive, in the database postgres, while roles of the server are created
    MIGRATION            shared by each run and each long reader; exclusive in a migration
    SOURCES              exclusive, while a run writes its row of ops.sources
    run(id)              exclusive, while the process of a run lives; other processes only try it
    kept_schemas(domain) shared while a schema that stays is made; an erasure tries it exclusively
    transform(domain)    exclusive, in whatever writes, compares or prunes what the tables of a domain are derived from
    shadow_schema(name)  exclusive, while the process that made a temporary schema lives; others only try it
    landing(source)      exclusive, in whatever publishes, applies or removes versions of a source
    BODIES               shared while a batch of bodies is written; exclusive in whatever removes bodies
    host(name)           exclusive during a request, on a connection that takes no other lock

A process that holds a lock never waits for one that stands above it, so that no two processes wait for each other.
One exception: `retention` locks several domains, always in the order of their names.
PostgreSQL releases a lock with the session or the transaction that holds it: a killed process leaves none.
"""

from pipelines.warehouse.database import Connection

DAGSTER_SERVICES = "dagster services"
ROLES = "roles"
MIGRATION = "migration"
SOURCES = "ops.sources"
run = "run {}".format
kept_schemas = "kept schemas {}".format
transform = "transform {}".format
shadow_schema = "shadow schema {}".format
landing = "landing {}".format
BODIES = "bodies"
host = "host {}".format


def acquire(connection: Connection, name: str) -> None:
    """Waits for an exclusive lock, which is held until `release` or the end of the session."""
    connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])


def acquire_shared(connection: Connection, name: str) -> None:
    """Waits for a shared lock, which is held until `release_shared` or the end of the session."""
    connection.execute("select pg_advisory_lock_shared(hashtextextended(%s, 0))", [name])


def acquire_for_transaction(connection: Connection, name: str) -> None:
    """Waits for an exclusive lock, which is held until the end of the transaction."""
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


def try_acquire(connection: Connection, name: str) -> bool:
    """As `acquire`, without waiting; returns whether the lock was free."""
    row = connection.execute("select pg_try_advisory_lock(hashtextextended(%s, 0)) as acquired", [name]).fetchone()
    return bool(row and row["acquired"])


def try_acquire_for_transaction(connection: Connection, name: str) -> bool:
    """As `acquire_for_transaction`, without waiting; returns whether the lock was free."""
    row = connection.execute("select pg_try_advisory_xact_lock(hashtextextended(%s, 0)) as acquired", [name]).fetchone()
    return bool(row and row["acquired"])


def release(connection: Connection, name: str) -> None:
    connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [name])


def release_shared(connection: Connection, name: str) -> None:
    connection.execute("select pg_advisory_unlock_shared(hashtextextended(%s, 0))", [name])
