"""`ops.schema_drift`: which JSON paths the payloads of a stream have, of which types, since and until which run.

    new bodies ──sample──> Drift.inspect ──publish──> ops.schema_drift ──> changes: paths that are new, or gone

A landing looks at new bodies only: all of the first `WHOLE`, then one in `ONE_IN` as their digests fall, and at none
that is too large to be decoded (`fidelity.LARGE`). Of counters that changed alone, and of bodies that an earlier run
had written, it looks at some when it publishes. The rows of a stream are written once a run; where nothing is new,
nothing is. tests/budgets.py measures what it costs. A path is gone where so many payloads that had what holds it lack
it in a row that, at the share it had, chance would do that less often than `CHANCE`. Belongs here: what a landing
looks at, and the table. Not: what a path is (`paths`), not what the SQL relies on (contracts).
"""

import json
from typing import Any

import msgspec
import msgspec.inspect

from pipelines import failpoints
from pipelines.landing.json_paths import Paths, maps
from pipelines.landing.jsonb import LARGE
from pipelines.landing.volatile_fields import tree
from pipelines.ledger import Run
from pipelines.source import Source
from pipelines.warehouse.database import Connection

WHOLE = 250
ONE_IN = 64
CHANCE = 0.001


class Drift:
    """What one landing sees of its streams' paths."""

    def __init__(self, run: Run, source: Source) -> None:
        self.run = run
        self.counters = {stream: tree(source.contracts[kind].volatile) for kind, stream in source.streams.items()}
        self.maps = {
            stream: set(maps(msgspec.inspect.type_info(source.contracts[kind])))
            for kind, stream in source.streams.items()
        }
        self.streams: dict[str, Paths] = {}
        self.offered = 0

    def inspect(self, stream: str, body: bytes, digest: bytes) -> None:
        """Looks at a new body, if it is one of those that are looked at."""
        paths = self._of(stream)
        paths.offered += 1
        self.offered += 1
        if paths.offered <= WHOLE or digest[0] < 256 // ONE_IN:
            paths.inspect(_decoded(body), digest)

    def keep(self, written: int) -> list[dict[str, Any]]:
        """Writes what the run saw, in the transaction that publishes it; what it shows as new or gone.

        written: how many versions it publishes; `judged` holds them.
        """
        connection = self.run.connection
        parameters = {"run": self.run.id, "most": WHOLE, "largest": LARGE}
        if any(self.counters.values()):
            for row in connection.execute(COUNTED, parameters).fetchall():
                paths = self._of(row["stream"])
                paths.look_at_counters(_decoded(row["counters"]), self.counters[row["stream"]], row["digest"])
        if written > self.offered:
            for row in connection.execute(ADOPTED, parameters).fetchall():
                self._of(row["stream"]).inspect(_decoded(row["body"]), row["digest"])
        rows = [row for paths in self.streams.values() for row in paths.rows()]
        if not rows:
            return []
        failpoints.reached("drift.seen")
        connection.execute(KEEP, [self.run.id, *(list(column) for column in zip(*rows, strict=True))])
        failpoints.reached("drift.kept")
        found = changes(connection, list(self.streams))
        told = [each for each in found if each["run"] == self.run.id or each["what"].startswith("vanished")]
        return msgspec.to_builtins(told)  # type: ignore[no-any-return]

    def _of(self, stream: str) -> Paths:
        if stream not in self.streams:
            known = self.run.connection.execute(
                """
                select path, type, payloads from ops.schema_drift where stream = %s
                order by path collate "C", type
                """,
                [stream],
            ).fetchall()
            self.streams[stream] = Paths(stream, self.maps[stream], known)
        return self.streams[stream]


def changes(connection: Connection, streams: list[str] | None = None) -> list[dict[str, Any]]:
    """Paths and types that came after the first run of a stream, and those that are gone; the newest first."""
    return connection.execute(CHANGES, {"streams": streams, "chance": CHANCE}).fetchall()


def _decoded(body: bytes | str) -> Any:
    """What jsonb holds of a text, numbers as near as a double comes; deeper than can be read, it tells nothing."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        try:
            return json.loads(body, parse_int=float)
        except RecursionError:
            return {}


COUNTED = """
select stream, digest, counters::text as counters
from judged where verdict = 'counted'
order by counters_digest limit %(most)s
"""

ADOPTED = """
select j.stream, j.digest, p.body::text as body
from judged j join staging.payloads p on p.digest = j.digest
where j.verdict in ('created', 'updated') and p.fetch_run_id <> %(run)s
  and octet_length(p.body::text) <= %(largest)s
order by j.digest limit %(most)s
"""

KEEP = """
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

CHANGES = """
with told as (
    select d.*, f.publish_seq as came, l.publish_seq as went,
        min(coalesce(f.publish_seq, 9223372036854775807)) over (partition by d.stream) as began,
        min(coalesce(f.publish_seq, 9223372036854775807)) over paths as path_began,
        min(d.missed) over paths as path_missed,
        max(d.of_payloads) over paths as path_of,
        sum(d.payloads) over paths as path_payloads,
        max(l.publish_seq) over paths as path_went,
        first_value(d.last_run) over (partition by d.stream, d.path order by l.publish_seq desc nulls last) as path_last
    from ops.schema_drift d
    join ops.fetch_runs f on f.fetch_run_id = d.first_run
    join ops.fetch_runs l on l.fetch_run_id = d.last_run
    where %(streams)s::text[] is null or d.stream = any(%(streams)s)
    window paths as (partition by d.stream, d.path)
),

judged_again as (
    select *,
        path_missed * ln(greatest(1e-9, 1 - path_payloads / (path_of - path_missed + 1))) < ln(%(chance)s) as path_gone,
        missed * ln(greatest(1e-9, 1 - payloads::numeric / (of_payloads - missed + 1))) < ln(%(chance)s)
            and type <> 'null' as type_gone
    from told
),

news as (
    select case when coalesce(came, 9223372036854775807) = path_began then 'new path' else 'new type' end as what,
        stream, path, type, payloads, of_payloads, missed, first_run as run, came as publish_seq, payload_id
    from judged_again
    where coalesce(came, 9223372036854775807) > began
    union all
    select case when path_gone then 'vanished path' else 'vanished type' end,
        stream, path, type, payloads, of_payloads, missed, case when path_gone then path_last else last_run end,
        case when path_gone then path_went else went end, payload_id
    from judged_again
    where path_gone or type_gone
)

select what, stream, path, string_agg(type, ', ' order by type) as type,
    least(1, round(sum(payloads) / max(of_payloads), 4))::float8 as share, sum(payloads)::bigint as payloads,
    max(of_payloads) as of_payloads, min(missed) as missed, run, coalesce(min(payload_id::text), '') as payload_id
from news
group by what, stream, path, run, publish_seq
order by publish_seq desc nulls first, what, stream, path
"""
