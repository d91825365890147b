"""Which rows of `incoming` do not fit their table, and which records outside the change set depend on its rows.

    rows that appear     ──> records pending for them · records that have the same key
    rows that are pruned ──> records pending for their key or unique value · records with rows that refer to them

Every conflict is resolved with all its rows in the change set, so the order in which records arrive does not matter.
A row is pending for a parent, and a nullable reference to it is NULL until it comes. Of rows with one key or unique
value the smallest (stream, external id, key) is written; the others are pending until it is pruned.
"""

from collections.abc import Sequence
from typing import Any

from psycopg import sql
from sqlalchemy import CheckConstraint

from pipelines.ledger import Counts
from pipelines.transform.change_set import ChangeSet
from pipelines.transform.incoming import IncomingTable, referring
from pipelines.transform.merge_sql import is_referenced
from pipelines.warehouse.table_spec import Reference, TableSpec, names


def reject_invalid(tables: Sequence[IncomingTable]) -> None:
    """Rejects the rows that do not fit, whatever other rows there are."""
    for incoming in tables:
        for column, yielded in incoming.yielded.items():
            wanted = incoming.spec.type_of(column)
            if yielded != wanted.lower():
                value = sql.SQL("{}, {}").format(incoming.as_text(column), sql.Literal(wanted))
                invalid = sql.SQL("not pg_input_is_valid({})").format(value)
                message = sql.SQL("(select message from pg_input_error_info({}))").format(value)
                incoming.reject(invalid, "type", column, message)
            if not incoming.spec.table.columns[column].nullable:
                missing = sql.SQL("{} is null").format(sql.Identifier(column))
                incoming.reject(missing, "not_null", column, sql.Literal(f"{column} has no value"))
        for check in incoming.spec.constraints(CheckConstraint):
            condition = str(check.sqltext)
            failed = sql.SQL("o.ctid in (select n.ctid from ({}) as n where ({}) is false)").format(
                incoming.typed_rows(), sql.SQL(condition)
            )
            incoming.reject(failed, "check", str(check.name), sql.Literal(condition))


def reject_conflicting(tables: Sequence[IncomingTable], counts: dict[str, Counts]) -> None:
    """Leaves in `incoming` only rows that fit together; adds duplicates to the counts."""
    for incoming in tables:
        all_but_one = sql.SQL(
            """
            delete from {incoming} where ctid in (
                select place from (
                    select ctid as place, row_number() over (partition by {columns}) as number from {incoming}
                ) as n
                where number > 1)
            """
        ).format(incoming=incoming.identifier, columns=names(list(incoming.yielded)))
        duplicates = incoming.connection.execute(all_but_one).rowcount
        for reference in incoming.spec.references:
            if reference.column in incoming.yielded:
                _reject_orphans(incoming, reference, tables)
        if incoming.spec.owned:
            duplicates += _reject_losers(incoming)
        counts[incoming.spec.name].duplicates += duplicates
    delete_unreferenced(tables)


def delete_unreferenced(tables: Sequence[IncomingTable]) -> None:
    """Deletes from `incoming` the shared rows to which no row refers, or only rejected ones, of any source."""
    for incoming in tables:
        if incoming.spec.owned:
            continue
        places = [(child.identifier, reference.column) for child, reference in referring(tables, incoming)]
        incoming.connection.execute(
            sql.SQL("delete from {} t where not {}").format(incoming.identifier, is_referenced(incoming.spec, places))
        )


