"""Making a landing visible: bodies get names, in one short transaction under the source's lock.

Each arrival is judged against the record's latest version: created, updated, unchanged; a duplicate or superseded in
its own run; or late, when what staging holds is newer. A record that a complete listing no longer tells gets a
tombstone. An unchanged record is noted as seen once a day, so that what was fetched in between and lands later is
late. Versions, observations, quarantine, marks and ledger show together. Belongs here: staging.versions,
staging.observations. Not: bodies (`landing`), not what is gone (`completeness`).
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg import sql

from pipelines import failpoints, quarantine
from pipelines.landing.schema_drift import Drift
from pipelines.ledger import Counts, Run
from pipelines.warehouse import locks

MANY = 1_000
"""Of so many arrivals the space is given back at once: the next landing needs it before autovacuum comes by."""


@dataclass
class Outcome:
    """What a landing brings beside its arrivals.

    refused: digests of bodies that could not be stored. drift: the paths that its bodies have. gone: the latest
    versions of records that the source no longer has, each with the request that says so; gone_at: when it was asked.
    cursors: where this run began and where the next one does. mends: the quarantine entry that the arrivals are mended
    bytes of.
    """

    fetched: int
    refused: list[bytes]
    stats: dict[str, Any]
    drift: Drift
    gone_at: datetime
    gone: list[tuple[int, str]] = field(default_factory=list)
    cursor_from: dict[str, Any] | None = None
    cursor_to: dict[str, Any] | None = None
    mends: int | None = None


def publish(run: Run, outcome: Outcome) -> None:
    """Publishes what `staging.arrivals` and `staging.rejects` hold of the run, less what was refused."""
    connection = run.connection
    parameters = {"source": run.source, "partition": run.partition, "run": run.id}
    with connection.transaction():
        connection.execute(
            "delete from staging.arrivals where fetch_run_id = %s and digest = any(%s)", [run.id, outcome.refused]
        )
        failpoints.reached("publish.refused")
        locks.acquire_for_transaction(connection, locks.landing(run.source))
        failpoints.reached("publish.locked")
        fetched = outcome.fetched - _leave_out_erased(run, outcome)
        connection.execute(JUDGE, parameters)
        failpoints.reached("publish.judged")
        counted = connection.execute("select verdict, count(*) as number from judged group by verdict").fetchall()
        verdicts = {row["verdict"]: row["number"] for row in counted}
        deleted = _bury(run, outcome)
        failpoints.reached("publish.buried")
        if verdicts.keys() - {"unchanged", "duplicate", "counted"}:
            connection.execute(RETIRE)
            failpoints.reached("publish.retired")
            connection.execute(NAME, parameters)
            failpoints.reached("publish.named")
        if deleted and (renamed := connection.execute(RENAME, parameters).rowcount):
            outcome.stats["renamed"] = renamed
            failpoints.reached("publish.renamed")
        connection.execute(SUPERSEDE)
        failpoints.reached("publish.superseded")
        connection.execute(OBSERVE, parameters)
        failpoints.reached("publish.observed")
        if "counted" in verdicts:
            connection.execute(TRY_AGAIN)
            failpoints.reached("publish.try_again")
        if connection.execute("select from judged where news and not newest limit 1").rowcount:
            for number, statement in enumerate(TOLD_AGAIN):
                connection.execute(statement, parameters)
                failpoints.reached("publish.told_again", str(number))
        connection.execute(SEEN_AGAIN, parameters)
        failpoints.reached("publish.seen_again")
        connection.execute(COUNTED_AGAIN, parameters)
        failpoints.reached("publish.counted_again")
        quarantine.keep_payloads(run)
        failpoints.reached("publish.quarantined")
        quarantine.close_landed(run)
        failpoints.reached("publish.landed")
        if outcome.mends is not None and verdicts:
            quarantine.close_mended(run, outcome.mends)
            failpoints.reached("publish.mended")
        if drifted := outcome.drift.keep(verdicts.get("created", 0) + verdicts.get("updated", 0)):
            outcome.stats["drift"] = drifted
        failpoints.reached("publish.drift")
        counts = Counts(
            fetched=fetched,
            created=verdicts.get("created", 0),
            updated=verdicts.get("updated", 0) + verdicts.get("counted", 0),
            unchanged=verdicts.get("unchanged", 0),
            deleted=deleted,
            quarantined=fetched - sum(verdicts.values()),
            duplicates=sum(verdicts.get(name, 0) for name in ("duplicate", "superseded", "late")),
        )
        forget(run)
        run.publish(counts, outcome.stats, cursor_from=outcome.cursor_from, cursor_to=outcome.cursor_to)
        failpoints.reached("publish.closed")
    failpoints.reached("publish.committed")
    if outcome.fetched >= MANY:
        connection.execute("vacuum (skip_locked) staging.arrivals")


def _leave_out_erased(run: Run, outcome: Outcome) -> int:
    """Skips what is told of records that were erased; how many payloads."""
    erased = sum(run.connection.execute(statement, {"run": run.id}).rowcount for statement in LEAVE_OUT)
    if erased:
        outcome.stats["skipped"] = outcome.stats.get("skipped", {}) | {"erased before": erased}
    return erased


def _bury(run: Run, outcome: Outcome) -> int:
    """Gives tombstones to what is gone, unless it has come back meanwhile; how many."""
    if not outcome.gone:
        return 0
    return run.connection.execute(
        BURY,
        {
            "gone": [version_id for version_id, _ in outcome.gone],
            "requests": [request for _, request in outcome.gone],
            "at": outcome.gone_at,
            "partition": run.partition,
            "run": run.id,
        },
    ).rowcount


def forget(run: Run) -> None:
    """Takes away what a landing kept for its own resumption."""
    for name in ("arrivals", "rejects", "checkpoints"):
        run.connection.execute(
            sql.SQL("delete from staging.{} where fetch_run_id = %s").format(sql.Identifier(name)), [run.id]
        )
        failpoints.reached("publish.forgotten", name)


LEAVE_OUT = (
    # Lifted while the landing was under way: its body was not stored.
    """
    delete from staging.arrivals a using staging.erasures e
    where a.fetch_run_id = %(run)s and e.record_id = ops.key(a.stream, a.external_id)
      and (e.lifted_at is null or not exists (select from staging.payloads p where p.digest = a.digest))
    """,
    """
    delete from staging.rejects k using staging.erasures e
    where k.fetch_run_id = %(run)s and e.record_id = ops.key(k.stream, k.external_id) and e.lifted_at is null
    """,
)

JUDGE = """
create temp table judged on commit drop as
with ranked as (
    select a.*, ops.key(a.stream, a.external_id) as record_id,
        first_value(digest) over winners as winning_digest, row_number() over winners as place
    from staging.arrivals a
    where a.fetch_run_id = %(run)s
    window winners as (partition by stream, external_id order by version_at desc, sequence desc)
),

