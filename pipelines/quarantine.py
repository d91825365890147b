"""Reads `staging.quarantine`: payloads and rows that were rejected, with the reason.

An entry that is seen again is only counted. It is closed when its record lands or its row is accepted, and opened again
if the fault returns. Not here: who writes the entries (`landing.publish`, `transform.run`).
"""

from typing import Any

from pipelines.errors import AtlasError
from pipelines.warehouse.database import Connection


def entries(connection: Connection, *, names: list[str] | None = None, closed: bool = False) -> list[dict[str, Any]]:
    """The entries without bytes and rows, oldest first. names: streams or sources; closed: closed ones too."""
    return connection.execute(
        """
        select quarantine_id, stage, granularity, stream, partition_key, external_id, request, reason, detail, path,
            byte_offset, table_name, row_key, constraint_name, seen, first_at, last_at, closed_at, first_run, last_run,
            closed_run, coalesce(path, constraint_name, 'byte ' || byte_offset) as "where"
        from staging.quarantine
        where (%(names)s::text[] is null or stream = any(%(names)s) or split_part(stream, '.', 1) = any(%(names)s))
          and (%(closed)s or closed_at is null)
        order by quarantine_id
        """,
        {"names": names, "closed": closed},
    ).fetchall()


def entry(connection: Connection, quarantine_id: int) -> dict[str, Any]:
    """One entry with its bytes or its row. Raises AtlasError if there is none of this number."""
    found = connection.execute("select * from staging.quarantine where quarantine_id = %s", [quarantine_id]).fetchone()
    if found is None:
        raise AtlasError(
            f"There is no quarantine entry {quarantine_id}. See them with: atlas quarantine list", usage=True
        )
    return found
