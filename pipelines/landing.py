"""Payload bytes into staging: bodies batch by batch, then everything shows at once.

    items ──> digest, contract ──> anti-join ──> COPY new bodies, arrivals, checkpoint ──> publish
                    └── bad? ────────────────────────┴──> quarantine

Bodies are committed as they come and count for nothing until `publishing` names them. What a run knows of its items
is committed beside them, so that the next run of the same partition goes on from the last checkpoint of one that broke
off. Memory holds two batches. Belongs here: staging.payloads, arrivals and checkpoints. Not: fetching, not versions,
not the domain's tables.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from pipelines import ledger, quarantine
from pipelines.completeness import Look, missing
from pipelines.errors import SourceFault
from pipelines.examining import Arrival, Examiner
from pipelines.fidelity import NotJson, faithful, repair
from pipelines.ledger import Run
from pipelines.publishing import Outcome, publish
from pipelines.quarantine import Rejected
from pipelines.source import Checkpoint, Item, Mark, Payload, Skipped, Source, Swept
from pipelines.warehouse.engine import Connection, Warehouse

BATCH_BYTES = 8 * 1024 * 1024
BATCH_PAYLOADS = 2_000

SWITCH_S = 0.0005
"""How long a thread may keep Python to itself. The writer asks for it hundreds of times a batch; with the usual 5 ms
a landing took a third longer."""

BodyRow = tuple[bytes, bytes | None, bytes, bytes | None, list[str] | None]
"""Digest, digest of the counters, text for jsonb, original bytes and repairs, where the text had to be repaired."""

REFUSED = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


class Progress(msgspec.Struct):
    """What a landing has done so far, as it is kept at each checkpoint. began: when its first request was sent."""

    began: datetime
    listings: dict[str, dict[str, Any]] = {}
    fetched: int = 0
    bytes: int = 0
    bodies: int = 0
    refused: list[str] = []
    skipped: dict[str, int] = {}
    repaired: dict[str, int] = {}
    kept: list[tuple[str, str]] = []


@dataclass(frozen=True)
class Intake:
    """What a landing takes in.

    items: made from the checkpoints of a run that broke off, empty where there is none. fetched_at: when they were
    received, where that is not now (a recording, a dump). look: one record by kind and id, None where it is gone.
    mode: where they are from; only what a live run leaves is taken up by the next. cursors: the marks that the last
    one left. notes: what the ledger should tell.
    """

    items: Callable[[dict[str, dict[str, Any]]], Iterable[Item]]
    mode: str
    fetched_at: datetime | None = None
    look: Look | None = None
    cursors: Mapping[str, Any] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)


def land(
    warehouse: Warehouse,
    source: Source,
    partition: str,
    items: Iterable[Item],
    *,
    fetched_at: datetime | None = None,
    mends: int | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Lands items that are at hand, under a partition; the closed run.

    mends: the quarantine entry that the items are mended bytes of.
    """
    intake = Intake(lambda _: items, "brought", fetched_at)
    return take_in(warehouse, source, partition, nullcontext(intake), mends=mends, notify=notify)


