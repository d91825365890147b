"""Payload bytes into staging: bodies batch by batch, then everything shows at once.

    items ──> digest, contract ──> anti-join ──> COPY new bodies, arrivals, checkpoint ──> publish
                    └── bad? ────────────────────────┴──> quarantine

Bodies are committed as they come (`bodies`) and count for nothing until `publishing` names them. What a run knows of
its items is committed beside them, so that the next run of the same partition goes on from the last checkpoint of one
that broke off. Memory holds two batches. Belongs here: the order of things. Not: fetching, not versions, not the
domain's tables.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from pipelines import failpoints, ledger
from pipelines.errors import SourceFault
from pipelines.landing.deletions import Look, missing
from pipelines.landing.publish import Outcome, forget, publish
from pipelines.landing.schema_drift import Drift
from pipelines.landing.stage_bodies import Bodies, Progress
from pipelines.landing.validate import Arrival, Examiner
from pipelines.ledger import Run
from pipelines.quarantine import Rejected
from pipelines.source import Checkpoint, Cursor, FullScan, Item, Payload, Skipped, Source
from pipelines.warehouse.database import Connection, Warehouse

BATCH_BYTES = 8 * 1024 * 1024
BATCH_PAYLOADS = 2_000

MOST_TRIES = 5
"""So many runs take up a checkpoint and come no further; then the next begins anew."""

SWITCH_S = 0.0005
"""How long a thread may keep Python to itself. The writer asks for it hundreds of times a batch; with the usual 5 ms
a landing took a third longer."""


@dataclass(frozen=True)
class Intake:
    """What a landing takes in.

    items: made from the checkpoints of a run that broke off, empty where there is none. fetched_at: when they were
    received, where that is not now (a recording, a dump). look: one record by kind and id, None where it is gone.
    mode: where they are from; only what a live run leaves is taken up by the next. cursors: the marks that the last
    one left. asked: from where, and for how much. notes: what the ledger should tell.
    """

    items: Callable[[dict[str, dict[str, Any]]], Iterable[Item]]
    mode: str
    fetched_at: datetime | None = None
    get_record: Look | None = None
    cursors: Mapping[str, Any] = field(default_factory=dict)
    asked: dict[str, str | bool] = field(default_factory=dict)
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
    return land_intake(warehouse, source, partition, nullcontext(intake), mends=mends, notify=notify)


def land_intake(
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
        self, source: Source, run: Run, intake: Intake, connection: Connection, writer: ThreadPoolExecutor
    ) -> None:
        self.source, self.run, self.intake = source, run, intake
        self.examiners = {
            kind: Examiner(stream, source.contracts[kind], intake.fetched_at) for kind, stream in source.streams.items()
        }
        self.batch: list[Payload] = []
        self.batch_bytes = 0
        self.marks: dict[str, Any] = {}
        self.progress = self._resumed() or Progress(intake.fetched_at or datetime.now(UTC), intake.asked)
        self.drift = Drift(run, source)
        self.bodies = Bodies(run, connection, writer, self.progress, self.drift)
        failpoints.reached("land.opened")

    def all(self, *, shrink: bool, mends: int | None) -> None:
        try:
            for item in self.intake.items(self.progress.listings):
                self._take(item)
            failpoints.reached("land.read")
            self._flush()
            failpoints.reached("land.flushed")
            self.bodies.settle()
            failpoints.reached("land.settled")
            gone = self._complete(shrink=shrink)
            failpoints.reached("land.complete")
        except SourceFault:
            self.run.connection.execute("delete from staging.checkpoints where fetch_run_id = %s", [self.run.id])
            failpoints.reached("land.faulty")
            raise
        progress, notes = self.progress, self.intake.notes
        stats = {
            "bytes": progress.bytes,
            "bodies": progress.bodies,
            "skipped": progress.skipped,
            "repaired": progress.repaired,
            "mode": self.intake.mode,
            **self.intake.asked,
            "notes": {name: number for name, number in sorted(notes.items()) if number},
        }
        refused = [bytes.fromhex(digest) for digest in progress.refused]
        outcome = Outcome(
            progress.fetched,
            refused,
            stats,
            self.drift,
            gone_at=progress.began,
            gone=gone,
            cursor_from=dict(self.intake.cursors),
            cursor_to={**self.intake.cursors, **self.marks} if self.marks else None,
            mends=mends,
        )
        publish(self.run, outcome)
        failpoints.reached("land.published")

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
                failpoints.reached("land.page")
                self._flush(checkpoint=True)
                self.bodies.settle()
                failpoints.reached("land.checkpointed")
            case Cursor():
                self.marks[item.listing] = dict(item.value)
            case FullScan() if self.intake.mode != "brought":
                others = [
                    each
                    for each in self.progress.full_scans
                    if (each.kind, each.id_range) != (item.kind, item.id_range)
                ]
                self.progress.full_scans = [*others, item]

    def _complete(self, *, shrink: bool) -> list[tuple[int, str]]:
        """Lands what complete listings left out; the records that they prove gone."""
        found = missing(
            self.run,
            self.source,
            self.progress.full_scans,
            set(self.progress.kept),
            self.progress.began,
            self.intake.get_record,
            shrink=shrink,
        )
        for payload in found.there:
            self._take(payload)
        self._flush()
        self.bodies.settle()
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
        failpoints.reached("land.examined")
        self.bodies.write(arrivals, rejected, checkpoint=checkpoint)
        failpoints.reached("land.handed")
        self.run.advance(len(payloads))

    def _resumed(self) -> Progress | None:
        """Takes up what the last run of the partition kept, where it broke off."""
        if self.intake.mode != "live":
            return None
        parameters = {
            "run": self.run.id,
            "source": self.source.name,
            "partition": self.run.partition,
            "asked": Jsonb(self.intake.asked),
            "tries": MOST_TRIES,
        }
        row = self.run.connection.execute(TAKE_UP, parameters).fetchone()
        if row is None:
            return None
        failpoints.reached("land.taken_up")
        try:
            progress = msgspec.convert(row["progress"], Progress)
        except msgspec.ValidationError:  # other code has written it
            forget(self.run)
            return None
        self.intake.notes["payloads taken up from a run that broke off"] = progress.fetched
        return progress


TAKE_UP = """
with candidate as (
    select c.fetch_run_id, r.started_at, r.code_version
    from staging.checkpoints c join ops.fetch_runs r using (fetch_run_id)
    where r.stream = %(source)s and r.partition_key = %(partition)s and r.status = 'failed'
    order by c.fetch_run_id desc limit 1
    for update of c skip locked
),

