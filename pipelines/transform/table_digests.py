"""The digest of each table's rows: the sum of their hashes modulo 2^64, kept in `ops.table_digests`.

A transform adds the hashes of rows that it writes and subtracts those of rows that it deletes. Equal rows give equal
sums in any order. Audit columns are not part of it.
"""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from pipelines.schema.table_spec import TableSpec
from pipelines.transform.apply import Applier
from pipelines.warehouse.database import Connection

Contents = dict[str, Any]
"""The number of `rows` of a table, and its `digest`: 16 hexadecimal digits."""


def update(applier: Applier) -> dict[str, Contents]:
    """Adds what an applier has changed to `ops.table_digests`; returns the contents of each of its tables."""
    specs = {spec.name: spec for spec in (*(each.spec for each in applier.tables), *applier.shared)}
    query = "select table_name, rows, digest from ops.table_digests where table_name = any(%s)"
    kept = {}
    for row in applier.connection.execute(query, [list(specs)]):
        name = row["table_name"]
        digest = int(row["digest"], 16) + applier.digests.get(name, 0)
        kept[name] = {"rows": row["rows"] + applier.added[name], "digest": _as_hex(digest)}
    missing = [spec for name, spec in specs.items() if name not in kept]
    return _save(applier.connection, kept) | recount(applier.connection, missing)


def count(connection: Connection, spec: TableSpec) -> Contents:
    """Returns the contents of a table, by reading all of it."""
    query = sql.SQL("select count(*) as rows, coalesce(sum({}), 0) as digest from {} as t where {}")
    (row,) = connection.execute(query.format(spec.row_hash("t"), spec.target, spec.from_source("t")))
    return {"rows": row["rows"], "digest": _as_hex(int(row["digest"]))}


def recount(connection: Connection, specs: Sequence[TableSpec]) -> dict[str, Contents]:
    """Brings `ops.table_digests` up to date by reading all of some tables; returns the contents of each."""
    return _save(connection, {spec.name: count(connection, spec) for spec in specs})


def _as_hex(digest: int) -> str:
    return f"{digest % 2**64:016x}"


def _save(connection: Connection, found: dict[str, Contents]) -> dict[str, Contents]:
    """Writes the contents that differ, in the order of the tables' names; returns all of them in that order."""
    ordered = dict(sorted(found.items()))
    connection.execute(
        """
        merge into ops.table_digests t
        using (
            select * from unnest(%s::text[], %s::bigint[], %s::text[]) as s (table_name, rows, digest)
            order by table_name
        ) s on t.table_name = s.table_name
        when matched and (t.rows, t.digest) <> (s.rows, s.digest) then update set rows = s.rows, digest = s.digest
        when not matched then insert (table_name, rows, digest) values (s.table_name, s.rows, s.digest)
        """,
        [list(ordered), *([each[fact] for each in ordered.values()] for fact in ("rows", "digest"))],
    )
    return ordered
