"""Erasing a record: whatever is held of it goes, and it does not land again.

    record ──> a tombstone, taken into the tables ──> versions, bodies, observations, quarantine removed ──> an erasure

All in one transaction. What is left, in `staging.erasures`, are keys and digests; landings skip the record from then
on, until the erasure is lifted. Belongs here: one record. Not: what is merely old (`retention`).
"""

from collections.abc import Callable
from typing import Any

from psycopg import sql

from pipelines import failpoints, ledger, project
from pipelines.errors import AtlasError
from pipelines.landing import stage_bodies
from pipelines.ledger import Run
from pipelines.lineage import shadow_schema
from pipelines.maintenance.retention import vacuum
from pipelines.source import Source
from pipelines.transform.run import apply_pending, code_version
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse

PARTITION = "all"
"""No version is of this day but the tombstone."""


def held(connection: Connection, stream: str, external_id: str) -> dict[str, int]:
    """How many versions, observations and quarantine entries there are of a record, and payloads under way."""
    row = connection.execute(HELD, {"stream": stream, "external_id": external_id}).fetchone()
    assert row is not None
    return row


def erase(
    warehouse: Warehouse,
    source: Source,
    stream: str,
    external_id: str,
    *,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Removes a record from staging, quarantine and tables; the closed run, with what was removed in its stats."""
    with warehouse.connect() as connection:
        _require_any(connection, stream, external_id)
        shadow_schema.drop_forsaken(connection)
        _require_no_copy(connection, source.domain)
    code = code_version(project.selects(source.name))
    with ledger.opened(warehouse, source, "erase", PARTITION, code_version=code, notify=notify) as run:
        with run.connection.transaction():
            _require_no_copy_under_way(run.connection, source.domain)
            for lock in (locks.transform(source.domain), locks.landing(source.name), locks.BODIES):
                locks.acquire_for_transaction(run.connection, lock)
            parameters = {"run": run.id, "source": source.name, "stream": stream, "external_id": external_id}
            _require_any(run.connection, stream, external_id)
            _require_landed(run.connection, parameters)
            _require_no_copy(run.connection, source.domain)
            failpoints.reached("erase.locked")
            for number, statement in enumerate(BEGIN):
                run.connection.execute(statement, parameters)
                failpoints.reached("erase.begun", str(number))
            counts, stats = apply_pending(run, source)
            failpoints.reached("erase.taken_in")
            removed = {what: _removed(run.connection, what, parameters) for what in REMOVE}
            removed["versions"] -= 1  # the tombstone, which is of this run
            stats["erased"] = removed | _shared(run.connection)
            run.publish(counts, stats)
        failpoints.reached("erase.committed")
        written = [name for name, each in stats["tables"].items() if each["updated"] or each["deleted"]]
        shadow_schema.drop_forsaken(run.connection)
        vacuum(run.connection, STAGING + written)
    return run


def lift(warehouse: Warehouse, stream: str, external_id: str) -> bool:
    """Lets an erased record land again; whether it was erased."""
    with warehouse.connect() as connection:
        return bool(connection.execute(LIFT, {"stream": stream, "external_id": external_id}).rowcount)


def told(connection: Connection, of: str, key: str) -> str | None:
    """When and by which run the record that has a key was erased, in a sentence.

    of: its stream, or the beginning of that. key: the source's own id, or the record's id.
    """
    row = connection.execute(TOLD, {"of": of, "key": key}).fetchone()
    if row is None:
        return None
    return (
        f"A record {key!r} of {row['stream']} was erased at {row['erased_at']:%Y-%m-%d %H:%M} UTC by run "
        f"{row['fetch_run_id']}: nothing is kept of it but its digest {bytes(row['digest']).hex()[:16]}…"
        + ("" if row["lifted_at"] is None else f" It may land again since {row['lifted_at']:%Y-%m-%d}.")
    )


def count(connection: Connection, domain: str) -> int:
    """How many records of a domain are erased."""
    row = connection.execute(
        "select count(*) as number from staging.erasures where starts_with(stream, %s) and lifted_at is null",
        [f"{domain}/"],
    ).fetchone()
    assert row is not None
    return int(row["number"])


def _require_any(connection: Connection, stream: str, external_id: str) -> None:
    """Fails where there is nothing to erase."""
    if not any(held(connection, stream, external_id).values()):
        before = told(connection, stream, external_id)
        raise AtlasError(before or f"Nothing is held of a record {external_id!r} of {stream}.", usage=True)


def _require_landed(connection: Connection, parameters: dict[str, Any]) -> None:
    """Fails where a landing under way holds it too."""
    landing = connection.execute(UNDER_WAY, parameters).fetchone()
    if landing is not None:
        raise AtlasError(
            f"Landing {landing['fetch_run_id']} of {parameters['source']} is under way and has just received the "
            "record. Erase it when that has ended: atlas runs"
        )


def _require_no_copy(connection: Connection, domain: str) -> None:
    """Fails where a schema that somebody keeps holds the domain as it was."""
    if copies := shadow_schema.kept(connection, domain):
        names = sql.SQL(", ").join(map(sql.Identifier, copies)).as_string()
        raise AtlasError(
            f"{len(copies):,} schemas hold {domain} as it was, perhaps with what is to be erased. "
            f"Drop them first: drop schema {names} cascade;"
        )


def _require_no_copy_under_way(connection: Connection, domain: str) -> None:
    """Holds off, or fails for, schemas that are being made and are to be kept."""
    if not locks.try_acquire_for_transaction(connection, locks.kept_schemas(domain)):
        raise AtlasError(
            f"A schema with {domain} as it was is being made by `atlas as-of --schema`. Erase when that has ended."
        )


def _removed(connection: Connection, what: str, parameters: dict[str, Any]) -> int:
    statement = REMOVE[what]
    query = sql.SQL(statement) if isinstance(statement, str) else statement
    number = connection.execute(query, parameters).rowcount
    failpoints.reached("erase.removed", what)
    return number


def _shared(connection: Connection) -> dict[str, int]:
    """How many bodies stay, because another record has the same."""
    row = connection.execute(
        """
        select count(distinct p.payload_id) as shared_bodies
        from erased join staging.payloads p using (payload_id)
        """
    ).fetchone()
    assert row is not None
    return row


STAGING = [
    f"staging.{name}"
    for name in (
        "payloads",
        "versions",
        "derivations",
        "observations",
        "waits",
        "arrivals",
        "rejects",
        "checkpoints",
        "quarantine",
    )
]

HELD = """
select
    (select count(*) from staging.versions where record_id = k.id) as versions,
    (select count(*) from staging.observations where record_id = k.id) as observations,
    (select count(*) from staging.quarantine where record_id = k.id) as quarantine_entries,
    (select count(*) from staging.arrivals where (stream, external_id) = (%(stream)s, %(external_id)s))
        + (select count(*) from staging.rejects where (stream, external_id) = (%(stream)s, %(external_id)s)) as arrivals
from (select ops.key(%(stream)s, %(external_id)s) as id) as k
"""

UNDER_WAY = """
select r.fetch_run_id from ops.fetch_runs r
where r.status in ('pending', 'in_progress')
  and r.fetch_run_id = any(array(
      select fetch_run_id from staging.arrivals where (stream, external_id) = (%(stream)s, %(external_id)s)
      union all
      select fetch_run_id from staging.rejects where (stream, external_id) = (%(stream)s, %(external_id)s)))
limit 1
"""

BEGIN = (
    """
    create temp table erased on commit drop as
    select version_id, payload_id, digest, landed_run from staging.versions
    where record_id = ops.key(%(stream)s, %(external_id)s)
    """,
    """
    insert into staging.erasures (fetch_run_id, stream, record_id, digest)
    select %(run)s, %(stream)s, ops.key(%(stream)s, %(external_id)s), sha256(coalesce(
        (select string_agg(digest, '' order by version_id) from erased),
        (select string_agg(digest, '' order by quarantine_id) from staging.quarantine
         where record_id = ops.key(%(stream)s, %(external_id)s)),
        ''))
    """,
    """
    update staging.versions set latest = false where record_id = ops.key(%(stream)s, %(external_id)s) and latest
    """,
    """
    insert into staging.versions
        (stream, external_id, record_id, version_at, fetched_at, request, partition_key, landed_run, latest)
    select %(stream)s, %(external_id)s, ops.key(%(stream)s, %(external_id)s), now(), now(), 'erased', 'all', %(run)s,
        true
    """,
    """
    insert into erased
    select version_id, payload_id, digest, landed_run from staging.versions where landed_run = %(run)s
    """,
    # Paths with a key that no other record is known to have: its name may be a person's. What landings have seen
    # elsewhere is in a body, or its sample is still there.
    r"""
    create temp table forgotten on commit drop as
    select stream, path, array(
            select m[1] from regexp_matches(path, '(?:^|\.)("(?:[^"\\]|\\.)*"|[^.\[*"$]+)', 'g') as m) as keys
    from ops.schema_drift d
    where stream = %(stream)s
    group by stream, path
    having bool_and(d.payload_id is null or d.payload_id in (select payload_id from erased where payload_id is not null)
        or not exists (select from staging.payloads p where p.payload_id = d.payload_id))
    """,
    """
    delete from forgotten f
    where not exists (
        select from unnest(f.keys) as key
        where not exists (
            select from staging.versions v join staging.payloads p using (payload_id)
            where v.stream = f.stream and v.record_id <> ops.key(%(stream)s, %(external_id)s)
              and jsonb_path_exists(p.body,
                  ('$.**.' || case when key like '"%%' then key else to_json(key)::text end)::jsonpath)))
    """,
)

REMOVE: dict[str, str | sql.Composed] = {
    "observations": "delete from staging.observations where record_id = ops.key(%(stream)s, %(external_id)s)",
    "derivations": "delete from staging.reapplied_versions d using erased e where d.version_id = e.version_id",
    "versions": "delete from staging.versions v using erased e where v.version_id = e.version_id",
    "waits": "delete from staging.pending_rows where record_id = ops.key(%(stream)s, %(external_id)s)",
    # What was mended into the record; closed entries of shared rows, of which none can tell whose they were.
    "quarantine_entries": """
        delete from staging.quarantine q
        where q.record_id = ops.key(%(stream)s, %(external_id)s)
           or q.stage = 'land' and q.stream = %(stream)s and (
               q.digest in (select digest from erased)
               or q.record_id is null and q.closed_run in (
                   select e.landed_run from erased e join ops.fetch_runs r on r.fetch_run_id = e.landed_run
                   where r.fetched = 1))
           or q.stage = 'transform' and q.stream = %(source)s and q.record_id is null and q.closed_at is not null
    """,
    "drift_told": """
        with told as (
            select r.fetch_run_id, d.value, exists (
                select from forgotten f
                where (f.stream, f.path) = (d.value ->> 'stream', d.value ->> 'path')) as forgotten
            from ops.fetch_runs r cross join jsonb_array_elements(r.stats -> 'drift') as d
            where r.stream = %(source)s and r.kind = 'land'
        )

        update ops.fetch_runs r set stats = jsonb_set(r.stats, '{drift}', t.others)
        from (
            select fetch_run_id, coalesce(jsonb_agg(value) filter (where not forgotten), '[]') as others from told
            group by fetch_run_id having bool_or(forgotten)
        ) as t
        where r.fetch_run_id = t.fetch_run_id
    """,
    "drift_paths": "delete from ops.schema_drift d using forgotten f where (d.stream, d.path) = (f.stream, f.path)",
    # Whatever broken off landings of the source kept: any of it may tell of the record. They begin anew.
    **{
        kept: sql.SQL(
            """
            delete from staging.{} where fetch_run_id = any(array(
                select fetch_run_id from ops.fetch_runs
                where stream = %(source)s and kind = 'land' and status = 'failed'))
            """
        ).format(sql.Identifier(kept))
        for kept in ("arrivals", "rejects", "checkpoints")
    },
    # Those of crashed landings go too: of whom they are cannot be told.
    "bodies": sql.SQL("delete from staging.payloads p where {}").format(stage_bodies.UNNAMED),
}

LIFT = """
update staging.erasures set lifted_at = now()
where record_id = ops.key(%(stream)s, %(external_id)s) and lifted_at is null
"""

TOLD = """
select e.* from staging.erasures e
where starts_with(e.stream, %(of)s)
  and (e.record_id = ops.key(e.stream, %(key)s) or e.record_id::text = lower(%(key)s))
order by e.erased_at desc limit 1
"""
