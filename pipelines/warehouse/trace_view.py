"""The view `ops.trace`: from a row to its payload, request, runs and SQL.

    row ──record_id──> effective version ──> payload, request, landing · the run and SELECT file that derived the row

A shared row has no record of its own: it is traced through a row that refers to it. Belongs here: SQL that is
generated from the tables of all domains. Not here: looking up one row (`lineage.trace`).
"""

from psycopg import sql
from sqlalchemy import Table

from pipelines.warehouse.declare import metadata
from pipelines.warehouse.objects import view
from pipelines.warehouse.table_spec import TableSpec

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
    coalesce(o.observed_at, p.fetched_at) as fetched_at,
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
    "fetched_at": "When the payload, or the counters, were received",
    "landed_run": "Landing that published it",
    "derived_run": "Run that derived the row",
    "sql_path": "SELECT file that derived the row, below sql/",
    "sql_digest": "sha256 of the text of that file at the time; see ops.sql",
}


def declare() -> None:
    """Declares the view, over all tables that are declared so far."""
    rows = sql.SQL("\nunion all\n").join(_rows(TableSpec(table)) for table in metadata.sorted_tables if _traced(table))
    view("ops.trace", _trace(rows), "One row for each row of a domain: what proves it", COLUMNS)


def trace_query(spec: TableSpec, where: sql.Composable) -> sql.Composed:
    """The rows of `ops.trace` for the rows `t` of a table that meet a condition, found by the indexes of the table."""
    return sql.SQL(_trace(sql.SQL("{} where {}").format(_rows(spec), where))).format()


def _trace(rows: sql.Composed) -> str:
    return TRACE.replace("{rows}", rows.as_string())


def _traced(table: Table) -> bool:
    """Whether it is a table of a domain."""
    return table.schema not in {"ops", "staging"}


def _rows(spec: TableSpec) -> sql.Composed:
    """A SELECT of the table's name, key, record and `through` for each row of a table."""
    rows = OWNED_ROWS if spec.owned else SHARED_ROWS
    return rows.format(
        name=sql.Literal(spec.name),
        table=spec.target,
        key=spec.key_text("t"),
        observed=sql.SQL("t.observed_at" if spec.time_series else "null::timestamptz"),
        referrers=sql.SQL(" union all ").join(
            REFERRING_ROW.format(
                name=sql.Literal(other.name),
                table=other.target,
                column=sql.Identifier("r", column),
                key=sql.Identifier("t", spec.key[0]),
            )
            for other, column in spec.referrers
        ),
    )


OWNED_ROWS = sql.SQL(
    "select {name} as table_name, {key} as key, null as through, t.record_id, {observed} as observed_at"
    " from {table} as t"
)
SHARED_ROWS = sql.SQL(
    "select {name} as table_name, {key} as key, f.through, f.record_id, {observed} as observed_at from {table} as t"
    " left join lateral (select * from ({referrers}) as r limit 1) as f on true"
)
REFERRING_ROW = sql.SQL("(select {name} as through, r.record_id from {table} as r where {column} = {key} limit 1)")
