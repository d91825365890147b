"""Writing what a landing examined: bodies, what arrived, what was rejected, how far the run has come.

A batch is one transaction on a connection and a thread of its own; while it is written, the next batch is read and
examined. Belongs here: staging.payloads, arrivals, checkpoints. Not: which payloads there are (`landing`).
"""

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pipelines import failpoints, quarantine
from pipelines.landing.jsonb import LARGE, TWICE, NotJson, faithful, pieces, readable, repair
from pipelines.landing.schema_drift import Drift
from pipelines.landing.validate import Arrival
from pipelines.ledger import Run
from pipelines.quarantine import Rejected
from pipelines.source import FullScan
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection

BodyRow = tuple[bytes, bytes | None, bytes, bytes | None, list[str] | None]
"""Digest, digest of the counters, text for jsonb, original bytes and repairs, where the text had to be repaired."""

REFUSED = (
    psycopg.DataError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    psycopg.errors.InternalError_,  # "invalid memory alloc request size": a list of 17 million elements
)


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
    full_scans: list[FullScan] = []


class Bodies:
    """The batches of one run, one after the other."""

    def __init__(
        self, run: Run, connection: Connection, writer: ThreadPoolExecutor, progress: Progress, drift: Drift
    ) -> None:
        self.run, self.connection, self.writer, self.progress, self.drift = run, connection, writer, progress, drift
        self.in_flight: dict[tuple[bytes, bool], Arrival] = {}
        self.writing: Future[None] | None = None

    def write(self, arrivals: list[Arrival], rejected: list[Rejected], *, checkpoint: bool) -> None:
        """Begins to write a batch, once the one before is written. checkpoint: with how far the run has come."""
        locks.acquire_shared(self.run.connection, locks.BODIES)
        unknown = self._unknown(arrivals)
        rows, refused = self._prepare(unknown)
        failpoints.reached("bodies.prepared")
        self.settle()
        failpoints.reached("bodies.settled")
        self.in_flight = {each.text: each for each in unknown}
        self.writing = self.writer.submit(self._write, rows, arrivals, rejected + refused, checkpoint)

    def settle(self) -> None:
        """Waits until the batch before is written."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def _unknown(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The arrivals of the batch whose body is to be stored: the first of each text that is not there yet."""
        if not arrivals:
            return []
        rows = self.run.connection.execute(
            """
            select distinct on (a.digest, a.counted) a.sequence
            from unnest(%s::bigint[], %s::text[], %s::text[], %s::bytea[], %s::boolean[])
                as a (sequence, stream, external_id, digest, counted)
            where not exists (
                  select from staging.versions v
                  where v.record_id = ops.key(a.stream, a.external_id) and v.latest and v.digest = a.digest)
              and not exists (
                  select from staging.payloads p
                  where p.digest = a.digest and (p.counters_digest is not null) = a.counted)
              and not exists (
                  select from staging.erasures e
                  where e.record_id = ops.key(a.stream, a.external_id) and e.lifted_at is null)
            order by a.digest, a.counted, a.sequence
            """,
            [
                [each.sequence for each in arrivals],
                [each.stream for each in arrivals],
                [each.external_id for each in arrivals],
                [each.digest for each in arrivals],
                [each.counted is not None for each in arrivals],
            ],
        )
        sequences = {row["sequence"] for row in rows}
        return [each for each in arrivals if each.sequence in sequences and each.text not in self.in_flight]

    def _prepare(self, arrivals: list[Arrival]) -> tuple[list[BodyRow], list[Rejected]]:
        """What to store of each body, and those that no repair makes JSON."""
        rows: list[BodyRow] = []
        rejected = []
        for arrival in arrivals:
            repairs: list[str] = []
            body = arrival.body
            large = len(body) > LARGE
            if large or not faithful(body):
                try:
                    body, repairs = readable(body)
                except NotJson as error:
                    rejected.append(arrival.rejected(error))
                    self.progress.refused.append(arrival.digest.hex())
                    continue
            counters = arrival.counted.digest if arrival.counted else None
            self._repaired(repairs)
            if not large:
                self.drift.inspect(arrival.stream, body, arrival.digest)
            rows.append((arrival.digest, counters, body, arrival.body if repairs else None, repairs or None))
        return rows, rejected

    def _repaired(self, repairs: list[str]) -> None:
        for each in repairs:
            self.progress.repaired[each] = self.progress.repaired.get(each, 0) + 1

    def _write(self, rows: list[BodyRow], arrivals: list[Arrival], rejected: list[Rejected], checkpoint: bool) -> None:
        """Commits a batch: bodies, what arrived, what was rejected, and how far the run has come."""
        connection = self.connection
        with connection.transaction():
            failpoints.reached("bodies.begun")
            rejected += self._copy(rows)
            failpoints.reached("bodies.copied")
            with connection.cursor().copy(ARRIVED) as copy:
                for each in arrivals:
                    copy.write_row((self.run.id, *_arrived(each)))
            failpoints.reached("bodies.arrived")
            quarantine.note(connection, self.run.id, rejected)
            failpoints.reached("bodies.rejected")
            if checkpoint:
                self.progress.tries = 0
                connection.execute(CHECKPOINT, [self.run.id, Jsonb(msgspec.to_builtins(self.progress))])
                failpoints.reached("bodies.checkpointed")
        failpoints.reached("bodies.committed")
        locks.release_shared(self.run.connection, locks.BODIES)

    def _copy(self, rows: list[BodyRow]) -> list[Rejected]:
        """COPYs bodies, the halves on their own where together they fail; those that jsonb refuses even so."""
        try:
            with self.connection.transaction():
                with self.connection.cursor().copy(BODIES) as copy:
                    for digest, counters, body, original, repairs in rows:
                        if len(body) <= LARGE:
                            copy.write_row((self.run.id, digest, counters, body.decode(), original, repairs))
                found = [each for row in rows if len(row[2]) > LARGE for each in self._copy_large(row)]
        except REFUSED as error:
            if len(rows) == 1:
                return self._copy_repaired(rows[0], error)
            middle = len(rows) // 2
            return self._copy(rows[:middle]) + self._copy(rows[middle:])
        self.progress.bodies += len(rows)
        self._repaired(found)
        return []

    def _copy_large(self, row: BodyRow) -> list[str]:
        """COPYs a body piece by piece; a key that the server finds told twice in it is one more repair."""
        digest, counters, body, original, repairs = row
        connection = self.connection
        connection.execute("create temp table large (body text storage external, original bytea storage external)")
        with connection.cursor().copy("copy large (body) from stdin") as copy:
            for piece in pieces(body):
                copy.write(_escaped(piece))
        once = connection.execute("select from large where body is json with unique keys").rowcount
        found = [] if once else [TWICE]
        if repairs or found:
            with connection.cursor().copy("copy large (original) from stdin") as copy:
                copy.write(rb"\\x")
                for piece in pieces(original or body):
                    copy.write(piece.hex())
        connection.execute(LARGE_BODY, [self.run.id, digest, counters, sorted([*(repairs or []), *found]) or None])
        connection.execute("drop table large")
        return found

    def _copy_repaired(self, row: BodyRow, refusal: psycopg.Error) -> list[Rejected]:
        """Another try with what jsonb refused, where a number was too long for it; else it is rejected.

        A large one is rejected: what holds it decoded may take thirty times its size.
        """
        digest, counters, body, original, _ = row
        arrival = self.in_flight[digest, counters is not None]
        fault = NotJson("jsonb_refuses", str(refusal).splitlines()[0])
        if original is None and len(body) <= LARGE and isinstance(refusal, psycopg.DataError):
            try:
                repaired, repairs = repair(body)
            except NotJson as error:
                fault, repairs = error, []
            if repairs:
                self._repaired(repairs)
                return self._copy([(digest, counters, repaired, body, repairs)])
        self.progress.refused.append(digest.hex())
        return [arrival.rejected(fault)]


UNNAMED = sql.SQL(
    """
    not exists (select from staging.versions v where v.payload_id = p.payload_id)
    and not exists (select from staging.arrivals a where a.digest = p.digest)
    """
)
"""Of a body `p`: it is of no version, and no landing under way, or that can be resumed, names it."""

BODIES = "copy staging.payloads (fetch_run_id, digest, counters_digest, body, original, repairs) from stdin"

LARGE_BODY = """
insert into staging.payloads (fetch_run_id, digest, counters_digest, body, original, repairs)
select %s, %s, %s, (select body::jsonb from large where body is not null),
    (select original from large where original is not null), %s::text[]
"""

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


def _escaped(piece: bytes) -> bytes:
    """A part of a text as COPY reads it."""
    return piece.replace(b"\\", rb"\\").replace(b"\n", rb"\n").replace(b"\r", rb"\r").replace(b"\t", rb"\t")
