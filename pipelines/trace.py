"""What proves a row: the payload version it was derived from, the request and the run that brought it, the SQL.

`ops.trace` has the same for all rows. Belongs here: looking one up, and counting what has no proof. Not: the view
itself (`warehouse.proof`).
"""

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pipelines import house
from pipelines.errors import AtlasError
from pipelines.warehouse.engine import Connection
from pipelines.warehouse.shape import Shape
from pipelines.warehouse.tables import metadata


@dataclass(frozen=True)
class Proof:
    """A row and what leads from it to its source. proof: its row of `ops.trace`; landed, derived: the runs."""

    row: dict[str, Any]
    proof: dict[str, Any]
    landed: dict[str, Any]
    derived: dict[str, Any]
    sql: str
    body: Any


def table_of(name: str) -> Shape:
    """A table of a domain, by `schema.table`."""
    house.load_tables()
    there = [table.fullname for table in metadata.sorted_tables if table.schema in house.domains()]
    if name not in there:
        raise AtlasError(f"There is no table {name!r} of a domain. There are: {', '.join(there)}.", usage=True)
    return Shape(metadata.tables[name])


def trace(connection: Connection, table: str, key: str) -> Proof:
    """The proof of one row, by its key: its primary key as text, by spaces, or the source's own id of it."""
    shape = table_of(table)
    row, found = _row(connection, shape, key)
    proof = connection.execute(
        "select * from ops.trace where table_name = %s and key = %s", [shape.name, found]
    ).fetchone()
    assert proof is not None
    if proof["version_id"] is None:
        raise AtlasError(
            f"Nothing proves {table} {found}: it was not written by Model Atlas, or staging was changed by hand. "
            f"Compare the tables with staging by: atlas rebuild {shape.table.schema} --check"
        )
    about = connection.execute(
        """
        select to_jsonb(l) as landed, to_jsonb(d) as derived, s.text, p.body
        from ops.fetch_runs l, ops.fetch_runs d, ops.sql s, staging.payloads p
        where (l.fetch_run_id, d.fetch_run_id, s.digest, p.payload_id) = (%s, %s, %s, %s)
        """,
        [proof["landed_run"], proof["derived_run"], proof["sql_digest"], proof["payload_id"]],
    ).fetchone()
    assert about is not None
    return Proof(row, proof, about["landed"], about["derived"], about["text"], about["body"])


def _row(connection: Connection, shape: Shape, key: str) -> tuple[dict[str, Any], str]:
    """The row of a key, and the key as `ops.trace` has it."""
    ways = [sql.SQL("{} = {}").format(shape.key_text("t"), sql.Literal(key))]
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
    raise AtlasError(
        f"{shape.name} has no row {key!r}. Its key is {', '.join(shape.key)}"
        + (", or external_id." if "external_id" in shape.table.columns else "."),
        usage=True,
    )


def unproven(connection: Connection) -> list[dict[str, Any]]:
    """For each table of each domain how many rows it has, and how many of them nothing proves."""
    house.load_tables()
    return connection.execute(
        """
        select table_name, count(*) as rows,
            count(*) filter (
                where t.version_id is null or t.sql_digest is null
                   or not exists (select from ops.sql s where s.digest = t.sql_digest)
                   or not exists (select from ops.fetch_runs r where r.fetch_run_id = t.landed_run)
                   or not exists (select from staging.payloads p where p.payload_id = t.payload_id)
            ) as unproven
        from ops.trace t
        group by table_name
        order by table_name
        """
    ).fetchall()
