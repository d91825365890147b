"""The temporary table `incoming_<table>`: what the SELECT files yield for a table, before it is merged.

    SELECT files ──> incoming_<table>, in the types that they yield ──typed_rows──> rows in the types of the table
                          └──insert_pending──> found_pending_rows

Not here: which rows are taken out (`constraints`, `rejects`), statements that write the table (`merge_sql`) or
staging (`run`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from psycopg import sql
from sqlalchemy import DefaultClause
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.types import BigInteger, Integer, SmallInteger

from pipelines.errors import AtlasError
from pipelines.schema.table_spec import Reference, TableSpec, UniqueKey
from pipelines.transform.conditions import keyed
from pipelines.warehouse.database import Connection

NO_VECTOR = r"""
    case
        when {value} is null then false
        when {value} !~ '^\s*\[[-+0-9.eE,\s]*\]\s*$' then true
        when not pg_input_is_valid(translate({value}, '[]', '{{}}'), 'float8[]') then true
        else (
            select count(*) = 0 or count(*) <> {length} or max(abs(number)) > 3.4028235e38
            from unnest(translate({value}, '[]', '{{}}')::float8[]) as numbers (number))
    end
"""
"""The input function of the type raises its errors through `pg_input_is_valid`. 3.4028235e38 is the greatest real."""


@dataclass
class IncomingTable:
    """The temporary table of one table.

    yielded: the columns that the SELECT files yield, with the types that they have here. rows: how many they yielded.
    checks_keys: whether keys were yielded in other types than those of the table; what cannot be read as one is in the
    column `unread_keys`. The column `cleared` has the values that became NULL because they do not fit.
    """

    connection: Connection
    spec: TableSpec
    yielded: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    checks_keys: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(f"incoming_{self.spec.table.name}")

    @property
    def unique_keys(self) -> list[UniqueKey]:
        """What only one row may have, of whose columns the SELECT files yield some."""
        return [each for each in self.spec.unique_keys if set(each.columns) & self.yielded.keys()]

    def keyed_rows(self, key: UniqueKey) -> sql.Composed:
        """What `keyed` returns, of the typed rows."""
        return keyed(key, sql.SQL("({})").format(self.typed_rows()))

    def add(self, query: sql.Composed, select: str, *, as_text: bool = False) -> None:
        """Adds what a query yields; the first creates the table. Raises AtlasError for an unknown or missing column.

        as_text: what several queries yield may differ in types, so all but keys meet as text. select: the file.
        """
        types = self._types(query)
        self._require_columns(types, select)
        query = self._with_typed_keys(query, types, as_text=as_text)
        if self.yielded:
            self.rows += self.connection.execute(sql.SQL("insert into {} {}").format(self.identifier, query)).rowcount
            return
        create = sql.SQL("create temp table {} on commit drop as select q.*, null::jsonb as cleared from ({}) as q")
        self.rows = self.connection.execute(create.format(self.identifier, query)).rowcount
        self.yielded = dict.fromkeys(self.spec.content, "text") if as_text else types
        self.yielded |= {name: self.spec.type_of(name).lower() for name in self._keys & self.yielded.keys()}

    @property
    def _keys(self) -> set[str]:
        """The columns that rows are found by before they are validated: they have the types of the table."""
        return {*self.spec.key, "record_id", *(reference.column for reference in self.spec.references)}

    def _types(self, query: sql.Composed) -> dict[str, str]:
        """The columns that a query yields, with their types, but for those that the database has not."""
        found = self.connection.execute(sql.SQL("{} limit 0").format(query)).description or []
        return {each.name: self._type(each.type_code) for each in found if each.name not in self.spec.left_out}

    def _type(self, oid: int) -> str:
        """The name of a type as SQL: of PostgreSQL's own without asking."""
        if known := self.connection.adapters.types.get(oid):
            return known.regtype + ("" if known.oid == oid else "[]")
        (row,) = self.connection.execute("select format_type(%s, null) as name", [oid])
        return str(row["name"])

    def _with_typed_keys(self, query: sql.Composed, types: dict[str, str], *, as_text: bool) -> sql.Composed:
        """What a query yields, with keys in the types of the table; the texts that are no such key in `unread_keys`."""
        columns: list[sql.Composable] = []
        unread: list[sql.Composable] = []
        for name in self.spec.content if as_text else types:
            is_key = name in self._keys
            type_ = self.spec.type_of(name).lower() if is_key else "text" if as_text else types[name]
            value = self._text(name, types[name]) if name in types else self._default(name)
            if types.get(name) == type_:
                columns.append(sql.Identifier(name))
                continue
            if is_key and name in types:
                valid = sql.SQL("pg_input_is_valid({}, {})").format(self._input(name, value), sql.Literal(type_))
                unread += [sql.Literal(name), sql.SQL("case when not {} then {} end").format(valid, value)]
                value = sql.SQL("case when {} then {} end").format(valid, value)
            columns.append(sql.SQL("({})::{} as {}").format(value, sql.SQL(type_), sql.Identifier(name)))
        self.checks_keys = as_text or bool(unread)
        if self.checks_keys:
            texts = sql.SQL("nullif(jsonb_strip_nulls(jsonb_build_object({})), '{{}}') as unread_keys")
            columns.append(texts.format(sql.SQL(", ").join(unread)))
        return sql.SQL("select {} from ({}) as q").format(sql.SQL(", ").join(columns), query)

    def count(self) -> int:
        """How many rows there are."""
        (row,) = self.connection.execute(sql.SQL("select count(*) as number from {}").format(self.identifier))
        return int(row["number"])

    def drop(self) -> None:
        """Drops the table, so that rows can be added again."""
        self.connection.execute(sql.SQL("drop table if exists {}").format(self.identifier))
        self.yielded, self.rows = {}, 0

    def _require_columns(self, yielded: Iterable[str], select: str) -> None:
        columns = self.spec.table.columns
        needed = {column.name for column in columns if not column.nullable and column.server_default is None}
        needed |= set(self.spec.key)
        unknown, missing = set(yielded) - set(self.spec.content), needed - set(yielded)
        if unknown or missing:
            extra = f"yields {min(unknown)}, which is not a column that a SELECT fills" if unknown else None
            fault = extra or f"does not yield {min(missing)}"
            raise AtlasError(f"The SELECT for {self.spec.name} {fault}. Fix sql/{select}.sql.")

    def as_text(self, column: str) -> sql.Composable:
        """The yielded value as the text that the column's input function reads. 512.0 is read as an integer."""
        return self._input(column, self._text(column, self.yielded[column]))

    def _input(self, column: str, text: sql.Composable) -> sql.Composable:
        """A text as the column's input function is to read it.

        A time must begin with a date, because `now` and `tomorrow` are valid input too.
        """
        if isinstance(self.spec.table.columns[column].type, TIMESTAMP):
            dated = sql.SQL("case when {0} ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}' then {0} else 'no date: ' || {0} end")
            return dated.format(text)
        return text

    def invalid_key(self, column: str) -> tuple[sql.Composable, sql.Composable]:
        """As `invalid`, of a key in `unread_keys`."""
        key = sql.SQL("(unread_keys ->> {})").format(sql.Literal(column))
        error = sql.SQL("(select message from pg_input_error_info({}, {}))").format(
            self._input(column, key), sql.Literal(self.spec.type_of(column))
        )
        return sql.SQL("{} is not null").format(key), error

    def invalid(self, column: str) -> tuple[sql.Composable, sql.Composable]:
        """The condition that a yielded value is not of the column's type, and what PostgreSQL says of it."""
        type_, value = self.spec.type_of(column), self.as_text(column)
        if vector := re.fullmatch(r"vector(?:\((\d+)\))?", type_, re.IGNORECASE):
            condition = sql.SQL(NO_VECTOR).format(value=value, length=sql.Literal(vector[1] and int(vector[1])))
            return condition, sql.Literal(f"not {vector[1] or 'a list of'} numbers, as {type_.lower()} has")
        parameters = {"value": value, "type": sql.Literal(type_)}
        return (
            sql.SQL("not pg_input_is_valid({value}, {type})").format(**parameters),
            sql.SQL("(select message from pg_input_error_info({value}, {type}))").format(**parameters),
        )

    def _text(self, column: str, yielded: str) -> sql.Composable:
        if yielded == "numeric" and isinstance(
            self.spec.table.columns[column].type, Integer | BigInteger | SmallInteger
        ):
            return sql.SQL("trim_scale({})::text").format(sql.Identifier(column))
        if yielded == "jsonb" and not isinstance(self.spec.table.columns[column].type, JSONB):
            return sql.SQL("({} #>> '{{}}')").format(sql.Identifier(column))  # a JSON null is NULL, a string itself
        return sql.SQL("{}::text").format(sql.Identifier(column))

    def _cast(self, column: str) -> sql.Composable:
        """The yielded value in the column's type. Without its length: a cast would truncate what is too long."""
        if column not in self.yielded:
            return sql.SQL("({})::{}").format(self._default(column), sql.SQL(self.spec.type_of(column)))
        bare = self.spec.type_of(column).split("(")[0]
        if self.yielded[column] == bare.lower():
            return sql.Identifier(column)
        return sql.SQL("({})::{}").format(self.as_text(column), sql.SQL(bare))

    def _default(self, column: str) -> sql.Composable:
        """What a column has that no SELECT yields."""
        default = self.spec.table.columns[column].server_default
        if isinstance(default, DefaultClause) and column in self.spec.content:
            return sql.SQL(str(default.arg))
        return sql.NULL

    def typed_rows(self) -> sql.Composed:
        """The rows of the temporary table in the table's types, each with its ctid.

        A column that the SELECT does not yield has its default, even where an earlier text of it filled the column.
        """
        columns = [
            sql.SQL("{} as {}").format(self._cast(column.name), sql.Identifier(column.name))
            for column in self.spec.table.columns
            if column.computed is None
        ]
        rows = sql.SQL("select ctid, {} from {}").format(sql.SQL(", ").join(columns), self.identifier)
        for name, expression in self.spec.computed.items():
            rows = sql.SQL("select r.*, {} as {} from ({}) as r").format(
                sql.SQL(expression), sql.Identifier(name), rows
            )
        return rows

    def insert_pending(self, condition: sql.Composable, reason: str, table: str, key: sql.Composable) -> None:
        """Inserts the rows `o` that meet a condition into `found_pending_rows`: pending for a key of a table."""
        if self.spec.owned:  # rows without a record are never pending
            insert = sql.SQL("insert into found_pending_rows select o.record_id, {}, {}, {} from {} o where {}")
            self.connection.execute(insert.format(table, key, reason, self.identifier, condition))

    def identity(self, alias: str) -> sql.Composed:
        """The identity of a row, as text."""
        return sql.SQL("(select ({})::text from (select {}.*) as r)").format(
            sql.SQL(self.spec.identity or "null"), sql.Identifier(alias)
        )

    def insert_alias(self, condition: sql.Composable, kept_key: sql.Composable) -> None:
        """Inserts the rows `o` that meet a condition into `found_aliases`, where the kept row has another key."""
        insert = sql.SQL(
            """
            insert into found_aliases
            select record_id, {}, lost_key, kept_key
            from (select o.record_id, {} as lost_key, {} as kept_key from {} o where {}) as a
            where lost_key <> kept_key
            """
        )
        lost_key = self.spec.key_text("o")
        name = sql.Literal(self.spec.name)
        self.connection.execute(insert.format(name, lost_key, kept_key, self.identifier, condition))


def filled(tables: Iterable[IncomingTable]) -> list[IncomingTable]:
    """The tables for which SELECT files yielded rows."""
    return [incoming for incoming in tables if incoming.rows]


def referring(tables: Sequence[IncomingTable], parent: IncomingTable) -> list[tuple[IncomingTable, Reference]]:
    """The tables that refer to a table, each with the column that does."""
    return [
        (child, reference)
        for child in tables
        for reference in child.spec.references
        if reference.table is parent.spec.table
    ]
