"""A partition's news from staging into the tables, in one transaction under the domain's lock.

    scope ──> Derivation ──> from_run, to_run, waits, quarantine, content, ledger

The scope is the one idea: the versions that the SELECTs see (`scope`). A normal run takes the partition's latest
versions that no transform has taken in, all of them with `full` or when a SELECT's text has changed. Belongs here:
when, and what is kept of it. Not: what becomes of the rows (`deriving`).
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from pipelines import content, failpoints, house, ledger, quarantine
from pipelines.deriving import Derivation
from pipelines.house import Select
from pipelines.ledger import Counts, Run
from pipelines.scope import Scope
from pipelines.source import Source
from pipelines.warehouse.engine import Connection, Warehouse
from pipelines.warehouse.shape import Shape


def code_version(selects: Sequence[Select]) -> str:
    """Digest of a source's SELECT files together."""
    listed = "".join(f"{select.file.address} {select.file.digest}\n" for select in selects)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def waiting(warehouse: Warehouse, source: Source) -> list[str]:
    """The partitions that hold what no transform has taken in, or that other SELECTs were run over."""
    digests = {select.file.address: select.file.digest for select in house.selects(source.name)}
    with warehouse.connect() as connection:
        rows = connection.execute(
            """
            select partition_key from staging.versions
            where stream = any(%(streams)s) and latest and from_run is null
            union
            select o.partition_key from staging.observations o
            join staging.versions v on v.record_id = o.record_id and v.latest
            where o.stream = any(%(streams)s) and o.from_run is null
              and v.from_run is not null and v.payload_id is not null
            union
            select partition_key from (
                select distinct on (partition_key) partition_key, stats -> 'sql' as sql from ops.fetch_runs
                where stream = %(source)s and kind = 'transform' and published is not null
                order by partition_key, published desc
            ) as last
            where sql <> %(digests)s
            order by 1
            """,
            {"streams": list(source.streams.values()), "source": source.name, "digests": Jsonb(digests)},
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
    selects = house.selects(source.name)
    with (
        ledger.opened(
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
        run.publish(*take_in(run, source, full=full))
        failpoints.reached("transform.published")
    failpoints.reached("transform.committed")
    return run


def take_in(run: Run, source: Source, *, full: bool = False) -> tuple[Counts, dict[str, Any]]:
    """Brings what waits in the run's partition into the tables, inside the caller's transaction; what became of it."""
    run.connection.execute(ledger.LOCK_TO_COMMIT, [f"transform {source.domain}"])
    failpoints.reached("transform.locked")
    return _Transform(run, source, house.selects(source.name)).all(full)


class _Transform:
    """One run's way from scope to tables, inside one transaction."""

    def __init__(self, run: Run, source: Source, selects: Sequence[Select]) -> None:
        self.run, self.connection, self.source, self.selects = run, run.connection, source, selects
        self.scope = Scope(run.connection, source, [Shape(select.table) for select in selects])
        self.derivation = Derivation(self.scope, [selects])
        self.digests = {select.file.address: select.file.digest for select in selects}

    def all(self, full: bool) -> tuple[Counts, dict[str, Any]]:
        derivation = self.derivation
        records = self.scope.begin(
            self.run.partition, full=full or self._sql_changed(), code=code_version(self.selects)
        )
        counts = derivation.no_counts()
        failpoints.reached("transform.scoped")
        if records:
            counts = derivation.all()
            failpoints.reached("transform.derived")
            self._take_in()
            quarantine.keep_rows(self.run)
            remember_sql(self.connection, self.selects)
            failpoints.reached("transform.remembered")
            self.run.advance(records)
        total = Counts()
        for each in counts.values():
            total += each
        stats = {
            "records": records,
            "tables": {name: vars(each) for name, each in counts.items()},
            "sql": self.digests,
            "content": content.keep_up(self.connection, derivation),
        }
        return total, stats

    def _sql_changed(self) -> bool:
        last = self.connection.execute(
            """
            select stats -> 'sql' as sql from ops.fetch_runs
            where stream = %s and kind = 'transform' and partition_key = %s and published is not null
            order by published desc limit 1
            """,
            [self.run.source, self.run.partition],
        ).fetchone()
        return last is not None and last["sql"] != self.digests

    def _take_in(self) -> None:
        """Moves the versions and observations of the scope into force; no landing may retire them meanwhile."""
        self.connection.execute(ledger.LOCK_TO_COMMIT, [f"land {self.run.source}"])
        failpoints.reached("transform.takes_in")
        parameters = {"run": self.run.id, "source": self.run.source, "code": code_version(self.selects)}
        for number, statement in enumerate(TAKE_IN):
            self.connection.execute(statement, parameters)
            failpoints.reached("transform.took_in", str(number))


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


TAKE_IN = (
    # What is in force already, and was derived by other SQL before.
    """
    insert into staging.derivations (version_id, fetch_run_id)
    select s.version_id, %(run)s
    from scope s
    join staging.versions v using (version_id)
    cross join lateral (
        select coalesce(r.stats -> 'code' ->> %(source)s, r.code_version) as code_version from ops.fetch_runs r
        where r.fetch_run_id = any(array(
            select v.from_run union all
            select d.fetch_run_id from staging.derivations d where d.version_id = s.version_id))
        order by r.published desc limit 1
    ) as last
    where v.from_run is not null and last.code_version <> %(code)s
      and exists (
          select from ops.fetch_runs r
          where r.stream = %(source)s and r.kind in ('transform', 'erase') and r.published is not null
            and r.code_version <> %(code)s
             or r.kind = 'rebuild' and r.stats -> 'code' ->> %(source)s <> %(code)s)
    """,
    """
    update staging.versions v set to_run = %(run)s
    from scope s
    where v.record_id = s.record_id and v.from_run is not null and v.to_run is null and v.version_id <> s.version_id
    """,
    """
    update staging.versions v set from_run = %(run)s
    from scope s
    where v.version_id = s.version_id and v.from_run is null
    """,
    """
    update staging.observations o set from_run = %(run)s
    from seen s
    where o.observation_id = s.observation_id and o.from_run is null
    """,
    """
    delete from staging.waits w using scope s
    where w.record_id = s.record_id and not exists (
        select from waiting n
        where (n.record_id, n.table_name, n.key, n.reason) = (w.record_id, w.table_name, w.key, w.reason))
    """,
    """
    insert into staging.waits (record_id, stream, table_name, key, reason)
    select distinct n.record_id, s.stream, n.table_name, n.key, n.reason
    from waiting n join scope s using (record_id)
    where not exists (
        select from staging.waits w
        where (w.record_id, w.table_name, w.key, w.reason) = (n.record_id, n.table_name, n.key, n.reason))
    """,
)
