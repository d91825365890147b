"""Publishes a landing in one transaction: versions, observations, quarantine, drift, cursors and the ledger row.

    staging.arrivals ──classify──> deletions ──> versions ──> observations ──> quarantine ──> ledger
    staging.rejects ──────────────────────────────────────────────┘

The transaction holds the lock of the source, so that the landings of a source are published one after another. Belongs
here: the order of the statements, erased records, closing of quarantine entries. Not here: bodies (`stage_bodies`).
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipelines import quarantine
from pipelines.landing import deletions, versions
from pipelines.landing.intake import discard
from pipelines.landing.observations import insert_observations
from pipelines.landing.schema_drift import SchemaDrift
from pipelines.ledger import Counts, Run
from pipelines.warehouse import locks

VACUUM_FROM = 1_000
"""A landing of this many arrivals vacuums staging.arrivals at once: the next one needs the space before autovacuum
runs."""


@dataclass
class Outcome:
    """What a landing publishes besides staging.arrivals and staging.rejects.

    unstorable: digests of bodies that jsonb cannot store. deleted_at: when the run began to read the source.
    replaces_entry: the quarantine entry whose payload the arrivals replace.
    """

    fetched: int
    unstorable: list[bytes]
    stats: dict[str, Any]
    drift: SchemaDrift
    deleted_at: datetime
    deleted: list[deletions.Deletion] = field(default_factory=list)
    cursor_from: dict[str, Any] | None = None
    cursor_to: dict[str, Any] | None = None
    replaces_entry: int | None = None


def publish(run: Run, outcome: Outcome) -> None:
    """Publishes the rows that staging.arrivals and staging.rejects hold of the run, and closes the run."""
    connection = run.connection
    with connection.transaction():
        connection.execute(DELETE_UNSTORABLE, [run.id, outcome.unstorable])
        locks.acquire_for_transaction(connection, locks.landing(run.source))
        fetched = outcome.fetched - _skip_erased(run, outcome)
        results = versions.classify(run)
        deleted = _publish_versions(run, outcome, results)
        _publish_quarantine(run, outcome, results)
        if drift := outcome.drift.save(results.get("created", 0) + results.get("updated", 0)):
            outcome.stats["drift"] = drift
        counts = Counts(
            fetched=fetched,
            created=results.get("created", 0),
            updated=results.get("updated", 0) + results.get("observed", 0),
            unchanged=results.get("unchanged", 0),
            deleted=deleted,
            quarantined=fetched - sum(results.values()),
            duplicates=sum(results.get(name, 0) for name in ("duplicate", "superseded", "late")),
        )
        discard(run)
        run.close(counts, outcome.stats, cursor_from=outcome.cursor_from, cursor_to=outcome.cursor_to)
    if outcome.fetched >= VACUUM_FROM:
        connection.execute("vacuum (skip_locked) staging.arrivals")


def _skip_erased(run: Run, outcome: Outcome) -> int:
    """Deletes what arrived of erased records; returns the number of payloads."""
    erased = sum(run.connection.execute(statement, {"run": run.id}).rowcount for statement in DELETE_ERASED)
    if erased:
        outcome.stats["skipped"] = outcome.stats.get("skipped", {}) | {"erased before": erased}
    return erased


def _publish_versions(run: Run, outcome: Outcome, results: dict[str, int]) -> int:
    """Inserts tombstones, versions and observations; returns the number of tombstones."""
    deleted = deletions.insert_tombstones(run, outcome.deleted, outcome.deleted_at)
    if results.keys() - {"unchanged", "duplicate", "observed"}:
        versions.insert_versions(run)
    if deleted and (renamed := deletions.set_renames(run)):
        outcome.stats["renamed"] = renamed
    insert_observations(run)
    versions.confirm_unchanged(run)
    return deleted


def _publish_quarantine(run: Run, outcome: Outcome, results: dict[str, int]) -> None:
    """Adds the rejected payloads to the quarantine, and closes the entries whose records landed."""
    quarantine.upsert_payload_entries(run)
    run.connection.execute(CLOSE_LANDED, {"run": run.id, "partition": run.partition})
    if outcome.replaces_entry is not None and results:
        run.connection.execute(CLOSE_REPLACED, [run.id, outcome.replaces_entry])


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
