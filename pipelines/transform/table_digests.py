"""The digest of each table's rows: the sum of their hashes modulo 2^64, kept in `ops.table_digests`.

A transform adds the hashes of the rows it writes and subtracts those of the rows it deletes, so a digest costs nothing
that increases with the table. Equal rows give equal sums in any order. Audit columns are not part of it. Belongs here:
`ops.table_digests`. Not: the hash of a row (`TableSpec.row_hash`).
"""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from pipelines.transform.apply import Applier, TableChange
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import TableSpec


def update(connection: Connection, applier: Applier) -> dict[str, dict[str, Any]]:
    """Adds what an applier has changed to `ops.table_digests`; returns rows and digest of each of its tables."""
    specs = {spec.name: spec for spec in (*applier.specs, *applier.shared)}
    query = "select table_name, rows, digest from ops.table_digests where table_name = any(%s)"
    kept = {row["table_name"]: row for row in connection.execute(query, [list(specs)])}
    for name, row in kept.items():
        change = applier.table_changes.get(name, TableChange())
        row["rows"] += change.rows
        row["digest"] = _as_bigint(row["digest"] + change.digest)
    return _save(connection, kept) | recount(connection, [specs[name] for name in specs.keys() - kept.keys()])


def count(connection: Connection, spec: TableSpec) -> dict[str, int]:
    """Returns rows and digest of a table, by reading all of it."""
    row = connection.execute(
        sql.SQL("select count(*) as rows, coalesce(sum({}), 0) as digest from {} as t").format(
            spec.row_hash("t"), spec.target
        )
    ).fetchone()
    assert row is not None
    return {"rows": row["rows"], "digest": _as_bigint(int(row["digest"]))}


def recount(connection: Connection, specs: Sequence[TableSpec]) -> dict[str, dict[str, Any]]:
    """Brings `ops.table_digests` up to date by reading all of some tables; returns rows and digest of each."""
    return _save(connection, {spec.name: count(connection, spec) for spec in specs})


def as_hex(digest: int) -> str:
    """A digest as the ledger has it: 16 hexadecimal digits."""
    return f"{digest % 2**64:016x}"


def _save(connection: Connection, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Writes the digests that differ; returns all of them as the ledger records them."""
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
    return {name: {"rows": row["rows"], "digest": as_hex(row["digest"])} for name, row in sorted(found.items())}


def _as_bigint(number: int) -> int:
    """A number modulo 2^64, in the range of a bigint."""
    return (number + 2**63) % 2**64 - 2**63
