"""`ops.schema_drift`: the JSON paths of each stream's payloads, with their types and the first and last run with each.

    new bodies ──sample──> SchemaDrift.inspect ──publish──> ops.schema_drift ──> changes: new and vanished paths

A landing inspects new bodies only: the first `FIRST_BODIES` of a stream, then one in `SAMPLE_ONE_IN`, chosen by digest,
and none that is too large to be decoded (`jsonb.LARGE`). On publishing it inspects up to `FIRST_BODIES` of the records
whose volatile fields alone changed, and of the bodies that an earlier run wrote. A run that finds nothing new writes
nothing. A path has vanished when, at its former share, so many payloads in succession would lack it by chance with a
probability below `SIGNIFICANCE`. tests/budgets.py measures the cost.
Belongs here: which payloads are inspected, the table. Not here: what a path is (`json_paths`), which paths the SQL
relies on (contracts).
"""

import json
from typing import Any

import msgspec
import msgspec.inspect

from pipelines.landing.json_paths import StreamPaths, map_paths
from pipelines.landing.jsonb import LARGE
from pipelines.landing.volatile_fields import path_tree
from pipelines.ledger import Run
from pipelines.source import Source
from pipelines.warehouse.database import Connection

FIRST_BODIES = 250
SAMPLE_ONE_IN = 64
SIGNIFICANCE = 0.001


class SchemaDrift:
    """The paths that one landing finds, by stream."""

    def __init__(self, run: Run, source: Source) -> None:
        self.run = run
        self.volatile = {stream: path_tree(source.contracts[kind].volatile) for kind, stream in source.streams.items()}
        self.maps = {
            stream: set(map_paths(msgspec.inspect.type_info(source.contracts[kind])))
            for kind, stream in source.streams.items()
        }
        self.streams: dict[str, StreamPaths] = {}
        self.offered = 0

    def inspect(self, stream: str, body: bytes, digest: bytes) -> None:
        """Inspects a new body, if it belongs to the sample."""
        paths = self._paths(stream)
        paths.offered += 1
        self.offered += 1
        if paths.offered <= FIRST_BODIES or digest[0] < 256 // SAMPLE_ONE_IN:
            paths.inspect(_decoded(body), digest)

    def save(self, written: int) -> list[dict[str, Any]]:
        """Writes the paths in the transaction that publishes the run; returns those that are new or vanished.

        written: the number of versions that the run publishes, whose rows `classified` has.
        """
        connection = self.run.connection
        parameters = {"run": self.run.id, "most": FIRST_BODIES, "largest": LARGE}
        if any(self.volatile.values()):
            for row in connection.execute(SELECT_OBSERVED, parameters).fetchall():
                paths = self._paths(row["stream"])
                paths.inspect_volatile(_decoded(row["counters"]), self.volatile[row["stream"]], row["digest"])
        if written > self.offered:
            for row in connection.execute(SELECT_REUSED, parameters).fetchall():
                self._paths(row["stream"]).inspect(_decoded(row["body"]), row["digest"])
        rows = [row for paths in self.streams.values() for row in paths.rows()]
        if not rows:
            return []
        connection.execute(UPSERT_PATHS, [self.run.id, *(list(column) for column in zip(*rows, strict=True))])
        found = changes(connection, list(self.streams))
        reported = [each for each in found if each["run"] == self.run.id or each["what"].startswith("vanished")]
        return msgspec.to_builtins(reported)  # type: ignore[no-any-return]

    def _paths(self, stream: str) -> StreamPaths:
        if stream not in self.streams:
            known = self.run.connection.execute(
                """
                select path, type, payloads from ops.schema_drift where stream = %s
                order by path collate "C", type
                """,
                [stream],
            ).fetchall()
            self.streams[stream] = StreamPaths(stream, self.maps[stream], known)
        return self.streams[stream]


def changes(connection: Connection, streams: list[str] | None = None) -> list[dict[str, Any]]:
    """Paths and types that appeared after the first run of a stream, and those that vanished, newest first."""
    return connection.execute(SELECT_CHANGES, {"streams": streams, "significance": SIGNIFICANCE}).fetchall()


