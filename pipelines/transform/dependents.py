"""How a scope grows: by the records whose rows depend on what changes.

    rows that come ──> who waits for them · who has what they claim
    rows that go   ──> who waits for what they claim · who refers to them

So every claim is decided with all claimants at hand, and the outcome is the same in any order of arrival. Belongs
here: which records are due. Not: what they bring (`scope`).
"""

from collections.abc import Sequence

from psycopg import sql

from pipelines import failpoints
from pipelines.transform.change_set import ChangeSet
from pipelines.warehouse.table_spec import TableSpec


class DependentRecords:
    """The growth of one scope, by what its SELECTs have yielded so far."""

    def __init__(self, scope: ChangeSet, shapes: Sequence[TableSpec]) -> None:
        self.scope, self.connection, self.shapes = scope, scope.connection, shapes

    def grow(self, *, contested: bool) -> bool:
        """Adds the records that depend on what changes; whether there were any. contested: by any claim."""
        if self.scope.whole:
            return False
        self.connection.execute("truncate due")
        for shape in self.shapes:
            self._due(AWAITED, shape, key=shape.key_text("k"))
            if "record_id" in shape.yielded:
                self._due(CONTESTED, shape, key=shape.key_text("k"), target_key=shape.key_text("t"))
                if contested or shape.told:
                    self._claims(shape, contested=contested)
            self._referrers(shape)
            failpoints.reached("growth.due", shape.table.name)
        return self.scope.extend()

    def _due(self, query: sql.SQL, shape: TableSpec, **parts: sql.Composable) -> None:
        self.connection.execute(
            query.format(incoming=shape.incoming, target=shape.target, **{"name": sql.Literal(shape.name), **parts})
        )

    def _claims(self, shape: TableSpec, *, contested: bool) -> None:
        """Records outside the scope that have a key, or a unique value, which a row of the scope claims."""
        claimed = [shape.key]
        if contested:
            claimed += [
                columns
                for unique in shape.uniques
                if set(columns := [c.name for c in unique.columns]) <= shape.yielded.keys()
            ]
        for columns in claimed:
            same = sql.SQL(" and ").join(sql.SQL("n.{0} = t.{0}").format(sql.Identifier(column)) for column in columns)
            told = sql.SQL("n.record_id is not null" if shape.told else "true")
            self._due(CLAIMED, shape, typed=shape.typed(), same=same, told=told)

    def _referrers(self, shape: TableSpec) -> None:
        """Records with rows that refer to a row of the scope which is about to be pruned."""
        referring = [
            (child, reference)
            for child in self.shapes
            for reference in child.references
            if reference.table is shape.table
        ]
        if not referring or not (shape.owned or shape.told):
            return
        self.connection.execute("truncate gone")
        (key,) = shape.key
        gone = GONE.format(target=shape.target, incoming=shape.incoming, key=sql.Identifier(key))
        if not self.connection.execute(gone).rowcount:
            return
        for child, reference in referring:
            self._due(
                REFERRING,
                child,
                column=sql.Identifier(reference.column),
                known=sql.SQL("s.whole") if child.series else sql.SQL("true"),
                which=sql.SQL("distinct on (g.key)") if shape.told else sql.SQL(""),
            )


AWAITED = sql.SQL(
    """
    insert into due
    select w.record_id from {incoming} k
    join staging.pending_rows w on w.table_name = {name} and w.key = {key}
    where w.reason = 'parent'
    """
)

CONTESTED = sql.SQL(
    """
    insert into due
    select w.record_id from {target} t
    join scope s on s.record_id = t.record_id
    join staging.pending_rows w on w.table_name = {name} and w.key = {target_key}
    cross join lateral (select external_id from staging.versions v where v.record_id = w.record_id limit 1) as v
    where w.reason = 'unique'
       or w.reason = 'claim' and not exists ( -- none that it would still lose to
           select from {incoming} k join scope o on o.record_id = k.record_id
           where {key} = w.key
             and (o.stream collate "C", o.external_id collate "C") < (w.stream collate "C", v.external_id collate "C"))
    """
)

CLAIMED = sql.SQL(
    """
    insert into due
    select t.record_id from ({typed}) as n join {target} t on {same}
    where {told} and t.record_id is not null
      and not exists (select from scope s where s.record_id = t.record_id)
    """
)

GONE = sql.SQL(
    """
    insert into gone
    select t.{key} from {target} t join scope s on s.record_id = t.record_id
    where not exists (select from {incoming} o where o.{key} = t.{key})
    """
)

REFERRING = sql.SQL(
    """
    insert into due
    select {which} c.record_id from gone g join {target} c on c.{column} = g.key
    where not exists (select from scope s where s.record_id = c.record_id and {known})
    """
)
