"""Making a landing visible: bodies get names, in one short transaction under the stream's lock.

Each arrival is judged against the record's latest version: created, updated, unchanged; a duplicate or superseded in
its own run; or late, when what staging holds is newer. An unchanged record is noted as seen once a day, so that what
was fetched in between and lands later is late. Versions, quarantine and ledger show together. Belongs here:
staging.versions. Not: bodies (`landing`).
"""

from typing import Any

from pipelines import ledger, quarantine
from pipelines.ledger import Counts, Run


def publish(run: Run, fetched: int, refused: list[bytes], stats: dict[str, Any], mends: int | None) -> None:
    """Publishes what the temporary tables `arrivals` and `rejects` hold, less the digests that were refused.

    mends: the quarantine entry that the arrivals are mended bytes of.
    """
    connection = run.connection
    parameters = {"stream": run.source, "partition": run.partition, "run": run.id}
    with connection.transaction():
        connection.execute("delete from arrivals where digest = any(%s)", [refused])
        connection.execute("analyze arrivals")
        connection.execute(ledger.LOCK_TO_COMMIT, [f"land {run.source}"])
        connection.execute(JUDGE, parameters)
        counted = connection.execute("select verdict, count(*) as number from judged group by verdict").fetchall()
        verdicts = {row["verdict"]: row["number"] for row in counted}
        if verdicts.keys() - {"unchanged", "duplicate"}:
            connection.execute(RETIRE)
            connection.execute(NAME, parameters)
        connection.execute(SEEN_AGAIN, parameters)
        quarantine.keep_payloads(run)
        quarantine.close_landed(run)
        if mends is not None and verdicts:
            quarantine.close_mended(run, mends)
        counts = Counts(
            fetched=fetched,
            created=verdicts.get("created", 0),
            updated=verdicts.get("updated", 0),
            unchanged=verdicts.get("unchanged", 0),
            quarantined=fetched - sum(verdicts.values()),
            duplicates=sum(verdicts.get(name, 0) for name in ("duplicate", "superseded", "late")),
        )
        run.publish(counts, stats)


JUDGE = """
create temp table judged on commit drop as
with ranked as (
    select a.*, ops.key(%(stream)s, a.external_id) as record_id,
        first_value(digest) over winners as winning_digest, row_number() over winners as place
    from arrivals a
    window winners as (partition by external_id order by version_at desc, sequence desc)
)
select r.sequence, r.external_id, r.record_id, r.digest, r.version_at, r.fetched_at, r.request,
    l.version_id as latest_id,
    case
        when r.place > 1 and r.digest = r.winning_digest then 'duplicate'
        when r.place > 1 then 'superseded'
        when l.digest = r.digest then 'unchanged'
        when r.version_at < l.version_at then 'late'
        when l.digest is null then 'created'
        else 'updated'
    end as verdict
from ranked r
left join staging.versions l on l.record_id = r.record_id and l.latest
"""

RETIRE = """
update staging.versions v set latest = false
from judged j
where v.version_id = j.latest_id and j.verdict in ('created', 'updated')
"""

SEEN_AGAIN = """
update staging.versions v set version_at = j.version_at
from judged j
where v.version_id = j.latest_id and j.verdict = 'unchanged'
  and v.version_at < j.version_at and v.partition_key < %(partition)s
"""

NAME = """
insert into staging.versions
    (stream, external_id, record_id, payload_id, digest, version_at, fetched_at, request,
     partition_key, landed_run, latest)
select %(stream)s, j.external_id, j.record_id, p.payload_id, j.digest, j.version_at, j.fetched_at, j.request,
    %(partition)s, %(run)s, j.verdict in ('created', 'updated')
from (
    select distinct on (record_id, digest) *
    from judged
    where verdict in ('created', 'updated')
       or verdict in ('superseded', 'late') and not exists (
           select from staging.versions v where v.record_id = judged.record_id and v.digest = judged.digest)
    order by record_id, digest, verdict not in ('created', 'updated'), version_at desc, sequence desc
) as j
cross join lateral (
    select (array_agg(payload_id order by payload_id))[1] as payload_id from staging.payloads where digest = j.digest
) as p
order by j.sequence
"""
