"""Rows and values that do not fit their table.

    incoming_<table> ──reject──> rejected_rows ──────────────────────────────> staging.quarantine (`run`)
          └──clear──> the value is NULL, and kept in `cleared` ──record_values──^

A row is rejected with its value where the table can do without neither. Values are recorded once the rows are written,
so that none is of a row that is not. Not here: which rows and values do not fit (`constraints`, `key_conflicts`).
"""

from psycopg import sql

from pipelines.transform.incoming import IncomingTable
from pipelines.warehouse.database import Connection

CREATE_REJECTED = """
create temp table if not exists rejected_rows (
    granularity text default 'row', table_name text, record_id uuid, row_key text, reason text, constraint_name text,
    detail text, row jsonb
) on commit drop;
create temp table if not exists found_pending_rows (
    record_id uuid, table_name text, key text, reason text
) on commit drop;
create temp table if not exists found_aliases (
    record_id uuid, table_name text, lost_key text, kept_key text
) on commit drop
"""

ROW_AS_YIELDED = sql.SQL(
    """
    to_jsonb(bad) - '{unread_keys, cleared}'::text[]
        || coalesce(nullif(to_jsonb(bad) -> 'unread_keys', 'null'), '{}')
        || coalesce((select jsonb_object_agg(key, value -> 'value') from jsonb_each(bad.cleared)), '{}')
    """
)


def reject(
    incoming: IncomingTable, condition: sql.Composable, reason: str, constraint: str, detail: sql.Composable
) -> None:
    """Moves the rows `o` that meet a condition to `rejected_rows`, each with the reason."""
    incoming.connection.execute(
        sql.SQL(
            """
            with bad as (delete from {incoming} o where {condition} returning *)
            insert into rejected_rows (table_name, record_id, row_key, reason, constraint_name, detail, row)
            select {name}, {record}, {key}, {reason}, {constraint}, {detail}, {row} from bad
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
            row=ROW_AS_YIELDED,
        )
    )


def clear(incoming: IncomingTable, condition: sql.Composable, reason: str, column: str, detail: sql.Composable) -> None:
    """Makes a column NULL in the rows `o` that meet a condition; keeps the value and the reason in `cleared`."""
    incoming.connection.execute(
        sql.SQL(
            """
            update {incoming} o set {column} = null, cleared = coalesce(cleared, '{{}}') || jsonb_build_object(
                {name}, jsonb_build_object('value', {column}, 'reason', {reason}, 'detail', {detail}))
            where {condition}
            """
        ).format(
            incoming=incoming.identifier,
            column=sql.Identifier(column),
            name=sql.Literal(column),
            reason=sql.Literal(reason),
            detail=detail,
            condition=condition,
        )
    )


def record_values(incoming: IncomingTable) -> None:
    """Adds the values that were cleared in the rows that are left to `rejected_rows`, each with its column."""
    incoming.connection.execute(
        sql.SQL(
            """
            insert into rejected_rows
            select 'value', {name}, o.record_id, {key}, c.said ->> 'reason', c.name, c.said ->> 'detail',
                jsonb_build_object(c.name, c.said -> 'value')
            from {incoming} o cross join jsonb_each(o.cleared) as c (name, said)
            """
        ).format(incoming=incoming.identifier, name=sql.Literal(incoming.spec.name), key=incoming.spec.key_text("o"))
    )


def reset(connection: Connection) -> None:
    """Empties the tables before rows are evaluated again; records that a SELECT fails on stay."""
    connection.execute("delete from rejected_rows where reason <> 'select_fails'")
    connection.execute("truncate found_pending_rows, found_aliases")


def rows_by_table(connection: Connection) -> dict[str, int]:
    """How many rows of each table are rejected; a record on which a SELECT fails counts as one row of its table."""
    rows = connection.execute(
        "select table_name, count(*) as number from rejected_rows where granularity = 'row' group by table_name"
    )
    return {row["table_name"]: row["number"] for row in rows}


def count_values(connection: Connection) -> int:
    """How many values are rejected of rows that are written."""
    (row,) = connection.execute("select count(*) as number from rejected_rows where granularity = 'value'")
    return int(row["number"])
