"""Finds the records whose rows depend on what a change set changes, and adds them to it.

    rows that appear   ──> records pending for them · records that have the same key
    rows that are pruned ──> records pending for their key or unique value · records with rows that refer to them

Every conflict is then resolved with all its rows in the change set, so the tables do not depend on the order in which
records arrive.
"""

from collections.abc import Sequence

from psycopg import sql

from pipelines.transform.change_set import ChangeSet
from pipelines.transform.incoming import IncomingTable, referring

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
    """Extends a change set by the records that depend on the rows its SELECT files have yielded so far; returns whether
    there were any.

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
