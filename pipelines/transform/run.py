"""A partition's news from staging into the tables, in one transaction under the domain's lock.

    scope ──> Derivation ──> valid_from_run, valid_to_run, waits, quarantine, content, ledger

The scope is the one idea: the versions that the SELECTs see (`scope`). A normal run takes the partition's latest
versions that the SELECT files as they are have not derived yet; with `full` all of them. Belongs here: when, and what
is kept of it. Not: what becomes of the rows (`deriving`).
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import sql
from sqlalchemy import Table

from pipelines import failpoints, ledger, project, quarantine
from pipelines.ledger import Counts, Run
from pipelines.project import Select
from pipelines.source import Source
from pipelines.transform import table_digests
from pipelines.transform.apply import Applier
from pipelines.transform.change_set import ChangeSet
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse
from pipelines.warehouse.declare import metadata
from pipelines.warehouse.table_spec import TableSpec


def code_version(selects: Sequence[Select]) -> str:
    """Digest of a source's SELECT files together."""
    listed = "".join(f"{select.file.address} {select.file.digest}\n" for select in selects)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def pending_partitions(warehouse: Warehouse, source: Source) -> list[str]:
    """The partitions that hold what the SELECT files as they are have not derived yet; none where there are no such
    files.
    """
    selects = project.selects(source.name)
    if not selects:
        return []
    with warehouse.connect() as connection:
        rows = connection.execute(
            """
            select v.partition_key from staging.versions v
            where v.stream = any(%(streams)s) and v.latest
              and (v.attempted_sql is null or v.attempted_sql < %(code)s or v.attempted_sql > %(code)s) -- by the index
            union
            select o.partition_key from staging.observations o
            join staging.versions v on v.record_id = o.record_id and v.latest
            where o.stream = any(%(streams)s) and o.valid_from_run is null
              and v.valid_from_run is not null and v.payload_id is not null
              and (v.applied_sql is not null or v.attempted_sql is null)
            order by 1
            """,
            {"streams": list(source.streams.values()), "code": code_version(selects)},
        )
        return [row["partition_key"] for row in rows]


