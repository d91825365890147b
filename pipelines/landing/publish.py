"""Publishes a landing in one transaction: versions, observations, tombstones, quarantine, drift and the ledger row.

    staging.arrivals ──CLASSIFY──> classified ──> staging.versions, staging.observations
    staging.rejects ───────────────────────────> staging.quarantine

The lock of the source makes its landings publish one after another. Not here: bodies (`stage_bodies`), which records
are deleted (`deletions`).
"""

from typing import Any

import msgspec

from pipelines.landing import deletions, schema_drift
from pipelines.landing.deletions import Missing
from pipelines.landing.intake import Intake, Progress, discard
from pipelines.ledger import Counts, Run
from pipelines.source import Stream
from pipelines.warehouse import locks

VACUUM_FROM = 1_000  # so many arrivals are vacuumed at once: the next landing needs the space before autovacuum runs


def publish(
    run: Run,
    stream: Stream,
    intake: Intake,
    progress: Progress,
    missing: Missing,
    cursors: dict[str, Any] | None,
    replaces_entry: int | None,
) -> None:
    """Publishes the rows that staging.arrivals and staging.rejects hold of the run, and closes the run.

    missing: records that full scans lack. cursors: those to start from next time, if the run moved one.
    replaces_entry: the quarantine entry whose payload the arrivals replace.
    """
    connection = run.connection
    parameters = {"run": run.id, "stream": run.stream, "partition": run.partition, "entry": replaces_entry}
    parameters |= {**vars(missing), "scanned_at": progress.started_at}
    stats: dict[str, Any] = {"mode": intake.mode, **intake.request_options}
    stats |= {name: getattr(progress, name) for name in ("bytes", "bodies", "skipped", "repaired")}
    stats["unfetched"] = len(set(progress.unfetched))
    stats["notes"] = {name: number for name, number in sorted(intake.notes.items()) if number}
    with connection.transaction():
        locks.acquire_for_transaction(connection, locks.landing(stream.source.name))
        erased = sum(connection.execute(statement, parameters).rowcount for statement in DELETE_ERASED)
        if erased:
            stats["skipped"] = progress.skipped | {"erased before": erased}
        connection.execute(CLASSIFY, parameters)
        counted = connection.execute("select result, count(*) as number from classified group by result")
        results = {row["result"]: row["number"] for row in counted}
        tombstones = connection.execute(deletions.INSERT_TOMBSTONES, parameters).rowcount
        for statement in PUBLISH:
            connection.execute(statement, parameters)
        if stream.source.kind == "folder" and results.get("created"):
            stats["renamed"] = deletions.set_identities(connection, parameters, tombstones)
        if drift := schema_drift.record(run, stream):
            stats["drift"] = msgspec.to_builtins(drift)
        (rejected,) = connection.execute(UPSERT_REJECTED, parameters)
        stats["values"] = rejected["values"]
        connection.execute(CLOSE_LANDED, parameters)
        discard(run)
        counts = _counts(results, progress.fetched - erased, tombstones)
        run.close(counts, stats, cursor_from=dict(intake.cursors), cursor_to=cursors)
    if progress.fetched >= VACUUM_FROM:
        connection.execute("vacuum (skip_locked) staging.arrivals")


def _counts(results: dict[str, int], fetched: int, deleted: int) -> Counts:
    return Counts(
        fetched=fetched,
        created=results.get("created", 0),
        updated=results.get("updated", 0),
        observed=results.get("observed", 0),
        unchanged=results.get("unchanged", 0),
        deleted=deleted,
        quarantined=fetched - sum(results.values()),
        duplicates=sum(results.get(name, 0) for name in ("duplicate", "superseded", "late")),
    )


DELETE_ERASED = (
    # If the erasure was lifted during the landing, the body was not stored.
    """
    delete from staging.arrivals a using staging.erasures e
    where a.fetch_run_id = %(run)s and e.record_id = ops.key(a.stream, a.external_id)
      and (e.lifted_at is null or not exists (select from staging.payloads p where p.digest = a.digest))
    """,
    """
    delete from staging.rejects r using staging.erasures e
    where r.fetch_run_id = %(run)s and e.record_id = ops.key(r.stream, r.external_id) and e.lifted_at is null
    """,
)

