"""The temporary table `incoming_<table>`: what the SELECT files yield for a table, before it is merged.

    SELECT files ──> incoming_<table>, in the types that they yield ──typed_rows──> rows in the types of the table

Belongs here: the columns and types that were yielded, and their casts. Not: what follows from the declaration of the
table (`TableSpec`), statements that write the table (`merge_sql`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from psycopg import sql
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import BigInteger, Integer, SmallInteger

from pipelines.errors import AtlasError
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import TableSpec, names

NUMERIC = 1700
"""The oid of the type numeric."""


@dataclass
class IncomingTable:
    """The temporary table of one table. yielded: the columns that the SELECT files yield, with their types."""

    spec: TableSpec
    yielded: dict[str, str] = field(default_factory=dict)

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(f"incoming_{self.spec.table.name}")

    def create(self, connection: Connection, query: sql.Composed, select: str) -> None:
        """Creates the table with what a query yields. select: the file that an error names.

        Raises AtlasError for an unknown or missing column.
        """
        connection.execute(sql.SQL("create temp table {} on commit drop as {}").format(self.identifier, query))
        rows = connection.execute(
            """
            select attname, format_type(atttypid, null) as type from pg_attribute
            where attrelid = %s::regclass and attnum > 0 order by attnum
            """,
            [f"pg_temp.{self.identifier.as_string()}"],
        )
        self.yielded = {row["attname"]: row["type"] for row in rows}
        self._require_columns(self.yielded, select)

    def create_as_text(self, connection: Connection) -> None:
        """Creates the table empty: keys in their own types, all other columns as text, which fits any SELECT."""
        spec = self.spec
        keys = {*spec.key, "record_id", *(reference.column for reference in spec.references)}
        types = {column: spec.type_of(column) if column in keys else "text" for column in spec.content}
        columns = [sql.SQL("{} {}").format(sql.Identifier(each), sql.SQL(types[each])) for each in types]
        connection.execute(
            sql.SQL("create temp table {} ({}) on commit drop").format(self.identifier, sql.SQL(", ").join(columns))
        )
        self.yielded = {column: name.lower() for column, name in types.items()}

    def insert_as_text(self, connection: Connection, query: sql.Composed, select: str) -> None:
        """Inserts what a query yields into a table that `create_as_text` created. Raises what `create` raises."""
        found = connection.execute(sql.SQL("{} limit 0").format(query)).description or []
        columns = [column.name for column in found]
        self._require_columns(columns, select)
        values = [
            sql.SQL("({})::{}").format(
                self._text(column.name, numeric=column.type_code == NUMERIC), sql.SQL(self.yielded[column.name])
            )
            for column in found
        ]
        connection.execute(
            sql.SQL("insert into {} ({}) select {} from ({}) as q").format(
                self.identifier, names(columns), sql.SQL(", ").join(values), query
            )
        )

    def _require_columns(self, yielded: Iterable[str], select: str) -> None:
        columns = self.spec.table.columns
        needed = {column.name for column in columns if not column.nullable and column.server_default is None}
        unknown, missing = set(yielded) - set(self.spec.content), needed - set(yielded)
        if unknown or missing:
            fault = (
                f"yields {min(unknown)}, which is not a column that a SELECT fills"
                if unknown
                else f"does not yield {min(missing)}"
            )
            raise AtlasError(f"The SELECT for {self.spec.name} {fault}. Fix sql/{select}.sql.")

    def as_text(self, column: str) -> sql.Composable:
        """The yielded value as the text that the column's input function reads.

        512.0 is read as an integer. A time must begin with a date, because `now` and `tomorrow` are valid input too.
        """
        value = self._text(column, numeric=self.yielded[column] == "numeric")
        if isinstance(self.spec.table.columns[column].type, TIMESTAMP):
            return sql.SQL("case when {0} ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}' then {0} else 'x' || {0} end").format(
                value
            )
        return value

    def _text(self, column: str, *, numeric: bool) -> sql.Composable:
        if numeric and isinstance(self.spec.table.columns[column].type, Integer | BigInteger | SmallInteger):
            return sql.SQL("trim_scale({})::text").format(sql.Identifier(column))
        return sql.SQL("{}::text").format(sql.Identifier(column))

    def cast(self, column: str) -> sql.Composable:
        """The yielded value in the column's type. Without its length: a cast would truncate what is too long."""
        bare = self.spec.type_of(column).split("(")[0]
        if self.yielded[column] == bare.lower():
            return sql.Identifier(column)
        return sql.SQL("({})::{}").format(self.as_text(column), sql.SQL(bare))

    def typed_rows(self) -> sql.Composed:
        """The rows of the temporary table in the table's types, each with its ctid.

        A column that the SELECT does not yield is NULL, even where an earlier text of it filled the column.
        """
        columns = [
            sql.SQL("{} as {}").format(
                self.cast(column.name)
                if column.name in self.yielded
                else sql.SQL("null::{}").format(sql.SQL(self.spec.type_of(column.name))),
                sql.Identifier(column.name),
            )
            for column in self.spec.table.columns
        ]
        return sql.SQL("select ctid, {} from {}").format(sql.SQL(", ").join(columns), self.identifier)
