"""Observations: the volatile fields of a record, a row each time they changed, in order of arrival.

    classified ──> staging.observations, where the volatile fields differ from those before

The values in force are those of the newest observation that was not late when it arrived. A late one is history.
Belongs here: inserting observations. Not here: how volatile fields are split off a payload (`volatile_fields`), which
of them changed and which are late (`versions.classify`).
"""

from pipelines.ledger import Run


def insert_observations(run: Run) -> None:
    """Inserts an observation for each arrival whose volatile fields changed."""
    run.connection.execute(INSERT_OBSERVATIONS, {"partition": run.partition, "run": run.id})


INSERT_OBSERVATIONS = """
insert into staging.observations
    (stream, record_id, digest, counters, paths, observed_at, request, partition_key, landed_run, late)
select stream, record_id, counters_digest, counters, paths, observed_at, request, %(partition)s, %(run)s, late
from classified
where counters_changed
order by sequence
on conflict (record_id, observed_at) do nothing -- of two late ones of one time, the first
"""
