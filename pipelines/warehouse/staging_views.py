"""Views that say once which versions are effective and which are pending.

    staging.versions, staging.observations ──> effective_versions · pending_versions

Both are plain selects, so PostgreSQL merges them into the queries that read them and uses the tables' indexes. Belongs
here: states of a version that several packages ask for. Not: versions at an earlier run (`lineage.snapshots`).
"""

from pipelines.warehouse.objects import view

EFFECTIVE_VERSIONS = """-- One row per record that a domain's tables are derived from.
select * from staging.versions
where valid_from_run is not null and valid_to_run is null"""

PENDING_VERSIONS = """-- One row per latest version, and per latest version and new observation of an effective record.
select
    v.version_id,
    v.record_id,
    v.stream,
    v.external_id,
    v.payload_id,
    v.partition_key,
    v.attempted_sql
from staging.versions as v
where v.latest
union all
select
    v.version_id,
    v.record_id,
    o.stream,
    v.external_id,
    v.payload_id,
    o.partition_key,
    null
from staging.observations as o
join staging.versions as v on v.record_id = o.record_id and v.latest
where o.valid_from_run is null
  and v.valid_from_run is not null and v.payload_id is not null
  and (v.applied_sql is not null or v.attempted_sql is null)"""

view(
    "staging.effective_versions",
    EFFECTIVE_VERSIONS,
    "Effective versions: the one version of each record that the tables of its domain are derived from, or a tombstone",
)
view(
    "staging.pending_versions",
    PENDING_VERSIONS,
    "Latest versions by the partition whose transform applies them; pending for SELECT files of another digest than "
    "attempted_sql",
    {
        "partition_key": "Partition of the version, or of the new observation",
        "attempted_sql": "Digest of the SELECT files that the version is not pending for; null: pending for all",
    },
)
