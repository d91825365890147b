"""The change set of a transform: the versions and observations that its SELECT files read.

    pending versions of a partition ──start──> change_set <──extend── records whose rows depend on the change

Not here: what makes a version pending (`warehouse.functions`), which records depend on a change (`constraints`).
"""

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import sql

from pipelines.source import Source
from pipelines.warehouse.database import Connection

CREATE_CHANGE_SET = """
create temp table if not exists change_set (
    record_id uuid primary key, version_id bigint, stream text, external_id text, payload_id uuid, round int,
    all_observations boolean, edition int default 0
) on commit drop;
create temp table if not exists change_set_bodies (
    record_id uuid, version_id bigint, stream text, external_id text,
    body jsonb storage external, round int, edition int
) on commit drop;
create temp table if not exists change_set_observations (
    record_id uuid, observation_id bigint primary key, round int
) on commit drop;
create temp table if not exists dependent_records (record_id uuid) on commit drop
"""

PENDING = """
with pending as (
    select version_id, record_id, stream, external_id, payload_id from staging.pending_versions(%(code)s)
    where stream = any(%(streams)s) and partition_key = %(partition)s
    union
    select version_id, record_id, stream, external_id, payload_id from staging.versions
    where latest and stream = any(%(streams)s) and partition_key = %(partition)s and %(full)s
)
"""

INSERT_PENDING = """
insert into change_set
select record_id, version_id, stream, external_id, payload_id, 1,
    %(full)s or payload_id is null or not exists (
        select from staging.effective_versions e
        where e.record_id = p.record_id and e.payload_id is not null and e.applied_sql = %(code)s
          and not exists (
              select from staging.quarantine q
              where q.record_id = p.record_id and q.reason = 'select_fails' and q.closed_at is null)
          and not exists (
              select from staging.observations o
              where o.record_id = p.record_id and o.late and o.valid_from_run is null))
from pending p
"""
"""All observations of a record are read, unless the same SELECT files were applied to it before and did not fail, and
no late one changes what comes after it."""

APPLIED_NOW = sql.SQL("(v.latest or o.valid_from_run is not null)")
"""A version that is not the latest keeps the counters it was applied with; newer ones apply with the latest version."""

INSERT_BODIES = sql.SQL(
    """
    insert into change_set_bodies
    select c.record_id, c.version_id, c.stream, c.external_id,
        case
            when b.counters_digest is null or e.digest is null or e.digest = b.counters_digest then b.body
            else ops.restore_volatile_fields(b.body, e.counters, e.paths)
        end,
        c.round, c.edition
    from change_set c
    join staging.versions v using (version_id)
    join staging.payloads b on b.payload_id = c.payload_id
    left join lateral (
        select o.digest, o.counters, o.paths from staging.observations o
        where o.record_id = c.record_id and not o.late and {applied}
        order by o.observation_id desc limit 1
    ) as e on true
    where c.round = {round}
    """
)

INSERT_OBSERVATIONS = sql.SQL(
    """
    insert into change_set_observations
    select o.record_id, o.observation_id, {round}
    from change_set c
    join staging.versions v using (version_id)
    join staging.observations o on o.record_id = c.record_id
    where (c.all_observations or o.valid_from_run is null) and {applied}
      and not exists (select from change_set_observations s where s.observation_id = o.observation_id)
    """
)


