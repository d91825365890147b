"""Applies a change set to tables: evaluates the SELECT files, prunes rows, merges rows.

    change_set ──evaluate──> incoming_<table> ──> prune, MERGE ──> tables
                                 └── PostgreSQL refuses a row? reject what does not fit (`constraints`), then again

Most change sets have no rejected row, so MERGE is tried at once, and rows are validated only when it fails. The tables
are those of the domain for a transform, and a shadow schema for a rebuild. Belongs here: the order of the steps. Not:
their statements (`merge_sql`), which versions are applied (`change_set`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pipelines.ledger import Counts
from pipelines.project import Select
from pipelines.transform import merge_sql, rejects
from pipelines.transform.change_set import ChangeSet
from pipelines.transform.constraints import RowValidator
from pipelines.transform.dependents import DependentRecords
from pipelines.transform.evaluate import Evaluator
from pipelines.transform.incoming import IncomingTable
from pipelines.warehouse.table_spec import TableSpec, shared_tables


class StillReferenced(Exception):
    """A row that is to be pruned is referred to by a row that stays."""


ROW_REJECTED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.CardinalityViolation, StillReferenced)
"""Errors that the statements of `merge_sql` raise because of a row that does not fit."""


@dataclass
class TableChange:
    """By how much the number of rows and the digest of a table have changed."""

    rows: int = 0
    digest: int = 0


class Applier:
    """Applies one change set, in one transaction.

    editions: as `Evaluator` has it. specs: the tables, parents before those that refer to them. If no SELECT fills a
    table, the rows of the change set's records are pruned there.
    """

    def __init__(self, change_set: ChangeSet, editions: Sequence[Sequence[Select]], specs: Sequence[TableSpec]) -> None:
        self.change_set, self.specs = change_set, specs
        self.tables = [IncomingTable(spec) for spec in specs]
        self.connection = change_set.connection
        self.shared = shared_tables(specs)
        self.evaluator = Evaluator(change_set, editions, self.tables)
        self.validator = RowValidator(self.connection, self.tables)
        self.dependents = DependentRecords(change_set, self.tables)
        self.table_changes: dict[str, TableChange] = {}

    @property
    def select_failed(self) -> int:
        """How many records were excluded because a SELECT file fails on them."""
        return self.evaluator.failed

    def apply(self) -> dict[str, Counts]:
        """Applies the change set and all records that depend on it; returns the counts of each table."""
        self._create_temporary_tables()
        self.evaluator.evaluate()
        while self.dependents.add(having_keys=False):
            self.evaluator.evaluate()
        counts = self.no_counts()
        try:
            with self.connection.transaction():
                self.validator.delete_unreferenced()
                self._write(counts, validated=False)
        except ROW_REJECTED:
            counts = self._validate()
            self._write(counts, validated=True)
        if self.select_failed:
            counts[self.specs[0].name] += Counts(fetched=self.select_failed, quarantined=self.select_failed)
        return counts

    def no_counts(self) -> dict[str, Counts]:
        """Counts of zero for each table."""
        return {spec.name: Counts() for spec in (*self.specs, *self.shared)}

    def _create_temporary_tables(self) -> None:
        self.connection.execute(rejects.CREATE_REJECTED)
        for spec in self.shared:
            self.connection.execute(
                sql.SQL("create temp table {} (key uuid) on commit drop").format(merge_sql.released(spec))
            )

    def _validate(self) -> dict[str, Counts]:
        """Rejects the rows that do not fit, with all records in the change set whose rows they conflict with.

        Where a rejected row frees a key that other records are pending for, these are added and all is evaluated again.
        """
        while True:
            self.validator.reject_invalid()
            while self.dependents.add(having_keys=True):
                self.evaluator.evaluate()
                self.validator.reject_invalid()
            counts = self.no_counts()
            self.validator.reject_conflicting(counts)
            if not self.dependents.add(having_keys=True):
                return counts
            self.change_set.merge_rounds()
            self.evaluator.restart()

    def _write(self, counts: dict[str, Counts], *, validated: bool) -> None:
        """Prunes children before parents, merges parents before children, checks deferred constraints.

        A row that is still referenced is pruned after the merge, when the rows that refer to it may have another
        parent. validated: what still refers to it is yielded by no source, so both are pruned. Raises one of
        ROW_REJECTED.
        """
        self.table_changes = {name: TableChange() for name in counts}
        self.connection.execute("set constraints all deferred")
        for incoming in self.tables:
            self.connection.execute(merge_sql.require_unique_keys(incoming))
        kept = self._prune([each for each in reversed(self.tables) if "record_id" in each.yielded], counts)
        for incoming in self.tables:
            self._merge(incoming, counts[incoming.spec.name])
        kept = self._prune(kept, counts)
        if kept and not validated:
            raise StillReferenced
        self._prune(kept, counts, referenced=True)
        for spec in self.shared:
            self._delete(spec, merge_sql.delete_unreferenced(spec), counts)
        self.connection.execute("set constraints all immediate")

    def _merge(self, incoming: IncomingTable, counts: Counts) -> None:
        merged = self.connection.execute(merge_sql.merge(incoming)).fetchone()
        assert merged is not None
        counts.created, counts.updated = merged["created"], merged["updated"]
        counts.fetched = merged["yielded"] + counts.quarantined + counts.duplicates
        counts.unchanged = merged["yielded"] - counts.created - counts.updated
        self.table_changes[incoming.spec.name].rows += counts.created
        self.table_changes[incoming.spec.name].digest += int(merged["digest"])

    def _prune(
        self, tables: Sequence[IncomingTable], counts: dict[str, Counts], *, referenced: bool = False
    ) -> list[IncomingTable]:
        """Prunes tables; returns those where rows were kept because they are referenced."""
        kept = []
        for incoming in tables:
            if self._delete(incoming.spec, merge_sql.prune(incoming, referenced=referenced), counts):
                kept.append(incoming)
        return kept

    def _delete(self, spec: TableSpec, statement: sql.Composed, counts: dict[str, Counts]) -> int:
        """Runs a statement that deletes; returns how many rows it kept."""
        deleted = self.connection.execute(statement).fetchone()
        assert deleted is not None
        counts[spec.name].deleted += deleted["deleted"]
        self.table_changes[spec.name].rows -= deleted["deleted"]
        self.table_changes[spec.name].digest -= int(deleted["digest"])
        return int(deleted["kept"])
