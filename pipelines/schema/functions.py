"""Functions and views of `ops` and `staging`: what SELECT files share, the states of a version, the proof of a row.

    staging.versions, observations ──> effective_versions · effective_versions_after(seq) · pending_versions(code)
    rows of all domains ──record_id──> ops.trace: the effective version of each, with its runs and SELECT file

Each state is a single SELECT, so that PostgreSQL inlines it in the queries that read it and uses the tables' indexes.
"""

from psycopg import sql

from pipelines.schema.declare import metadata
from pipelines.schema.objects import function, view
from pipelines.schema.staging_tables import versions
from pipelines.schema.table_spec import TableSpec

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
    received_at timestamptz, landed_run uuid, derived_run uuid, sql jsonb
) language sql stable parallel safe as $$
    select v.version_id, v.record_id, v.payload_id, v.stream, v.external_id, encode(b.digest, 'hex'), v.request,
        v.received_at, v.landed_run, applied.fetch_run_id, applied.stats -> 'sql'
    from staging.versions v
    join staging.payloads b using (payload_id)
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
    where (t.publish_seq is null or t.publish_seq > seq)
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
    union all
    -- Rows that are pending for a row that an application has changed.
    select v.version_id, v.record_id, v.stream, v.external_id, v.payload_id, v.partition_key
    from staging.changed_rows c
    join staging.pending_rows p on (p.table_name, p.key) = (c.table_name, c.key)
    join staging.versions v on v.record_id = p.record_id and v.latest
$$""",
    "Latest versions with new counters, those with rows that are pending for a row that an application changed, "
    "and those to which SELECT files of the digest code, or without it any, were not applied",
)

TRACE = """-- One row for each row of a domain: what proves it.
select
    k.table_name,
    k.key,
    k.through,
    k.record_id,
    p.stream,
    p.external_id,
    p.version_id,
    p.payload_id,
    p.digest,
    o.observation_id,
    coalesce(o.request, p.request) as request,
    coalesce(o.observed_at, p.received_at) as received_at,
    coalesce(o.landed_run, p.landed_run) as landed_run,
    p.derived_run,
    a.address || '.sql' as sql_path,
    p.sql ->> a.address as sql_digest
from (
{rows}
) as k
left join lateral (select * from staging.effective_versions_after() where record_id = k.record_id) as p on true
left join staging.observations as o on o.record_id = k.record_id and o.observed_at = k.observed_at
cross join lateral (
    select split_part(p.stream, '.', 1) || '/' || split_part(k.table_name, '.', 2) as address
) as a"""


COLUMNS = {
    "table_name": "schema.table",
    "key": "Primary key as text, columns separated by spaces",
    "through": "Of a shared row, the table of a row that refers to it",
    "record_id": "Record that the row was derived from",
    "stream": "Stream of the record",
    "external_id": "The source's own id of the record",
    "version_id": "Effective version of the record; see staging.versions",
    "payload_id": "Body of the version; see staging.payloads",
    "digest": "sha256 of the bytes as received, without counters, in lower hex",
    "observation_id": "Of a row of a series, the counters it was derived from; see staging.observations",
    "request": "URL without secrets, or file:line",
    "received_at": "When the payload, or the counters, were received",
    "landed_run": "Landing that published it",
    "derived_run": "Run that derived the row",
    "sql_path": "SELECT file that derived the row, below sql/",
    "sql_digest": "sha256 of the text of that file at the time; see ops.sql",
}


def declare_trace() -> None:
    """Declares the view `ops.trace`, over all tables that are declared so far."""
    tables = [each for each in metadata.sorted_tables if each.info.get("kind") in ("owned", "shared")]
    rows = sql.SQL("\nunion all\n").join(_rows(TableSpec(table)) for table in tables)
    view("ops.trace", _trace(rows), "One row for each row of a domain: what proves it", COLUMNS)


def trace_query(spec: TableSpec, where: sql.Composable) -> sql.Composed:
    """The rows of `ops.trace` for the rows `t` of a table that meet a condition, found by the indexes of the table."""
    return sql.SQL(_trace(sql.SQL("{} and {}").format(_rows(spec), where))).format()


def _trace(rows: sql.Composed) -> str:
    return TRACE.replace("{rows}", rows.as_string())


def _rows(spec: TableSpec) -> sql.Composed:
    """A SELECT of the table's name, key, record and `through` for each row of a table."""
    owned = sql.SQL(
        "select {name} as table_name, {key} as key, null as through, t.record_id, {observed} as observed_at"
        " from {table} as t where {from_source}"
    )
    shared = sql.SQL(  # it has no record of its own, and is traced through a row that refers to it
        "select {name} as table_name, {key} as key, f.through, f.record_id, {observed} as observed_at from {table} as t"
        " left join lateral (select * from ({referrers}) as r limit 1) as f on true where {from_source}"
    )
    referrer = sql.SQL("(select {} as through, r.record_id from {} as r where {} = {} limit 1)")
    key = sql.Identifier("t", spec.key[0])
    referrers = [referrer.format(each.name, each.target, sql.Identifier("r", col), key) for each, col in spec.referrers]
    return (owned if spec.owned else shared).format(
        name=sql.Literal(spec.name),
        table=spec.target,
        from_source=spec.from_source("t"),
        key=spec.key_text("t"),
        observed=sql.SQL("t.observed_at" if spec.time_series else "null::timestamptz"),
        referrers=sql.SQL(" union all ").join(referrers),
    )
