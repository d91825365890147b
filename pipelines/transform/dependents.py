"""Finds the records whose rows depend on what a change set changes, and adds them to it.

    rows that appear   ──> records pending for them · records that have the same key
    rows that are pruned ──> records pending for their key or unique value · records with rows that refer to them

Every conflict is then resolved with all its rows in the change set, so the tables do not depend on the order in which
records arrive. Belongs here: which records depend on a change. Not: what they bring in (`change_set`).
"""

from collections.abc import Sequence

from psycopg import sql

from pipelines.transform.change_set import ChangeSet
from pipelines.transform.incoming import IncomingTable

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

INSERT_PRUNED_KEYS = sql.SQL(
    """
    insert into pruned_keys
    select t.{key} from {target} t join change_set c on c.record_id = t.record_id
    where not exists (select from {incoming} o where o.{key} = t.{key})
    """
)

REFERRING = sql.SQL(
    """
    insert into dependent_records
    select t.record_id from pruned_keys p join {target} t on t.{column} = p.key
    where not exists (select from change_set c where c.record_id = t.record_id and {included})
    """
)


class DependentRecords:
    """Extends one change set by the records that depend on the rows its SELECT files have yielded so far."""

    def __init__(self, change_set: ChangeSet, tables: Sequence[IncomingTable]) -> None:
        self.change_set, self.connection, self.tables = change_set, change_set.connection, tables

    def add(self, *, having_keys: bool) -> bool:
        """Extends the change set; returns whether it was extended.

        having_keys: adds also the records outside it whose rows have a key or unique value of a row in it.
        """
        if self.change_set.complete:
            return False
        self.connection.execute("truncate dependent_records")
        for incoming in self.tables:
            self._insert(PENDING_FOR_PARENT, incoming, key=incoming.spec.key_text("i"))
            if incoming.spec.owned:
                self._insert(
                    PENDING_FOR_KEY, incoming, key=incoming.spec.key_text("i"), target_key=incoming.spec.key_text("t")
                )
                if having_keys:
                    self._insert_having_keys(incoming)
            self._insert_referring(incoming)
        return self.change_set.extend()

    def _insert(self, query: sql.SQL, incoming: IncomingTable, **parts: sql.Composable) -> None:
        self.connection.execute(
            query.format(
                incoming=incoming.identifier,
                target=incoming.spec.target,
                **{"name": sql.Literal(incoming.spec.name), **parts},
            )
        )

    def _insert_having_keys(self, incoming: IncomingTable) -> None:
        """Records outside the change set that have the primary key of a row in it, or a unique value."""
        uniques = ([column.name for column in unique.columns] for unique in incoming.spec.uniques)
        for columns in (incoming.spec.key, *(each for each in uniques if set(each) <= incoming.yielded.keys())):
            same = sql.SQL(" and ").join(sql.SQL("n.{0} = t.{0}").format(sql.Identifier(column)) for column in columns)
            self._insert(HAVING_KEY, incoming, typed_rows=incoming.typed_rows(), same=same)

    def _insert_referring(self, incoming: IncomingTable) -> None:
        """Records with rows that refer to a row that is about to be pruned."""
        referring = [
            (child, reference)
            for child in self.tables
            for reference in child.spec.references
            if reference.table is incoming.spec.table
        ]
        if not referring or not incoming.spec.owned:
            return
        self.connection.execute("truncate pruned_keys")
        (key,) = incoming.spec.key
        pruned = INSERT_PRUNED_KEYS.format(
            target=incoming.spec.target, incoming=incoming.identifier, key=sql.Identifier(key)
        )
        if not self.connection.execute(pruned).rowcount:
            return
        for child, reference in referring:
            self._insert(
                REFERRING,
                child,
                column=sql.Identifier(reference.column),
                included=sql.SQL("c.all_observations" if child.spec.time_series else "true"),
            )
