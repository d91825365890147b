"""`ops.fetch_runs`: one row for each landing and each transform, opened before any work and closed with it.

A run is closed in the transaction that publishes its data, so the ledger and the tables cannot disagree. While it
works it holds an advisory lock under its id; whoever can take that lock knows that the process is gone, and `reap`
then closes the row truthfully. Belongs here: rows of `ops.fetch_runs` and `ops.sources`. Not: what a run does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from pipelines import failpoints
from pipelines.errors import AtlasError
from pipelines.source import Source
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

RunKind = Literal["land", "transform", "rebuild", "prune", "erase"]
Status = Literal["in_progress", "completed", "failed", "partial_success"]


@dataclass
class Counts:
    """What became of everything a run fetched; `deleted` stands outside the sum."""

    fetched: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    quarantined: int = 0
    duplicates: int = 0

    def __iadd__(self, other: "Counts") -> "Counts":
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


@dataclass
class Run:
    """A run while it works, and what it did once it is closed. `done` grows as items pass, for progress displays."""

    id: UUID
    source: str
    kind: RunKind
    partition: str
    connection: Connection
    notify: Callable[["Run"], None]
    status: Status = "in_progress"
    counts: Counts = field(default_factory=Counts)
    stats: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    error: str | None = None

    def advance(self, items: int) -> None:
        """Tells whoever watches that `items` more have passed."""
        self.done += items
        self.notify(self)

    def publish(
        self,
        counts: Counts,
        stats: dict[str, Any],
        *,
        cursor_from: dict[str, Any] | None = None,
        cursor_to: dict[str, Any] | None = None,
    ) -> None:
        """Closes the row inside the caller's transaction; it shows when that commits, with the data."""
        self.counts, self.stats = counts, stats
        self.status = "partial_success" if counts.quarantined else "completed"
        failpoints.reached("ledger.publishing")
        self.connection.execute(
            """
            update ops.fetch_runs set
                publish_seq = nextval('ops.publish_seq'), status = %(status)s, ended_at = clock_timestamp(),
                fetched = %(fetched)s, created = %(created)s, updated = %(updated)s, unchanged = %(unchanged)s,
                deleted = %(deleted)s, quarantined = %(quarantined)s, duplicates = %(duplicates)s, stats = %(stats)s,
                cursor_from = %(cursor_from)s, cursor_to = %(cursor_to)s
            where fetch_run_id = %(id)s and status = 'in_progress'
            """,
            {
                **asdict(counts),
                "status": self.status,
                "stats": Jsonb(stats),
                "cursor_from": Jsonb(cursor_from) if cursor_from else None,
                "cursor_to": Jsonb(cursor_to) if cursor_to else None,
                "id": self.id,
            },
        )
        failpoints.reached("ledger.published")


def silent(_: Run) -> None:
    """Watches nothing."""


@contextmanager
def reading(warehouse: Warehouse) -> Iterator[Connection]:
    """A connection for what reads for long and is no run: a migration waits for it, and it for a migration."""
    with warehouse.connect() as connection:
        locks.acquire_shared(connection, locks.MIGRATION)
        yield connection


@contextmanager
def opened(
    warehouse: Warehouse,
    subject: Source | str,
    kind: RunKind,
    partition: str,
    *,
    code_version: str,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = silent,
) -> Iterator[Run]:
    """A run in the ledger; the block must `publish` it. Whatever ends the block otherwise is written as its error.

    subject: the source, or the name of what is no source's alone, such as a domain.
    """
    with reading(warehouse) as connection:
        run = Run(
            _insert(connection, subject, kind, partition, code_version, dagster_run_id),
            subject if isinstance(subject, str) else subject.name,
            kind,
            partition,
            connection,
            notify,
        )
        notify(run)
        failpoints.reached("ledger.opened")
        try:
            yield run
            failpoints.reached("ledger.ended")
        except BaseException as error:
            run.status, run.counts = "failed", Counts()
            run.error = _words(error)
            _fail(warehouse, run)
            raise
        finally:
            notify(run)


