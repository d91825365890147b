"""What tables hold, as one number each: the sum of the hashes of their rows, modulo 2^64.

A transform adds what it writes and takes off what it takes away, so that a run's record of what it left behind costs
nothing that grows with the table. Equal rows give equal sums in any order. Audit columns are left out. Belongs here:
`ops.table_digests`. Not: the hashes themselves (`warehouse.shape`).
"""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from pipelines import failpoints
from pipelines.transform.apply import Applier, Change
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import TableSpec


def keep_up(connection: Connection, derivation: Applier) -> dict[str, dict[str, Any]]:
    """Brings `ops.table_digests` up to what a derivation has written; rows and digest of each of its tables."""
    shapes = {shape.name: shape for shape in (*derivation.shapes, *derivation.shared)}
    if derivation.unreadable:  # rows of what was left out may have gone with those that they refer to
        return count(connection, list(shapes.values()))
    query = "select table_name, rows, digest from ops.table_digests where table_name = any(%s)"
    kept = {row["table_name"]: row for row in connection.execute(query, [list(shapes)])}
    failpoints.reached("content.read")
    for name, row in kept.items():
        change = derivation.changes.get(name, Change())
        row["rows"] += change.rows
        row["digest"] = _wrapped(row["digest"] + change.digest)
    return _keep(connection, kept) | count(connection, [shapes[name] for name in shapes.keys() - kept.keys()])


def counted(connection: Connection, shape: TableSpec) -> dict[str, int]:
    """Rows and digest of a table, by reading all of it."""
    row = connection.execute(
        sql.SQL("select count(*) as rows, coalesce(sum({}), 0) as digest from {} as t").format(
            shape.hashed("t"), shape.target
        )
    ).fetchone()
    assert row is not None
    return {"rows": row["rows"], "digest": _wrapped(int(row["digest"]))}


def count(connection: Connection, shapes: Sequence[TableSpec]) -> dict[str, dict[str, Any]]:
    """Brings `ops.table_digests` up to what tables hold, by reading all of them; rows and digest of each."""
    return _keep(connection, {shape.name: counted(connection, shape) for shape in shapes})


def _keep(connection: Connection, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Writes what differs; all of it as runs record it."""
    for name, row in sorted(found.items()):
        connection.execute(
            """
            merge into ops.table_digests t using (select %(name)s as table_name) s on t.table_name = s.table_name
            when matched and (t.rows, t.digest) <> (%(rows)s, %(digest)s) then
                update set rows = %(rows)s, digest = %(digest)s
            when not matched then insert (table_name, rows, digest) values (%(name)s, %(rows)s, %(digest)s)
            """,
            {"name": name, "rows": row["rows"], "digest": row["digest"]},
        )
        failpoints.reached("content.kept", name)
    return {name: {"rows": row["rows"], "digest": written(row["digest"])} for name, row in sorted(found.items())}


def written(digest: int) -> str:
    """A digest as people compare it: 16 hexadecimal digits."""
    return f"{digest % 2**64:016x}"


def _wrapped(number: int) -> int:
    """A number modulo 2^64, as a bigint holds it."""
    return (number + 2**63) % 2**64 - 2**63
