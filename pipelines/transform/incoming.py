"""The temporary table `incoming_<table>`: what the SELECT files yield for a table, before it is merged.

    SELECT files ──> incoming_<table>, in the types that they yield ──typed_rows──> rows in the types of the table

Belongs here: the columns and types that were yielded, and their casts. Not: what follows from the declaration of the
table (`TableSpec`), statements that write the table (`merge_sql`).
"""

from dataclasses import dataclass, field

from psycopg import sql
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import BigInteger, Integer, SmallInteger

from pipelines.errors import AtlasError
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import TableSpec


@dataclass
class IncomingTable:
    """The temporary table of one table. yielded: the columns that the SELECT files yield, with their types."""

    spec: TableSpec
    yielded: dict[str, str] = field(default_factory=dict)
    prefix: str = "incoming"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(f"{self.prefix}_{self.spec.table.name}")

    def read_types(self, connection: Connection, select: str) -> None:
        """Reads `yielded` from the temporary table. select: the file that an error names.

        Raises AtlasError for an unknown or missing column.
        """
        rows = connection.execute(
            """
            select attname, format_type(atttypid, null) as type from pg_attribute
            where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
            """,
            [f"pg_temp.{self.identifier.as_string()}"],
        )
        self.yielded = {row["attname"]: row["type"] for row in rows}
        columns = self.spec.table.columns
        needed = {column.name for column in columns if not column.nullable and column.server_default is None}
        unknown = self.yielded.keys() - set(self.spec.content)
        missing = needed - self.yielded.keys()
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
        value = sql.Identifier(column)
        kind = self.spec.table.columns[column].type
        if isinstance(kind, TIMESTAMP):
            dated = sql.SQL(
                "case when {0}::text ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}' then {0}::text else 'x' || {0} end"
            )
            return dated.format(value)
        if self.yielded[column] == "numeric" and isinstance(kind, Integer | BigInteger | SmallInteger):
            return sql.SQL("trim_scale({})::text").format(value)
        return sql.SQL("{}::text").format(value)

    def cast(self, column: str) -> sql.Composable:
        """The yielded value in the column's type. Without its length: a cast would truncate what is too long."""
        bare = self.spec.type_of(column).split("(")[0]
        if self.yielded[column] == bare.lower():
            return sql.Identifier(column)
        return sql.SQL("({})::{}").format(self.as_text(column), sql.SQL(bare))

    @property
    def omitted(self) -> list[str]:
        """Columns that the SELECT does not yield; they become NULL, even where an earlier text of it filled them."""
        return [column for column in self.spec.content if column not in self.yielded]

    def typed_rows(self) -> sql.Composed:
        """The rows of the temporary table in the table's types."""
        columns = [sql.SQL("{} as {}").format(self.cast(column), sql.Identifier(column)) for column in self.yielded]
        columns += [
            sql.SQL("null::{} as {}").format(sql.SQL(self.spec.type_of(column)), sql.Identifier(column))
            for column in self.omitted
        ]
        return sql.SQL("select {} from {}").format(sql.SQL(", ").join(columns), self.identifier)
