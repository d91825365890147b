"""Erases one record: removes it from staging, quarantine and tables, and keeps it from landing again.

    record ──PREPARE──> tombstone, applied to the tables ──DELETE──> one row in staging.erasures
        └── rows of applications that belong to it go first (`erased_rows`)

All of it in one transaction. Landings skip an erased record until the erasure is lifted.
"""

from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from pipelines import ledger, project
from pipelines.errors import AtlasError
from pipelines.landing import stage_bodies
from pipelines.ledger import Run
from pipelines.lineage import shadow_schema
from pipelines.lineage.trace import erasure_notice
from pipelines.maintenance import erased_rows
from pipelines.maintenance.erased_rows import Reach
from pipelines.maintenance.retention import vacuum
from pipelines.schema.staging_tables import UNPUBLISHED
from pipelines.schema.table_spec import tables_of
from pipelines.source import Stream
from pipelines.transform import table_digests
from pipelines.transform.change_set import code_version
from pipelines.transform.run import apply_pending
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse


@dataclass(frozen=True)
class Stored:
    """What an erasure removes. staging: how many versions, observations, quarantine entries and arrivals of the record.
    reach: what it reaches beyond these and the rows from sources.
    """

    staging: dict[str, int]
    reach: Reach


def find_stored(connection: Connection, stream: str, external_id: str) -> Stored:
    """What is stored of a record, and writes `erased_rows` until the caller's transaction ends.

    Raises AtlasError where that is nothing, or a row that stays forbids the erasure.
    """
    parameters = {"stream": stream, "external_id": external_id}
    (staging,) = connection.execute(
        """
        select
            (select count(*) from staging.versions where record_id = k.id) as versions,
            (select count(*) from staging.observations where record_id = k.id) as observations,
            (select count(*) from staging.quarantine where record_id = k.id) as quarantine_entries,
            (select count(*) from staging.arrivals where (stream, external_id) = (%(stream)s, %(external_id)s))
                + (select count(*) from staging.rejects where (stream, external_id) = (%(stream)s, %(external_id)s))
                as arrivals
        from (select ops.key(%(stream)s, %(external_id)s) as id) as k
        """,
        parameters,
    )
    stored = Stored(staging, erased_rows.find(connection, parameters))
    if not any((*stored.staging.values(), *stored.reach.rows.values())):
        notice = erasure_notice(connection, stream, external_id)
        raise AtlasError(notice or f"Nothing is stored of record {external_id!r} of {stream}.", usage=True)
    return stored


def preview(warehouse: Warehouse, stream: str, external_id: str) -> Stored:
    """What `erase` would remove. Raises AtlasError where that is nothing, or a row that stays forbids it."""
    with warehouse.connect() as connection, connection.transaction(force_rollback=True):
        return find_stored(connection, stream, external_id)


def erase(warehouse: Warehouse, stream: Stream, name: str, external_id: str) -> Run:
    """Removes a record from staging, quarantine and tables; the closed run, with the numbers removed in its stats.

    name: of the record's stream, which is the stream's own or that of one that comes with it.

    Raises AtlasError where nothing of the record is stored, a landing is receiving it, a kept schema may hold it, or a
    row that stays forbids it.
    """
    preview(warehouse, name, external_id)
    source = stream.source
    code = code_version(project.selects(source.name))
    with ledger.open_run(warehouse, stream, "erase", "all", code_version=code) as run:
        with run.connection.transaction():
            _require_no_kept_schema(run.connection, source.domain)
            for lock in (locks.transform(source.domain), locks.landing(source.name), locks.BODIES):
                locks.acquire_for_transaction(run.connection, lock)
            parameters = {"run": run.id, "source": source.name, "stream": name, "external_id": external_id}
            parameters["runs_of"] = stream.name
            reach = find_stored(run.connection, name, external_id).reach
            _require_no_landing(run.connection, parameters)
            for statement in PREPARE:
                run.connection.execute(statement, parameters)
            deleted = erased_rows.delete(run.connection, parameters)
            specs = [spec for spec in tables_of(source.domain) if spec.kind != "application"]
            counts, stats = apply_pending(run, stream, shrink=True, pruned=[spec.table for spec in specs])
            erased_rows.require_none_left(run.connection, parameters)
            counts.deleted += deleted
            if reach.rows:
                stats["table_digests"] = table_digests.recount(run.connection, specs)
            stats["erased"] = reach.rows | {
                kind: run.connection.execute(statement, parameters).rowcount for kind, statement in DELETE.items()
            }
            stats["erased"]["versions"] -= 1  # the tombstone of this run
            stats["cleared"] = reach.cleared
            shadow_schema.drop_abandoned(run.connection)
            run.close(counts, stats)
        vacuum(run.connection, "ops", "staging", source.domain)
    return run


