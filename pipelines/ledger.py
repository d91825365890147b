"""`ops.fetch_runs`: one row for each landing and each transform, opened before any work and closed with it.

    open_run ──> in_progress ──> Run.close: completed, partial_success
                      ├── exception in the block ──> failed
                      └── process killed ──> close_dead_runs: failed

A run is closed in the transaction that publishes its data, so the ledger and the tables cannot disagree. Each process
holds an advisory lock on the id of its run; a lock that another session can acquire means that the process is gone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from pipelines.errors import AtlasError
from pipelines.schema.staging_tables import UNPUBLISHED
from pipelines.source import Source, Stream
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

RunKind = Literal["land", "transform", "rebuild", "prune", "erase"]
Status = Literal["in_progress", "completed", "failed", "partial_success"]


@dataclass
class Counts:
    """The counts of a run. `fetched` is the sum of the others, `deleted` excepted."""

    fetched: int = 0
    created: int = 0
    updated: int = 0
    observed: int = 0
    unchanged: int = 0
    deleted: int = 0
    quarantined: int = 0
    pending: int = 0
    duplicates: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass
class Run:
    """A run: its state while it works, its counts once it is closed. `done` counts items, for displays."""

    id: UUID
    stream: str  # its name, or that of a source or a domain for a run of several streams
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
        """Adds to `done` and notifies."""
        self.done += items
        self.notify(self)

    def close(
        self,
        counts: Counts,
        stats: dict[str, Any],
        *,
        cursor_from: dict[str, Any] | None = None,
        cursor_to: dict[str, Any] | None = None,
    ) -> None:
        """Closes the row in the caller's transaction, so that it becomes visible together with the data.

        It is a partial success if something is in quarantine, or a record could not be fetched (stats["unfetched"]).
        """
        self.counts, self.stats = counts, stats
        self.status = "partial_success" if counts.quarantined or stats.get("unfetched") else "completed"
        values = {**asdict(counts), "status": self.status, "stats": Jsonb(stats), "id": self.id}
        values["cursor_from"] = Jsonb(cursor_from) if cursor_from else None
        values["cursor_to"] = Jsonb(cursor_to) if cursor_to else None
        self.connection.execute(
            """
            update ops.fetch_runs set
                publish_seq = nextval('ops.publish_seq'), status = %(status)s, ended_at = clock_timestamp(),
                fetched = %(fetched)s, created = %(created)s, updated = %(updated)s, observed = %(observed)s,
                unchanged = %(unchanged)s, deleted = %(deleted)s, quarantined = %(quarantined)s, pending = %(pending)s,
                duplicates = %(duplicates)s, stats = %(stats)s,
                cursor_from = %(cursor_from)s, cursor_to = %(cursor_to)s
            where fetch_run_id = %(id)s and status = 'in_progress'
            """,
            values,
        )


@dataclass(frozen=True)
class EndedRun:
    """A row of the ledger that is closed."""

    id: UUID
    status: Status
    counts: Counts
    stats: dict[str, Any]

    @classmethod
    def of(cls, row: dict[str, Any]) -> "EndedRun":
        counts = Counts(**{name: row[name] for name in vars(Counts())})
        return cls(row["fetch_run_id"], row["status"], counts, row["stats"])


def silent(_: Run) -> None:
    """A `notify` that does nothing."""


@contextmanager
def open_reader(warehouse: Warehouse) -> Iterator[Connection]:
    """A connection for a long read that is not a run. It holds the migration lock shared, as a run does."""
    with warehouse.connect() as connection:
        locks.acquire_shared(connection, locks.MIGRATION)
        yield connection


@contextmanager
def open_run(
    warehouse: Warehouse,
    subject: Stream | Source | str,
    kind: RunKind,
    partition: str,
    *,
    code_version: str,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = silent,
) -> Iterator[Run]:
    """Inserts a run; the block must `close` it. An exception in the block closes the run as failed, and is raised.

    subject: the stream; the source, or the name of a domain, for a run of several streams.
    """
    name = subject if isinstance(subject, str) else subject.name
    source = subject.source if isinstance(subject, Stream) else subject
    with open_reader(warehouse) as connection:
        with connection.transaction():
            if isinstance(source, Source):
                _upsert_source(connection, source)
            row = connection.execute(
                """
                insert into ops.fetch_runs
                    (source_id, stream, kind, asset_key, partition_key, dagster_run_id, status, code_version)
                select (select source_id from ops.sources where name = %s), %s, %s, %s, %s, %s, 'in_progress', %s
                returning fetch_run_id
                """,
                [name.partition(".")[0], name, kind, name, partition, dagster_run_id, code_version],
            ).fetchone()
            assert row is not None
            locks.acquire(connection, locks.run(row["fetch_run_id"]))
        run = Run(row["fetch_run_id"], name, kind, partition, connection, notify)
        notify(run)
        try:
            yield run
        except BaseException as error:
            words = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else "interrupted"
            run.error = str(error) if isinstance(error, AtlasError) else words
            run.status, run.counts = "failed", Counts()
            with warehouse.connect() as other:  # the run's own connection may be broken
                _close_failed(other, run.id, run.error)
            raise
        finally:
            notify(run)


def _upsert_source(connection: Connection, source: Source) -> None:
    """Writes a source's row of ops.sources; one that is equal is not written."""
    locks.acquire_for_transaction(connection, locks.SOURCES)
    connection.execute(
        """
        merge into ops.sources t
        using (select %(name)s as name, %(kind)s as kind, %(base_url)s as base_url) s on t.name = s.name
        when matched and (t.kind, t.base_url, t.is_active) is distinct from (s.kind, s.base_url, true) then
            update set kind = s.kind, base_url = s.base_url, is_active = true
        when not matched then
            insert (source_id, name, kind, base_url) values (ops.key(s.name), s.name, s.kind, s.base_url)
        """,
        {"name": source.name, "kind": source.kind, "base_url": source.base_url},
    )