compared as (
    select r.*, l.version_id as latest_id, l.observation_id as latest_observation_id,
        r.place = 1 and r.counters_digest is not null and l.counted_before is distinct from r.counters_digest as news,
        l.seen_at is null or r.fetched_at >= l.seen_at as newest,
        case
            when r.place > 1 and r.digest = r.winning_digest then 'duplicate'
            when r.place > 1 then 'superseded'
            when l.version_id is null then 'created'
            when l.payload_id is null and r.fetched_at > l.fetched_at then 'created'
            when l.digest = r.digest then 'unchanged'
            when l.payload_id is null or r.version_at < l.version_at then 'late'
            else 'updated'
        end as verdict
    from ranked r
    left join lateral (
        select v.version_id, v.payload_id, v.digest, v.version_at, v.fetched_at, o.observation_id, o.seen_at,
            case
                when o.observed_at <= r.fetched_at then o.digest
                else (
                    select e.digest from staging.observations e
                    where e.record_id = r.record_id and e.observed_at <= r.fetched_at
                    order by e.observed_at desc limit 1)
            end as counted_before
        from staging.versions v
        left join staging.observations o on o.record_id = v.record_id and o.latest
        where v.record_id = r.record_id and v.latest
    ) as l on true
)

select sequence, stream, external_id, record_id, digest, version_at, fetched_at, request, latest_id,
    latest_observation_id, counters_digest, counters, paths, news, newest,
    case when verdict = 'unchanged' and news then 'counted' else verdict end as verdict
from compared
"""

BURY = """
with buried as (
    update staging.versions v set latest = false
    from unnest(%(gone)s::bigint[], %(requests)s::text[]) as g (version_id, request)
    where v.version_id = g.version_id and v.latest
      and not exists (select from judged j where j.record_id = v.record_id)
    returning v.stream, v.external_id, v.record_id, v.version_at, g.request
)
insert into staging.versions
    (stream, external_id, record_id, version_at, fetched_at, request, partition_key, landed_run, latest)