def _reject_orphans(incoming: IncomingTable, reference: Reference, tables: Sequence[IncomingTable]) -> None:
    """Rejects rows whose parent neither stays in its table nor is in `incoming`; a nullable reference becomes NULL."""
    parent, column = TableSpec(reference.table), sql.Identifier("o", reference.column)
    key, stays, comes = sql.Identifier(*parent.key), sql.SQL("true"), sql.SQL("false").format()
    for filled in tables:
        if filled.spec.table is parent.table:
            comes = sql.SQL("exists (select from {} i where i.{} = {})").format(filled.identifier, key, column)
            if parent.owned:
                stays = sql.SQL("not exists (select from change_set c where c.record_id = p.record_id)")
    orphan = sql.SQL(
        "{column} is not null and not {comes} and not exists ("
        "select from {parent} p where p.{key} = {column} and {stays})"
    ).format(column=column, parent=parent.target, key=key, stays=stays, comes=comes)
    incoming.insert_pending(orphan, "parent", parent.name, sql.SQL("{}::text").format(column))
    if reference.nullable:
        update = sql.SQL("update {} o set {} = null where {}")
        incoming.connection.execute(update.format(incoming.identifier, sql.Identifier(reference.column), orphan))
    else:
        detail = sql.Literal(f"its row of {parent.name} is missing or does not fit")
        incoming.reject(orphan, "parent", f"{incoming.spec.table.name}_{reference.column}_fkey", detail)


def _reject_losers(incoming: IncomingTable) -> int:
    """Takes out the rows that lose a key or a unique value to another row: a row that loses its key to another record
    is a duplicate, the others are rejected. Returns the number of duplicates.

    A row that loses one conflict cannot win another, so rows are decided one after the other, the smallest first.
    """
    winners: dict[tuple[int, int], dict[str, Any]] = {}
    losers = []
    for row in incoming.connection.execute(_contested(incoming)):
        keys = [(number, value) for number, value in enumerate(row["values"]) if value is not None]
        taken = next((key for key in keys if key in winners), None)
        if taken is None:
            winners |= dict.fromkeys(keys, row)
        else:
            winner = winners[taken]
            losers.append((row["place"], taken[0], winner["key"], winner["record_id"] == row["record_id"]))
    if not losers:
        return 0
    incoming.connection.execute(  # number: of which key; 0 is the primary key
        """
        create temp table conflict_losers on commit drop as
        select * from unnest(%s::tid[], %s::int[], %s::text[], %s::boolean[]) as l (place, number, winner, same_record)
        """,
        [list(each) for each in zip(*losers, strict=True)],
    )
    lost_key = sql.SQL("o.ctid in (select place from conflict_losers where number = 0 and not same_record)")
    incoming.insert_pending(lost_key, "key", incoming.spec.name, WINNER_KEY)
    delete = sql.SQL("delete from {} o where {}").format(incoming.identifier, lost_key)
    duplicates = incoming.connection.execute(delete).rowcount
    for number, (columns, unique) in enumerate(incoming.exclusive):
        lost = sql.SQL("o.ctid in (select place from conflict_losers where number = {})").format(sql.Literal(number))
        if unique is not None:
            incoming.insert_pending(lost, "unique", incoming.spec.name, WINNER_KEY)
        constraint = f"{incoming.spec.table.name}_pkey" if unique is None else str(unique.name)
        incoming.reject(lost, "unique", constraint, sql.Literal(f"another row has this {', '.join(columns)}"))
    incoming.connection.execute("drop table conflict_losers")
    return duplicates


def _contested(incoming: IncomingTable) -> sql.Composed:
    """The query CONTESTED over the rows of a table."""
    values: list[sql.Composable] = []
    counts: list[sql.Composable] = []
    for columns, unique in incoming.exclusive:
        all_columns = names(columns, "n")
        comparable = sql.SQL("num_nulls({}) = 0").format(all_columns)
        if unique is not None and unique.dialect_options["postgresql"]["nulls_not_distinct"]:
            comparable = sql.SQL("true").format()
        case = sql.SQL("case when {} then {} end")
        values.append(case.format(comparable, sql.SQL("dense_rank() over (order by {})").format(all_columns)))
        counts.append(case.format(comparable, sql.SQL("count(*) over (partition by {})").format(all_columns)))
    return CONTESTED.format(
        key=incoming.spec.key_text("n"),
        values=sql.SQL(", ").join(values),
        counts=sql.SQL(", ").join(counts),
        rows=incoming.typed_rows(),
    )


