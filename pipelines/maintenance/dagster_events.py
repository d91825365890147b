"""Deletes old events from Dagster's own database.

Events of assets stay, since Dagster reads from them which partitions are materialized. Not here: ticks of sensors and
schedules, which Dagster deletes by itself (`retention` in `orchestration/dagster.yaml`).
"""

from collections.abc import Callable
from contextlib import nullcontext

from psycopg import sql

from pipelines.maintenance.batches import delete_in_batches
from pipelines.warehouse.database import Warehouse


def delete(warehouse: Warehouse, days: int, advance: Callable[[int], None], *, dry_run: bool = False) -> int:
    """Deletes the events of finished runs that are older than some days; returns how many. dry_run: rolls back."""
    database = str(warehouse.dagster_url.database)
    if database not in warehouse.databases():
        return 0
    with warehouse.connect(database) as connection:
        if not connection.execute("select where to_regclass('event_logs') is not null").rowcount:
            return 0
        with connection.transaction(force_rollback=True) if dry_run else nullcontext():
            deleted = delete_in_batches(connection, DELETE, {"days": days}, [], advance)
        if deleted and not dry_run:
            connection.execute("vacuum event_logs")
    return deleted


DELETE = sql.SQL("""
delete from event_logs
where id = any(array(
    select e.id from event_logs e left join runs r using (run_id)
    where e.asset_key is null and e.timestamp < now() at time zone 'utc' - make_interval(days => %(days)s)
      and coalesce(r.status in ('SUCCESS', 'FAILURE', 'CANCELED'), true)
    limit %(batch)s))
""")
