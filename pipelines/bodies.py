"""Writing what a landing examined: bodies, what arrived, what was rejected, how far the run has come.

A batch is one transaction on a connection and a thread of its own; while it is written, the next batch is read and
examined. Belongs here: staging.payloads, arrivals, checkpoints. Not: which payloads there are (`landing`).
"""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from pipelines import quarantine
from pipelines.examining import Arrival
from pipelines.fidelity import NotJson, faithful, repair
from pipelines.ledger import Run
from pipelines.quarantine import Rejected
from pipelines.warehouse.engine import Connection

BodyRow = tuple[bytes, bytes | None, bytes, bytes | None, list[str] | None]
"""Digest, digest of the counters, text for jsonb, original bytes and repairs, where the text had to be repaired."""

REFUSED = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


class Progress(msgspec.Struct):
    """What a landing has done so far, as it is kept at each checkpoint.

    began: when its first request was sent. asked: from where, and for how much. tries: how many runs took it up and
    came no further.
    """

    began: datetime
    asked: dict[str, str | bool] = {}
    tries: int = 0
    listings: dict[str, dict[str, Any]] = {}
    fetched: int = 0
    bytes: int = 0
    bodies: int = 0
    refused: list[str] = []
    skipped: dict[str, int] = {}
    repaired: dict[str, int] = {}
    kept: list[tuple[str, str]] = []


class Bodies:
    """The batches of one run, one after the other."""

    def __init__(self, run: Run, connection: Connection, writer: ThreadPoolExecutor, progress: Progress) -> None:
        self.run, self.connection, self.writer, self.progress = run, connection, writer, progress
        self.in_flight: dict[bytes, Arrival] = {}
        self.writing: Future[None] | None = None

    def write(self, arrivals: list[Arrival], rejected: list[Rejected], *, checkpoint: bool) -> None:
        """Begins to write a batch, once the one before is written. checkpoint: with how far the run has come."""
        rows, refused = self._prepare(self._unknown(arrivals))
        self.settle()
        self.in_flight = {each.digest: each for each in arrivals}
        self.writing = self.writer.submit(self._write, rows, arrivals, rejected + refused, checkpoint)

    def settle(self) -> None:
        """Waits until the batch before is written."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def _unknown(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The arrivals of the batch whose body is to be stored: the first of each digest that is not there yet."""
        if not arrivals:
            return []
        rows = self.run.connection.execute(
            """
            select distinct on (a.digest) a.sequence
            from unnest(%s::bigint[], %s::text[], %s::text[], %s::bytea[]) as a (sequence, stream, external_id, digest)
            where not exists (
                  select from staging.versions v
                  where v.record_id = ops.key(a.stream, a.external_id) and v.latest and v.digest = a.digest)
              and not exists (select from staging.payloads p where p.digest = a.digest)
            order by a.digest, a.sequence
            """,
            [
                [each.sequence for each in arrivals],
                [each.stream for each in arrivals],
                [each.external_id for each in arrivals],
                [each.digest for each in arrivals],
            ],
        )
        sequences = {row["sequence"] for row in rows}
        return [each for each in arrivals if each.sequence in sequences and each.digest not in self.in_flight]

    def _prepare(self, arrivals: list[Arrival]) -> tuple[list[BodyRow], list[Rejected]]:
        """What to store of each body, and those that no repair makes JSON."""
        rows: list[BodyRow] = []
        rejected = []
        for arrival in arrivals:
            repairs: list[str] = []
            body = arrival.body
            if not faithful(body):
                try:
                    body, repairs = repair(arrival.body)
                except NotJson as error:
                    rejected.append(arrival.rejected(error))
                    self.progress.refused.append(arrival.digest.hex())
                    continue
            counters = arrival.counted.digest if arrival.counted else None
            self._repaired(repairs)
            rows.append((arrival.digest, counters, body, arrival.body if repairs else None, repairs or None))
        return rows, rejected

    def _repaired(self, repairs: list[str]) -> None:
        for each in repairs:
            self.progress.repaired[each] = self.progress.repaired.get(each, 0) + 1

    def _write(self, rows: list[BodyRow], arrivals: list[Arrival], rejected: list[Rejected], checkpoint: bool) -> None:
        """Commits a batch: bodies, what arrived, what was rejected, and how far the run has come."""
        connection = self.connection
        with connection.transaction():
            rejected += self._copy(rows)
            with connection.cursor().copy(ARRIVED) as copy:
                for each in arrivals:
                    copy.write_row((self.run.id, *_arrived(each)))
            quarantine.note(connection, self.run.id, rejected)
            if checkpoint:
                self.progress.tries = 0
                connection.execute(CHECKPOINT, [self.run.id, Jsonb(msgspec.to_builtins(self.progress))])

    def _copy(self, rows: list[BodyRow]) -> list[Rejected]:
        """COPYs bodies, the halves on their own where together they fail; those that jsonb refuses even so."""
        try:
            with self.connection.transaction(), self.connection.cursor().copy(BODIES) as copy:
                for digest, counters, body, original, repairs in rows:
                    copy.write_row((self.run.id, digest, counters, body.decode(), original, repairs))
        except REFUSED as error:
            if len(rows) == 1:
                digest, counters, body, original, _ = rows[0]
                repaired, repairs = repair(body)
                if repairs and original is None:
                    self._repaired(repairs)
                    return self._copy([(digest, counters, repaired, body, repairs)])
                self.progress.refused.append(digest.hex())
                return [self.in_flight[digest].rejected(NotJson("jsonb_refuses", str(error).splitlines()[0]))]
            middle = len(rows) // 2
            return self._copy(rows[:middle]) + self._copy(rows[middle:])
        self.progress.bodies += len(rows)
        return []


BODIES = "copy staging.payloads (fetch_run_id, digest, counters_digest, body, original, repairs) from stdin"

ARRIVED = """
copy staging.arrivals
    (fetch_run_id, sequence, stream, external_id, digest, version_at, fetched_at, request,
     counters_digest, counters, paths)
from stdin
"""

CHECKPOINT = """
insert into staging.checkpoints (fetch_run_id, progress) values (%s, %s)
on conflict (fetch_run_id) do update set progress = excluded.progress
"""


def _arrived(arrival: Arrival) -> tuple[object, ...]:
    counted = arrival.counted
    return (
        arrival.sequence,
        arrival.stream,
        arrival.external_id,
        arrival.digest,
        arrival.version_at,
        arrival.fetched_at,
        arrival.request,
        counted.digest if counted else None,
        counted.values.decode() if counted else None,
        counted.paths.decode() if counted else None,
    )
