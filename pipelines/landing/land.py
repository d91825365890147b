"""Lands payloads: writes bodies batch by batch, then publishes all versions in one transaction.

    Intake ──> validate ──> stage_bodies ──> deletions ──> publish
                  └── invalid? ──> staging.rejects ───────> staging.quarantine

Bodies are not visible until `publish` inserts versions of them. A checkpoint is committed with the batch before it, so
that the next run of the partition can resume a failed one. Memory holds two batches.
"""

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from typing import Any

from pipelines import ledger
from pipelines.errors import ListingChanged
from pipelines.landing.deletions import Missing, find_missing
from pipelines.landing.intake import Intake, Progress, resume
from pipelines.landing.publish import publish
from pipelines.landing.stage_bodies import BodyWriter
from pipelines.landing.validate import Arrival, Rejected, Validator, usable_id, validators
from pipelines.ledger import Run
from pipelines.source import Checkpoint, Cursor, FullScan, Item, Payload, Skipped, Stream
from pipelines.warehouse.database import Connection, Warehouse

BATCH_BYTES = 8 * 1024 * 1024
BATCH_PAYLOADS = 2_000
SWITCH_INTERVAL_S = 0.0005
"""The writer thread needs the interpreter often: Python's default of 5 ms made a landing take a third longer."""


def land_items(
    warehouse: Warehouse,
    stream: Stream,
    partition: str,
    items: Iterable[Item],
    *,
    received_at: datetime | None = None,
    replaces_entry: int | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Lands given items, such as one that replaces a quarantine entry, under a partition; returns the closed run."""
    intake = nullcontext(Intake(lambda _: items, "files", received_at))
    return land_intake(warehouse, stream, partition, intake, replaces_entry=replaces_entry, notify=notify)


def land_intake(
    warehouse: Warehouse,
    stream: Stream,
    partition: str,
    intake: AbstractContextManager[Intake],
    *,
    shrink: bool = False,
    replaces_entry: int | None = None,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Lands an intake under a partition; returns the closed run. Enters the intake after the run is in the ledger.

    shrink: accept a listing that lacks many records. Raises what the source raises, after the run is closed as failed,
    and AtlasError before there is a run, where a stream with redacted paths has no key.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    by_kind = validators(stream)
    code = stream.source.code_version
    opened = ledger.open_run(
        warehouse, stream, "land", partition, code_version=code, dagster_run_id=dagster_run_id, notify=notify
    )
    with (
        opened as run,
        intake as entered,
        warehouse.connect() as connection,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):
        _Landing(stream, by_kind, run, entered, connection, writer).execute(
            shrink=shrink, replaces_entry=replaces_entry
        )
    return run


class DatabaseClock:
    """The time by the database's clock, which orders the versions of a record whatever machine received them."""

    def __init__(self, connection: Connection) -> None:
        (row,) = connection.execute("select clock_timestamp() as now")
        self._start: datetime = row["now"]
        self._begun = time.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=time.monotonic() - self._begun)


class _Landing:
    """The steps of one run. While a batch is written, the next one is read and validated."""

    def __init__(
        self,
        stream: Stream,
        by_kind: dict[str, Validator],
        run: Run,
        intake: Intake,
        connection: Connection,
        writer: ThreadPoolExecutor,
    ) -> None:
        self.stream, self.run, self.intake = stream, run, intake
        self.validators = by_kind
        self.clock = DatabaseClock(run.connection)
        self.batch: list[tuple[Payload, datetime]] = []
        self.batch_bytes = 0
        self.cursors: dict[str, Any] = {}
        self.progress = resume(run, intake) or Progress(self._received_at(), intake.request_options)
        self.bodies = BodyWriter(run, connection, writer, self.progress)

    def execute(self, *, shrink: bool, replaces_entry: int | None) -> None:
        missing = Missing()
        try:
            for item in self.intake.items(self.progress.listings):
                self._add(item)
            self._flush()
            self.bodies.wait()
            for found in find_missing(self.run, self.stream, self.progress, self.intake, missing, shrink=shrink):
                self._add(found)
            self._flush()
            self.bodies.wait()
        except ListingChanged:  # the next run must not resume it
            self.run.connection.execute("delete from staging.checkpoints where fetch_run_id = %s", [self.run.id])
            raise
        cursors = {**self.intake.cursors, **self.cursors} if self.cursors else None
        publish(self.run, self.stream, self.intake, self.progress, missing, cursors, replaces_entry)

    def _received_at(self) -> datetime:
        return self.intake.received_at or self.clock.now()

    def _add(self, item: Item) -> None:
        match item:
            case Payload():
                self.batch.append((item, self._received_at()))
                self.batch_bytes += len(item.body)
                if self.batch_bytes >= BATCH_BYTES or len(self.batch) >= BATCH_PAYLOADS:
                    self._flush()
            case Skipped():
                self.progress.skipped[item.reason] = self.progress.skipped.get(item.reason, 0) + 1
                if external_id := usable_id(item.external_id):
                    self.progress.unfetched.append((item.kind, external_id))
            case Checkpoint():
                self.progress.listings[item.listing] = dict(item.state)
                self._flush(checkpoint=self.intake.mode == "live")  # no other run is resumed
                self.bodies.wait()
            case Cursor():
                self.cursors[item.listing] = dict(item.value)
            case FullScan() if self.intake.mode != "files":
                scans = {(each.kind, each.id_range): each for each in self.progress.full_scans}
                self.progress.full_scans = list((scans | {(item.kind, item.id_range): item}).values())

    def _flush(self, *, checkpoint: bool = False) -> None:
        """Validates the batch, and gives it to the writer once the batch before is written."""
        payloads, self.batch, self.batch_bytes = self.batch, [], 0
        if not payloads and not checkpoint:
            return
        arrivals: list[Arrival] = []
        rejected: list[Rejected] = []
        for payload, received_at in payloads:
            self.progress.fetched += 1
            self.progress.bytes += len(payload.body)
            result = self.validators[payload.kind].validate(payload, self.progress.fetched, received_at)
            (arrivals if isinstance(result, Arrival) else rejected).append(result)  # type: ignore[arg-type]
        self.bodies.write(arrivals, rejected, checkpoint=checkpoint)
        self.run.advance(len(payloads))
