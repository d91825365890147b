"""Versions and observations of records: what each arrival is, compared with the latest version of its record.

    staging.arrivals ──classify──> classified ──> staging.versions, staging.observations

The result of an arrival is one of
    created, updated   it becomes the latest version
    unchanged          the latest version has the same digest
    observed           as unchanged, but its volatile fields changed
    duplicate          the run has the same body again
    superseded         the run has a later, different body of the record
    late               the latest version is newer, or was received again since
Observations are the volatile fields, a row each time they changed, in order of arrival. In force is the newest one that
was not late when it arrived. Not here: tombstones (`deletions`), how volatile fields are split off (`volatile_fields`).
"""

from pipelines.ledger import Run


def classify(run: Run) -> dict[str, int]:
    """Creates `classified`, a row an arrival with its result; returns the number of arrivals by result."""
    run.connection.execute(CLASSIFY, {"run": run.id})
    counts = run.connection.execute("select result, count(*) as number from classified group by result")
    return {row["result"]: row["number"] for row in counts}


def insert_versions(run: Run) -> None:
    """Inserts a version for each body that the record does not have, and makes the created and updated ones latest."""
    run.connection.execute(CLEAR_LATEST)
    run.connection.execute(INSERT_VERSIONS, {"partition": run.partition, "run": run.id})


def insert_observations(run: Run) -> None:
    """Inserts an observation for each arrival whose volatile fields changed."""
    run.connection.execute(INSERT_OBSERVATIONS, {"partition": run.partition, "run": run.id})


def confirm_unchanged(run: Run) -> None:
    """Notes when unchanged versions were received again: once a day, when their volatile fields changed, and where
    another landing began since, which must not take them for deleted.

    A version that is fetched in between and lands later is then late.
    """
    run.connection.execute(CONFIRM_UNCHANGED, {"partition": run.partition, "source": run.source, "run": run.id})


CLASSIFY = """
create temp table classified on commit drop as
with ranked as (
    select a.*, ops.key(a.stream, a.external_id) as record_id,
        first_value(digest) over latest_first as last_digest, row_number() over latest_first as rank
    from staging.arrivals a
    where a.fetch_run_id = %(run)s
    window latest_first as (partition by stream, external_id order by version_at desc, sequence desc)
),

compared as (
    select r.*, l.version_id as latest_id, l.counters_digest as newest_counters,
        coalesce(r.fetched_at < greatest(l.observed_at - interval '1 millisecond', l.received_at), false) as late,
        case
            when r.rank > 1 and r.digest = r.last_digest then 'duplicate'
            when r.rank > 1 then 'superseded'
            when l.version_id is null then 'created'
            when l.payload_id is null and r.fetched_at > l.fetched_at then 'created'
            when l.digest = r.digest then 'unchanged'
            when l.payload_id is null or r.version_at < l.version_at or r.fetched_at < l.received_at then 'late'
            else 'updated'
        end as result
    from ranked r
    left join lateral (
        select v.version_id, v.payload_id, v.digest, v.version_at, v.fetched_at,
            coalesce(v.confirmed_at, v.fetched_at) as received_at, o.observed_at, o.digest as counters_digest
        from staging.versions v
        left join lateral (
            select observed_at, digest from staging.observations
            where record_id = v.record_id and not late order by observation_id desc limit 1
        ) as o on true
        where v.record_id = r.record_id and v.latest
    ) as l on true
),

observed as (
    select c.*, greatest(c.fetched_at, t.last_at + interval '1 microsecond') as observed_at,
        c.rank = 1 and c.counters_digest is not null and t.known is not true and c.counters_digest is distinct from case
            when late then (
                select o.digest from staging.observations o
                where o.record_id = c.record_id and o.observed_at <= c.fetched_at
                order by o.observed_at desc limit 1)
            else newest_counters
        end as counters_changed
    from compared c
    cross join lateral ( -- observations of one time are stored a microsecond apart
        select max(observed_at) as last_at, bool_or(digest = c.counters_digest) as known from staging.observations
        where record_id = c.record_id and observed_at between c.fetched_at and c.fetched_at + interval '1 millisecond'
    ) as t
)

select sequence, stream, external_id, record_id, digest, version_at, fetched_at, request, latest_id,
    counters_digest, counters, paths, counters_changed, late, observed_at,
    case when result = 'unchanged' and counters_changed then 'observed' else result end as result
from observed
"""

CLEAR_LATEST = """
update staging.versions v set latest = false
from classified c
where v.version_id = c.latest_id and c.result in ('created', 'updated')
"""

INSERT_VERSIONS = """
insert into staging.versions
    (stream, external_id, record_id, payload_id, digest, version_at, fetched_at, request,
     partition_key, landed_run, latest)
select c.stream, c.external_id, c.record_id, p.payload_id, c.digest, c.version_at, c.fetched_at, c.request,
    %(partition)s, %(run)s, c.result in ('created', 'updated')
from (
    select distinct on (record_id, digest) *
    from classified
    where result in ('created', 'updated')
       or result in ('superseded', 'late') and not exists (
           select from staging.versions v where v.record_id = classified.record_id and v.digest = classified.digest)
    order by record_id, digest, result not in ('created', 'updated'), version_at desc, sequence desc
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

CONFIRM_UNCHANGED = """
update staging.versions v set confirmed_at = c.fetched_at
from classified c
where v.version_id = c.latest_id and c.result in ('unchanged', 'observed')
  and coalesce(v.confirmed_at, v.fetched_at) < c.fetched_at
  and (c.counters_changed or coalesce(v.confirmed_at, v.fetched_at) < %(partition)s::date or exists (
      select from ops.fetch_runs r
      where r.stream = %(source)s and r.kind = 'land' and r.status in ('in_progress', 'failed')
        and r.fetch_run_id <> %(run)s and r.started_at > coalesce(v.confirmed_at, v.fetched_at)))
"""
