"""A table as the engine sees it: its key, its columns, what its rows must fit, and the statements made from these.

Everything is read from the SQLAlchemy table; a domain declares nothing else. `incoming` is the temporary table that
holds what a SELECT yielded, `loose` holds keys of a shared table that may have lost their last referrer. Belongs
here: statements that hold for any table. Not: their order (`transform`), not the sorting out of misfits (`misfits`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import sql
from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import BigInteger, Integer, SmallInteger

from pipelines.errors import AtlasError
from pipelines.warehouse.engine import Connection
from pipelines.warehouse.tables import AUDIT_COLUMNS

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def names(columns: list[str], qualifier: str | None = None) -> sql.Composed:
    """Columns as a list, each qualified if asked."""
    if qualifier:
        return sql.SQL(", ").join(sql.Identifier(qualifier, column) for column in columns)
    return sql.SQL(", ").join(map(sql.Identifier, columns))


SEEN = """(select seen.record_id, e.observed_at from seen join staging.observations e using (observation_id)) s
where t.observed_at = s.observed_at and"""

KEPT = """and (
    s.record_id is not null or t.record_id is null
    or exists (select from scope c where c.record_id = t.record_id))"""
"""A mention changes nothing of what a record of its own tells, unless that is in scope and tells it no more."""


@dataclass(frozen=True)
class Reference:
    """A column that refers to another table's key."""

    column: str
    table: Table
    nullable: bool


