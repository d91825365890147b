"""The scope of a transform: the versions and observations that its SELECTs see, and how it grows.

It begins with what no transform has taken in, and grows by the records whose rows depend on what changes: those that
wait for a row that comes or for a claim that goes, those that refer to a row about to be pruned, those that have what
a new row claims. So every claim is decided with all claimants at hand, and the outcome is the same in any order of
arrival. Belongs here: which records. Not: what is made of them (`transform`).
"""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from pipelines.house import Select
from pipelines.source import Source
from pipelines.warehouse.engine import Connection
from pipelines.warehouse.shape import Shape

EVERYWHERE = sql.SQL("")


class Scope:
    """One run's scope, in temporary tables that last as long as its transaction.

    `scope` has a version a record, `bodies` the payloads with their newest counters, `seen` the observations. `round`
    numbers the additions, so that SELECTs see each of them once. published: nothing later is seen, where it is given.
    """

    def __init__(self, connection: Connection, source: Source, shapes: Sequence[Shape]) -> None:
        self.connection, self.source, self.shapes = connection, source, shapes
        self._streams = list(source.streams.values())
        self._round = 0
        self._whole = False
        self._observations: sql.Composable = OBSERVED
        self._counted: sql.Composable = NEWEST

    def begin(self, partition: str, *, full: bool) -> int:
        """Takes in what waits in a partition, or all of it; how many records."""
        return self._begin(WAITING, {"partition": partition, "full": full})

    def begin_with(self, versions: Sequence[int], editions: Sequence[int], published: int) -> int:
        """Takes in all there is to know: these versions, each to be derived by the edition of the SELECTs at the same
        place, and the observations that runs published up to then have taken in; how many records.
        """
        self._whole = True
        self._observations, self._counted = TAKEN_IN.format(published=sql.Literal(published)), sql.SQL("true")
        return self._begin(THESE, {"versions": versions, "editions": editions})

    def _begin(self, query: str, parameters: dict[str, Any]) -> int:
        self.connection.execute(CREATE)
        number = self.connection.execute(query, parameters | {"streams": self._streams}).rowcount
        self._fill()
        return number

    def grow(self, *, contested: bool) -> bool:
        """Adds the records that depend on what changes; whether there were any. contested: by any claim."""
        if self._whole:
            return False
        self.connection.execute("truncate due")
        for shape in self.shapes:
            self._due(AWAITED, shape, key=shape.key_text("k"))
            if "record_id" in shape.yielded:
                self._due(CONTESTED, shape, key=shape.key_text("k"), target_key=shape.key_text("t"))
                if contested or shape.told:
                    self._claims(shape, contested=contested)
            self._referrers(shape)
        self.connection.execute(GROW, {"round": self._round + 1, "streams": self._streams})
        self.connection.execute("update scope s set whole = true from due d where s.record_id = d.record_id")
        return self._fill() > 0

    def leave_out(self, version_ids: Sequence[int]) -> None:
        """Takes records out again, and lets SELECTs see once more what is left."""
        for name in ("bodies", "seen", "scope"):
            self.connection.execute(
                sql.SQL(
                    "delete from {} where record_id in (select record_id from scope where version_id = any(%s))"
                ).format(sql.Identifier(name)),
                [list(version_ids)],
            )
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
        for name in ("scope", "bodies", "seen"):
            self.connection.execute(sql.SQL("analyze {}").format(sql.Identifier(name)))
        return added

    def _due(self, query: sql.SQL, shape: Shape, **parts: sql.Composable) -> None:
        self.connection.execute(
            query.format(incoming=shape.incoming, target=shape.target, **{"name": sql.Literal(shape.name), **parts})
        )

    def _claims(self, shape: Shape, *, contested: bool) -> None:
        """Records outside the scope that have a key, or a unique value, which a row of the scope claims."""
        claimed = [shape.key]
        if contested:
            claimed += [
                columns
                for unique in shape.uniques
                if set(columns := [c.name for c in unique.columns]) <= shape.yielded.keys()
            ]
        for columns in claimed:
            same = sql.SQL(" and ").join(sql.SQL("n.{0} = t.{0}").format(sql.Identifier(column)) for column in columns)
            told = sql.SQL("n.record_id is not null" if shape.told else "true")
            self._due(CLAIMED, shape, typed=shape.typed(), same=same, told=told)

    def _referrers(self, shape: Shape) -> None:
        """Records with rows that refer to a row of the scope which is about to be pruned."""
        referring = [
            (child, reference)
            for child in self.shapes
            for reference in child.references
            if reference.table is shape.table
        ]
        if not referring or not (shape.owned or shape.told):
            return
        self.connection.execute("truncate gone")
        (key,) = shape.key
        gone = GONE.format(target=shape.target, incoming=shape.incoming, key=sql.Identifier(key))
        if not self.connection.execute(gone).rowcount:
            return
        for child, reference in referring:
            self._due(
                REFERRING,
                child,
                column=sql.Identifier(reference.column),
                known=sql.SQL("s.whole") if child.series else sql.SQL("true"),
                which=sql.SQL("distinct on (g.key)") if shape.told else sql.SQL(""),
            )


