"""A domain as it was after a run, and what differs between two runs.

    versions in force then, with the SQL of then ──> tables beside the domain's ──> compared with what the run recorded

Where history itself was touched since (erased, pruned, migrated), the digests differ, and the reasons are told.
Belongs here: looking back. Not: deriving (`beside`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from pipelines.errors import AtlasError
from pipelines.lineage.shadow_schema import Tables, beside, derive
from pipelines.lineage.snapshots import Moment
from pipelines.transform import table_digests
from pipelines.warehouse.database import Connection, Warehouse
from pipelines.warehouse.table_spec import TableSpec, fields, names

NOTHING = {"rows": 0, "digest": table_digests.written(0)}


@dataclass(frozen=True)
class Then:
    """A domain's tables as they were after a run. recorded: rows and digest that runs up to then had noted of each."""

    domain: str
    moment: Moment
    tables: Tables
    recorded: dict[str, dict[str, Any]]

    def shape(self, table: str) -> TableSpec:
        """A table of then, by its name in the domain."""
        name = table.removeprefix(f"{self.domain}.")
        if name not in self.tables:
            there = ", ".join(f"{self.domain}.{each}" for each in self.tables)
            raise AtlasError(f"There is no table {table!r} in {self.domain}. There are: {there}.", usage=True)
        return TableSpec(self.tables[name])

    def differing(self, connection: Connection) -> list[str]:
        """Names of the tables that are not what the runs of then had recorded."""
        found = []
        for name, table in self.tables.items():
            counted = table_digests.counted(connection, TableSpec(table))
            here = {"rows": counted["rows"], "digest": table_digests.written(counted["digest"])}
            if here != self.recorded.get(f"{self.domain}.{name}", NOTHING):
                found.append(f"{self.domain}.{name}")
        return found


@contextmanager
def as_of(
    warehouse: Warehouse,
    domain: str,
    moment: Moment,
    *,
    schema: str | None = None,
    workers: int = 1,
    notify: Callable[[str], None] = lambda source: None,
) -> Iterator[Then]:
    """A domain as a run left it, in a schema that goes with the block; or stays when that has ended, by its name."""
    with beside(warehouse, domain, schema, f"{domain} as run {moment.run_id} left it") as tables:
        try:
            derive(warehouse, domain, tables, moment.publish_seq, current_sql=False, workers=workers, notify=notify)
        except AtlasError as error:
            raise AtlasError(
                f"What run {moment.run_id} left behind cannot be derived any more: {error} "
                "A migration has changed staging or the tables since."
            ) from error
        with warehouse.connect() as connection:
            recorded = _recorded(connection, domain, moment.publish_seq)
        yield Then(domain, moment, tables, recorded)


def touched_since(connection: Connection, domain: str, moment: Moment) -> list[str]:
    """What has removed a domain's history since a moment, or may have, in words: runs that pruned or erased."""
    rows = connection.execute(
        """
        select case when r.publish_seq is null then 'broken off' else r.kind end as what, r.fetch_run_id,
            coalesce(r.ended_at, r.started_at) as at
        from ops.fetch_runs r
        join ops.fetch_runs past on past.publish_seq = %(publish_seq)s
        where split_part(r.stream, '/', 1) in (%(domain)s, 'atlas')
          and (r.kind = 'erase' and r.publish_seq > %(publish_seq)s
              or r.kind = 'prune' and r.publish_seq is null and coalesce(r.ended_at > past.ended_at, true)
              or r.kind = 'prune' and r.publish_seq > %(publish_seq)s
                  and (r.stats #>> '{removed,versions}')::bigint + (r.stats #>> '{removed,observations}')::bigint > 0)
        order by r.started_at
        """,
        {"publish_seq": moment.publish_seq, "domain": domain},
    )
    done = {
        "erase": "erased a record",
        "prune": "pruned what was superseded",
        "broken off": "broke off pruning what was superseded",
    }
    return [f"run {row['fetch_run_id']} {done[row['what']]} at {row['at']:%Y-%m-%d %H:%M}" for row in rows]


def untrue(connection: Connection, then: Then) -> str | None:
    """That a moment cannot be shown as it was, and why, in words; None where it is."""
    differing = then.differing(connection)
    if not differing:
        return None
    touched = touched_since(connection, then.domain, then.moment)
    failed = _left_out(connection, then.domain, then.moment)
    words = [f"This is not quite what run {then.moment.run_id} recorded: {', '.join(differing)}."]
    if touched:
        words.append(f"History was removed since: {'; '.join(touched)}.")
    if failed:
        words.append(
            f"SELECT files failed on records in runs {', '.join(failed)}: "
            "rows of these stayed as earlier runs had left them, which may be why."
        )
    if not touched:
        words.append(
            f"{'Or rows' if failed else 'Rows'} had been changed by hand, or history was migrated since. "
            "After `atlas rebuild` it is true again from that run on."
        )
    return " ".join(words)


