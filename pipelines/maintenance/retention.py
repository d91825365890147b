"""Keeping staging, and what Dagster notes, from growing without end: what nothing needs any more is removed.

    a policy in days ──> versions and observations that were out of force before · bodies that nothing names
                         · closed quarantine · events and ticks of Dagster

The past can be looked at for as long as the policy says; what a live row is derived from stays for ever, as do the
ledger, tombstones, and what is open. Everything goes in batches of one short transaction, under the locks of those
who might need it. Belongs here: what may go. Not: removing what somebody wants gone (`erasure`).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from psycopg import sql

from pipelines import failpoints, ledger
from pipelines.landing import stage_bodies
from pipelines.ledger import Counts, Run
from pipelines.settings import Settings
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

BATCH = 10_000


@dataclass(frozen=True)
class Policy:
    """For how many days what is out of use is kept."""

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
    """Removes what a policy no longer keeps; the closed run, with how many of each kind."""
    code = " ".join(f"{name}={days}" for name, days in asdict(policy).items())
    with ledger.open_run(
        warehouse, "atlas", "prune", "all", code_version=code, dagster_run_id=dagster_run_id, notify=notify
    ) as run:
        removed = _warehouse(run.connection, policy, run.advance)
        failpoints.reached("prune.warehouse")
        with _dagster(warehouse) as dagster:
            if dagster is not None:
                removed += _events(dagster, policy, run.advance)
        with run.connection.transaction():
            run.publish(Counts(deleted=removed.total()), {"removed": {name: removed[name] for name in sorted(removed)}})
    return run


def prunable(warehouse: Warehouse, policy: Policy) -> Counter[str]:
    """How many of each kind `prune` would remove: it does, and takes it back. Landings wait meanwhile."""
    with ledger.open_reader(warehouse) as connection, connection.transaction(force_rollback=True):
        found = _warehouse(connection, policy)
    with _dagster(warehouse) as dagster:
        if dagster is not None:
            with dagster.transaction(force_rollback=True):
                found += _events(dagster, policy)
    return found


def vacuum(connection: Connection, tables: list[str]) -> None:
    """Gives back the space of what was removed, for what comes."""
    for name in tables:
        connection.execute(sql.SQL("vacuum {}").format(sql.Identifier(*name.split("."))))


def _warehouse(connection: Connection, policy: Policy, advance: Callable[[int], None] = lambda _: None) -> Counter[str]:
    removed: Counter[str] = Counter()
    parameters = asdict(policy) | {"batch": BATCH}
    for row in connection.execute("select name from ops.sources order by name").fetchall():
        name = row["name"]
        under = [locks.transform(name.split("/")[0]), locks.landing(name)]
        for what, statement in OF_A_SOURCE.items():
            removed[what] += _batches(connection, statement, parameters | {"source": name}, under, advance)
    connection.execute("drop table if exists pg_temp.doomed")
    connection.execute(DOOMED)
    failpoints.reached("prune.doomed")
    removed["bodies"] += _batches(connection, BODIES, parameters, [locks.BODIES], advance)
    domains = sorted({row["domain"] for row in connection.execute(DOMAINS)})
    removed["sql texts"] += _batches(
        connection, TEXTS, parameters, [locks.transform(each) for each in domains], advance
    )
    if not connection.info.transaction_status:
        touched = [table for what, table in TABLES.items() if removed[what]]
        vacuum(connection, [*touched, *(["staging.reapplied_versions"] if removed["versions"] else [])])
    return removed


def _batches(
    connection: Connection,
    statement: str | sql.Composed,
    parameters: dict[str, object],
    under: list[str],
    advance: Callable[[int], None],
) -> int:
    """Runs a statement, each time in a transaction under locks, until it finds less than a batch; how many in all."""
    total = 0
    query = sql.SQL(statement) if isinstance(statement, str) else statement
    while True:
        with connection.transaction():
            for lock in under:
                locks.acquire_for_transaction(connection, lock)
            row = connection.execute(query, parameters).fetchone()
            failpoints.reached("prune.removed")
        assert row is not None
        failpoints.reached("prune.batch")
        total += int(row["removed"])
        advance(row["removed"])
        if row["taken"] < BATCH:
            return total


@contextmanager
def _dagster(warehouse: Warehouse) -> Iterator[Connection | None]:
    """Dagster's database, where it is there and has been used."""
    database = str(warehouse.dagster_url.database)
    if database not in warehouse.databases():
        yield None
        return
    with warehouse.connect(database) as connection:
        row = connection.execute("select count(to_regclass(name)) = 3 as used from unnest(%s::text[]) name", [DAGSTER])
        used = row.fetchone()
        yield connection if used and used["used"] else None


