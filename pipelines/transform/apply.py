"""Applies a change set to tables: evaluates the SELECT files, prunes rows, merges rows.

    change_set ──evaluate──> incoming_<table> ──> prune, MERGE ──> tables
                                 └── PostgreSQL refuses a row? reject what does not fit (`constraints`), then again

Not here: the statements (`merge_sql`), which versions are applied (`change_set`).
"""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from pipelines.errors import AtlasError
from pipelines.landing.deletions import ACCEPTED_SHARE, loses_too_much
from pipelines.ledger import Counts
from pipelines.project import Select
from pipelines.transform import constraints, merge_sql
from pipelines.transform.change_set import ChangeSet
from pipelines.transform.evaluate import Evaluator
from pipelines.transform.incoming import CREATE_REJECTED, IncomingTable, rejected_by_table
from pipelines.warehouse.table_spec import TableSpec, names, shared_tables

ROW_REJECTED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.CardinalityViolation)
"""Errors that the statements of `merge_sql` raise because of a row that does not fit."""


class Applier:
    """Applies one change set, in one transaction.

    specs: the tables, parents first. Where no SELECT fills a table, the rows of the change set's records are pruned.
    shrink: accepts that SELECT files fail on many records and that many rows are deleted. digests: by how much the
    digest of each table has changed.
    """

    def __init__(
        self, change_set: ChangeSet, editions: Sequence[Sequence[Select]], specs: Sequence[TableSpec], *, shrink: bool
    ) -> None:
        self.change_set, self.specs, self.shrink = change_set, specs, shrink
        self.connection = change_set.connection
        self.tables = [IncomingTable(self.connection, spec) for spec in specs]
        self.shared = shared_tables(specs)
        self.evaluator = Evaluator(change_set, editions, self.tables, shrink)
        self.digests: dict[str, int] = {}

    def apply(self) -> dict[str, Counts]:
        """Applies the change set and all records that depend on it; returns the counts of each table.

        Raises AtlasError where a SELECT file is wrong, or where more is lost than `shrink` accepts.
        """
        self.connection.execute(CREATE_REJECTED)
        self.evaluator.evaluate()
        while constraints.add_dependents(self.change_set, self.tables, having_keys=False):
            self.evaluator.evaluate()
        counts = self.no_counts()
        try:
            with self.connection.transaction():
                constraints.delete_unreferenced(self.tables)
                self._write(counts, validated=False)
        except ROW_REJECTED:
            counts = self._validate()
            self._write(counts, validated=True)
        for name, number in rejected_by_table(self.connection).items():
            counts[name] += Counts(fetched=number, quarantined=number)
        return counts

    def no_counts(self) -> dict[str, Counts]:
        """Counts of zero for each table."""
        return {spec.name: Counts() for spec in (*self.specs, *self.shared)}

    def _validate(self) -> dict[str, Counts]:
        """Rejects the rows that do not fit, with all records in the change set whose rows they conflict with."""
        while True:
            constraints.reject_invalid(self.tables)
            while constraints.add_dependents(self.change_set, self.tables, having_keys=True):
                self.evaluator.evaluate()
                constraints.reject_invalid(self.tables)
            counts = self.no_counts()
            constraints.reject_conflicting(self.tables, counts)
            if not constraints.add_dependents(self.change_set, self.tables, having_keys=True):
                return counts
            self.evaluator.restart()  # a rejected row has freed a key that the added records were pending for

    def _write(self, counts: dict[str, Counts], *, validated: bool) -> None:
        """Prunes children before parents, merges parents before children, checks deferred constraints.

        A row that is still referenced is pruned after the merge, when the rows that refer to it may have another
        parent. validated: what still refers to it is yielded by no source, so both are pruned. Raises one of
        ROW_REJECTED.
        """
        self.digests = dict.fromkeys(counts, 0)
        self.connection.execute("set constraints all deferred")
        for incoming in self.tables:  # MERGE alone would take one of two rows with one key, in no order
            unique = sql.SQL("create unique index on {} ({})").format(incoming.identifier, names(incoming.spec.key))
            self.connection.execute(unique)
        for spec in self.shared:
            self.connection.execute(merge_sql.create_referenced(spec))
        kept = self._prune([each for each in reversed(self.tables) if each.spec.owned], counts)
        for incoming in self.tables:
            rows = sql.SQL("({})").format(incoming.typed_rows())
            (merged,) = self.connection.execute(merge_sql.merge(incoming.spec, rows, owners_stay=True))
            written = counts[incoming.spec.name]
            written.created, written.updated = merged["created"], merged["updated"]
            written.fetched = merged["yielded"] + written.duplicates
            written.unchanged = merged["yielded"] - written.created - written.updated
            self.digests[incoming.spec.name] += int(merged["digest"])
        kept = self._prune(kept, counts)
        if kept and not validated:
            raise psycopg.IntegrityError("a row that is to be pruned is referred to by a row that stays")
        self._prune(kept, counts, referenced=True)
        for spec in self.shared:
            self._delete(spec, merge_sql.delete_unreferenced(spec), counts)
        self.connection.execute("set constraints all immediate")

    def _prune(
        self, tables: Sequence[IncomingTable], counts: dict[str, Counts], *, referenced: bool = False
    ) -> list[IncomingTable]:
        """Prunes tables; returns those where rows were kept because they are referenced."""
        kept = []
        for incoming in tables:
            deleted = self._delete(incoming.spec, merge_sql.prune(incoming, referenced=referenced), counts)
            if not self.shrink:
                self._require_few(incoming.spec, deleted)
            if any(each["kept"] for each in deleted):
                kept.append(incoming)
        return kept

    def _require_few(self, spec: TableSpec, deleted: Sequence[dict[str, Any]]) -> None:
        """Raises AtlasError where the rows that are or will be deleted are over a fifth of a stream's and over five."""
        for each in deleted:
            lost = each["deleted"] + each["kept"]
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
        """Runs a statement that deletes; returns what it deleted and kept of each stream."""
        rows = self.connection.execute(statement).fetchall()
        for row in rows:
            counts[spec.name].deleted += row["deleted"]
            self.digests[spec.name] -= int(row["digest"])
        return rows
