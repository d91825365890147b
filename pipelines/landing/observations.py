"""Observations: the volatile fields of a record, a row each time they changed.

    classified ──> staging.observations, where the volatile fields differ from those before

Belongs here: staging.observations. Not here: how volatile fields are split off a payload (`volatile_fields`).
"""

from pipelines.ledger import Run


def insert_observations(run: Run, results: dict[str, int]) -> None:
    """Inserts an observation for each arrival whose volatile fields changed. results: as `classify` returned them."""
    connection = run.connection
    parameters = {"partition": run.partition, "run": run.id}
    connection.execute(CLEAR_LATEST)
    connection.execute(INSERT_OBSERVATIONS, parameters)
    if "observed" in results:
        connection.execute(RETRY_SELECTS)
    if connection.execute("select from classified where counters_changed and not newest limit 1").rowcount:
        for statement in SPLIT_REPEATED:
            connection.execute(statement, parameters)


def confirm_unchanged(run: Run) -> None:
    """Moves `seen_at` of unchanged observations to the time of the arrival, at most once a day."""
    run.connection.execute(CONFIRM_UNCHANGED, {"partition": run.partition})


CLEAR_LATEST = """
update staging.observations o set latest = false
from classified c
where o.observation_id = c.latest_observation_id and c.counters_changed and c.newest
"""

INSERT_OBSERVATIONS = """
insert into staging.observations
    (stream, record_id, digest, counters, paths, observed_at, seen_at, request, partition_key, landed_run, latest)
select stream, record_id, counters_digest, counters, paths, fetched_at, fetched_at, request, %(partition)s, %(run)s,
    newest
from classified
where counters_changed
order by sequence
on conflict (record_id, observed_at) do update set
    digest = excluded.digest, counters = excluded.counters, paths = excluded.paths, request = excluded.request,
    landed_run = excluded.landed_run, latest = excluded.latest, valid_from_run = null
"""

RETRY_SELECTS = """
update staging.versions v set attempted_sql = null -- a SELECT that failed may succeed with other volatile fields
from classified c
where v.version_id = c.latest_id and c.result = 'observed' and c.counters_changed and c.newest
  and v.applied_sql is null and v.attempted_sql is not null
"""

SPLIT_REPEATED = (
    # A late observation between two sightings of another one splits that in two.
    """
    create temp table repeated_observations on commit drop as
    select e.* from classified c
    cross join lateral (
        select * from staging.observations o
        where o.record_id = c.record_id and o.observed_at < c.fetched_at
        order by o.observed_at desc limit 1
    ) as e
    where c.counters_changed and e.seen_at > c.fetched_at
    """,
    """
    update staging.observations o set seen_at = o.observed_at, latest = false
    from repeated_observations r where o.observation_id = r.observation_id
    """,
    """
    insert into staging.observations
        (stream, record_id, digest, counters, paths, observed_at, seen_at, request, partition_key, landed_run, latest)
    select stream, record_id, digest, counters, paths, seen_at, seen_at, request, %(partition)s, %(run)s, latest
    from repeated_observations
    """,
)

CONFIRM_UNCHANGED = """
update staging.observations o set seen_at = c.fetched_at
from classified c
where o.observation_id = c.latest_observation_id and o.digest = c.counters_digest
  and o.seen_at < c.fetched_at and o.seen_at < %(partition)s::date
"""
