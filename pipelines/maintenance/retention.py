"""Removes what is older than the settings keep it and no longer needed, so that the warehouse stops growing.

    settings in days ──> superseded versions and observations · bodies without a version · closed quarantine entries
                         · SQL texts that no run names · events in Dagster's own database

Never removed: what live rows are derived from, the ledger, tombstones, open entries, and events of assets, from which
Dagster reads which partitions are materialized.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

from psycopg import sql

from pipelines import ledger, project
from pipelines.landing import stage_bodies
from pipelines.ledger import Counts, Run
from pipelines.schema.declare import metadata
from pipelines.settings import Settings
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

BATCH_ROWS = 10_000


def prune(
    warehouse: Warehouse,
    settings: Settings,
    *,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Removes what the settings do not keep; the closed run, with the number of each kind in its stats."""
    code = " ".join(f"{name}={days}" for name, days in _days(settings).items())
    with ledger.open_run(
        warehouse, "atlas", "prune", "all", code_version=code, dagster_run_id=dagster_run_id, notify=notify
    ) as run:
        removed = _delete(run.connection, settings, run.advance)
        if removed.total():
            vacuum(run.connection, "ops", "staging")
        removed["dagster events"] = _delete_events(warehouse, settings, run.advance)
        run.close(Counts(deleted=removed.total()), {"removed": dict(sorted(removed.items()))})
    return run


def count_prunable(warehouse: Warehouse, settings: Settings) -> Counter[str]:
    """How many of each kind `prune` would remove: removes them and rolls back. Landings wait until it ends."""
    with ledger.open_reader(warehouse) as connection, connection.transaction(force_rollback=True):
        found = _delete(connection, settings, lambda _: None)
    found["dagster events"] = _delete_events(warehouse, settings, lambda _: None, dry_run=True)
    return found


def vacuum(connection: Connection, *schemas: str) -> None:
    """Removes deleted rows from the pages of the tables of schemas, and makes their space free for new ones."""
    project.load_tables()
    for table in metadata.sorted_tables:
        if table.schema in schemas:
            connection.execute(sql.SQL("vacuum {}").format(sql.Identifier(table.schema, table.name)))


def _days(settings: Settings) -> dict[str, int]:
    """The settings that say for how many days something is kept."""
    return {name: days for name, days in settings if name.startswith("keep_")}


def _delete(connection: Connection, settings: Settings, advance: Callable[[int], None]) -> Counter[str]:
    """Deletes what the settings do not keep from the warehouse; how many rows of each kind.

    Takes the locks of the domains in the order of their names, and in a domain those of the sources.
    """
    removed: Counter[str] = Counter()
    rows = connection.execute("select name from ops.sources").fetchall()
    sources = sorted((row["name"] for row in rows), key=lambda name: name.split("/"))
    domain_locks = {source: locks.transform(source.split("/")[0]) for source in sources}
    for source in sources:
        for kind, statement in DELETE_OF_SOURCE.items():
            parameters = _days(settings) | {"source": source}
            lock_names = [domain_locks[source], locks.landing(source)]
            removed[kind] += _delete_in_batches(connection, statement, parameters, lock_names, advance)
    bodies = sql.SQL(
        """
        delete from staging.payloads
        where payload_id = any(array(select payload_id from staging.payloads p where {} limit %(batch)s))
        """
    ).format(stage_bodies.UNREFERENCED)
    removed["bodies"] = _delete_in_batches(connection, bodies, {}, [locks.BODIES], advance)
    sql_texts = sql.SQL(
        """
        delete from ops.sql s
        where not exists (
            select from ops.fetch_runs r cross join jsonb_each_text(r.stats -> 'sql') as e where e.value = s.digest)
        """
    )
    lock_names = list(dict.fromkeys(domain_locks.values()))
    removed["sql texts"] = _delete_in_batches(connection, sql_texts, {}, lock_names, advance)
    return removed


