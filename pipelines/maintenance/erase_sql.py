"""The SQL of `erasure`, in the order in which it runs.

    PREPARE: notes what belongs to the record, writes the erasure and a tombstone ──> the caller applies the tombstone
    DELETE: removes everything noted, and counts what stays

Parameters: run, source, stream, external_id.
"""

from typing import LiteralString

from psycopg import sql

from pipelines.landing import stage_bodies
from pipelines.warehouse.staging_tables import UNPUBLISHED

COUNT_STORED = """
select
    (select count(*) from staging.versions where record_id = k.id) as versions,
    (select count(*) from staging.observations where record_id = k.id) as observations,
    (select count(*) from staging.quarantine where record_id = k.id) as quarantine_entries,
    (select count(*) from staging.arrivals where (stream, external_id) = (%(stream)s, %(external_id)s))
        + (select count(*) from staging.rejects where (stream, external_id) = (%(stream)s, %(external_id)s)) as arrivals
from (select ops.key(%(stream)s, %(external_id)s) as id) as k
"""

LANDING_IN_PROGRESS = """
select r.fetch_run_id from ops.fetch_runs r
where r.status in ('pending', 'in_progress')
  and r.fetch_run_id = any(array(
      select fetch_run_id from staging.arrivals where (stream, external_id) = (%(stream)s, %(external_id)s)
      union all
      select fetch_run_id from staging.rejects where (stream, external_id) = (%(stream)s, %(external_id)s)))
limit 1
"""

PREPARE = (
    """
    create temp table erased_versions on commit drop as
    select version_id, payload_id, digest, landed_run from staging.versions
    where record_id = ops.key(%(stream)s, %(external_id)s)
    """,
    """
    insert into staging.erasures (fetch_run_id, stream, record_id, digest)
    select %(run)s, %(stream)s, ops.key(%(stream)s, %(external_id)s), sha256(coalesce(
        (select string_agg(digest, '' order by version_id) from erased_versions),
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
    insert into erased_versions
    select version_id, payload_id, digest, landed_run from staging.versions where landed_run = %(run)s
    """,
    # Unread keys seen only in this record, or whose sample payload no longer exists; the next statement keeps those of
    # which another record has all keys. A key may be the name of a person.
    r"""
    create temp table forgotten_paths on commit drop as
    select stream, path, array(
            select m[1] from regexp_matches(path, '(?:^|\.)("(?:[^"\\]|\\.)*"|[^.\[*"$]+)', 'g') as m) as keys
    from ops.schema_drift d
    where stream = %(stream)s and type = 'unread' and (
        d.payload_id is null
        or d.payload_id in (select payload_id from erased_versions where payload_id is not null)
        or not exists (select from staging.payloads p where p.payload_id = d.payload_id))
    """,
    """
    delete from forgotten_paths f
    where not exists (
        select from unnest(f.keys) as key
        where not exists (
            select from staging.versions v join staging.payloads p using (payload_id)
            where v.stream = f.stream and v.record_id <> ops.key(%(stream)s, %(external_id)s)
              and jsonb_path_exists(p.body,
                  ('$.**.' || case when key like '"%%' then key else to_json(key)::text end)::jsonpath)))
    """,
)

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
           or q.stage = 'land' and q.stream = %(stream)s and (
               q.digest in (select digest from erased_versions)
               or q.record_id is null and q.closed_run in (
                   select e.landed_run from erased_versions e join ops.fetch_runs r on r.fetch_run_id = e.landed_run
                   where r.fetched = 1))
           or q.stage = 'transform' and q.stream = %(source)s and q.record_id is null and q.closed_at is not null
    """,
    "drift_reports": """
        with reports as (
            select r.fetch_run_id, d.value, exists (
                select from forgotten_paths f
                where (f.stream, f.path) = (d.value ->> 'stream', d.value ->> 'path')) as forgotten
            from ops.fetch_runs r cross join jsonb_array_elements(r.stats -> 'drift') as d
            where r.stream = %(source)s and r.kind = 'land'
        )

        update ops.fetch_runs r set stats = jsonb_set(r.stats, '{drift}', t.others)
        from (
            select fetch_run_id, coalesce(jsonb_agg(value) filter (where not forgotten), '[]') as others from reports
            group by fetch_run_id having bool_or(forgotten)
        ) as t
        where r.fetch_run_id = t.fetch_run_id
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
                where stream = %(source)s and kind = 'land' and status = 'failed'))
            """
        ).format(sql.Identifier(table))
        for table in UNPUBLISHED
    },
    # Bodies that crashed landings left are deleted too, since nothing says which record they are of.
    "bodies": sql.SQL("delete from staging.payloads p where {}").format(stage_bodies.UNREFERENCED),
    # These stay, because another record has the same.
    "shared_bodies": "select distinct payload_id from erased_versions join staging.payloads using (payload_id)",
}

LIFT = """
update staging.erasures set lifted_at = now()
where record_id = ops.key(%(stream)s, %(external_id)s) and lifted_at is null
"""
