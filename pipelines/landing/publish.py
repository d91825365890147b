"""Publishes a landing in one transaction: versions, observations, quarantine, drift, cursors and the ledger row.

    staging.arrivals ──classify──> deletions ──> versions ──> observations ──> quarantine ──> ledger
    staging.rejects ──────────────────────────────────────────────┘

The transaction holds the lock of the source, so that the landings of a source are published one after another. Belongs
here: the order of the statements, erased records, closing of quarantine entries. Not here: bodies (`stage_bodies`).
"""

from typing import Any

import msgspec

from pipelines import quarantine
from pipelines.landing import deletions, schema_drift, versions
from pipelines.landing.intake import Intake, Progress, discard
from pipelines.landing.observations import insert_observations
from pipelines.ledger import Counts, Run
from pipelines.source import Source
from pipelines.warehouse import locks

VACUUM_FROM = 1_000
"""A landing of this many arrivals vacuums staging.arrivals at once: the next one needs the space before autovacuum
runs."""


def publish(
    run: Run,
    source: Source,
    intake: Intake,
    progress: Progress,
    deleted: list[deletions.Deletion],
    cursors: dict[str, Any] | None,
    replaces_entry: int | None,
) -> None:
    """Publishes the rows that staging.arrivals and staging.rejects hold of the run, and closes the run.

    cursors: those to start from next time, if the run moved one. replaces_entry: the quarantine entry whose payload the
    arrivals replace.
    """
    connection = run.connection
    stats: dict[str, Any] = {
        "bytes": progress.bytes,
        "bodies": progress.bodies,
        "skipped": progress.skipped,
        "repaired": progress.repaired,
        "mode": intake.mode,
        **intake.request_options,
        "notes": {name: number for name, number in sorted(intake.notes.items()) if number},
    }
    with connection.transaction():
        unstorable = [bytes.fromhex(digest) for digest in progress.unstorable]
        connection.execute(DELETE_UNSTORABLE, [run.id, unstorable])
        locks.acquire_for_transaction(connection, locks.landing(run.source))
        erased = sum(connection.execute(statement, {"run": run.id}).rowcount for statement in DELETE_ERASED)
        if erased:
            stats["skipped"] = progress.skipped | {"erased before": erased}
        results = versions.classify(run)
        tombstones = deletions.insert_tombstones(run, deleted, progress.started_at)
        if results.keys() - {"unchanged", "duplicate", "observed"}:
            versions.insert_versions(run)
        if tombstones and (renamed := deletions.set_renames(run)):
            stats["renamed"] = renamed
        insert_observations(run)
        versions.confirm_unchanged(run)
        if drift := schema_drift.record(run, source):
            stats["drift"] = msgspec.to_builtins(drift)
        _publish_quarantine(run, replaces_entry, results)
        fetched = progress.fetched - erased
        counts = Counts(
            fetched=fetched,
            created=results.get("created", 0),
            updated=results.get("updated", 0) + results.get("observed", 0),
            unchanged=results.get("unchanged", 0),
            deleted=tombstones,
            quarantined=fetched - sum(results.values()),
            duplicates=sum(results.get(name, 0) for name in ("duplicate", "superseded", "late")),
        )
        discard(run)
        run.close(counts, stats, cursor_from=dict(intake.cursors), cursor_to=cursors)
    if progress.fetched >= VACUUM_FROM:
        connection.execute("vacuum (skip_locked) staging.arrivals")


def _publish_quarantine(run: Run, replaces_entry: int | None, results: dict[str, int]) -> None:
    """Adds the rejected payloads to the quarantine, and closes the entries whose records landed."""
    quarantine.upsert_payload_entries(run)
    run.connection.execute(CLOSE_LANDED, {"run": run.id, "partition": run.partition})
    if replaces_entry is not None and results:
        run.connection.execute(CLOSE_REPLACED, [run.id, replaces_entry])


DELETE_UNSTORABLE = "delete from staging.arrivals where fetch_run_id = %s and digest = any(%s)"

DELETE_ERASED = (
    # If the erasure was lifted during the landing, the body was not stored.
    """
    delete from staging.arrivals a using staging.erasures e
    where a.fetch_run_id = %(run)s and e.record_id = ops.key(a.stream, a.external_id)
      and (e.lifted_at is null or not exists (select from staging.payloads p where p.digest = a.digest))
    """,
    """
    delete from staging.rejects r using staging.erasures e
    where r.fetch_run_id = %(run)s and e.record_id = ops.key(r.stream, r.external_id) and e.lifted_at is null
    """,
)

CLOSE_LANDED = """
update staging.quarantine q set closed_run = %(run)s, closed_at = now()
from classified c
where q.stage = 'land' and q.stream = c.stream and q.closed_at is null and q.last_run <> %(run)s
  and (
      q.digest = c.digest
      or q.record_id = c.record_id and q.partition_key <= %(partition)s -- the entry's day or later
          and c.result in ('created', 'updated', 'unchanged', 'observed'))
"""

CLOSE_REPLACED = """
update staging.quarantine q set closed_run = %s, closed_at = now()
where q.quarantine_id = %s and q.closed_at is null
  and (q.record_id is null or exists (select from classified c where c.record_id = q.record_id))
"""
