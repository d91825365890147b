"""Missing records: those that a full scan lacks. They are deleted if the source itself says that they no longer exist.

    full scan ──> latest versions that it lacks ──get_record──> none: tombstone · a payload: landed
                                                └── cannot ask? the next full scan lacks them too: tombstone

Nothing is deleted if a payload of the run has an unreadable id, if a scan of several answers lacks a record that cannot
be fetched by id, or if too many records are missing. Not here: other versions (`publish`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import ListingChanged, NotRecorded, Refused
from pipelines.landing.intake import Intake, Progress
from pipelines.ledger import Run
from pipelines.losses import loses_too_much
from pipelines.source import Payload, Skipped, Stream
from pipelines.warehouse.database import Connection

ADJACENT = 20  # so many records on either side of a range of ids are asked for, as they may have been its ends


@dataclass
class Missing:
    """Latest versions of records that the full scans of a run lack, and the streams of which no record can be asked."""

    deleted: list[int] = field(default_factory=list)
    missing_once: list[int] = field(default_factory=list)  # the full scan before had them
    only_listed: list[str] = field(default_factory=list)


def find_missing(
    run: Run, stream: Stream, progress: Progress, intake: Intake, missing: Missing, *, shrink: bool
) -> Iterator[Payload | Skipped]:
    """Fills `missing`; yields what the source has of missing records by their ids.

    Raises ListingChanged if a scan lacks more than a fifth of its records, unless `shrink` accepts that. Those that the
    scan before lacked too are not counted again.
    """
    unfetched = set(progress.unfetched)
    for scan in progress.full_scans:
        name = stream.names[scan.kind]
        first, last = map(str, scan.id_range) if scan.id_range else (None, None)
        parameters = {"run": run.id, "stream": name, "at": progress.started_at, "first": first, "last": last}
        parameters["adjacent"] = ADJACENT if intake.get_record else 0
        rows = run.connection.execute(SELECT_MISSING, parameters).fetchall()
        rows = [row for row in rows if (scan.kind, row["external_id"]) not in unfetched]
        lacks = [row for row in rows if not row["side"]]
        lost = [row for row in lacks if row["missing_at"] is None]
        if intake.get_record is None:
            missing.only_listed.append(name)
        if not rows:
            continue
        listed = rows[0]["listed"]
        if rows[0]["without_id"]:
            intake.notes["not deleted: payloads without a readable id"] += len(lacks)
        elif scan.responses > 1 and intake.get_record is None:
            intake.notes["not deleted: listed in several answers, and no record can be fetched by id"] += len(lacks)
        elif not shrink and lost and (not listed or loses_too_much(len(lost), listed + len(lost))):
            raise ListingChanged(
                f"{name} lists {listed} records, and lacks {len(lost)} of those that it had: more than a fifth. "
                "Nothing of this run is published. If they really were deleted, run it again with --shrink."
            )
        elif intake.get_record is None:
            intake.notes["missing from this full scan, and deleted if the next one lacks them too"] += len(lost)
            missing.missing_once += [row["version_id"] for row in lost]
            missing.deleted += [
                row["version_id"] for row in lacks if row["missing_at"] and row["missing_at"] < progress.started_at
            ]
        else:
            yield from _fetch_missing(scan.kind, rows, intake, missing)


def _fetch_missing(
    kind: str, rows: list[dict[str, Any]], intake: Intake, missing: Missing
) -> Iterator[Payload | Skipped]:
    """Of each missing record what `find_missing` yields; on either side of a range, until one is not gone."""
    assert intake.get_record
    finished = set[int]()
    for row in rows:
        if row["side"] in finished:
            continue
        gone = False
        try:
            found = intake.get_record(kind, row["external_id"])
        except NotRecorded:
            intake.notes["not deleted: the recording has no answer for their ids"] += 1
        except Refused as error:
            reason = f"missing from a full scan, and cannot be fetched by id: {error.reason}"
            yield Skipped(row["external_id"], reason, row["external_id"], kind)
        else:
            gone = found is None
            intake.notes["missing from a full scan, fetched by id"] += isinstance(found, Payload)
            if found:
                yield found
            else:
                missing.deleted.append(row["version_id"])
        if row["side"] and not gone:
            finished.add(row["side"])


def set_identities(connection: Connection, parameters: dict[str, Any], deleted: int) -> int:
    """Sets the identity of new records of a folder that are renamed, or whose name is taken; how many are renamed."""
    renamed = connection.execute(SET_IDENTITY, parameters).rowcount if deleted else 0
    connection.execute(SET_OWN_IDENTITY, parameters)
    return renamed


SELECT_MISSING = """
with arrived as (
    select distinct external_id from staging.arrivals where fetch_run_id = %(run)s and stream = %(stream)s
),

