"""Rows that SELECT files yield and that are not written: rejected rows, and the keys that pending rows depend on.

    rejected_rows ──> staging.quarantine        found_pending_rows ──> staging.pending_rows

A row is pending until its parent comes, or until another row gives up its key or unique value. Belongs here: the two
temporary tables, and what staging has of them. Not: which rows they are (`constraints`).
"""

from psycopg import sql

from pipelines.warehouse.database import Connection

CREATE_REJECTED = """
create temp table if not exists rejected_rows (
    table_name text, record_id uuid, row_key text, reason text, constraint_name text, detail text, row jsonb
) on commit drop;
create temp table if not exists found_pending_rows (
    record_id uuid, table_name text, key text, reason text
) on commit drop
"""

TABLES = ("rejected_rows", "found_pending_rows")

Exported = dict[str, bytes]
"""The rows of each of the two tables, as COPY writes them."""


def reset(connection: Connection) -> None:
    """Empties both tables before rows are evaluated again; records that a SELECT fails on stay."""
    connection.execute("delete from rejected_rows where reason <> 'select_fails'")
    connection.execute("truncate found_pending_rows")


def export_rows(connection: Connection, domain: str) -> Exported:
    """Returns both tables, with the names of the domain's tables for those of another schema."""
    exported = {}
    for name in TABLES:
        connection.execute(
            sql.SQL("update {} set table_name = {} || '.' || split_part(table_name, '.', 2)").format(
                sql.Identifier(name), sql.Literal(domain)
            )
        )
        with connection.cursor().copy(sql.SQL("copy {} to stdout").format(sql.Identifier(name))) as copy:
            exported[name] = b"".join(copy)
    return exported


def load_rows(connection: Connection, exported: Exported) -> None:
    """Fills both tables with what `export_rows` returned."""
    connection.execute(CREATE_REJECTED)
    connection.execute("truncate rejected_rows, found_pending_rows")
    for name, rows in exported.items():
        with connection.cursor().copy(sql.SQL("copy {} from stdin").format(sql.Identifier(name))) as copy:
            copy.write(rows)


def rejected_by_table(connection: Connection) -> dict[str, int]:
    """How many rows of each table are rejected; a record on which a SELECT fails counts as one row of its table."""
    rows = connection.execute("select table_name, count(*) as number from rejected_rows group by table_name")
    return {row["table_name"]: row["number"] for row in rows}


RECORD_REJECTED = (
    """
    delete from staging.pending_rows p using change_set c
    where p.record_id = c.record_id and not exists (
        select from found_pending_rows f
        where (f.record_id, f.table_name, f.key, f.reason) = (p.record_id, p.table_name, p.key, p.reason))
    """,
    """
    insert into staging.pending_rows (record_id, stream, table_name, key, reason)
    select distinct f.record_id, c.stream, f.table_name, f.key, f.reason
    from found_pending_rows f join change_set c using (record_id)
    where not exists (
        select from staging.pending_rows p
        where (p.record_id, p.table_name, p.key, p.reason) = (f.record_id, f.table_name, f.key, f.reason))
    """,
    """
    insert into staging.quarantine
        (stage, stream, partition_key, external_id, record_id, request, reason, detail, table_name, row_key,
         constraint_name, row, first_run, last_run)
    select distinct on (r.record_id, r.table_name, r.row_key, r.constraint_name)
        'transform', %(source)s, %(partition)s, v.external_id, r.record_id, v.request, r.reason, r.detail,
        r.table_name, r.row_key, r.constraint_name, r.row, %(run)s, %(run)s
    from rejected_rows r
    left join staging.versions v on v.record_id = r.record_id and v.latest
    order by r.record_id, r.table_name, r.row_key, r.constraint_name, r.row
    on conflict (stream, record_id, table_name, row_key, constraint_name) where stage = 'transform' do update set
        reason = excluded.reason, detail = excluded.detail, row = excluded.row, last_run = excluded.last_run,
        last_at = now(), seen = quarantine.seen + 1, closed_run = null, closed_at = null
    """,
    """
    update staging.quarantine q set closed_run = %(run)s, closed_at = now()
    from change_set c
    where q.stage = 'transform' and q.stream = %(source)s and q.closed_at is null and q.last_run <> %(run)s
      and q.record_id = c.record_id
    """,
    # A shared row has no record: its entry stays open as long as a rejected row refers to it.
    """
    update staging.quarantine q set closed_run = %(run)s, closed_at = now()
    where q.stage = 'transform' and q.stream = %(source)s and q.closed_at is null and q.last_run <> %(run)s
      and q.record_id is null
      and not exists (
          select from staging.quarantine c cross join jsonb_each_text(c.row) as e
          where c.stage = 'transform' and c.stream = q.stream and c.closed_at is null and c.reason = 'parent'
            and e.value = q.row_key)
    """,
)
"""Statements that write both tables to staging, and close the entries of the change set whose rows fit now."""
