"""What the engine reads from the declaration of a table: key, columns, constraints, kind, and SQL made from them.

Rows are *owned* if they follow a record (`record_id`), and *shared* if they live as long as a row refers to them.
`incoming` is the temporary table with what a SELECT yields for the table, `released` the one with keys of a shared
table to which a row no longer refers. Belongs here: what holds for any table. Not: statements that write
(`transform.merge_sql`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import sql
from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import BigInteger, Integer, SmallInteger

from pipelines.errors import AtlasError
from pipelines.warehouse.database import Connection
from pipelines.warehouse.declare import audit_columns

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


@dataclass
class TableSpec:
    """One table that SELECT files fill. yielded: the columns that they yield, with their types."""

    table: Table
    yielded: dict[str, str] = field(default_factory=dict)
    prefix: str = "incoming"

    @property
    def name(self) -> str:
        return self.table.fullname

    @property
    def target(self) -> sql.Identifier:
        return sql.Identifier(*self.table.fullname.split("."))

    @property
    def incoming(self) -> sql.Identifier:
        return sql.Identifier(f"{self.prefix}_{self.table.name}")

    @property
    def released(self) -> sql.Identifier:
        return sql.Identifier(f"released_{self.table.name}")

    @property
    def owned(self) -> bool:
        """Whether every row follows a record, its owner."""
        return "record_id" in self.table.columns and not self.optionally_owned

    @property
    def optionally_owned(self) -> bool:
        """Whether rows are shared, and a row may have an owner. The owner's values then replace the shared ones."""
        return "record_id" in self.table.columns and bool(self.table.columns["record_id"].nullable)

    @property
    def time_series(self) -> bool:
        """Whether there is one row per observation of a record."""
        return "observed_at" in self.key

    @property
    def key(self) -> list[str]:
        return [column.name for column in self.table.primary_key.columns]

    @property
    def uniques(self) -> list[UniqueConstraint]:
        found = [each for each in self.table.constraints if isinstance(each, UniqueConstraint)]
        return sorted(found, key=lambda each: str(each.name))

    @property
    def checks(self) -> list[CheckConstraint]:
        found = [each for each in self.table.constraints if isinstance(each, CheckConstraint)]
        return sorted(found, key=lambda each: str(each.name))

    @property
    def references(self) -> list[Reference]:
        """The foreign keys to tables of the same domain. Each has one column."""
        found = []
        for constraint in self.table.constraints:
            if isinstance(constraint, ForeignKeyConstraint) and constraint.referred_table.schema == self.table.schema:
                column = next(iter(constraint.columns))
                found.append(Reference(column.name, constraint.referred_table, bool(column.nullable)))
        return sorted(found, key=lambda each: each.column)

    def read_types(self, connection: Connection, select: str) -> None:
        """Reads `yielded` from `incoming`. Raises AtlasError for an unknown or missing column; select: file to name."""
        rows = connection.execute(
            """
            select attname, format_type(atttypid, null) as type from pg_attribute
            where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
            """,
            [f"pg_temp.{self.incoming.as_string()}"],
        )
        self.yielded = {row["attname"]: row["type"] for row in rows}
        needed = {column.name for column in self.table.columns if not column.nullable and column.server_default is None}
        unknown = self.yielded.keys() - set(self.content)
        missing = needed - self.yielded.keys()
        if unknown or missing:
            fault = (
                f"yields {min(unknown)}, which is not a column that a SELECT fills"
                if unknown
                else f"does not yield {min(missing)}"
            )
            raise AtlasError(f"The SELECT for {self.name} {fault}. Fix sql/{select}.sql.")

    def type_of(self, column: str) -> str:
        """The column's type with its length, as SQL."""
        return self.table.columns[column].type.compile(dialect=_DIALECT)

    def as_text(self, column: str) -> sql.Composable:
        """The yielded value as the text that the column's input function reads.

        512.0 is read as an integer. A time must begin with a date, because `now` and `tomorrow` are valid input too.
        """
        value = sql.Identifier(column)
        if isinstance(self.table.columns[column].type, TIMESTAMP):
            dated = sql.SQL(
                "case when {0}::text ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}' then {0}::text else 'x' || {0} end"
            )
            return dated.format(value)
        if self.yielded[column] == "numeric" and isinstance(
            self.table.columns[column].type, Integer | BigInteger | SmallInteger
        ):
            return sql.SQL("trim_scale({})::text").format(value)
        return sql.SQL("{}::text").format(value)

    def cast(self, column: str) -> sql.Composable:
        """The yielded value in the column's type. Without its length: a cast would truncate what is too long."""
        bare = self.type_of(column).split("(")[0]
        if self.yielded[column] == bare.lower():
            return sql.Identifier(column)
        return sql.SQL("({})::{}").format(self.as_text(column), sql.SQL(bare))

    @property
    def omitted(self) -> list[str]:
        """The columns that the SELECT does not yield: NULL in its rows, also where an older text of it yielded them."""
        return [column for column in self.content if column not in self.yielded]

    def typed_rows(self) -> sql.Composed:
        """The rows of `incoming` in the table's types."""
        columns = [sql.SQL("{} as {}").format(self.cast(column), sql.Identifier(column)) for column in self.yielded]
        columns += [
            sql.SQL("null::{} as {}").format(sql.SQL(self.type_of(column)), sql.Identifier(column))
            for column in self.omitted
        ]
        return sql.SQL("select {} from {}").format(sql.SQL(", ").join(columns), self.incoming)

    def key_text(self, alias: str) -> sql.Composed:
        """The key of a row as text, its columns separated by spaces, as `staging.pending_rows` has it."""
        columns = (sql.SQL("{}::text").format(sql.Identifier(alias, column)) for column in self.key)
        return sql.SQL("concat_ws(' ', {})").format(sql.SQL(", ").join(columns))

    def same_key(self, left: str, right: str) -> sql.Composed:
        """The condition that two rows have one key."""
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier(left, column), sql.Identifier(right, column))
            for column in self.key
        )

    def shared_references(self) -> list[tuple[str, sql.Identifier]]:
        """The references to shared tables: column, and the temporary table for keys that it no longer refers to."""
        return [
            (each.column, TableSpec(each.table).released) for each in self.references if not TableSpec(each.table).owned
        ]

    @property
    def content(self) -> list[str]:
        """All columns but the audit columns: what rows are compared and hashed by."""
        filled = audit_columns(self.table)
        return [column.name for column in self.table.columns if column.name not in filled]

    def audit_assignments(self) -> list[sql.Composed]:
        """The audit columns that an update of a row sets."""
        return [sql.SQL("updated_at = now()").format()] if "updated_at" in audit_columns(self.table) else []

    def row_hash(self, alias: str) -> sql.Composed:
        """The hash of a row. The sum over all rows is the digest of the table."""
        return sql.SQL("hash_record_extended(row({}), 0)::numeric").format(names(self.content, alias))


def shared_tables(specs: Sequence[TableSpec]) -> list[TableSpec]:
    """The shared tables among some tables and those that they refer to, parents first."""
    tables = {spec.table for spec in specs} | {each.table for spec in specs for each in spec.references}
    every = next(iter(tables)).metadata.sorted_tables if tables else []
    return [spec for table in every if table in tables and not (spec := TableSpec(table)).owned]