def _left_out(connection: Connection, domain: str, moment: Moment) -> list[str]:
    """The last run of each source, up to a moment, where SELECT files failed on records; none before a rebuild."""
    rows = connection.execute(
        """
        select distinct on (stream) fetch_run_id::text as run_id from ops.fetch_runs
        where publish_seq <= %(publish_seq)s and starts_with(stream, %(domain)s || '/')
          and (stats ->> 'select_failed')::bigint > 0
          and publish_seq > coalesce(
              (select max(r.publish_seq) from ops.fetch_runs r
               where r.kind = 'rebuild' and r.stream = %(domain)s and r.publish_seq <= %(publish_seq)s),
              0)
        order by stream, publish_seq desc
        """,
        {"publish_seq": moment.publish_seq, "domain": domain},
    )
    return [row["run_id"] for row in rows]


def _recorded(connection: Connection, domain: str, publish_seq: int) -> dict[str, dict[str, Any]]:
    """What was noted last of each table, up to then."""
    rows = connection.execute(
        """
        select distinct on (c.key) c.key as table_name, c.value
        from ops.fetch_runs r cross join jsonb_each(r.stats -> 'table_digests') as c
        where r.publish_seq <= %s and starts_with(c.key, %s)
        order by c.key, r.publish_seq desc
        """,
        [publish_seq, f"{domain}."],
    )
    return {row["table_name"]: row["value"] for row in rows}


def differences(connection: Connection, before: Then, after: Then) -> Iterator[dict[str, Any]]:
    """Each row that differs between two moments: table, key, what happened, cells before and after, and the cause.

    The cause is another version of the record's payload, other counters, another SELECT file, or else another row:
    a parent that came or went, a claim that was won or lost.
    """
    for name in after.tables:
        old, new = TableSpec(before.tables[name]), TableSpec(after.tables[name])
        record = sql.SQL(
            "coalesce((new).record_id, (old).record_id)" if "record_id" in new.table.columns else "null::uuid"
        )
        query = DIFFERING.format(
            keys=names(new.key),
            key=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in new.key),
            record=record,
            before=old.target,
            after=new.target,
            old=fields("old", new.content),
            new=fields("new", new.content),
            cells=sql.SQL(", ").join(CELL.format(sql.Literal(each), sql.Identifier(each)) for each in new.content),
            counted_before=COUNTED.format(sql.Placeholder("before")),
            counted_after=COUNTED.format(sql.Placeholder("after")),
        )
        parameters = {"before": before.moment.publish_seq, "after": after.moment.publish_seq, "table": name}
        with connection.cursor(name=f"differing_{name}", withhold=True) as cursor:
            for row in cursor.execute(query, parameters):
                yield {"table": f"{after.domain}.{name}", **_change(row)}


def _change(row: dict[str, Any]) -> dict[str, Any]:
    """One difference, with the cells that differ."""
    old, new = row["old"] or {}, row["new"] or {}
    cells = {column: [old.get(column), new.get(column)] for column in row["cells"]}
    what = "changed" if row["old"] and row["new"] else "added" if row["new"] else "removed"
    return {
        "key": row["key"],
        "change": what,
        "cells": cells,
        "cause": row["cause"],
        "before": row["before"],
        "after": row["after"],
    }


DIFFERING = sql.SQL(
    """
    with differing as (
        select concat_ws(' ', {key}) as key, old, new, {record} as record_id
        from (select t as old, {keys} from {before} t) as b
        full join (select t as new, {keys} from {after} t) as a using ({keys})
        where old is null or new is null or record_image_ne(row({old}), row({new}))
    )

    select d.key, to_jsonb(d.old) as old, to_jsonb(d.new) as new, array_remove(array[{cells}], null) as cells,
        case
            when d.record_id is null then 'rows that refer to it'
            when b.version_id is distinct from a.version_id then 'payload'
            when b.sql ->> f.address is distinct from a.sql ->> f.address then 'sql'
            when before_counted.observation_id is distinct from after_counted.observation_id then 'counters'
            else 'another row'
        end as cause,
        to_jsonb(b) || jsonb_build_object('sql', b.sql ->> f.address) as before,
        to_jsonb(a) || jsonb_build_object('sql', a.sql ->> f.address) as after
    from differing d
    left join lateral ops.effective_version(d.record_id, %(before)s) as b on true
    left join lateral ops.effective_version(d.record_id, %(after)s) as a on true
    cross join lateral (
        select split_part(coalesce(a.stream, b.stream), '.', 1) || '/' || %(table)s as address
    ) as f
    left join lateral ({counted_before}) as before_counted on true
    left join lateral ({counted_after}) as after_counted on true
    order by d.key
    """
)

CELL = sql.SQL("case when record_image_ne(row((d.old).{1}), row((d.new).{1})) then {0} end")

COUNTED = sql.SQL(
    """
    select o.observation_id from staging.observations o join ops.fetch_runs r on r.fetch_run_id = o.valid_from_run
    where o.record_id = d.record_id and r.publish_seq <= {}
    order by o.observed_at desc limit 1
    """
)
