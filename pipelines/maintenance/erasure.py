"""Erases one record: removes it from staging, quarantine and tables, and keeps it from landing again.

    record ──> tombstone, applied to the tables ──> its rows in staging deleted ──> one row in staging.erasures

All of it in one transaction. `staging.erasures` keeps only keys and digests. Landings skip an erased record until
the erasure is lifted. Belongs here: the order of the steps, and what prevents them. Not here: their SQL (`erase_sql`),
reading erasures (`lineage.erasures`), removing what is old (`retention`).
"""

from collections.abc import Callable
from typing import Any

from psycopg import sql

from pipelines import ledger, project
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.lineage import shadow_schema
from pipelines.lineage.erasures import erasure_notice
from pipelines.maintenance import erase_sql
from pipelines.maintenance.batches import vacuum
from pipelines.source import Source
from pipelines.transform.run import apply_pending, code_version
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

PARTITION = "all"
"""The partition of the run and its tombstone; no other version has it."""


def count_stored(connection: Connection, stream: str, external_id: str) -> dict[str, int]:
    """How many versions, observations, quarantine entries and arrivals of a record are in staging."""
    row = connection.execute(erase_sql.COUNT_STORED, {"stream": stream, "external_id": external_id}).fetchone()
    assert row is not None
    return row


def erase(
    warehouse: Warehouse,
    source: Source,
    stream: str,
    external_id: str,
    *,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Removes a record from staging, quarantine and tables; the closed run, with the numbers removed in its stats.

    Raises AtlasError where nothing of the record is stored, a landing is receiving it, or a kept schema may hold it.
    """
    with warehouse.connect() as connection:
        _require_stored(connection, stream, external_id)
    code = code_version(project.selects(source.name))
    with ledger.open_run(warehouse, source, "erase", PARTITION, code_version=code, notify=notify) as run:
        with run.connection.transaction():
            _require_no_kept_schema(run.connection, source.domain)
            for lock in (locks.transform(source.domain), locks.landing(source.name), locks.BODIES):
                locks.acquire_for_transaction(run.connection, lock)
            parameters = {"run": run.id, "source": source.name, "stream": stream, "external_id": external_id}
            _require_stored(run.connection, stream, external_id)
            _require_no_landing(run.connection, parameters)
            for statement in erase_sql.PREPARE:
                run.connection.execute(statement, parameters)
            counts, stats = apply_pending(run, source, shrink=True)
            stats["erased"] = {
                kind: run.connection.execute(statement, parameters).rowcount
                for kind, statement in erase_sql.DELETE.items()
            }
            stats["erased"]["versions"] -= 1  # the tombstone of this run
            shadow_schema.drop_abandoned(run.connection)
            run.close(counts, stats)
        vacuum(run.connection, "ops", "staging", source.domain)
    return run


def lift(warehouse: Warehouse, stream: str, external_id: str) -> bool:
    """Allows an erased record to land again; returns whether it was erased."""
    with warehouse.connect() as connection:
        return bool(connection.execute(erase_sql.LIFT, {"stream": stream, "external_id": external_id}).rowcount)


def _require_stored(connection: Connection, stream: str, external_id: str) -> None:
    if not any(count_stored(connection, stream, external_id).values()):
        notice = erasure_notice(connection, stream, external_id)
        raise AtlasError(notice or f"Nothing is stored of record {external_id!r} of {stream}.", usage=True)


def _require_no_landing(connection: Connection, parameters: dict[str, Any]) -> None:
    """Raises AtlasError where a landing in progress has received the record."""
    landing = connection.execute(erase_sql.LANDING_IN_PROGRESS, parameters).fetchone()
    if landing is not None:
        raise AtlasError(
            f"Landing {landing['fetch_run_id']} of {parameters['source']} is in progress and has received the record. "
            "Erase the record when the landing has ended: atlas runs"
        )


def _require_no_kept_schema(connection: Connection, domain: str) -> None:
    """Prevents that a past state of the domain is kept in a schema, which could hold rows of the record.

    Raises AtlasError where one is kept or is being created.
    """
    if not locks.try_acquire_for_transaction(connection, locks.kept_schemas(domain)):
        raise AtlasError(
            f"`atlas as-of --schema` is creating a schema with a past state of {domain}. "
            "Erase the record when that has ended."
        )
    if schemas := shadow_schema.kept_schemas(connection, domain):
        names = sql.SQL(", ").join(map(sql.Identifier, schemas)).as_string()
        raise AtlasError(
            f"Past states of {domain} are kept in {len(schemas):,} schemas, perhaps with rows of the record. "
            f"Drop them first: drop schema {names} cascade;"
        )