def _events(connection: Connection, policy: Policy, advance: Callable[[int], None] = lambda _: None) -> Counter[str]:
    removed: Counter[str] = Counter()
    parameters = asdict(policy) | {"batch": BATCH}
    for what, statement in OF_DAGSTER.items():
        removed[what] += _batches(connection, statement, parameters, [], advance)
    if not connection.info.transaction_status:
        vacuum(connection, [table for table, what in zip(DAGSTER, OF_DAGSTER, strict=False) if removed[what]])
    return removed


TABLES = {
    "versions": "staging.versions",
    "observations": "staging.observations",
    "quarantine entries": "staging.quarantine",
    "bodies": "staging.payloads",
    "sql texts": "ops.sql",
}

DOMAINS = "select distinct split_part(name, '/', 1) as domain from ops.sources"

OF_A_SOURCE = {
    # Out of force before, or never taken in. What is waiting to be judged against, the latest, is neither.
    "versions": """
        with doomed as materialized (
            select v.version_id from staging.versions v
            join ops.fetch_runs r on r.fetch_run_id = coalesce(v.valid_to_run, v.landed_run)
            where (v.stream = %(source)s or starts_with(v.stream, %(source)s || '.'))
              and not v.latest and (v.valid_to_run is not null or v.valid_from_run is null)
              and r.ended_at < now() - make_interval(days => %(versions_days)s)
            limit %(batch)s
        ),

        underived as (
            delete from staging.reapplied_versions d using doomed where d.version_id = doomed.version_id
        ),

        gone as (
            delete from staging.versions v using doomed where v.version_id = doomed.version_id returning 1
        )

        select count(*) as removed, count(*) as taken from gone
    """,
    # Of a series every row is derived from one, until its record is gone. Elsewhere the newest in force counts alone.
    "observations": """
        with doomed as materialized (
            select o.observation_id from staging.observations o
            where (o.stream = %(source)s or starts_with(o.stream, %(source)s || '.'))
              and (
                  not o.latest
                  and exists (
                      select from staging.observations n join ops.fetch_runs r on r.fetch_run_id = n.valid_from_run
                      where n.record_id = o.record_id and n.observed_at > o.observed_at
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

        gone as (
            delete from staging.observations o using doomed where o.observation_id = doomed.observation_id returning 1
        )

        select count(*) as removed, count(*) as taken from gone
    """,
    "quarantine entries": """
        with gone as (
            delete from staging.quarantine
            where quarantine_id = any(array(
                select quarantine_id from staging.quarantine
                where (stream = %(source)s or starts_with(stream, %(source)s || '.'))
                  and closed_at < now() - make_interval(days => %(quarantine_days)s)
                limit %(batch)s))
            returning 1
        )

        select count(*) as removed, count(*) as taken from gone
    """,
}

DOOMED = sql.SQL("create temp table doomed as select payload_id from staging.payloads p where {unnamed}").format(
    unnamed=stage_bodies.UNREFERENCED
)

BODIES = sql.SQL("""
with taken as (
    delete from doomed where ctid = any(array(select ctid from doomed limit %(batch)s)) returning payload_id
),

gone as (
    delete from staging.payloads p using taken where p.payload_id = taken.payload_id and {unnamed} returning 1
)

select (select count(*) from gone) as removed, (select count(*) from taken) as taken
""").format(unnamed=stage_bodies.UNREFERENCED)

TEXTS = """
with gone as (
    delete from ops.sql s
    where not exists (
        select from ops.fetch_runs r cross join jsonb_each_text(r.stats -> 'sql') as e where e.value = s.digest)
    returning 1
)

select count(*) as removed, 0 as taken from gone
"""

DAGSTER = ["event_logs", "job_ticks", "runs"]

OF_DAGSTER = {
    # What has an asset's key tells which of its partitions there are.
    "dagster events": """
        with gone as (
            delete from event_logs
            where id = any(array(
                select e.id from event_logs e left join runs r using (run_id)
                where e.asset_key is null
                  and e.timestamp < now() at time zone 'utc' - make_interval(days => %(events_days)s)
                  and coalesce(r.status in ('SUCCESS', 'FAILURE', 'CANCELED'), true)
                limit %(batch)s))
            returning 1
        )

        select count(*) as removed, count(*) as taken from gone
    """,
    # A sensor goes on from its last one.
    "dagster ticks": """
        with gone as (
            delete from job_ticks
            where id = any(array(
                select t.id from job_ticks t
                where t.timestamp < now() at time zone 'utc' - make_interval(days => %(events_days)s)
                  and exists (select from job_ticks n where n.selector_id = t.selector_id and n.timestamp > t.timestamp)
                limit %(batch)s))
            returning 1
        )

        select count(*) as removed, count(*) as taken from gone
    """,
}
