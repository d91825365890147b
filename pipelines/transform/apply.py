"""Applies a change set to tables: evaluates the SELECT files, prunes rows, merges rows.

    change_set ──evaluate──> incoming_<table> ──> prune, MERGE ──> tables
                                 └── PostgreSQL refuses a row? reject what does not fit (`constraints`), then again

Not here: the statements (`merge_sql`), which versions are applied (`change_set`).
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Table

from pipelines.errors import AtlasError
from pipelines.ledger import Counts
from pipelines.losses import ACCEPTED_SHARE, loses_too_much
from pipelines.schema.table_spec import TableSpec, names, shared_tables
from pipelines.transform import constraints, dependents, merge_sql, rejects
from pipelines.transform.change_set import ChangeSet
from pipelines.transform.evaluate import Evaluator
from pipelines.transform.incoming import IncomingTable, filled

ROW_REJECTED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.CardinalityViolation)
"""Errors that the statements of `merge_sql` raise because of a row that does not fit."""


class Applier:
    """Applies one change set, in one transaction.

    pruned: tables that no SELECT fills any more, of which the rows of the change set's records go. shrink: accepts that
    SELECT files fail on many records and that many rows are deleted. compares_first: looks for conflicts before it
    writes, not only where PostgreSQL refuses a row. digests: by how much that of each table changed. kept: how many
    rows of each table became an application's. added: by how many rows from sources each table grew.
    """

    def __init__(
        self, change_set: ChangeSet, *, pruned: Collection[Table] = (), shrink: bool, compares_first: bool = False
    ) -> None:
        self.change_set, self.shrink, self.compares_first = change_set, shrink, compares_first
        self.connection = change_set.connection
        self.evaluator = Evaluator(change_set, pruned, shrink)
        self.digests: dict[str, int] = {}
        self.kept = Counter[str]()
        self.added = Counter[str]()

    @property
    def tables(self) -> list[IncomingTable]:
        return self.evaluator.tables

    @property
    def shared(self) -> list[TableSpec]:
        """The shared tables among those that are written and those that they refer to."""
        return shared_tables([incoming.spec for incoming in self.tables])

    def apply(self) -> dict[str, Counts]:
        """Applies the change set and all records that depend on it; returns the counts of each table.

        Raises AtlasError where a SELECT file is wrong, or where more is lost than `shrink` accepts.
        """
        self.connection.execute(rejects.CREATE_REJECTED)
        self.evaluator.evaluate()
        while dependents.add_dependents(self.change_set, self.tables, "yielded"):
            self.evaluator.evaluate()
        counts = self.no_counts()
        try:
            with self.connection.transaction():
                if self.compares_first or dependents.have_aliases(self.connection):
                    raise psycopg.IntegrityError("PostgreSQL alone would not find all conflicts")
                for incoming in filled(self.tables):
                    constraints.require_keys(incoming)
                constraints.delete_unreferenced(self.tables)
                self._write(counts, validated=False)
        except ROW_REJECTED:
            counts = self._validate()
            self._write(counts, validated=True)
            for incoming in filled(self.tables):
                if incoming.spec.lenient:
                    rejects.record_values(incoming)
        for name, number in rejects.rows_by_table(self.connection).items():
            counts[name] += Counts(fetched=number, quarantined=number)
        return counts

    def no_counts(self) -> dict[str, Counts]:
        """Counts of zero for each table."""
        return {spec.name: Counts() for spec in (*(each.spec for each in self.tables), *self.shared)}

    def _validate(self) -> dict[str, Counts]:
        """Rejects the rows that do not fit, with all records in the change set whose rows they conflict with."""
        while True:
            constraints.reject_invalid(self.tables)
            while dependents.add_dependents(self.change_set, self.tables, "contested"):
                self.evaluator.evaluate()
                constraints.reject_invalid(self.tables)
            counts = self.no_counts()
            constraints.reject_conflicting(self.tables, counts, complete=self.change_set.complete)
            if not dependents.add_dependents(self.change_set, self.tables, "resolved"):
                return counts
            self.evaluator.restart()  # a rejected row has freed a key that the added records were pending for

    def _write(self, counts: dict[str, Counts], *, validated: bool) -> None:
        """Prunes children before parents, merges parents before children.

        A row that is still referenced is pruned after the merge, when the rows that refer to it may have another
        parent. validated: what still refers to it is yielded by no source, so both are pruned. Raises one of
        ROW_REJECTED.
        """
        self.digests = dict.fromkeys(counts, 0)
        self.kept.clear()
        self.added.clear()
        for incoming in filled(self.tables):  # MERGE alone would take one of two rows with one key, in no order
            key = names(incoming.spec.unique_keys[0].columns)
            self.connection.execute(sql.SQL("create unique index on {} ({})").format(incoming.identifier, key))
        for spec in self.shared:
            self.connection.execute(merge_sql.create_referenced(spec, complete=self.change_set.complete))
        postponed = self._prune([each for each in reversed(self.tables) if each.spec.owned], counts)
        for incoming in filled(self.tables):
            if validated:
                self._free_values(incoming)
            else:
                constraints.require_no_cycle(incoming)
            (merged,) = self.connection.execute(merge_sql.merge(incoming))
            written = counts[incoming.spec.name]
            written.created, written.updated = merged["created"], merged["updated"]
            written.fetched = merged["yielded"] + written.duplicates + written.pending
            written.unchanged = merged["yielded"] - written.created - written.updated
            self.digests[incoming.spec.name] += int(merged["digest"])
            self.added[incoming.spec.name] += merged["added"]
        postponed = self._prune(postponed, counts)
        if postponed and not validated:
            raise psycopg.IntegrityError("a row that is to be pruned is referred to by a row that stays")
        self._prune(postponed, counts, referenced=True)
        for incoming in filled(self.tables):
            constraints.require_one_partition(incoming)
        for spec in self.shared:
            self._delete(spec, merge_sql.delete_unreferenced(spec), counts)

    def _free_values(self, incoming: IncomingTable) -> None:
        for key in incoming.unique_keys[1:] if incoming.spec.owned else ():
            if statement := merge_sql.free_values(incoming, key, complete=self.change_set.complete):
                (freed,) = self.connection.execute(statement)
                self.digests[incoming.spec.name] += int(freed["digest"])

    def _prune(
        self, tables: Sequence[IncomingTable], counts: dict[str, Counts], *, referenced: bool = False
    ) -> list[IncomingTable]:
        """Prunes tables; returns those where rows stay for now because they are referenced."""
        postponed = []
        for incoming in tables:
            self._keep(incoming)
            statement = merge_sql.prune(incoming, complete=self.change_set.complete, referenced=referenced)
            deleted = self._delete(incoming.spec, statement, counts)
            if not self.shrink:
                self._require_few(incoming.spec, deleted)
            if any(each["postponed"] for each in deleted):
                postponed.append(incoming)
        return postponed

    def _keep(self, incoming: IncomingTable) -> None:
        """Gives rows that applications refer to to these; in a tree then the rows above them."""
        kept = int(incoming.spec.applications)
        while kept:
            (row,) = self.connection.execute(merge_sql.keep(incoming, complete=self.change_set.complete))
            kept = row["kept"]
            self.kept[incoming.spec.name] += kept
            self.added[incoming.spec.name] -= kept
            self.digests[incoming.spec.name] -= int(row["digest"])

    def _require_few(self, spec: TableSpec, deleted: Sequence[dict[str, Any]]) -> None:
        """Raises AtlasError where the rows that are or will be deleted are over a fifth of a stream's and over five."""
        for each in deleted:
            lost = each["deleted"] + each["postponed"]
            if not loses_too_much(lost, before=lost):
                continue
            # Rows that stay are counted only in this case, and only as many as decide it.
            left = "select from staging.effective_versions e join {} t using (record_id) where e.stream = %s limit %s"
            parameters = [each["stream"], lost * ACCEPTED_SHARE - each["deleted"]]
            before = each["deleted"] + self.connection.execute(sql.SQL(left).format(spec.target), parameters).rowcount
            if loses_too_much(lost, before):
                raise AtlasError(
                    f"This would delete {lost:,} of the {before:,} rows of {each['stream']} in {spec.name}, more than "
                    "a fifth. Nothing is written. If the rows are to go, also where a landing with --shrink deleted "
                    f"their records, run: {self.change_set.command} --shrink"
                )

    def _delete(self, spec: TableSpec, statement: sql.Composed, counts: dict[str, Counts]) -> list[dict[str, Any]]:
        """Runs a statement that deletes; returns what it did to each stream."""
        rows = self.connection.execute(statement).fetchall()
        for row in rows:
            counts[spec.name].deleted += row["deleted"]
            self.added[spec.name] -= row["deleted"]
            self.digests[spec.name] -= int(row["digest"])
        return rows
