"""Which versions of a source's records were effective after a run, with the SELECT files that had been applied to them.

    staging.effective_versions_after(publish_seq), ops.sql ──> versions, each with its SELECT files

Runs are ordered by `publish_seq`, the number that a run draws when it publishes. Belongs here: reading history. Not
here: which versions are effective (`warehouse.staging_views`), filling tables from them (`shadow_schema`).
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
        EDITIONS, {"streams": list(source.streams.values()), "source": source.name, "publish_seq": publish_seq}
    ).fetchall()
    return EffectiveVersions(
        [version for row in rows for version in row["versions"]],
        [number for number, row in enumerate(rows) for _ in row["versions"]],
        [_edition(connection, row["sql"], tables) for row in rows],
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


EDITIONS = """
select e.sql, array_agg(e.version_id) as versions
from (
    select v.version_id, (
        select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(v.sql)
        where starts_with(key, %(source)s || '/')) as sql
    from staging.effective_versions_after(%(publish_seq)s) v
    where v.stream = any(%(streams)s)
) as e
group by e.sql order by min(e.version_id)
"""
"""The SELECT files of the source, by address and digest, and the versions to which these had been applied."""
