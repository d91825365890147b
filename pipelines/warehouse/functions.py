"""Functions and views of `ops` and `staging`: what SELECT files share, and the states of a version.

    staging.versions, observations ──> effective_versions · effective_versions_after(seq) · pending_versions(code)

Each state of a version is a single SELECT, so PostgreSQL inlines it in the queries that read it and uses the indexes of
the tables. Belongs here: what several packages or SELECT files ask for. Not here: SQL made from domains (`trace_view`).
"""

from pipelines.warehouse.objects import function, view
from pipelines.warehouse.staging_tables import versions

for arity in range(1, 7):
    names = "abcdef"[:arity]
    function(
        f"ops.key({', '.join(['text'] * arity)})",
        f"""create or replace function ops.key({", ".join(f"{name} text" for name in names)})
returns uuid language sql immutable parallel safe
return md5({" || ',' || ".join(f"quote_nullable({name})" for name in names)})::uuid""",
        "Surrogate key of a natural key: md5 of an unambiguous join, as uuid",
    )

function(
    "ops.tag_name(text)",
    """create or replace function ops.tag_name(name text)
returns text language sql immutable parallel safe
return trim(both '_' from regexp_replace(lower(normalize(name, nfkc) collate pg_c_utf8), '[\\s_]+', '_', 'g'))""",
    "A tag as every source spells it: NFKC, lower case, trimmed, runs of spaces and underscores as one underscore",
)

function(
    "ops.rating_visible(text)",
    """create or replace function ops.rating_visible(rating text)
returns boolean language sql stable parallel safe
return rating = any (string_to_array(
    replace(coalesce(nullif(current_setting('atlas.ratings', true), ''), 'Safe'), ' ', ''), ','))""",
    "Whether rows of a rating are visible: Safe, or the ratings that the setting atlas.ratings lists, by commas",
)

function(
    "ops.restore_volatile_fields(jsonb, jsonb, jsonb)",
    """create or replace function ops.restore_volatile_fields(body jsonb, counters jsonb, paths jsonb)
returns jsonb language plpgsql immutable parallel safe as $$
declare
    path text[];
begin
    for path in
        select array(select jsonb_array_elements_text(p.steps)) from jsonb_array_elements(paths) as p (steps)
    loop
        body := jsonb_set(body, path, counters #> path, false);
    end loop;
    return body;
end $$""",
    "A payload with the values of an observation at its volatile paths",
)

view(
    "staging.effective_versions",
    """-- One row per record that a domain's tables are derived from.
select * from staging.versions
where valid_from_run is not null and valid_to_run is null""",
    "Effective versions: the one version of each record that the tables of its domain are derived from, or a tombstone",
    {column.name: str(column.comment) for column in versions.columns},
)

function(
    "staging.effective_versions_after(bigint)",
    """create or replace function staging.effective_versions_after(
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
$$""",
    "The versions, but no tombstones, that were effective after the run with this publish_seq, or are effective now; "
    "each with the run and the SELECT files (digests by path) that derived its rows",
)

function(
    "staging.pending_versions(text)",
    """create or replace function staging.pending_versions(code text default null) returns table (
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
$$""",
    "Latest versions with new counters, and those to which SELECT files of the digest code were not applied; "
    "without code: those to which none was applied",
)
