"""What must be the same after a crash, and what must not be left.

Belongs here: reading databases, and assertions. Not here: what happened to them (`scenarios`).
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import sql
from sqlalchemy import Table

from pipelines import project
from pipelines.lineage.shadow_schema import TEMPORARY_PREFIX
from pipelines.schema.declare import audit_columns, metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.transform import table_digests
from pipelines.warehouse.database import Connection, Warehouse

PATIENCE_S = 60

project.load_tables()

Contents = dict[str, str]
Run = dict[str, Any]

UNPUBLISHED = ("staging.arrivals", "staging.rejects", "staging.checkpoints")
"""What only the resumption of a landing reads."""

UNSEEN = ("staging.payloads", "shadow schemas", "partitions")
"""What a run may leave to the next one, which uses it or drops it."""

OF_ONE_RUN = {
    *("version_id", "observation_id", "quarantine_id", "change_id"),
    *("created_order", "place", "seen", "confirmed_at"),
}
"""Ids, places, how often an entry was seen (once more by a run after one that had committed), and when an unchanged
record was received again (noted after a run that failed)."""

OF_TRIGGERS = {"entry_id"}
"""Keys of rows that a trigger writes, drawn by the server."""

APART = {"ops.fetch_runs", "ops.rate_limits", "ops.objects", "staging.payloads", "staging.reapplied_versions"}
"""Tables that differ from run to run, or have a query of their own."""

SCHEMAS = """
select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and not c.relispartition and n.nspname !~ '^pg_' and not starts_with(n.nspname, {})
"""

PARTITIONS = """
select c.oid::regclass, pg_get_expr(c.relpartbound, c.oid) from pg_class c
where c.relkind = 'r' and c.relispartition and not starts_with(c.relnamespace::regnamespace::text, {})
"""


@contextmanager
def settled(warehouse: Warehouse) -> Iterator[Connection]:
    """A connection, once the server has ended the sessions of killed clients."""
    others = """
        select from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
    """
    deadline = time.monotonic() + PATIENCE_S
    warehouse.close()
    with warehouse.connect() as connection:
        while connection.execute(others).rowcount:
            assert time.monotonic() < deadline, "the session of a dead process stays"
            time.sleep(0.01)
        yield connection


def queries() -> dict[str, sql.Composed]:
    """A query for each table that must be the same, without the ids and times that no two runs have alike."""
    made = {
        "bodies": sql.SQL(
            "select v.record_id, p.digest, p.body, p.original, p.repairs "
            "from staging.versions v join staging.payloads p using (payload_id)"
        ).format(),
        "staging.payloads": sql.SQL("select digest from staging.payloads").format(),
        "shadow schemas": sql.SQL("select count(*) from pg_namespace where starts_with(nspname, {})").format(
            sql.Literal(TEMPORARY_PREFIX)
        ),
        "schemas": sql.SQL(SCHEMAS).format(sql.Literal(TEMPORARY_PREFIX)),
        "partitions": _partitions(),
    }
    for table in metadata.sorted_tables:
        if table.fullname not in APART:
            made[table.fullname] = sql.SQL("select {} from {}").format(
                sql.SQL(", ").join(_columns(table)), sql.Identifier(str(table.schema), table.name)
            )
    return {name: sql.SQL("select t::text from ({}) as t order by 1").format(query) for name, query in made.items()}


def _partitions() -> sql.Composed:
    """The partitions with their bounds, and the partition of each row of a partitioned table."""
    specs = [spec for table in metadata.sorted_tables if (spec := TableSpec(table)).partition_column]
    placed = sql.SQL("select tableoid::regclass, {} from {} t")
    queries = [sql.SQL(PARTITIONS).format(sql.Literal(TEMPORARY_PREFIX))]
    return sql.SQL(" union all ").join([*queries, *(placed.format(each.key_text("t"), each.target) for each in specs)])


def _columns(table: Table) -> list[sql.Composable]:
    """The columns of a table; of those that name a run, a body or a time only whether they are null.

    Of a checkpoint, what the run that resumes it depends on.
    """
    if table.schema not in ("ops", "staging"):
        left_out = audit_columns(table) | OF_TRIGGERS
        return [sql.Identifier(each.name) for each in table.columns if each.name not in left_out]
    found: list[sql.Composable] = []
    for column in table.columns:
        name = sql.Identifier(column.name)
        if column.name == "progress":
            found.append(sql.SQL("progress -> 'listings' as listings, progress -> 'fetched' as fetched"))
        elif column.name in OF_ONE_RUN:
            continue
        elif column.name.endswith(("_run", "_run_id", "payload_id", "_at")):
            found.append(sql.SQL("{0} is null as {0}").format(name))
        else:
            found.append(name)
    return found


def contents(warehouse: Warehouse) -> Contents:
    with settled(warehouse) as connection:
        return contents_of(connection)


def contents_of(connection: Connection) -> Contents:
    """A digest for each query."""
    digests = {}
    for name, query in queries().items():
        digest = hashlib.sha256()
        with connection.cursor().copy(sql.SQL("copy ({}) to stdout").format(query)) as copy:
            for block in copy:
                digest.update(block)
        digests[name] = digest.hexdigest()
    return digests


def shown(of: Contents) -> Contents:
    """What readers see: without what only the next run reads."""
    return {name: digest for name, digest in of.items() if name not in (*UNPUBLISHED, *UNSEEN)}


def different(one: Contents, other: Contents) -> list[str]:
    """The names of what two contents do not have alike."""
    return [name for name in one if one[name] != other[name]]


def ledger_of(warehouse: Warehouse) -> list[Run]:
    with warehouse.connect() as connection:
        return runs_of(connection)


def runs_of(connection: Connection) -> list[Run]:
    """The ledger, oldest first."""
    return connection.execute("select * from ops.fetch_runs order by fetch_run_id").fetchall()


def assert_truthful(runs: list[Run]) -> None:
    """Every run has ended: published with counts that add up, or failed with an error and without counts."""
    for run in runs:
        sums = ("created", "updated", "observed", "unchanged", "quarantined", "duplicates", "pending")
        assert run["fetched"] == sum(run[name] for name in sums)
        assert run["ended_at"] is not None
        if run["publish_seq"]:
            assert run["status"] in ("completed", "partial_success")
        else:
            assert (run["status"], run["fetched"], run["deleted"]) == ("failed", 0, 0)
            assert run["error_text"]


def assert_nothing_left(warehouse: Warehouse) -> None:
    """No lock, shadow schema, duplicate body or pages kept for a resumption; the digests are those of the tables."""
    with settled(warehouse) as connection:
        locks = """
            select objid from pg_locks l join pg_database d on d.oid = l.database
            where l.locktype = 'advisory' and d.datname = current_database()
        """
        assert connection.execute(locks).fetchall() == []
        schemas = "select nspname from pg_namespace where starts_with(nspname, %s)"
        assert connection.execute(schemas, [TEMPORARY_PREFIX]).fetchall() == []
        twice = "select digest from staging.payloads group by digest having count(*) > 1"
        assert connection.execute(twice).fetchall() == []
        for name in UNPUBLISHED:
            query = sql.SQL("select from {} limit 1").format(sql.Identifier(*name.split(".")))
            assert connection.execute(query).rowcount == 0, f"{name} keeps what no landing resumes"
        _assert_digests(connection)


def _assert_digests(connection: Connection) -> None:
    for row in connection.execute("select table_name, rows, digest from ops.table_digests").fetchall():
        shape = TableSpec(metadata.tables[row["table_name"]])
        assert table_digests.count(connection, shape) == {"rows": row["rows"], "digest": row["digest"]}, shape.name
