"""Finds the rows of `incoming` that do not fit their table, after PostgreSQL has refused to write a change set.

Table by table, parents first, a row is rejected with a reason: a value that its column's type cannot read, a missing
value, a CHECK, a parent that is missing, rejected or pruned, a key or a unique value of another row (`key_conflicts`).
A nullable reference to a missing parent becomes NULL instead; the row is pending for the parent either way. The rows
that are left fit. Belongs here: what a row must fit. Not: moving rejected rows (`rejects`).
"""

from collections.abc import Sequence

from psycopg import sql

from pipelines.ledger import Counts
from pipelines.transform import merge_sql, rejects
from pipelines.transform.incoming import IncomingTable
from pipelines.transform.key_conflicts import ConflictResolver
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import Reference, TableSpec, names


class RowValidator:
    """Validates the rows that the SELECT files of one run yield."""

    def __init__(self, connection: Connection, tables: Sequence[IncomingTable]) -> None:
        self.connection, self.tables, self.conflicts = connection, tables, ConflictResolver(connection)

    def reject_invalid(self) -> None:
        """Rejects the rows that do not fit, whatever other rows there are."""
        for incoming in self.tables:
            self._reject_types(incoming)
            self._reject_missing_values(incoming)
            self._reject_checks(incoming)

    def reject_conflicting(self, counts: dict[str, Counts]) -> None:
        """Leaves in `incoming` only rows that fit together; adds duplicates to the counts."""
        for incoming in self.tables:
            each = counts[incoming.spec.name]
            each.duplicates += self._delete_duplicates(incoming)
            for reference in incoming.spec.references:
                self._reject_orphans(incoming, reference)
            each.duplicates += self.conflicts.resolve(incoming)
        self.delete_unreferenced()

    def delete_unreferenced(self) -> None:
        """Deletes from `incoming` the shared rows to which no row refers, or only rejected ones, of any source."""
        for incoming in self.tables:
            if not incoming.spec.owned:
                self._delete_unreferenced(incoming)

    def _reject_types(self, incoming: IncomingTable) -> None:
        for column in incoming.yielded:
            wanted = incoming.spec.type_of(column)
            if incoming.yielded[column] == wanted.lower():
                continue
            text = incoming.as_text(column)
            rejects.reject(
                self.connection,
                incoming,
                sql.SQL("not pg_input_is_valid({}, {})").format(text, sql.Literal(wanted)),
                reason="type",
                constraint=column,
                detail=sql.SQL("(select message from pg_input_error_info({}, {}))").format(text, sql.Literal(wanted)),
            )

    def _reject_missing_values(self, incoming: IncomingTable) -> None:
        for column in incoming.yielded:
            if not incoming.spec.table.columns[column].nullable:
                rejects.reject(
                    self.connection,
                    incoming,
                    sql.SQL("{} is null").format(sql.Identifier(column)),
                    reason="not_null",
                    constraint=column,
                    detail=sql.Literal(f"{column} has no value"),
                )

    def _reject_checks(self, incoming: IncomingTable) -> None:
        for check in incoming.spec.checks:
            rejects.reject(
                self.connection,
                incoming,
                sql.SQL("o.ctid in (select n.ctid from ({}) as n where ({}) is false)").format(
                    incoming.typed_rows(), sql.SQL(str(check.sqltext))
                ),
                reason="check",
                constraint=str(check.name),
                detail=sql.Literal(str(check.sqltext)),
            )

    def _delete_duplicates(self, incoming: IncomingTable) -> int:
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
            ).format(incoming=incoming.identifier, columns=names(list(incoming.yielded)))
        ).rowcount

    def _reject_orphans(self, incoming: IncomingTable, reference: Reference) -> None:
        """Rejects rows whose parent will not be there; a nullable reference to it becomes NULL instead."""
        if reference.column not in incoming.yielded:
            return
        parent = TableSpec(reference.table)
        column = sql.Identifier("o", reference.column)
        orphan = self._is_orphan(parent, column)
        rejects.insert_pending(
            self.connection, incoming, orphan, parent.name, sql.SQL("{}::text").format(column), "parent"
        )
        if reference.nullable:
            self.connection.execute(
                sql.SQL("update {} o set {} = null where {}").format(
                    incoming.identifier, sql.Identifier(reference.column), orphan
                )
            )
            return
        rejects.reject(
            self.connection,
            incoming,
            orphan,
            reason="parent",
            constraint=f"{incoming.spec.table.name}_{reference.column}_fkey",
            detail=sql.Literal(f"its row of {parent.name} is missing or does not fit"),
        )

    def _is_orphan(self, parent: TableSpec, column: sql.Identifier) -> sql.Composed:
        """The condition that a column has a key of a parent that is neither in its table to stay, nor in `incoming`."""
        (key,) = parent.key
        filled = next((each for each in self.tables if each.spec.table is parent.table), None)
        stays = (
            sql.SQL("not exists (select from change_set c where c.record_id = p.record_id)")
            if filled and parent.owned
            else sql.SQL("true")
        )
        comes = (
            sql.SQL("or exists (select from {} i where i.{} = {})").format(
                filled.identifier, sql.Identifier(key), column
            )
            if filled
            else sql.SQL("")
        )
        return sql.SQL(
            "{column} is not null and not ("
            "exists (select from {parent} p where p.{key} = {column} and {stays}) {comes})"
        ).format(column=column, parent=parent.target, key=sql.Identifier(key), stays=stays, comes=comes)

    def _delete_unreferenced(self, incoming: IncomingTable) -> None:
        places = [(table.target, column) for table, column in incoming.spec.referrers]
        places += [
            (child.identifier, reference.column)
            for child in self.tables
            for reference in child.spec.references
            if reference.table is incoming.spec.table
        ]
        self.connection.execute(
            sql.SQL("delete from {} t where not {}").format(
                incoming.identifier, merge_sql.is_referenced(incoming.spec, places)
            )
        )