CONTESTED = sql.SQL(
    """
    select place::text, record_id, key, values from (
        select n.ctid as place, n.record_id, {key} as key, array[{values}] as values, greatest({counts}) as most,
            row_number() over (
                order by c.stream collate "C", c.external_id collate "C", {key} collate "C",
                    (to_jsonb(n) - 'ctid')::text collate "C") as rank
        from ({rows}) as n left join change_set c on c.record_id = n.record_id
    ) as numbered
    where most > 1 order by rank
    """
)
"""The rows that share a key, the smallest first. values: a number for the value of each key; null is not comparable."""

WINNER_KEY = sql.SQL("(select winner from conflict_losers where place = o.ctid)")

PENDING_FOR_PARENT = sql.SQL(
    """
    insert into dependent_records
    select p.record_id from {incoming} i
    join staging.pending_rows p on p.table_name = {name} and p.key = {key}
    where p.reason = 'parent'
    """
)

PENDING_FOR_KEY = sql.SQL(
    """
    insert into dependent_records
    select p.record_id from {target} t
    join change_set c on c.record_id = t.record_id
    join staging.pending_rows p on p.table_name = {name} and p.key = {target_key}
    cross join lateral (select external_id from staging.versions v where v.record_id = p.record_id limit 1) as v
    where p.reason = 'unique'
       or p.reason = 'key' and not exists ( -- unless it would lose the key again
           select from {incoming} i join change_set o on o.record_id = i.record_id
           where {key} = p.key
             and (o.stream collate "C", o.external_id collate "C") < (p.stream collate "C", v.external_id collate "C"))
    """
)

HAVING_KEY = sql.SQL(
    """
    insert into dependent_records
    select t.record_id from ({typed_rows}) as n join {target} t on {same}
    where not exists (select from change_set c where c.record_id = t.record_id)
    """
)
"""Records outside the change set that have the primary key of a row in it, or a unique value."""

REFERRING = sql.SQL(
    """
    insert into dependent_records
    select r.record_id from {child} r
    join (
        select t.{key} as key from {target} t join change_set c on c.record_id = t.record_id
        where not exists (select from {incoming} i where i.{key} = t.{key})
    ) as pruned on r.{column} = pruned.key
    where not exists (select from change_set c where c.record_id = r.record_id and {included})
    """
)
"""Records with rows that refer to a row that is about to be pruned."""


def add_dependents(change_set: ChangeSet, tables: Sequence[IncomingTable], *, having_keys: bool) -> bool:
    """Extends a change set by the records that depend on the rows yielded so far; returns whether there were any.

    having_keys: adds also the records outside it whose rows have a key or unique value of a row in it.
    """
    if change_set.complete:
        return False
    change_set.connection.execute("truncate dependent_records")
    for incoming in tables:
        _insert(PENDING_FOR_PARENT, incoming, key=incoming.spec.key_text("i"))
        if incoming.spec.owned:
            keys = {"key": incoming.spec.key_text("i"), "target_key": incoming.spec.key_text("t")}
            _insert(PENDING_FOR_KEY, incoming, **keys)
            for columns, _ in incoming.exclusive if having_keys else ():
                same = sql.SQL(" and ").join(sql.SQL("n.{0} = t.{0}").format(sql.Identifier(each)) for each in columns)
                _insert(HAVING_KEY, incoming, typed_rows=incoming.typed_rows(), same=same)
            for child, reference in referring(tables, incoming):
                _insert(
                    REFERRING,
                    incoming,
                    child=child.spec.target,
                    key=sql.Identifier(*incoming.spec.key),
                    column=sql.Identifier(reference.column),
                    included=sql.SQL("c.all_observations" if child.spec.time_series else "true"),
                )
    return change_set.extend()


def _insert(query: sql.SQL, incoming: IncomingTable, **parts: sql.Composable) -> None:
    parts |= {"incoming": incoming.identifier, "target": incoming.spec.target, "name": sql.Literal(incoming.spec.name)}
    incoming.connection.execute(query.format(**parts))