def _delete_events(
    warehouse: Warehouse, settings: Settings, advance: Callable[[int], None], *, dry_run: bool = False
) -> int:
    """Deletes the events of finished runs from Dagster's database; returns how many. dry_run: rolls back."""
    database = str(warehouse.dagster_url.database)
    if database not in warehouse.databases():
        return 0
    with warehouse.connect(database) as connection:
        if not connection.execute("select where to_regclass('event_logs') is not null").rowcount:
            return 0
        with connection.transaction(force_rollback=True) if dry_run else nullcontext():
            expired = sql.SQL(
                """
                delete from event_logs
                where id = any(array(
                    select e.id from event_logs e left join runs r using (run_id)
                    where e.asset_key is null
                      and e.timestamp < now() at time zone 'utc' - make_interval(days => %(keep_events_days)s)
                      and coalesce(r.status in ('SUCCESS', 'FAILURE', 'CANCELED'), true)
                    limit %(batch)s))
                """
            )
            deleted = _delete_in_batches(connection, expired, _days(settings), [], advance)
        if deleted and not dry_run:
            connection.execute("vacuum event_logs")
    return deleted


def _delete_in_batches(
    connection: Connection,
    statement: sql.SQL | sql.Composed,
    parameters: Mapping[str, object],
    lock_names: Sequence[str],
    advance: Callable[[int], None],
) -> int:
    """Runs a DELETE of %(batch)s rows, each time in a transaction with the locks, until it finds fewer; how many."""
    total = 0
    while True:
        with connection.transaction():
            for lock in lock_names:
                locks.acquire_for_transaction(connection, lock)
            deleted = connection.execute(statement, {**parameters, "batch": BATCH_ROWS}).rowcount
        total += deleted
        advance(deleted)
        if deleted < BATCH_ROWS:
            return total


DELETE_OF_SOURCE = {
    # Superseded before that time, or never applied. The latest stays: the next landing compares with it.
    "versions": sql.SQL("""
        with expired as materialized (
            select v.version_id from staging.versions v
            join ops.fetch_runs r on r.fetch_run_id = coalesce(v.valid_to_run, v.landed_run)
            where (v.stream = %(source)s or starts_with(v.stream, %(source)s || '.'))
              and not v.latest and (v.valid_to_run is not null or v.valid_from_run is null)
              and r.ended_at < now() - make_interval(days => %(keep_versions_days)s)
            limit %(batch)s
        ), reapplied as (
            delete from staging.reapplied_versions a using expired where a.version_id = expired.version_id
        )
        delete from staging.versions v using expired where v.version_id = expired.version_id
    """),
    # Replaced by a newer one before that time, and read by no SELECT file as a series; or those of a record that was
    # deleted before that time.
    "observations": sql.SQL("""
        delete from staging.observations
        where observation_id = any(array(
            select o.observation_id from staging.observations o
            where (o.stream = %(source)s or starts_with(o.stream, %(source)s || '.'))
              and (
                  exists (
                      select from staging.observations n join ops.fetch_runs r on r.fetch_run_id = n.valid_from_run
                      where n.record_id = o.record_id and not n.late and n.observation_id > o.observation_id
                        and r.ended_at < now() - make_interval(days => %(keep_versions_days)s))
                  and not exists (
                      select from ops.sql s
                      where starts_with(s.path, %(source)s || '/')
                        and s.text ~ (
                            '\\y' || ltrim(substr(o.stream, length(%(source)s) + 1) || '_observations', '._') || '\\y'))
                  or exists (
                      select from staging.versions v join ops.fetch_runs r on r.fetch_run_id = v.valid_from_run
                      where v.record_id = o.record_id and v.latest and v.payload_id is null
                        and r.ended_at < now() - make_interval(days => %(keep_versions_days)s)))
            limit %(batch)s))
    """),
    "quarantine entries": sql.SQL("""
        delete from staging.quarantine
        where quarantine_id = any(array(
            select quarantine_id from staging.quarantine
            where (stream = %(source)s or starts_with(stream, %(source)s || '.'))
              and closed_at < now() - make_interval(days => %(keep_quarantine_days)s)
            limit %(batch)s))
    """),
}
