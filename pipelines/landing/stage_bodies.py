"""Writes validated payloads batch by batch: their bodies, arrivals, rejections and checkpoints.

    Arrival ──anti-join──> new bodies ──COPY──> staging.payloads
       └───────────────────────────────COPY──> staging.arrivals

A batch is one transaction, on a connection and a thread of its own: while it is written, the next batch is read and
validated. Belongs here: staging.payloads, staging.arrivals. Not here: what is in a batch (`land`), versions of the
bodies (`versions`).
"""

from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
from psycopg import sql

from pipelines import quarantine
from pipelines.landing.intake import Progress, save_checkpoint
from pipelines.landing.jsonb import DUPLICATE_KEY, LARGE, Unlandable, chunks, is_lossless, repair, repair_any_size
from pipelines.landing.validate import Arrival
from pipelines.ledger import Run
from pipelines.quarantine import Rejected
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection

BodyRow = tuple[bytes, bytes | None, bytes, bytes | None, list[str] | None]
"""Digest, digest of the volatile fields, text for jsonb; the original bytes and the repairs, if it was repaired."""

UNSTORABLE = (
    psycopg.DataError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    psycopg.errors.InternalError_,  # "invalid memory alloc request size": a list of 17 million elements
)


class BodyWriter:
    """Writes the batches of one run, one after another."""

    def __init__(self, run: Run, connection: Connection, writer: ThreadPoolExecutor, progress: Progress) -> None:
        self.run, self.connection, self.writer, self.progress = run, connection, writer, progress
        self.in_flight: dict[tuple[bytes, bool], Arrival] = {}
        self.writing: Future[None] | None = None

    def write(self, arrivals: list[Arrival], rejected: list[Rejected], *, checkpoint: bool) -> None:
        """Starts to write a batch once the one before is written. checkpoint: save the progress with it."""
        locks.acquire_shared(self.run.connection, locks.BODIES)
        unknown = self._unknown(arrivals)
        rows, unstorable = self._prepare(unknown)
        self.wait()
        self.in_flight = {each.body_key: each for each in unknown}
        self.writing = self.writer.submit(self._write, rows, arrivals, rejected + unstorable, checkpoint)

    def wait(self) -> None:
        """Waits until the last batch is written; raises what its writer raised."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def _unknown(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The arrivals whose body is not stored yet, the first of each body."""
        if not arrivals:
            return []
        rows = self.run.connection.execute(
            """
            select distinct on (a.digest, a.is_split) a.sequence
            from unnest(%s::bigint[], %s::text[], %s::text[], %s::bytea[], %s::boolean[])
                as a (sequence, stream, external_id, digest, is_split)
            where not exists (
                  select from staging.versions v
                  where v.record_id = ops.key(a.stream, a.external_id) and v.latest and v.digest = a.digest)
              and not exists (
                  select from staging.payloads p
                  where p.digest = a.digest and (p.counters_digest is not null) = a.is_split)
              and not exists (
                  select from staging.erasures e
                  where e.record_id = ops.key(a.stream, a.external_id) and e.lifted_at is null)
            order by a.digest, a.is_split, a.sequence
            """,
            [
                [each.sequence for each in arrivals],
                [each.stream for each in arrivals],
                [each.external_id for each in arrivals],
                [each.digest for each in arrivals],
                [each.volatile is not None for each in arrivals],
            ],
        )
        sequences = {row["sequence"] for row in rows}
        return [each for each in arrivals if each.sequence in sequences and each.body_key not in self.in_flight]

    def _prepare(self, arrivals: list[Arrival]) -> tuple[list[BodyRow], list[Rejected]]:
        """The rows to write, repaired where jsonb needs it, and the bodies that cannot be repaired."""
        rows: list[BodyRow] = []
        rejected = []
        for arrival in arrivals:
            repairs: list[str] = []
            body = arrival.body
            if len(body) > LARGE or not is_lossless(body):
                try:
                    body, repairs = repair_any_size(body)
                except Unlandable as error:
                    rejected.append(arrival.rejected(error))
                    self.progress.unstorable.append(arrival.digest.hex())
                    continue
            counters = arrival.volatile.digest if arrival.volatile else None
            self.progress.add_repairs(repairs)
            rows.append((arrival.digest, counters, body, arrival.body if repairs else None, repairs or None))
        return rows, rejected

    def _write(self, rows: list[BodyRow], arrivals: list[Arrival], rejected: list[Rejected], checkpoint: bool) -> None:
        """Commits a batch: bodies, arrivals, rejections, and the checkpoint."""
        connection = self.connection
        with connection.transaction():
            rejected += self._copy(rows)
            with connection.cursor().copy(COPY_ARRIVALS) as copy:
                for each in arrivals:
                    copy.write_row((self.run.id, *each.row()))
            quarantine.insert_rejects(connection, self.run.id, rejected)
            if checkpoint:
                save_checkpoint(connection, self.run, self.progress)
        locks.release_shared(self.run.connection, locks.BODIES)

    def _copy(self, rows: list[BodyRow]) -> list[Rejected]:
        """COPYs bodies, halving the batch until it finds those that jsonb refuses; returns these."""
        try:
            with self.connection.transaction():
                with self.connection.cursor().copy(COPY_BODIES) as copy:
                    for digest, counters, body, original, repairs in rows:
                        if len(body) <= LARGE:
                            copy.write_row((self.run.id, digest, counters, body.decode(), original, repairs))
                found = [each for row in rows if len(row[2]) > LARGE for each in self._copy_large(row)]
        except UNSTORABLE as error:
            if len(rows) == 1:
                return self._copy_repaired(rows[0], error)
            middle = len(rows) // 2
            return self._copy(rows[:middle]) + self._copy(rows[middle:])
        self.progress.bodies += len(rows)
        self.progress.add_repairs(found)
        return []

    def _copy_large(self, row: BodyRow) -> list[str]:
        """COPYs a large body in chunks; returns the repair of duplicate keys, which only the server can find in it."""
        digest, counters, body, original, repairs = row
        connection = self.connection
        connection.execute("create temp table large_body (body text storage external, original bytea storage external)")
        with connection.cursor().copy("copy large_body (body) from stdin") as copy:
            for chunk in chunks(body):
                copy.write(_escaped(chunk))
        unique = connection.execute("select from large_body where body is json with unique keys").rowcount
        found = [] if unique else [DUPLICATE_KEY]
        if repairs or found:
            with connection.cursor().copy("copy large_body (original) from stdin") as copy:
                copy.write(rb"\\x")
                for chunk in chunks(original or body):
                    copy.write(chunk.hex())
        connection.execute(
            INSERT_LARGE_BODY, [self.run.id, digest, counters, sorted([*(repairs or []), *found]) or None]
        )
        connection.execute("drop table large_body")
        return found

    def _copy_repaired(self, row: BodyRow, refusal: psycopg.Error) -> list[Rejected]:
        """COPYs a body that jsonb refused once more, if a number that is out of range can be repaired; else rejects it.

        A large body is rejected: decoded it may take thirty times its size.
        """
        digest, counters, body, original, _ = row
        arrival = self.in_flight[digest, counters is not None]
        fault = Unlandable("jsonb_refuses", str(refusal).splitlines()[0])
        if original is None and len(body) <= LARGE and isinstance(refusal, psycopg.DataError):
            try:
                repaired, repairs = repair(body)
            except Unlandable as error:
                fault, repairs = error, []
            if repairs:
                self.progress.add_repairs(repairs)
                return self._copy([(digest, counters, repaired, body, repairs)])
        self.progress.unstorable.append(digest.hex())
        return [arrival.rejected(fault)]


UNREFERENCED = sql.SQL(
    """
    not exists (select from staging.versions v where v.payload_id = p.payload_id)
    and not exists (select from staging.arrivals a where a.digest = p.digest)
    """
)
"""A condition on a body `p`: neither a version nor a landing that runs or can be resumed refers to it."""

COPY_BODIES = "copy staging.payloads (fetch_run_id, digest, counters_digest, body, original, repairs) from stdin"

INSERT_LARGE_BODY = """
insert into staging.payloads (fetch_run_id, digest, counters_digest, body, original, repairs)
select %s, %s, %s, (select body::jsonb from large_body where body is not null),
    (select original from large_body where original is not null), %s::text[]
"""

COPY_ARRIVALS = """
copy staging.arrivals
    (fetch_run_id, sequence, stream, external_id, digest, version_at, fetched_at, request,
     counters_digest, counters, paths)
from stdin
"""


def _escaped(chunk: bytes) -> bytes:
    """A part of a text in the text format of COPY."""
    return chunk.replace(b"\\", rb"\\").replace(b"\n", rb"\n").replace(b"\r", rb"\r").replace(b"\t", rb"\t")
