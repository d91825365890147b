"""Removes what is older than the settings keep it and no longer needed, so that the warehouse stops growing.

    settings in days ──> superseded versions and observations · bodies without a version · closed quarantine entries
                         · SQL texts that no run names · Dagster's events

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
        removed = _delete(run.connection, policy, run.advance)
        if removed.total():
            vacuum(run.connection, "ops", "staging")
        removed["dagster events"] = dagster_events.delete(warehouse, policy.events_days, run.advance)
        run.close(Counts(deleted=removed.total()), {"removed": dict(sorted(removed.items()))})
    return run


def count_prunable(warehouse: Warehouse, policy: Policy) -> Counter[str]:
    """How many of each kind `prune` would remove: removes them and rolls back. Landings wait until it ends."""
    with ledger.open_reader(warehouse) as connection, connection.transaction(force_rollback=True):
        found = _delete(connection, policy, _ignore)
    found["dagster events"] = dagster_events.delete(warehouse, policy.events_days, _ignore, dry_run=True)
    return found


def _ignore(number: int) -> None:
    """Reports no progress."""


def _delete(connection: Connection, policy: Policy, advance: Callable[[int], None]) -> Counter[str]:
    """Deletes what a policy does not keep from the warehouse; how many rows of each kind.

    Takes the locks of the domains in the order of their names, and in a domain those of the sources.
    """
    removed: Counter[str] = Counter()
    rows = connection.execute("select name from ops.sources").fetchall()
    sources = sorted((row["name"] for row in rows), key=lambda name: name.split("/"))
    domain_locks = {source: locks.transform(source.split("/")[0]) for source in sources}
    for source in sources:
        for kind, statement in DELETE_OF_SOURCE.items():
            parameters = asdict(policy) | {"source": source}
            lock_names = [domain_locks[source], locks.landing(source)]
            removed[kind] += delete_in_batches(connection, statement, parameters, lock_names, advance)
    removed["bodies"] = delete_in_batches(connection, DELETE_BODIES, {}, [locks.BODIES], advance)
    lock_names = list(dict.fromkeys(domain_locks.values()))
    removed["sql texts"] = delete_in_batches(connection, DELETE_SQL_TEXTS, {}, lock_names, advance)
    return removed


DELETE_OF_SOURCE = {
    # Superseded before that time, or never applied. The latest stays: the next landing compares with it.
    "versions": sql.SQL("""
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
        )

        delete from staging.versions v using expired where v.version_id = expired.version_id
    """),
    # Replaced by a newer one before that time, and read by no SELECT file as a series; or those of a record that was
    # deleted before that time.
    "observations": sql.SQL("""
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
        )

        delete from staging.observations o using expired where o.observation_id = expired.observation_id
    """),
    "quarantine entries": sql.SQL("""
        delete from staging.quarantine
        where quarantine_id = any(array(
            select quarantine_id from staging.quarantine
            where (stream = %(source)s or starts_with(stream, %(source)s || '.'))
              and closed_at < now() - make_interval(days => %(quarantine_days)s)
            limit %(batch)s))
    """),
}

DELETE_BODIES = sql.SQL("""
delete from staging.payloads
where payload_id = any(array(select payload_id from staging.payloads p where {} limit %(batch)s))
""").format(stage_bodies.UNREFERENCED)

DELETE_SQL_TEXTS = sql.SQL("""
delete from ops.sql s
where not exists (
    select from ops.fetch_runs r cross join jsonb_each_text(r.stats -> 'sql') as e where e.value = s.digest)
""")