CLASSIFY = """
create temp table classified on commit drop as
with ranked as (
    select a.*, ops.key(a.stream, a.external_id) as record_id,
        first_value(digest) over latest_first as last_digest, row_number() over latest_first as rank
    from staging.arrivals a
    where a.fetch_run_id = %(run)s
    window latest_first as (partition by stream, external_id order by sequence desc)
),

compared as (
    select r.*, l.version_id as latest_id, l.counters_digest as newest_counters,
        coalesce(r.received_at < greatest(l.observed_at - interval '1 millisecond', l.received_at), false) as late,
        case
            when r.rank > 1 and r.digest = r.last_digest then 'duplicate'
            when r.rank > 1 then 'superseded'
            when l.version_id is null then 'created'
            when l.digest = r.digest then 'unchanged'
            when r.received_at < l.received_at then 'late'
            when l.payload_id is null then 'created'
            else 'updated'
        end as result
    from ranked r
    left join lateral (
        select v.version_id, v.payload_id, b.digest, coalesce(v.confirmed_at, v.received_at) as received_at,
            o.observed_at, o.digest as counters_digest
        from staging.versions v
        left join staging.payloads b using (payload_id)
        left join lateral (
            select observed_at, digest from staging.observations
            where record_id = v.record_id and not late order by observation_id desc limit 1
        ) as o on true
        where v.record_id = r.record_id and v.latest
    ) as l on true
),

observed as (
    select c.*, greatest(c.received_at, t.last_at + interval '1 microsecond') as observed_at,
        c.rank = 1 and c.counters_digest is not null and t.known is not true and c.counters_digest is distinct from case
            when late then (
                select o.digest from staging.observations o
                where o.record_id = c.record_id and o.observed_at <= c.received_at
                order by o.observed_at desc limit 1)
            else newest_counters
        end as counters_changed
    from compared c
    cross join lateral ( -- observations of one time are stored a microsecond apart
        select max(observed_at) as last_at, bool_or(digest = c.counters_digest) as known from staging.observations
        where record_id = c.record_id and observed_at between c.received_at and c.received_at + interval '1 millisecond'
    ) as t
)

select sequence, stream, external_id, record_id, digest, received_at, request, latest_id,
    counters_digest, counters, paths, counters_changed, late, observed_at,
    case when result = 'unchanged' and counters_changed then 'observed' else result end as result
from observed
"""
"""Makes `classified`, a row an arrival with its result:

    created, updated   it becomes the latest version of its record
    unchanged          the latest version has the same digest
    observed           as unchanged, but its volatile fields changed
    duplicate          the run has the same body again
    superseded         the run has a later, different body of the record
    late               the latest version was received later, for the first time or again
"""

CLEAR_LATEST = """
update staging.versions v set latest = false
from classified c
where v.version_id = c.latest_id and c.result in ('created', 'updated')
"""

INSERT_VERSIONS = """
insert into staging.versions
    (stream, external_id, record_id, identity, payload_id, received_at, request, partition_key, landed_run, latest)
select c.stream, c.external_id, c.record_id,
    (select identity from staging.versions where version_id = c.latest_id),
    p.payload_id, c.received_at, c.request, %(partition)s, %(run)s, c.result in ('created', 'updated')
from (
    select distinct on (record_id, digest) *
    from classified
    where result in ('created', 'updated')
       or result = 'superseded' and not exists (
           select from staging.versions v join staging.payloads b using (payload_id)
           where v.record_id = classified.record_id and b.digest = classified.digest)
       or result = 'late' and classified.digest is distinct from (
           select b.digest from staging.versions v left join staging.payloads b using (payload_id)
           where v.record_id = classified.record_id and v.received_at <= classified.received_at
           order by v.received_at desc, v.version_id desc limit 1)
    order by record_id, digest, result not in ('created', 'updated'), sequence desc
) as c
cross join lateral (
    select payload_id from staging.payloads where digest = c.digest
    order by (counters_digest is null) = (c.counters_digest is null) desc, payload_id limit 1
) as p
order by c.sequence
"""