def _close_failed(connection: Connection, run_id: UUID, error: str) -> None:
    """Closes a run as failed, and deletes what it left unpublished, unless a checkpoint lets the next run resume it."""
    connection.execute(
        """
        update ops.fetch_runs set status = 'failed', ended_at = clock_timestamp(), error_text = %s
        where fetch_run_id = %s and status = 'in_progress'
        """,
        [error[:10_000].replace("\x00", ""), run_id],
    )
    _delete_unresumed(connection)


def _delete_unresumed(connection: Connection) -> None:
    """Deletes what failed landings left: without a checkpoint at once, with one that no run resumed after a day."""
    for name in UNPUBLISHED:
        connection.execute(sql.SQL(DELETE_UNRESUMED).format(sql.Identifier(name)))


def close_dead_runs(warehouse: Warehouse) -> list[UUID]:
    """Closes the runs whose process is gone, and returns their ids. The bodies that they wrote stay, and are reused."""
    closed = []
    in_progress = "select fetch_run_id from ops.fetch_runs where status = 'in_progress' order by 1"
    with warehouse.connect() as connection:
        for run_id in [row["fetch_run_id"] for row in connection.execute(in_progress)]:
            if locks.try_acquire(connection, locks.run(run_id)):
                _close_failed(connection, run_id, DIED)
                locks.release(connection, locks.run(run_id))
                closed.append(run_id)
        _delete_unresumed(connection)
    return closed


DIED = "the process ended before it closed the run; the next run resumes after its last checkpoint, or starts over"

DELETE_UNRESUMED = """
delete from staging.{0}
where fetch_run_id = any(array(
    select f.fetch_run_id from ops.fetch_runs f
    where f.status = 'failed' and f.kind = 'land'
      and exists (select from staging.{0} u where u.fetch_run_id = f.fetch_run_id)
      and (f.started_at < now() - interval '1 day'
           or not exists (select from staging.checkpoints c where c.fetch_run_id = f.fetch_run_id))
))
"""
