"""What the engine reads from the declaration of a table: key, columns, constraints, kind, and SQL made from them.

Kinds of tables: see `declare.owned`, `declare.shared`, `declare.application`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from psycopg import sql
from sqlalchemy import CheckConstraint, Column, Constraint, ForeignKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql

from pipelines.schema import declare, objects
from pipelines.schema.declare import audit_columns

Kind = TypeVar("Kind", bound=Constraint)
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
UNHASHABLE = re.compile(
    r"(bit( varying)?|box|circle|halfvec|json|jsonpath|line|lseg|money|path|point|polygon|sparsevec|tsquery|tsvector"
    r"|vector|xml)(\(\d+\))?(\[\])*$",
    re.IGNORECASE,
)
"""Types without a hash function."""


def names(columns: Sequence[str], qualifier: str | None = None) -> sql.Composed:
    """A list of columns, with a qualifier if one is given."""
    if qualifier:
        return sql.SQL(", ").join(sql.Identifier(qualifier, column) for column in columns)
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def fields(row: str, columns: list[str]) -> sql.Composed:
    """A list of fields of a column `row` that has rows as its values."""
    return sql.SQL(", ").join(sql.SQL("({}).{}").format(sql.Identifier(row), sql.Identifier(each)) for each in columns)


@dataclass(frozen=True)
class Reference:
    """A column that refers to another table's key. on_delete: what its foreign key does when the other row goes."""

    column: str
    table: Table
    nullable: bool
    on_delete: str


