"""Which rows of `incoming` do not fit their table.

    rows ──types, CHECKs──> rejected · ──no parent──> pending · ──a key that another row has──> `key_conflicts`

A value that its row can do without is cleared, and the row stays. A row is pending for a parent, and a nullable
reference to it is NULL until it comes. Not here: which records outside the change set depend on its rows
(`dependents`).
"""

from collections.abc import Sequence
from typing import LiteralString

import psycopg
from psycopg import sql
from sqlalchemy import CheckConstraint

from pipelines.ledger import Counts
from pipelines.schema.table_spec import Reference, TableSpec, names
from pipelines.transform import key_conflicts, rejects
from pipelines.transform.conditions import is_referenced, keyed, refers_of_applications, same_values
from pipelines.transform.incoming import IncomingTable, filled, referring


def reject_invalid(tables: Sequence[IncomingTable]) -> None:
    """Rejects the rows that do not fit, whatever other rows there are; clears values that the table can do without."""
    for incoming in filled(tables):
        for column in incoming.spec.content if incoming.checks_keys else ():
            invalid, message = incoming.invalid_key(column)
            rejects.reject(incoming, invalid, "type", column, message)
        for column, yielded in incoming.yielded.items():
            if yielded != incoming.spec.type_of(column).lower():
                invalid, message = incoming.invalid(column)
                take_out = rejects.clear if column in incoming.spec.lenient else rejects.reject
                take_out(incoming, invalid, "type", column, message)
            if not incoming.spec.table.columns[column].nullable:
                missing = sql.SQL("{} is null").format(sql.Identifier(column))
                rejects.reject(incoming, missing, "not_null", column, sql.Literal(f"{column} has no value"))
        for check in incoming.spec.constraints(CheckConstraint):
            condition = str(check.sqltext)
            failed = sql.SQL("o.ctid in (select n.ctid from ({}) as n where ({}) is false)").format(
                incoming.typed_rows(), sql.SQL(condition)
            )
            reads = incoming.spec.read_by(condition)
            if len(reads) == 1 and incoming.spec.lenient & incoming.yielded.keys() & set(reads):
                rejects.clear(incoming, failed, "check", reads[0], sql.Literal(condition))
            rejects.reject(
                incoming, failed, "check", str(check.name), sql.Literal(condition)
            )  # also one that NULL fails


def reject_conflicting(tables: Sequence[IncomingTable], counts: dict[str, Counts], *, complete: bool) -> None:
    """Leaves in `incoming` only rows that fit together; adds duplicates and pending rows to the counts.

    complete: the change set has all records, so that only rows of applications stay in the tables.
    """
    for incoming in filled(tables):
        found = counts[incoming.spec.name]
        all_but_one = sql.SQL(
            """
            delete from {incoming} where ctid in (
                select place from (
                    select ctid as place, row_number() over (partition by {columns}) as number from {incoming}
                ) as n
                where number > 1)
            """
        ).format(incoming=incoming.identifier, columns=names(list(incoming.yielded)))
        found.duplicates += incoming.connection.execute(all_but_one).rowcount
        incoming.connection.execute(key_conflicts.CREATE_LOSERS)
        references = [each for each in incoming.spec.references if each.column in incoming.yielded]
        is_tree = any(each.table is incoming.spec.table for each in references)
        while True:
            rows = incoming.count()
            for reference in sorted(references, key=lambda each: each.table is incoming.spec.table):
                found.pending += _take_out_orphans(incoming, reference, tables, complete=complete)
            while incoming.spec.applications and key_conflicts.find_losers_to_applications(incoming):
                found.duplicates += key_conflicts.take_out_losers(incoming)
            if incoming.spec.owned:
                key_conflicts.find_losers(incoming)
                found.duplicates += key_conflicts.take_out_losers(incoming)
            if not is_tree or incoming.count() == rows:
                break  # of a tree, the children of what was taken out are orphans now
    delete_unreferenced(tables)


def delete_unreferenced(tables: Sequence[IncomingTable]) -> None:
    """Deletes from `incoming` the shared rows to which no row refers, or only rejected ones, of any source."""
    for incoming in filled(tables):
        if incoming.spec.owned:
            continue
        places = [(child.identifier, reference.column) for child, reference in referring(tables, incoming)]
        incoming.connection.execute(
            sql.SQL("delete from {} t where not {}").format(incoming.identifier, is_referenced(incoming.spec, places))
        )


