"""Writes validated payloads batch by batch: their bodies, arrivals, rejections and checkpoints.

    Arrival ──anti-join──> new bodies ──COPY──> staging.payloads
       └───────────────────────────────COPY──> staging.arrivals

A batch is one transaction, on a thread and a connection of its own: meanwhile the next batch is read and validated.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import psycopg
from psycopg import sql

from pipelines.landing.intake import Progress, save_checkpoint
from pipelines.landing.jsonb import DUPLICATE_KEY, LARGE, Unlandable, chunks, is_lossless, repair, repair_any_size
from pipelines.landing.validate import Arrival, Rejected
from pipelines.ledger import Run
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection

Body = tuple[Arrival, bytes, list[str]]  # an arrival, the text of its body for jsonb, and the repairs of that

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
        self.in_flight: set[tuple[bytes, bool]] = set()
        self.unstorable: dict[tuple[bytes, bool], Unlandable] = {}
        self.writing: Future[None] | None = None

    def write(self, arrivals: list[Arrival], rejected: list[Rejected], *, checkpoint: bool) -> None:
        """Starts to write a batch once the one before is written. checkpoint: save the progress with it."""
        locks.acquire_shared(self.run.connection, locks.BODIES)
        unknown = self._unknown(arrivals)
        bodies: list[Body] = []
        for arrival in unknown:
            is_held = len(arrival.body) <= LARGE and is_lossless(arrival.body)
            try:
                bodies.append((arrival, *((arrival.body, list[str]()) if is_held else repair_any_size(arrival.body))))
            except Unlandable as fault:
                self.unstorable[arrival.body_key] = replace(fault)  # without the traceback, which holds the batch
        self.wait()
        self.in_flight = {each.body_key for each in unknown}
        self.writing = self.writer.submit(self._write, bodies, arrivals, rejected, checkpoint)

    def wait(self) -> None:
        """Waits until the last batch is written; raises what its writer raised."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def _unknown(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The arrivals whose body is not stored yet, the first of each body."""
        if not arrivals:
            return []
        values = [
            (each.sequence, each.stream, each.external_id, each.digest, each.volatile is not None) for each in arrivals
        ]
        rows = self.run.connection.execute(SELECT_UNKNOWN, [list(column) for column in zip(*values, strict=True)])
        sequences = {row["sequence"] for row in rows}
        known = self.in_flight | self.unstorable.keys()
        return [each for each in arrivals if each.sequence in sequences and each.body_key not in known]

    def _write(self, bodies: list[Body], arrivals: list[Arrival], rejected: list[Rejected], checkpoint: bool) -> None:
        """Commits a batch: bodies, arrivals, rejections, and the checkpoint."""
        connection = self.connection
        with connection.transaction():
            self._copy(bodies)
            with connection.cursor().copy(COPY_ARRIVALS) as copy:
                for each in arrivals:
                    origin = each.received_at, each.request
                    if fault := self.unstorable.get(each.body_key):
                        rejected.append(
                            Rejected(each.sequence, each.stream, each.body, *origin, each.external_id, fault)
                        )
                    else:
                        identity = self.run.id, each.sequence, each.stream, each.external_id, each.digest
                        copy.write_row((*identity, *origin, *(each.volatile or (None, None, None))))
            rows = [{"run": self.run.id, **vars(each), **vars(each.fault)} for each in rejected]
            connection.cursor().executemany(INSERT_REJECTED, rows)
            values = [
                {"run": self.run.id, "sequence": each.sequence, "stream": each.stream, "request": each.request}
                | {"external_id": each.external_id, "received_at": each.received_at, **value._asdict()}
                for each in arrivals
                for value in each.rejected
            ]
            connection.cursor().executemany(INSERT_REJECTED_VALUE, values)
            if checkpoint:
                save_checkpoint(connection, self.run, self.progress)
        locks.release_shared(self.run.connection, locks.BODIES)

    def _copy(self, bodies: list[Body]) -> None:
        """COPYs bodies, halving the batch until it finds those that jsonb refuses; they are `unstorable` then.

        A number that is out of range is repaired, but not in a large body: decoded it may take thirty times its size.
        """
        found: list[str] = []
        try:
            with self.connection.transaction():
                with self.connection.cursor().copy(COPY_BODIES) as copy:
                    for arrival, text, repairs in bodies:
                        if len(text) <= LARGE:
                            original = arrival.body if repairs else None
                            copy.write_row((*self._key(arrival), text.decode(), original, repairs or None))
                for body in bodies:
                    found += self._copy_large(*body) if len(body[1]) > LARGE else body[2]
        except UNSTORABLE as error:
            if len(bodies) > 1:
                middle = len(bodies) // 2
                self._copy(bodies[:middle])
                self._copy(bodies[middle:])
                return
            arrival, text, repairs = bodies[0]
            fault = Unlandable("jsonb_refuses", str(error).splitlines()[0])
            if not repairs and len(text) <= LARGE and isinstance(error, psycopg.DataError):
                try:
                    text, repairs = repair(text)
                except Unlandable as unrepaired:
                    fault = unrepaired
                if repairs:
                    self._copy([(arrival, text, repairs)])
                    return
            self.unstorable[arrival.body_key] = replace(fault)
            return
        self.progress.bodies += len(bodies)
        for each in found:
            self.progress.repaired[each] = self.progress.repaired.get(each, 0) + 1

    def _key(self, arrival: Arrival) -> tuple[object, ...]:
        """The columns of a body that do not depend on its text."""
        return self.run.id, arrival.digest, arrival.volatile.digest if arrival.volatile else None

    def _copy_large(self, arrival: Arrival, text: bytes, repairs: list[str]) -> list[str]:
        """COPYs a large body in chunks; returns its repairs; only the server can find duplicate keys in it."""
        connection = self.connection
        connection.execute("create temp table large_body (body text storage external, original bytea storage external)")
        with connection.cursor().copy("copy large_body (body) from stdin") as copy:
            for chunk in chunks(text):  # in the text format of COPY
                escaped = chunk.replace(b"\\", rb"\\").replace(b"\n", rb"\n").replace(b"\r", rb"\r")
                copy.write(escaped.replace(b"\t", rb"\t"))
        if not connection.execute("select from large_body where body is json with unique keys").rowcount:
            repairs = sorted([*repairs, DUPLICATE_KEY])
        if repairs:
            with connection.cursor().copy("copy large_body (original) from stdin") as copy:
                copy.write(rb"\\x")
                for chunk in chunks(arrival.body):
                    copy.write(chunk.hex())
        connection.execute(INSERT_LARGE_BODY, [*self._key(arrival), repairs or None])
        connection.execute("drop table large_body")
        return repairs


