"""What is taken out of the rows that SELECTs have yielded, before they are merged: with a reason, or to wait.

    incoming ──> misfits · waiting

Belongs here: moving rows. Not: which (`misfits`, `claims`).
"""

from psycopg import sql

from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import TableSpec


def split(
    connection: Connection,
    shape: TableSpec,
    condition: sql.Composable,
    *,
    reason: str,
    constraint: str,
    detail: sql.Composable,
) -> None:
    """Takes the rows that meet a condition out of `incoming` into `misfits`, each with the reason."""
    key = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in shape.key)
    connection.execute(
        sql.SQL(
            """
            with bad as (delete from {incoming} o where {condition} returning *)
            insert into misfits (table_name, record_id, row_key, reason, constraint_name, detail, row)
            select {name}, {record}, concat_ws(' ', {key}), {reason}, {constraint}, {detail}, to_jsonb(bad) from bad
            """
        ).format(
            incoming=shape.incoming,
            condition=condition,
            name=sql.Literal(shape.name),
            record=sql.Identifier("record_id") if "record_id" in shape.yielded else sql.SQL("null"),
            key=key,
            reason=sql.Literal(reason),
            constraint=sql.Literal(constraint),
            detail=detail,
        )
    )


def wait(
    connection: Connection, shape: TableSpec, condition: sql.Composable, table: str, key: sql.Composable, reason: str
) -> None:
    """Notes for which row others wait: those that meet a condition, if a record has them."""
    if "record_id" in shape.yielded:
        connection.execute(
            sql.SQL(
                "insert into waiting select o.record_id, {}, {}, {} from {} o where o.record_id is not null and {}"
            ).format(sql.Literal(table), key, sql.Literal(reason), shape.incoming, condition)
        )


def placed(shape: TableSpec) -> sql.Composed:
    """The rows of `incoming` as the table would hold them, each with its place; where types are read already."""
    columns = [
        sql.SQL("{} as {}").format(
            shape.cast(column.name) if column.name in shape.yielded else sql.SQL(f"null::{shape.type_of(column.name)}"),
            sql.Identifier(column.name),
        )
        for column in shape.table.columns
    ]
    return sql.SQL("select ctid as place, {} from {}").format(sql.SQL(", ").join(columns), shape.incoming)
