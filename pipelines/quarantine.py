"""Reads `staging.quarantine`: payloads, rows and values that were rejected, with the reason.

An entry that is seen again is only counted. It is closed when its record lands or its row or value is accepted, and
opened again if the fault returns. Rows that refer to a rejected row wait for it in `staging.pending_rows`, and are
counted on its entry. Not here: who writes the entries (`landing.publish`, `transform.run`).
"""

from collections.abc import Sequence
from typing import Any

from pipelines.errors import AtlasError
from pipelines.source import Stream
from pipelines.warehouse.database import Connection

CHOSEN = """
with chosen as (
    select q.*, (
            select coalesce(sum(p.rows), 0)::bigint from staging.pending_rows p
            where q.granularity = 'row' and q.closed_at is null
              and (p.table_name, p.key, p.reason) = (q.table_name, q.row_key, 'parent')) as referring_rows
    from staging.quarantine q
    where (%(names)s::text[] is null or stream = any(%(names)s) or split_part(stream, '.', 1) = any(%(names)s))
      and (%(closed)s or closed_at is null)
)
"""

SELECT_ENTRIES = """
select quarantine_id, stage, granularity, stream, partition_key, external_id, request, reason, detail, path,
    byte_offset, table_name, row_key, constraint_name, referring_rows, seen, first_at, last_at, closed_at, first_run,
    last_run, closed_run, coalesce(path, constraint_name, 'byte ' || byte_offset) as "where"
from chosen
order by quarantine_id
"""

SELECT_ENTRY = "select * from chosen where quarantine_id = %(number)s"

SELECT_GROUPS = """
select stream, granularity, table_name, reason,
    regexp_replace(coalesce(path, constraint_name), '\\[[0-9]+\\]', '[*]', 'g') as "where",
    count(*) as entries, sum(seen)::bigint as seen, max(last_at) as last_at,
    sum(referring_rows)::bigint as referring_rows, max(quarantine_id) as example
from chosen
group by 1, 2, 3, 4, 5
order by split_part(stream, '.', 1), table_name nulls first, stream, granularity, reason, "where" nulls first
"""


def entries(connection: Connection, *, names: list[str] | None = None, closed: bool = False) -> list[dict[str, Any]]:
    """The entries without bytes and rows, oldest first. names: streams or sources; closed: closed ones too."""
    return connection.execute(f"{CHOSEN}{SELECT_ENTRIES}", {"names": names, "closed": closed}).fetchall()


def groups(connection: Connection, *, names: list[str] | None = None, closed: bool = False) -> list[dict[str, Any]]:
    """The entries by stream, table, reason and place: how many, how often seen, the newest time, the newest entry.

    names, closed: as for `entries`.
    """
    return connection.execute(f"{CHOSEN}{SELECT_GROUPS}", {"names": names, "closed": closed}).fetchall()


def entry(connection: Connection, quarantine_id: int) -> dict[str, Any]:
    """One entry with its bytes or its row. Raises AtlasError if there is none of this number."""
    parameters = {"names": None, "closed": True, "number": quarantine_id}
    found = connection.execute(f"{CHOSEN}{SELECT_ENTRY}", parameters).fetchone()
    if found is None:
        raise AtlasError(
            f"There is no quarantine entry {quarantine_id}. See them with: atlas quarantine list", usage=True
        )
    return found


NEWEST = """
with newest as (
    select distinct on (stream) fetch_run_id, dagster_run_id from ops.fetch_runs
    where kind = %(kind)s and publish_seq <= coalesce(%(publish_seq)s, publish_seq) and stream = any(%(streams)s)
    order by stream, publish_seq desc
),

runs as (
    select distinct r.fetch_run_id,
        case when %(table)s::text is null then to_jsonb(r) else r.stats -> 'tables' -> %(table)s end as counts
    from ops.fetch_runs r join newest n on n.fetch_run_id = r.fetch_run_id or n.dagster_run_id = r.dagster_run_id
    where r.kind = %(kind)s and r.stream = any(%(streams)s)
),

found as (
    select granularity, reason, coalesce(path, constraint_name) as "where", opened_run from staging.quarantine
    where closed_at is null and stage = %(kind)s
      and (stream = any(%(names)s) or split_part(stream, '.', 1) = any(%(names)s))
      and (%(table)s::text is null or table_name = %(table)s)
)

select (select coalesce(sum((counts ->> 'fetched')::bigint), 0)::bigint from runs) as fetched,
    (select coalesce(sum((counts ->> 'quarantined')::bigint), 0)::bigint from runs) as quarantined,
    (select count(*) from found) as open,
    (select count(*) from found where opened_run in (select fetch_run_id from runs)) as new,
    (select coalesce(jsonb_agg(to_jsonb(g) order by entries desc, g), '[]') from (
        select granularity, reason, "where", count(*) as entries from found
        where opened_run in (select fetch_run_id from runs)
        group by granularity, reason, "where") as g) as groups
"""


def newest(
    connection: Connection, streams: Sequence[Stream], table: str | None, publish_seq: int | None = None
) -> dict[str, Any]:
    """What the newest landing of each stream, or its newest transform into a table, fetched, and how much they refused.

    A run of Dagster counts with all its partitions. open: entries; new: those that they opened, also again, by reason
    in `groups`. publish_seq: of the last run that counts, if not of all.
    """
    names = [stream.source.name if table else name for stream in streams for name in stream.names.values()]
    parameters = {"kind": "transform" if table else "land", "streams": [stream.name for stream in streams]}
    (row,) = connection.execute(NEWEST, parameters | {"names": names, "table": table, "publish_seq": publish_seq})
    return row


def reason(group: dict[str, Any]) -> str:
    """Why the entries of a group are there, and where."""
    return f"{group['reason']} at {group['where']}" if group["where"] else str(group["reason"])