def _decoded(body: bytes | str) -> Any:
    """The value of a JSON text, large numbers as floats; an empty object, if it is nested too deep to be decoded."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        try:
            return json.loads(body, parse_int=float)
        except RecursionError:
            return {}


SELECT_OBSERVED = """
select stream, digest, counters::text as counters
from classified where result = 'observed'
order by counters_digest limit %(most)s
"""

SELECT_REUSED = """
select c.stream, c.digest, p.body::text as body
from classified c join staging.payloads p on p.digest = c.digest
where c.result in ('created', 'updated') and p.fetch_run_id <> %(run)s
  and octet_length(p.body::text) <= %(largest)s
order by c.digest limit %(most)s
"""

UPSERT_PATHS = """
insert into ops.schema_drift as d
    (stream, path, type, first_run, last_run, payloads, of_payloads, missed, payload_id)
select stream, path, type, run, run, seen, of_payloads, 0,
    (select p.payload_id from staging.payloads p where p.digest = r.digest order by p.payload_id limit 1)
from (select %s::uuid) as this (run),
    unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bytea[])
        as r (stream, path, type, seen, of_payloads, digest)
on conflict (stream, path, type) do update set
    last_run = case when excluded.payloads > 0 then excluded.last_run else d.last_run end,
    payloads = d.payloads + excluded.payloads,
    of_payloads = d.of_payloads + excluded.of_payloads,
    missed = case when excluded.payloads > 0 then 0 else d.missed + excluded.of_payloads end
"""

SELECT_CHANGES = """
with ranged as (
    select d.*, f.publish_seq as first_seq, l.publish_seq as last_seq,
        min(coalesce(f.publish_seq, 9223372036854775807)) over (partition by d.stream) as stream_first_seq,
        min(coalesce(f.publish_seq, 9223372036854775807)) over paths as path_first_seq,
        min(d.missed) over paths as path_missed,
        max(d.of_payloads) over paths as path_of,
        sum(d.payloads) over paths as path_payloads,
        max(l.publish_seq) over paths as path_last_seq,
        first_value(d.last_run) over (partition by d.stream, d.path order by l.publish_seq desc nulls last)
            as path_last_run
    from ops.schema_drift d
    join ops.fetch_runs f on f.fetch_run_id = d.first_run
    join ops.fetch_runs l on l.fetch_run_id = d.last_run
    where %(streams)s::text[] is null or d.stream = any(%(streams)s)
    window paths as (partition by d.stream, d.path)
),

tested as (
    select *,
        path_missed * ln(greatest(1e-9, 1 - path_payloads / (path_of - path_missed + 1))) < ln(%(significance)s)
            as path_vanished,
        missed * ln(greatest(1e-9, 1 - payloads::numeric / (of_payloads - missed + 1))) < ln(%(significance)s)
            and type <> 'null' as type_vanished
    from ranged
),

changed as (
    select case when coalesce(first_seq, 9223372036854775807) = path_first_seq then 'new path' else 'new type' end
            as what,
        stream, path, type, payloads, of_payloads, missed, first_run as run, first_seq as publish_seq, payload_id
    from tested
    where coalesce(first_seq, 9223372036854775807) > stream_first_seq
    union all
    select case when path_vanished then 'vanished path' else 'vanished type' end,
        stream, path, type, payloads, of_payloads, missed, case when path_vanished then path_last_run else last_run end,
        case when path_vanished then path_last_seq else last_seq end, payload_id
    from tested
    where path_vanished or type_vanished
)

select what, stream, path, string_agg(type, ', ' order by type) as type,
    least(1, round(sum(payloads) / max(of_payloads), 4))::float8 as share, sum(payloads)::bigint as payloads,
    max(of_payloads) as of_payloads, min(missed) as missed, run, coalesce(min(payload_id::text), '') as payload_id
from changed
group by what, stream, path, run, publish_seq
order by publish_seq desc nulls first, what, stream, path
"""
