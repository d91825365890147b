"""Lands payloads: writes bodies batch by batch, then publishes all versions in one transaction.

    Intake ──> validate ──> stage_bodies ──> deletions ──> publish
                  └── invalid? ──> staging.rejects ───────> staging.quarantine

Bodies are not visible until `publish` inserts versions of them. A checkpoint is committed with the batch before it, so
that the next run of the partition can resume a failed one. Memory holds two batches.
"""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from pipelines import ledger
from pipelines.errors import ListingChanged
from pipelines.landing.deletions import find_deleted
from pipelines.landing.intake import Intake, Progress, resume
from pipelines.landing.publish import publish
from pipelines.landing.stage_bodies import BodyWriter
from pipelines.landing.validate import Arrival, Rejected, Validator
from pipelines.ledger import Run
from pipelines.source import Checkpoint, Cursor, FullScan, Item, Payload, Skipped, Source
from pipelines.warehouse.database import Connection, Warehouse

BATCH_BYTES = 8 * 1024 * 1024
BATCH_PAYLOADS = 2_000
SWITCH_INTERVAL_S = 0.0005
"""The writer thread needs the interpreter often: Python's default of 5 ms made a landing take a third longer."""


def land_items(
    warehouse: Warehouse,
    source: Source,
    partition: str,
    items: Iterable[Item],
    *,
    fetched_at: datetime | None = None,
    replaces_entry: int | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Lands given items, such as one that replaces a quarantine entry, under a partition; returns the closed run."""
    intake = nullcontext(Intake(lambda _: items, "files", fetched_at))
    return land_intake(warehouse, source, partition, intake, replaces_entry=replaces_entry, notify=notify)


def land_intake(
    warehouse: Warehouse,
    source: Source,
    partition: str,
    intake: AbstractContextManager[Intake],
    *,
    shrink: bool = False,
    replaces_entry: int | None = None,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Lands an intake under a partition; returns the closed run. Enters the intake after the run is in the ledger.

    shrink: accept a listing that lacks many records. Raises what the source raises, after the run is closed as failed.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    code = source.code_version
    opened = ledger.open_run(
        warehouse, source, "land", partition, code_version=code, dagster_run_id=dagster_run_id, notify=notify
    )
    with (
        opened as run,
        intake as entered,
        warehouse.connect() as connection,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):
        _Landing(source, run, entered, connection, writer).execute(shrink=shrink, replaces_entry=replaces_entry)
    return run


class _Landing:
    """The steps of one run. While a batch is written, the next one is read and validated."""

    def __init__(
        self, source: Source, run: Run, intake: Intake, connection: Connection, writer: ThreadPoolExecutor
    ) -> None:
        self.source, self.run, self.intake = source, run, intake
        self.validators = {
            kind: Validator(stream, source.contracts[kind], intake.fetched_at)
            for kind, stream in source.streams.items()
        }
        self.batch: list[Payload] = []
        self.batch_bytes = 0
        self.cursors: dict[str, Any] = {}
        self.progress = resume(run, intake) or Progress(intake.fetched_at or datetime.now(UTC), intake.request_options)
        self.bodies = BodyWriter(run, connection, writer, self.progress)

    def execute(self, *, shrink: bool, replaces_entry: int | None) -> None:
        deleted: list[int] = []
        try:
            for item in self.intake.items(self.progress.listings):
                self._add(item)
            self._flush()
            self.bodies.wait()
            for found in find_deleted(self.run, self.source, self.progress, self.intake, shrink=shrink):
                if isinstance(found, Payload):
                    self._add(found)
                else:
                    deleted.append(found)
            self._flush()
            self.bodies.wait()
        except ListingChanged:  # the next run must not resume it
            self.run.connection.execute("delete from staging.checkpoints where fetch_run_id = %s", [self.run.id])
            raise
        cursors = {**self.intake.cursors, **self.cursors} if self.cursors else None
        publish(self.run, self.source, self.intake, self.progress, deleted, cursors, replaces_entry)

    def _add(self, item: Item) -> None:
        match item:
            case Payload():
                self.batch.append(item)
                self.batch_bytes += len(item.body)
                if self.batch_bytes >= BATCH_BYTES or len(self.batch) >= BATCH_PAYLOADS:
                    self._flush()
            case Skipped():
                self.progress.skipped[item.reason] = self.progress.skipped.get(item.reason, 0) + 1
                if item.external_id is not None:
                    self.progress.unreadable.append((item.kind, item.external_id))
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
        for payload in payloads:
            self.progress.fetched += 1
            self.progress.bytes += len(payload.body)
            result = self.validators[payload.kind].validate(payload, self.progress.fetched)
            (arrivals if isinstance(result, Arrival) else rejected).append(result)  # type: ignore[arg-type]
        self.bodies.write(arrivals, rejected, checkpoint=checkpoint)
        self.run.advance(len(payloads))
