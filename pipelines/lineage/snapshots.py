"""What was in force after a run: versions, and the SQL that had derived each.

    valid_from_run, valid_to_run, derivations ──> versions in force after a run, each with the SELECT files of then

Runs are ordered by `publish_seq`, the number each drew when it became visible. Belongs here: reading history. Not:
deriving tables from it (`rebuild`).
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
class Moment:
    """The state that a published run left behind."""

    run_id: UUID
    publish_seq: int
    source: str


@dataclass(frozen=True)
class InForce:
    """Versions of a source in force at a moment, each with the number of the edition of SELECTs that derived it."""

    versions: list[int]
    numbers: list[int]
    editions: list[list[Select]]


def moment(connection: Connection, run_id: str) -> Moment:
    """The moment of a run, by its id or the beginning of it."""
    rows = connection.execute(
        """
        select fetch_run_id, publish_seq, stream from ops.fetch_runs
        where starts_with(fetch_run_id::text, lower(%s)) order by fetch_run_id limit 2
        """,
        [run_id],
    ).fetchall()
    if len(rows) != 1:
        what = "no run" if not rows else "more than one run"
        raise AtlasError(f"There is {what} {run_id!r} in the ledger. See them with: atlas runs", usage=True)
    (row,) = rows
    if row["publish_seq"] is None:
        raise AtlasError(f"Run {row['fetch_run_id']} has published nothing: it left behind what was there before it.")
    return Moment(row["fetch_run_id"], row["publish_seq"], row["stream"])


def now(connection: Connection) -> int:
    """The number that the last published run drew."""
    row = connection.execute("select coalesce(max(publish_seq), 0) as number from ops.fetch_runs").fetchone()
    assert row is not None
    return int(row["number"])


def in_force(connection: Connection, source: Source, tables: dict[str, Table], publish_seq: int) -> InForce:
    """The versions of a source that were in force then, with the SELECT files that had derived them."""
    rows = connection.execute(
        IN_FORCE,
        {
            "streams": list(source.streams.values()),
            "source": source.name,
            "at": publish_seq,
        },
    ).fetchall()
    distinct: dict[str, list[Select]] = {}
    numbers: dict[str, int] = {}
    for row in rows:
        if row["code_version"] not in distinct:
            numbers[row["code_version"]] = len(distinct)
            own = {address: each for address, each in row["sql"].items() if address.startswith(f"{source.name}/")}
            distinct[row["code_version"]] = _edition(connection, own, tables)
    return InForce(
        [row["version_id"] for row in rows],
        [numbers[row["code_version"]] for row in rows],
        list(distinct.values()),
    )


def _edition(connection: Connection, digests: dict[str, str], tables: dict[str, Table]) -> list[Select]:
    """SELECT files by address and digest, as they were, parents before the tables that refer to them."""
    texts = {
        row["digest"]: row["text"]
        for row in connection.execute(
            "select digest, text from ops.sql where digest = any(%s)", [list(digests.values())]
        )
    }
    found: dict[str, Any] = {}
    for address, digest in digests.items():
        name = address.rsplit("/", 1)[1]
        if name not in tables:
            raise AtlasError(f"sql/{address}.sql filled a table then that is not there any more: {name}.")
        if digest not in texts:
            raise AtlasError(f"The text of then of sql/{address}.sql is gone from ops.sql: {digest}.")
        found[name] = SqlFile((project.SQL / address).with_suffix(".sql"), texts[digest])
    return [Select(found[name], table) for name, table in tables.items() if name in found]


IN_FORCE = """
select v.version_id, made.code_version, made.sql
from staging.versions v
join ops.fetch_runs f on f.fetch_run_id = v.valid_from_run and f.publish_seq <= %(at)s
left join ops.fetch_runs t on t.fetch_run_id = v.valid_to_run
cross join lateral (
    select coalesce(r.stats -> 'code' ->> %(source)s, r.code_version) as code_version, r.stats -> 'sql' as sql
    from ops.fetch_runs r
    where r.publish_seq <= %(at)s
      and r.fetch_run_id = any(array(
          select v.valid_from_run union all
          select d.fetch_run_id from staging.reapplied_versions d where d.version_id = v.version_id))
    order by r.publish_seq desc limit 1
) as made
where v.stream = any(%(streams)s) and v.payload_id is not null and (t.publish_seq is null or t.publish_seq > %(at)s)
order by v.version_id
"""
