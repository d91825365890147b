"""Runs a transform: one partition of a stream, from staging to its tables, in one transaction under the domain's lock.

    change_set ──> apply ──> valid_from_run, valid_to_run · pending rows · quarantine · table digests · ledger

Not here: how rows are written (`apply`).
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from psycopg import sql
from sqlalchemy import Table

from pipelines import ledger, project
from pipelines.ledger import Counts, Run
from pipelines.project import Select
from pipelines.schema import partitions
from pipelines.schema.table_spec import TableSpec, tables_of
from pipelines.source import Stream
from pipelines.transform import rejects, table_digests
from pipelines.transform.apply import Applier
from pipelines.transform.change_set import ChangeSet, Edition, code_version, current_editions
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse


def pending_partitions(warehouse: Warehouse, stream: Stream, *, full: bool = False) -> list[str]:
    """The partitions with versions that are pending for the SELECT files, or with `full` those with a latest one."""
    selects = project.selects(stream.source.name)
    if not selects:
        return []
    with warehouse.connect() as connection:
        rows = connection.execute(
            """
            select distinct partition_key from staging.pending_versions(%(code)s)
            where stream = any(%(streams)s)
            union
            select partition_key from staging.versions where latest and stream = any(%(streams)s) and %(full)s
            order by 1
            """,
            {"streams": list(stream.names.values()), "code": code_version(selects), "full": full},
        )
        return [row["partition_key"] for row in rows]


def transform(
    warehouse: Warehouse,
    stream: Stream,
    partition: str,
    *,
    full: bool = False,
    shrink: bool = False,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Applies the pending versions of a partition of a stream to the tables; returns the closed run.

    shrink: accepts that a SELECT file fails on many records, and that many rows are deleted. Raises AtlasError where
    one does without it, or cannot be run.
    """
    selects = project.selects(stream.source.name)
    if not selects:
        raise project.without_selects(stream.source.name)
    code = code_version(selects)
    with (
        ledger.open_run(
            warehouse, stream, "transform", partition, code_version=code, dagster_run_id=dagster_run_id, notify=notify
        ) as run,
        run.connection.transaction(),
    ):
        run.close(*apply_pending(run, stream, full=full, shrink=shrink))
    partitions.split_defaults(warehouse, stream.source.domain)
    return run


def apply_pending(
    run: Run, stream: Stream, *, full: bool = False, shrink: bool = False, pruned: Collection[Table] = ()
) -> tuple[Counts, dict[str, Any]]:
    """Applies the pending versions of the run's partition in the caller's transaction; returns counts and stats.

    pruned: tables of which rows of the change set's records go, though no SELECT file of the source fills them.
    """
    source = stream.source
    locks.acquire_for_transaction(run.connection, locks.transform(source.domain))
    command = f"atlas transform {stream.name} --partition {run.partition}"
    others = [each for each in current_editions(source.domain) if each.source.name != source.name]
    editions = [Edition(source, project.selects(source.name)), *others]
    change_set = ChangeSet(run.connection, editions, command)
    records = change_set.start(list(stream.names.values()), run.partition, full=full)
    if not records:
        tables = {select.table.fullname: Counts() for select in project.selects(source.name)}
        return run_stats(0, tables, project.selects(source.name), {})
    pruned = {*pruned, *_tables_without_select(run.connection, stream)}
    # Records that were applied before may have lost keys: without conflicts that are found too late nothing is written.
    applier = Applier(change_set, pruned=pruned, shrink=shrink, compares_first=full)
    counts = applier.apply()
    record_applied(run, change_set)
    selects = [select for number in change_set.used_editions() for select in change_set.editions[number].selects]
    record_sql(run.connection, selects)
    run.advance(records)
    totals, stats = run_stats(records, counts, selects, table_digests.update(applier), applier)
    return totals, stats | {"taken_along": change_set.taken_along()}


def run_stats(
    records: int,
    counts: dict[str, Counts],
    selects: Sequence[Select],
    digests: dict[str, table_digests.Contents],
    applier: Applier | None = None,
) -> tuple[Counts, dict[str, Any]]:
    """The counts and stats that close a run, from those of each table. applier: None where nothing was applied."""
    kept = applier.kept if applier else {}
    return sum(counts.values(), Counts()), {
        "records": records,
        "tables": {name: vars(each) for name, each in counts.items()},
        "sql": {select.file.address: select.file.digest for select in selects},
        "table_digests": digests,
        "kept": {name: number for name, number in kept.items() if number},
        "values": rejects.count_values(applier.connection) if applier else 0,
    }


def _tables_without_select(connection: Connection, stream: Stream) -> set[Table]:
    """Tables with rows of the stream that none of its source's SELECT files fills any more."""
    selects = project.selects(stream.source.name)
    filled = {select.table for select in selects}
    parameters = {"streams": list(stream.names.values()), "code": code_version(selects)}
    applied_others = """
        select from staging.versions
        where stream = any(%(streams)s) and latest and (applied_sql < %(code)s or applied_sql > %(code)s)
        union all
        select from change_set join staging.effective_versions e using (record_id)
        where e.applied_sql is distinct from %(code)s
        limit 1
    """
    if not connection.execute(applied_others, parameters).rowcount:
        return set()
    has_rows = sql.SQL(
        "select from {} t join staging.effective_versions e using (record_id) where e.stream = any(%(streams)s) limit 1"
    )
    return {
        spec.table
        for spec in tables_of(stream.source.domain)
        if spec.owned and spec.table not in filled
        if connection.execute(has_rows.format(spec.target), parameters).rowcount
    }


