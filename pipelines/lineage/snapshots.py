"""Which versions of a source's records were effective after a run, with the SELECT files that had been applied to them.

    staging.effective_versions_after(publish_seq), ops.sql ──> versions, each with its SELECT files

Runs are ordered by `publish_seq`, the number that a run draws when it publishes.
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


Edition = tuple[list[int], list[Select]]
"""Versions of a source, and the SELECT files that are applied to them."""


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


def current_edition(connection: Connection, source: Source, tables: dict[str, Table]) -> Edition:
    """The versions of a source that are effective now, with the SELECT files as they are now; tables as in `editions`.

    Raises AtlasError where there are versions but no SELECT files.
    """
    rows = connection.execute(
        "select version_id from staging.effective_versions where payload_id is not null and stream = any(%s)",
        [list(source.streams.values())],
    )
    versions, selects = [row["version_id"] for row in rows], project.selects(source.name)
    if versions and not selects:
        raise project.without_selects(source.name)
    return versions, [Select(select.file, tables[select.table.name]) for select in selects]


def editions(connection: Connection, source: Source, tables: dict[str, Table], publish_seq: int) -> list[Edition]:
    """The versions of a source that were effective when a run published, by the texts of the SELECT files that had been
    applied to them by then.

    tables: by bare name, the tables that the SELECT files fill. Raises AtlasError where a table or a text no longer
    exists.
    """
    parameters = {"streams": list(source.streams.values()), "source": source.name, "publish_seq": publish_seq}
    rows = connection.execute(EDITIONS, parameters).fetchall()
    return [(row["versions"], _selects(connection, row["sql"], tables)) for row in rows]


def _selects(connection: Connection, digests: dict[str, str], tables: dict[str, Table]) -> list[Select]:
    """SELECT files by address and digest, with the texts that they had; parents before tables that refer to them."""
    rows = connection.execute("select digest, text from ops.sql where digest = any(%s)", [list(digests.values())])
    texts = {row["digest"]: row["text"] for row in rows}
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