def _take_out_orphans(
    incoming: IncomingTable, reference: Reference, tables: Sequence[IncomingTable], *, complete: bool
) -> int:
    """Takes out the rows whose parent neither stays in its table nor is in `incoming`: they are pending for it. Returns
    how many. A nullable reference becomes NULL until the parent comes, and the row stays.

    References to a row that another one stands for lead to that one first.
    """
    parent, column = TableSpec(reference.table), sql.Identifier("o", reference.column)
    key, comes = sql.Identifier(*parent.key), sql.SQL("false").format()
    stays: sql.Composable = sql.SQL("true")
    for each in tables:
        if each.spec.table is parent.table:
            comes = sql.SQL("exists (select from {} i where i.{} = {})").format(each.identifier, key, column)
            if parent.owned:
                stays = sql.SQL("({} or {} or not exists (select from change_set c where c.record_id = p.record_id))")
                stays = stays.format(parent.of_application("p"), refers_of_applications(parent, "p"))
    orphan = sql.SQL(
        "{column} is not null and not {comes} and not exists ("
        "select from {parent} p where p.{key} = {column} and {stays})"
    ).format(column=column, parent=parent.target, key=key, stays=stays, comes=comes)
    execute, referring_column = incoming.connection.execute, sql.Identifier(reference.column)
    if parent.identity:
        found = ALIASES.format(
            name=sql.Literal(parent.name),
            complete=sql.Literal(complete),
            incoming=incoming.identifier,
            column=referring_column,
            order=key_conflicts.order_of(parent, "v"),
        )
        known = sql.SQL("{} and {}::text in (select lost_key from {} as a)").format(orphan, column, found)
        incoming.insert_pending(known, "alias", parent.name, sql.SQL("{}::text").format(column))
        follow = sql.SQL("update {} o set {} = a.kept_key::{} from {} as a where {}::text = a.lost_key and {}")
        type_ = sql.SQL(incoming.spec.type_of(reference.column))
        execute(follow.format(incoming.identifier, referring_column, type_, found, column, orphan))
    if reference.table is incoming.spec.table:
        in_cycle = sql.SQL("o.ctid in ({})").format(cycles(incoming, reference, "place"))
        incoming.insert_pending(in_cycle, "parent", parent.name, sql.SQL("{}::text").format(column))
        rejects.reject(incoming, in_cycle, "cycle", f"{incoming.spec.table.name}_{reference.column}_fkey", CYCLE)
    incoming.insert_pending(orphan, "parent", parent.name, sql.SQL("{}::text").format(column))
    if reference.nullable:
        update = sql.SQL("update {} o set {} = null where {}")
        execute(update.format(incoming.identifier, referring_column, orphan))
        return 0
    return execute(sql.SQL("delete from {} o where {}").format(incoming.identifier, orphan)).rowcount


ALIASES = sql.SQL(
    """(
    select distinct on (a.lost_key) a.lost_key, a.kept_key
    from (
        select record_id, lost_key, kept_key from found_aliases where table_name = {name}
        union all
        select s.record_id, s.lost_key, s.kept_key from staging.aliases s
        where s.table_name = {name} and not {complete}
          and not exists (select from change_set c where c.record_id = s.record_id)
    ) as a
    cross join lateral (select stream, external_id from staging.versions where record_id = a.record_id limit 1) as v
    where a.lost_key in (select {column}::text from {incoming})
    order by a.lost_key, {order}
)"""
)
"""Keys that rows refer to and that are not written, with those of the rows that stand for them: where records yield one
key with several identities, that of the first record in order.
"""

CYCLE = sql.SQL("'the row is above itself'")

CYCLES = sql.SQL(
    """
    with recursive up (place, start, at, records) as (
        select o.ctid, o.{key}, o.{column}, array[]::uuid[] from {incoming} o where o.{column} is not null
        union
        select u.place, u.start, above.at, array(select distinct unnest(u.records || above.record_id))
        from up u
        cross join lateral (
            select i.{column} as at, null::uuid as record_id from {incoming} i where i.{key} = u.at
            union all
            select t.{column}, t.record_id from {target} t
            where t.{key} = u.at and not exists (select from {incoming} i where i.{key} = t.{key})
              and not exists (select from change_set c where c.record_id = t.record_id)
        ) as above
        where above.at is not null and u.at <> u.start
    )
    select {what} from up where at = start
    """
)
"""Rows of a tree that are above themselves, and the records outside the change set of the rows between."""


def cycles(incoming: IncomingTable, reference: Reference, what: LiteralString) -> sql.Composed:
    """The query CYCLES over the rows of a tree. what: `place` of the rows, or `unnest(records)`."""
    return CYCLES.format(
        incoming=incoming.identifier,
        target=incoming.spec.target,
        key=sql.Identifier(*incoming.spec.key),
        column=sql.Identifier(reference.column),
        what=sql.SQL(what),
    )


def require_keys(incoming: IncomingTable) -> None:
    """Raises IntegrityError where a key was yielded that is not of its column's type."""
    query = sql.SQL("select from {} where unread_keys is not null limit 1").format(incoming.identifier)
    if incoming.checks_keys and incoming.connection.execute(query).rowcount:
        raise psycopg.IntegrityError("a key is not of its column's type")


def require_no_cycle(incoming: IncomingTable) -> None:
    """Raises IntegrityError where a row of a tree is above itself."""
    for reference in incoming.spec.references:
        if reference.table is not incoming.spec.table or reference.column not in incoming.yielded:
            continue
        if incoming.connection.execute(sql.SQL("{} limit 1").format(cycles(incoming, reference, "place"))).rowcount:
            raise psycopg.IntegrityError("a row is above itself")


def require_one_partition(incoming: IncomingTable) -> None:
    """Raises IntegrityError where a row has the key of one in another partition, which PostgreSQL would not notice.

    Waits for transactions of applications that write in the table: their rows are not seen before.
    """
    if not (incoming.spec.partition_column and incoming.yielded):
        return
    if incoming.spec.applications:
        lock = sql.SQL("lock table {} in share row exclusive mode")
        incoming.connection.execute(lock.format(incoming.spec.target))
    key, column = incoming.spec.unique_keys[0], sql.Identifier(incoming.spec.partition_column)
    query = sql.SQL("select from {} n join {} t on {} and n.{} <> t.{} limit 1").format(
        incoming.keyed_rows(key), keyed(key, incoming.spec.target), same_values(key, "n", "t"), column, column
    )
    if incoming.connection.execute(query).rowcount:
        raise psycopg.IntegrityError("another partition has a row of this key")