INSERT_OBSERVATIONS = """
insert into staging.observations
    (stream, record_id, digest, counters, paths, observed_at, request, partition_key, landed_run, late)
select stream, record_id, counters_digest, counters, paths, observed_at, request, %(partition)s, %(run)s, late
from classified
where counters_changed
order by sequence
on conflict (record_id, observed_at) do nothing -- of more than a thousand of one time, the first ones
"""
"""In order of arrival. In force is the newest one that was not late when it arrived."""

CONFIRM_UNCHANGED = """
update staging.versions v
set confirmed_at = c.received_at, missing_at = case when v.missing_at > c.received_at then v.missing_at end
from classified c
where v.version_id = c.latest_id and c.result in ('unchanged', 'observed')
  and coalesce(v.confirmed_at, v.received_at) < c.received_at
  and (c.counters_changed or v.missing_at is not null
      or coalesce(v.confirmed_at, v.received_at) < date_trunc('day', c.received_at, 'UTC')
      or exists (
          select from ops.fetch_runs r
          where r.stream = %(stream)s and r.kind = 'land' and r.status in ('in_progress', 'failed')
            and r.fetch_run_id <> %(run)s and r.started_at > coalesce(v.confirmed_at, v.received_at)))
"""
"""Notes when unchanged versions were received again: once a day, when their volatile fields changed, where a full scan
lacked them, and where another landing began since, which must not take them for deleted. A version received in between
that lands later is then late.
"""

PUBLISH = (CLEAR_LATEST, INSERT_VERSIONS, INSERT_OBSERVATIONS, CONFIRM_UNCHANGED, deletions.SET_MISSING_AT)

UPSERT_REJECTED = """
with rejected as (
    select r.*,
        ops.key(coalesce(external_id, ''), case granularity when 'payload' then encode(digest, 'hex') else path end)
            as identity
    from staging.rejects r
    where r.fetch_run_id = %(run)s and (r.granularity = 'payload' or exists (
        select from classified c
        where c.sequence = r.sequence and c.result in ('created', 'updated', 'unchanged', 'observed')))
),

upserted as (
    insert into staging.quarantine
        (stage, granularity, stream, partition_key, external_id, record_id, request, received_at, reason, detail, path,
         byte_offset, digest, bytes, first_run, opened_run, last_run)
    select
        'land', granularity, stream, %(partition)s, external_id,
        case when external_id is not null then ops.key(stream, external_id) end, request, received_at,
        reason, detail, path, byte_offset, digest, bytes, %(run)s, %(run)s, %(run)s
    from (
        select distinct on (granularity, stream, identity) * from rejected order by granularity, stream, identity, place
    ) as r
    order by place
    on conflict (entry_key) do update set
        reason = excluded.reason, detail = excluded.detail, path = excluded.path, byte_offset = excluded.byte_offset,
        digest = excluded.digest,
        bytes = case when quarantine.digest = excluded.digest then quarantine.bytes else excluded.bytes end,
        opened_run = case when quarantine.closed_at is null then quarantine.opened_run else excluded.opened_run end,
        last_run = excluded.last_run, last_at = now(),
        received_at = greatest(quarantine.received_at, excluded.received_at),
        partition_key = greatest(quarantine.partition_key, excluded.partition_key),
        seen = quarantine.seen + 1, closed_run = null, closed_at = null
)

select count(*) filter (where granularity = 'value') as values from rejected
"""
"""Returns how many values are rejected of payloads that land. Those of a payload that is not the newest do not count.
"""

CLOSE_LANDED = """
update staging.quarantine q set closed_run = %(run)s, closed_at = now()
from (
    select stream, record_id, digest, received_at, result from classified
    union all
    select stream, record_id, null, received_at, 'deleted' from staging.versions where version_id = any(%(deleted)s)
) as c
where q.stage = 'land' and q.stream = c.stream and q.closed_at is null and q.last_run <> %(run)s
  and (
      q.granularity = 'payload' and q.digest = c.digest and coalesce(q.record_id, c.record_id) = c.record_id
      or q.record_id = c.record_id and q.received_at <= c.received_at
          and c.result in ('created', 'updated', 'unchanged', 'observed')
      or q.granularity = 'value' and q.record_id = c.record_id and c.result = 'deleted'
      or q.quarantine_id = %(entry)s and coalesce(q.record_id, c.record_id) = c.record_id)
"""
