"""Removes what is older than the settings keep it and no longer needed, so that the warehouse stops growing.

    settings in days ──> superseded versions and observations · bodies without a version · closed quarantine entries
                         · SQL texts that no run names · Dagster's events and ticks

The past can be queried for as many days as the settings say. What live rows are derived from is never removed, nor are
the ledger, tombstones and open entries. Belongs here: which rows may be removed. Not here: removing one record on
request (`erasure`).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from psycopg import sql

from pipelines import ledger
from pipelines.landing import stage_bodies
from pipelines.ledger import Counts, Run
from pipelines.maintenance import dagster_events
from pipelines.maintenance.batches import delete_in_batches, vacuum
from pipelines.settings import Settings
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse


@dataclass(frozen=True)
class Policy:
    """For how many days superseded versions, closed quarantine entries and Dagster's events are kept."""

    versions_days: int = 90
    quarantine_days: int = 90
    events_days: int = 14

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        return cls(settings.keep_versions_days, settings.keep_quarantine_days, settings.keep_events_days)


def prune(
    warehouse: Warehouse,
    policy: Policy,
    *,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Removes what a policy does not keep; the closed run, with the number of each kind in its stats."""
    code = " ".join(f"{name}={days}" for name, days in asdict(policy).items())
    with ledger.open_run(
        warehouse, "atlas", "prune", "all", code_version=code, dagster_run_id=dagster_run_id, notify=notify
    ) as run:
        removed = _prune_warehouse(run.connection, policy, run.advance)
        with dagster_events.connect(warehouse) as dagster:
            if dagster is not None:
                removed += dagster_events.prune(dagster, policy.events_days, run.advance)
        with run.connection.transaction():
            run.close(Counts(deleted=removed.total()), {"removed": {name: removed[name] for name in sorted(removed)}})
    return run


def count_prunable(warehouse: Warehouse, policy: Policy) -> Counter[str]:
    """How many of each kind `prune` would remove: removes them and rolls back. Landings wait until it ends."""
    with ledger.open_reader(warehouse) as connection, connection.transaction(force_rollback=True):
        found = _prune_warehouse(connection, policy, _ignore)
    with dagster_events.connect(warehouse) as dagster:
        if dagster is not None:
            with dagster.transaction(force_rollback=True):
                found += dagster_events.prune(dagster, policy.events_days, _ignore)
    return found


def _ignore(number: int) -> None:
    """Reports no progress."""


def _prune_warehouse(connection: Connection, policy: Policy, advance: Callable[[int], None]) -> Counter[str]:
    removed: Counter[str] = Counter()
    parameters = asdict(policy)
    for name in _sources(connection):
        lock_names = [locks.transform(name.split("/")[0]), locks.landing(name)]
        for kind, statement in DELETE_OF_SOURCE.items():
            removed[kind] += delete_in_batches(
                connection, statement, parameters | {"source": name}, lock_names, advance
            )
    connection.execute("drop table if exists pg_temp.unreferenced_bodies")
    connection.execute(LIST_BODIES)
    removed["bodies"] += delete_in_batches(connection, DELETE_BODIES, parameters, [locks.BODIES], advance)
    lock_names = sorted({locks.transform(name.split("/")[0]) for name in _sources(connection)})
    removed["sql texts"] += delete_in_batches(connection, DELETE_SQL_TEXTS, parameters, lock_names, advance)
    if not connection.info.transaction_status:
        vacuum(connection, [table for kind, tables in TABLES.items() if removed[kind] for table in tables])
    return removed


def _sources(connection: Connection) -> list[str]:
    return [row["name"] for row in connection.execute("select name from ops.sources order by name")]


TABLES = {
    "versions": ["staging.versions", "staging.reapplied_versions"],
    "observations": ["staging.observations"],
    "quarantine entries": ["staging.quarantine"],
    "bodies": ["staging.payloads"],
    "sql texts": ["ops.sql"],
}
"""The tables of which rows of a kind are deleted."""

DELETE_OF_SOURCE = {
    # Superseded before that time, or never applied. The latest stays: the next landing compares with it.
    "versions": """
        with expired as materialized (
            select v.version_id from staging.versions v
            join ops.fetch_runs r on r.fetch_run_id = coalesce(v.valid_to_run, v.landed_run)
            where (v.stream = %(source)s or starts_with(v.stream, %(source)s || '.'))
              and not v.latest and (v.valid_to_run is not null or v.valid_from_run is null)
              and r.ended_at < now() - make_interval(days => %(versions_days)s)
            limit %(batch)s
        ),

        reapplied as (
            delete from staging.reapplied_versions a using expired where a.version_id = expired.version_id
        ),

        deleted as (
            delete from staging.versions v using expired where v.version_id = expired.version_id returning 1
        )

        select count(*) as deleted, count(*) as selected from deleted
    """,
    # Replaced by a newer one before that time, and read by no SELECT file as a series; or those of a record that was
    # deleted before that time.
    "observations": """
        with expired as materialized (
            select o.observation_id from staging.observations o
            where (o.stream = %(source)s or starts_with(o.stream, %(source)s || '.'))
              and (
                  exists (
                      select from staging.observations n join ops.fetch_runs r on r.fetch_run_id = n.valid_from_run
                      where n.record_id = o.record_id and not n.late and n.observation_id > o.observation_id
                        and r.ended_at < now() - make_interval(days => %(versions_days)s))
                  and not exists (
                      select from ops.sql s
                      where starts_with(s.path, %(source)s || '/')
                        and s.text ~ (
                            '\\y' || ltrim(substr(o.stream, length(%(source)s) + 1) || '_observations', '._') || '\\y'))
                  or exists (
                      select from staging.versions v join ops.fetch_runs r on r.fetch_run_id = v.valid_from_run
                      where v.record_id = o.record_id and v.latest and v.payload_id is null
                        and r.ended_at < now() - make_interval(days => %(versions_days)s)))
            limit %(batch)s
        ),

        deleted as (
            delete from staging.observations o using expired where o.observation_id = expired.observation_id
            returning 1
        )

        select count(*) as deleted, count(*) as selected from deleted
    """,
    "quarantine entries": """
        with deleted as (
            delete from staging.quarantine
            where quarantine_id = any(array(
                select quarantine_id from staging.quarantine
                where (stream = %(source)s or starts_with(stream, %(source)s || '.'))
                  and closed_at < now() - make_interval(days => %(quarantine_days)s)
                limit %(batch)s))
            returning 1
        )

        select count(*) as deleted, count(*) as selected from deleted
    """,
}

LIST_BODIES = sql.SQL(
    "create temp table unreferenced_bodies as select payload_id from staging.payloads p where {unnamed}"
).format(unnamed=stage_bodies.UNREFERENCED)

DELETE_BODIES = sql.SQL("""
with batch as (
    delete from unreferenced_bodies
    where ctid = any(array(select ctid from unreferenced_bodies limit %(batch)s)) returning payload_id
),

deleted as (
    delete from staging.payloads p using batch where p.payload_id = batch.payload_id and {unnamed} returning 1
)

select (select count(*) from deleted) as deleted, (select count(*) from batch) as selected
""").format(unnamed=stage_bodies.UNREFERENCED)

DELETE_SQL_TEXTS = """
with deleted as (
    delete from ops.sql s
    where not exists (
        select from ops.fetch_runs r cross join jsonb_each_text(r.stats -> 'sql') as e where e.value = s.digest)
    returning 1
)

select count(*) as deleted, 0 as selected from deleted
"""
