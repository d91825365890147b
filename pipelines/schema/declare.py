"""What tables are declared with: one `metadata`, its naming convention, and columns and constraints that recur.

The engine reads from a declaration all that it needs to know of a table: see `table_spec`. A column with
`info={"private": True}` is hidden from analysts: see `privileges`. A row with a value that does not fit a column with
`info={"strict": True}` is quarantined; in other columns that rows can do without, the value alone is.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    ForeignKey,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP, UUID
from sqlalchemy.schema import SchemaItem

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


def table(name: str, *items: SchemaItem, **options: Any) -> Table:
    """Declares a table by its name with the schema."""
    schema, _, unqualified = name.partition(".")
    return Table(unqualified, metadata, *items, schema=schema, **options)


def defaulted(name: str, type_: Any, default: str, comment: str, **options: Any) -> Column[object]:
    """A column that is not null, and its default as SQL."""
    return Column(name, type_, nullable=False, server_default=text(default), comment=comment, **options)


def hash_of(column: str) -> Column[object]:
    """A part of the primary key that stands for a text of any length: a B-tree holds keys up to 2,704 bytes."""
    md5 = Computed(f"md5({column})::uuid", persisted=True)
    return Column(f"{column}_key", UUID, md5, primary_key=True, comment=f"md5 of {column}, which may be long")


def run_column(name: str, comment: str, **options: Any) -> Column[object]:
    """A column that refers to a run."""
    return Column(name, UUID, ForeignKey("ops.fetch_runs.fetch_run_id"), comment=comment, **options)


def one_of(column: str, values: Sequence[str]) -> CheckConstraint:
    """A CHECK that limits a text column to an enumeration."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} in ({listed})", name=column)


def limited_text(name: str, length: int, **options: Any) -> tuple[Column[object], CheckConstraint]:
    """A text column and the CHECK of its maximum length; varchar(n) would cut spaces beyond it silently."""
    return Column(name, Text, **options), CheckConstraint(f"length({name}) <= {length}", name=name)


def unique(*columns: str, nulls_not_distinct: bool = False) -> UniqueConstraint:
    """A unique constraint."""
    return UniqueConstraint(*columns, postgresql_nulls_not_distinct=nulls_not_distinct or None)


def owned(
    name: str,
    *items: SchemaItem,
    applications: bool = False,
    identity: str | None = None,
    precedence: Sequence[str] = (),
    **options: Any,
) -> Table:
    """Declares a table whose rows follow the record that they are derived from.

    applications: they write rows of their own there. identity: an expression over its columns, as SQL; rows of equal
    value are one, and references to those that are not written lead to the one that is. precedence: streams whose rows
    win a key or a unique value before those of others, the first one before the second.
    """
    record = Column(
        "record_id",
        UUID,
        nullable=applications,
        index=True,
        comment="Record that the row is derived from; its versions are in staging.versions",
    )
    if identity:
        items += (Index(f"{name.partition('.')[2]}_identity_key", text(identity), unique=True),)
    facts = {"kind": "owned", "applications": applications, "identity": identity, "precedence": tuple(precedence)}
    facts["declared_as"] = name  # a copy of the table may be in another schema
    after_key = sum(isinstance(each, Column) and bool(each.primary_key) for each in items)
    items = (*items[:after_key], record, *items[after_key:])
    return table(name, *items, *_of_applications(applications), info=facts, **options)


def shared(name: str, *items: SchemaItem, applications: bool = False, **options: Any) -> Table:
    """Declares a table whose rows exist as long as a row refers to them, and hold what follows from their key alone.

    applications: as in `owned`.
    """
    facts = {"kind": "shared", "applications": applications}
    return table(name, *items, *_of_applications(applications), info=facts, **options)


def application(name: str, *items: SchemaItem, **options: Any) -> Table:
    """Declares a table that applications alone write. Rows from a source may refer to its rows."""
    return table(name, *items, info={"kind": "application"}, **options)


def _of_applications(applications: bool) -> tuple[Column[object], ...]:
    comment = "Whether a source has the row; false = an application wrote it, or keeps it"
    return (defaulted("from_source", Boolean, "false", comment, info={"audit": True}),) if applications else ()


def created_column() -> Column[object]:
    return _audit_column("created_at", "When the row was first written")


def updated_column() -> Column[object]:
    return _audit_column("updated_at", "When the row last changed")


def _audit_column(name: str, comment: str) -> Column[object]:
    """A column that the engine fills, not a SELECT; comparison, digest and rebuild leave it out."""
    return defaulted(name, Timestamp, "now()", comment, info={"audit": True})


def audit_columns(table: Table) -> set[str]:
    """Names of the audit columns of a table."""
    return {column.name for column in table.columns if column.info.get("audit")}


def declare_schema(name: str, comment: str) -> str:
    """Declares a schema with its comment; returns its name, for the tables in it."""
    metadata.info.setdefault("schemas", {})[name] = comment
    return name


declare_schema("ops", "Sources, the ledger of runs, and functions that SELECT files share")
declare_schema("staging", "Raw payloads as the sources sent them, their versions, and the quarantine")
