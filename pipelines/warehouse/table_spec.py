"""What the engine reads from the declaration of a table: key, columns, constraints, kind, and SQL made from them.

Rows are *owned* if they follow a record (`record_id`), and *shared* if they live as long as a row refers to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from psycopg import sql
from sqlalchemy import Constraint, ForeignKeyConstraint, Table
from sqlalchemy.dialects import postgresql

from pipelines.warehouse.declare import audit_columns

Kind = TypeVar("Kind", bound=Constraint)
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def names(columns: list[str], qualifier: str | None = None) -> sql.Composed:
    """A list of columns, with a qualifier if one is given."""
    if qualifier:
        return sql.SQL(", ").join(sql.Identifier(qualifier, column) for column in columns)
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def fields(row: str, columns: list[str]) -> sql.Composed:
    """A list of fields of a column `row` that has rows as its values."""
    return sql.SQL(", ").join(sql.SQL("({}).{}").format(sql.Identifier(row), sql.Identifier(each)) for each in columns)


@dataclass(frozen=True)
class Reference:
    """A column that refers to another table's key."""

    column: str
    table: Table
    nullable: bool


@dataclass(frozen=True)
class TableSpec:
    """The declaration of one table that SELECT files fill."""

    table: Table

    @property
    def name(self) -> str:
        return self.table.fullname

    @property
    def target(self) -> sql.Identifier:
        return sql.Identifier(*self.table.fullname.split("."))

    @property
    def owned(self) -> bool:
        """Whether every row follows a record, its owner."""
        return "record_id" in self.table.columns

    @property
    def time_series(self) -> bool:
        """Whether there is one row per observation of a record."""
        return "observed_at" in self.key

    @property
    def key(self) -> list[str]:
        return [column.name for column in self.table.primary_key.columns]

    def constraints(self, kind: type[Kind]) -> list[Kind]:
        """The constraints of a kind, by name."""
        found = [each for each in self.table.constraints if isinstance(each, kind)]
        return sorted(found, key=lambda each: str(each.name))

    @property
    def references(self) -> list[Reference]:
        """The foreign keys to tables of the same domain. Each has one column."""
        found = []
        for constraint in self.constraints(ForeignKeyConstraint):
            if constraint.referred_table.schema == self.table.schema:
                column = next(iter(constraint.columns))
                found.append(Reference(column.name, constraint.referred_table, bool(column.nullable)))
        return sorted(found, key=lambda each: each.column)

    @property
    def referrers(self) -> list[tuple["TableSpec", str]]:
        """The tables that refer to this one, each with the column."""
        tables = map(TableSpec, self.table.metadata.sorted_tables)
        return [(each, ref.column) for each in tables for ref in each.references if ref.table is self.table]

    def type_of(self, column: str) -> str:
        """The column's type with its length, as SQL."""
        return self.table.columns[column].type.compile(dialect=_DIALECT)

    def key_text(self, alias: str) -> sql.Composed:
        """The key of a row as text, its columns separated by spaces, as `staging.pending_rows` has it."""
        return sql.SQL("concat_ws(' ', {})").format(names(self.key, alias))

    def same_key(self, left: str, right: str) -> sql.Composed:
        """The condition that two rows have one key."""
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier(left, column), sql.Identifier(right, column))
            for column in self.key
        )

    @property
    def content(self) -> list[str]:
        """All columns but the audit columns: what rows are compared and hashed by."""
        filled = audit_columns(self.table)
        return [column.name for column in self.table.columns if column.name not in filled]

    def row_hash(self, alias: str) -> sql.Composed:
        """The hash of a row (with seed 0, '{}' hashes as NULL). The sum over all rows is the digest of the table."""
        return sql.SQL("hash_record_extended(row({}), 1)::numeric").format(names(self.content, alias))


def shared_tables(specs: Sequence[TableSpec]) -> list[TableSpec]:
    """The shared tables among some tables and those that they refer to, parents first."""
    tables = {spec.table for spec in specs} | {each.table for spec in specs for each in spec.references}
    every = next(iter(tables)).metadata.sorted_tables if tables else []
    return [spec for table in every if table in tables and not (spec := TableSpec(table)).owned]
