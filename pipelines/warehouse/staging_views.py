"""The view of effective versions, and the function that returns pending ones.

    staging.versions, staging.observations ──> effective_versions · pending_versions(code)

Both are single SELECTs, so PostgreSQL inlines them in the queries that read them and uses the tables' indexes. Belongs
here: states of a version that several packages ask for. Not: versions at an earlier run (`lineage.snapshots`).
"""

from pipelines.warehouse.objects import function, view
from pipelines.warehouse.staging_tables import versions

EFFECTIVE_VERSIONS = """-- One row per record that a domain's tables are derived from.
select * from staging.versions
where valid_from_run is not null and valid_to_run is null"""

PENDING_VERSIONS = """create or replace function staging.pending_versions(code text default null) returns table (
    version_id bigint, record_id uuid, stream text, external_id text, payload_id uuid, partition_key text
) language sql stable parallel safe as $$
    -- Two ranges, because no index serves <>.
    select v.version_id, v.record_id, v.stream, v.external_id, v.payload_id, v.partition_key
    from staging.versions v
    where v.latest and (v.attempted_sql is null or v.attempted_sql < code or v.attempted_sql > code)
    union all
    -- The partition of the new observation.
    select v.version_id, v.record_id, o.stream, v.external_id, v.payload_id, o.partition_key
    from staging.observations o
    join staging.versions v on v.record_id = o.record_id and v.latest
    where o.valid_from_run is null
      and v.valid_from_run is not null and v.payload_id is not null
      and (v.applied_sql is not null or v.attempted_sql is null)
$$"""

view(
    "staging.effective_versions",
    EFFECTIVE_VERSIONS,
    "Effective versions: the one version of each record that the tables of its domain are derived from, or a tombstone",
    {column.name: str(column.comment) for column in versions.columns},
)
function(
    "staging.pending_versions(text)",
    PENDING_VERSIONS,
    "Latest versions to which SELECT files of the digest code were not applied, and latest versions with new counters; "
    "without code: those to which none was applied",
)
