"""Reads `staging.erasures`: which records were erased, when, and by which run.

Belongs here: reading. Not here: removing a record (`maintenance.erasure`).
"""

from pipelines.warehouse.database import Connection


def erasure_notice(connection: Connection, stream_prefix: str, key: str) -> str | None:
    """A sentence that says when a record was erased and by which run; None if it was not.

    stream_prefix: the stream of the record, or how it begins, such as its domain. key: the source's own id of the
    record, or its record_id.
    """
    row = connection.execute(NEWEST_ERASURE, {"stream_prefix": stream_prefix, "key": key}).fetchone()
    if row is None:
        return None
    notice = (
        f"Record {key!r} of {row['stream']} was erased at {row['erased_at']:%Y-%m-%d %H:%M} UTC by run "
        f"{row['fetch_run_id']}. Only the digest {bytes(row['digest']).hex()[:16]}… of it is kept."
    )
    if row["lifted_at"] is not None:
        notice += f" The erasure was lifted on {row['lifted_at']:%Y-%m-%d}: the record can land again."
    return notice


def count_erased(connection: Connection, domain: str) -> int:
    """How many records of a domain are erased and not lifted."""
    row = connection.execute(
        "select count(*) as number from staging.erasures where starts_with(stream, %s) and lifted_at is null",
        [f"{domain}/"],
    ).fetchone()
    assert row is not None
    return int(row["number"])


NEWEST_ERASURE = """
select e.* from staging.erasures e
where starts_with(e.stream, %(stream_prefix)s)
  and (e.record_id = ops.key(e.stream, %(key)s) or e.record_id::text = lower(%(key)s))
order by e.erased_at desc limit 1
"""
