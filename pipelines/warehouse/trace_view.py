"""`ops.effective_version` and `ops.trace`: from a row to the payload, the request, the runs and the SQL it is from.

    row ──record_id──> version in force ──> payload, request, landing · transform and SQL file that derived it

Shared rows, which no record owns, are traced through a row that refers to them. Belongs here: SQL that is made from the
tables of all domains. Not: showing it (`trace`).
"""

from psycopg import sql
from sqlalchemy import Table

from pipelines.warehouse.declare import metadata
from pipelines.warehouse.objects import function, view
from pipelines.warehouse.table_spec import TableSpec

EFFECTIVE_VERSION = """create or replace function ops.effective_version(
    record uuid, up_to bigint default 9223372036854775807
) returns table (
    version_id bigint, payload_id uuid, stream text, external_id text, digest text, request text,
    fetched_at timestamptz, landed_run uuid, derived_run uuid, sql jsonb
) language sql stable parallel safe as $$
    select v.version_id, v.payload_id, v.stream, v.external_id, encode(v.digest, 'hex'), v.request,
        v.fetched_at, v.landed_run, made.fetch_run_id, made.stats -> 'sql'
    from staging.versions v
    join ops.fetch_runs f on f.fetch_run_id = v.valid_from_run
    left join ops.fetch_runs t on t.fetch_run_id = v.valid_to_run
    cross join lateral (
        select r.fetch_run_id, r.stats from ops.fetch_runs r
        where r.publish_seq <= up_to
          and r.fetch_run_id = any(array(
              select v.valid_from_run union all
              select d.fetch_run_id from staging.reapplied_versions d where d.version_id = v.version_id))
        order by r.publish_seq desc limit 1
    ) as made
    where v.record_id = record and v.payload_id is not null
      and f.publish_seq <= up_to and (t.publish_seq is null or t.publish_seq > up_to)
$$"""

TRACE = """-- One row per row of a domain, with what proves it.
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
    coalesce(o.observed_at, p.fetched_at) as fetched_at,
    coalesce(o.landed_run, p.landed_run) as landed_run,
    p.derived_run,
    a.address || '.sql' as sql_path,
    p.sql ->> a.address as sql_digest
from (
{rows}
) as k
left join lateral ops.effective_version(k.record_id) as p on true
left join staging.observations as o on o.record_id = k.record_id and o.observed_at = k.observed_at
cross join lateral (
    select split_part(p.stream, '.', 1) || '/' || split_part(k.table_name, '.', 2) as address
) as a"""


COLUMNS = {
    "table_name": "schema.table",
    "key": "Its primary key as text, by spaces",
    "through": "Table of a row that refers to it, for a shared row",
    "record_id": "Record that it was derived from",
    "stream": "Stream of the record",
    "external_id": "The source's own id of the record",
    "version_id": "Version in force; staging.versions has it",
    "payload_id": "Its body; staging.payloads has it",
    "digest": "sha256 of the bytes as received, counters left out, lower hex",
    "observation_id": "Counters that it was derived from, in a series; staging.observations has them",
    "request": "URL without secrets, or file:line",
    "fetched_at": "When it was received",
    "landed_run": "Landing that published it",
    "derived_run": "Run that derived the row",
    "sql_path": "SELECT file that derived it, below sql/",
    "sql_digest": "sha256 of the text it had then; ops.sql has it",
}


def declare() -> None:
    """Declares both, over all tables that are declared by then."""
    function(
        "ops.effective_version(uuid, bigint)",
        EFFECTIVE_VERSION,
        "The version of a record that the tables of its domain hold, or held after a published run",
    )
    rows = sql.SQL("\nunion all\n").join(_rows(TableSpec(table)) for table in metadata.sorted_tables if _traced(table))
    view("ops.trace", _trace(rows), "One row per row of a domain, with what proves it", COLUMNS)


def row_of(shape: TableSpec, where: sql.Composable) -> sql.Composed:
    """Those rows of `ops.trace` that are of a table's rows `t` which meet a condition, found by the table's indexes."""
    return sql.SQL(_trace(sql.SQL("{} where {}").format(_rows(shape), where))).format()


def _trace(rows: sql.Composed) -> str:
    return TRACE.replace("{rows}", rows.as_string())


def _traced(table: Table) -> bool:
    return table.schema not in {"ops", "staging"}


def _rows(shape: TableSpec) -> sql.Composed:
    """Name, key, record and the table through which it is found, for each row of a table."""
    found = OWNED if shape.owned else SHARED
    return found.format(
        name=sql.Literal(shape.name),
        table=shape.target,
        key=shape.key_text("t"),
        observed=sql.SQL("t.observed_at" if shape.time_series else "null::timestamptz"),
        own=sql.SQL("t.record_id" if shape.optionally_owned else "null::uuid"),
        referrers=sql.SQL(" union all ").join(
            REFERRER.format(
                name=sql.Literal(other.fullname),
                table=TableSpec(other).target,
                column=sql.Identifier("r", reference.column),
                key=sql.Identifier("t", shape.key[0]),
            )
            for other in metadata.sorted_tables
            if _traced(other)
            for reference in TableSpec(other).references
            if reference.table is shape.table
        ),
    )


OWNED = sql.SQL(
    "select {name} as table_name, {key} as key, null as through, t.record_id, {observed} as observed_at"
    " from {table} as t"
)
SHARED = sql.SQL(
    "select {name} as table_name, {key} as key, case when {own} is null then f.through end as through,"
    " coalesce({own}, f.record_id) as record_id, {observed} as observed_at from {table} as t"
    " left join lateral (select * from ({referrers}) as r limit 1) as f on true"
)
REFERRER = sql.SQL("(select {name} as through, r.record_id from {table} as r where {column} = {key} limit 1)")
