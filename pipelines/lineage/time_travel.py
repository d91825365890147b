"""The tables of a domain as of a past run, and the rows that differ between two runs.

    versions effective after the run, SELECT files of that time ──> shadow schema ──> compared with recorded digests

Where history was removed since then (erased, pruned, migrated) the digests differ, and `why_not_exact` says why.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import sql

from pipelines.errors import AtlasError
from pipelines.lineage import shadow_schema
from pipelines.lineage.shadow_schema import Tables
from pipelines.schema.table_spec import TableSpec, fields, names
from pipelines.transform import table_digests
from pipelines.warehouse.database import Connection, Warehouse


@dataclass(frozen=True)
class Snapshot:
    """The state of the warehouse that a published run left."""

    run_id: UUID
    publish_seq: int
    stream: str


@dataclass(frozen=True)
class DomainAsOf:
    """A domain's tables as of a run, in a shadow schema.

    decided_by_applications: tables whose rows of applications, which are taken as they are now, have decided which rows
    from sources there are, or what these refer to.
    """

    domain: str
    snapshot: Snapshot
    tables: Tables
    decided_by_applications: list[str]

    def table_spec(self, name: str) -> TableSpec:
        """A table of the shadow schema, by its name in the domain: `models` or `catalog.models`."""
        bare = name.removeprefix(f"{self.domain}.")
        if bare not in self.tables:
            known = ", ".join(f"{self.domain}.{each}" for each in self.tables)
            raise AtlasError(f"There is no table {name!r} in {self.domain}. There are: {known}.", usage=True)
        return TableSpec(self.tables[bare])

    def connected(self, names: Collection[str]) -> set[str]:
        """Names of tables, and of those that foreign keys connect with them, through others too."""
        found = set(names)
        pairs = [
            {f"{self.domain}.{name}", f"{self.domain}.{reference.table.name}"}
            for name, table in self.tables.items()
            for reference in TableSpec(table).references
        ]
        while more := [pair for pair in pairs if pair & found and pair - found]:
            found = found.union(*more)
        return found

    def differing_tables(self, connection: Connection) -> list[str]:
        """Names of the tables whose rows or digest are not what the last run up to then that wrote them recorded."""
        rows = connection.execute(
            """
            select distinct on (c.key) c.key as table_name, c.value
            from ops.fetch_runs r cross join jsonb_each(r.stats -> 'table_digests') as c
            where r.publish_seq <= %s and starts_with(c.key, %s)
            order by c.key, r.publish_seq desc
            """,
            [self.snapshot.publish_seq, f"{self.domain}."],
        )
        recorded = {row["table_name"]: row["value"] for row in rows}
        empty = {"rows": 0, "digest": "0" * 16}
        found = {f"{self.domain}.{name}": TableSpec(table) for name, table in self.tables.items()}
        return [
            name for name, spec in found.items() if table_digests.count(connection, spec) != recorded.get(name, empty)
        ]


def snapshot_of_run(connection: Connection, run_id: str) -> Snapshot:
    """The snapshot that a run left. run_id: its id, or how it begins. Raises AtlasError if none has published."""
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


@contextmanager
def as_of(warehouse: Warehouse, domain: str, snapshot: Snapshot, schema: str | None = None) -> Iterator[DomainAsOf]:
    """A domain as a run left it, in a shadow schema that is dropped when the block ends. schema: keep it by this name.

    Raises AtlasError where the state can no longer be derived.
    """
    with shadow_schema.create(warehouse, domain, keep_as=schema, run_id=snapshot.run_id) as tables:
        try:
            decided_by_applications = shadow_schema.fill(warehouse, domain, tables, snapshot.publish_seq)
        except AtlasError as error:
            raise AtlasError(
                f"The state that run {snapshot.run_id} left can no longer be derived: {error} "
                "A migration has changed staging or the tables since then."
            ) from error
        yield DomainAsOf(domain, snapshot, tables, decided_by_applications)


def history_removed_since(connection: Connection, domain: str, snapshot: Snapshot) -> list[str]:
    """The runs that have removed history of a domain since a snapshot, or may have; a sentence for each."""
    rows = connection.execute(
        """
        select r.fetch_run_id, coalesce(r.ended_at, r.started_at) as at, case
                when r.kind = 'erase' then 'erased a record'
                when r.publish_seq is null then 'was interrupted while it pruned superseded versions'
                else 'pruned superseded versions'
            end as done
        from ops.fetch_runs r
        join ops.fetch_runs past on past.publish_seq = %(publish_seq)s
        where split_part(r.stream, '/', 1) in (%(domain)s, 'atlas')
          and (r.kind = 'erase' and r.publish_seq > %(publish_seq)s
              or r.kind = 'prune' and r.publish_seq is null and coalesce(r.ended_at > past.ended_at, true)
              or r.kind = 'prune' and r.publish_seq > %(publish_seq)s
                  and (r.stats #>> '{removed,versions}')::bigint + (r.stats #>> '{removed,observations}')::bigint > 0)
        order by r.started_at
        """,
        {"publish_seq": snapshot.publish_seq, "domain": domain},
    )
    return [f"run {row['fetch_run_id']} {row['done']} at {row['at']:%Y-%m-%d %H:%M}" for row in rows]


def why_not_exact(connection: Connection, state: DomainAsOf) -> str | None:
    """Which tables differ from what was recorded, and the possible reasons; None if none differs."""
    differing = state.differing_tables(connection)
    if not differing:
        return None
    said = [f"These tables differ from what run {state.snapshot.run_id} recorded: {', '.join(differing)}."]
    removed = history_removed_since(connection, state.domain, state.snapshot)
    if removed:
        said.append(f"History was removed since then: {'; '.join(removed)}.")
    explained = state.connected(state.decided_by_applications)
    if explained & set(differing):
        tables = ", ".join(state.decided_by_applications)
        said.append(f"Rows of applications in {tables} are taken as they are now; they may have been others then.")
    if not removed and (rest := set(differing) - explained):
        written = [spec.table.name for spec in map(TableSpec, state.tables.values()) if spec.written_by_applications]
        if rest & state.connected([f"{state.domain}.{name}" for name in written]):
            said.append("Applications may have deleted rows that had a key, or to which rows from sources referred.")
        said.append(
            "Rows may have been changed by hand, or a migration may have changed staging since then. "
            f"Run `atlas rebuild {state.domain}`: what later runs leave can then be shown exactly."
        )
    return " ".join(said)


def differences(connection: Connection, before: DomainAsOf, after: DomainAsOf) -> Iterator[dict[str, Any]]:
    """Each row that differs between two snapshots: table, key, change, cells before and after, cause.

    The cause is another payload version of the record, other counters, another SELECT file, or else another row: a
    parent that was added or removed, or a row with the same key.
    """
    for name in after.tables:
        old, new = TableSpec(before.tables[name]), TableSpec(after.tables[name])
        cell = sql.SQL("case when record_image_ne(row((d.old).{1}), row((d.new).{1})) then {0} end")
        query = DIFFERING_ROWS.format(
            keys=names(new.key),
            record=sql.SQL("coalesce((new).record_id, (old).record_id)" if new.owned else "null::uuid"),
            before=old.target,
            from_source=new.from_source("t"),
            after=new.target,
            old=fields("old", new.content),
            new=fields("new", new.content),
            cells=sql.SQL(", ").join(cell.format(each, sql.Identifier(each)) for each in new.content),
            observed_before=NEWEST_OBSERVATION.format(sql.Placeholder("before")),
            observed_after=NEWEST_OBSERVATION.format(sql.Placeholder("after")),
        )
        parameters = {"before": before.snapshot.publish_seq, "after": after.snapshot.publish_seq, "table": name}
        with connection.cursor(name=f"differing_{name}", withhold=True) as cursor:
            for row in cursor.execute(query, parameters):
                was, is_now = row.pop("old") or {}, row.pop("new") or {}
                row["cells"] = {column: [was.get(column), is_now.get(column)] for column in row["cells"]}
                yield {"table": f"{after.domain}.{name}", **row}


DIFFERING_ROWS = sql.SQL(
    """
    with differing as (
        select concat_ws(' ', {keys}) as key, old, new, {record} as record_id
        from (select t as old, {keys} from {before} t where {from_source}) as b
        full join (select t as new, {keys} from {after} t where {from_source}) as a using ({keys})
        where old is null or new is null or record_image_ne(row({old}), row({new}))
    )

    select d.key,
        case when d.old is null then 'added' when d.new is null then 'removed' else 'changed' end as change,
        array_remove(array[{cells}], null) as cells,
        case
            when d.record_id is null then 'rows that refer to it'
            when b.version_id is distinct from a.version_id then 'payload'
            when b.sql ->> f.address is distinct from a.sql ->> f.address then 'sql'
            when {observed_before} is distinct from {observed_after} then 'counters'
            else 'another row'
        end as cause,
        to_jsonb(b) || jsonb_build_object('sql', b.sql ->> f.address) as before,
        to_jsonb(a) || jsonb_build_object('sql', a.sql ->> f.address) as after,
        to_jsonb(d.old) as old, to_jsonb(d.new) as new
    from differing d
    left join lateral (
        select * from staging.effective_versions_after(%(before)s) where record_id = d.record_id) as b on true
    left join lateral (
        select * from staging.effective_versions_after(%(after)s) where record_id = d.record_id) as a on true
    cross join lateral (
        select split_part(coalesce(a.stream, b.stream), '.', 1) || '/' || %(table)s as address
    ) as f
    order by d.key
    """
)

NEWEST_OBSERVATION = sql.SQL(
    """(
        select max(o.observation_id) from staging.observations o
        join ops.fetch_runs r on r.fetch_run_id = o.valid_from_run
        where o.record_id = d.record_id and r.publish_seq <= {}
    )"""
)
