"""Deletes old events and ticks from Dagster's own database.

Events of assets stay, since Dagster reads from them which partitions are materialized, and so does the newest tick of
each sensor and schedule, from which it continues.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.maintenance.batches import delete_in_batches, vacuum
from pipelines.warehouse.database import Connection, Warehouse

TABLES = ["event_logs", "job_ticks", "runs"]


@contextmanager
def connect(warehouse: Warehouse) -> Iterator[Connection | None]:
    """A connection to Dagster's database; None where it does not exist or Dagster has not created its tables."""
    database = str(warehouse.dagster_url.database)
    if database not in warehouse.databases():
        yield None
        return
    with warehouse.connect(database) as connection:
        query = "select count(to_regclass(name)) = 3 as complete from unnest(%s::text[]) name"
        row = connection.execute(query, [TABLES]).fetchone()
        yield connection if row and row["complete"] else None


def prune(connection: Connection, days: int, advance: Callable[[int], None]) -> Counter[str]:
    """Deletes what is older than some days; how many rows of each kind."""
    removed: Counter[str] = Counter()
    for kind, statement in DELETE.items():
        removed[kind] += delete_in_batches(connection, statement, {"events_days": days}, [], advance)
    if not connection.info.transaction_status:
        vacuum(connection, [table for table, kind in zip(TABLES, DELETE, strict=False) if removed[kind]])
    return removed


DELETE = {
    "dagster events": """
        with deleted as (
            delete from event_logs
            where id = any(array(
                select e.id from event_logs e left join runs r using (run_id)
                where e.asset_key is null
                  and e.timestamp < now() at time zone 'utc' - make_interval(days => %(events_days)s)
                  and coalesce(r.status in ('SUCCESS', 'FAILURE', 'CANCELED'), true)
                limit %(batch)s))
            returning 1
        )

        select count(*) as deleted, count(*) as selected from deleted
    """,
    "dagster ticks": """
        with deleted as (
            delete from job_ticks
            where id = any(array(
                select t.id from job_ticks t
                where t.timestamp < now() at time zone 'utc' - make_interval(days => %(events_days)s)
                  and exists (select from job_ticks n where n.selector_id = t.selector_id and n.timestamp > t.timestamp)
                limit %(batch)s))
            returning 1
        )

        select count(*) as deleted, count(*) as selected from deleted
    """,
}
