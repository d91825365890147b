"""`staging.quarantine`: whatever is not where it should be, with its exact bytes or its row, and why.

One entry a (stream, digest) at landing and one a (record, table, key, constraint) at transform. Seen again, an entry
only counts; it closes when its record lands or its row fits, and opens again if the fault comes back. Belongs here:
writing and reading entries. Not: deciding what is bad (`landing`, `transform`).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any
from uuid import UUID

from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.warehouse.database import Connection


@dataclass(frozen=True, slots=True)
class Rejected:
    """A payload that did not land."""

    stream: str
    body: bytes
    digest: bytes
    request: str
    external_id: str | None
    reason: str
    detail: str
    path: str | None = None
    byte_offset: int | None = None


def note(connection: Connection, run_id: UUID, rejected: Sequence[Rejected]) -> None:
    """Notes rejected payloads until the landing publishes."""
    connection.cursor().executemany(
        """
        insert into staging.rejects
            (fetch_run_id, stream, bytes, digest, request, external_id, reason, detail, path, byte_offset)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [(run_id, *astuple(each)) for each in rejected],
    )


def keep_payloads(run: Run) -> None:
    """Keeps the exact bytes of what a landing rejected; a payload that was seen before only counts."""
    run.connection.execute(
        """
        insert into staging.quarantine
            (stage, stream, partition_key, external_id, record_id, request, reason, detail, path, byte_offset,
             digest, bytes, first_run, last_run)
        select
            'land', stream, %(partition)s, external_id,
            case when external_id is not null then ops.key(stream, external_id) end, request,
            reason, detail, path, byte_offset, digest, bytes, %(run)s, %(run)s
        from (
            select distinct on (stream, digest) *
            from staging.rejects
            where fetch_run_id = %(run)s
            order by stream, digest, place
        ) as r
        order by place
        on conflict (stream, digest) where stage = 'land' do update set
            reason = excluded.reason, detail = excluded.detail, path = excluded.path,
            byte_offset = excluded.byte_offset, last_run = excluded.last_run, last_at = now(),
            partition_key = greatest(quarantine.partition_key, excluded.partition_key),
            seen = quarantine.seen + 1, closed_run = null, closed_at = null
        """,
        {"partition": run.partition, "run": run.id},
    )


def close_landed(run: Run) -> None:
    """Closes entries whose record landed in this run, as of that day or later (`judged` holds what it landed)."""
    run.connection.execute(
        """
        update staging.quarantine q set closed_run = %(run)s, closed_at = now()
        from judged j
        where q.stage = 'land' and q.stream = j.stream and q.closed_at is null and q.last_run <> %(run)s
          and (
              q.digest = j.digest
              or q.record_id = j.record_id and q.partition_key <= %(partition)s
                  and j.verdict in ('created', 'updated', 'unchanged', 'counted'))
        """,
        {"run": run.id, "partition": run.partition},
    )


def entries(connection: Connection, *, names: list[str] | None = None, closed: bool = False) -> list[dict[str, Any]]:
    """The entries without their bytes and rows, oldest first; open ones only unless `closed`. names: of these streams,
    or all streams of these sources.
    """
    return connection.execute(
        """
        select quarantine_id, stage, stream, partition_key, external_id, request, reason, detail, path, byte_offset,
            table_name, row_key, constraint_name, seen, first_at, last_at, closed_at, first_run, last_run, closed_run
        from staging.quarantine
        where (%(names)s::text[] is null or stream = any(%(names)s) or split_part(stream, '.', 1) = any(%(names)s))
          and (%(closed)s or closed_at is null)
        order by quarantine_id
        """,
        {"names": names, "closed": closed},
    ).fetchall()


def entry(connection: Connection, quarantine_id: int) -> dict[str, Any]:
    """One entry whole, with its bytes or its row."""
    found = connection.execute("select * from staging.quarantine where quarantine_id = %s", [quarantine_id]).fetchone()
    if found is None:
        raise AtlasError(
            f"There is no quarantine entry {quarantine_id}. See them with: atlas quarantine list", usage=True
        )
    return found


def close_mended(run: Run, quarantine_id: int) -> None:
    """Closes the entry that a mended payload was brought in for, unless that is of another record."""
    run.connection.execute(
        """
        update staging.quarantine q set closed_run = %s, closed_at = now()
        where q.quarantine_id = %s and q.closed_at is null
          and (q.record_id is null or exists (select from judged j where j.record_id = q.record_id))
        """,
        [run.id, quarantine_id],
    )
