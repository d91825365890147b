"""The rows of applications that go with an erased record, and the other records that name the same person.

    rows of the record, rows of applications with their identity ──foreign keys, by their ON DELETE──> erased_rows

A row of another record that refers to one that goes is followed only to the rows of applications below it: the
transform takes its record along. Not here: what is removed from staging (`erasure`).
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from pipelines.errors import AtlasError
from pipelines.schema.table_spec import Reference, TableSpec, tables_of
from pipelines.transform.incoming import IncomingTable
from pipelines.warehouse.database import Connection

SET = {"SET NULL": sql.SQL("null"), "SET DEFAULT": sql.SQL("default")}
"""What a reference becomes, by the ON DELETE of its foreign key."""


@dataclass
class Reach:
    """What an erasure reaches beyond the rows from sources.

    rows: how many rows of applications go, by table. cleared: how many of their references become NULL or the default,
    by table and column. same_person: other records that name the same person, each as stream and external id.
    """

    rows: dict[str, int] = field(default_factory=dict)
    cleared: dict[str, int] = field(default_factory=dict)
    same_person: list[tuple[str, str]] = field(default_factory=list)


def find(connection: Connection, parameters: dict[str, Any]) -> Reach:
    """Writes the keys of the rows that go to `erased_rows`, until the caller's transaction ends.

    parameters: with the `stream` and `external_id` of the record. Raises AtlasError where a row that stays forbids it.
    """
    specs, reach = _tables(parameters["stream"]), Reach()
    connection.execute("create temp table erased_rows (table_name text, key text, of_application bool) on commit drop")
    for spec in specs:
        if spec.owned:
            parts = _parts(spec) | {"identity": IncomingTable(connection, spec).identity("t")}
            connection.execute(ROWS_OF_PERSON.format(has_identity=bool(spec.identity), **parts), parameters)
            if spec.identity:
                rows = connection.execute(RECORDS_OF_PERSON.format(**parts), parameters)
                reach.same_person += [(row["stream"], row["external_id"]) for row in rows]
    cascades = list(_cascades(specs))
    while sum(connection.execute(statement, parameters).rowcount for statement in cascades):
        pass
    reach.same_person = sorted(set(reach.same_person))
    _require_allowed(connection, specs, parameters)
    counted = "select table_name, count(*) as number from erased_rows where of_application group by 1 order by 1"
    reach.rows = {row["table_name"]: row["number"] for row in connection.execute(counted)}
    for child, reference in _references(specs):
        if reference.on_delete in SET and (number := connection.execute(_referring(child, reference)).rowcount):
            reach.cleared[f"{child.name}.{reference.column}"] = number
    return reach


def delete(connection: Connection, parameters: dict[str, Any]) -> int:
    """Clears references to rows that go, hands rows of applications in owned tables over to the record, whose prune
    deletes them, and deletes the others; returns how many it deleted.
    """
    specs, deleted = _tables(parameters["stream"]), 0
    for child, reference in _references(specs):
        if value := SET.get(reference.on_delete):
            clear = sql.SQL("update {} u set {} = {} where (u.tableoid, u.ctid) in ({})")
            referring = _referring(child, reference)
            connection.execute(clear.format(child.target, sql.Identifier(reference.column), value, referring))
    for spec in reversed(specs):
        if becomes_the_records(spec):
            own = [sql.Identifier(each) for each in sorted(spec.columns_of_applications)]
            defaults = [sql.SQL(", {} = default").format(each) for each in own]
            connection.execute(HAND_OVER.format(defaults=sql.SQL("").join(defaults), **_parts(spec)), parameters)
        else:
            deleted += connection.execute(DELETE.format(**_parts(spec))).rowcount
    return deleted


def becomes_the_records(spec: TableSpec) -> bool:
    """Whether rows of applications in a table go as rows of the erased record. Those of a series have no time of it."""
    return spec.owned and not spec.time_series


def require_none_left(connection: Connection, parameters: dict[str, Any]) -> None:
    """Raises AtlasError where a row of the record stays for an application, in a table where applications write."""
    for spec in _tables(parameters["stream"]):
        query = sql.SQL("select from {} where record_id = {} limit 1").format(spec.target, RECORD)
        if spec.owned and connection.execute(query, parameters).rowcount:
            raise AtlasError(
                f"A row of {spec.name} would stay, because an application has written a row that refers to it. "
                "Nothing is erased. Erase the record again."
            )


def _tables(stream: str) -> list[TableSpec]:
    """The tables of a stream's domain where applications write, parents first; no other is above a row of theirs."""
    return [spec for spec in tables_of(stream.partition("/")[0]) if spec.written_by_applications]


def _references(specs: list[TableSpec]) -> list[tuple[TableSpec, Reference]]:
    return [(child, reference) for child in specs for reference in child.references]


def _parts(spec: TableSpec) -> dict[str, sql.Composable]:
    return {
        "name": sql.Literal(spec.name),
        "target": spec.target,
        "key": spec.key_text("t"),
        "of_application": spec.of_application("t"),
        "record": RECORD,
    }


def _cascades(specs: list[TableSpec]) -> Iterator[sql.Composed]:
    """For each foreign key a statement that adds the rows that go with one in `erased_rows`."""
    for child, reference in _references(specs):
        parts = _parts(child)
        goes = [parts["of_application"]] if reference.on_delete == "CASCADE" else []
        goes += [GOES_WITH_PARENT.format(record=RECORD)] if child.owned and not reference.nullable else []
        if goes:
            yield CASCADE.format(
                column=sql.Identifier("t", reference.column),
                parent=sql.Literal(TableSpec(reference.table).name),
                type=sql.SQL(child.type_of(reference.column)),
                goes=sql.SQL(" or ").join(goes),
                **parts,
            )


