"""The input of a landing (`Intake`), and how much of it is done (`Progress`, a row of staging.checkpoints).

    extract, bulk_files ──> Intake ──> land ──checkpoint──> Progress ──resume──> the next run, where this one fails

Not here: how items are fetched (`extract`, `bulk_files`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from psycopg import sql
from psycopg.types.json import Jsonb

from pipelines.ledger import Run
from pipelines.schema.staging_tables import UNPUBLISHED
from pipelines.source import FullScan, Item, Payload, Skipped
from pipelines.warehouse.database import Connection

GetRecord = Callable[[str, str], Payload | Skipped | None]
"""By kind and external id: the record; Skipped where it exists, and is not landed; None where it is gone."""
MAX_ATTEMPTS = 5  # runs that resume from one checkpoint without reaching the next; the run after them starts over


@dataclass(frozen=True)
class Intake:
    """What a landing reads."""

    items: Callable[[dict[str, dict[str, Any]]], Iterable[Item]]
    """From the checkpoints of the run that is resumed, by listing; from the start, if there are none."""
    mode: str  # live, recorded or files; only live runs are resumed
    received_at: datetime | None = None  # when the items were received, if not now
    get_record: GetRecord | None = None
    cursors: Mapping[str, Any] = field(default_factory=dict)  # as the last run left them
    request_options: dict[str, str | bool] = field(default_factory=dict)  # a live run with others is not resumed
    notes: Counter[str] = field(default_factory=Counter)  # counts for the ledger


class Progress(msgspec.Struct):
    """What a landing has done so far, as it is stored with each checkpoint."""

    started_at: datetime  # before the first request
    request_options: dict[str, str | bool] = {}
    attempts: int = 0  # runs that resumed from this checkpoint
    listings: dict[str, dict[str, Any]] = {}  # the checkpoint of each
    fetched: int = 0
    bytes: int = 0
    bodies: int = 0
    skipped: dict[str, int] = {}
    repaired: dict[str, int] = {}
    unfetched: list[tuple[str, str]] = []  # kind and id of records that exist and could not be fetched
    full_scans: list[FullScan] = []


def save_checkpoint(connection: Connection, run: Run, progress: Progress) -> None:
    """Stores how far a run has come, in the transaction that writes what it landed until then."""
    progress.attempts = 0
    connection.execute(UPSERT_CHECKPOINT, [run.id, Jsonb(msgspec.to_builtins(progress))])


def resume(run: Run, intake: Intake) -> Progress | None:
    """Moves what the last failed run of the partition stored to this run; its progress, or None if there is none."""
    if intake.mode != "live":
        return None
    parameters = {"run": run.id, "stream": run.stream, "partition": run.partition, "attempts": MAX_ATTEMPTS}
    parameters["options"] = Jsonb(intake.request_options)
    row = run.connection.execute(RESUME, parameters).fetchone()
    if row is None:
        return None
    try:
        progress = msgspec.convert(row["progress"], Progress)
    except msgspec.ValidationError:  # another version of this code wrote it
        discard(run)
        return None
    intake.notes["payloads resumed from a failed run"] = progress.fetched
    return progress


def discard(run: Run) -> None:
    """Deletes what a run stored for its publication or its resumption."""
    for name in UNPUBLISHED:
        run.connection.execute(
            sql.SQL("delete from staging.{} where fetch_run_id = %s").format(sql.Identifier(name)), [run.id]
        )


UPSERT_CHECKPOINT = """
insert into staging.checkpoints (fetch_run_id, progress) values (%s, %s)
on conflict (fetch_run_id) do update set progress = excluded.progress
"""

RESUME = """
with last_failed as (
    select c.fetch_run_id, c.progress, (c.progress ->> 'fetched')::bigint as fetched, f.code_version
    from staging.checkpoints c join ops.fetch_runs f using (fetch_run_id)
    where f.stream = %(stream)s and f.partition_key = %(partition)s and f.status = 'failed'
    order by c.fetch_run_id desc limit 1
    for update of c skip locked
),

resumed as (
    select f.* from last_failed f join ops.fetch_runs r on r.fetch_run_id = %(run)s and r.code_version = f.code_version
    where f.progress -> 'request_options' = %(options)s
      and (f.progress ->> 'attempts')::int < %(attempts)s
      and r.started_at < (f.progress ->> 'started_at')::timestamptz + interval '1 day'
),

after_checkpoint as ( -- will be fetched again
    delete from staging.arrivals a using resumed r where a.fetch_run_id = r.fetch_run_id and a.sequence > r.fetched
),

arrived as (
    update staging.arrivals a set fetch_run_id = %(run)s
    from resumed r where a.fetch_run_id = r.fetch_run_id and a.sequence <= r.fetched
),

rejected_after_checkpoint as (
    delete from staging.rejects j using resumed r where j.fetch_run_id = r.fetch_run_id and j.sequence > r.fetched
),

rejected as (
    update staging.rejects j set fetch_run_id = %(run)s
    from resumed r where j.fetch_run_id = r.fetch_run_id and j.sequence <= r.fetched
)

update staging.checkpoints c
set fetch_run_id = %(run)s,
    progress = jsonb_set(c.progress, '{attempts}', to_jsonb((c.progress ->> 'attempts')::int + 1))
from resumed r where c.fetch_run_id = r.fetch_run_id
returning c.progress
"""