RECORD = (
    # Effective versions to which other SELECT files were applied before.
    """
    insert into staging.reapplied_versions (version_id, fetch_run_id)
    select version_id, %(run)s
    from change_set c join editions n using (edition) join staging.effective_versions e using (version_id)
    where e.applied_sql is distinct from n.code
    """,
    """
    update staging.effective_versions e set valid_to_run = %(run)s
    from change_set c
    where e.record_id = c.record_id and e.version_id <> c.version_id
    """,
    """
    update staging.versions v
    set valid_from_run = coalesce(v.valid_from_run, %(run)s), applied_sql = n.code
    from change_set c join editions n using (edition)
    where v.version_id = c.version_id and v.applied_sql is distinct from n.code
    """,
    """
    update staging.observations o set valid_from_run = %(run)s
    from change_set_observations c
    where o.observation_id = c.observation_id and o.valid_from_run is null
    """,
    """
    delete from staging.pending_rows p using change_set c
    where p.record_id = c.record_id and not exists (
        select from found_pending_rows f
        where (f.record_id, f.table_name, f.key, f.reason) = (p.record_id, p.table_name, p.key, p.reason)
        having count(*) = p.rows)
    """,
    """
    insert into staging.pending_rows (record_id, stream, table_name, key, reason, rows)
    select f.record_id, c.stream, f.table_name, f.key, f.reason, count(*)
    from found_pending_rows f join change_set c using (record_id)
    where not exists (
        select from staging.pending_rows p
        where (p.record_id, p.table_name, p.key, p.reason) = (f.record_id, f.table_name, f.key, f.reason))
    group by f.record_id, c.stream, f.table_name, f.key, f.reason
    """,
    "delete from staging.changed_rows c using changes_of_applications d where c.change_id = d.change_id",
    """
    delete from staging.aliases a using change_set c
    where a.record_id = c.record_id and not exists (
        select from found_aliases f
        where (f.record_id, f.table_name, f.lost_key, f.kept_key) = (a.record_id, a.table_name, a.lost_key, a.kept_key))
    """,
    """
    insert into staging.aliases (record_id, table_name, lost_key, kept_key)
    select distinct f.record_id, f.table_name, f.lost_key, f.kept_key from found_aliases f
    where not exists (
        select from staging.aliases a
        where (a.record_id, a.table_name, a.lost_key, a.kept_key) = (f.record_id, f.table_name, f.lost_key, f.kept_key))
    """,
    """
    insert into staging.quarantine
        (stage, granularity, stream, partition_key, external_id, record_id, request, reason, detail, table_name,
         row_key, constraint_name, row, first_run, opened_run, last_run)
    select distinct on (r.granularity, r.record_id, r.table_name, r.row_key, r.constraint_name)
        'transform', r.granularity, split_part(coalesce(v.stream, %(stream)s), '.', 1),
        coalesce(v.partition_key, %(partition)s), v.external_id, r.record_id, v.request, r.reason, r.detail,
        r.table_name, r.row_key, r.constraint_name, r.row, %(run)s, %(run)s, %(run)s
    from rejected_rows r
    left join staging.versions v on v.record_id = r.record_id and v.latest
    order by r.granularity, r.record_id, r.table_name, r.row_key, r.constraint_name, r.row
    on conflict (entry_key) do update set
        opened_run = case when quarantine.closed_at is null then quarantine.opened_run else excluded.opened_run end,
        reason = excluded.reason, detail = excluded.detail, row = excluded.row, last_run = excluded.last_run,
        last_at = now(), seen = quarantine.seen + 1, closed_run = null, closed_at = null
    """,
    """
    update staging.quarantine q set closed_run = %(run)s, closed_at = now()
    from change_set c
    where q.stage = 'transform' and q.closed_at is null and q.last_run <> %(run)s and q.record_id = c.record_id
      and (c.all_observations or q.table_name <> all(%(time_series)s))
    """,
    # A shared row has no record: its entry stays open as long as a row is pending for it.
    """
    update staging.quarantine q set closed_run = %(run)s, closed_at = now()
    where q.stage = 'transform' and q.stream in (select source from editions) and q.closed_at is null
      and q.last_run <> %(run)s and q.record_id is null
      and not exists (
          select from staging.pending_rows p
          where (p.table_name, p.key, p.reason) = (q.table_name, q.row_key, 'parent'))
    """,
)


def record_applied(run: Run, change_set: ChangeSet) -> None:
    """Makes the versions and observations of the change set effective; writes pending and rejected rows to staging, and
    closes the entries whose rows fit now.
    """
    tables = [TableSpec(select.table) for edition in change_set.editions for select in edition.selects]
    parameters = {"run": run.id, "stream": run.stream, "partition": run.partition}
    parameters["time_series"] = [spec.name for spec in tables if spec.time_series]
    for number in change_set.used_editions():  # a landing changes the same versions
        locks.acquire_for_transaction(run.connection, locks.landing(change_set.editions[number].source.name))
    for statement in RECORD:
        run.connection.execute(statement, parameters)


def record_sql(connection: Connection, selects: Sequence[Select]) -> None:
    """Keeps the texts of SELECT files in `ops.sql`, by digest."""
    files = [select.file for select in selects]
    connection.execute(
        """
        insert into ops.sql (digest, path, text) select * from unnest(%s::text[], %s::text[], %s::text[])
        on conflict do nothing
        """,
        [[file.digest for file in files], [f"{file.address}.sql" for file in files], [file.text for file in files]],
    )