CREATE = """
create temp table scope (
    record_id uuid primary key, version_id bigint, stream text, external_id text, payload_id uuid, round int,
    whole boolean, edition int default 0
) on commit drop;
create temp table bodies (
    record_id uuid, version_id bigint, stream text, external_id text, version_at timestamptz,
    body jsonb storage external, round int, edition int
) on commit drop;
create temp table seen (record_id uuid, observation_id bigint primary key, round int) on commit drop;
create temp table due (record_id uuid) on commit drop;
create temp table gone (key uuid) on commit drop
"""

WAITING = """
with waiting as (
    select v.* from staging.versions v
    where v.stream = any(%(streams)s) and v.partition_key = %(partition)s and v.latest
      and (%(full)s or v.from_run is null)
    union
    select v.* from staging.observations o
    join staging.versions v on v.record_id = o.record_id and v.latest
    where o.stream = any(%(streams)s) and o.partition_key = %(partition)s and o.from_run is null
      and v.from_run is not null and v.payload_id is not null
)

insert into scope
select record_id, version_id, stream, external_id, payload_id, 1,
    %(full)s or payload_id is null or not exists (
        select from staging.versions f
        where f.record_id = w.record_id and f.from_run is not null and f.to_run is null and f.payload_id is not null)
from waiting w
"""

THESE = """
insert into scope
select v.record_id, v.version_id, v.stream, v.external_id, v.payload_id, 1, true, t.edition
from unnest(%(versions)s::bigint[], %(editions)s::int[]) as t (version_id, edition)
join staging.versions v using (version_id)
where v.stream = any(%(streams)s)
"""

OBSERVED = sql.SQL("staging.observations")

NEWEST = sql.SQL("case when v.latest then e.latest else e.from_run is not null end")
"""A version that is not the latest keeps the counters it was taken in with."""

TAKEN_IN = sql.SQL(
    """(
        select o.* from staging.observations o join ops.fetch_runs r on r.fetch_run_id = o.from_run
        where r.published <= {published})"""
)

FILL = sql.SQL(
    """
    insert into bodies
    select s.record_id, s.version_id, s.stream, s.external_id, v.version_at,
        case
            when o.digest = b.counters_digest or o.digest is null then b.body
            else ops.put_back(b.body, o.counters, o.paths)
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
        join {observations} o on o.record_id = s.record_id
        where s.whole or o.from_run is null
    )

    insert into seen
    select f.record_id, f.observation_id, {round} from (
        select record_id, observation_id from fresh
        union
        select f.record_id, n.observation_id from fresh f
        cross join lateral ( -- which may tell the same now as the one before it
            select e.observation_id from {observations} e
            where e.record_id = f.record_id and e.observed_at > f.observed_at
            order by e.observed_at limit 1
        ) as n
    ) as f
    where not exists (select from seen where seen.observation_id = f.observation_id)
    """
)

BODIES = sql.SQL(
    """{name} as not materialized (
        select {source}::text as source, record_id, external_id, version_at, body
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
              order by e.observed_at desc limit 1)
    )"""
)

AWAITED = sql.SQL(
    """
    insert into due
    select w.record_id from {incoming} k
    join staging.waits w on w.table_name = {name} and w.key = {key}
    where w.reason = 'parent'
    """
)

CONTESTED = sql.SQL(
    """
    insert into due
    select w.record_id from {target} t
    join scope s on s.record_id = t.record_id
    join staging.waits w on w.table_name = {name} and w.key = {target_key}
    cross join lateral (select external_id from staging.versions v where v.record_id = w.record_id limit 1) as v
    where w.reason = 'unique'
       or w.reason = 'claim' and not exists ( -- none that it would still lose to
           select from {incoming} k join scope o on o.record_id = k.record_id
           where {key} = w.key
             and (o.stream collate "C", o.external_id collate "C") < (w.stream collate "C", v.external_id collate "C"))
    """
)

CLAIMED = sql.SQL(
    """
    insert into due
    select t.record_id from ({typed}) as n join {target} t on {same}
    where {told} and t.record_id is not null
      and not exists (select from scope s where s.record_id = t.record_id)
    """
)

GONE = sql.SQL(
    """
    insert into gone
    select t.{key} from {target} t join scope s on s.record_id = t.record_id
    where not exists (select from {incoming} o where o.{key} = t.{key})
    """
)

REFERRING = sql.SQL(
    """
    insert into due
    select {which} c.record_id from gone g join {target} c on c.{column} = g.key
    where not exists (select from scope s where s.record_id = c.record_id and {known})
    """
)

GROW = """
insert into scope
select v.record_id, v.version_id, v.stream, v.external_id, v.payload_id, %(round)s, true
from (select distinct record_id from due) as d
join staging.versions v on v.record_id = d.record_id and v.from_run is not null and v.to_run is null
where v.stream = any(%(streams)s) and not exists (select from scope s where s.record_id = d.record_id)
"""