class ChangeSet:
    """The change set of one run, in temporary tables of its transaction.

    Records are added in rounds: SELECT files read the last `round` only, so that they read each record once. partition:
    where it started; "" for all. complete: it has all effective versions, as in a rebuild, and is never extended.
    """

    def __init__(self, connection: Connection, source: Source) -> None:
        self.connection, self.source = connection, source
        self._streams = list(source.streams.values())
        self.round, self.partition, self.complete = 0, "", False
        self._applied: sql.Composable = APPLIED_NOW

    @property
    def command(self) -> str:
        """The command that transforms the partition again."""
        return f"atlas transform {self.source.name} --partition {self.partition}"

    def start(self, partition: str, *, full: bool, code: str) -> int:
        """Starts with the pending versions of a partition, or with all latest ones; returns the number of records."""
        self.partition = partition
        parameters = {"partition": partition, "full": full, "code": code, "streams": self._streams}
        if not self.connection.execute(PENDING + "select from pending limit 1", parameters).rowcount:
            return 0
        return self._start(PENDING + INSERT_PENDING, parameters)

    def start_complete(self, versions: Sequence[int], editions: Sequence[int], publish_seq: int | None) -> int:
        """Starts with given versions and the observations applied up to a run, or now; returns the number of records.

        editions: for each version, the number of the SELECT files that are applied to it.
        """
        self.complete = True
        self._applied = sql.SQL(
            """exists (
                select from ops.fetch_runs r
                where r.fetch_run_id = o.valid_from_run and r.publish_seq <= coalesce({}, r.publish_seq))"""
        ).format(publish_seq)
        query = """
            insert into change_set
            select v.record_id, v.version_id, v.stream, v.external_id, v.payload_id, 1, true, t.edition
            from unnest(%(versions)s::bigint[], %(editions)s::int[]) as t (version_id, edition)
            join staging.versions v using (version_id)
            where v.stream = any(%(streams)s)
        """
        return self._start(query, {"versions": versions, "editions": editions, "streams": self._streams})

    def _start(self, query: LiteralString, parameters: dict[str, Any]) -> int:
        self.connection.execute(CREATE_CHANGE_SET)
        number = self.connection.execute(query, parameters).rowcount
        self._fill()
        return number

    def extend(self) -> bool:
        """Adds the effective versions of `dependent_records`; returns whether there was anything to add."""
        self.connection.execute(
            """
            insert into change_set
            select e.record_id, e.version_id, e.stream, e.external_id, e.payload_id, %(round)s, true
            from staging.effective_versions e
            where e.record_id in (select record_id from dependent_records) and e.stream = any(%(streams)s)
            on conflict (record_id) do update set all_observations = true
            """,
            {"round": self.round + 1, "streams": self._streams},
        )
        return self._fill() > 0

    def remove_bodies(self, version_ids: Sequence[int]) -> None:
        """Removes the bodies of versions, so that no SELECT reads them and all their rows are pruned."""
        parameters = [list(version_ids)]
        self.connection.execute("delete from change_set_bodies where version_id = any(%s)", parameters)
        self.connection.execute("update change_set set all_observations = true where version_id = any(%s)", parameters)
        self.connection.execute(INSERT_OBSERVATIONS.format(round=sql.Literal(self.round), applied=self._applied))

    def count_records(self, version_ids: Sequence[int]) -> int:
        """How many records with a body the change set, and its partition, have of the streams of some versions."""
        return self.connection.execute(
            """
            select from (
                select record_id, stream from change_set where payload_id is not null
                union
                select record_id, stream from staging.versions
                where latest and payload_id is not null and partition_key = %s
            ) as r
            where stream in (select stream from change_set where version_id = any(%s))
            """,
            [self.partition, list(version_ids)],
        ).rowcount

    def merge_rounds(self) -> None:
        """Makes all rounds one, so that SELECTs read all of it again."""
        for name in ("change_set_bodies", "change_set_observations"):
            self.connection.execute(sql.SQL("update {} set round = %s").format(sql.Identifier(name)), [self.round])

    def _fill(self) -> int:
        """Adds the bodies and observations of the records that were added; returns how many."""
        self.round += 1
        added = 0
        for statement in (INSERT_BODIES, INSERT_OBSERVATIONS):
            query = statement.format(round=sql.Literal(self.round), applied=self._applied)
            added += self.connection.execute(query).rowcount
        for name in ("change_set", "change_set_bodies", "change_set_observations"):
            self.connection.execute(sql.SQL("analyze {}").format(sql.Identifier(name)))
        return added


def list_effective(connection: Connection, source: Source) -> None:
    """Fills `change_set` with all effective versions of a source, without bodies: what a rebuild has derived."""
    connection.execute(CREATE_CHANGE_SET)
    connection.execute("truncate change_set")
    connection.execute(
        """
        insert into change_set
        select record_id, version_id, stream, external_id, payload_id, 1, true from staging.effective_versions
        where stream = any(%s)
        """,
        [list(source.streams.values())],
    )
