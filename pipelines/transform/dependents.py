"""Which records outside the change set depend on its rows.

    rows that appear     ──> records pending for them · records that have the same key
    rows that are pruned ──> records pending for their key or unique value · records with rows that refer to them

Every conflict is resolved with all its rows in the change set, so the order in which records arrive does not matter.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from psycopg import sql

from pipelines.transform.change_set import ChangeSet
from pipelines.transform.conditions import keyed, same_values
from pipelines.transform.constraints import cycles
from pipelines.transform.incoming import IncomingTable, filled
from pipelines.transform.key_conflicts import order_of
from pipelines.warehouse.database import Connection

PENDING_FOR_ROW = sql.SQL(
    """
    select p.record_id from {incoming} i
    join staging.pending_rows p on p.table_name = {name} and p.key = {key}
    where p.reason = any({reasons})
    """
)

PENDING_FOR_KEY = sql.SQL(
    """
    select p.record_id from {target} t
    join change_set c on c.record_id = t.record_id
    join staging.pending_rows p on p.table_name = {name} and p.key = {target_key}
    cross join lateral (select external_id from staging.versions v where v.record_id = p.record_id limit 1) as v
    where p.reason = 'unique'
       or p.reason = 'key' and not exists ( -- unless it would lose the key again
           select from {incoming} i join change_set o on o.record_id = i.record_id
           where {key} = p.key and {same_identity} and ({order}) < ({pending_order}))
    """
)

HAVING_KEY = sql.SQL(
    """
    select t.record_id from {rows} as n join {target_rows} as t on {same}
    where not exists (select from change_set c where c.record_id = t.record_id)
    """
)
"""Records outside the change set that have the primary key of a row in it, or a unique value."""

REFERRING = sql.SQL(
    """
    select r.record_id from {child} r
    join (
        select t.{key} as key from {target} t join change_set c on c.record_id = t.record_id
        where not exists (select from {incoming} i where i.{key} = t.{key})
    ) as pruned on r.{column} = pruned.key
    where not exists (select from change_set c where c.record_id = r.record_id and {included})
    """
)
"""Records with rows that refer to a row that is about to be pruned."""

OF_CHANGED_ALIASES = """
    select p.record_id from (
        (select s.table_name, s.lost_key, s.kept_key from staging.aliases s join change_set using (record_id)
         except
         select table_name, lost_key, kept_key from found_aliases)
        union all
        (select table_name, lost_key, kept_key from found_aliases
         except
         select s.table_name, s.lost_key, s.kept_key from staging.aliases s join change_set using (record_id))
    ) as changed
    join staging.pending_rows p on p.table_name = changed.table_name and p.key = changed.lost_key
    where p.reason in ('alias', 'parent') and p.record_id not in (select record_id from change_set)
"""
"""Records with rows that refer to a key that gets another row to stand for it, or none any more."""

Step = Literal["yielded", "contested", "resolved"]
"""yielded: nothing is known but the rows. contested: they are to be compared with all that have their keys. resolved:
conflicts are resolved."""


def add_dependents(change_set: ChangeSet, tables: Sequence[IncomingTable], step: Step) -> bool:
    """Extends a change set by the records that depend on the rows yielded so far; returns whether there were any."""
    if change_set.complete:
        return False
    queries = [query for incoming in filled(tables) for query in _dependents_of_rows(incoming, step)]
    queries += [query for each in tables if each.spec.owned for query in _dependents_of_pruned(each)]
    if step == "resolved":
        queries.append(sql.SQL(OF_CHANGED_ALIASES).format())
    change_set.connection.execute("truncate dependent_records")
    if queries:
        change_set.connection.execute(
            sql.SQL("insert into dependent_records {}").format(sql.SQL(" union all ").join(queries))
        )
    return change_set.extend()


def _dependents_of_rows(incoming: IncomingTable, step: Step) -> Iterator[sql.Composed]:
    """Queries for the records that depend on the rows that appear in a table."""
    spec = incoming.spec
    reasons = sql.Literal(["parent", "alias"] if step == "resolved" else ["parent"])
    parts = {"incoming": incoming.identifier, "name": sql.Literal(spec.name)}
    yield PENDING_FOR_ROW.format(key=spec.key_text("i"), reasons=reasons, **parts)
    if spec.identity:
        yield PENDING_FOR_ROW.format(key=incoming.identity("i"), reasons=sql.Literal(["identity"]), **parts)
    if step == "yielded" or not spec.owned:
        return
    for unique in incoming.unique_keys:
        rows, target_rows = incoming.keyed_rows(unique), keyed(unique, spec.target)
        yield HAVING_KEY.format(rows=rows, target_rows=target_rows, same=same_values(unique, "n", "t"))
    for reference in spec.references:
        if reference.table is spec.table and reference.column in incoming.yielded:
            yield sql.SQL("({})").format(cycles(incoming, reference, "unnest(records)"))


def _dependents_of_pruned(incoming: IncomingTable) -> Iterator[sql.Composed]:
    """Queries for the records that depend on the rows that are pruned from a table."""
    spec = incoming.spec
    parts = {"incoming": incoming.identifier, "target": spec.target}
    yield PENDING_FOR_KEY.format(
        name=sql.Literal(spec.name),
        key=spec.key_text("i"),
        target_key=spec.key_text("t"),
        order=order_of(spec, "o"),
        pending_order=order_of(spec, "p", "v.external_id"),
        same_identity=sql.SQL("{} is not distinct from {}").format(incoming.identity("i"), incoming.identity("t")),
        **parts,
    )
    for child, column in spec.referrers:
        if child.owned:
            yield REFERRING.format(
                child=child.target,
                key=sql.Identifier(*spec.key),
                column=sql.Identifier(column),
                included=sql.SQL("c.all_observations" if child.time_series else "true"),
                **parts,
            )


def have_aliases(connection: Connection) -> bool:
    """Whether rows of the change set have others that stand for them: they are to be compared again."""
    return bool(connection.execute("select from staging.aliases join change_set using (record_id) limit 1").rowcount)
