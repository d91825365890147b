"""The change set of a transform: the versions and observations that SELECT files read.

    pending versions of a partition ──start──> change_set <──extend── records whose rows depend on the change

It starts in one source, and takes along records of whatever source of the domain. Not here: what makes a version
pending (`schema.functions`), which records depend on a change (`dependents`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy import Table

from pipelines import project
from pipelines.project import Select
from pipelines.schema.table_spec import TableSpec
from pipelines.source import Source
from pipelines.warehouse.database import Connection

CREATE_CHANGE_SET = """
create temp table editions (edition int primary key, source text, code text) on commit drop;
create temp table change_set (
    record_id uuid primary key, version_id bigint, stream text, external_id text, payload_id uuid, round int,
    all_observations boolean, edition int
) on commit drop;
create temp table change_set_bodies (
    record_id uuid, version_id bigint, stream text, external_id text, identity text,
    body jsonb storage external, round int, edition int
) on commit drop;
create temp table change_set_observations (
    record_id uuid, observation_id bigint primary key, round int
) on commit drop;
create temp table dependent_records (record_id uuid) on commit drop;
create temp table changes_of_applications (change_id bigint, table_name text, key text) on commit drop
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
              where o.record_id = p.record_id and o.late and o.valid_from_run is null)),
    %(edition)s
from pending p
"""
"""All observations of a record are read, unless the same SELECT files were applied to it before and did not fail, and
no late one changes what comes after it."""

CHANGES_OF_APPLICATIONS = """
insert into changes_of_applications
select change_id, table_name, key from staging.changed_rows where starts_with(table_name, %s)
"""

APPLIED_NOW = sql.SQL("(v.latest or o.valid_from_run is not null)")
"""A version that is not the latest keeps the counters it was applied with; newer ones apply with the latest version."""

INSERT_BODIES = sql.SQL(
    """
    insert into change_set_bodies
    select c.record_id, c.version_id, c.stream, c.external_id, coalesce(v.identity, c.external_id),
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


def code_version(selects: Sequence[Select]) -> str:
    """Digest of a source's SELECT files together, and of the columns that the database has not."""
    listed = "".join(
        f"{select.file.address} {select.file.digest} {' '.join(sorted(TableSpec(select.table).left_out))}".rstrip()
        + "\n"
        for select in selects
    )
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Edition:
    """SELECT files of one source, as they are applied to records of it."""

    source: Source
    selects: Sequence[Select]

    @property
    def code(self) -> str:
        return code_version(self.selects)


def current_editions(domain: str, tables: Mapping[str, Table] | None = None) -> list[Edition]:
    """The SELECT files of each source of a domain that has some, as they are now. tables: to fill instead, by name."""
    editions = []
    for source in project.sources_of(domain):
        selects = project.selects(source.name)
        if tables:
            selects = tuple(Select(select.file, tables[select.table.name]) for select in selects)
        if selects:
            editions.append(Edition(source, selects))
    return editions


class ChangeSet:
    """The change set of one run, in temporary tables of its transaction.

    Records are added in rounds: SELECT files read the last `round` only, so that they read each record once. command:
    what transforms it again. partition: where it started; "" for all. complete: it has all effective versions, as in a
    rebuild, and is never extended.
    """

    def __init__(self, connection: Connection, editions: Sequence[Edition], command: str = "") -> None:
        self.connection, self.editions, self.command = connection, editions, command
        self.round, self.partition, self.complete = 0, "", False
        self._applied: sql.Composable = APPLIED_NOW

    def start(self, streams: Sequence[str], partition: str, *, full: bool) -> int:
        """Starts with the pending versions of a partition of streams of the first edition's source, or with all latest
        ones of it; returns the number of records.
        """
        parameters = {"partition": partition, "full": full, "code": self.editions[0].code}
        parameters |= {"streams": list(streams), "edition": 0}
        self.partition = partition
        if not self.connection.execute(PENDING + "select from pending limit 1", parameters).rowcount:
            return 0
        self._create()
        records = self.connection.execute(PENDING + INSERT_PENDING, parameters).rowcount
        self.connection.execute(CHANGES_OF_APPLICATIONS, [f"{self.editions[0].source.domain}."])
        self.connection.execute(
            """
            insert into dependent_records
            select p.record_id from changes_of_applications c
            join staging.pending_rows p on (p.table_name, p.key) = (c.table_name, c.key)
            """
        )
        self._add_dependents()
        self._fill()
        return records

    def start_complete(self, versions: Sequence[Sequence[int]], publish_seq: int | None) -> int:
        """Starts with given versions and the observations applied up to a run, or now; returns the number of records.

        versions: for each edition those that it is applied to.
        """
        self.complete = True
        self._applied = sql.SQL(
            """exists (
                select from ops.fetch_runs r
                where r.fetch_run_id = o.valid_from_run and r.publish_seq <= coalesce({}, r.publish_seq))"""
        ).format(publish_seq)
        self._create()
        records = 0
        for number, of_edition in enumerate(versions):
            records += self.connection.execute(
                """
                insert into change_set
                select v.record_id, v.version_id, v.stream, v.external_id, v.payload_id, 1, true, %s
                from staging.versions v where v.version_id = any(%s)
                """,
                [number, list(of_edition)],
            ).rowcount
        self._fill()
        return records

    def _create(self) -> None:
        self.connection.execute(CREATE_CHANGE_SET)
        names, codes = [each.source.name for each in self.editions], [each.code for each in self.editions]
        self.connection.execute(
            "insert into editions select number - 1, source, code"
            " from unnest(%s::text[], %s::text[]) with ordinality as e (source, code, number)",
            [names, codes],
        )

    def used_editions(self) -> list[int]:
        """Numbers of the editions of which there are records."""
        rows = self.connection.execute("select distinct edition from change_set order by 1")
        return [row["edition"] for row in rows]

    def taken_along(self) -> dict[str, int]:
        """The number of records of other sources than the one that it started in, by stream."""
        query = "select stream, count(*) as number from change_set where edition <> 0 group by stream order by stream"
        return {row["stream"]: row["number"] for row in self.connection.execute(query)}

    def extend(self) -> bool:
        """Adds the effective versions of `dependent_records`; returns whether there was anything to add."""
        return self._add_dependents() and self._fill() > 0

    def _add_dependents(self) -> bool:
        if not self.connection.execute("select from dependent_records limit 1").rowcount:
            return False
        self.connection.execute("analyze dependent_records")
        streams = [
            (name, number) for number, each in enumerate(self.editions) for name in each.source.stream_names.values()
        ]
        self.connection.execute(
            """
            insert into change_set
            select e.record_id, e.version_id, e.stream, e.external_id, e.payload_id, %s, true, s.edition
            from staging.effective_versions e
            join unnest(%s::text[], %s::int[]) as s (stream, edition) using (stream)
            where e.record_id in (select record_id from dependent_records)
            on conflict (record_id) do update set all_observations = true
            """,
            [self.round + 1, *map(list, zip(*streams, strict=True))],
        )
        return True

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