def _referring(child: TableSpec, reference: Reference) -> sql.Composed:
    """A SELECT of the places of the rows of applications that stay and refer to a row that goes."""
    return REFERRING.format(
        column=sql.Identifier("t", reference.column),
        parent=sql.Literal(TableSpec(reference.table).name),
        type=sql.SQL(child.type_of(reference.column)),
        **_parts(child),
    )


def _require_allowed(connection: Connection, specs: list[TableSpec], parameters: dict[str, Any]) -> None:
    """Raises AtlasError where a row that stays refers to one that goes, and has to."""
    for child, reference in _references(specs):
        if reference.on_delete in (*SET, "CASCADE"):
            continue
        if connection.execute(_referring(child, reference)).rowcount:
            raise AtlasError(
                f"A row of an application in {child.name} refers to a row of {TableSpec(reference.table).name} that "
                f"would go, and its foreign key on {reference.column} forbids that (ON DELETE {reference.on_delete}). "
                "Nothing is erased. Delete that row in the application, then erase the record again."
            )
    for parent in specs:
        children = [] if becomes_the_records(parent) else [each for each in parent.referrers if each[0].owned]
        for child, column in children:
            refers = sql.SQL("e.key = t.{}::text and {}").format(sql.Identifier(column), child.from_source("t"))
            query = OF_OTHER_RECORD.format(
                child=child.target, name=sql.Literal(parent.name), refers=refers, record=RECORD
            )
            if row := connection.execute(query, parameters).fetchone():
                raise AtlasError(
                    f"A row of {child.name} refers to a row of {parent.name} that would go. Nothing is erased. Erase "
                    f"the record of that row first: {command(row['stream'], row['external_id'])}"
                )


def command(stream: str, external_id: str) -> str:
    """What erases a record on the command line."""
    return f"atlas erase {stream} {shlex.quote(external_id)}"


RECORD = sql.SQL("ops.key(%(stream)s, %(external_id)s)")

ROWS_OF_PERSON = sql.SQL(
    """
    insert into erased_rows
    select {name}, {key}, {of_application} from {target} t
    where t.record_id = {record}
       or {has_identity} and {of_application} and exists (
           select from staging.pending_rows p
           where p.record_id = {record} and p.table_name = {name}
             and (p.reason, p.key) in (('key', {key}), ('identity', {identity})))
    """
)
"""Rows of the record, and those of applications to which its own lost their identity in the last transform."""

RECORDS_OF_PERSON = sql.SQL(
    """
    with named as (
        select {key} as key, {identity} as identity
        from {target} t join erased_rows e on (e.table_name, e.key) = ({name}, {key})
        union all
        select case when p.reason = 'key' then p.key end, case when p.reason = 'identity' then p.key end
        from staging.pending_rows p where p.record_id = {record} and p.table_name = {name}
    )
    select distinct v.stream, v.external_id from staging.versions v
    where v.record_id <> {record} and v.record_id in (
        select t.record_id from {target} t join named n on n.key = {key} or n.identity = {identity}
        union
        select p.record_id from staging.pending_rows p
        join named n on (p.reason, p.key) in (('key', n.key), ('identity', n.identity))
        where p.table_name = {name})
    order by v.stream, v.external_id
    """
)
"""Records that have, or yield, a row of an identity that the record yields."""

GOES_WITH_PARENT = sql.SQL(
    """t.from_source and not exists (
        select from staging.pending_rows p join staging.aliases a
            on (a.table_name, a.lost_key, a.kept_key) = (p.table_name, p.key, e.key)
        where (p.record_id, p.table_name, p.reason) = (t.record_id, e.table_name, 'alias')
          and a.record_id <> {record})
    and not exists (
        select from staging.pending_rows p
        where (p.table_name, p.key, p.reason) = (e.table_name, e.key, 'key') and p.record_id <> {record}
          and not exists (
              select from staging.aliases a
              where (a.record_id, a.table_name, a.kept_key) = (p.record_id, p.table_name, p.key)))
    """
)
"""The condition that a row of a source goes with its parent: neither refers it to another row of the same identity,
nor does another record yield the parent too.
"""

CASCADE = sql.SQL(
    """
    insert into erased_rows
    select {name}, {key}, {of_application} from {target} t
    join erased_rows e on e.table_name = {parent}
      and {column} = case when e.table_name = {parent} then e.key::{type} end
    where ({goes}) and not exists (select from erased_rows o where (o.table_name, o.key) = ({name}, {key}))
    """
)

REFERRING = sql.SQL(
    """
    select t.tableoid, t.ctid from {target} t
    join erased_rows e on e.table_name = {parent}
      and {column} = case when e.table_name = {parent} then e.key::{type} end
    where {of_application} and not exists (select from erased_rows o where (o.table_name, o.key) = ({name}, {key}))
    """
)

OF_OTHER_RECORD = sql.SQL(
    """
    select v.stream, v.external_id from {child} t join erased_rows e on e.table_name = {name} and {refers}
    join staging.versions v on v.record_id = t.record_id and v.latest
    where t.record_id <> {record} limit 1
    """
)

HAND_OVER = sql.SQL(
    """
    update {target} t set from_source = true, record_id = {record}{defaults} from erased_rows e
    where (e.table_name, e.key) = ({name}, {key}) and (e.of_application or t.record_id = {record})
    """
)

DELETE = sql.SQL(
    """
    delete from {target} t using erased_rows e
    where (e.table_name, e.key) = ({name}, {key}) and e.of_application
    """
)
