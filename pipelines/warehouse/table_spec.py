"""A table as the engine sees it: its key, its columns, what its rows must fit, how they are compared.

Everything is read from the SQLAlchemy table; a domain declares nothing else. `incoming` is the temporary table that
holds what a SELECT yielded, `loose` holds keys of a shared table that may have lost their last referrer. Belongs
here: what is true of any table. Not: what is written into it (`writing`).
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
    """Columns as a list, each qualified if asked."""
    if qualifier:
        return sql.SQL(", ").join(sql.Identifier(qualifier, column) for column in columns)
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def fields(row: str, columns: list[str]) -> sql.Composed:
    """Fields of a column that holds whole rows, as a list."""
    return sql.SQL(", ").join(sql.SQL("({}).{}").format(sql.Identifier(row), sql.Identifier(each)) for each in columns)


@dataclass(frozen=True)
class Reference:
    """A column that refers to another table's key."""

    column: str
    table: Table
    nullable: bool


@dataclass
class TableSpec:
    """One table that a run fills."""

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
    def loose(self) -> sql.Identifier:
        return sql.Identifier(f"loose_{self.table.name}")

    @property
    def owned(self) -> bool:
        """Owned rows follow their record; shared rows live as long as something refers to them."""
        return "record_id" in self.table.columns and not self.told

    @property
    def told(self) -> bool:
        """A shared row that a record of its own tells is owned by that, and says more than its mentions do."""
        return "record_id" in self.table.columns and bool(self.table.columns["record_id"].nullable)

    @property
    def series(self) -> bool:
        """Rows of a series follow observations of their record, each by its time."""
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
        """Single-column references to other tables of the domain."""
        found = []
        for constraint in self.table.constraints:
            if isinstance(constraint, ForeignKeyConstraint) and constraint.referred_table.schema == self.table.schema:
                column = next(iter(constraint.columns))
                found.append(Reference(column.name, constraint.referred_table, bool(column.nullable)))
        return sorted(found, key=lambda each: each.column)

    def read_types(self, connection: Connection, select: str) -> None:
        """Learns what a SELECT file yields: each column of `incoming` and its type."""
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
                f"yields {min(unknown)}, which is no column of it that a SELECT fills"
                if unknown
                else f"does not yield {min(missing)}"
            )
            raise AtlasError(f"The SELECT for {self.name} {fault}. Mend sql/{select}.sql.")

    def type_of(self, column: str) -> str:
        """The column's type with its length, as SQL."""
        return self.table.columns[column].type.compile(dialect=_DIALECT)

    def as_text(self, column: str) -> sql.Composable:
        """What the column's input function is asked to read.

        512.0 is an integer, 1.5 is none. A time begins with a date: `tomorrow` or `now` would be another one each day.
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
        """The yielded value in the column's type, without its length: what is too long must fail, not be cut."""
        bare = self.type_of(column).split("(")[0]
        if self.yielded[column] == bare.lower():
            return sql.Identifier(column)
        return sql.SQL("({})::{}").format(self.as_text(column), sql.SQL(bare))

    @property
    def silent(self) -> list[str]:
        """The columns of which the SELECT says nothing: NULL in its rows, whatever another text of it said before."""
        return [column for column in self.content if column not in self.yielded]

    def typed(self) -> sql.Composed:
        """The rows of `incoming` in the table's types."""
        columns = [sql.SQL("{} as {}").format(self.cast(column), sql.Identifier(column)) for column in self.yielded]
        columns += [
            sql.SQL("null::{} as {}").format(sql.SQL(self.type_of(column)), sql.Identifier(column))
            for column in self.silent
        ]
        return sql.SQL("select {} from {}").format(sql.SQL(", ").join(columns), self.incoming)

    def distinct(self) -> sql.Composed:
        """Fails where `incoming` holds a key twice: MERGE alone would let the rows take turns."""
        return sql.SQL("create unique index on {} ({})").format(self.incoming, names(self.key))

    def settle(self) -> sql.Composed:
        """Of a row that is told and mentioned leaves the told one, of mentions the first."""
        return sql.SQL(
            """
            delete from {incoming} o where o.record_id is null and (
                exists (
                    select from {incoming} n
                    where {same_incoming} and (n.record_id is not null or n.ctid < o.ctid))
                or exists (
                    select from {target} t
                    where {same_target} and t.record_id is not null
                      and not exists (select from scope s where s.record_id = t.record_id)))
            """
        ).format(
            incoming=self.incoming,
            target=self.target,
            same_incoming=self.same_key("n", "o"),
            same_target=self.same_key("t", "o"),
        )

    def key_text(self, alias: str) -> sql.Composed:
        """The key as text, as people and `staging.pending_rows` write it."""
        columns = (sql.SQL("{}::text").format(sql.Identifier(alias, column)) for column in self.key)
        return sql.SQL("concat_ws(' ', {})").format(sql.SQL(", ").join(columns))

    def same_key(self, left: str, right: str) -> sql.Composed:
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier(left, column), sql.Identifier(right, column))
            for column in self.key
        )

    def shared_references(self) -> list[tuple[str, sql.Identifier]]:
        """References to shared tables: column, and the table that collects keys it let go."""
        return [
            (each.column, TableSpec(each.table).loose) for each in self.references if not TableSpec(each.table).owned
        ]

    @property
    def content(self) -> list[str]:
        """The columns that a row's hash is of: all but what the engine fills."""
        filled = audit_columns(self.table)
        return [column.name for column in self.table.columns if column.name not in filled]

    def stamp(self) -> list[sql.Composed]:
        """What an update of a row sets beside what the SELECT yields."""
        return [sql.SQL("updated_at = now()").format()] if "updated_at" in audit_columns(self.table) else []

    def hashed(self, alias: str) -> sql.Composed:
        """A row's hash, which with those of all other rows adds up to the table's digest."""
        return sql.SQL("hash_record_extended(row({}), 0)::numeric").format(names(self.content, alias))


def shared_tables(shapes: Sequence[TableSpec]) -> list[TableSpec]:
    """The shared tables that some tables are or refer to."""
    tables = {shape.table for shape in shapes} | {each.table for shape in shapes for each in shape.references}
    every = next(iter(tables)).metadata.sorted_tables if tables else []
    return [shape for table in every if table in tables and not (shape := TableSpec(table)).owned]