@dataclass(frozen=True)
class UniqueKey:
    """What only one row of a table has: the primary key, a unique constraint or a unique index.

    columns: those that it reads; for a generated one, those that this reads. expressions: the SQL of its values. where:
    the condition that a partial one has.
    """

    name: str
    columns: tuple[str, ...]
    expressions: tuple[sql.Composable, ...]
    where: sql.Composable = field(default_factory=lambda: sql.SQL("true"))
    nulls_equal: bool = False
    primary: bool = False
    identity: bool = False


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
    def kind(self) -> str:
        """`owned`, `shared` or `application`."""
        return str(self.table.info["kind"])

    @property
    def owned(self) -> bool:
        """Whether every row from a source follows a record, its owner."""
        return self.kind == "owned"

    @property
    def applications(self) -> bool:
        """Whether applications write rows of their own, which the engine neither changes nor deletes."""
        return bool(self.table.info.get("applications"))

    @property
    def written_by_applications(self) -> bool:
        """Whether applications write rows there, alone or as sources do."""
        return self.applications or self.kind == "application"

    @cached_property
    def identity(self) -> str | None:
        """The expression, as SQL, that rows of one person or thing have in common; None where the key alone says it."""
        return self.table.info.get("identity")

    @property
    def precedence(self) -> tuple[str, ...]:
        """The streams whose rows win before those of others."""
        return tuple(self.table.info.get("precedence", ()))

    @property
    def time_series(self) -> bool:
        """Whether there is one row per observation of a record."""
        return "observed_at" in self.key

    @cached_property
    def key(self) -> list[str]:
        return [column.name for column in self.table.primary_key.columns]

    @cached_property
    def partition_column(self) -> str | None:
        """The time by whose months the table is partitioned; None if it is not."""
        declared = re.fullmatch(
            r"range \((\w+)\)", str(self.table.dialect_options["postgresql"]["partition_by"]), re.IGNORECASE
        )
        return declared[1] if declared else None

    @cached_property
    def unique_keys(self) -> list[UniqueKey]:
        """The primary key, then what makes the identity, then the unique constraints and the unique indexes by name.

        A time that the table is partitioned by is in its primary key for PostgreSQL alone: the rest is unique.
        """
        key = [column for column in self.key if column != self.partition_column]
        found = [UniqueKey(f"{self.table.name}_pkey", tuple(key), _identifiers(key), primary=True)]
        for constraint in self.constraints(UniqueConstraint):
            columns = [column.name for column in constraint.columns]
            nulls_equal = bool(constraint.dialect_options["postgresql"]["nulls_not_distinct"])
            found.append(
                UniqueKey(
                    str(constraint.name),
                    self.read_by(" ".join(columns)),
                    _identifiers(columns),
                    nulls_equal=nulls_equal,
                )
            )
        for index in sorted(self.table.indexes, key=lambda each: str(each.name)):
            if index.unique:
                expressions = [
                    str(sql.Identifier(each.name).as_string()) if isinstance(each, Column) else str(each)
                    for each in index.expressions
                ]
                partial = index.dialect_options["postgresql"]["where"]
                where = "true" if partial is None else str(partial)
                reads = self.read_by(" ".join((*expressions, where)))
                values = tuple(sql.SQL(f"({each})") for each in expressions)
                condition = sql.SQL(f"({where})")
                is_identity = expressions == [self.identity]
                found.append(UniqueKey(str(index.name), reads, values, condition, identity=is_identity))
        return sorted(found, key=lambda each: (not each.primary, not each.identity))

    def read_by(self, expression: str) -> tuple[str, ...]:
        """The columns in an SQL expression, and instead of a generated one those in its own."""
        for name, generated in self.computed.items():
            expression = re.sub(rf"\b{name}\b", generated, expression)
        words = set(re.findall(r"\w+", expression))
        return tuple(column.name for column in self.table.columns if column.name in words)

    @cached_property
    def optional(self) -> set[str]:
        """The columns of a source's own rows that these can do without: such a column may be null, and decides neither
        which rows there are, nor what they refer to, nor who sees them.
        """
        deciding = [*self.key, "record_id", *(column.name for column in self.table.columns if column.foreign_keys)]
        deciding += [name for key in self.unique_keys for name in key.columns]
        deciding += [name for text in self._deciding_conditions() for name in self.read_by(text)]
        checked = [self.read_by(str(check.sqltext)) for check in self.constraints(CheckConstraint)]
        deciding += [name for names_ in checked if len(names_) > 1 for name in names_]
        optional = {name for name in self.content if self.owned and self.table.columns[name].nullable}
        return optional - set(deciding)

    @cached_property
    def lenient(self) -> set[str]:
        """The optional columns that are not declared `strict`: a value that does not fit becomes NULL."""
        return {name for name in self.optional if "strict" not in self.table.columns[name].info}

    def _deciding_conditions(self) -> Iterator[str]:
        """The expressions of partial indexes, of generated columns that are not null, and of policies."""
        for index in self.table.indexes:
            if (where := index.dialect_options["postgresql"]["where"]) is not None:
                yield " ".join(map(str, (*index.expressions, where)))
        yield from (name for name in self.computed if not self.table.columns[name].nullable)
        yield from objects.policies(self.table.info.get("declared_as", self.name))

    def constraints(self, kind: type[Kind]) -> list[Kind]:
        """The constraints of a kind, by name."""
        found = [each for each in self.table.constraints if isinstance(each, kind)]
        return sorted(found, key=lambda each: str(each.name))

    @cached_property
    def references(self) -> list[Reference]:
        """The foreign keys to tables of the same domain. Each has one column."""
        found = []
        for constraint in self.constraints(ForeignKeyConstraint):
            if constraint.referred_table.schema == self.table.schema:
                column = next(iter(constraint.columns))
                on_delete = constraint.ondelete or "NO ACTION"
                found.append(Reference(column.name, constraint.referred_table, bool(column.nullable), on_delete))
        return sorted(found, key=lambda each: each.column)

    @cached_property
    def referrers(self) -> list[tuple["TableSpec", str]]:
        """The tables that refer to this one, each with the column."""
        tables = map(TableSpec, self.table.metadata.sorted_tables)
        return [(each, ref.column) for each in tables for ref in each.references if ref.table is self.table]

    @property
    def left_out(self) -> set[str]:
        """The columns that the database has not, because it lacks an extension."""
        return set(self.table.info.get("left_out", ()))

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

    @cached_property
    def content(self) -> list[str]:
        """What rows from a source are compared and hashed by: all columns but those that the database fills or that
        applications own.
        """
        filled = audit_columns(self.table) | self.columns_of_applications
        return [each.name for each in self.table.columns if each.name not in filled and each.computed is None]

    @cached_property
    def computed(self) -> dict[str, str]:
        """The columns that PostgreSQL generates, with their expressions."""
        return {each.name: str(each.computed.sqltext) for each in self.table.columns if each.computed is not None}

    @cached_property
    def columns_of_applications(self) -> set[str]:
        """Columns that applications own in every row; no SELECT fills them."""
        return {column.name for column in self.table.columns if column.info.get("applications")}

    def from_source(self, alias: str) -> sql.Composable:
        """The condition that a row is from a source."""
        if self.applications:
            return sql.Identifier(alias, "from_source")
        return sql.SQL("false" if self.kind == "application" else "true")

    def of_application(self, alias: str) -> sql.Composable:
        """The condition that a row is an application's."""
        return sql.SQL("not {}").format(self.from_source(alias))

    def row_hash(self, alias: str) -> sql.Composed:
        """The hash of a row (with seed 0, '{}' hashes as NULL). The sum over the rows from sources is the digest of the
        table. Of types that PostgreSQL cannot hash the text is hashed.
        """
        columns = [
            sql.SQL("{}::text" if UNHASHABLE.match(self.type_of(name)) else "{}").format(sql.Identifier(alias, name))
            for name in self.content
        ]
        return sql.SQL("hash_record_extended(row({}), 1)::numeric").format(sql.SQL(", ").join(columns))


def _identifiers(columns: Sequence[str]) -> tuple[sql.Identifier, ...]:
    return tuple(map(sql.Identifier, columns))


def tables_of(domain: str) -> list[TableSpec]:
    """The tables of a domain, parents first."""
    return [TableSpec(table) for table in declare.metadata.sorted_tables if table.schema == domain]


def shared_tables(specs: Sequence[TableSpec]) -> list[TableSpec]:
    """The shared tables among some tables and those that they refer to, parents first."""
    tables = {spec.table for spec in specs} | {each.table for spec in specs for each in spec.references}
    every = next(iter(tables)).metadata.sorted_tables if tables else []
    return [spec for table in every if table in tables and (spec := TableSpec(table)).kind == "shared"]