def lift(warehouse: Warehouse, stream: str, external_id: str) -> bool:
    """Allows an erased record to land again; returns whether it was erased."""
    with warehouse.connect() as connection:
        query = "update staging.erasures set lifted_at = now() where record_id = ops.key(%s, %s) and lifted_at is null"
        return bool(connection.execute(query, [stream, external_id]).rowcount)


def _require_no_landing(connection: Connection, parameters: dict[str, Any]) -> None:
    """Raises AtlasError where a landing in progress has received the record."""
    landing = connection.execute(
        """
        select r.fetch_run_id from ops.fetch_runs r
        where r.status in ('pending', 'in_progress')
          and r.fetch_run_id = any(array(
              select fetch_run_id from staging.arrivals where (stream, external_id) = (%(stream)s, %(external_id)s)
              union all
              select fetch_run_id from staging.rejects where (stream, external_id) = (%(stream)s, %(external_id)s)))
        limit 1
        """,
        parameters,
    ).fetchone()
    if landing is not None:
        raise AtlasError(
            f"Landing {landing['fetch_run_id']} of {parameters['stream']} is in progress and has received the record. "
            "Erase the record when the landing has ended: atlas runs"
        )


def _require_no_kept_schema(connection: Connection, domain: str) -> None:
    """Raises AtlasError where a past state of the domain, perhaps with rows of the record, is kept or about to be."""
    if not locks.try_acquire_for_transaction(connection, locks.kept_schemas(domain)):
        raise AtlasError(
            f"`atlas as-of --schema` is creating a schema with a past state of {domain}. "
            "Erase the record when that has ended."
        )
    if schemas := shadow_schema.kept_schemas(connection, domain):
        names = sql.SQL(", ").join(map(sql.Identifier, schemas)).as_string()
        raise AtlasError(
            f"Past states of {domain} are kept in {len(schemas):,} schemas, perhaps with rows of the record. "
            f"Drop them first: drop schema {names} cascade;"
        )


PREPARE = (
    """
    insert into staging.erasures (fetch_run_id, stream, record_id, digest)
    select %(run)s, %(stream)s, ops.key(%(stream)s, %(external_id)s), sha256(coalesce(
        (select string_agg(digest, '' order by version_id)
         from staging.versions join staging.payloads using (payload_id)
         where record_id = ops.key(%(stream)s, %(external_id)s)),
        (select string_agg(digest, '' order by quarantine_id) from staging.quarantine
         where record_id = ops.key(%(stream)s, %(external_id)s)),
        ''))
    """,
    """
    update staging.versions set latest = false where record_id = ops.key(%(stream)s, %(external_id)s) and latest
    """,
    """
    insert into staging.versions
        (stream, external_id, record_id, received_at, request, partition_key, landed_run, latest)
    select %(stream)s, %(external_id)s, ops.key(%(stream)s, %(external_id)s), now(), 'erased', 'all', %(run)s,
        true
    """,
    # Records that keep the name, since the erased one was renamed to them, are known by their record_id from now on.
    """
    create temp table records_with_name on commit drop as
    select record_id, max(version_id) filter (where latest and payload_id is not null) as version_id
    from staging.versions
    where stream = %(stream)s and record_id <> ops.key(%(stream)s, %(external_id)s)
      and (identity = %(external_id)s or starts_with(identity, %(external_id)s || '@'))
    group by record_id
    """,
    """
    update staging.versions v
    set identity = v.record_id::text, latest = v.latest and v.version_id is distinct from n.version_id
    from records_with_name n where v.record_id = n.record_id
    """,
    """
    insert into staging.versions (stream, external_id, record_id, identity, payload_id, received_at, confirmed_at,
        request, partition_key, landed_run, latest)
    select v.stream, v.external_id, v.record_id, v.identity, v.payload_id, v.received_at, v.confirmed_at,
        v.request, 'all', %(run)s, true
    from records_with_name join staging.versions v using (version_id)
    """,
    """
    create temp table erased_versions on commit drop as
    select version_id, payload_id, digest, landed_run
    from staging.versions left join staging.payloads using (payload_id)
    where record_id = ops.key(%(stream)s, %(external_id)s)
    """,
    # Unread keys seen only in this record, or whose sample payload no longer exists, but for those of which another
    # record has all keys. A key may be the name of a person.
    r"""
    create temp table forgotten_paths on commit drop as
    select stream, path from ops.schema_drift d
    where stream = %(stream)s and type = 'unread'
      and (d.payload_id is null
        or d.payload_id in (select payload_id from erased_versions where payload_id is not null)
        or not exists (select from staging.payloads p where p.payload_id = d.payload_id))
      and exists (
        select from regexp_matches(d.path, '(?:^|\.)("(?:[^"\\]|\\.)*"|[^.\[*"$]+)', 'g') as m, unnest(m) as key
        where not exists (
            select from staging.versions v join staging.payloads p using (payload_id)
            where v.stream = d.stream and v.record_id <> ops.key(%(stream)s, %(external_id)s)
              and jsonb_path_exists(p.body,
                  ('$.**.' || case when key like '"%%' then key else to_json(key)::text end)::jsonpath)))
    """,
)
"""Notes what belongs to the record, and writes the erasure and a tombstone, which is then applied to the tables."""

