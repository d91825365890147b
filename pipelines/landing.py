"""Payload bytes into staging: bodies batch by batch, then everything shows at once.

    items ──> digest, contract ──> anti-join ──> COPY new bodies ──> publish
                    └── bad? ────────────────────────┴──> quarantine

Bodies are committed as they come and count for nothing until `publishing` names them. A crash leaves unnamed bodies,
which the next run takes up by digest. Memory holds two batches. Belongs here: staging.payloads. Not: fetching, not
versions, not the domain's tables.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime

import psycopg

from pipelines import ledger, quarantine
from pipelines.examining import Arrival, Examiner
from pipelines.fidelity import NotJson, faithful, repair
from pipelines.ledger import Run
from pipelines.publishing import publish
from pipelines.quarantine import Rejected
from pipelines.source import Item, Payload, Skipped, Source
from pipelines.warehouse.engine import Connection, Warehouse

BATCH_BYTES = 8 * 1024 * 1024
BATCH_PAYLOADS = 2_000

SWITCH_S = 0.0005
"""How long a thread may keep Python to itself. The writer asks for it hundreds of times a batch; with the usual 5 ms
a landing took a third longer."""

BodyRow = tuple[bytes, bytes, bytes | None, list[str] | None]
"""Digest, text for jsonb, original bytes and repairs, where the text had to be repaired."""

REFUSED = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


def land(
    warehouse: Warehouse,
    source: Source,
    partition: str,
    items: Iterable[Item],
    *,
    fetched_at: datetime | None = None,
    mends: int | None = None,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Lands items of a source under a partition; the closed run.

    fetched_at: when they were received, where that is not now (a recording, a dump). mends: the quarantine entry that
    the items are mended bytes of.
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
        warehouse.connect() as bodies,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):
        _Landing(source, run, Examiner(source, fetched_at), bodies, writer).all(items, mends)
    return run


class _Landing:
    """One run's way through the batches: while one is written, the next is read and examined."""

    def __init__(
        self,
        source: Source,
        run: Run,
        examiner: Examiner,
        bodies: Connection,
        writer: ThreadPoolExecutor,
    ) -> None:
        self.source, self.run, self.examiner = source, run, examiner
        self.connection, self.bodies_connection, self.writer = run.connection, bodies, writer
        self.in_flight: dict[bytes, Arrival] = {}
        self.writing: Future[list[Rejected]] | None = None
        self.fetched = self.bytes = self.bodies = 0
        self.refused: list[bytes] = []
        self.skipped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.connection.execute(
            """
            create temp table arrivals (
                sequence bigint, external_id text, digest bytea,
                version_at timestamptz, fetched_at timestamptz, request text
            )
            """
        )
        quarantine.create_rejects(self.connection)

    def all(self, items: Iterable[Item], mends: int | None) -> None:
        for batch in _batches(self._payloads(items)):
            self._batch(batch)
        self._settle()
        stats = {
            "bytes": self.bytes,
            "bodies": self.bodies,
            "skipped": dict(self.skipped),
            "repaired": dict(self.repaired),
        }
        publish(self.run, self.fetched, self.refused, stats, mends)

    def _payloads(self, items: Iterable[Item]) -> Iterator[Payload]:
        for item in items:
            if isinstance(item, Skipped):
                self.skipped[item.reason] += 1
            else:
                yield item

    def _batch(self, payloads: list[Payload]) -> None:
        arrivals: list[Arrival] = []
        rejected: list[Rejected] = []
        for payload in payloads:
            self.fetched += 1
            self.bytes += len(payload.body)
            outcome = self.examiner.examine(payload, self.fetched)
            (arrivals if isinstance(outcome, Arrival) else rejected).append(outcome)  # type: ignore[arg-type]
        with self.connection.cursor().copy("copy arrivals from stdin") as copy:
            for each in arrivals:
                copy.write_row(
                    (each.sequence, each.external_id, each.digest, each.version_at, each.fetched_at, each.request)
                )
        rows, refused = self._prepare(self._unknown(arrivals))
        self._settle()
        self.in_flight = {each.digest: each for each in arrivals}
        self.writing = self.writer.submit(self._copy, rows)
        self._keep(rejected + refused)
        self.run.advance(len(payloads))

    def _settle(self) -> None:
        """Waits until the batch before is written."""
        if self.writing is not None:
            self._keep(self.writing.result())
            self.writing = None

    def _keep(self, rejected: list[Rejected]) -> None:
        quarantine.note(self.connection, rejected)

    def _unknown(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The arrivals of the batch whose body is to be stored: the first of each digest that is not there yet."""
        if not arrivals:
            return []
        rows = self.connection.execute(
            """
            select distinct on (a.digest) a.sequence
            from unnest(%s::bigint[], %s::text[], %s::bytea[]) as a (sequence, external_id, digest)
            where not exists (
                  select from staging.versions v
                  where v.record_id = ops.key(%s, a.external_id) and v.latest and v.digest = a.digest)
              and not exists (select from staging.payloads p where p.digest = a.digest)
            order by a.digest, a.sequence
            """,
            [
                [each.sequence for each in arrivals],
                [each.external_id for each in arrivals],
                [each.digest for each in arrivals],
                self.source.name,
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
                    self.refused.append(arrival.digest)
                    continue
            self.repaired.update(repairs)
            if repairs:
                rows.append((arrival.digest, body, arrival.body, repairs))
            else:
                rows.append((arrival.digest, arrival.body, None, None))
        return rows, rejected

    def _copy(self, rows: list[BodyRow]) -> list[Rejected]:
        """COPYs bodies, the halves on their own where together they fail; those that jsonb refuses even so."""
        connection = self.bodies_connection
        try:
            with (
                connection.transaction(),
                connection.cursor().copy(
                    "copy staging.payloads (fetch_run_id, digest, body, original, repairs) from stdin"
                ) as copy,
            ):
                for digest, body, original, repairs in rows:
                    copy.write_row((self.run.id, digest, body.decode(), original, repairs))
        except REFUSED as error:
            if len(rows) == 1:
                digest, body, original, _ = rows[0]
                repaired, repairs = repair(body)
                if repairs and original is None:
                    self.repaired.update(repairs)
                    return self._copy([(digest, repaired, body, repairs)])
                self.refused.append(digest)
                return [self.in_flight[digest].rejected(NotJson("jsonb_refuses", str(error).splitlines()[0]))]
            middle = len(rows) // 2
            return self._copy(rows[:middle]) + self._copy(rows[middle:])
        self.bodies += len(rows)
        return []


@contextmanager
def _taking_turns() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _batches(payloads: Iterable[Payload]) -> Iterator[list[Payload]]:
    batch: list[Payload] = []
    size = 0
    for payload in payloads:
        batch.append(payload)
        size += len(payload.body)
        if size >= BATCH_BYTES or len(batch) >= BATCH_PAYLOADS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
