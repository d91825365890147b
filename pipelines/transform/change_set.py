"""The scope of a derivation: the versions and observations that its SELECTs see.

It begins with what no transform has taken in, and grows by the records whose rows depend on what changes (`growth`); or
it is all there is to know, for tables that are derived anew. Belongs here: which versions, with which counters. Not:
what is made of them (`deriving`).
"""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from pipelines import failpoints
from pipelines.project import Select
from pipelines.source import Source
from pipelines.warehouse.database import Connection

EVERYWHERE = sql.SQL("")


class ChangeSet:
    """One run's scope, in temporary tables that last as long as its transaction.

    `scope` has a version a record, `bodies` the payloads with their newest counters, `seen` the observations, and
    `left_out` the versions on which a SELECT fails. `round` numbers the additions, so that SELECTs see each of them
    once. whole: it is all there is, and never grows.
    """

    def __init__(self, connection: Connection, source: Source) -> None:
        self.connection, self.source = connection, source
        self._streams = list(source.streams.values())
        self._round = 0
        self.whole = False
        self._observations: sql.Composable = OBSERVED
        self._counted: sql.Composable = NEWEST

    def begin(self, partition: str, *, full: bool, code: str) -> int:
        """Takes in what waits in a partition, or all of it; how many records. code: version of the SELECT files."""
        parameters = {"partition": partition, "full": full, "code": code, "streams": self._streams}
        if not self.connection.execute(WAITING + "select from waiting limit 1", parameters).rowcount:
            return 0
        return self._begin(WAITING + WAITS, parameters)

    def begin_with(self, versions: Sequence[int], editions: Sequence[int], publish_seq: int) -> int:
        """Takes in all there is to know: these versions, each to be derived by the edition of the SELECTs at the same
        place, and the observations that runs published up to then have taken in; how many records.
        """
        self.whole = True
        self._observations, self._counted = TAKEN_IN.format(publish_seq=sql.Literal(publish_seq)), sql.SQL("true")
        return self._begin(THESE, {"versions": versions, "editions": editions, "streams": self._streams})

    def _begin(self, query: str, parameters: dict[str, Any]) -> int:
        self.connection.execute(CREATE)
        failpoints.reached("scope.created")
        number = self.connection.execute(query, parameters).rowcount
        failpoints.reached("scope.begun")
        self._fill()
        return number

    def extend(self) -> bool:
        """Adds the records that are `due`, as they are in force; whether there were any."""
        self.connection.execute(GROW, {"round": self._round + 1, "streams": self._streams})
        self.connection.execute("update scope s set whole = true from due d where s.record_id = d.record_id")
        failpoints.reached("scope.grown")
        return self._fill() > 0

    def leave_out(self, version_ids: Sequence[int]) -> None:
        """Takes versions out again, for good, and lets SELECTs see once more what is left.

        The version of such a record that is in force comes in its place, if it is another.
        """
        self.connection.execute(
            "insert into left_out select version_id, record_id from scope where version_id = any(%s)",
            [list(version_ids)],
        )
        for name in ("bodies", "seen", "scope"):
            self.connection.execute(
                sql.SQL(
                    "delete from {} where record_id in (select record_id from scope where version_id = any(%s))"
                ).format(sql.Identifier(name)),
                [list(version_ids)],
            )
        if not self.whole:
            self.connection.execute(IN_PLACE, {"round": self._round + 1})
            self._fill()
        self.as_one_round()

    def as_one_round(self) -> None:
        """Lets SELECTs see all of it once more."""
        for name in ("bodies", "seen"):
            self.connection.execute(sql.SQL("update {} set round = %s").format(sql.Identifier(name)), [self._round])

    def select(self, select: Select, edition: int = 0, where: sql.Composable = EVERYWHERE) -> sql.Composed:
        """A SELECT file over the source's streams, each by its kind, as far as the last round brought them."""
        streams = [
            relation.format(
                name=sql.Identifier(name),
                source=sql.Literal(self.source.name),
                stream=sql.Literal(stream),
                round=sql.Literal(self._round),
                edition=sql.Literal(edition),
                observations=self._observations,
                where=where,
            )
            for kind, stream in self.source.streams.items()
            for name, relation in (
                (kind or "payloads", BODIES),
                (f"{kind}_observations" if kind else "observations", OBSERVATIONS),
            )
        ]
        return sql.SQL("with {} select * from (\n{}\n) as selected").format(
            sql.SQL(", ").join(streams), sql.SQL(select.file.text)
        )

    def _fill(self) -> int:
        """Bodies and observations of what has come into the scope; how many."""
        self._round += 1
        added = 0
        for statement in (FILL, SEE):
            query = statement.format(
                round=sql.Literal(self._round), observations=self._observations, counted=self._counted
            )
            added += self.connection.execute(query).rowcount
            failpoints.reached("scope.filled")
        for name in ("scope", "bodies", "seen"):
            self.connection.execute(sql.SQL("analyze {}").format(sql.Identifier(name)))
        return added


CREATE = """
create temp table scope (
    record_id uuid primary key, version_id bigint, stream text, external_id text, payload_id uuid, round int,
    whole boolean, edition int default 0
) on commit drop;
create temp table bodies (
    record_id uuid, version_id bigint, stream text, external_id text,
    body jsonb storage external, round int, edition int
) on commit drop;
create temp table seen (record_id uuid, observation_id bigint primary key, round int) on commit drop;
create temp table due (record_id uuid) on commit drop;
create temp table gone (key uuid) on commit drop;
create temp table left_out (version_id bigint, record_id uuid) on commit drop
"""

