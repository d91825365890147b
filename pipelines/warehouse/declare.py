"""The words that tables are declared with, on one `metadata`, and the functions that SELECTs share.

The tables of `ops` and `staging` are declared in the modules of these names, those of a domain in
`assets/<domain>/tables.py`, so that the engine can read from a table alone what it must know: its key, whether its rows
are owned by a record (`record_id`) or shared, which columns are audit columns, and every constraint that a row must
fit. Belongs here: words. Not: tables.
"""

import re
from collections.abc import Mapping, Sequence

from sqlalchemy import DDL, CheckConstraint, Column, MetaData, Table, Text, UniqueConstraint, event, func
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

Timestamp = TIMESTAMP(timezone=True)


def one_of(column: str, values: Sequence[str]) -> CheckConstraint:
    """A CHECK that holds a text column to an enumeration."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=column)


def limited(
    name: str, length: int, *, comment: str, nullable: bool = True, index: bool = False
) -> tuple[Column[object], CheckConstraint]:
    """A text column with a greatest length; varchar(n) would cut spaces beyond it without a word."""
    column: Column[object] = Column(name, Text, nullable=nullable, index=index, comment=comment)
    return column, CheckConstraint(f"length({name}) <= {length}", name=name)


def unique(*columns: str, nulls_not_distinct: bool = False) -> UniqueConstraint:
    """A unique constraint that rows may pass through while one transaction swaps them."""
    return UniqueConstraint(
        *columns,
        deferrable=True,
        initially="IMMEDIATE",
        postgresql_nulls_not_distinct=nulls_not_distinct or None,
    )


def record_column(*, nullable: bool = False) -> Column[object]:
    """The record that owns a row; the record's version in force is the row's proof.

    nullable: rows are shared, and live as long as something refers to them, unless a record of its own tells one.
    """
    return Column(
        "record_id",
        UUID,
        nullable=nullable,
        index=True,
        comment="Record (stream, external id) the row was derived from; staging.versions holds its proof"
        + ("; null = shared by the rows that refer to it" if nullable else ""),
    )


def created_column() -> Column[object]:
    return _audit_column("created_at", "When the row was first written")


def updated_column() -> Column[object]:
    return _audit_column("updated_at", "When the row last changed")


def _audit_column(name: str, comment: str) -> Column[object]:
    """Filled by the engine, not by a SELECT; outside of comparison, digest and rebuild."""
    return Column(name, Timestamp, nullable=False, server_default=func.now(), comment=comment, info={"audit": True})


def audit_columns(table: Table) -> set[str]:
    return {column.name for column in table.columns if column.info.get("audit")}


def domain_schema(name: str, comment: str) -> str:
    """Declares a domain's schema; its name, for the tables in it."""
    for statement in (f"create schema if not exists {name}", f"comment on schema {name} is '{comment}'"):
        event.listen(metadata, "before_create", DDL(statement))  # type: ignore[no-untyped-call]
    return name


def view(name: str, select: str, comment: str, columns: Mapping[str, str] | None = None) -> None:
    """Declares a view; it is made after the tables. columns: comments of its columns."""
    commented = [f"comment on column {name}.{column} is '{words}'" for column, words in (columns or {}).items()]
    for statement in (
        f"create or replace view {name} as\n{select}",
        f"comment on view {name} is '{comment}'",
        *commented,
    ):
        event.listen(metadata, "after_create", DDL(statement.replace("%", "%%")))  # type: ignore[no-untyped-call]


def table_function(statement: str, comment: str) -> None:
    """Declares a function that reads tables; it is made after them."""
    signature = statement.removeprefix("create or replace function ").split("\n", 1)[0]
    bare = re.sub(r" default [^,)]+", "", signature)
    for each in (statement, f"comment on function {bare} is '{comment}'"):
        event.listen(metadata, "after_create", DDL(each.replace("%", "%%")))  # type: ignore[no-untyped-call]


domain_schema("ops", "The ledger of every run, the sources, and functions that SELECTs share")
domain_schema("staging", "Raw payloads as the sources sent them, their versions, and what did not fit")

_PARAMETERS = ("a", "b", "c", "d", "e", "f")

FUNCTIONS = [
    *(
        f"""create or replace function ops.key({", ".join(f"{name} text" for name in _PARAMETERS[:arity])})
returns uuid language sql immutable parallel safe
return md5({" || ',' || ".join(f"quote_nullable({name})" for name in _PARAMETERS[:arity])})::uuid"""
        for arity in range(1, len(_PARAMETERS) + 1)
    ),
    """create or replace function ops.tag_name(name text)
returns text language sql immutable parallel safe
return trim(both '_' from regexp_replace(lower(normalize(name, nfkc) collate pg_c_utf8), '[\\s_]+', '_', 'g'))""",
    """create or replace function ops.shown(rating text)
returns boolean language sql stable parallel safe
return rating = any (string_to_array(
    replace(coalesce(nullif(current_setting('atlas.ratings', true), ''), 'Safe'), ' ', ''), ','))""",
    """create or replace function ops.put_back(body jsonb, counters jsonb, paths jsonb)
returns jsonb language plpgsql immutable parallel safe as $$
declare
    path text[];
begin
    for path in
        select array(select jsonb_array_elements_text(p.steps)) from jsonb_array_elements(paths) as p (steps)
    loop
        body := jsonb_set(body, path, counters #> path, false);
    end loop;
    return body;
end $$""",
]

FUNCTION_COMMENTS = [
    *(
        f"comment on function ops.key({', '.join(['text'] * arity)}) is "
        "'Surrogate key of a natural key: md5 of an unambiguous join, as uuid'"
        for arity in range(1, len(_PARAMETERS) + 1)
    ),
    "comment on function ops.shown(text) is "
    "'Whether what has a rating may be shown: Safe, or what the setting atlas.ratings lists, by commas'",
    "comment on function ops.put_back(jsonb, jsonb, jsonb) is 'A payload with other counters at the same places'",
    "comment on function ops.tag_name(text) is "
    "'A tag as every source spells it: NFKC, lower case, trimmed, runs of spaces and underscores as one underscore'",
]

for statement in (*FUNCTIONS, *FUNCTION_COMMENTS):
    event.listen(metadata, "before_create", DDL(statement))  # type: ignore[no-untyped-call]