mine as (
    select c.fetch_run_id, (k.progress ->> 'fetched')::bigint as fetched
    from candidate c
    join staging.checkpoints k using (fetch_run_id)
    join ops.fetch_runs r on r.fetch_run_id = %(run)s
    where r.code_version = c.code_version
      and k.progress -> 'asked' = %(asked)s
      and (k.progress ->> 'tries')::int < %(tries)s
      and r.started_at < (k.progress ->> 'began')::timestamptz + interval '1 day'
),

beyond as ( -- what came after the checkpoint comes again
    delete from staging.arrivals a using mine where a.fetch_run_id = mine.fetch_run_id and a.sequence > mine.fetched
),

arrived as (
    update staging.arrivals a set fetch_run_id = %(run)s
    from mine where a.fetch_run_id = mine.fetch_run_id and a.sequence <= mine.fetched
),

rejected as (
    update staging.rejects a set fetch_run_id = %(run)s from mine where a.fetch_run_id = mine.fetch_run_id
)

update staging.checkpoints c
set fetch_run_id = %(run)s,
    progress = jsonb_set(c.progress, '{tries}', to_jsonb((c.progress ->> 'tries')::int + 1))
from mine where c.fetch_run_id = mine.fetch_run_id
returning progress
"""


@contextmanager
def _taking_turns() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