def transform(
    warehouse: Warehouse,
    source: Source,
    partition: str,
    *,
    full: bool = False,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Brings a source's partition from staging into its tables; the closed run."""
    selects = project.selects(source.name)
    if not selects:
        raise project.without_selects(source.name)
    with (
        ledger.open_run(
            warehouse,
            source,
            "transform",
            partition,
            code_version=code_version(selects),
            dagster_run_id=dagster_run_id,
            notify=notify,
        ) as run,
        run.connection.transaction(),
    ):
        failpoints.reached("transform.begun")
        run.publish(*apply_pending(run, source, full=full))
        failpoints.reached("transform.published")
    failpoints.reached("transform.committed")
    return run


def apply_pending(run: Run, source: Source, *, full: bool = False) -> tuple[Counts, dict[str, Any]]:
    """Brings what waits in the run's partition into the tables, inside the caller's transaction; what became of it."""
    locks.acquire_for_transaction(run.connection, locks.transform(source.domain))
    failpoints.reached("transform.locked")
    return _Transform(run, source, project.selects(source.name)).all(full)


class _Transform:
    """One run's way from scope to tables, inside one transaction."""

    def __init__(self, run: Run, source: Source, selects: Sequence[Select]) -> None:
        self.run, self.connection, self.source, self.selects = run, run.connection, source, selects
        self.scope = ChangeSet(run.connection, source)
        self.code = code_version(selects)

    def all(self, full: bool) -> tuple[Counts, dict[str, Any]]:
        records = self.scope.begin(self.run.partition, full=full, code=self.code)
        tables = {select.table for select in self.selects} | (self._forsaken() if records else set())
        shapes = [TableSpec(table) for table in metadata.sorted_tables if table in tables]
        derivation = Applier(self.scope, [self.selects], shapes)
        counts = derivation.no_counts()
        failpoints.reached("transform.scoped")
        if records:
            counts = derivation.all()
            failpoints.reached("transform.derived")
            record_applied(self.run, self.source, self.code)
            remember_sql(self.connection, self.selects)
            failpoints.reached("transform.remembered")
            self.run.advance(records)
        total = Counts()
        for each in counts.values():
            total += each
        stats = {
            "records": records,
            "tables": {name: vars(each) for name, each in counts.items()},
            "sql": {select.file.address: select.file.digest for select in self.selects},
            "left_out": derivation.unreadable,
            "content": table_digests.keep_up(self.connection, derivation),
        }
        return total, stats

    def _forsaken(self) -> set[Table]:
        """Tables that hold rows of the source, and that none of its SELECT files fills any more."""
        parameters = {"streams": list(self.source.streams.values()), "code": self.code}
        if not self.connection.execute(OTHER, parameters).rowcount:
            return set()
        filled = {select.table for select in self.selects}
        return {
            table
            for table in metadata.sorted_tables
            if table.schema == self.source.domain and "record_id" in table.columns and table not in filled
            if self.connection.execute(HOLDS.format(TableSpec(table).target), parameters).rowcount
        }


def record_applied(run: Run, source: Source, code: str) -> None:
    """Moves the versions and observations of the scope into force, and keeps what waits and what did not fit.

    No landing may retire them meanwhile. code: version of the SELECT files that derived them.
    """
    locks.acquire_for_transaction(run.connection, locks.landing(source.name))
    failpoints.reached("transform.takes_in")
    for number, statement in enumerate(INTO_FORCE):
        run.connection.execute(statement, {"run": run.id, "code": code})
        failpoints.reached("transform.took_in", str(number))
    quarantine.keep_rows(run, source)


def remember_sql(connection: Connection, selects: Sequence[Select]) -> None:
    """Keeps the texts of SELECT files, by digest."""
    for select in selects:
        connection.execute(
            """
            insert into ops.sql (digest, path, text) select %s, %s, %s
            where not exists (select from ops.sql where digest = %s)
            """,
            [select.file.digest, f"{select.file.address}.sql", select.file.text, select.file.digest],
        )


OTHER = """
select from staging.versions
where stream = any(%(streams)s) and latest and (attempted_sql < %(code)s or attempted_sql > %(code)s)
union all
select from scope join staging.versions v using (record_id)
where v.valid_from_run is not null and v.valid_to_run is null and v.applied_sql is distinct from %(code)s
limit 1
"""
"""Whether other SELECT files have derived anything of a source, or of the scope."""

HOLDS = sql.SQL(
    """
    select from {} t join staging.versions v using (record_id)
    where v.stream = any(%(streams)s) and v.valid_from_run is not null and v.valid_to_run is null limit 1
    """
)

INTO_FORCE = (
    # What is in force already, and was derived by other SQL before.
    """
    insert into staging.reapplied_versions (version_id, fetch_run_id)
    select version_id, %(run)s
    from scope s join staging.versions v using (version_id)
    where v.valid_from_run is not null and v.applied_sql is distinct from %(code)s
    """,
    """
    update staging.versions v set valid_to_run = %(run)s
    from scope s
    where v.record_id = s.record_id and v.valid_from_run is not null and v.valid_to_run is null
      and v.version_id <> s.version_id
    """,
    """
    update staging.versions v
    set valid_from_run = coalesce(v.valid_from_run, %(run)s), applied_sql = %(code)s, attempted_sql = %(code)s
    from scope s
    where v.version_id = s.version_id
      and (v.applied_sql is distinct from %(code)s or v.attempted_sql is distinct from %(code)s)
    """,
    # A SELECT that fails is not tried again before it, or the record, changes.
    """
    update staging.versions v set applied_sql = null, attempted_sql = %(code)s
    from left_out l
    where v.version_id = l.version_id and (v.applied_sql is not null or v.attempted_sql is distinct from %(code)s)
    """,
    """
    update staging.observations o set valid_from_run = %(run)s
    from seen s
    where o.observation_id = s.observation_id and o.valid_from_run is null
    """,
    """
    delete from staging.pending_rows w using scope s
    where w.record_id = s.record_id and not exists (
        select from waiting n
        where (n.record_id, n.table_name, n.key, n.reason) = (w.record_id, w.table_name, w.key, w.reason))
    """,
    """
    insert into staging.pending_rows (record_id, stream, table_name, key, reason)
    select distinct n.record_id, s.stream, n.table_name, n.key, n.reason
    from waiting n join scope s using (record_id)
    where not exists (
        select from staging.pending_rows w
        where (w.record_id, w.table_name, w.key, w.reason) = (n.record_id, n.table_name, n.key, n.reason))
    """,
)