WAITING = """
with waiting as (
    select v.* from staging.versions v
    where v.stream = any(%(streams)s) and v.partition_key = %(partition)s and v.latest
      and (%(full)s or v.attempted_sql is null or v.attempted_sql < %(code)s or v.attempted_sql > %(code)s)
    union
    select v.* from staging.observations o
    join staging.versions v on v.record_id = o.record_id and v.latest
    where o.stream = any(%(streams)s) and o.partition_key = %(partition)s and o.valid_from_run is null
      and v.valid_from_run is not null and v.payload_id is not null
      and (v.applied_sql is not null or v.attempted_sql is null)
)

"""

WAITS = """
insert into scope
select record_id, version_id, stream, external_id, payload_id, 1,
    %(full)s or payload_id is null or not exists (
        select from staging.versions f
        where f.record_id = w.record_id and f.valid_from_run is not null and f.valid_to_run is null
          and f.payload_id is not null and f.applied_sql = %(code)s)
from waiting w
"""
"""A record is whole in scope, with all its observations, unless the same SELECTs have derived it before."""

THESE = """
insert into scope
select v.record_id, v.version_id, v.stream, v.external_id, v.payload_id, 1, true, t.edition
from unnest(%(versions)s::bigint[], %(editions)s::int[]) as t (version_id, edition)
join staging.versions v using (version_id)
where v.stream = any(%(streams)s)
"""

OBSERVED = sql.SQL("staging.observations")

NEWEST = sql.SQL("case when v.latest then e.latest else e.valid_from_run is not null end")
"""A version that is not the latest keeps the counters it was taken in with; newer ones wait for the latest version."""

TAKEN_IN = sql.SQL(
    """(
        select o.* from staging.observations o join ops.fetch_runs r on r.fetch_run_id = o.valid_from_run
        where r.publish_seq <= {publish_seq})"""
)

FILL = sql.SQL(
    """
    insert into bodies
    select s.record_id, s.version_id, s.stream, s.external_id,
        case
            when o.digest = b.counters_digest or o.digest is null then b.body
            else ops.restore_volatile_fields(b.body, o.counters, o.paths)
        end,
        s.round, s.edition
    from scope s
    join staging.versions v using (version_id)
    join staging.payloads b on b.payload_id = s.payload_id
    left join lateral (
        select e.digest, e.counters, e.paths from {observations} e
        where e.record_id = s.record_id and {counted}
        order by e.observed_at desc limit 1
    ) as o on true
    where s.round = {round}
    """
)

SEE = sql.SQL(
    """
    with fresh as (
        select o.record_id, o.observation_id, o.observed_at
        from scope s
        join staging.versions v using (version_id)
        join {observations} o on o.record_id = s.record_id
        where (s.whole or o.valid_from_run is null) and (v.latest or o.valid_from_run is not null)
    )

    insert into seen
    select f.record_id, f.observation_id, {round} from (
        select record_id, observation_id from fresh
        union
        select f.record_id, n.observation_id from fresh f
        cross join lateral ( -- which may tell the same now as the one before it
            select e.observation_id from {observations} e
            where e.record_id = f.record_id and e.observed_at > f.observed_at and e.valid_from_run is not null
            order by e.observed_at limit 1
        ) as n
    ) as f
    where not exists (select from seen where seen.observation_id = f.observation_id)
    """
)

BODIES = sql.SQL(
    """{name} as not materialized (
        select {source}::text as source, record_id, external_id, body
        from bodies where stream = {stream} and round = {round} and edition = {edition} {where}
        offset 0 -- a fence: what the SELECT asks of a body is asked of the scope's alone
    )"""
)

OBSERVATIONS = sql.SQL(
    """{name} as not materialized (
        select {source}::text as source, b.record_id, b.external_id, o.observed_at, o.counters as body
        from seen join {observations} o using (observation_id)
        join bodies b on b.record_id = seen.record_id
        where b.stream = {stream} and seen.round = {round} and b.edition = {edition} {where}
          and o.digest is distinct from (
              select e.digest from {observations} e
              where e.record_id = o.record_id and e.observed_at < o.observed_at
                and (
                    e.valid_from_run is not null
                    or exists (select from seen s where s.observation_id = e.observation_id))
              order by e.observed_at desc limit 1)
    )"""
)

GROW = """
insert into scope
select v.record_id, v.version_id, v.stream, v.external_id, v.payload_id, %(round)s, true
from (select distinct record_id from due) as d
join staging.versions v on v.record_id = d.record_id and v.valid_from_run is not null and v.valid_to_run is null
where v.stream = any(%(streams)s) and not exists (select from scope s where s.record_id = d.record_id)
  and not exists (select from left_out l where l.version_id = v.version_id)
"""

IN_PLACE = """
insert into scope
select v.record_id, v.version_id, v.stream, v.external_id, v.payload_id, %(round)s, true
from (select distinct record_id from left_out) as l
join staging.versions v on v.record_id = l.record_id and v.valid_from_run is not null and v.valid_to_run is null
where v.payload_id is not null
  and not exists (select from scope s where s.record_id = l.record_id)
  and not exists (select from left_out o where o.version_id = v.version_id)
"""