@dataclass
class Shape:
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
        unknown = self.yielded.keys() - {column.name for column in self.table.columns}
        missing = needed - self.yielded.keys()
        if unknown or missing:
            fault = f"yields {min(unknown)}, which is no column of it" if unknown else f"does not yield {min(missing)}"
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

    def typed(self) -> sql.Composed:
        """The rows of `incoming` in the table's types."""
        columns = (sql.SQL("{} as {}").format(self.cast(column), sql.Identifier(column)) for column in self.yielded)
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
        """The key as text, as people and `staging.waits` write it."""
        columns = (sql.SQL("{}::text").format(sql.Identifier(alias, column)) for column in self.key)
        return sql.SQL("concat_ws(' ', {})").format(sql.SQL(", ").join(columns))

    def same_key(self, left: str, right: str) -> sql.Composed:
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier(left, column), sql.Identifier(right, column))
            for column in self.key
        )

    def shared_references(self) -> list[tuple[str, sql.Identifier]]:
        """References to shared tables: column, and the table that collects keys it let go."""
        return [(each.column, Shape(each.table).loose) for each in self.references if not Shape(each.table).owned]

    @property
    def content(self) -> list[str]:
        """The columns that a row's hash is of: all but what the engine fills."""
        return [
            column.name
            for column in self.table.columns
            if column.name not in AUDIT_COLUMNS or column.name in self.yielded
        ]

    def hashed(self, alias: str) -> sql.Composed:
        """A row's hash, which with those of all other rows adds up to the table's digest."""
        return sql.SQL("hash_record_extended(row({}), 0)::numeric").format(names(self.content, alias))

    def prune(self) -> sql.Composed:
        """Deletes rows of the records in scope that are no longer yielded; notes the shared keys they let go.

        One row of how many there were, and the sum of their hashes.
        """
        delete = sql.SQL(
            """
            delete from {target} t using {scope} t.record_id = s.record_id
              and not exists (select from {incoming} o where {same_key})
            """
        ).format(
            target=self.target,
            scope=sql.SQL(SEEN if self.series else "scope s where"),
            incoming=self.incoming,
            same_key=self.same_key("o", "t"),
        )
        return self._letting_go(delete, "t")

    def _letting_go(self, delete: sql.Composed, alias: str) -> sql.Composed:
        shared = self.shared_references()
        returned = [
            sql.SQL("{} as hash").format(self.hashed(alias)),
            *(sql.Identifier(alias, name) for name, _ in shared),
        ]
        notes = [
            sql.SQL(", {} as (insert into {} select {} from gone)").format(
                sql.Identifier(f"note_{column}"), loose, sql.Identifier(column)
            )
            for column, loose in shared
        ]
        return sql.SQL(
            "with gone as ({} returning {}){} select count(*) as deleted, coalesce(sum(hash), 0) as digest from gone"
        ).format(delete, sql.SQL(", ").join(returned), sql.SQL("").join(notes))

    def merge(self) -> sql.Composed:
        """Writes `incoming`: inserts what is new, updates what differs; one row of created, updated, yielded, digest.

        A row that another record owns, outside the scope, must not be taken from it: its record_id then becomes NULL,
        which fails, and the rows are sorted out.
        """
        columns = list(self.yielded)
        rest = [column for column in columns if column not in self.key]
        update: sql.Composable = sql.SQL("")
        if rest:
            update = sql.SQL(
                "when matched and record_image_ne(row({old}), row({new})) {kept} then update set {assignments}"
            ).format(
                kept=sql.SQL(KEPT if self.told and "record_id" in self.yielded else ""),
                old=names(rest, "t"),
                new=names(rest, "s"),
                assignments=sql.SQL(", ").join([self._assign(column) for column in rest] + self._audit()),
            )
        merged = sql.SQL(
            """
            merge into {target} t using ({typed}) s on {same_key}
            {update}
            when not matched then insert ({columns}) values ({values})
            returning merge_action() as action, {new} - case merge_action() when 'UPDATE' then {old} else 0 end as hash
                {let_go}
            """
        ).format(
            target=self.target,
            typed=self.typed(),
            same_key=self.same_key("t", "s"),
            update=update,
            columns=names(columns),
            values=names(columns, "s"),
            new=self.hashed("new"),
            old=self.hashed("old"),
            let_go=sql.SQL("").join(
                sql.SQL(", case when old.{0} is distinct from new.{0} then old.{0} end as {0}").format(
                    sql.Identifier(column)
                )
                for column, _ in self.shared_references()
            ),
        )
        notes = sql.SQL("").join(
            sql.SQL(", {} as (insert into {} select {} from merged where {} is not null)").format(
                sql.Identifier(f"note_{column}"), loose, sql.Identifier(column), sql.Identifier(column)
            )
            for column, loose in self.shared_references()
        )
        return sql.SQL(
            """
            with merged as ({merged}){notes}
            select count(*) filter (where action = 'INSERT') as created,
                count(*) filter (where action = 'UPDATE') as updated,
                coalesce(sum(hash), 0) as digest,
                (select count(*) from {incoming}) as yielded
            from merged
            """
        ).format(merged=merged, notes=notes, incoming=self.incoming)

    def _assign(self, column: str) -> sql.Composed:
        if column != "record_id" or self.told:
            return sql.SQL("{} = {}").format(sql.Identifier(column), sql.Identifier("s", column))
        return sql.SQL(
            """record_id = case
                when t.record_id = s.record_id or exists (select from scope c where c.record_id = t.record_id)
                then s.record_id
            end"""
        ).format()

    def _audit(self) -> list[sql.Composed]:
        """Engine-filled where the SELECT does not yield it; outside the comparison."""
        filled = "updated_at" in self.table.columns and "updated_at" not in self.yielded
        return [sql.SQL("updated_at = now()").format()] if filled else []

    def sweep(self) -> sql.Composed:
        """Deletes the shared rows that nothing refers to any more, of those let go in this run; as `prune` does."""
        (key,) = self.key
        referred = sql.SQL(" and ").join(
            sql.SQL("not exists (select from {} r where r.{} = t.{})").format(
                Shape(table).target, sql.Identifier(reference.column), sql.Identifier(key)
            )
            for table in self.table.metadata.sorted_tables
            for reference in Shape(table).references
            if reference.table is self.table
        )
        delete = sql.SQL(
            "delete from {target} t where t.{key} in (select key from {loose}) and {referred} {mention}"
        ).format(
            target=self.target,
            key=sql.Identifier(key),
            loose=self.loose,
            referred=referred,
            mention=sql.SQL("and t.record_id is null" if self.told else ""),
        )
        return sql.SQL(
            "with gone as ({} returning {} as hash) "
            "select count(*) as deleted, coalesce(sum(hash), 0) as digest from gone"
        ).format(delete, self.hashed("t"))


def shared_tables(shapes: Sequence[Shape]) -> list[Shape]:
    """The shared tables that some tables are or refer to."""
    tables = {shape.table for shape in shapes} | {each.table for shape in shapes for each in shape.references}
    every = next(iter(tables)).metadata.sorted_tables if tables else []
    return [shape for table in every if table in tables and not (shape := Shape(table)).owned]