DELETE: dict[str, LiteralString | sql.Composed] = {
    "observations": "delete from staging.observations where record_id = ops.key(%(stream)s, %(external_id)s)",
    "reapplied_versions": """
        delete from staging.reapplied_versions a using erased_versions e where a.version_id = e.version_id
    """,
    "versions": "delete from staging.versions v using erased_versions e where v.version_id = e.version_id",
    "pending_rows": "delete from staging.pending_rows where record_id = ops.key(%(stream)s, %(external_id)s)",
    # Of payloads: entries with the digest of a version, and those without an id that closed when a landing of this
    # record alone replaced them. Of rows: closed entries of shared rows too, since these do not name their record.
    "quarantine_entries": """
        delete from staging.quarantine q
        where q.record_id = ops.key(%(stream)s, %(external_id)s)
           or q.granularity = 'payload' and q.stream = %(stream)s and (
               q.digest in (select digest from erased_versions)
               or q.record_id is null and q.closed_run in (
                   select e.landed_run from erased_versions e join ops.fetch_runs r on r.fetch_run_id = e.landed_run
                   where r.fetched = 1))
           or q.stage = 'transform' and q.stream = %(source)s and q.record_id is null and q.closed_at is not null
    """,
    "drift_reports": """
        update ops.fetch_runs r set stats = jsonb_set(r.stats, '{drift}', (
            select coalesce(jsonb_agg(d) filter (where f.path is null), '[]')
            from jsonb_array_elements(r.stats -> 'drift') as d
            left join forgotten_paths f on (f.stream, f.path) = (d ->> 'stream', d ->> 'path')))
        where r.stream = %(runs_of)s and r.kind = 'land' and exists (
            select from jsonb_array_elements(r.stats -> 'drift') as d
            join forgotten_paths f on (f.stream, f.path) = (d ->> 'stream', d ->> 'path'))
    """,
    "drift_paths": """
        delete from ops.schema_drift d using forgotten_paths f where (d.stream, d.path) = (f.stream, f.path)
    """,
    # What failed landings of the source keep for a resumption may contain the record. The next one starts over.
    **{
        table: sql.SQL(
            """
            delete from staging.{} where fetch_run_id = any(array(
                select fetch_run_id from ops.fetch_runs
                where stream = %(runs_of)s and kind = 'land' and status = 'failed'))
            """
        ).format(sql.Identifier(table))
        for table in UNPUBLISHED
    },
    # Bodies that crashed landings left are deleted too, since nothing says which record they are of.
    "bodies": sql.SQL("delete from staging.payloads p where {}").format(stage_bodies.UNREFERENCED),
    # These stay, because another record has the same.
    "shared_bodies": "select distinct payload_id from erased_versions join staging.payloads using (payload_id)",
}
"""Removes everything noted, and counts what stays."""