rejected as (
    select external_id from staging.rejects where fetch_run_id = %(run)s and stream = %(stream)s
),

known as (
    select external_id collate "C" as id, length(external_id) as digits from staging.versions
    where %(first)s::text is not null and stream = %(stream)s and latest and payload_id is not null
),

adjacent as (
    (select id, -1 as side, row_number() over (order by digits desc, id desc) as number
     from known where (digits, id) < (length(%(first)s), %(first)s) order by number limit %(adjacent)s)
    union all
    (select id, 1, row_number() over (order by digits, id) as number
     from known where (digits, id) > (length(%(last)s), %(last)s) order by number limit %(adjacent)s)
)

select v.version_id, v.external_id, v.missing_at, coalesce(n.side, 0) as side,
    (select count(*) from rejected where external_id is null) as without_id,
    (select count(*) from arrived where %(first)s::text is null
        or (length(external_id), external_id collate "C")
            between (length(%(first)s), %(first)s) and (length(%(last)s), %(last)s)) as listed
from staging.versions v
left join adjacent n on n.id = v.external_id
where v.stream = %(stream)s and v.latest and v.payload_id is not null
  and coalesce(v.confirmed_at, v.received_at) < %(at)s -- else it was received since
  and (%(first)s::text is null -- ids are numbers where there is a range
      or (length(v.external_id), v.external_id collate "C")
          between (length(%(first)s), %(first)s) and (length(%(last)s), %(last)s)
      or n.id is not null)
  and not exists (select from arrived a where a.external_id = v.external_id)
  and not exists (select from rejected r where r.external_id = v.external_id)
order by n.number nulls first, v.external_id collate "C"
"""

INSERT_TOMBSTONES = """ -- for the record of each version, unless it arrived in this run or since its scan began
with deleted as (
    update staging.versions v set latest = false
    where v.version_id = any(%(deleted)s) and v.latest and coalesce(v.confirmed_at, v.received_at) < %(scanned_at)s
      and not exists (select from classified c where c.record_id = v.record_id)
    returning v.stream, v.external_id, v.record_id, v.identity, 'missing from a full scan; ' || v.request as request
)
insert into staging.versions
    (stream, external_id, record_id, identity, received_at, request, partition_key, landed_run, latest)
select stream, external_id, record_id, identity, %(scanned_at)s, request, %(partition)s, %(run)s, true
from deleted
order by external_id
"""

SET_MISSING_AT = """ -- and clears it of records that are missing no more
update staging.versions v set missing_at = case when v.version_id = any(%(missing_once)s) then %(scanned_at)s end
where v.latest and (
    v.missing_at is null and v.version_id = any(%(missing_once)s)
        and coalesce(v.confirmed_at, v.received_at) < %(scanned_at)s
    or v.missing_at < %(scanned_at)s and v.stream = any(%(only_listed)s))
"""

SET_IDENTITY = """ -- of a new record with the digest of a deleted one of the run, if there is one of each
with created as (
    select version_id, digest, count(*) over (partition by digest) as number
    from staging.versions join staging.payloads using (payload_id)
    where landed_run = %(run)s and latest and record_id in (select record_id from classified where result = 'created')
),

deleted as (
    select coalesce(t.identity, t.external_id) as identity, o.digest, count(*) over (partition by o.digest) as number
    from staging.versions t
    cross join lateral (
        select b.digest from staging.versions v join staging.payloads b using (payload_id)
        where v.record_id = t.record_id
        order by v.received_at desc, v.version_id desc
        limit 1
    ) as o
    where t.landed_run = %(run)s and t.latest and t.payload_id is null
)

update staging.versions v set identity = d.identity
from created c join deleted d using (digest)
where v.version_id = c.version_id and (c.number, d.number) = (1, 1)
"""

SET_OWN_IDENTITY = """ -- of a new record, where another record that was renamed has kept the name
update staging.versions v
set identity = v.external_id || to_char(v.received_at at time zone 'UTC', '"@"YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
where v.landed_run = %(run)s and v.latest
  and v.record_id in (select record_id from classified where result = 'created')
  and (
      exists (
          select from staging.versions o
          where o.identity = coalesce(v.identity, v.external_id) and o.stream = v.stream
            and o.latest and o.payload_id is not null and o.record_id <> v.record_id)
      or exists (
          select from staging.versions o
          where o.record_id = ops.key(v.stream, v.identity) and o.identity is null
            and o.latest and o.payload_id is not null and o.record_id <> v.record_id))
"""
