"""The states of a version: effective now, effective after a run, pending.

    staging.versions, observations ──> effective_versions · effective_versions_after(seq) · pending_versions(code)

All are single SELECTs, so PostgreSQL inlines them in the queries that read them and uses the indexes of the tables.
Belongs here: states of a version that several packages ask for. Not: what is done with the versions.
"""

from pipelines.warehouse.objects import function, view
from pipelines.warehouse.staging_tables import versions

EFFECTIVE_VERSIONS = """-- One row per record that a domain's tables are derived from.
select * from staging.versions
where valid_from_run is not null and valid_to_run is null"""

EFFECTIVE_VERSIONS_AFTER = """create or replace function staging.effective_versions_after(
    seq bigint default 9223372036854775807
) returns table (
    version_id bigint, record_id uuid, payload_id uuid, stream text, external_id text, digest text, request text,
    fetched_at timestamptz, landed_run uuid, derived_run uuid, sql jsonb
) language sql stable parallel safe as $$
    select v.version_id, v.record_id, v.payload_id, v.stream, v.external_id, encode(v.digest, 'hex'), v.request,
        v.fetched_at, v.landed_run, applied.fetch_run_id, applied.stats -> 'sql'
    from staging.versions v
    join ops.fetch_runs f on f.fetch_run_id = v.valid_from_run and f.publish_seq <= seq
    left join ops.fetch_runs t on t.fetch_run_id = v.valid_to_run
    cross join lateral (
        select r.fetch_run_id, r.stats from ops.fetch_runs r
        where r.publish_seq <= seq
          and r.fetch_run_id = any(array(
              select v.valid_from_run union all
              select a.fetch_run_id from staging.reapplied_versions a where a.version_id = v.version_id))
        order by r.publish_seq desc limit 1
    ) as applied
    where v.payload_id is not null and (t.publish_seq is null or t.publish_seq > seq)
$$"""

PENDING_VERSIONS = """create or replace function staging.pending_versions(code text default null) returns table (
    version_id bigint, record_id uuid, stream text, external_id text, payload_id uuid, partition_key text
) language sql stable parallel safe as $$
    -- Two ranges, because no index serves <>.
    select v.version_id, v.record_id, v.stream, v.external_id, v.payload_id, v.partition_key
    from staging.versions v
    where v.latest and (v.applied_sql is null or v.applied_sql < code or v.applied_sql > code)
    union all
    -- The partition of the new observation.
    select v.version_id, v.record_id, o.stream, v.external_id, v.payload_id, o.partition_key
    from staging.observations o
    join staging.versions v on v.record_id = o.record_id and v.latest
    where o.valid_from_run is null and v.valid_from_run is not null and v.payload_id is not null
$$"""

view(
    "staging.effective_versions",
    EFFECTIVE_VERSIONS,
    "Effective versions: the one version of each record that the tables of its domain are derived from, or a tombstone",
    {column.name: str(column.comment) for column in versions.columns},
)
function(
    "staging.effective_versions_after(bigint)",
    EFFECTIVE_VERSIONS_AFTER,
    "The versions, but no tombstones, that were effective after the run with this publish_seq, or are effective now; "
    "each with the run and the SELECT files (digests by path) that derived its rows",
)
function(
    "staging.pending_versions(text)",
    PENDING_VERSIONS,
    "Latest versions to which SELECT files of the digest code were not applied, and latest versions with new counters; "
    "without code: those to which none was applied",
)
