"""Which versions of a source's records were effective after a run, and which SELECT files had been applied to them.

    valid_from_run, valid_to_run, staging.reapplied_versions ──> effective versions, each with its SELECT files

Runs are ordered by `publish_seq`, the number that a run draws when it publishes. Belongs here: reading history. Not
here: filling tables from it (`shadow_schema`).
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Table

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.project import Select, SqlFile
from pipelines.source import Source
from pipelines.warehouse.database import Connection


@dataclass(frozen=True)
class Snapshot:
    """The state of the warehouse that a published run left."""

    run_id: UUID
    publish_seq: int
    source: str


@dataclass(frozen=True)
class EffectiveVersions:
    """The versions of a source that are effective in a snapshot.

    editions: the SELECT files, once for each set of texts that was applied. numbers: for each version, the index of its
    edition.
    """

    versions: list[int]
    numbers: list[int]
    editions: list[list[Select]]


def snapshot_of_run(connection: Connection, run_id: str) -> Snapshot:
    """The snapshot that a run left. run_id: its id, or how it begins. Raises AtlasError if the run is not unique, or
    has not published.
    """
    rows = connection.execute(
        """
        select fetch_run_id, publish_seq, stream from ops.fetch_runs
        where starts_with(fetch_run_id::text, lower(%s)) order by fetch_run_id limit 2
        """,
        [run_id],
    ).fetchall()
    if len(rows) != 1:
        number = "no run" if not rows else "more than one run"
        raise AtlasError(f"There is {number} {run_id!r} in the ledger. List the runs with: atlas runs", usage=True)
    (row,) = rows
    if row["publish_seq"] is None:
        raise AtlasError(
            f"Run {row['fetch_run_id']} has published nothing: the tables stayed as the run before it had left them."
        )
    return Snapshot(row["fetch_run_id"], row["publish_seq"], row["stream"])


def latest_publish_seq(connection: Connection) -> int:
    """The number that the last published run drew; 0 if no run has published."""
    row = connection.execute("select coalesce(max(publish_seq), 0) as number from ops.fetch_runs").fetchone()
    assert row is not None
    return int(row["number"])


def effective_versions(
    connection: Connection, source: Source, tables: dict[str, Table], publish_seq: int
) -> EffectiveVersions:
    """The versions of a source that were effective when a run published, with the SELECT files applied to each by then.

    tables: by bare name, the tables that the SELECT files fill.
    """
    rows = connection.execute(
        EFFECTIVE_VERSIONS,
        {"streams": list(source.streams.values()), "source": source.name, "publish_seq": publish_seq},
    ).fetchall()
    editions: dict[str, list[Select]] = {}
    numbers: dict[str, int] = {}
    for row in rows:
        if row["code_version"] not in editions:
            numbers[row["code_version"]] = len(editions)
            own = {address: each for address, each in row["sql"].items() if address.startswith(f"{source.name}/")}
            editions[row["code_version"]] = _edition(connection, own, tables)
    return EffectiveVersions(
        [row["version_id"] for row in rows],
        [numbers[row["code_version"]] for row in rows],
        list(editions.values()),
    )


def _edition(connection: Connection, digests: dict[str, str], tables: dict[str, Table]) -> list[Select]:
    """SELECT files by address and digest, with the texts that they had; parents before the tables that refer to them.

    Raises AtlasError where a table or a text no longer exists.
    """
    texts = {
        row["digest"]: row["text"]
        for row in connection.execute(
            "select digest, text from ops.sql where digest = any(%s)", [list(digests.values())]
        )
    }
    files: dict[str, Any] = {}
    for address, digest in digests.items():
        name = address.rsplit("/", 1)[1]
        if name not in tables:
            raise AtlasError(f"sql/{address}.sql filled the table {name}, which no longer exists.")
        if digest not in texts:
            raise AtlasError(f"ops.sql no longer has the text of sql/{address}.sql with the digest {digest}.")
        files[name] = SqlFile((project.SQL / address).with_suffix(".sql"), texts[digest])
    return [Select(files[name], table) for name, table in tables.items() if name in files]


EFFECTIVE_VERSIONS = """
select v.version_id, applied.code_version, applied.sql
from staging.versions v
join ops.fetch_runs f on f.fetch_run_id = v.valid_from_run and f.publish_seq <= %(publish_seq)s
left join ops.fetch_runs t on t.fetch_run_id = v.valid_to_run
cross join lateral (
    select coalesce(r.stats -> 'code' ->> %(source)s, r.code_version) as code_version, r.stats -> 'sql' as sql
    from ops.fetch_runs r
    where r.publish_seq <= %(publish_seq)s
      and r.fetch_run_id = any(array(
          select v.valid_from_run union all
          select a.fetch_run_id from staging.reapplied_versions a where a.version_id = v.version_id))
    order by r.publish_seq desc limit 1
) as applied
where v.stream = any(%(streams)s) and v.payload_id is not null
  and (t.publish_seq is null or t.publish_seq > %(publish_seq)s)
order by v.version_id
"""
