"""Finds the rows of `incoming` that do not fit their table, after PostgreSQL has refused to write a change set.

Table by table, parents first, a row is rejected with a reason: a value that its column's type cannot read, a missing
value, a CHECK, a parent that is missing, rejected or pruned, a key or a unique value of another row (`key_conflicts`).
A nullable reference to a missing parent becomes NULL instead; the row is pending for the parent either way. The rows
that are left fit. Belongs here: what a row must fit. Not: moving rejected rows (`rejects`).
"""

from collections.abc import Sequence

from psycopg import sql

from pipelines import failpoints
from pipelines.ledger import Counts
from pipelines.transform import rejects
from pipelines.transform.key_conflicts import ConflictResolver
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import Reference, TableSpec, names


class RowValidator:
    """Validates the rows that the SELECT files of one run yield."""

    def __init__(self, connection: Connection, specs: Sequence[TableSpec]) -> None:
        self.connection, self.specs, self.conflicts = connection, specs, ConflictResolver(connection)

    def reject_invalid(self) -> None:
        """Rejects the rows that do not fit, whatever other rows there are."""
        for spec in self.specs:
            self._reject_types(spec)
            self._reject_missing_values(spec)
            self._reject_checks(spec)
            failpoints.reached("constraints.valid", spec.table.name)

    def reject_conflicting(self, counts: dict[str, Counts]) -> None:
        """Leaves in `incoming` only rows that fit together; adds duplicates and all rejected rows to the counts."""
        for spec in self.specs:
            each = counts[spec.name]
            each.duplicates += self._delete_duplicates(spec)
            for reference in spec.references:
                self._reject_orphans(spec, reference)
            each.duplicates += self.conflicts.reject_taken(spec) + self.conflicts.resolve(spec)
            failpoints.reached("constraints.consistent", spec.table.name)
        self.delete_unreferenced()
        for name, number in rejects.rejected_by_table(self.connection).items():
            counts[name].quarantined += number

    def delete_unreferenced(self) -> None:
        """Deletes from `incoming` the shared rows to which no row refers, or only rejected ones, of any source."""
        for spec in self.specs:
            if not spec.owned:
                self._delete_unreferenced(spec)
                failpoints.reached("constraints.referenced", spec.table.name)

    def _reject_types(self, spec: TableSpec) -> None:
        for column in spec.yielded:
            wanted = spec.type_of(column)
            if spec.yielded[column] == wanted.lower():
                continue
            text = spec.as_text(column)
            rejects.reject(
                self.connection,
                spec,
                sql.SQL("not pg_input_is_valid({}, {})").format(text, sql.Literal(wanted)),
                reason="type",
                constraint=column,
                detail=sql.SQL("(select message from pg_input_error_info({}, {}))").format(text, sql.Literal(wanted)),
            )

    def _reject_missing_values(self, spec: TableSpec) -> None:
        for column in spec.yielded:
            if not spec.table.columns[column].nullable:
                rejects.reject(
                    self.connection,
                    spec,
                    sql.SQL("{} is null").format(sql.Identifier(column)),
                    reason="not_null",
                    constraint=column,
                    detail=sql.Literal(f"{column} has no value"),
                )

    def _reject_checks(self, spec: TableSpec) -> None:
        for check in spec.checks:
            rejects.reject(
                self.connection,
                spec,
                sql.SQL("o.ctid in (select place from ({}) as n where ({}) is false)").format(
                    rejects.located_rows(spec), sql.SQL(str(check.sqltext))
                ),
                reason="check",
                constraint=str(check.name),
                detail=sql.Literal(str(check.sqltext)),
            )

    def _delete_duplicates(self, spec: TableSpec) -> int:
        """Deletes all but one of equal rows; returns how many."""
        return self.connection.execute(
            sql.SQL(
                """
                delete from {incoming} where ctid in (
                    select place from (
                        select ctid as place, row_number() over (partition by {columns}) as number from {incoming}
                    ) as n
                    where number > 1)
                """
            ).format(incoming=spec.incoming, columns=names(list(spec.yielded)))
        ).rowcount

    def _reject_orphans(self, spec: TableSpec, reference: Reference) -> None:
        """Rejects rows whose parent will not be there; a nullable reference to it becomes NULL instead."""
        if reference.column not in spec.yielded:
            return
        parent = TableSpec(reference.table)
        column = sql.Identifier("o", reference.column)
        orphan = self._is_orphan(parent, column)
        rejects.note_pending(self.connection, spec, orphan, parent.name, sql.SQL("{}::text").format(column), "parent")
        if reference.nullable:
            self.connection.execute(
                sql.SQL("update {} o set {} = null where {}").format(
                    spec.incoming, sql.Identifier(reference.column), orphan
                )
            )
            return
        rejects.reject(
            self.connection,
            spec,
            orphan,
            reason="parent",
            constraint=f"{spec.table.name}_{reference.column}_fkey",
            detail=sql.Literal(f"its row of {parent.name} is missing or does not fit"),
        )

    def _is_orphan(self, parent: TableSpec, column: sql.Identifier) -> sql.Composed:
        """The condition that a column has a key of a parent that is neither in its table to stay, nor in `incoming`."""
        (key,) = parent.key
        filled = any(each.table is parent.table for each in self.specs)
        stays = (
            sql.SQL("not exists (select from change_set c where c.record_id = p.record_id)")
            if filled and (parent.owned or parent.optionally_owned)
            else sql.SQL("true")
        )
        comes = (
            sql.SQL("or exists (select from {} i where i.{} = {})").format(parent.incoming, sql.Identifier(key), column)
            if filled
            else sql.SQL("")
        )
        return sql.SQL(
            "{column} is not null and not ("
            "exists (select from {parent} p where p.{key} = {column} and {stays}) {comes})"
        ).format(column=column, parent=parent.target, key=sql.Identifier(key), stays=stays, comes=comes)

    def _delete_unreferenced(self, spec: TableSpec) -> None:
        (key,) = spec.key
        places = [(child, child.incoming) for child in self.specs]
        places += [(child, child.target) for child in map(TableSpec, spec.table.metadata.sorted_tables)]
        referenced = [
            sql.SQL("exists (select from {} r where r.{} = o.{})").format(
                place, sql.Identifier(reference.column), sql.Identifier(key)
            )
            for child, place in places
            for reference in child.references
            if reference.table is spec.table
        ]
        if spec.optionally_owned and "record_id" in spec.yielded:
            referenced.append(sql.SQL("o.record_id is not null").format())
        self.connection.execute(
            sql.SQL("delete from {} o where not ({})").format(
                spec.incoming, sql.SQL(" or ").join(referenced) if referenced else sql.SQL("false")
            )
        )