def _insert(
    connection: Connection,
    subject: Source | str,
    kind: RunKind,
    partition: str,
    code_version: str,
    dagster_run_id: str | None,
) -> UUID:
    failpoints.reached("ledger.opening")
    with connection.transaction():
        if isinstance(subject, Source):
            locks.acquire_for_transaction(connection, locks.SOURCES)
            connection.execute(DECLARE, {"name": subject.name, "kind": subject.kind, "base_url": subject.base_url})
        failpoints.reached("ledger.declared")
        row = connection.execute(
            """
            insert into ops.fetch_runs
                (source_id, stream, kind, asset_key, partition_key, dagster_run_id, status, code_version)
            values (
                case when %(declared)s then ops.key(%(name)s) end, %(name)s, %(kind)s, %(name)s, %(partition)s,
                %(dagster)s, 'in_progress', %(code)s)
            returning fetch_run_id
            """,
            {
                "declared": isinstance(subject, Source),
                "name": subject.name if isinstance(subject, Source) else subject,
                "kind": kind,
                "partition": partition,
                "dagster": dagster_run_id,
                "code": code_version,
            },
        ).fetchone()
        assert row is not None
        failpoints.reached("ledger.inserted")
        locks.acquire(connection, locks.run(row["fetch_run_id"]))
        failpoints.reached("ledger.locked")
    return UUID(str(row["fetch_run_id"]))


def _words(error: BaseException) -> str:
    if isinstance(error, AtlasError):
        return str(error)
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "interrupted"


def _fail(warehouse: Warehouse, run: Run) -> None:
    """Writes the error on a connection of its own: the run's may be the very thing that broke."""
    failpoints.reached("ledger.failing")
    with warehouse.connect() as connection:
        _close_failed(connection, run.id, str(run.error))
    failpoints.reached("ledger.failed")


def _close_failed(connection: Connection, run_id: UUID, words: str) -> None:
    with connection.transaction():
        connection.execute(
            """
            update ops.fetch_runs set status = 'failed', ended_at = clock_timestamp(), error_text = %s
            where fetch_run_id = %s and status in ('pending', 'in_progress')
            """,
            [words[:10_000].replace("\x00", ""), run_id],
        )
        failpoints.reached("ledger.closed")
        for name in ("arrivals", "rejects"):
            connection.execute(
                sql.SQL(
                    """
                    delete from staging.{} k
                    where k.fetch_run_id = %(run)s
                      and not exists (select from staging.checkpoints c where c.fetch_run_id = %(run)s)
                    """
                ).format(sql.Identifier(name)),
                {"run": run_id},
            )
            failpoints.reached("ledger.discarded", name)


def reap(warehouse: Warehouse) -> list[UUID]:
    """Closes the runs whose process is gone; those runs. Bodies they wrote stay and are taken up by digest.

    What runs kept for their own resumption, and nobody has taken up for a day, goes.
    """
    reaped = []
    with warehouse.connect() as connection:
        open_runs = connection.execute(
            "select fetch_run_id from ops.fetch_runs where status in ('pending', 'in_progress') order by 1"
        ).fetchall()
        failpoints.reached("reap.read")
        for row in open_runs:
            run_id = UUID(str(row["fetch_run_id"]))
            if locks.try_acquire(connection, locks.run(run_id)):
                failpoints.reached("reap.taken")
                _close_failed(connection, run_id, "the process ended without a word; what it had not published is gone")
                failpoints.reached("reap.closed")
                locks.release(connection, locks.run(run_id))
                failpoints.reached("reap.unlocked")
                reaped.append(run_id)
        for name in ("arrivals", "rejects", "checkpoints"):
            connection.execute(sql.SQL(FORGET_OLD).format(sql.Identifier(name)))
            failpoints.reached("reap.forgotten", name)
    return reaped


DECLARE = """
merge into ops.sources t
using (select ops.key(%(name)s) as source_id, %(name)s as name, %(kind)s as kind, %(base_url)s as base_url) s
on t.source_id = s.source_id
when matched and (t.kind, t.base_url, t.is_active) is distinct from (s.kind, s.base_url, true) then
    update set kind = s.kind, base_url = s.base_url, is_active = true
when not matched then
    insert (source_id, name, kind, base_url) values (s.source_id, s.name, s.kind, s.base_url)
"""

FORGET_OLD = """
delete from staging.{}
where fetch_run_id = any(array(
    select fetch_run_id from ops.fetch_runs
    where status = 'failed' and kind = 'land'
      and started_at between now() - interval '9 days' and now() - interval '1 day'
))
"""
"""What nobody takes up any more."""
