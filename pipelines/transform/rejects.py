"""Rows that SELECT files yield and that are not written: rejected rows, and the keys that pending rows depend on.

    incoming ──reject──> rejected_rows ────────────────> staging.quarantine
             ──insert_pending──> found_pending_rows ──> staging.pending_rows

A row is pending until its parent comes, or until another row gives up its key or unique value. Belongs here: moving
such rows, to these tables and on to staging. Not: which rows they are (`constraints`, `key_conflicts`).
"""

from psycopg import sql

from pipelines.ledger import Run
from pipelines.source import Source
from pipelines.transform.incoming import IncomingTable
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


def reject(
    connection: Connection,
    incoming: IncomingTable,
    condition: sql.Composable,
    *,
    reason: str,
    constraint: str,
    detail: sql.Composable,
) -> None:
    """Moves the rows `o` that meet a condition from `incoming` to `rejected_rows`, each with the reason."""
    connection.execute(
        sql.SQL(
            """
            with bad as (delete from {incoming} o where {condition} returning *)
            insert into rejected_rows (table_name, record_id, row_key, reason, constraint_name, detail, row)
            select {name}, {record}, {key}, {reason}, {constraint}, {detail}, to_jsonb(bad) from bad
            """
        ).format(
            incoming=incoming.identifier,
            condition=condition,
            name=sql.Literal(incoming.spec.name),
            record=sql.SQL("record_id" if incoming.spec.owned else "null"),
            key=incoming.spec.key_text("bad"),
            reason=sql.Literal(reason),
            constraint=sql.Literal(constraint),
            detail=detail,
        )
    )


def insert_pending(
    connection: Connection,
    incoming: IncomingTable,
    condition: sql.Composable,
    table: str,
    key: sql.Composable,
    reason: str,
) -> None:
    """Inserts into `found_pending_rows` the rows `o` that meet a condition and have a record, with a key of a table."""
    if incoming.spec.owned:
        connection.execute(
            sql.SQL("insert into found_pending_rows select o.record_id, {}, {}, {} from {} o where {}").format(
                sql.Literal(table), key, sql.Literal(reason), incoming.identifier, condition
            )
        )


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


def write_pending(connection: Connection) -> None:
    """Brings `staging.pending_rows` up to date for the records of the change set."""
    connection.execute(
        """
        delete from staging.pending_rows p using change_set c
        where p.record_id = c.record_id and not exists (
            select from found_pending_rows f
            where (f.record_id, f.table_name, f.key, f.reason) = (p.record_id, p.table_name, p.key, p.reason))
        """
    )
    connection.execute(
        """
        insert into staging.pending_rows (record_id, stream, table_name, key, reason)
        select distinct f.record_id, c.stream, f.table_name, f.key, f.reason
        from found_pending_rows f join change_set c using (record_id)
        where not exists (
            select from staging.pending_rows p
            where (p.record_id, p.table_name, p.key, p.reason) = (f.record_id, f.table_name, f.key, f.reason))
        """
    )


def write_quarantine(run: Run, source: Source) -> None:
    """Writes rejected rows to `staging.quarantine`, and closes the entries of the change set whose rows fit now."""
    parameters = {"stream": source.name, "partition": run.partition, "run": run.id}
    run.connection.execute(INSERT_ENTRIES, parameters)
    run.connection.execute(CLOSE_ENTRIES, parameters)
    run.connection.execute(CLOSE_SHARED_ENTRIES, parameters)


INSERT_ENTRIES = """
insert into staging.quarantine
    (stage, stream, partition_key, external_id, record_id, request, reason, detail, table_name, row_key,
     constraint_name, row, first_run, last_run)
select distinct on (r.record_id, r.table_name, r.row_key, r.constraint_name)
       'transform', %(stream)s, %(partition)s, v.external_id, r.record_id, v.request, r.reason, r.detail,
       r.table_name, r.row_key, r.constraint_name, r.row, %(run)s, %(run)s
from rejected_rows r
left join staging.versions v on v.record_id = r.record_id and v.latest
order by r.record_id, r.table_name, r.row_key, r.constraint_name, r.row
on conflict (stream, record_id, table_name, row_key, constraint_name) where stage = 'transform' do update set
    reason = excluded.reason, detail = excluded.detail, row = excluded.row, last_run = excluded.last_run,
    last_at = now(), seen = quarantine.seen + 1, closed_run = null, closed_at = null
"""

CLOSE_ENTRIES = """
update staging.quarantine q set closed_run = %(run)s, closed_at = now()
from change_set c
where q.stage = 'transform' and q.stream = %(stream)s and q.closed_at is null and q.last_run <> %(run)s
  and q.record_id = c.record_id
"""

CLOSE_SHARED_ENTRIES = """
update staging.quarantine q set closed_run = %(run)s, closed_at = now()
where q.stage = 'transform' and q.stream = %(stream)s and q.closed_at is null and q.last_run <> %(run)s
  and q.record_id is null
  and not exists (
      select from staging.quarantine c cross join jsonb_each_text(c.row) as e
      where c.stage = 'transform' and c.stream = q.stream and c.closed_at is null and c.reason = 'parent'
        and e.value = q.row_key)
"""
"""A shared row has no record: its entry stays open as long as a rejected row refers to it."""
