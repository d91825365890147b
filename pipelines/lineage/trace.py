"""What proves a row: the payload version it was derived from, the request and the run that brought it, the SQL.

`ops.trace` has the same for all rows. Belongs here: looking one up, and counting what has no proof. Not: the view
itself (`warehouse.proof`).
"""

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.maintenance import erasure
from pipelines.warehouse.database import Connection
from pipelines.warehouse.declare import metadata
from pipelines.warehouse.table_spec import TableSpec
from pipelines.warehouse.trace_view import row_of


@dataclass(frozen=True)
class Proof:
    """A row and what leads from it to its source. proof: its row of `ops.trace`; landed, derived: the runs.

    counters: what a row of a series was derived from, beside the body.
    """

    row: dict[str, Any]
    proof: dict[str, Any]
    landed: dict[str, Any]
    derived: dict[str, Any]
    sql: str
    body: Any
    counters: Any


def table_of(name: str) -> TableSpec:
    """A table of a domain, by `schema.table`."""
    project.load_tables()
    there = [table.fullname for table in metadata.sorted_tables if table.schema in project.domains()]
    if name not in there:
        raise AtlasError(f"There is no table {name!r} of a domain. There are: {', '.join(there)}.", usage=True)
    return TableSpec(metadata.tables[name])


def trace(connection: Connection, table: str, key: str) -> Proof:
    """The proof of one row, by its key: its primary key as text, by spaces, or the source's own id of it."""
    shape = table_of(table)
    row, found = _row(connection, shape, key)
    condition = _has_key(connection, shape, found)
    assert condition is not None
    proof = connection.execute(row_of(shape, condition)).fetchone() or {}
    about = connection.execute(
        """
        select to_jsonb(l) as landed, to_jsonb(d) as derived, s.text, p.body,
            (select counters from staging.observations where observation_id = %s) as counters
        from ops.fetch_runs l, ops.fetch_runs d, ops.sql s, staging.payloads p
        where (l.fetch_run_id, d.fetch_run_id, s.digest, p.payload_id) = (%s, %s, %s, %s)
        """,
        [proof.get(name) for name in ("observation_id", "landed_run", "derived_run", "sql_digest", "payload_id")],
    ).fetchone()
    if about is None:
        raise AtlasError(
            f"Nothing proves {table} {found}: it was not written by Model Atlas, or staging was changed by hand. "
            f"Compare the tables with staging by: atlas rebuild {shape.table.schema} --check"
        )
    return Proof(row, proof, about["landed"], about["derived"], about["text"], about["body"], about["counters"])


def _row(connection: Connection, shape: TableSpec, key: str) -> tuple[dict[str, Any], str]:
    """The row of a key, and the key as `ops.trace` has it."""
    condition = _has_key(connection, shape, key)
    ways = [condition] if condition is not None else []
    if "external_id" in shape.table.columns:
        ways.append(sql.SQL("t.external_id = {}").format(sql.Literal(key)))
    for way in ways:
        rows = connection.execute(
            sql.SQL("select {} as key, to_jsonb(t) as row from {} t where {} limit 9").format(
                shape.key_text("t"), shape.target, way
            )
        ).fetchall()
        if len(rows) == 1:
            return rows[0]["row"], rows[0]["key"]
        if rows:
            keys = "; ".join(row["key"] for row in rows)
            raise AtlasError(
                f"Several rows of {shape.name} have the id {key!r}. Name one by its key: {keys}", usage=True
            )
    if words := erasure.told(connection, str(shape.table.schema), key):
        raise AtlasError(words)
    raise AtlasError(
        f"{shape.name} has no row {key!r}. Its key is {' and '.join(shape.key)}"
        + (", a space between" if len(shape.key) > 1 else "")
        + (", or external_id." if "external_id" in shape.table.columns else "."),
        usage=True,
    )


def _has_key(connection: Connection, shape: TableSpec, key: str) -> sql.Composed | None:
    """That a row `t` has a key, in the types of its columns, so that an index finds it; None where it can be no key."""
    parts = list(zip(shape.key, key.split(" ", len(shape.key) - 1), strict=False))
    valid = connection.execute(
        """
        select bool_and(pg_input_is_valid(value, type)) as valid
        from unnest(%s::text[], %s::text[]) as p (value, type)
        """,
        [[value for _, value in parts], [shape.type_of(column) for column, _ in parts]],
    ).fetchone()
    if len(parts) < len(shape.key) or not (valid and valid["valid"]):
        return None
    return sql.SQL(" and ").join(
        sql.SQL("t.{} = {}::{}").format(sql.Identifier(column), sql.Literal(value), sql.SQL(shape.type_of(column)))
        for column, value in parts
    )


def unproven(connection: Connection, table: str | None = None) -> list[dict[str, Any]]:
    """For a table, or each table of each domain, how many rows it has, and how many of them nothing proves."""
    project.load_tables()
    return connection.execute(
        """
        select table_name, count(*) as rows,
            count(*) filter (
                where t.version_id is null or t.sql_digest is null
                   or not exists (select from ops.sql s where s.digest = t.sql_digest)
                   or not exists (select from ops.fetch_runs r where r.fetch_run_id = t.landed_run)
            ) as unproven
        from ops.trace t
        where %(table)s::text is null or table_name = %(table)s
        group by table_name
        order by table_name
        """,
        {"table": table},
    ).fetchall()