select stream, external_id, record_id, greatest(version_at, %(at)s), %(at)s, request, %(partition)s, %(run)s, true
from buried
order by external_id
"""

RENAME = """
with came as (
    select version_id, digest, row_number() over (partition by digest order by external_id) as number
    from staging.versions
    where landed_run = %(run)s and latest and record_id in (select record_id from judged where verdict = 'created')
),

gone as (
    select t.record_id, o.digest, row_number() over (partition by o.digest order by t.external_id) as number
    from staging.versions t
    cross join lateral (
        select v.digest from staging.versions v
        where v.record_id = t.record_id and v.digest is not null
        order by v.version_id desc limit 1
    ) as o
    where t.landed_run = %(run)s and t.latest and t.digest is null
)

update staging.versions v set renamed_from = g.record_id
from came c join gone g using (digest, number)
where v.version_id = c.version_id
"""

RETIRE = """
update staging.versions v set latest = false
from judged j
where v.version_id = j.latest_id and j.verdict in ('created', 'updated')
"""

NAME = """
insert into staging.versions
    (stream, external_id, record_id, payload_id, digest, version_at, fetched_at, request,
     partition_key, landed_run, latest)
select j.stream, j.external_id, j.record_id, p.payload_id, j.digest, j.version_at, j.fetched_at, j.request,
    %(partition)s, %(run)s, j.verdict in ('created', 'updated')
from (
    select distinct on (record_id, digest) *
    from judged
    where verdict in ('created', 'updated')
       or verdict in ('superseded', 'late') and not exists (
           select from staging.versions v where v.record_id = judged.record_id and v.digest = judged.digest)
    order by record_id, digest, verdict not in ('created', 'updated'), version_at desc, sequence desc
) as j
cross join lateral (
    select payload_id from staging.payloads where digest = j.digest
    order by (counters_digest is null) = (j.counters_digest is null) desc, payload_id limit 1
) as p
order by j.sequence
"""

SEEN_AGAIN = """
update staging.versions v set version_at = j.version_at
from judged j
where v.version_id = j.latest_id and j.verdict in ('unchanged', 'counted')
  and v.version_at < j.version_at and v.version_at < %(partition)s::date
"""

SUPERSEDE = """
update staging.observations o set latest = false
from judged j
where o.observation_id = j.latest_observation_id and j.news and j.newest
"""

OBSERVE = """
insert into staging.observations
    (stream, record_id, digest, counters, paths, observed_at, seen_at, request, partition_key, landed_run, latest)
select stream, record_id, counters_digest, counters, paths, fetched_at, fetched_at, request, %(partition)s, %(run)s,
    newest
from judged
where news
order by sequence
on conflict (record_id, observed_at) do update set
    digest = excluded.digest, counters = excluded.counters, paths = excluded.paths, request = excluded.request,
    landed_run = excluded.landed_run, latest = excluded.latest, valid_from_run = null
"""

TRY_AGAIN = """
update staging.versions v set attempted_sql = null -- with other counters a SELECT may no longer fail
from judged j where v.version_id = j.latest_id and j.verdict = 'counted' and j.news and j.newest
  and v.applied_sql is null and v.attempted_sql is not null
"""

TOLD_AGAIN = (
    # What had been told before, and was told again after what comes late now, is told twice.
    """
    create temp table told_again on commit drop as
    select e.* from judged j
    cross join lateral (
        select * from staging.observations o
        where o.record_id = j.record_id and o.observed_at < j.fetched_at
        order by o.observed_at desc limit 1
    ) as e
    where j.news and e.seen_at > j.fetched_at
    """,
    """
    update staging.observations o set seen_at = o.observed_at, latest = false
    from told_again t where o.observation_id = t.observation_id
    """,
    """
    insert into staging.observations
        (stream, record_id, digest, counters, paths, observed_at, seen_at, request, partition_key, landed_run, latest)
    select stream, record_id, digest, counters, paths, seen_at, seen_at, request, %(partition)s, %(run)s, latest
    from told_again
    """,
)

COUNTED_AGAIN = """
update staging.observations o set seen_at = j.fetched_at
from judged j
where o.observation_id = j.latest_observation_id and o.digest = j.counters_digest
  and o.seen_at < j.fetched_at and o.seen_at < %(partition)s::date
"""