UNREFERENCED = sql.SQL(
    """
    not exists (select from staging.versions v where v.payload_id = p.payload_id)
    and not exists (select from staging.arrivals a where a.digest = p.digest)
    """
)
"""A condition on a body `p`: neither a version nor a landing that runs or can be resumed refers to it."""

SELECT_UNKNOWN = """
select distinct on (a.digest, a.is_split) a.sequence
from unnest(%s::bigint[], %s::text[], %s::text[], %s::bytea[], %s::boolean[])
    as a (sequence, stream, external_id, digest, is_split)
where not exists (
      select from staging.payloads p where p.digest = a.digest and (p.counters_digest is not null) = a.is_split)
  and not exists (
      select from staging.erasures e
      where e.record_id = ops.key(a.stream, a.external_id) and e.lifted_at is null)
order by a.digest, a.is_split, a.sequence
"""

COPY_BODIES = "copy staging.payloads (fetch_run_id, digest, counters_digest, body, original, repairs) from stdin"

INSERT_LARGE_BODY = """
insert into staging.payloads (fetch_run_id, digest, counters_digest, body, original, repairs)
select %s, %s, %s, (select body::jsonb from large_body where body is not null),
    (select original from large_body where original is not null), %s::text[]
"""

INSERT_REJECTED = """
insert into staging.rejects
    (fetch_run_id, sequence, stream, bytes, digest, received_at, request, external_id, reason, detail, path,
     byte_offset)
values (%(run)s, %(sequence)s, %(stream)s, %(body)s, sha256(%(body)s), %(received_at)s, %(request)s, %(external_id)s,
    %(reason)s, %(detail)s, %(path)s, %(byte_offset)s)
"""

INSERT_REJECTED_VALUE = """
insert into staging.rejects
    (fetch_run_id, granularity, sequence, stream, bytes, digest, received_at, request, external_id, reason, detail,
     path)
values (%(run)s, 'value', %(sequence)s, %(stream)s, %(value)s, sha256(%(value)s), %(received_at)s, %(request)s,
    %(external_id)s, 'wrong_type', %(detail)s, %(path)s)
"""

COPY_ARRIVALS = """
copy staging.arrivals
    (fetch_run_id, sequence, stream, external_id, digest, received_at, request,
     counters_digest, counters, paths)
from stdin
"""