def take_in(
    warehouse: Warehouse,
    source: Source,
    partition: str,
    opened: AbstractContextManager[Intake],
    *,
    shrink: bool = False,
    mends: int | None = None,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Lands an intake under a partition; the closed run.

    opened: what it is opened by, so that the run has begun before anything is asked. shrink: believe a listing that
    has lost many records.
    """
    with (
        _taking_turns(),
        ledger.opened(
            warehouse,
            source,
            "land",
            partition,
            code_version=source.code_version,
            dagster_run_id=dagster_run_id,
            notify=notify,
        ) as run,
        opened as intake,
        warehouse.connect() as bodies,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):
        _Landing(source, run, intake, bodies, writer).all(shrink=shrink, mends=mends)
    return run


class _Landing:
    """One run's way through the batches: while one is written, the next is read and examined."""

    def __init__(
        self, source: Source, run: Run, intake: Intake, bodies: Connection, writer: ThreadPoolExecutor
    ) -> None:
        self.source, self.run, self.intake = source, run, intake
        self.connection, self.bodies_connection, self.writer = run.connection, bodies, writer
        self.examiners = {
            kind: Examiner(stream, source.contracts[kind], intake.fetched_at) for kind, stream in source.streams.items()
        }
        self.in_flight: dict[bytes, Arrival] = {}
        self.writing: Future[None] | None = None
        self.batch: list[Payload] = []
        self.batch_bytes = 0
        self.marks: dict[str, Any] = {}
        self.swept: list[Swept] = []
        self.progress = Progress(intake.fetched_at or datetime.now(UTC))

    def all(self, *, shrink: bool, mends: int | None) -> None:
        if self.intake.mode == "live":
            self._resume()
        try:
            for item in self.intake.items(self.progress.listings):
                self._take(item)
            self._flush()
            self._settle()
            gone = self._complete(shrink=shrink)
        except SourceFault:
            self.connection.execute("delete from staging.checkpoints where fetch_run_id = %s", [self.run.id])
            raise
        progress, notes = self.progress, self.intake.notes
        stats = {
            "bytes": progress.bytes,
            "bodies": progress.bodies,
            "skipped": progress.skipped,
            "repaired": progress.repaired,
            "mode": self.intake.mode,
            "notes": {name: number for name, number in sorted(notes.items()) if number},
        }
        refused = [bytes.fromhex(digest) for digest in progress.refused]
        outcome = Outcome(
            progress.fetched,
            refused,
            stats,
            gone_at=self.intake.fetched_at or datetime.now(UTC),
            gone=gone,
            cursor_from=dict(self.intake.cursors),
            cursor_to={**self.intake.cursors, **self.marks} if self.marks else None,
            mends=mends,
        )
        publish(self.run, outcome)

    def _take(self, item: Item) -> None:
        match item:
            case Payload():
                self.batch.append(item)
                self.batch_bytes += len(item.body)
                if self.batch_bytes >= BATCH_BYTES or len(self.batch) >= BATCH_PAYLOADS:
                    self._flush()
            case Skipped():
                self.progress.skipped[item.reason] = self.progress.skipped.get(item.reason, 0) + 1
                if item.external_id is not None:
                    self.progress.kept.append(("", item.external_id))
            case Checkpoint():
                self.progress.listings[item.listing] = dict(item.state)
                self._flush(checkpoint=True)
                self._settle()
            case Mark():
                self.marks[item.listing] = dict(item.cursor)
            case Swept() if self.intake.mode != "brought":
                self.swept.append(item)

    def _complete(self, *, shrink: bool) -> list[tuple[int, str]]:
        """Lands what complete listings left out; the records that they prove gone."""
        found = missing(
            self.run,
            self.source,
            self.swept,
            set(self.progress.kept),
            self.progress.began,
            self.intake.look,
            shrink=shrink,
        )
        for payload in found.there:
            self._take(payload)
        self._flush()
        self._settle()
        self.intake.notes.update(found.notes)
        return found.gone

    def _flush(self, *, checkpoint: bool = False) -> None:
        """Hands the batch to the writer, once the one before is written."""
        payloads, self.batch, self.batch_bytes = self.batch, [], 0
        if not payloads and not checkpoint:
            return
        arrivals: list[Arrival] = []
        rejected: list[Rejected] = []
        for payload in payloads:
            self.progress.fetched += 1
            self.progress.bytes += len(payload.body)
            outcome = self.examiners[payload.kind].examine(payload, self.progress.fetched)
            (arrivals if isinstance(outcome, Arrival) else rejected).append(outcome)  # type: ignore[arg-type]
        rows, refused = self._prepare(self._unknown(arrivals))
        self._settle()
        self.in_flight = {each.digest: each for each in arrivals}
        self.writing = self.writer.submit(self._write, rows, arrivals, rejected + refused, checkpoint)
        self.run.advance(len(payloads))

    def _settle(self) -> None:
        """Waits until the batch before is written."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def _unknown(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The arrivals of the batch whose body is to be stored: the first of each digest that is not there yet."""
        if not arrivals:
            return []
        rows = self.connection.execute(
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
        connection = self.bodies_connection
        with connection.transaction():
            rejected += self._copy(rows)
            with connection.cursor().copy(ARRIVED) as copy:
                for each in arrivals:
                    copy.write_row((self.run.id, *_arrived(each)))
            quarantine.note(connection, self.run.id, rejected)
            if checkpoint:
                connection.execute(CHECKPOINT, [self.run.id, Jsonb(msgspec.to_builtins(self.progress))])

    def _copy(self, rows: list[BodyRow]) -> list[Rejected]:
        """COPYs bodies, the halves on their own where together they fail; those that jsonb refuses even so."""
        connection = self.bodies_connection
        try:
            with connection.transaction(), connection.cursor().copy(BODIES) as copy:
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

    def _resume(self) -> None:
        """Takes up what the last run of the partition kept, where it broke off."""
        parameters = {"run": self.run.id, "source": self.source.name, "partition": self.run.partition}
        row = self.connection.execute(TAKE_UP, parameters).fetchone()
        if row is not None:
            self.progress = msgspec.convert(row["progress"], Progress)
            self.intake.notes["payloads taken up from a run that broke off"] = self.progress.fetched


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

TAKE_UP = """
with candidate as (
    select c.fetch_run_id, r.started_at, r.code_version
    from staging.checkpoints c join ops.fetch_runs r using (fetch_run_id)
    where r.stream = %(source)s and r.partition_key = %(partition)s and r.status = 'failed'
    order by c.fetch_run_id desc limit 1
    for update of c skip locked
),

mine as (
    select c.fetch_run_id from candidate c join ops.fetch_runs r on r.fetch_run_id = %(run)s
    where r.code_version = c.code_version and r.started_at < c.started_at + interval '1 day'
),

arrived as (
    update staging.arrivals a set fetch_run_id = %(run)s from mine where a.fetch_run_id = mine.fetch_run_id
),

rejected as (
    update staging.rejects a set fetch_run_id = %(run)s from mine where a.fetch_run_id = mine.fetch_run_id
)

update staging.checkpoints c set fetch_run_id = %(run)s from mine where c.fetch_run_id = mine.fetch_run_id
returning progress
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


@contextmanager
def _taking_turns() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
